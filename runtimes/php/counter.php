<?php // A counter: the smallest function with a state. `inversion dev runtimes/php/counter.php`

require __DIR__ . '/shim.php';
use Inversion\{Context, Refused};
use function Inversion\{handler, serve};

handler('add', function (Context $ctx, mixed $message) {
    $amount = $message ?? 1;
    is_int($amount) || throw new Refused('bad_amount', 'add takes a whole number', status: 422);
    $count = ($ctx->state->count ?? 0) + $amount;
    $ctx->state = ['count' => $count];
    return $count;
}, default: true);

handler('get', fn (Context $ctx) => $ctx->state->count ?? 0, readsOnly: true);

handler('reset', function (Context $ctx) {
    $ctx->delete();
    return 0;
});

serve();
