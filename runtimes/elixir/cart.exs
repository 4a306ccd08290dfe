# A shopping cart. `elixir --erl -noinput cart.exs`
Code.require_file("shim.ex", __DIR__)

defmodule Cart do
  # more than a household buys: the shop says "out of stock" before it is
  @max_per_item 100

  def add(%{"sku" => sku} = message, _ctx, state) when is_binary(sku) and sku != "" do
    items = items(state)
    held = Enum.find_value(items, 0, &(&1["sku"] == sku && &1["qty"]))

    case Map.get(message, "qty") || 1 do
      qty when not is_integer(qty) or qty < 1 ->
        {:error, "bad_quantity", "qty is a whole number, at least 1", status: 422}

      qty when held + qty > @max_per_item ->
        details = %{sku: sku, left: @max_per_item - held}
        {:error, "out_of_stock", "not enough #{sku} left", status: 409, details: details}

      qty when held == 0 ->
        put(items ++ [%{"sku" => sku, "qty" => qty}])

      qty ->
        put(Enum.map(items, &if(&1["sku"] == sku, do: %{&1 | "qty" => held + qty}, else: &1)))
    end
  end

  def add(_message, _ctx, _state), do: bad_sku()

  def remove(%{"sku" => sku}, _ctx, state) when is_binary(sku) and sku != "" do
    case Enum.split_with(items(state), &(&1["sku"] == sku)) do
      {[], _} -> {:error, "not_in_cart", "there is no #{sku} in the cart", status: 404}
      {_, left} -> put(left)
    end
  end

  def remove(_message, _ctx, _state), do: bad_sku()

  def show(_message, _ctx, state), do: {:reply, %{items: items(state)}}

  def checkout(_message, _ctx, state) do
    case items(state) do
      [] -> {:error, "cart_empty", "there is nothing to check out", status: 409}
      items -> {:reply, %{ordered: items}, :none}
    end
  end

  defp items(%{"items" => items}), do: items
  defp items(:none), do: []

  defp put(items), do: {:reply, %{items: length(items)}, %{items: items}}

  defp bad_sku, do: {:error, "bad_sku", ~s(the message is {"sku": "...", "qty": 1}), status: 422}
end

Shim.serve(
  add: &Cart.add/3,
  remove: &Cart.remove/3,
  show: {&Cart.show/3, default: true, reads_only: true},
  checkout: &Cart.checkout/3
)
