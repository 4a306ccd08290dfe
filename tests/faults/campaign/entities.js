// Every model of tests/faults/history as a function; the function's name says which: counter-js, ...
const { handler, serve, Refused } = require("./shim");

const OPENING = [100, 100, 100, 100];
const EMPTY = { register: null, counter: 0, journal: [], bank: OPENING };

const model = (ctx) => ctx.function.split("-")[0];

const there = (ctx) => {
  if (!ctx.exists) throw new Refused("absent", "", { status: 404 });
  return ctx.state;
};

handler("read", { default: true, readsOnly: true }, (ctx) => {
  return ctx.exists || !(model(ctx) in EMPTY) ? there(ctx) : EMPTY[model(ctx)];
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
  ctx.state = model(ctx) === "program" ? { value, sum: 0, items: [] } : value;
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

handler("set", (ctx, value) => {
  ctx.state = { ...there(ctx), value };
  return value;
});

handler("swap", (ctx, { from, to }) => {
  const state = there(ctx);
  if (state.value !== from) return false;
  ctx.state = { ...state, value: to };
  return true;
});

handler("sum", (ctx, amount) => {
  const state = there(ctx);
  ctx.state = { ...state, sum: state.sum + amount };
  return ctx.state.sum;
});

handler("push", (ctx, item) => {
  const state = there(ctx);
  ctx.state = { ...state, items: [...state.items, item] };
  return ctx.state.items.length;
});

serve();
