// inversion for Java, in one file: copy it beside your function. Needs Java 17 and Gson (Debian: libgoogle-gson-java).
//
//     class Hits {
//         public static void main(String[] args) {
//             new Shim()
//                 .handler("add", (ctx, message) -> {
//                     int count = ctx.exists() ? ctx.state().getAsInt() + 1 : 1;
//                     ctx.put(count);
//                     return count;
//                 }, Shim.DEFAULT)
//                 .serve();
//         }
//     }
//
// A handler takes and gives Gson's JsonElement, or anything that Gson turns into one. If it throws, nothing is stored; a
// Shim.Refused is the caller's to read, the text of other exceptions is for the log, as is what the program prints.
// Effects are done when, and only if, the answer is stored.

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.stream.JsonWriter;
import java.io.BufferedInputStream;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.StringWriter;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

final class Shim {
    /** Options of a handler: it is also "call", for callers that name none; it promises to change nothing, and is held to it. */
    static final String DEFAULT = "default", READS_ONLY = "reads_only";

    interface Handler {
        Object run(Context ctx, JsonElement message) throws Exception;
    }

    /** An answer that says no. Its status is 400 to 499, else 500. */
    static final class Refused extends RuntimeException {
        final JsonObject error = new JsonObject();

        Refused(int status, String code, String message) {
            super(code + ": " + message);
            error.addProperty("code", code);
            error.addProperty("message", message);
            error.addProperty("status", status);
        }

        Refused details(Object details) {
            error.add("details", GSON.toJsonTree(details));
            return this;
        }

        /** The host runs the message again, a few times, before the caller sees the error. */
        Refused retry() {
            error.addProperty("retry", true);
            return this;
        }
    }

    /** Who is called, and on which state. */
    static final class Context {
        /** function, key, handler, version, attempt, now, deadline, seed, trace, meta, reply_to. */
        final JsonObject call;
        private final JsonElement old;
        private JsonElement state; // of both: null is absent
        private boolean asked; // for a change
        private final JsonArray effects = new JsonArray();

        private Context(JsonObject call, JsonElement state) {
            this.call = call;
            this.old = state;
            this.state = state == null ? null : state.deepCopy();
        }

        String handler() {
            return call.has("handler") ? call.get("handler").getAsString() : "call";
        }

        /** Null: a stateless call, which has no state and no effects. */
        String key() {
            return call.has("key") && !call.get("key").isJsonNull() ? call.get("key").getAsString() : null;
        }

        /** The time and the seed of chance are the same for all attempts of a request. */
        Instant now() {
            return Instant.parse(call.get("now").getAsString());
        }

        String seed() {
            return call.get("seed").getAsString();
        }

        /** The state, to read and to change in place; null is none, JsonNull a state that is null. */
        JsonElement state() {
            return state;
        }

        boolean exists() {
            return state != null;
        }

        void put(Object value) {
            state = GSON.toJsonTree(value);
            asked = true;
        }

        void delete() {
            state = null;
            asked = true;
        }

        /** Asks for send, cancel, forward, publish, subscribe, unsubscribe or http, with the fields of runtimes/README.md:
         *  ctx.effect("send", Map.of("handler", "remind", "delay", "24h", "name", "reminder")) */
        void effect(String operation, Object fields) {
            JsonObject effect = new JsonObject();
            effect.add(operation, GSON.toJsonTree(fields));
            effects.add(effect);
        }

        private boolean changed() {
            return state == null ? old != null : asked || old == null || !text(state).equals(text(old));
        }
    }

    private record Declared(Handler run, JsonObject options) {}

    private static final Gson GSON = new GsonBuilder().serializeNulls().disableHtmlEscaping().create();
    private final Map<String, Declared> handlers = new TreeMap<>();
    private final JsonArray cron = new JsonArray();
    private final InputStream reading = new BufferedInputStream(new FileInputStream(FileDescriptor.in), 1 << 18);
    private final OutputStream writing = new FileOutputStream(FileDescriptor.out);

    /** From here on System.out is the log, and System.in is empty. */
    Shim() {
        System.setIn(new ByteArrayInputStream(new byte[0]));
        System.setOut(new PrintStream(System.err, true));
    }

    Shim handler(String name, Handler run, String... options) {
        JsonObject declared = new JsonObject();
        declared.addProperty("reads_only", List.of(options).contains(READS_ONLY));
        handlers.put(name, new Declared(run, declared));
        if (List.of(options).contains(DEFAULT)) handlers.put("call", handlers.get(name));
        return this;
    }

    /** JSON Schemas of a handler's message and response. */
    Shim schemas(String name, String input, String output) {
        handlers.get(name).options.add("input", JsonParser.parseString(input));
        handlers.get(name).options.add("output", JsonParser.parseString(output));
        return this;
    }

    /** A schedule: cron(Map.of("name", "nightly", "schedule", "0 4 * * *")) */
    Shim cron(Object schedule) {
        cron.add(GSON.toJsonTree(schedule));
        return this;
    }

    /** Answers messages until stdin ends. */
    void serve() {
        JsonObject declared = new JsonObject(), frame = new JsonObject();
        handlers.forEach((name, each) -> declared.add(name, each.options));
        JsonObject hello = GSON.toJsonTree(Map.of("protocol", 1, "pipeline", 64, "batch", 64, "integers", 64)).getAsJsonObject();
        hello.addProperty("runtime", "java/" + Runtime.version().feature());
        hello.add("handlers", declared);
        if (cron.size() > 0) hello.add("cron", cron);
        frame.add("hello", hello);
        try {
            write(frame);
            for (String line; (line = readLine()) != null; ) write(answer(JsonParser.parseString(line).getAsJsonObject()));
            System.exit(0); // also when threads of the function are still going
        } catch (IOException problem) {
            System.err.println("shim: the host has gone: " + problem.getMessage());
            System.exit(1);
        }
    }

    private JsonObject answer(JsonObject frame) throws IOException {
        JsonObject call = frame.has("ctx") ? frame.getAsJsonObject("ctx") : new JsonObject();
        JsonElement state = frame.get("state");
        if (!frame.has("messages")) return run(frame.get("id"), call, frame.get("message"), state);
        JsonObject whole = new JsonObject();
        JsonArray answers = new JsonArray();
        for (JsonElement each : frame.getAsJsonArray("messages")) {
            JsonObject member = each.getAsJsonObject(), about = new JsonObject();
            call.entrySet().forEach(field -> about.add(field.getKey(), field.getValue()));
            member.entrySet().forEach(field -> about.add(field.getKey(), field.getValue()));
            JsonObject answer = run(member.get("id"), about, member.get("message"), state);
            if (answer.has("state") || answer.has("delete")) {
                whole.remove("state");
                whole.remove("delete");
                state = answer.remove("state");
                if (answer.remove("delete") != null) whole.addProperty("delete", true);
                else whole.add("state", state);
            } else {
                answer.addProperty("changed", false);
            }
            answers.add(answer);
        }
        whole.add("id", frame.get("id"));
        whole.add("answers", answers);
        return whole;
    }

    private JsonObject run(JsonElement id, JsonObject call, JsonElement message, JsonElement state) {
        JsonObject answer = new JsonObject();
        Context ctx = new Context(call, state);
        answer.add("id", id);
        try {
            Declared handler = handlers.get(ctx.handler());
            if (handler == null) throw new Refused(404, "no_handler", "there is no handler " + ctx.handler());
            Object response = handler.run.run(ctx, message == null ? JsonNull.INSTANCE : message);
            boolean changed = ctx.changed();
            if (changed || ctx.asked || ctx.effects.size() > 0) {
                if (handler.options.get("reads_only").getAsBoolean())
                    throw new IllegalStateException("it is declared READS_ONLY: it changes no state and has no effects");
                if (ctx.key() == null)
                    throw new Refused(400, "no_key", "call it with a key: without one there is no state and no effect");
            }
            answer.add("response", GSON.toJsonTree(response));
            if (ctx.effects.size() > 0) answer.add("effects", ctx.effects);
            if (changed && ctx.state == null) answer.addProperty("delete", true);
            else if (changed) answer.add("state", ctx.state);
            bytes(text(answer)); // throws at what JSON has not
            return answer;
        } catch (Refused refused) {
            return error(id, refused.error);
        } catch (Throwable problem) { // StackOverflowError too; its text may hold what callers must not see
            problem.printStackTrace();
            String text = problem.getClass().getSimpleName() + " in handler " + ctx.handler();
            return error(id, new Refused(500, "function_error", text).error);
        }
    }

    private static JsonObject error(JsonElement id, JsonObject error) {
        JsonObject answer = new JsonObject();
        answer.add("id", id);
        answer.add("error", error);
        return answer;
    }

    /** JSON on one line. Refuses NaN and infinities, which Gson itself lets through. */
    private static String text(JsonElement value) {
        StringWriter text = new StringWriter();
        try (JsonWriter writer = new JsonWriter(text)) {
            GSON.getAdapter(JsonElement.class).write(writer, value);
            return text.toString();
        } catch (IOException problem) {
            throw new IllegalArgumentException(problem);
        }
    }

    /** UTF-8. Refuses half a surrogate pair, which String.getBytes makes a question mark. */
    private static ByteBuffer bytes(String text) throws IOException {
        return StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
    }

    /** One write for each frame: an answer that waited for the next message would share its fate. */
    private void write(JsonObject frame) throws IOException {
        ByteBuffer line = bytes(text(frame) + "\n");
        writing.write(line.array(), 0, line.limit());
    }

    /** Null at the end; a last line without its newline is torn: the host died while it wrote. */
    private String readLine() throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next; (next = reading.read()) != '\n'; line.write(next)) if (next < 0) return null;
        return line.toString(StandardCharsets.UTF_8);
    }
}
