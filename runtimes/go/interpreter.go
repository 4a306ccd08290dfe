// The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.
// `go build -o interpreter interpreter.go shim.go`
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"time"
)

func interpret(ctx *Context, message json.RawMessage) (any, error) {
	var commands []map[string]json.RawMessage
	if err := json.Unmarshal(message, &commands); err != nil || commands == nil {
		return nil, fmt.Errorf("the message is a list of commands: %v", err)
	}
	var response any
	for _, command := range commands {
		for name, argument := range command {
			if err := do(ctx, name, argument, &response); err != nil {
				return nil, err
			}
		}
	}
	return response, nil
}

func do(ctx *Context, name string, argument json.RawMessage, response *any) error {
	var text string
	var number int
	_, _ = json.Unmarshal(argument, &text), json.Unmarshal(argument, &number)
	switch name {
	case "put":
		ctx.Put(argument)
	case "delete":
		ctx.Delete()
	case "set":
		var state map[string]json.RawMessage
		ctx.State(&state)
		return json.Unmarshal(argument, &state) // into the map that is there
	case "add":
		var state, amount big.Int
		ctx.State(&state)
		if err := json.Unmarshal(argument, &amount); err != nil {
			return err
		}
		sum := new(big.Int).Add(&state, &amount)
		ctx.Put(sum)
		*response = sum
	case "reply":
		*response = argument
	case "reply_state":
		var state json.RawMessage
		*response = Fields{}
		if ctx.Exists() {
			ctx.State(&state)
			*response = Fields{"state": state}
		}
	case "reply_ctx":
		*response = field(ctx, text)
	case "effect":
		var effect map[string]json.RawMessage
		if err := json.Unmarshal(argument, &effect); err != nil {
			return err
		}
		for operation, fields := range effect {
			ctx.Effect(operation, fields)
		}
	case "fail":
		refused := &Refused{Code: "failed", Status: 500}
		decoder := json.NewDecoder(bytes.NewReader(argument))
		decoder.UseNumber()
		if err := decoder.Decode(refused); err != nil {
			return err
		}
		return refused
	case "throw":
		panic(text)
	case "unwritable":
		*response = math.NaN()
	case "print":
		fmt.Println(text)
	case "log":
		fmt.Fprintln(os.Stderr, text)
	case "sleep":
		time.Sleep(time.Duration(number) * time.Millisecond)
	case "exit":
		os.Exit(number)
	default:
		return errors.New("the interpreter has no command " + name)
	}
	return nil
}

// field is what came, nil where nothing did.
func field(ctx *Context, name string) any {
	fields := map[string]any{"function": ctx.Function, "handler": ctx.Handler, "attempt": ctx.Attempt, "seed": ctx.Seed,
		"trace": ctx.Trace, "meta": ctx.Meta, "reply_to": ctx.ReplyTo}
	if ctx.Key != nil {
		fields["key"], fields["version"] = ctx.Key, ctx.Version
	}
	if fields[name] == "" {
		return nil
	}
	return fields[name]
}

func main() {
	Handle("run", interpret, Options{Default: true})
	Handle("look", interpret, Options{ReadsOnly: true})
	Serve()
}
