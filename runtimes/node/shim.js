"use strict";
// inversion for Node, in one file: copy it beside your function. No dependencies, Node 18+.
//
//     const { handler, serve } = require("./shim");
//
//     handler("add", { default: true }, (ctx, message) => (ctx.state = (ctx.state ?? 0) + message));
//
//     serve();
//
// A handler is `function(ctx, message) -> response`, async if it likes. What it leaves in `ctx.state` is
// stored before the answer goes out; if it throws, nothing is. console.log goes to the log. Frames are
// taken up as they come, so async handlers of different keys overlap. What it asks for (`ctx.send`,
// `ctx.cancel`, `ctx.forward`, `ctx.publish`, `ctx.subscribe`, `ctx.unsubscribe`, `ctx.http`) is done when,
// and only if, its answer is stored. The wire is in runtimes/README.md.

const fs = require("node:fs");
const net = require("node:net");
const { AsyncLocalStorage } = require("node:async_hooks");

const KEEP = Symbol("keep"); // what becomes of the state: KEEP, undefined (delete), or its new text
const STALE = Symbol("stale"); // a handler had its hands on the value: read it again from the text

/** The answer is an error, and the state stays as it was. `status` is 400 to 499, else 500. With `retry`
 *  the host runs the message again, a few times, before the caller sees the error. */
class Refused extends Error {
  constructor(code, message = "", { status = 400, details, retry = false } = {}) {
    super(message);
    this.answer = { code, message, status, details, retry: retry || undefined };
  }
}

/** Who is called, when, and on which state. */
class Context {
  #stored;
  #readsOnly;
  #value = STALE;
  #assigned = false;
  #effects = [];

  constructor(entity, call, readsOnly, stored) {
    this.function = entity.function;
    this.key = entity.key; // undefined: a stateless call
    this.version = entity.version; // of the state, before this turn
    this.handler = call.handler ?? "call";
    this.attempt = call.attempt ?? 1;
    this.now = call.now; // RFC 3339; the same for all attempts of a request, as the seed is
    this.deadline = call.deadline;
    this.seed = call.seed;
    this.trace = call.trace; // W3C traceparent
    this.meta = call.meta ?? {};
    this.replyTo = call.reply_to ?? undefined; // of a reply: the id that a send had
    this.#readsOnly = readsOnly;
    this.#stored = stored;
  }

  /** The entity's state; undefined when there is none, null when it is null. Change it in place,
   *  assign it, or `ctx.delete()`. */
  get state() {
    if (this.#value === STALE) this.#value = this.#stored.take();
    return this.#value;
  }

  set state(value) {
    if (this.#readsOnly) throw new TypeError(`${this.handler} is declared readsOnly: it cannot change the state`);
    if (this.key === undefined) throw new Refused("no_key", "call it with a key: without one there is no state to change");
    this.#value = value;
    this.#assigned = true;
  }

  get exists() {
    return (this.#value === STALE ? this.#stored.value : this.#value) !== undefined;
  }

  delete() {
    this.state = undefined;
  }

  /** A message to `handler` of another entity, or of this one where no function and key are named; with a key
   *  of null a stateless call. `delay` is "24h", `at` RFC 3339 or a Date. A later send with the same `name`
   *  replaces it, `cancel` removes it. The handler `replyTo` of this entity gets { response } or { error }. */
  send({ replyTo, ...fields } = {}) {
    this.#ask("send", { ...fields, reply_to: replyTo });
  }

  /** What was sent under this name is not to arrive. */
  cancel(name) {
    this.#ask("cancel", { name });
  }

  /** The caller gets the answer of that entity in place of this one's: return nothing. */
  forward(fields = {}) {
    this.#ask("forward", fields);
  }

  /** A message to every handler that is subscribed to the topic. */
  publish(topic, message) {
    this.#ask("publish", { topic, message });
  }

  /** `handler` of this entity gets what is published to the topic, until it is unsubscribed. */
  subscribe(topic, handler) {
    this.#ask("subscribe", { topic, handler });
  }

  unsubscribe(topic) {
    this.#ask("unsubscribe", { topic });
  }

  /** A request to a host that the config allows, at least once, with an Idempotency-Key:
   *  { url, method, headers, body, replyTo }. */
  http({ replyTo, ...fields }) {
    this.#ask("http", { ...fields, reply_to: replyTo });
  }

  #ask(operation, fields) {
    if (this.#readsOnly) throw new TypeError(`${this.handler} is declared readsOnly: it cannot ${operation}`);
    if (this.key === undefined) throw new Refused("no_key", `call it with a key: without one it cannot ${operation}`);
    this.#effects.push(dump({ [operation]: fields }, `what it would ${operation}`)); // now: it may change
  }

  static effects(ctx) {
    return ctx.#effects.length === 0 ? "" : `,"effects":[${ctx.#effects.join(",")}]`;
  }

  static change(ctx) {
    const value = ctx.#value;
    if (value === STALE) return KEEP;
    if (value === undefined) return ctx.#assigned && ctx.#stored.value !== undefined ? undefined : KEEP;
    const text = dump(value, "the state");
    if (!ctx.#assigned) {
      if (text === ctx.#stored.text) return KEEP;
      ctx.state = value; // changed in place: held to the same rules
    }
    return text;
  }
}

/** The state as the last message left it: a value nobody touched, or its text. */
class Stored {
  constructor(value) {
    this.value = value;
    this.text = undefined;
  }

  take() {
    const value = this.value;
    if (value === undefined) return undefined;
    if (value === STALE) return JSON.parse(this.text);
    this.text = JSON.stringify(value); // to compare with afterwards
    this.value = STALE;
    return value;
  }

  put(change) {
    this.value = change === undefined ? undefined : STALE;
    this.text = change;
  }
}

class NotJson extends Error {}

/** JSON on one line. Refuses what JSON.stringify would quietly rewrite: NaN, Infinity, half a surrogate pair. */
function dump(value, what) {
  let text;
  try {
    text = JSON.stringify(value);
    if (text?.includes("null")) JSON.stringify(value, finite);
  } catch (problem) {
    throw new NotJson(`${what} is not JSON: ${problem.message.split("\n")[0]}`);
  }
  if (text === undefined) throw new NotJson(`${what} is not JSON: a ${typeof value}`);
  if (text.includes("\\ud") && /(?<!\\)(?:\\\\)*\\ud[89a-f]/.test(text)) {
    throw new NotJson(`${what} is not JSON: half a surrogate pair in a string`);
  }
  return text;
}

function finite(_, value) {
  if (typeof value === "number" && !Number.isFinite(value)) throw new TypeError(`${value} is not a number in JSON`);
  return value;
}

const handlers = new Map();
const running = new AsyncLocalStorage(); // whose message a stray callback belongs to, should it throw

/** Declare a handler. Options: `default` (it is also `call`, for callers that name none), `readsOnly`, a
 *  promise that is held to, and `input` and `output`, JSON Schemas of the message and the response. */
function handler(name, options, run) {
  if (run === undefined) [options, run] = [{}, options];
  for (const each of options.default ? [name, "call"] : [name]) {
    const { readsOnly = false, input, output } = options;
    handlers.set(each, { run, readsOnly, says: { input, output, reads_only: readsOnly } });
  }
}

/** Run one message of an entity, then call `done(the fields of its answer, what becomes of the state)`, at once if it can. */
function runMessage(entity, call, message, stored, done) {
  const job = { open: true, fail: undefined };
  const name = call.handler ?? "call";
  let ctx;
  const finish = (fields, change) => {
    if (!job.open) return; // a callback of it has thrown, and the error was the answer
    job.open = false;
    done(fields, change);
  };
  const succeed = (response) => {
    let fields, change;
    try {
      fields = response === undefined ? "" : `,"response":${dump(response, "the response")}`;
      fields += Context.effects(ctx);
      change = Context.change(ctx);
    } catch (problem) {
      return job.fail(problem);
    }
    finish(fields, change);
  };
  job.fail = (problem) => finish(`,"error":${errorText(problem, name)}`, KEEP);
  try {
    const known = handlers.get(name);
    if (!known) {
      throw new Refused("no_handler", `no handler ${name}, there are: ${[...handlers.keys()].join(", ")}`, { status: 404 });
    }
    ctx = new Context(entity, call, known.readsOnly, stored);
    const response = running.run(job, known.run, ctx, message);
    if (typeof response?.then === "function") response.then(succeed, job.fail);
    else succeed(response);
  } catch (problem) {
    job.fail(problem);
  }
}

function errorText(problem, name) {
  if (problem instanceof Refused) {
    try {
      return dump(problem.answer, "the error");
    } catch (notJson) {
      problem = notJson;
    }
  }
  console.error(problem); // its text may hold what callers must not see: it is for the log
  const said = problem instanceof NotJson ? problem.message : (problem?.name ?? typeof problem);
  return JSON.stringify({ code: "function_error", message: `${said} in handler ${name}` });
}

/** Answer messages until stdin ends. `cron`: schedules, { name: "nightly", schedule: "0 4 * * *" } each. */
function serve({ cron } = {}) {
  const { reading, writing } = stdio ?? takeStdio();
  let open = 0;
  let ended = false;

  const leave = () => {
    if (ended && open === 0) process.exit(0); // also when timers of the function are still going
  };
  const answer = (text) => {
    open -= 1;
    writeAll(writing, text);
    leave();
  };
  const take = (line) => {
    open += 1;
    const frame = JSON.parse(line);
    if (frame.messages === undefined) runSingle(frame, answer);
    else runTurn(frame, answer);
  };

  process.on("uncaughtException", (problem) => {
    const job = running.getStore();
    if (job?.open) return job.fail(problem);
    console.error(problem); // nobody's: the process is not to be trusted, the host starts another
    process.exit(1);
  });

  const declared = {};
  for (const [name, { says }] of handlers) declared[name] = says;
  const runtime = `node/${process.versions.node.split(".")[0]}`;
  const hello = { protocol: 1, runtime, pipeline: 64, batch: 64, integers: 53, handlers: declared, cron };
  writeAll(writing, `${JSON.stringify({ hello })}\n`);

  let torn = []; // the chunks of a line that has not ended
  reading.on("data", (chunk) => {
    const end = chunk.lastIndexOf(10) + 1;
    if (end === 0) return torn.push(chunk);
    const lines = Buffer.concat([...torn, chunk.subarray(0, end - 1)]).toString().split("\n");
    torn = end < chunk.length ? [chunk.subarray(end)] : [];
    for (const line of lines) take(line);
  });
  reading.on("end", () => {
    ended = true; // what is torn was cut off while the host died
    leave();
  });
}

function runSingle(frame, answer) {
  const ctx = frame.ctx ?? {};
  runMessage(ctx, ctx, frame.message, new Stored(frame.state), (fields, change) => {
    answer(`{"id":${JSON.stringify(frame.id)}${fields}${changeField(change)}}\n`);
  });
}

/** Several messages for one state, one after the other; a message that fails leaves it as it was. */
function runTurn(frame, answer) {
  const stored = new Stored(frame.state);
  const answers = [];
  let last = KEEP;
  let index = 0;
  let looping = false;
  const next = () => {
    if (looping) return; // a handler that is not async came back at once: the loop below goes on
    looping = true;
    while (index === answers.length && index < frame.messages.length) {
      const member = frame.messages[index++];
      runMessage(frame.ctx, member, member.message, stored, (fields, change) => {
        answers.push(`{"id":${JSON.stringify(member.id)}${fields}${change === KEEP ? ',"changed":false' : ""}}`);
        if (change !== KEEP) stored.put((last = change));
        next();
      });
    }
    looping = false;
    if (answers.length === frame.messages.length) {
      answer(`{"id":${JSON.stringify(frame.id)},"answers":[${answers.join(",")}]${changeField(last)}}\n`);
    }
  };
  next();
}

function changeField(change) {
  return change === KEEP ? "" : change === undefined ? ',"delete":true' : `,"state":${change}`;
}

function writeAll(fd, text) {
  for (let rest = Buffer.from(text); rest.length > 0; ) {
    try {
      rest = rest.subarray(fs.writeSync(fd, rest));
    } catch (problem) {
      if (problem.code !== "EAGAIN") process.exit(1); // the host has gone
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // the pipe is full: the host reads on
    }
  }
}

let stdio;

/** The protocol moves to private descriptors; console.log and child processes get stderr and /dev/null.
 *  Node has no dup: opening /dev/fd/N anew is as good for a pipe. Elsewhere, or where that is refused, frames
 *  stay on descriptor 1 and only JavaScript's own output is turned away from it. */
function takeStdio() {
  let input = 0;
  let writing = 1;
  try {
    if (![1, 2].every((fd) => fs.fstatSync(fd).isFIFO())) throw new Error("no pipes");
    const own = [fs.openSync("/dev/fd/0", "r"), fs.openSync("/dev/fd/1", "a"), fs.openSync("/dev/fd/2", "a")];
    fs.closeSync(0);
    fs.openSync("/dev/null", "r"); // gets the lowest number that is free: 0
    fs.closeSync(1);
    fs.openSync(`/dev/fd/${own[2]}`, "a"); // 1
    fs.closeSync(own[2]);
    [input, writing] = own;
  } catch {
    Object.defineProperty(process, "stdout", { get: () => process.stderr });
  }
  const piped = fs.fstatSync(input).isFIFO() || fs.fstatSync(input).isSocket();
  const reading = piped ? new net.Socket({ fd: input, writable: false }) : fs.createReadStream("", { fd: input });
  return (stdio = { reading, writing });
}

// Before the program's other modules can print; a test that requires a function keeps its stdout.
if (require.main && module.parent === require.main) takeStdio();

module.exports = { handler, serve, Refused, Context };
