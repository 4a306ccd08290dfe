# A counter: the smallest function with a state. `elixir --erl -noinput counter.exs`
Code.require_file("shim.ex", __DIR__)

defmodule Counter do
  def add(nil, ctx, state), do: add(1, ctx, state)

  def add(amount, _ctx, state) when is_integer(amount) do
    count = count(state) + amount
    {:reply, count, %{"count" => count}}
  end

  def add(_, _ctx, _state), do: {:error, "bad_amount", "add takes a whole number", status: 422}

  def get(_message, _ctx, state), do: {:reply, count(state)}

  def reset(_message, _ctx, _state), do: {:reply, 0, :none}

  defp count(%{"count" => count}), do: count
  defp count(:none), do: 0
end

Shim.serve(
  add: {&Counter.add/3, default: true},
  get: {&Counter.get/3, reads_only: true},
  reset: &Counter.reset/3
)
