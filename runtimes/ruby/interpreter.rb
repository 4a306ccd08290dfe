# The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.
require_relative "shim"

DOES = {
  "put" => ->(ctx, value) { ctx.state = value },
  "delete" => ->(ctx, _) { ctx.delete },
  "set" => ->(ctx, fields) { ctx.state.update(fields) },
  "effect" => ->(ctx, effect) { ctx.effect(effect) },
  "fail" => lambda do |_ctx, error|
    error = { status: 500, message: "", code: "failed", **error.transform_keys(&:to_sym) }
    refuse(error.delete(:code), error.delete(:message), **error)
  end,
  "throw" => ->(_ctx, text) { raise text },
  "print" => ->(_ctx, text) { puts text },
  "log" => ->(_ctx, text) { warn text },
  "sleep" => ->(_ctx, ms) { sleep ms / 1000.0 },
  "exit" => ->(_ctx, status) { exit! status }
}.freeze
SAYS = {
  "reply" => ->(_ctx, value) { value },
  "reply_state" => ->(ctx, _) { ctx.exists? ? { state: ctx.state } : {} },
  "reply_ctx" => ->(ctx, field) { ctx.public_send(field) },
  "add" => ->(ctx, amount) { ctx.state = (ctx.exists? ? ctx.state : 0) + amount },
  "unwritable" => ->(_ctx, _) { Float::NAN }
}.freeze

def interpret(ctx, message)
  raise "the message is no list" unless message.is_a?(Array)

  message.inject(nil) do |response, command|
    name, value = command.first
    next SAYS[name].call(ctx, value) if SAYS.key?(name)

    DOES.fetch(name).call(ctx, value)
    response
  end
end

handler(:run, default: true) { |ctx, message| interpret(ctx, message) }
handler(:look, reads_only: true) { |ctx, message| interpret(ctx, message) }
serve
