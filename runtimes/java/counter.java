// A counter: the smallest function with a state. The README has the lines that build and run it.

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;

class Counter {
    static long count(Shim.Context ctx) {
        return ctx.exists() ? ctx.state().getAsJsonObject().get("count").getAsLong() : 0;
    }

    static Object add(Shim.Context ctx, JsonElement message) {
        long count = Math.addExact(count(ctx), message.isJsonNull() ? 1 : wholeNumber(message));
        JsonObject state = new JsonObject();
        state.addProperty("count", count);
        ctx.put(state);
        return count;
    }

    static Object get(Shim.Context ctx, JsonElement message) {
        return count(ctx);
    }

    static Object reset(Shim.Context ctx, JsonElement message) {
        ctx.delete();
        return 0;
    }

    static long wholeNumber(JsonElement message) {
        try {
            if (message.getAsJsonPrimitive().isNumber()) return Long.parseLong(message.getAsString());
        } catch (IllegalStateException | NumberFormatException notOne) {
            // said below
        }
        throw new Shim.Refused(422, "bad_amount", "add takes a whole number");
    }

    public static void main(String[] args) {
        new Shim()
            .handler("add", Counter::add, Shim.DEFAULT)
            .handler("get", Counter::get, Shim.READS_ONLY)
            .handler("reset", Counter::reset)
            .serve();
    }
}
