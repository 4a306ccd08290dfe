// inversion for Go, in one file: copy it beside your function, package main. Standard library only, Go 1.19+, Linux.
//
//	func main() {
//		Handle("add", func(ctx *Context, message json.RawMessage) (any, error) {
//			var count int64
//			ctx.State(&count) // what count is when the handler returns is the new state
//			count++
//			return count, nil
//		}, Options{Default: true})
//		Serve()
//	}
//
// A handler that returns an error, or panics, stores nothing; a *Refused is the caller's to read, the text of others
// is for the log, as is what the program prints. Effects are done when, and only if, the answer is stored.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Refused is the answer of a handler that says no. Status is 400 to 499, 400 if none is given; else it is a 500. With Retry
// the host runs the message again, a few times, before the caller sees it.
type Refused struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Status  int    `json:"status,omitempty"`
	Details any    `json:"details,omitempty"`
	Retry   bool   `json:"retry,omitempty"`
}

func (refused *Refused) Error() string { return refused.Code + ": " + refused.Message }

// Context says who is called and when. Time and chance come from Now and Seed: they are the same for all attempts.
type Context struct {
	Function, Handler, Seed, Trace string
	Key                            *string // nil: a stateless call, which has no state and no effects
	Version                        uint64  // of the state, before this turn
	Attempt                        int
	Now, Deadline                  time.Time
	Meta                           map[string]json.RawMessage
	ReplyTo                        string `json:"reply_to"` // of a reply: the id that a send had

	before, state json.RawMessage // nil: there is none
	asked, stored bool            // for a change, for a state
	bound         any             // what State was given
	seen          json.RawMessage // and what was in it then
	effects       []json.RawMessage
	err           error
}

// State reads the state into the variable that pointer points to, and leaves it as it is where there is no state. What is
// in it when the handler returns, if that is something else, is the new state. A number in an `any` is a json.Number.
func (ctx *Context) State(pointer any) {
	ctx.look()
	if ctx.state != nil {
		decoder := json.NewDecoder(bytes.NewReader(ctx.state))
		decoder.UseNumber()
		ctx.fail(decoder.Decode(pointer))
	}
	ctx.bound, ctx.seen = pointer, ctx.dump(pointer)
}

// Exists tells a state, null too, from none.
func (ctx *Context) Exists() bool { ctx.look(); return ctx.state != nil }

// look notices what the handler did to the variable it gave to State.
func (ctx *Context) look() {
	if ctx.bound != nil {
		if text := ctx.dump(ctx.bound); !bytes.Equal(text, ctx.seen) {
			ctx.state, ctx.seen, ctx.stored = text, text, true
		}
	}
}

// Put makes value the new state; nil makes it null.
func (ctx *Context) Put(value any) { ctx.state, ctx.stored, ctx.bound = ctx.dump(value), true, nil }

// Delete leaves the entity without a state.
func (ctx *Context) Delete() { ctx.state, ctx.asked, ctx.stored, ctx.bound = nil, true, false, nil }

// Effect asks for send, cancel, forward, publish, subscribe, unsubscribe or http, with the fields of runtimes/README.md:
// ctx.Effect("send", Fields{"handler": "remind", "delay": "24h", "name": "reminder"})
func (ctx *Context) Effect(operation string, fields any) {
	ctx.effects = append(ctx.effects, ctx.dump(Fields{operation: fields}))
}

// Fields are those of an effect.
type Fields map[string]any

func (ctx *Context) fail(err error) {
	if ctx.err == nil {
		ctx.err = err
	}
}

func (ctx *Context) dump(value any) json.RawMessage {
	text, err := dump(value)
	ctx.fail(err)
	return text
}

// Options of a handler: Default makes it also "call", for callers that name none; ReadsOnly is a promise, and is held to
// it; Input and Output are JSON Schemas.
type Options struct {
	Default   bool            `json:"-"`
	ReadsOnly bool            `json:"reads_only"`
	Input     json.RawMessage `json:"input,omitempty"`
	Output    json.RawMessage `json:"output,omitempty"`
}

// A Handler gets the message as it came: json.Unmarshal it into what you expect.
type Handler func(ctx *Context, message json.RawMessage) (any, error)

type declared struct {
	run Handler
	Options
}

var handlers = map[string]declared{}
var reading, writing = takeStdio() // before anything can print

// Handle declares a handler.
func Handle(name string, run Handler, options ...Options) {
	handlers[name] = declared{run, append(options, Options{})[0]}
	if handlers[name].Default {
		handlers["call"] = handlers[name]
	}
}

// Serve answers messages until stdin ends. A schedule: Serve(Fields{"name": "nightly", "schedule": "0 4 * * *"})
func Serve(cron ...Fields) {
	hello := map[string]any{"protocol": 1, "runtime": "go/" + strings.TrimPrefix(runtime.Version(), "go"),
		"pipeline": 64, "batch": 64, "integers": 64, "handlers": handlers}
	if cron != nil {
		hello["cron"] = cron
	}
	write(map[string]any{"hello": hello})
	for lines := bufio.NewReaderSize(reading, 1<<18); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // a last line without its newline is torn: the host died while it wrote
			return
		}
		var frame frameIn
		must(err)
		must(json.Unmarshal(line, &frame))
		write(frame.answer())
	}
}

type frameIn struct {
	ID, Ctx, State, Message json.RawMessage
	Messages                []json.RawMessage
}

type answer struct {
	ID       json.RawMessage   `json:"id"`
	Response json.RawMessage   `json:"response,omitempty"`
	Error    any               `json:"error,omitempty"`
	Effects  []json.RawMessage `json:"effects,omitempty"`
	Answers  any               `json:"answers,omitempty"`
	State    json.RawMessage   `json:"state,omitempty"`
	Delete   bool              `json:"delete,omitempty"`
	Changed  *bool             `json:"changed,omitempty"`
}

func (frame *frameIn) answer() answer {
	if frame.Messages == nil {
		return run(frame.ID, frame.State, frame.Message, frame.Ctx)
	}
	all, answers, unchanged := answer{ID: frame.ID}, []answer{}, false
	for _, each := range frame.Messages {
		var member frameIn
		must(json.Unmarshal(each, &member))
		one := run(member.ID, frame.State, member.Message, frame.Ctx, each)
		if one.State == nil && !one.Delete {
			one.Changed = &unchanged
		} else {
			frame.State, all.State, all.Delete = one.State, one.State, one.Delete
		}
		one.State, one.Delete = nil, false
		answers = append(answers, one)
	}
	all.Answers = answers
	return all
}

func run(id, state, message json.RawMessage, about ...json.RawMessage) answer {
	ctx := &Context{Handler: "call", Attempt: 1, before: state, state: state}
	for _, fields := range about { // of a turn: the frame's, then the message's
		if fields != nil {
			must(json.Unmarshal(fields, ctx))
		}
	}
	response, err := ctx.call(message)
	var refused *Refused
	if !errors.As(err, &refused) {
		if err == nil {
			answer := answer{ID: id, Response: response, Effects: ctx.effects, Delete: ctx.deleted()}
			if ctx.stored {
				answer.State = ctx.state
			}
			return answer
		}
		log.Printf("handler %s: %v", ctx.Handler, err)
		refused = &Refused{Code: "function_error", Message: "an error in handler " + ctx.Handler, Status: 500}
	}
	if refused.Status == 0 {
		refused.Status = 400
	}
	text, err := dump(refused)
	if err != nil {
		text, _ = dump(Refused{Code: refused.Code, Message: "the error's details are not JSON", Status: refused.Status})
	}
	return answer{ID: id, Error: text}
}

func (ctx *Context) call(message json.RawMessage) (response json.RawMessage, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("panic: %v\n%s", problem, debug.Stack())
		}
	}()
	handler, known := handlers[ctx.Handler]
	if !known {
		return nil, &Refused{Code: "no_handler", Message: "there is no handler " + ctx.Handler, Status: 404}
	}
	if message == nil {
		message = json.RawMessage("null")
	}
	value, err := handler.run(ctx, message)
	if err != nil {
		return nil, err
	}
	response = ctx.dump(value)
	ctx.look()
	if asks := ctx.asked || ctx.stored || ctx.effects != nil; asks && handler.ReadsOnly {
		ctx.fail(errors.New("it is declared ReadsOnly: it changes no state and has no effects"))
	} else if asks && ctx.Key == nil {
		ctx.fail(&Refused{Code: "no_key", Message: "call it with a key: without one there is no state and no effect", Status: 400})
	}
	return response, ctx.err
}

func (ctx *Context) deleted() bool { return ctx.state == nil && ctx.before != nil }

func dump(value any) (json.RawMessage, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

// One write for each frame: an answer that waited for the next message would share its fate.
func write(frame any) {
	text, err := dump(frame)
	must(err)
	_, err = writing.Write(append(text, '\n'))
	must(err)
}

// The host has gone, or is none.
func must(err error) {
	if err != nil {
		log.Fatal("shim: ", err)
	}
}

// takeStdio moves the protocol to private descriptors; prints and child processes get stderr and /dev/null.
func takeStdio() (*os.File, *os.File) {
	in, _ := syscall.Dup(0)
	out, _ := syscall.Dup(1)
	syscall.CloseOnExec(in)
	syscall.CloseOnExec(out)
	if nothing, err := os.Open(os.DevNull); err == nil {
		_ = syscall.Dup3(int(nothing.Fd()), 0, 0)
		_ = nothing.Close()
	}
	_ = syscall.Dup3(2, 1, 0)
	return os.NewFile(uintptr(in), "messages"), os.NewFile(uintptr(out), "answers")
}
