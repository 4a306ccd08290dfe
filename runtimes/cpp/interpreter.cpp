// The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.
// `g++ -O2 -o interpreter interpreter.cpp`
#include <chrono>
#include <thread>

#include "shim.hpp"
using shim::json;

// Wide enough for all that 64 bits hold, signed or not.
static __int128 whole(const json& value) {
  if (!value.is_number_integer()) throw std::domain_error("not a whole number");
  return value.is_number_unsigned() ? static_cast<__int128>(value.get<uint64_t>()) : value.get<int64_t>();
}

static void run(shim::Context& ctx, const std::string& name, const json& argument, json& response) {
  if (name == "put") {
    ctx.put(argument);
  } else if (name == "delete") {
    ctx.remove();
  } else if (name == "set") {
    ctx.state.value().update(argument);
  } else if (name == "add") {
    __int128 sum = whole(ctx.state.value_or(json(0))) + whole(argument);
    response = sum > INT64_MAX ? json(static_cast<uint64_t>(sum)) : json(static_cast<int64_t>(sum));
    ctx.put(response);
  } else if (name == "reply") {
    response = argument;
  } else if (name == "reply_state") {
    response = json::object();
    if (ctx.state) response["state"] = *ctx.state;
  } else if (name == "reply_ctx") {
    response = ctx.call.value(argument.get<std::string>(), json());
  } else if (name == "effect") {
    for (const auto& [operation, fields] : argument.items()) ctx.effect(operation, fields);
  } else if (name == "fail") {
    shim::Refused refused(argument.value("status", 500), argument.value("code", "failed"), argument.value("message", ""));
    if (argument.contains("details")) refused.details(argument["details"]);
    if (argument.value("retry", false)) refused.retry();
    throw refused;
  } else if (name == "throw") {
    throw std::runtime_error(argument.get<std::string>());
  } else if (name == "unwritable") {
    response = NAN;
  } else if (name == "print") {
    std::cout << argument.get<std::string>() << std::endl;
  } else if (name == "log") {
    std::cerr << argument.get<std::string>() << std::endl;
  } else if (name == "sleep") {
    std::this_thread::sleep_for(std::chrono::milliseconds(argument.get<int>()));
  } else if (name == "exit") {
    std::_Exit(argument.get<int>());
  } else {
    throw std::invalid_argument("the interpreter has no command " + name);
  }
}

static json interpret(shim::Context& ctx, const json& message) {
  json response;
  for (const json& command : message) {
    for (const auto& [name, argument] : command.items()) run(ctx, name, argument, response);
  }
  return response;
}

int main() {
  return shim::Service().handler("run", interpret, shim::Default).handler("look", interpret, shim::ReadsOnly).serve();
}
