// A shopping cart. `inversion dev runtimes/node/cart.js`
const { handler, serve, Refused } = require("./shim");

const MAX_PER_ITEM = 100; // more than a household buys: the shop says "out of stock" before it is

handler("add", (ctx, message) => {
  const sku = skuOf(message);
  const qty = message.qty ?? 1;
  if (!Number.isInteger(qty) || qty < 1) {
    throw new Refused("bad_quantity", "qty is a whole number, at least 1", { status: 422 });
  }
  const { items } = ctx.state ?? { items: [] };
  const item = items.find((each) => each.sku === sku);
  const held = item?.qty ?? 0;
  if (held + qty > MAX_PER_ITEM) {
    const details = { sku, left: MAX_PER_ITEM - held };
    throw new Refused("out_of_stock", `not enough ${sku} left`, { status: 409, details });
  }
  if (item) item.qty += qty;
  else items.push({ sku, qty });
  ctx.state = { items };
  return { items: items.length };
});

handler("remove", (ctx, message) => {
  const sku = skuOf(message);
  const { items } = ctx.state ?? { items: [] };
  const left = items.filter((each) => each.sku !== sku);
  if (left.length === items.length) {
    throw new Refused("not_in_cart", `there is no ${sku} in the cart`, { status: 404 });
  }
  ctx.state = { items: left };
  return { items: left.length };
});

handler("show", { default: true, readsOnly: true }, (ctx) => ctx.state ?? { items: [] });

handler("checkout", (ctx) => {
  const { items } = ctx.state ?? { items: [] };
  if (items.length === 0) throw new Refused("cart_empty", "there is nothing to check out", { status: 409 });
  ctx.delete();
  return { ordered: items };
});

function skuOf(message) {
  const sku = message?.sku;
  if (typeof sku !== "string" || sku === "") {
    throw new Refused("bad_sku", 'the message is {"sku": "...", "qty": 1}', { status: 422 });
  }
  return sku;
}

if (require.main === module) serve();
