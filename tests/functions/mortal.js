// A counter that dies as its handler's name says; `add` lives. mortal.py is its twin.
//
// The wire by hand. Only a request's first attempt dies, but for those that say so. Each process writes a
// line into the file that follows `--starts`, before anything else. Everything is synchronous.

const fs = require("fs")

function write(data) {
  for (let at = 0; at < data.length; ) at += fs.writeSync(1, data, at)
}

function sleep(ms) {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}

function answerOf(frame, amount = 1) {
  const count = (frame.state ?? 0) + amount
  return Buffer.from(JSON.stringify({ id: frame.id, response: count, state: count }) + "\n")
}

// The file appears with this process's pid in it.
function tell(file) {
  fs.writeFileSync(file + ".new", String(process.pid))
  fs.renameSync(file + ".new", file)
}

const handlers = {
  add: (frame) => write(answerOf(frame)),
  pid: (frame) => write(Buffer.from(JSON.stringify({ id: frame.id, response: process.pid }) + "\n")),
  // The message is how many seconds.
  slow(frame, message) {
    sleep(message * 1_000)
    handlers.add(frame)
  },
  // Writes its pid into the file that the message names, and answers at once.
  tells(frame, message) {
    tell(message)
    handlers.add(frame)
  },
  // Writes its pid into the file that the message names, and never answers.
  holds(frame, message) {
    if (frame.ctx.attempt === 1) {
      tell(message)
      sleep(600_000)
    }
    handlers.add(frame)
  },
  // Writes so many bytes of its answer and dies; with `always` in each attempt.
  cut(frame, message) {
    if (frame.ctx.attempt === 1 || message.always) {
      write(answerOf(frame).subarray(0, message.bytes))
      fs.writeSync(2, `cut at ${message.bytes}\n`)
      process.reallyExit(7)
    }
    handlers.add(frame)
  },
  // Dies in every attempt.
  poison() {
    fs.writeSync(2, "it was poison\n")
    process.reallyExit(3)
  },
}

const at = process.argv.indexOf("--starts")
if (at > 0) fs.appendFileSync(process.argv[at + 1], `${process.pid}\n`)
write(Buffer.from('{"hello":{"protocol":1,"runtime":"mortal","pipeline":8}}\n'))
const chunk = Buffer.alloc(1 << 20)
let held = Buffer.alloc(0)
for (let read; (read = fs.readSync(0, chunk)) > 0; ) {
  held = Buffer.concat([held, chunk.subarray(0, read)])
  for (let end; (end = held.indexOf(10)) >= 0; held = held.subarray(end + 1)) {
    const frame = JSON.parse(held.subarray(0, end).toString())
    handlers[frame.ctx.handler](frame, frame.message)
  }
}
