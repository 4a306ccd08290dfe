// A function that breaks the wire as its handler's name says; `well` keeps it. hostile.py is its twin.
//
// The wire by hand, for no shim would write this. Flags are for what a process does before it is asked:
// `--deaf` never reads, `--hello` says hello, `--unasked` answers first. How much is `{"bytes": n}` or
// `{"for_s": seconds}` in the message. Everything is synchronous.

const fs = require("fs")
const zlib = require("zlib")

const CHUNK = "x".repeat(65_536)
const before = []

function write(data, file = 1) {
  for (let at = 0; at < data.length; ) at += fs.writeSync(file, data, at)
}

function say(frame) {
  write(Buffer.from(JSON.stringify(frame) + "\n"))
}

function sleep(ms) {
  if (ms > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

function writeMuch(text, message, file) {
  const chunk = Buffer.from(text)
  const end = performance.now() + (message.for_s ?? 600) * 1_000
  let left = message.bytes ?? Infinity
  for (; left >= chunk.length && performance.now() < end; left -= chunk.length) write(chunk, file)
}

const handlers = {
  well: (id, message) => say({ id, response: message }),
  put: (id, message) => say({ id, response: message, state: message }),
  pid: (id) => say({ id, response: process.pid }),

  // Writes each of the message's lines (base64 of zlib), @ID@ in them made the id.
  lines(id, message) {
    for (const line of message) {
      const text = zlib.inflateSync(Buffer.from(line, "base64")).toString("latin1").replaceAll("@ID@", id)
      write(Buffer.from(text + "\n", "latin1"))
    }
  },
  // The answer in two writes, cut at the byte that the message says, counted around.
  halves(id, message) {
    const answer = Buffer.from(JSON.stringify({ id, response: message }) + "\n")
    const cut = message % answer.length
    write(answer.subarray(0, cut))
    sleep(2)
    write(answer.subarray(cut))
  },
  // The answer byte by byte.
  dribble(id, message) {
    for (const byte of Buffer.from(JSON.stringify({ id, response: message }) + "\n")) {
      write(Buffer.of(byte))
      sleep(1)
    }
  },
  never: () => sleep(600_000),
  // As `never`, and TERM does not end it. The message names a file for its pid.
  ignores_term(id, message) {
    process.on("SIGTERM", () => {})
    fs.writeFileSync(message, String(process.pid))
    sleep(600_000)
  },
  // Answers after its timeout, TERM or not; the message is how many seconds after, and a file for then.
  late(id, message) {
    process.on("SIGTERM", () => {})
    sleep(message.after_s * 1_000)
    say({ id, response: "late", state: "late" })
    fs.writeFileSync(message.file, "answered")
  },
  // Adds the message's number to the state, so many milliseconds after the deadline.
  at_deadline(id, message, frame) {
    sleep(Date.parse(frame.ctx.deadline) + message.after_ms - Date.now())
    say({ id, response: message.number, state: [...(frame.state ?? []), message.number] })
  },
  twice(id, message) {
    say({ id, response: message, state: message })
    say({ id, response: "again", state: "again" })
  },
  // Answers the message before this one once more, then this one.
  stale(id, message) {
    if (before.length) say({ id: before.at(-1), response: "stale", state: "stale" })
    say({ id, response: message })
  },
  // Tells its id in a file that the message names, and answers when the file `<name>.go` is there.
  holds(id, message) {
    fs.writeFileSync(message + ".new", id)
    fs.renameSync(message + ".new", message)
    while (!fs.existsSync(message + ".go")) sleep(2)
    say({ id, response: "mine" })
  },
  // Answers with the id that stands in the file that the message names.
  anothers_id(id, message) {
    say({ id: fs.readFileSync(message, "utf8"), response: "stolen", state: "stolen" })
    sleep(600_000)
  },
  // Much without a newline and without an id.
  endless(id, message) {
    writeMuch(CHUNK, message)
    sleep(600_000)
  },
  // A right answer that is long.
  endless_answer(id, message) {
    write(Buffer.from(`{"id":"${id}","response":"`))
    writeMuch(CHUNK, message)
    write(Buffer.from('"}\n'))
  },
  // Many lines on stderr, then the answer.
  floods_stderr(id, message) {
    writeMuch("\x1b[31mno, no, no, no\x07\n".repeat(1_000), message, 2)
    say({ id, response: message })
  },
  // Many lines on stdout that are no frames, then the answer.
  floods_stdout(id, message) {
    writeMuch("y\n".repeat(8_192), message)
    say({ id, response: message })
  },
  // As before, with lines that begin like one and are none.
  floods_almost_frames(id, message) {
    writeMuch('{"id":"x","response":\n'.repeat(1_000), message)
    say({ id, response: message })
  },
  closes_stdout() {
    fs.closeSync(1)
    sleep(600_000)
  },
  // Answers, then hears nothing more and lives on.
  closes_stdin(id, message) {
    fs.closeSync(0)
    say({ id, response: message })
    sleep(600_000)
  },
  slow(id, message) {
    sleep(message.for_s * 1_000)
    say({ id, response: message })
  },
  spins(id, message) {
    const end = performance.now() + (message.for_s ?? 600) * 1_000
    while (performance.now() < end);
    say({ id, response: message })
  },
}

if (process.argv.includes("--deaf")) sleep(600_000)
if (process.argv.includes("--unasked")) say({ id: "0000.1", response: "unasked", state: "unasked" })
if (process.argv.includes("--hello")) {
  say({ hello: { protocol: 1, runtime: "hostile", pipeline: 8 } })
}
const chunk = Buffer.alloc(1 << 20)
let held = Buffer.alloc(0)
for (let read; (read = fs.readSync(0, chunk)) > 0; ) {
  held = Buffer.concat([held, chunk.subarray(0, read)])
  for (let end; (end = held.indexOf(10)) >= 0; held = held.subarray(end + 1)) {
    const frame = JSON.parse(held.subarray(0, end).toString())
    handlers[frame.ctx.handler](frame.id, frame.message, frame)
    before.push(frame.id)
  }
}
