# frozen_string_literal: true

# inversion for Ruby, in one file: copy it beside your function. Standard library only, Ruby 3.0+.
#
#     require_relative "shim"
#
#     handler :add, default: true do |ctx, message|
#       refuse "bad_amount", "add takes a whole number", status: 422 unless message.is_a?(Integer)
#       ctx.state = (ctx.state || 0) + message
#     end
#
#     serve          # with schedules: serve cron: [{ name: "nightly", schedule: "0 4 * * *" }]
#
# A handler gets (ctx, message) and returns the response. What it leaves in `ctx.state` is stored before the answer
# goes out; if it raises, nothing is. `default: true` makes it the handler of callers that name none as well,
# `reads_only: true` is a promise and is held to it, `input:` and `output:` are JSON Schemas. Hashes that come in have
# string keys. What is printed goes to the log. What is asked for by `ctx.send`, `cancel`, `forward`, `publish`,
# `subscribe`, `unsubscribe` and `http` is done when, and only if, the answer is stored.

require "json"
require "time"

module Shim
  ABSENT = Object.new # there is no state: not the same as a state that is nil
  STALE = Object.new  # a handler had its hands on the value: read it again from the text
  KEEP = Object.new
  HANDLERS = {}

  # The protocol moves to private descriptors before anything can print; children get neither.
  LINES = STDIN.dup.set_encoding(Encoding::UTF_8)
  OUT = STDOUT.dup.binmode
  OUT.sync = true
  STDIN.reopen(File::NULL)
  STDOUT.reopen(STDERR)
  STDOUT.sync = true

  # The answer is an error, and the state stays as it was. `status` is 400 to 499, else 500. With `retry` the host
  # runs the message again, a few times, before the caller sees the error.
  class Refused < StandardError
    attr_reader :error

    def initialize(code, message = "", status: 400, details: nil, retry: false)
      super(message)
      @error = { code: code, message: message, status: status }
      @error[:details] = details unless details.nil?
      @error[:retry] = true if binding.local_variable_get(:retry) # a keyword of Ruby otherwise
    end
  end

  class NotJson < StandardError; end

  # Who is called, when, and on which state.
  class Context
    attr_reader :effects

    def initialize(call, reads_only, stored)
      @call, @reads_only, @stored = call, reads_only, stored
      @value, @assigned, @effects = STALE, false, []
    end

    # The entity's state, nil when there is none (see `exists?`). Change it in place, assign it, or `delete` it.
    def state
      @value = @stored.take if @value.equal?(STALE)
      @value.equal?(ABSENT) ? nil : @value
    end

    def state=(value)
      may "change the state"
      @value, @assigned = value, true
    end

    def delete
      self.state = ABSENT
      nil
    end

    # Is there a state? A state that is nil (null) exists.
    def exists?
      !(@value.equal?(STALE) ? @stored.value : @value).equal?(ABSENT)
    end

    %w[function key handler version attempt seed trace meta reply_to].each do |field|
      define_method(field) { @call[field] }
    end

    def now = Time.iso8601(@call["now"]) # the same for all attempts of a request, as `seed` and `random` are
    def deadline = Time.iso8601(@call["deadline"])
    def random = @random ||= Random.new(seed.unpack1("H*").to_i(16))

    # A message to `handler:` of `function:` and `key:` (nil: a stateless call), this entity's own where not named.
    # `delay:` is "24h", `at:` RFC 3339 or a Time. A later one with the same `name:` replaces it, `cancel` removes
    # it. The handler `reply_to:` of this entity gets {"response" => ...} or {"error" => ...}.
    def send(at: nil, **fields)
      at = at.iso8601(3) if at.respond_to?(:iso8601)
      effect send: at ? { at: at, **fields } : fields
    end

    def cancel(name) = effect(cancel: { name: name })
    # The caller gets the answer of that entity in place of this one's: return nil.
    def forward(**fields) = effect(forward: fields)
    def publish(topic, message = nil) = effect(publish: { topic: topic, message: message })
    def subscribe(topic, handler = nil) = effect(subscribe: { topic: topic, handler: handler }.compact)
    def unsubscribe(topic) = effect(unsubscribe: { topic: topic })
    def http(url, **fields) = effect(http: { url: url, **fields })

    def effect(asked)
      may "have effects"
      @effects << Shim.dump(asked, "an effect") # now: what it is made of may change
      nil
    end

    # KEEP, ABSENT (delete), or the text of the new state.
    def change
      return KEEP if @value.equal?(STALE)
      return @assigned && !@stored.value.equal?(ABSENT) ? ABSENT : KEEP if @value.equal?(ABSENT)

      text = Shim.dump(@value, "the state")
      return KEEP if !@assigned && text == @stored.text

      may "change the state" unless @assigned
      text
    end

    private

    def may(what)
      raise "declared reads_only: it cannot #{what}" if @reads_only
      raise Refused.new("no_key", "call it with a key: without one it cannot #{what}") unless key
    end
  end

  # The state as the last message left it: a value nobody touched, or its text.
  Stored = Struct.new(:value, :text) do
    def take
      return JSON.parse(text, max_nesting: false) if value.equal?(STALE)

      found = value
      self.text, self.value = Shim.dump(value, "the state"), STALE unless value.equal?(ABSENT)
      found
    end
  end

  class << self
    def answer(frame)
      call, stored = frame["ctx"], Stored.new(frame.fetch("state", ABSENT))
      unless frame.key?("messages")
        fields, change = run(call, frame["message"], stored)
        return %({"id":#{dump(frame["id"])}#{fields}#{change_field(change)}})
      end
      last = KEEP
      answers = frame["messages"].map do |each|
        fields, change = run(call.merge(each), each["message"], stored)
        next %({"id":#{dump(each["id"])}#{fields},"changed":false}) if change.equal?(KEEP)

        last = change
        stored = change.equal?(ABSENT) ? Stored.new(ABSENT) : Stored.new(STALE, change)
        %({"id":#{dump(each["id"])}#{fields}})
      end
      %({"id":#{dump(frame["id"])},"answers":[#{answers.join(",")}]#{change_field(last)}})
    end

    # JSON on one line. Refuses what JSON has not, where the library would write a string of its own.
    def dump(value, what = "")
      check(value)
      JSON.generate(value, max_nesting: 0)
    rescue NotJson, JSON::JSONError, EncodingError => problem
      raise NotJson, "#{what} is not JSON: #{problem.message.scrub}"
    end

    private

    # One message: the fields of its answer, and what becomes of the state.
    def run(call, message, stored)
      name = call["handler"] ||= "call"
      begin
        method, options = HANDLERS.fetch(name) do
          raise Refused.new("no_handler", "no handler #{name}, there are: #{HANDLERS.keys.join(", ")}", status: 404)
        end
        ctx = Context.new(call, options[:reads_only], stored)
        response = dump(method.call(ctx, message), "the response")
        effects = %(,"effects":[#{ctx.effects.join(",")}]) unless ctx.effects.empty?
        [%(,"response":#{response}#{effects}), ctx.change]
      rescue Refused => refusal
        [%(,"error":#{dump(refusal.error, "the error")}), KEEP]
      end
    rescue NotJson => problem
      failed(name, problem.message, problem.message)
    rescue StandardError, ScriptError, SystemStackError, NoMemoryError => problem
      failed(name, problem.class.name, problem.full_message(highlight: false)) # callers see no text of it
    end

    def failed(name, shown, log)
      warn "shim: handler #{name}: #{log}"
      [%(,"error":#{dump({ code: "function_error", message: "#{shown} in handler #{name}" })}), KEEP]
    end

    def check(value, depth = 0)
      raise NotJson, "it is nested too deep" if depth > 200 # the host takes 64

      case value
      when Hash
        value.each do |key, each|
          raise NotJson, "it has a key that is a #{key.class}" unless key.is_a?(String) || key.is_a?(Symbol)

          check(each, depth + 1)
        end
      when Array then value.each { |each| check(each, depth + 1) }
      when String, Symbol, Integer, Float, true, false, nil then nil
      else raise NotJson, "it holds a #{value.class}"
      end
    end

    def change_field(change)
      return "" if change.equal?(KEEP)

      change.equal?(ABSENT) ? ',"delete":true' : %(,"state":#{change})
    end
  end

  # What a program says at its top level.
  def handler(name, default: false, reads_only: false, **schemas, &code)
    owner = code.binding.receiver # a method of it: `return` answers
    method = owner.method(owner.define_singleton_method("handler #{name}", &code))
    [name.to_s, *("call" if default)].each { |each| HANDLERS[each] = [method, { reads_only: reads_only, **schemas }] }
  end

  def refuse(code, message = "", **options) = raise(Refused.new(code, message, **options))

  def serve(cron: nil)
    hello = { protocol: 1, runtime: "ruby/#{RUBY_VERSION}", pipeline: 64, batch: 64, integers: 64,
              handlers: HANDLERS.transform_values(&:last), cron: cron }.compact
    OUT.write(Shim.dump({ hello: hello }), "\n")
    while (line = LINES.gets("\n"))&.end_with?("\n") # else it is torn: the host died while it wrote
      OUT.write(Shim.answer(JSON.parse(line, max_nesting: false)), "\n")
    end
  rescue Errno::EPIPE
    abort "shim: the host has gone"
  end
end

extend Shim
