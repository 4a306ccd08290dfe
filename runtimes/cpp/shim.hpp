// inversion for C++, in one file: copy it beside your function and include it once. Needs C++17 and nlohmann/json (Debian:
// nlohmann-json3-dev), which is headers only; Linux or another Unix.
//
//     #include "shim.hpp"
//     using shim::json;
//
//     int main() {
//       return shim::Service()
//           .handler("add", [](shim::Context& ctx, const json&) -> json {
//             auto count = ctx.state.value_or(0).get<int64_t>() + 1;
//             ctx.state = count;
//             return count;
//           }, shim::Default)
//           .serve();
//     }
//
// A handler that throws stores nothing; a shim::Refused is the caller's to read, the text of other exceptions is for the
// log, as is what the program prints. Effects are done when, and only if, the answer is stored.
#pragma once
#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace shim {

using nlohmann::json;

// An answer that says no. Its status is 400 to 499, else 500.
class Refused : public std::runtime_error {
 public:
  Refused(int status, const std::string& code, const std::string& message)
      : std::runtime_error(code + ": " + message), error{{"code", code}, {"message", message}, {"status", status}} {}

  Refused& details(json details) { return error["details"] = std::move(details), *this; }

  // The host runs the message again, a few times, before the caller sees the error.
  Refused& retry() { return error["retry"] = true, *this; }

  json error;
};

// Who is called, and on which state.
struct Context {
  // Empty: there is none. Change it in place, assign it, or reset() it: what it is in the end is stored, or deleted.
  std::optional<json> state;
  // function, key, handler, version, attempt, now, deadline, seed, trace, meta, reply_to. Take time and chance from `now`
  // and `seed`: they are the same for all attempts. A stateless call has no key.
  json call;
  json effects = json::array();
  bool asked = false;  // for a change

  std::string handler() const { return call.value("handler", "call"); }

  // Stores a state even if it is the same as before: it gets a new version.
  void put(json value) { state = std::move(value), asked = true; }

  // The same as state.reset(), and an error where there can be no state, as in a stateless call.
  void remove() { state.reset(), asked = true; }

  // Asks for send, cancel, forward, publish, subscribe, unsubscribe or http, with the fields of runtimes/README.md:
  // ctx.effect("send", {{"handler", "remind"}, {"delay", "24h"}, {"name", "reminder"}})
  void effect(const std::string& operation, const json& fields) { effects.push_back({{operation, fields}}); }
};

// JSON on one line. Refuses NaN, which the library makes null; it refuses by itself what is not UTF-8.
inline void finite(const json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) throw std::domain_error("NaN is not JSON, nor is infinity");
  if (value.is_structured()) for (const json& each : value) finite(each);
}
inline std::string text(const json& value) { return finite(value), value.dump(); }

// The protocol moves to private descriptors before main; prints and child processes get stderr and /dev/null.
struct Stdio {
  FILE* reading = fdopen(fcntl(0, F_DUPFD_CLOEXEC, 3), "r");
  int writing = fcntl(1, F_DUPFD_CLOEXEC, 3);

  Stdio() {
    int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, 0);
    if (nothing > 2) close(nothing);
    dup2(2, 1);
    setvbuf(stdout, nullptr, _IOLBF, 0);
  }
};
inline Stdio stdio;

using Handler = std::function<json(Context& ctx, const json& message)>;

enum Options { None, Default, ReadsOnly, DefaultReadsOnly };  // Default: also "call", for callers that name none

class Service {
 public:
  // ReadsOnly is a promise to change nothing, and is held to it. The schemas are JSON Schemas of message and response.
  Service& handler(const std::string& name, Handler run, Options options = None, const json& input = {}, const json& output = {}) {
    json declared = {{"reads_only", (options & ReadsOnly) != 0}};
    if (!input.is_null()) declared["input"] = input;
    if (!output.is_null()) declared["output"] = output;
    for (const std::string& each : {name, std::string("call")}) {
      if (each == name || (options & Default)) handlers_[each] = run, declared_[each] = declared;
    }
    return *this;
  }

  // A schedule: .cron({{"name", "nightly"}, {"schedule", "0 4 * * *"}})
  Service& cron(const json& schedule) { return cron_.push_back(schedule), *this; }

  // Answers messages until stdin ends.
  int serve() {
    json hello = {{"protocol", 1}, {"runtime", "c++"}, {"pipeline", 64}, {"batch", 64}, {"integers", 64}, {"handlers", declared_}};
    if (!cron_.empty()) hello["cron"] = cron_;
    write({{"hello", hello}});
    char* line = nullptr;
    size_t room = 0;
    ssize_t length;
    while ((length = getline(&line, &room, stdio.reading)) > 0 && line[length - 1] == '\n') {  // else it is torn
      write(answer(json::parse(line, line + length)));
    }
    std::free(line);
    return 0;
  }

 private:
  using State = std::optional<json>;

  json answer(const json& frame) {
    State state;
    if (frame.contains("state")) state = frame["state"];
    json call = frame.value("ctx", json::object());
    if (!frame.contains("messages")) {
      auto [fields, changed] = run(call, frame.value("message", json()), state);
      fields["id"] = frame["id"];
      if (changed) set(fields, state);
      return std::move(fields);
    }
    json whole = {{"id", frame["id"]}, {"answers", json::array()}};
    bool any_changed = false;
    for (const json& member : frame["messages"]) {
      json about = call;
      about.update(member);
      auto [fields, changed] = run(about, member.value("message", json()), state);
      fields["id"] = member["id"];
      if (!changed) fields["changed"] = false;
      any_changed |= changed;
      whole["answers"].push_back(std::move(fields));
    }
    if (any_changed) set(whole, state);
    return whole;
  }

  // One message: the fields of its answer, and whether it left another state, which is `state` from then on.
  std::pair<json, bool> run(const json& call, const json& message, State& state) {
    Context ctx{state, call};
    json error;
    try {
      auto handler = handlers_.find(ctx.handler());
      if (handler == handlers_.end()) throw Refused(404, "no_handler", "there is no handler " + ctx.handler());
      json fields = {{"response", handler->second(ctx, message)}};
      if (!ctx.effects.empty()) fields["effects"] = ctx.effects;
      text(fields);
      bool changed = ctx.state ? !state || text(*ctx.state) != state->dump() || ctx.asked : state.has_value();
      if (changed || ctx.asked || !ctx.effects.empty()) {
        if (declared_[ctx.handler()]["reads_only"]) throw std::logic_error("it is declared ReadsOnly: no change, no effects");
        if (!call.contains("key")) throw Refused(400, "no_key", "call it with a key: without one there is no state and no effect");
      }
      if (changed) state = std::move(ctx.state);
      return {fields, changed};
    } catch (const Refused& refused) {
      error = refused.error;
    } catch (const std::exception& problem) {
      error = fault(ctx, problem.what());
    } catch (...) {
      error = fault(ctx, "it threw what is no std::exception");
    }
    try {
      text(error);
    } catch (const std::exception& problem) {
      error = fault(ctx, problem.what());
    }
    return {{{"error", error}}, false};
  }

  static json fault(const Context& ctx, const char* text) {
    std::cerr << "handler " << ctx.handler() << ": " << text << std::endl;
    return Refused(500, "function_error", "an exception in handler " + ctx.handler()).error;
  }

  static void set(json& answer, const State& state) {
    if (state) answer["state"] = *state;
    else answer["delete"] = true;
  }

  // One write for each frame: an answer that waited for the next message would share its fate.
  static void write(const json& frame) {
    std::string line = frame.dump() + "\n";
    for (size_t at = 0; at < line.size();) {
      ssize_t done = ::write(stdio.writing, line.data() + at, line.size() - at);
      if (done < 0) std::perror("shim: the host has gone"), std::exit(1);
      at += done;
    }
  }

  std::map<std::string, Handler> handlers_;
  json declared_ = json::object(), cron_ = json::array();
};

}  // namespace shim
