// The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.
// `cc -O2 -o interpreter interpreter.c -ljson-c`
#include "shim.h"

static const char *text_of(json_object *value) {
  return value ? json_object_get_string(value) : "";
}

static __int128 whole(json_object *value) {
  int64_t number = json_object_get_int64(value); // of a larger one, the largest
  return number == INT64_MAX ? (__int128)json_object_get_uint64(value) : number;
}

static void replace(json_object **response, json_object *value) {
  json_object_put(*response);
  *response = value;
}

// Does one command; true: that was the last.
static bool run(struct shim *ctx, const char *name, json_object *argument, json_object **response) {
  if (strcmp(name, "put") == 0) {
    shim_put(ctx, json_object_get(argument));
  } else if (strcmp(name, "delete") == 0) {
    shim_delete(ctx);
  } else if (strcmp(name, "set") == 0) {
    if (!json_object_is_type(ctx->state, json_type_object)) return shim_fault(ctx, "the state is no object"), true;
    json_object_object_foreach(argument, field, value) json_object_object_add(ctx->state, field, json_object_get(value));
  } else if (strcmp(name, "add") == 0) {
    if (ctx->exists && !json_object_is_type(ctx->state, json_type_int)) return shim_fault(ctx, "the state is no whole number"), true;
    __int128 sum = whole(ctx->state) + whole(argument);
    json_object *number = sum > INT64_MAX ? json_object_new_uint64((uint64_t)sum) : json_object_new_int64((int64_t)sum);
    shim_put(ctx, json_object_get(number));
    replace(response, number);
  } else if (strcmp(name, "reply") == 0) {
    replace(response, json_object_get(argument));
  } else if (strcmp(name, "reply_state") == 0) {
    replace(response, json_object_new_object());
    if (ctx->exists) json_object_object_add(*response, "state", json_object_get(ctx->state));
  } else if (strcmp(name, "reply_ctx") == 0) {
    replace(response, json_object_get(shim_field(ctx, text_of(argument))));
  } else if (strcmp(name, "effect") == 0) {
    json_object_object_foreach(argument, operation, fields) shim_effect(ctx, operation, json_object_get(fields));
  } else if (strcmp(name, "fail") == 0) {
    json_object *status, *details;
    bool has_status = json_object_object_get_ex(argument, "status", &status);
    json_object *code = json_object_object_get(argument, "code"), *text = json_object_object_get(argument, "message");
    shim_refuse(ctx, has_status ? json_object_get_int(status) : 500, code ? text_of(code) : "failed", "%s", text_of(text));
    if (json_object_object_get_ex(argument, "details", &details)) shim_details(ctx, json_object_get(details));
    if (json_object_get_boolean(json_object_object_get(argument, "retry"))) shim_retry(ctx);
    return true;
  } else if (strcmp(name, "throw") == 0) {
    return shim_fault(ctx, text_of(argument)), true;
  } else if (strcmp(name, "unwritable") == 0) {
    replace(response, json_object_new_double(NAN));
  } else if (strcmp(name, "print") == 0) {
    puts(text_of(argument));
  } else if (strcmp(name, "log") == 0) {
    fprintf(stderr, "%s\n", text_of(argument));
  } else if (strcmp(name, "sleep") == 0) {
    usleep((useconds_t)json_object_get_int(argument) * 1000);
  } else if (strcmp(name, "exit") == 0) {
    _exit(json_object_get_int(argument));
  } else {
    return shim_fault(ctx, "the interpreter has no such command"), true;
  }
  return false;
}

static json_object *interpret(struct shim *ctx, json_object *message) {
  json_object *response = NULL;
  if (!json_object_is_type(message, json_type_array)) return shim_fault(ctx, "the message is a list of commands");
  for (size_t i = 0; i < json_object_array_length(message); i++) {
    json_object *command = json_object_array_get_idx(message, i);
    if (!json_object_is_type(command, json_type_object)) return shim_fault(ctx, "a command is an object"), response;
    json_object_object_foreach(command, name, argument) {
      if (run(ctx, name, argument, &response)) return response;
    }
  }
  return response;
}

int main(void) {
  shim_handler("run", interpret, SHIM_DEFAULT);
  shim_handler("look", interpret, SHIM_READS_ONLY);
  return shim_serve();
}
