// A shopping cart. `go build -o cart cart.go shim.go && inversion dev ./cart`
package main

import "encoding/json"

const maxPerItem = 100 // more than a household buys: the shop says "out of stock" before it is

type item struct {
	SKU string `json:"sku"`
	Qty int64  `json:"qty"`
}

type cart struct {
	Items []item `json:"items"`
}

func cartOf(ctx *Context) *cart {
	state := &cart{Items: []item{}}
	ctx.State(state) // what the handler makes of it is stored
	return state
}

func (cart *cart) find(sku string) int {
	for index, each := range cart.Items {
		if each.SKU == sku {
			return index
		}
	}
	return -1
}

func skuOf(message json.RawMessage) (string, error) {
	var wanted struct{ SKU string }
	if json.Unmarshal(message, &wanted) != nil || wanted.SKU == "" {
		return "", &Refused{Code: "bad_sku", Message: `the message is {"sku": "...", "qty": 1}`, Status: 422}
	}
	return wanted.SKU, nil
}

func add(ctx *Context, message json.RawMessage) (any, error) {
	sku, err := skuOf(message)
	if err != nil {
		return nil, err
	}
	wanted := item{Qty: 1}
	if json.Unmarshal(message, &wanted) != nil || wanted.Qty < 1 {
		return nil, &Refused{Code: "bad_quantity", Message: "qty is a whole number, at least 1", Status: 422}
	}
	cart := cartOf(ctx)
	index := cart.find(sku)
	if index < 0 {
		cart.Items = append(cart.Items, item{SKU: sku})
		index = len(cart.Items) - 1
	}
	if left := maxPerItem - cart.Items[index].Qty; wanted.Qty > left {
		details := map[string]any{"sku": sku, "left": left}
		return nil, &Refused{Code: "out_of_stock", Message: "not enough " + sku + " left", Status: 409, Details: details}
	}
	cart.Items[index].Qty += wanted.Qty
	return map[string]int{"items": len(cart.Items)}, nil
}

func remove(ctx *Context, message json.RawMessage) (any, error) {
	sku, err := skuOf(message)
	if err != nil {
		return nil, err
	}
	cart := cartOf(ctx)
	index := cart.find(sku)
	if index < 0 {
		return nil, &Refused{Code: "not_in_cart", Message: "there is no " + sku + " in the cart", Status: 404}
	}
	cart.Items = append(cart.Items[:index], cart.Items[index+1:]...)
	return map[string]int{"items": len(cart.Items)}, nil
}

func show(ctx *Context, _ json.RawMessage) (any, error) {
	return cartOf(ctx), nil
}

func checkout(ctx *Context, _ json.RawMessage) (any, error) {
	cart := cartOf(ctx)
	if len(cart.Items) == 0 {
		return nil, &Refused{Code: "cart_empty", Message: "there is nothing to check out", Status: 409}
	}
	ctx.Delete()
	return map[string]any{"ordered": cart.Items}, nil
}

func main() {
	Handle("add", add)
	Handle("remove", remove)
	Handle("show", show, Options{Default: true, ReadsOnly: true})
	Handle("checkout", checkout)
	Serve()
}
