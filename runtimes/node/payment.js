// The payment of an order, see python/order.py. `inversion dev runtimes`
const { handler, serve, Refused } = require("./shim");

handler("charge", (ctx, message) => {
  const { card, cents } = message ?? {};
  if (typeof card !== "string" || !Number.isInteger(cents) || cents < 1) {
    throw new Refused("bad_charge", 'the message is {"card": "...", "cents": 900}', { status: 422 });
  }
  if (ctx.state) throw new Refused("charged_before", `order ${ctx.key} was charged before`, { status: 409 });
  if (card.endsWith("0000")) throw new Refused("declined", "the bank says no", { status: 402 }); // a card for trying that
  ctx.state = { card: card.slice(-4), cents, status: "charged" };
  return { charged: cents };
});

handler("refund", (ctx) => {
  if (ctx.state?.status !== "charged") throw new Refused("nothing_to_refund", "it is not charged", { status: 409 });
  ctx.state.status = "refunded";
  return { refunded: ctx.state.cents };
});

handler("show", { default: true, readsOnly: true }, (ctx) => ctx.state ?? null);

if (require.main === module) serve();
