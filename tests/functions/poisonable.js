// A counter over the shim, so that one frame holds many messages; `poison` kills.
// `add` answers with its attempt, slowly enough for others to gather.

const fs = require("fs")
const { handler, serve } = require("../../runtimes/node/shim")

handler("add", (ctx) => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2)
  ctx.state = (ctx.state ?? 0) + 1
  return ctx.attempt
})

handler("poison", () => {
  fs.writeSync(2, "it was poison\n")
  process.reallyExit(3)
})

serve()
