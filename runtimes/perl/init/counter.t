# A function is a program that answers lines: give it some. `prove counter.t`
use strict;
use warnings;
use FindBin;
use IPC::Open2;
use JSON::PP;
use Test::More;

# What the program answers to these messages, without its hello.
sub answers {
    my $pid = open2(my $out, my $in, $^X, "$FindBin::Bin/counter.pl");
    print $in "$_\n" for @_;
    close $in;
    my @frames = grep { !exists $_->{hello} } map { decode_json($_) } <$out>;
    waitpid $pid, 0;
    return @frames;
}

my ($first, $second) = answers(
    '{"id":"1","ctx":{"handler":"add","key":"k"},"message":2}',
    '{"id":"2","ctx":{"handler":"add","key":"k"},"message":null,"state":{"count":2}}',
);
is_deeply $first, { id => '1', response => 2, state => { count => 2 } }, 'a call makes the state';
is_deeply $second, { id => '2', response => 3, state => { count => 3 } }, 'the next one adds to it';

my ($refused) = answers('{"id":"1","ctx":{"handler":"add","key":"k"},"message":0.5,"state":{"count":3}}');
is $refused->{error}{status}, 422, 'half is refused';
ok !exists $refused->{state}, 'and changes nothing';

done_testing;
