# A shopping cart. `inversion dev runtimes/perl/cart.pl`
use v5.36;
use FindBin;
use lib $FindBin::Bin;
use shim;

my $max_per_item = 100;    # more than a household buys: the shop says "out of stock" before it is

handler add => sub ($ctx, $message) {
    my $sku = sku_of($message);
    my $qty = $message->{qty} // 1;
    refuse bad_quantity => 'qty is a whole number, at least 1', status => 422 unless whole_number $qty and $qty >= 1;
    my $items  = items_of($ctx);
    my ($item) = grep { $_->{sku} eq $sku } @$items;
    my $left   = $max_per_item - ($item ? $item->{qty} : 0);
    refuse out_of_stock => "not enough $sku left", status => 409, details => { sku => $sku, left => $left }
        if $qty > $left;
    if   ($item) { $item->{qty} += $qty }
    else         { push @$items, { sku => $sku, qty => $qty } }
    $ctx->state({ items => $items });
    return { items => scalar @$items };
};

handler remove => sub ($ctx, $message) {
    my $sku   = sku_of($message);
    my $items = items_of($ctx);
    my @left  = grep { $_->{sku} ne $sku } @$items;
    refuse not_in_cart => "there is no $sku in the cart", status => 404 if @left == @$items;
    $ctx->state({ items => \@left });
    return { items => scalar @left };
};

handler show => sub ($ctx, $message) { +{ items => items_of($ctx) } }, default => 1, reads_only => 1;

handler checkout => sub ($ctx, $message) {
    my $items = items_of($ctx);
    refuse cart_empty => 'there is nothing to check out', status => 409 unless @$items;
    $ctx->delete;
    return { ordered => $items };
};

sub items_of ($ctx) { $ctx->exists ? $ctx->state->{items} : [] }

sub sku_of ($message) {
    my $sku = ref $message eq 'HASH' ? $message->{sku} : undef;
    refuse bad_sku => 'the message is {"sku": "...", "qty": 1}', status => 422
        if !defined $sku || ref $sku || $sku eq '' || is_number $sku;
    return $sku;
}

serve;
