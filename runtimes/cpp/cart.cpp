// A shopping cart. `g++ -O2 -o cart cart.cpp && inversion dev ./cart`
#include <algorithm>

#include "shim.hpp"
using shim::json;

static constexpr int64_t max_per_item = 100;  // more than a household buys: the shop says "out of stock" before it is

// The items, to change in place: an absent cart is an empty one.
static json& items_of(shim::Context& ctx) {
  if (!ctx.state) ctx.state = json::object({{"items", json::array()}});
  return (*ctx.state)["items"];
}

static std::string sku_of(const json& message) {
  if (!message.is_object() || !message.contains("sku") || !message["sku"].is_string() || message["sku"] == "")
    throw shim::Refused(422, "bad_sku", R"(the message is {"sku": "...", "qty": 1})");
  return message["sku"];
}

static json::iterator find(json& items, const std::string& sku) {
  return std::find_if(items.begin(), items.end(), [&](const json& item) { return item["sku"] == sku; });
}

static json add(shim::Context& ctx, const json& message) {
  auto sku = sku_of(message);
  auto qty = message.value("qty", json(1));
  if (!qty.is_number_integer() || qty < 1) throw shim::Refused(422, "bad_quantity", "qty is a whole number, at least 1");
  json& items = items_of(ctx);
  auto item = find(items, sku);
  auto held = item == items.end() ? 0 : (*item)["qty"].get<int64_t>();
  if (qty > max_per_item - held)
    throw shim::Refused(409, "out_of_stock", "not enough " + sku + " left").details({{"sku", sku}, {"left", max_per_item - held}});
  if (item == items.end()) items.push_back({{"sku", sku}, {"qty", qty}});
  else (*item)["qty"] = held + qty.get<int64_t>();
  return {{"items", items.size()}};
}

static json take_out(shim::Context& ctx, const json& message) {
  auto sku = sku_of(message);
  json& items = items_of(ctx);
  auto item = find(items, sku);
  if (item == items.end()) throw shim::Refused(404, "not_in_cart", "there is no " + sku + " in the cart");
  items.erase(item);
  return {{"items", items.size()}};
}

static json show(shim::Context& ctx, const json&) { return ctx.state.value_or(json::object({{"items", json::array()}})); }

static json checkout(shim::Context& ctx, const json&) {
  json items = items_of(ctx);
  if (items.empty()) throw shim::Refused(409, "cart_empty", "there is nothing to check out");
  ctx.state.reset();
  return {{"ordered", items}};
}

int main() {
  return shim::Service()
      .handler("add", add)
      .handler("remove", take_out)
      .handler("show", show, shim::DefaultReadsOnly)
      .handler("checkout", checkout)
      .serve();
}
