# A counter: the smallest function with a state. `inversion dev runtimes/perl/counter.pl`
use v5.36;
use FindBin;
use lib $FindBin::Bin;
use shim;

handler add => sub ($ctx, $message) {
    my $amount = $message // 1;
    refuse bad_amount => 'add takes a whole number', status => 422 unless whole_number $amount;
    my $count = ($ctx->exists ? $ctx->state->{count} : 0) + $amount;
    $ctx->state({ count => $count });
    return $count;
}, default => 1;

handler get => sub ($ctx, $message) { $ctx->exists ? $ctx->state->{count} : 0 }, reads_only => 1;

handler reset => sub ($ctx, $message) {
    $ctx->delete;
    return 0;
};

serve;
