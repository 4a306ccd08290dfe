// A counter: the smallest function with a state. `cc -O2 -o counter counter.c -ljson-c && inversion dev ./counter`
#include "shim.h"

static int64_t count(struct shim *ctx) { return json_object_get_int64(json_object_object_get(ctx->state, "count")); }

static json_object *add(struct shim *ctx, json_object *message) {
  int64_t sum = 1;
  if (message && !json_object_is_type(message, json_type_int))
    return shim_refuse(ctx, 422, "bad_amount", "add takes a whole number");
  if (__builtin_add_overflow(count(ctx), message ? json_object_get_int64(message) : 1, &sum))
    return shim_refuse(ctx, 422, "bad_amount", "that is more than a counter counts");
  json_object *state = json_object_new_object();
  json_object_object_add(state, "count", json_object_new_int64(sum));
  shim_put(ctx, state);
  return json_object_new_int64(sum);
}

static json_object *get(struct shim *ctx, json_object *message) {
  (void)message;
  return json_object_new_int64(count(ctx));
}

static json_object *reset(struct shim *ctx, json_object *message) {
  (void)message;
  shim_delete(ctx);
  return json_object_new_int(0);
}

int main(void) {
  shim_handler("add", add, SHIM_DEFAULT);
  shim_handler("get", get, SHIM_READS_ONLY);
  shim_handler("reset", reset, 0);
  return shim_serve();
}
