// A counter: the smallest function with a state. `go build -o counter counter.go shim.go && inversion dev ./counter`
package main

import "encoding/json"

type counter struct {
	Count int64 `json:"count"`
}

func add(ctx *Context, message json.RawMessage) (any, error) {
	amount, state := int64(1), counter{}
	if json.Unmarshal(message, &amount) != nil {
		return nil, &Refused{Code: "bad_amount", Message: "add takes a whole number", Status: 422}
	}
	ctx.State(&state)
	state.Count += amount
	ctx.Put(state)
	return state.Count, nil
}

func get(ctx *Context, _ json.RawMessage) (any, error) {
	var state counter
	ctx.State(&state)
	return state.Count, nil
}

func reset(ctx *Context, _ json.RawMessage) (any, error) {
	ctx.Delete()
	return 0, nil
}

func main() {
	Handle("add", add, Options{Default: true})
	Handle("get", get, Options{ReadsOnly: true})
	Handle("reset", reset)
	Serve()
}
