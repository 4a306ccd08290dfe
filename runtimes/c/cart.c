// A shopping cart. `cc -O2 -o cart cart.c -ljson-c && inversion dev ./cart`
#include "shim.h"

enum { MAX_PER_ITEM = 100 }; // more than a household buys: the shop says "out of stock" before it is

static const char *sku_of(json_object *message) {
  json_object *sku = json_object_object_get(message, "sku");
  return json_object_is_type(sku, json_type_string) && json_object_get_string_len(sku) ? json_object_get_string(sku) : NULL;
}

static json_object *bad_sku(struct shim *ctx) {
  return shim_refuse(ctx, 422, "bad_sku", "the message is {\"sku\": \"...\", \"qty\": 1}");
}

// The items, to change in place: an absent cart is an empty one.
static json_object *items_of(struct shim *ctx) {
  json_object *items = json_object_object_get(ctx->state, "items");
  if (!items) {
    shim_put(ctx, json_object_new_object());
    json_object_object_add(ctx->state, "items", items = json_object_new_array());
  }
  return items;
}

static size_t find(json_object *items, const char *sku) {
  size_t index = 0;
  while (index < json_object_array_length(items) && strcmp(sku_of(json_object_array_get_idx(items, index)), sku) != 0) index++;
  return index;
}

static json_object *how_many(json_object *items) {
  json_object *response = json_object_new_object();
  json_object_object_add(response, "items", json_object_new_uint64(json_object_array_length(items)));
  return response;
}

static json_object *add(struct shim *ctx, json_object *message) {
  const char *sku = sku_of(message);
  if (!sku) return bad_sku(ctx);
  json_object *wanted = json_object_object_get(message, "qty"), *items = items_of(ctx);
  int64_t qty = wanted ? json_object_get_int64(wanted) : 1;
  if ((wanted && !json_object_is_type(wanted, json_type_int)) || qty < 1)
    return shim_refuse(ctx, 422, "bad_quantity", "qty is a whole number, at least 1");
  size_t index = find(items, sku);
  json_object *item = index < json_object_array_length(items) ? json_object_array_get_idx(items, index) : NULL;
  int64_t held = json_object_get_int64(json_object_object_get(item, "qty"));
  if (qty > MAX_PER_ITEM - held) {
    json_object *details = json_object_new_object();
    json_object_object_add(details, "sku", json_object_new_string(sku));
    json_object_object_add(details, "left", json_object_new_int64(MAX_PER_ITEM - held));
    shim_refuse(ctx, 409, "out_of_stock", "not enough %s left", sku);
    return shim_details(ctx, details);
  }
  if (!item) {
    item = json_object_new_object();
    json_object_object_add(item, "sku", json_object_new_string(sku));
    json_object_array_add(items, item);
  }
  json_object_object_add(item, "qty", json_object_new_int64(held + qty));
  return how_many(items);
}

static json_object *take_out(struct shim *ctx, json_object *message) {
  const char *sku = sku_of(message);
  if (!sku) return bad_sku(ctx);
  json_object *items = items_of(ctx);
  size_t index = find(items, sku);
  if (index == json_object_array_length(items))
    return shim_refuse(ctx, 404, "not_in_cart", "there is no %s in the cart", sku);
  json_object_array_del_idx(items, index, 1);
  return how_many(items);
}

static json_object *show(struct shim *ctx, json_object *message) {
  (void)message;
  return ctx->exists ? json_object_get(ctx->state) : json_tokener_parse("{\"items\":[]}");
}

static json_object *checkout(struct shim *ctx, json_object *message) {
  (void)message;
  json_object *items = json_object_get(items_of(ctx)), *response = json_object_new_object();
  json_object_object_add(response, "ordered", items);
  if (json_object_array_length(items) == 0) shim_refuse(ctx, 409, "cart_empty", "there is nothing to check out");
  shim_delete(ctx);
  return response;
}

int main(void) {
  shim_handler("add", add, 0);
  shim_handler("remove", take_out, 0);
  shim_handler("show", show, SHIM_DEFAULT | SHIM_READS_ONLY);
  shim_handler("checkout", checkout, 0);
  return shim_serve();
}
