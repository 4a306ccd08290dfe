// inversion for C, in one file: copy it beside your function and include it once. Needs json-c (Debian: libjson-c-dev);
// gcc or clang, Linux or another Unix. Build with -ljson-c.
//
//     #include "shim.h"
//
//     static json_object *add(struct shim *ctx, json_object *message) {
//       int64_t count = json_object_get_int64(ctx->state) + 1;
//       shim_put(ctx, json_object_new_int64(count));
//       return json_object_new_int64(count);
//     }
//
//     int main(void) {
//       shim_handler("add", add, SHIM_DEFAULT);
//       return shim_serve();
//     }
//
// A handler returns its response (NULL is null), which belongs to the shim from then on, as does what shim_put, shim_effect
// and shim_details are given. The message is lent. `return shim_refuse(...)`: the answer is an error and nothing is stored.
// What the program prints goes to the log. Effects are done when, and only if, the answer is stored.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <json-c/json_visit.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct shim {
  json_object *state; // of the entity: change it in place or shim_put another; NULL is null, or none
  bool exists;        // tells null from none
  bool asked;         // for a change
  json_object *call, *member, *effects, *error; // the fields of ctx; of a turn's message, which come first
};

typedef json_object *shim_function(struct shim *ctx, json_object *message);

enum { SHIM_DEFAULT = 1, SHIM_READS_ONLY = 2 }; // also "call", for callers that name none; changes nothing, and is held to it

static struct { const char *name; shim_function *run; int options; } shim_known[64];
static int shim_count;
static json_object *shim_declared, *shim_schedules;
static FILE *shim_reading;
static int shim_writing = 1;

// The protocol moves to private descriptors before main; prints and child processes get stderr and /dev/null.
__attribute__((constructor)) static void shim_take_stdio(void) {
  shim_reading = fdopen(fcntl(0, F_DUPFD_CLOEXEC, 3), "r");
  shim_writing = fcntl(1, F_DUPFD_CLOEXEC, 3);
  int nothing = open("/dev/null", O_RDONLY);
  dup2(nothing, 0);
  if (nothing > 2) close(nothing);
  dup2(2, 1);
  setvbuf(stdout, NULL, _IOLBF, 0);
  shim_declared = json_object_new_object();
}

// A field of the call: function, key, handler, version, attempt, now, deadline, seed, trace, meta, reply_to. Take time and
// chance from `now` and `seed`: they are the same for all attempts. A stateless call has no key.
static inline json_object *shim_field(const struct shim *ctx, const char *name) {
  json_object *field = NULL;
  if (!json_object_object_get_ex(ctx->member, name, &field)) json_object_object_get_ex(ctx->call, name, &field);
  return field;
}

static inline const char *shim_name(const struct shim *ctx) {
  const char *name = json_object_get_string(shim_field(ctx, "handler"));
  return name ? name : "call";
}

static inline void shim_put(struct shim *ctx, json_object *state) {
  if (state != ctx->state) json_object_put(ctx->state);
  ctx->state = state;
  ctx->exists = ctx->asked = true;
}

static inline void shim_delete(struct shim *ctx) {
  shim_put(ctx, NULL);
  ctx->exists = false;
}

// Asks for send, cancel, forward, publish, subscribe, unsubscribe or http, with the fields of runtimes/README.md.
static inline void shim_effect(struct shim *ctx, const char *operation, json_object *fields) {
  json_object *effect = json_object_new_object();
  json_object_object_add(effect, operation, fields);
  if (!ctx->effects) ctx->effects = json_object_new_array();
  json_object_array_add(ctx->effects, effect);
}

// The answer is an error: `return shim_refuse(ctx, 409, "out_of_stock", "no %s left", sku)`. 400 to 499 say no, 500 is a fault.
__attribute__((format(printf, 4, 5))) static inline json_object *shim_refuse(
    struct shim *ctx, int status, const char *code, const char *format, ...) {
  va_list values;
  char *text = NULL;
  va_start(values, format);
  if (vasprintf(&text, format, values) < 0) abort();
  va_end(values);
  json_object_put(ctx->error);
  ctx->error = json_object_new_object();
  json_object_object_add(ctx->error, "code", json_object_new_string(code));
  json_object_object_add(ctx->error, "message", json_object_new_string(text));
  json_object_object_add(ctx->error, "status", json_object_new_int(status));
  free(text);
  return NULL;
}

// After shim_refuse: what the caller may want to know.
static inline json_object *shim_details(struct shim *ctx, json_object *details) {
  json_object_object_add(ctx->error, "details", details);
  return NULL;
}

// After shim_refuse: the host runs the message again, a few times, before the caller sees the error.
static inline json_object *shim_retry(struct shim *ctx) {
  json_object_object_add(ctx->error, "retry", json_object_new_boolean(true));
  return NULL;
}

// Something that must not happen: its text is for the log, the caller learns only that it did.
static inline json_object *shim_fault(struct shim *ctx, const char *text) {
  fprintf(stderr, "handler %s: %s\n", shim_name(ctx), text);
  return shim_refuse(ctx, 500, "function_error", "a fault in handler %s", shim_name(ctx));
}

static inline void shim_handler(const char *name, shim_function *run, int options) {
  if (shim_count > 62) abort();
  for (const char *each = name; each; each = options & SHIM_DEFAULT && each == name ? "call" : NULL) {
    json_object *declared = json_object_new_object();
    json_object_object_add(declared, "reads_only", json_object_new_boolean(options & SHIM_READS_ONLY));
    json_object_object_add(shim_declared, each, declared);
    shim_known[shim_count].name = each;
    shim_known[shim_count].run = run;
    shim_known[shim_count++].options = options;
  }
}

// The JSON Schema of a handler's "input" or "output".
static inline void shim_schema(const char *handler, const char *of, const char *schema) {
  json_object_object_add(json_object_object_get(shim_declared, handler), of, json_tokener_parse(schema));
}

// A schedule: shim_cron("{\"name\":\"nightly\",\"schedule\":\"0 4 * * *\"}")
static inline void shim_cron(const char *schedule) {
  if (!shim_schedules) shim_schedules = json_object_new_array();
  json_object_array_add(shim_schedules, json_tokener_parse(schedule));
}

static inline bool shim_is_utf8(const char *text, size_t left, bool is_name) {
  const unsigned char *at = (const unsigned char *)text;
  for (size_t more; left > 0; at += more, left -= more) {
    more = *at < 0x80 ? 1 : *at >> 5 == 6 ? 2 : *at >> 4 == 14 ? 3 : *at >> 3 == 30 ? 4 : 5;
    if (more > left) return false;
    for (size_t i = 1; i < more; i++) if (at[i] >> 6 != 2) return false;
    unsigned code = more == 1 ? *at : (*at & (0x7fu >> more)) << 6 | (at[1] & 0x3f);
    if (more == 2 && code < 0x80 && !(is_name && code == 0)) return false;
    if (more == 3 && (code < 0x20 || (code >= 0x360 && code < 0x380))) return false; // too long; half a surrogate pair
    if (more == 4 && (code < 0x10 || code >= 0x110)) return false;
  }
  return true;
}

// json-c ends the name of a field at a NUL. So NUL is C0 80 in names, which no UTF-8 text holds: here is the way in, ...
static inline void shim_names_in(char *line) {
  if (!strstr(line, "\\u0000")) return;
  char *to = line, *opened = NULL;
  bool inside = false;
  for (char *at = line; *at; *to++ = *at++) {
    if (*at == '"' && (inside = !inside)) opened = to;
    if (*at == '\\' && inside) *to++ = *at++;
    char *next = at + 1 + strspn(at + 1, " \t");
    if (*at != '"' || inside || *next != ':') continue;
    char *name = opened; // it is over, and was a name: once more, from its first quote
    for (char *from = opened; from < to; *name++ = *from++) {
      if (*from != '\\') continue;
      if (strncmp(from, "\\u0000", 6) == 0) *name++ = (char)0xc0, from += 5, *from = (char)0x80;
      else *name++ = *from++;
    }
    to = name;
  }
  *to = 0;
}

// ... and the way out.
static inline size_t shim_names_out(char *to, const char *flat, size_t length) {
  char *start = to;
  for (const char *at = flat; at < flat + length; at++) {
    if (at[0] == (char)0xc0 && at[1] == (char)0x80) to = stpcpy(to, "\\u0000"), at++;
    else *to++ = *at;
  }
  return to - start;
}

// json-c writes NaN and any bytes; JSON has neither.
static inline int shim_check(json_object *value, int flags, json_object *parent, const char *key, size_t *index, void *bad) {
  (void)flags, (void)parent, (void)index;
  if ((json_object_is_type(value, json_type_double) && !isfinite(json_object_get_double(value))) ||
      (json_object_is_type(value, json_type_string) &&
       !shim_is_utf8(json_object_get_string(value), json_object_get_string_len(value), false)) ||
      (key && !shim_is_utf8(key, strlen(key), true)))
    *(bool *)bad = true;
  return JSON_C_VISIT_RETURN_CONTINUE;
}

// One message: its answer, and the state that it leaves.
static inline json_object *shim_run(json_object *id, json_object *call, json_object *member, json_object *message,
                                    json_object **state, bool *exists) {
  struct shim ctx = {.exists = *exists, .call = call, .member = member};
  json_object *answer = json_object_new_object(), *response = NULL;
  bool changed = false, bad = false;
  int known = 0;
  if (*state) json_object_deep_copy(*state, &ctx.state, NULL);
  while (known < shim_count && strcmp(shim_known[known].name, shim_name(&ctx)) != 0) known++;
  if (known == shim_count) {
    shim_refuse(&ctx, 404, "no_handler", "there is no handler %s", shim_name(&ctx));
  } else {
    response = shim_known[known].run(&ctx, message);
    changed = ctx.exists ? ctx.asked || !*exists || !json_object_equal(ctx.state, *state) : *exists;
    if (!ctx.error && (changed || ctx.asked || ctx.effects)) {
      if (shim_known[known].options & SHIM_READS_ONLY)
        shim_fault(&ctx, "it is declared SHIM_READS_ONLY: it changes no state and has no effects");
      else if (!shim_field(&ctx, "key"))
        shim_refuse(&ctx, 400, "no_key", "call it with a key: without one there is no state and no effect");
    }
  }
  json_object_object_add(answer, "id", json_object_get(id));
  if (!ctx.error) {
    json_object_object_add(answer, "response", response);
    if (ctx.effects) json_object_object_add(answer, "effects", json_object_get(ctx.effects));
    if (changed && ctx.exists) json_object_object_add(answer, "state", json_object_get(ctx.state));
    if (changed && !ctx.exists) json_object_object_add(answer, "delete", json_object_new_boolean(true));
    json_c_visit(answer, 0, shim_check, &bad);
    if (bad) shim_fault(&ctx, "what it left is not JSON: NaN, or a string that is not UTF-8");
  } else {
    json_object_put(response);
    json_c_visit(ctx.error, 0, shim_check, &bad);
    if (bad) shim_fault(&ctx, "its error is not JSON: NaN, or a string that is not UTF-8");
  }
  if (ctx.error) {
    json_object_put(answer);
    answer = json_object_new_object();
    json_object_object_add(answer, "id", json_object_get(id));
    json_object_object_add(answer, "error", ctx.error);
  } else if (changed) {
    json_object_put(*state);
    *state = json_object_get(ctx.state), *exists = ctx.exists;
  }
  json_object_put(ctx.state);
  json_object_put(ctx.effects);
  return answer;
}

static inline json_object *shim_answer(json_object *frame) {
  json_object *id = json_object_object_get(frame, "id"), *call = json_object_object_get(frame, "ctx");
  json_object *state = NULL, *messages, *answer;
  bool exists = json_object_object_get_ex(frame, "state", &state);
  json_object_get(state); // ours from here on: shim_run replaces it
  if (!json_object_object_get_ex(frame, "messages", &messages)) {
    answer = shim_run(id, call, NULL, json_object_object_get(frame, "message"), &state, &exists);
  } else {
    bool changed = false;
    json_object *answers = json_object_new_array();
    answer = json_object_new_object();
    json_object_object_add(answer, "id", json_object_get(id));
    json_object_object_add(answer, "answers", answers);
    for (size_t i = 0; i < json_object_array_length(messages); i++) {
      json_object *each = json_object_array_get_idx(messages, i), *message = json_object_object_get(each, "message");
      json_object *one = shim_run(json_object_object_get(each, "id"), call, each, message, &state, &exists);
      if (json_object_object_get_ex(one, "state", NULL) || json_object_object_get_ex(one, "delete", NULL)) changed = true;
      else json_object_object_add(one, "changed", json_object_new_boolean(false));
      json_object_object_del(one, "state");
      json_object_object_del(one, "delete");
      json_object_array_add(answers, one);
    }
    if (changed && exists) json_object_object_add(answer, "state", json_object_get(state));
    if (changed && !exists) json_object_object_add(answer, "delete", json_object_new_boolean(true));
  }
  json_object_put(state);
  return answer;
}

// One write for each frame: an answer that waited for the next message would share its fate.
static inline void shim_write(json_object *frame) {
  size_t length;
  const char *flat = json_object_to_json_string_length(frame, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
  char *line = malloc(3 * length + 1), *at = line;
  if (!line) abort();
  length = shim_names_out(line, flat, length);
  line[length++] = '\n';
  for (ssize_t done; length > 0; at += done, length -= done) {
    if ((done = write(shim_writing, at, length)) < 0) perror("shim: the host has gone"), exit(1);
  }
  free(line);
  json_object_put(frame);
}

// Answers messages until stdin ends.
static inline int shim_serve(void) {
  json_object *hello = json_object_new_object(), *frame = json_object_new_object();
  const char *numbers[] = {"protocol", "pipeline", "batch", "integers"};
  for (int i = 0; i < 4; i++) json_object_object_add(hello, numbers[i], json_object_new_int(i ? 64 : 1));
  json_object_object_add(hello, "runtime", json_object_new_string("c"));
  json_object_object_add(hello, "handlers", shim_declared);
  if (shim_schedules) json_object_object_add(hello, "cron", shim_schedules);
  json_object_object_add(frame, "hello", hello);
  shim_write(frame);
  json_tokener *tokener = json_tokener_new_ex(128);
  char *line = NULL;
  size_t room = 0;
  for (ssize_t length; (length = getline(&line, &room, shim_reading)) > 0 && line[length - 1] == '\n';) { // else it is torn
    json_tokener_reset(tokener);
    shim_names_in(line);
    frame = json_tokener_parse_ex(tokener, line, (int)strlen(line));
    if (!frame) fprintf(stderr, "shim: %s\n", json_tokener_error_desc(json_tokener_get_error(tokener))), exit(1);
    shim_write(shim_answer(frame));
    json_object_put(frame);
  }
  free(line);
  json_tokener_free(tokener);
  return 0;
}
