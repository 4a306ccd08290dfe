// Takes what its handler's name says until it is refused, and answers how much that was. `exec` mode.

const fs = require("fs")

const hogs = {
  // V8 gives up at a memory limit and cannot be asked: it is ended.
  memory() {
    const taken = []
    while (taken.length < 4096) taken.push(Buffer.alloc(1 << 20, 1))
    return -1
  },
  files() {
    const taken = []
    try {
      while (taken.length < 4096) taken.push(fs.openSync("/dev/null"))
    } catch (error) {
      if (error.code === "EMFILE") return taken.length
      throw error
    }
    return -1
  },
}

console.log(hogs[process.env.INVERSION_HANDLER]())
