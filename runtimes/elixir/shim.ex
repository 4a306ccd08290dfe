Code.require_file("json.ex", __DIR__)

defmodule Shim do
  @moduledoc """
  inversion for Elixir, in two files: copy this and json.ex beside your function. Elixir 1.14.

      Code.require_file("shim.ex", __DIR__)

      defmodule Hits do
        def add(_message, _ctx, :none), do: {:reply, 1, 1}
        def add(_message, _ctx, count), do: {:reply, count + 1, count + 1}
      end

      Shim.serve(add: {&Hits.add/3, default: true})

  run with `elixir --erl -noinput hits.exs`. A handler is as `handle_call`: it gets the message, the context and the
  state, `:none` where there is none and nil where it is null, and answers one of

      {:reply, response}                  the state stays
      {:reply, response, state}           a new state; :none deletes it, :keep leaves it
      {:reply, response, state, effects}  [send: %{handler: "remind", delay: "24h"}, cancel: %{name: "reminder"}]
      {:error, code, message}             the state stays
      {:error, code, message, options}    status: 400 to 499, else 500; details: any; retry: true

  What it raises, throws or exits with is an error whose text is in the log only, where IO.puts goes as well. Effects (their
  fields: runtimes/README.md) are done when, and only if, the answer is stored.
  """

  # Who is called, when, on which version of the state. Take time and chance from `now` and `seed`: they are the same for
  # all attempts. A key of nil: a stateless call. `reply_to` of a reply is the id that a send had.
  defstruct [
    :function,
    :key,
    :version,
    :now,
    :deadline,
    :seed,
    :trace,
    :reply_to,
    handler: "call",
    attempt: 1,
    meta: %{}
  ]

  @fields Map.new(
            ~w[function key version now deadline seed trace reply_to handler attempt meta]a,
            &{to_string(&1), &1}
          )

  @doc """
  Answers messages until stdin ends. Handlers: `name: function` or `name: {function, options}` with `default: true` (it is
  also `call`, for callers that name none), `reads_only: true` (a promise, and it is held to it), `input:` and `output:`
  (JSON Schemas). `cron: [%{name: "nightly", schedule: "0 4 * * *"}]` in the second argument.
  """
  def serve(handlers, options \\ []) do
    port = take_stdio()

    known =
      for {name, declared} <- handlers,
          each <- names(name, declared),
          into: %{},
          do: {each, split(declared)}

    declared = Map.new(known, fn {name, {_, options}} -> {name, declaration(options)} end)
    [major, minor | _] = String.split(System.version(), ".")

    hello = %{
      protocol: 1,
      runtime: "elixir/#{major}.#{minor}",
      pipeline: 64,
      batch: 64,
      integers: 64,
      handlers: declared
    }

    hello = if options[:cron], do: Map.put(hello, :cron, options[:cron]), else: hello
    write(port, encode(%{hello: hello}))
    loop(port, known, [])
  end

  defp names(name, {_, options}),
    do: if(options[:default], do: [to_string(name), "call"], else: [to_string(name)])

  defp names(name, _), do: [to_string(name)]

  defp split({function, options}), do: {function, options}
  defp split(function), do: {function, []}

  defp declaration(options) do
    Map.new([
      {:reads_only, options[:reads_only] || false} | Keyword.take(options, [:input, :output])
    ])
  end

  # `torn` is a line that has not ended; at the end of stdin the host has died while it wrote it.
  defp loop(port, known, torn) do
    receive do
      {^port, {:data, data}} ->
        case :binary.split(data, "\n", [:global]) do
          [more] ->
            loop(port, known, [torn, more])

          [first | rest] ->
            {lines, [left]} = Enum.split([IO.iodata_to_binary([torn, first]) | rest], -1)
            for line <- lines, do: write(port, answer(decode(line), known))
            loop(port, known, [left])
        end

      {^port, :eof} ->
        System.halt(0)

      {:EXIT, ^port, _the_host_has_gone} ->
        System.halt(1)

      _a_stray_message_of_the_function ->
        loop(port, known, torn)
    end
  end

  defp answer(%{"messages" => messages} = frame, known) do
    start = {Map.get(frame, "state", :none), :keep}

    {answers, {_, change}} =
      Enum.map_reduce(messages, start, fn member, {state, last} ->
        case run(Map.merge(frame["ctx"], member), member["message"], state, known) do
          {fields, :keep} -> {object(member, fields ++ [{"changed", "false"}]), {state, last}}
          {fields, new} -> {object(member, fields), {decoded(new), new}}
        end
      end)

    object(frame, [{"answers", ["[", Enum.intersperse(answers, ","), "]"]} | change_field(change)])
  end

  defp answer(frame, known) do
    {fields, change} =
      run(frame["ctx"] || %{}, frame["message"], Map.get(frame, "state", :none), known)

    object(frame, fields ++ change_field(change))
  end

  # One message: the fields of its answer, and :keep, :none or the text of the new state.
  defp run(call, message, state, known) do
    ctx =
      struct(
        __MODULE__,
        for({name, value} <- call, field = @fields[name], not is_nil(value), do: {field, value})
      )

    try do
      {function, options} = Map.get(known, ctx.handler, {&no_handler/3, []})

      case function.(message, ctx, state) do
        {:error, code, text} -> {refused(code, text, []), :keep}
        {:error, code, text, options} -> {refused(code, text, options), :keep}
        {:reply, response} -> reply(ctx, options, response, :keep, [], state)
        {:reply, response, new} -> reply(ctx, options, response, new, [], state)
        {:reply, response, new, effects} -> reply(ctx, options, response, new, effects, state)
      end
    catch
      # its text may hold what callers must not see
      kind, problem ->
        IO.puts(
          :stderr,
          "handler #{ctx.handler}: " <> Exception.format(kind, problem, __STACKTRACE__)
        )

        {refused("function_error", "an #{kind} in handler #{ctx.handler}", status: 500), :keep}
    end
  end

  defp no_handler(_message, ctx, _state),
    do: {:error, "no_handler", "there is no handler #{ctx.handler}", status: 404}

  defp reply(ctx, options, response, new, effects, old) do
    change = if new == :keep or (new == :none and old == :none), do: :keep, else: new

    cond do
      new == :keep and effects == [] ->
        {[{"response", encode(response)}], :keep}

      options[:reads_only] ->
        raise "it is declared reads_only: it changes no state and has no effects"

      ctx.key == nil ->
        {refused("no_key", "call it with a key: without one there is no state and no effect", []),
         :keep}

      true ->
        asked = for {operation, fields} <- effects, do: %{operation => Map.new(fields)}
        fields = if asked == [], do: [], else: [{"effects", encode(asked)}]
        change = if change in [:keep, :none], do: change, else: {:text, encode(change)}
        {[{"response", encode(response)} | fields], change}
    end
  end

  defp refused(code, message, options) do
    error = %{code: code, message: message, status: options[:status] || 400}
    [{"error", encode(Enum.into(Keyword.take(options, [:details, :retry]), error))}]
  end

  defp change_field(:keep), do: []
  defp change_field(:none), do: [{"delete", "true"}]
  defp change_field({:text, text}), do: [{"state", text}]

  defp decoded({:text, text}), do: decode(text)
  defp decoded(:none), do: :none

  # The answer to a frame, or to a message of a turn.
  defp object(of, fields) do
    [
      "{\"id\":",
      encode(of["id"]),
      Enum.map(fields, fn {name, text} -> [",\"", name, "\":", text] end),
      "}"
    ]
  end

  defp encode(value), do: IO.iodata_to_binary(Shim.Json.encode!(value))
  defp decode(text), do: Shim.Json.decode!(text)

  # One write for each frame: an answer that waited for the next message would share its fate.
  defp write(port, text), do: Port.command(port, [text, "\n"])

  # The protocol gets a port of its own; IO.puts and loggers get stderr.
  defp take_stdio do
    if :init.get_argument(:noinput) == :error,
      do: raise("start it with: elixir --erl -noinput FILE")

    log = Process.whereis(:standard_error)
    :io.setopts(log, encoding: :unicode)
    Process.group_leader(self(), log)
    Process.unregister(:user)
    Process.register(spawn(fn -> pass_on(log) end), :user)
    Process.flag(:trap_exit, true)
    Port.open({:fd, 0, 1}, [:binary, :stream, :eof])
  rescue
    problem in RuntimeError ->
      IO.puts(:stderr, Exception.message(problem))
      System.halt(2)
  end

  defp pass_on(log) do
    receive do: (request -> send(log, request))
    pass_on(log)
  end
end
