// A counter: the smallest function with a state. `inversion dev runtimes/node/counter.js`
const { handler, serve, Refused } = require("./shim");

handler("add", { default: true }, (ctx, message) => {
  const amount = message ?? 1;
  if (!Number.isInteger(amount)) throw new Refused("bad_amount", "add takes a whole number", { status: 422 });
  const state = ctx.state ?? { count: 0 };
  state.count += amount;
  ctx.state = state;
  return state.count;
});

handler("get", { readsOnly: true }, (ctx) => ctx.state?.count ?? 0);

handler("reset", (ctx) => {
  ctx.delete();
  return 0;
});

if (require.main === module) serve();
