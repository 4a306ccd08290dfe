# The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.
use v5.36;
use FindBin;
use lib $FindBin::Bin;
use JSON::PP ();
use POSIX    ();
use shim;

my %does = (
    put    => sub ($ctx, $value) { $ctx->state($value) },
    delete => sub ($ctx, $value) { $ctx->delete },
    set    => sub ($ctx, $fields) { $ctx->state->{$_} = $fields->{$_} for keys %$fields },
    effect => sub ($ctx, $effect) { $ctx->effect($effect) },
    fail   => sub ($ctx, $error) {
        my %error = (status => 500, %$error);
        refuse delete $error{code} // 'failed', delete $error{message} // '', %error;
    },
    throw => sub ($ctx, $text) { die "$text\n" },
    print => sub ($ctx, $text) { say $text },
    log   => sub ($ctx, $text) { say STDERR $text },
    sleep => sub ($ctx, $ms) { select undef, undef, undef, $ms / 1000 },
    exit  => sub ($ctx, $status) { POSIX::_exit($status) },
);
my %says = (
    reply       => sub ($ctx, $value) { $value },
    reply_state => sub ($ctx, $value) { $ctx->exists ? { state => $ctx->state } : {} },
    reply_ctx   => sub ($ctx, $field) { $ctx->$field },
    add         => sub ($ctx, $amount) { $ctx->state(($ctx->exists ? $ctx->state : 0) + $amount) },
    unwritable  => sub ($ctx, $value) { 9**9**9 },
);

sub interpret ($ctx, $message) {
    my $response;
    for my $command (@$message) {
        my ($name, $value) = %$command;
        if   (my $say = $says{$name}) { $response = $say->($ctx, $value) }
        else                          { ($does{$name} // die "no command $name\n")->($ctx, $value) }
    }
    return $response;
}

binmode $_, ':encoding(UTF-8)' for \*STDOUT, \*STDERR;
handler run  => \&interpret, default    => 1;
handler look => \&interpret, reads_only => 1;
serve;
