<?php // A shopping cart. `inversion dev runtimes/php/cart.php`

require __DIR__ . '/shim.php';
use Inversion\{Context, Refused};
use function Inversion\{handler, serve};

const MAX_PER_ITEM = 100; // more than a household buys: the shop says "out of stock" before it is

function sku_of(mixed $message): string
{
    $sku = $message->sku ?? null;
    if (!is_string($sku) || $sku === '') {
        throw new Refused('bad_sku', 'the message is {"sku": "...", "qty": 1}', status: 422);
    }
    return $sku;
}

handler('add', function (Context $ctx, mixed $message) {
    $sku = sku_of($message);
    $qty = $message->qty ?? 1;
    if (!is_int($qty) || $qty < 1) {
        throw new Refused('bad_quantity', 'qty is a whole number, at least 1', status: 422);
    }
    $items = $ctx->state->items ?? [];
    $at = array_search($sku, array_column($items, 'sku'), true);
    $left = MAX_PER_ITEM - ($at === false ? 0 : $items[$at]->qty);
    if ($qty > $left) {
        throw new Refused('out_of_stock', "not enough $sku left", 409, details: ['sku' => $sku, 'left' => $left]);
    }
    if ($at === false) {
        $items[] = ['sku' => $sku, 'qty' => $qty];
    } else {
        $items[$at]->qty += $qty;
    }
    $ctx->state = ['items' => $items];
    return ['items' => count($items)];
});

handler('remove', function (Context $ctx, mixed $message) {
    $sku = sku_of($message);
    $items = $ctx->state->items ?? [];
    $left = array_values(array_filter($items, fn ($item) => $item->sku !== $sku));
    if (count($left) === count($items)) {
        throw new Refused('not_in_cart', "there is no $sku in the cart", status: 404);
    }
    $ctx->state = ['items' => $left];
    return ['items' => count($left)];
});

handler('show', fn (Context $ctx) => ['items' => $ctx->state->items ?? []], default: true, readsOnly: true);

handler('checkout', function (Context $ctx) {
    $items = $ctx->state->items ?? [];
    $items || throw new Refused('cart_empty', 'there is nothing to check out', status: 409);
    $ctx->delete();
    return ['ordered' => $items];
});

serve();
