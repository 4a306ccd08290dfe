// The interpreter of the conformance kit (runtimes/conformance/interpreter.md): the message says what to do.

import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonPrimitive;
import java.math.BigInteger;
import java.util.Map;

class Interpreter {
    static Object interpret(Shim.Context ctx, JsonElement message) throws Exception {
        JsonElement response = JsonNull.INSTANCE;
        for (JsonElement command : message.getAsJsonArray()) {
            for (Map.Entry<String, JsonElement> each : command.getAsJsonObject().entrySet()) {
                JsonElement answer = run(ctx, each.getKey(), each.getValue());
                if (answer != null) response = answer;
            }
        }
        return response;
    }

    static JsonElement run(Shim.Context ctx, String name, JsonElement argument) throws Exception {
        switch (name) {
            case "put" -> ctx.put(argument);
            case "delete" -> ctx.delete();
            case "set" -> {
                JsonObject state = ctx.state().getAsJsonObject();
                argument.getAsJsonObject().entrySet().forEach(each -> state.add(each.getKey(), each.getValue()));
            }
            case "add" -> {
                BigInteger before = ctx.exists() ? ctx.state().getAsBigInteger() : BigInteger.ZERO;
                ctx.put(before.add(argument.getAsBigInteger()));
                return ctx.state();
            }
            case "reply" -> {
                return argument;
            }
            case "reply_state" -> {
                JsonObject response = new JsonObject();
                if (ctx.exists()) response.add("state", ctx.state().deepCopy());
                return response;
            }
            case "reply_ctx" -> {
                JsonElement field = ctx.call.get(argument.getAsString());
                return field == null ? JsonNull.INSTANCE : field;
            }
            case "effect" -> argument.getAsJsonObject().entrySet().forEach(each -> ctx.effect(each.getKey(), each.getValue()));
            case "fail" -> {
                JsonObject error = argument.getAsJsonObject();
                int status = error.has("status") ? error.get("status").getAsInt() : 500;
                String text = error.has("message") ? error.get("message").getAsString() : "";
                String code = error.has("code") ? error.get("code").getAsString() : "failed";
                Shim.Refused refused = new Shim.Refused(status, code, text);
                if (error.has("details")) refused.details(error.get("details"));
                if (error.has("retry") && error.get("retry").getAsBoolean()) refused.retry();
                throw refused;
            }
            case "throw" -> throw new IllegalStateException(argument.getAsString());
            case "unwritable" -> {
                return new JsonPrimitive(Double.NaN);
            }
            case "print" -> System.out.println(argument.getAsString());
            case "log" -> System.err.println(argument.getAsString());
            case "sleep" -> Thread.sleep(argument.getAsInt());
            case "exit" -> Runtime.getRuntime().halt(argument.getAsInt());
            default -> throw new IllegalArgumentException("the interpreter has no command " + name);
        }
        return null;
    }

    public static void main(String[] args) {
        new Shim()
            .handler("run", Interpreter::interpret, Shim.DEFAULT)
            .handler("look", Interpreter::interpret, Shim.READS_ONLY)
            .serve();
    }
}
