# A function is a program that answers lines: give it some. `ruby counter_test.rb`
require "json"
require "minitest/autorun"
require "open3"
require "rbconfig"

class CounterTest < Minitest::Test
  # What the program answers to these messages, without its hello.
  def answers(*messages)
    input = messages.map { |message| "#{JSON.generate(message)}\n" }.join
    output, = Open3.capture2(RbConfig.ruby, "#{__dir__}/counter.rb", stdin_data: input)
    output.lines.map { |line| JSON.parse(line) }.reject { |frame| frame.key?("hello") }
  end

  def test_each_call_adds_to_the_state
    ctx = { handler: "add", key: "k" }
    first, second = answers({ id: "1", ctx:, message: 2 }, { id: "2", ctx:, message: nil, state: { count: 2 } })
    assert_equal({ "id" => "1", "response" => 2, "state" => { "count" => 2 } }, first)
    assert_equal({ "id" => "2", "response" => 3, "state" => { "count" => 3 } }, second)
  end

  def test_half_is_refused_and_changes_nothing
    refused, = answers({ id: "1", ctx: { handler: "add", key: "k" }, message: 0.5, state: { count: 3 } })
    assert_equal 422, refused["error"]["status"]
    refute refused.key?("state")
  end
end
