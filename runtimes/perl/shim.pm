package shim;    # inversion for Perl, in one file: copy it beside your function. Core modules only, Perl 5.36+.

=pod

    use FindBin;
    use lib $FindBin::Bin;
    use shim;

    handler add => sub ($ctx, $message) {
        refuse bad_amount => 'add takes a whole number', status => 422 unless whole_number $message;
        $ctx->state(($ctx->state // 0) + $message);
    }, default => 1;    # of callers that name none. reads_only => 1: it is held to it. input, output: JSON Schemas

    serve;              # with schedules: serve cron => [{ name => 'nightly', schedule => '0 4 * * *' }]

A handler gets ($ctx, $message) and returns the response. What it leaves in $ctx->state is stored before the answer
goes out; if it dies, nothing is. refuse is an answer too: status 400 to 499, details => ..., retry => 1. Strings are
characters, true and false are JSON::PP::true and false (a comparison will do). What is printed goes to the log.

    $ctx->state, $ctx->exists             undef when there is none, or when it is null: exists tells. Change it in place,
    $ctx->state($new), $ctx->delete       or set it (undef: null)
    $ctx->key (undef: a stateless call), function, handler, version, attempt, now, deadline, seed, trace, meta, reply_to
    $ctx->send(function => 'payment', key => 'o1', handler => 'charge', message => {}, delay => '24h', name => 'bill')
    $ctx->cancel('bill'), $ctx->forward(function => 'a', key => 'b', handler => 'c', message => {})
    $ctx->publish('orders', $message), $ctx->subscribe('orders', 'on_order'), $ctx->unsubscribe('orders')
    $ctx->http($url, body => {}, reply_to => 'done')    these are done when, and only if, the answer is stored

=cut

use v5.36;
no warnings qw(experimental::builtin recursion);
use B        ();
use Exporter 'import';
use JSON::PP ();
our @EXPORT = qw(handler refuse serve is_number whole_number);

# The protocol moves to private handles before anything can print; children get neither (Perl closes them on exec).
open my $lines, '<&', \*STDIN  or die "stdin: $!";
open my $out,   '>&', \*STDOUT or die "stdout: $!";
open STDIN, '<', '/dev/null' or die "/dev/null: $!";
open STDOUT, '>&', \*STDERR or die "stderr: $!";
$_->autoflush for \*STDOUT, $out;

my $decoder = JSON::PP->new->utf8->allow_nonref;
my %handlers;

sub handler ($name, $code, %options) {
    my $default = delete $options{default};
    $handlers{$_} = { %options, reads_only => !!$options{reads_only}, code => $code } for $name, $default ? 'call' : ();
}

sub refuse ($code, $message = '', %options) {
    $options{retry} &&= !!1;
    delete $options{retry} unless $options{retry};
    die bless { status => 400, %options, code => $code, message => $message }, 'shim::Refused';
}

sub is_number ($value) {
    return '' if !defined $value || ref $value;
    return !!1 if builtin::created_as_number($value);
    return $value eq '0' && !(~B::svref_2object(\$value)->FLAGS & (B::SVf_IOK | B::SVf_NOK));    # scalar(@empty)
}

sub whole_number ($value) { is_number($value) && $value == int $value }

sub serve (%options) {
    my $version = sprintf 'perl/%vd', $^V;
    my %hello = (protocol => 1, runtime => $version, pipeline => 64, batch => 64, integers => 64);
    $hello{handlers} = { map { $_ => { $handlers{$_}->%{ grep { $_ ne 'code' } keys $handlers{$_}->%* } } } keys %handlers };
    $hello{cron} = $options{cron} if $options{cron};
    print {$out} _json({ hello => \%hello }, 'hello'), "\n";
    while (my $line = <$lines>) {
        last unless $line =~ /\n\z/;    # torn: the host died while it wrote
        print {$out} _answer($decoder->decode($line)), "\n";
    }
}

sub _answer ($frame) {
    my ($call, $id) = ($frame->{ctx}, _json($frame->{id}));
    my $stored = exists $frame->{state} ? { value => $frame->{state} } : undef;
    my $ending = sub ($left) { !$left ? '' : exists $left->{text} ? ",\"state\":$left->{text}" : ',"delete":true' };
    if (!$frame->{messages}) {
        my ($answer, $left) = _run($call, $frame->{message}, $stored);
        return "{\"id\":$id$answer" . $ending->($left) . '}';
    }
    my ($last, @answers);
    for my $each ($frame->{messages}->@*) {
        my ($answer, $left) = _run({ %$call, %$each }, $each->{message}, $stored);
        push @answers, '{"id":' . _json($each->{id}) . $answer . ($left ? '}' : ',"changed":false}');
        $stored = exists +($last = $left)->{text} ? $left : undef if $left;
    }
    return "{\"id\":$id,\"answers\":[" . join(',', @answers) . ']' . $ending->($last) . '}';
}

# One message: the fields of its answer, and what it left: undef (kept), { text } (put), {} (deleted).
sub _run ($call, $message, $stored) {
    my $name = $call->{handler} //= 'call';
    my ($code, $reads_only) = ($handlers{$name} // {})->@{qw(code reads_only)};
    my $ctx = bless { call => $call, stored => $stored, reads_only => $reads_only, effects => [] }, 'shim::Context';
    my @answer;
    {    # a `next` or `last` of the handler ends here
        @answer = eval {
            refuse no_handler => "no handler $name, there are: @{[sort keys %handlers]}", status => 404 unless $code;
            my $response = _json(scalar $code->($ctx, $message), 'the response');
            my $effects  = join ',', $ctx->{effects}->@*;
            (",\"response\":$response" . ($effects && ",\"effects\":[$effects]"), $ctx->_left);
        };
    }
    return @answer if @answer;
    my $problem = $@ || "it was left by next or last\n";
    my $error   = eval { ref $problem eq 'shim::Refused' && _json({ %$problem }, 'the error') };
    return ",\"error\":$error" if $error;
    $problem = $@ || $problem;
    my $shown = ref $problem eq 'shim::NotJson' ? $$problem : ref $problem || 'die';    # the rest is for the log
    warn "shim: handler $name: ", (ref $problem eq 'shim::NotJson' ? "$shown\n" : $problem);
    return ',"error":' . _json({ code => 'function_error', message => "$shown in handler $name" });
}

my %escape = (map({ chr, sprintf '\u%04x', $_ } 0 .. 31), '"' => '\"', '\\' => '\\\\', "\n" => '\n', "\t" => '\t');

# JSON::PP would write NaN, 15 digits of a double and half a surrogate pair. Keys are sorted: the text of a state tells
# whether it was changed.
sub _json ($value, $what = '') {
    my $text = eval {
        my $characters = _text($value, 0);
        die "it has half a surrogate pair\n" if $characters =~ /[\x{D800}-\x{DFFF}]/;
        utf8::encode($characters);
        $characters;
    };
    return $text if defined $text;
    die bless \"$what is not JSON: @{[$@ =~ s/( at \S+ line .*)?\n//sr]}", 'shim::NotJson';
}

sub _text ($value, $depth) {
    return 'null' unless defined $value;
    die "it is nested too deep\n" if $depth > 200;    # the host takes 64
    my $ref = ref $value;
    if (!$ref) {
        return $value ? 'true' : 'false' if builtin::is_bool($value);
        return '"' . $value =~ s/(["\\\x00-\x1f])/$escape{$1}/gr . '"' unless is_number($value);
        return "$value" if B::svref_2object(\$value)->FLAGS & B::SVf_IOK;
        die "$value is no number of JSON\n" if $value - $value != 0;
        my $short = sprintf '%.15g', $value;
        return $short == $value ? $short : sprintf '%.17g', $value;
    }
    return '[' . join(',', map { _text($_, $depth + 1) } @$value) . ']' if $ref eq 'ARRAY';
    return '{' . join(',', map { _text("$_", 0) . ':' . _text($value->{$_}, $depth + 1) } sort keys %$value) . '}'
        if $ref eq 'HASH';
    return $$value ? 'true' : 'false' if $ref eq 'SCALAR' || JSON::PP::is_bool($value);
    return _text($value->TO_JSON, $depth + 1) if builtin::blessed($value) && $value->can('TO_JSON');
    die "it holds a $ref\n";
}

package shim::Context;

for my $field (qw(function key handler version attempt now deadline seed trace meta reply_to)) {
    no strict 'refs';
    *$field = sub ($ctx) { $ctx->{call}{$field} };
}

sub state ($ctx, @new) {
    @$ctx{qw(value has assigned)} = ($ctx->_may('change the state') && $new[0], 1, 1) if @new;
    if (!CORE::exists $ctx->{has}) {    # the first one gets the value, the others one of their own, from its text
        my $stored = $ctx->{stored};
        $ctx->{has} = !!$stored;
        $stored->{text} //= shim::_json($stored->{value}, 'the state') if $stored;
        $ctx->{value} = CORE::exists $stored->{value} ? CORE::delete $stored->{value} : $decoder->decode($stored->{text}) if $stored;
    }
    return $ctx->{value};
}

sub exists ($ctx) { $ctx->{has} // !!$ctx->{stored} }
sub delete ($ctx) { @$ctx{qw(value has assigned)} = ($ctx->_may('delete the state') && undef, '', 1); return }

sub send ($ctx, %fields)        { $ctx->effect({ send    => \%fields }) }
sub forward ($ctx, %fields)     { $ctx->effect({ forward => \%fields }) }
sub http ($ctx, $url, %fields)  { $ctx->effect({ http    => { %fields, url => $url } }) }
sub cancel ($ctx, $name)        { $ctx->effect({ cancel  => { name => $name } }) }
sub unsubscribe ($ctx, $topic)  { $ctx->effect({ unsubscribe => { topic => $topic } }) }
sub publish ($ctx, $topic, $message = undef) { $ctx->effect({ publish => { topic => $topic, message => $message } }) }

sub subscribe ($ctx, $topic, @handler) {
    $ctx->effect({ subscribe => { topic => $topic, @handler ? (handler => $handler[0]) : () } });
}

sub effect ($ctx, $effect) {    # kept as text: what it is made of may change after that
    $ctx->_may('have effects');
    push $ctx->{effects}->@*, shim::_json($effect, 'an effect');
    return;
}

sub _may ($ctx, $what) {
    die "declared reads_only: it cannot $what\n" if $ctx->{reads_only};
    shim::refuse(no_key => "call it with a key: without one it cannot $what") unless defined $ctx->key;
    return 1;
}

sub _left ($ctx) {
    return unless CORE::exists $ctx->{has};
    my $stored = $ctx->{stored};
    return $ctx->{assigned} && $stored ? {} : undef unless $ctx->{has};
    my $text = shim::_json($ctx->{value}, 'the state');
    return undef if !$ctx->{assigned} && $text eq $stored->{text};
    $ctx->_may('change the state') unless $ctx->{assigned};
    return { text => $text };
}

1;
