// A function is a program that answers lines: give it some. `node --test`
const assert = require("node:assert");
const { spawnSync } = require("node:child_process");
const { test } = require("node:test");

/** What the program answers to these messages, without its hello. */
function answers(...messages) {
  const input = messages.map((each, index) => JSON.stringify({ id: `${index}`, ...each }) + "\n").join("");
  const { stdout } = spawnSync(process.execPath, [`${__dirname}/counter.js`], { input, encoding: "utf8" });
  return stdout.trim().split("\n").map((line) => JSON.parse(line)).filter((each) => !each.hello);
}

test("each call adds to the state", () => {
  const ctx = { handler: "add", key: "k" };
  const [first, second] = answers({ ctx, message: 2 }, { ctx, message: null, state: { count: 2 } });
  assert.deepStrictEqual(first, { id: "0", response: 2, state: { count: 2 } });
  assert.deepStrictEqual(second, { id: "1", response: 3, state: { count: 3 } });
});

test("half is refused and changes nothing", () => {
  const [refused] = answers({ ctx: { handler: "add", key: "k" }, message: 0.5, state: { count: 3 } });
  assert.equal(refused.error.status, 422);
  assert.ok(!("state" in refused));
});
