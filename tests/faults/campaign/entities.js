// Every model of tests/faults/history as a function; the function's name says which: counter-js, ...
const { handler, serve, Refused } = require("./shim");

const OPENING = [100, 100, 100, 100];
const EMPTY = { register: null, counter: 0, journal: [], bank: OPENING };

const there = (ctx) => {
  if (!ctx.exists) throw new Refused("absent", "", { status: 404 });
  return ctx.state;
};

handler("read", { default: true, readsOnly: true }, (ctx) => {
  const model = ctx.function.split("-")[0];
  return ctx.exists || model === "life" ? there(ctx) : EMPTY[model];
});

handler("write", (ctx, value) => {
  ctx.state = value;
  return null;
});

handler("cas", (ctx, { from, to }) => {
  if ((ctx.state ?? null) !== from) return false;
  ctx.state = to;
  return true;
});

handler("add", (ctx, amount) => (ctx.state = (ctx.state ?? 0) + amount));

handler("append", (ctx, token) => {
  ctx.state = [...(ctx.state ?? []), token];
  return ctx.state.length;
});

handler("transfer", (ctx, { from, to, amount }) => {
  const balances = [...(ctx.state ?? OPENING)];
  if (balances[from] < amount) throw new Refused("insufficient", "", { status: 409 });
  balances[from] -= amount;
  balances[to] += amount;
  ctx.state = balances;
  return [balances[from], balances[to]];
});

handler("create", (ctx, value) => {
  if (ctx.exists) throw new Refused("exists", "", { status: 409 });
  ctx.state = value;
  return null;
});

handler("replace", (ctx, value) => {
  const before = there(ctx);
  ctx.state = value;
  return before;
});

handler("delete", (ctx) => {
  const before = there(ctx);
  ctx.delete();
  return before;
});

serve();
