// The interpreter of the conformance kit (runtimes/conformance/interpreter.md): a message says what to do.
const { handler, serve, Refused } = require("./shim");

const SAYS = {
  reply: (ctx, value) => value,
  reply_state: (ctx) => (ctx.exists ? { state: structuredClone(ctx.state) } : {}),
  reply_ctx: (ctx, field) => (field === "reply_to" ? ctx.replyTo : ctx[field]) ?? null,
  add: (ctx, amount) => (ctx.state = (ctx.state ?? 0) + amount),
  unwritable: () => NaN,
};
const DOES = {
  put: (ctx, value) => (ctx.state = value),
  delete: (ctx) => ctx.delete(),
  set: (ctx, fields) => Object.assign(ctx.state, fields),
  effect: (ctx, effect) => {
    const [[operation, fields]] = Object.entries(effect);
    ask[operation](ctx, fields);
  },
  fail: (ctx, { code, message, ...more }) => {
    throw new Refused(code, message, more);
  },
  throw: (ctx, text) => {
    throw new Error(text);
  },
  print: (ctx, text) => console.log(text),
  log: (ctx, text) => console.error(text),
  sleep: (ctx, ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  exit: (ctx, status) => process.exit(status),
};
const replies = ({ reply_to: replyTo, ...fields }) => ({ ...fields, replyTo });
const ask = {
  send: (ctx, fields) => ctx.send(replies(fields)),
  cancel: (ctx, { name }) => ctx.cancel(name),
  forward: (ctx, fields) => ctx.forward(fields),
  publish: (ctx, { topic, message }) => ctx.publish(topic, message),
  subscribe: (ctx, { topic, handler }) => ctx.subscribe(topic, handler),
  unsubscribe: (ctx, { topic }) => ctx.unsubscribe(topic),
  http: (ctx, fields) => ctx.http(replies(fields)),
};

async function interpret(ctx, message) {
  let response = null;
  for (const command of message) {
    const [[name, value]] = Object.entries(command);
    if (name in SAYS) response = SAYS[name](ctx, value);
    else await DOES[name](ctx, value);
  }
  return response;
}

handler("run", { default: true }, interpret);
handler("look", { readsOnly: true }, interpret);

if (require.main === module) serve();
