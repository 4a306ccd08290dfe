// A counter: the smallest function with a state. `g++ -O2 -o counter counter.cpp && inversion dev ./counter`
#include "shim.hpp"
using shim::json;

static int64_t count(const shim::Context& ctx) { return ctx.state ? ctx.state->value("count", int64_t{0}) : 0; }

static json add(shim::Context& ctx, const json& message) {
  if (!message.is_null() && !message.is_number_integer()) throw shim::Refused(422, "bad_amount", "add takes a whole number");
  int64_t sum = 0;
  if (__builtin_add_overflow(count(ctx), message.is_null() ? 1 : message.get<int64_t>(), &sum))
    throw shim::Refused(422, "bad_amount", "that is more than a counter counts");
  ctx.put({{"count", sum}});
  return sum;
}

static json reset(shim::Context& ctx, const json&) {
  ctx.remove();
  return 0;
}

int main() {
  return shim::Service()
      .handler("add", add, shim::Default)
      .handler("get", [](shim::Context& ctx, const json&) -> json { return count(ctx); }, shim::ReadsOnly)
      .handler("reset", reset)
      .serve();
}
