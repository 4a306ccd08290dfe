# The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.
Code.require_file("shim.ex", __DIR__)

defmodule Interpreter do
  def interpret(message, ctx, state) do
    # the response, what becomes of the state, the effects, and the state as it is by now
    start = {nil, :keep, [], state}

    result =
      Enum.reduce_while(
        for(command <- message, {name, argument} <- command, do: {name, argument}),
        start,
        fn
          {"fail", error}, _ -> {:halt, fail(error)}
          {name, argument}, so_far -> {:cont, run(name, argument, ctx, so_far)}
        end
      )

    case result do
      {:error, _, _, _} = error -> error
      {response, change, effects, _} -> {:reply, response, change, Enum.reverse(effects)}
    end
  end

  defp run("put", value, _ctx, {response, _, effects, _}), do: {response, value, effects, value}
  defp run("delete", _, _ctx, {response, _, effects, _}), do: {response, :none, effects, :none}

  defp run("set", fields, _ctx, {response, change, effects, %{} = state}) do
    case Map.merge(state, fields) do
      ^state -> {response, change, effects, state}
      changed -> {response, changed, effects, changed}
    end
  end

  defp run("add", amount, _ctx, {_, _, effects, state}) do
    sum = if(state == :none, do: 0, else: state) + amount
    {sum, sum, effects, sum}
  end

  defp run("reply", value, _ctx, so_far), do: put_elem(so_far, 0, value)
  defp run("reply_state", _, _ctx, {_, _, _, :none} = so_far), do: put_elem(so_far, 0, %{})

  defp run("reply_state", _, _ctx, {_, _, _, state} = so_far),
    do: put_elem(so_far, 0, %{state: state})

  defp run("reply_ctx", field, ctx, so_far) do
    put_elem(so_far, 0, Map.get(ctx, String.to_existing_atom(field)))
  end

  defp run("effect", asked, _ctx, {response, change, effects, state}) do
    {response, change, Enum.reduce(asked, effects, &[&1 | &2]), state}
  end

  defp run("throw", text, _ctx, _), do: raise(text)
  defp run("unwritable", _, _ctx, so_far), do: put_elem(so_far, 0, <<255>>)
  defp run("print", text, _ctx, so_far), do: tap(so_far, fn _ -> IO.puts(text) end)
  defp run("log", text, _ctx, so_far), do: tap(so_far, fn _ -> IO.puts(:stderr, text) end)
  defp run("sleep", ms, _ctx, so_far), do: tap(so_far, fn _ -> Process.sleep(ms) end)
  defp run("exit", code, _ctx, _), do: System.halt(code)

  defp fail(error) do
    options =
      for {name, value} <- error,
          name in ["status", "details", "retry"],
          do: {String.to_atom(name), value}

    {:error, error["code"] || "failed", error["message"] || "",
     Keyword.put_new(options, :status, 500)}
  end
end

Shim.serve(
  run: {&Interpreter.interpret/3, default: true},
  look: {&Interpreter.interpret/3, reads_only: true}
)
