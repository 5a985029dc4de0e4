# Everything a program does with Cache::Memcached::Fast, as lines to compare. Takes the server's port.
#
# Two servers that behave alike give the same lines: nothing that may differ between them is printed.

use strict;
use warnings;
use utf8;

use Cache::Memcached::Fast;
use Digest::SHA qw(sha1_hex);
use Encode qw(encode_utf8);

use constant SHOWN_SIZE_MAX => 60;

# Longer than one second by the clocks of both servers, which tick once a second.
use constant OVER_ONE_SECOND => 2.2;

# Sizes around the ends of packets, buffers, pages and the largest item.
my @SIZES = (0, 1, 1023, 4095, 4096, 16_383, 65_536, 300_000, 524_289, 1_000_000, 1_048_000);

my $TOO_LARGE = 2_000_000;

my @WORDS = ('naïve', '日本語', '🦀' x 20, 'Ελληνικά', 'кэш');

binmode STDOUT, ':encoding(UTF-8)';

my ($port) = @ARGV;

sub client {
    my %timeouts = (connect_timeout => 10, io_timeout => 10);
    my %options = (servers => ["127.0.0.1:$port"], max_size => 2 * $TOO_LARGE, %timeouts, @_);
    return Cache::Memcached::Fast->new(\%options);
}

sub show {
    my ($value) = @_;
    return 'undef' unless defined $value;
    if (ref $value eq 'HASH') {
        return shorten('{' . join(', ', map { "$_: " . show($value->{$_}) } sort keys %$value) . '}');
    }
    return shorten('[' . join(', ', map { show($_) } @$value) . ']') if ref $value eq 'ARRAY';
    return shorten("'$value'");
}

sub shorten {
    my ($text) = @_;
    my $printed = $text =~ s/([^[:print:]])/sprintf '\\x{%x}', ord $1/egr;
    return $printed if length $printed <= SHOWN_SIZE_MAX;
    return sprintf '%s.. %d long, checksum %s', substr($printed, 0, 20), length $text,
        substr(sha1_hex(encode_utf8($text)), 0, 8);
}

sub say_line {
    my ($label, $value) = @_;
    print "$label: ", show($value), "\n";
}

sub pattern {
    my ($size) = @_;
    return substr(join('', map { chr } 0 .. 255) x ($size / 256 + 1), 0, $size);
}

sub stores_and_reads {
    my ($client) = @_;
    say_line('get absent', scalar $client->get('absent'));
    say_line("$_ absent", scalar $client->$_('absent', 'x')) for qw(replace append prepend);
    say_line('delete absent', scalar $client->delete('absent'));
    for my $verb (qw(set add replace append prepend)) {
        say_line($verb, scalar $client->$verb('key', $verb));
        say_line("get after $verb", scalar $client->get('key'));
    }
    say_line('delete', scalar $client->delete('key'));
    say_line('get after delete', scalar $client->get('key'));
}

sub compares_and_swaps {
    my ($client) = @_;
    $client->set('swap', 'one');
    my ($version, $value) = @{ $client->gets('swap') };
    say_line('gets', $value);
    say_line('cas', scalar $client->cas('swap', $version, 'two'));
    say_line('cas again', scalar $client->cas('swap', $version, 'three'));
    say_line('cas absent', scalar $client->cas('never', $version, 'x'));
    say_line('get after cas', scalar $client->get('swap'));
    my $found = $client->gets_multi('swap', 'never');
    say_line('gets_multi', { map { $_ => $found->{$_}[1] } keys %$found });
}

sub counts {
    my ($client) = @_;
    say_line('incr absent', scalar $client->incr('counter', 1));
    $client->set('counter', 10);
    say_line('incr', scalar $client->incr('counter', 5));
    say_line('decr below zero', scalar $client->decr('counter', 20));
    $client->set('word', 'abc');
    say_line('incr a word', scalar $client->incr('word', 1));
    $client->set_multi(map { ["counter:$_", $_] } 0 .. 99);
    say_line('incr_multi', [$client->incr_multi(map { ["counter:$_", 3] } 0 .. 99)]);
}

sub takes_many_at_once {
    my ($client) = @_;
    my @keys = map { "many:$_" } 0 .. 999;
    say_line('set_multi', [$client->set_multi(map { [$keys[$_], 'v' x $_] } 0 .. 999)]);
    say_line('get_multi', $client->get_multi(@keys, 'absent'));
    say_line('add_multi', [$client->add_multi(['many:1', 'x'], ['fresh', 'x'])]);
    say_line('append_multi', [$client->append_multi(['many:1', '!'], ['absent', '!'])]);
    say_line('touch_multi', [$client->touch_multi(['many:1', 100], ['absent', 100])]);
    say_line('gat_multi', $client->gat_multi(100, 'many:1', 'absent'));
    say_line('delete_multi', [$client->delete_multi(@keys[0 .. 499])]);
    say_line('get_multi of what is left', $client->get_multi(@keys));
}

# With nowait, calls in void context do not read their answers until something else is asked.
sub writes_without_waiting {
    my $client = client(nowait => 1);
    $client->set("quick:$_", $_) for 0 .. 999;
    $client->delete("quick:" . 2 * $_) for 0 .. 499;
    $client->incr("quick:$_") for 0 .. 999;
    $client->nowait_push;
    say_line('after nowait', client()->get_multi(map { "quick:$_" } 0 .. 999));
}

sub moves_values_of_every_kind {
    my ($client) = @_;
    for my $size (@SIZES) {
        say_line("set $size", scalar $client->set('size', pattern($size)));
        say_line("get $size", scalar $client->get('size'));
    }
    for my $value ("\r\n", "END\r\n", "VALUE size 0 1\r\nx\r\n", "\0\xff" x 100, { nested => [1, undef] }) {
        say_line('set', scalar $client->set('object', $value));
        say_line('get', scalar $client->get('object'));
    }
    my $unicode = client(utf8 => 1);
    for my $word (@WORDS) {
        say_line("set $word", scalar $unicode->set(encode_utf8($word), $word));
        say_line("get $word", scalar $unicode->get(encode_utf8($word)));
    }
    say_line('set too large', scalar $client->set('size', 'x' x $TOO_LARGE));
    say_line('get too large', scalar $client->get('size'));
}

sub expires {
    my ($client) = @_;
    $client->set('short', 'x', 1);
    # Long enough for a machine that is busy: a second ends with the next tick of the server's clock.
    $client->set($_, 'x', 30) for qw(touched read);
    $client->set('long', 'x', 1000);
    $client->set('until', 'x', time + 1000);
    $client->set('since', 'x', time - 1000);
    say_line('touch', scalar $client->touch('touched', 1000));
    say_line('touch absent', scalar $client->touch('absent', 1000));
    say_line('gat', scalar $client->gat(1000, 'read'));
    select undef, undef, undef, OVER_ONE_SECOND;
    say_line('later', $client->get_multi(qw(short touched read long until since)));
}

sub tells_about_itself {
    my ($client) = @_;
    my ($version) = values %{ $client->server_versions };
    say_line('version is dotted numbers', $version =~ /^[\d.]+$/ ? 1 : 0);
    $client->set('gone', 'x');
    say_line('flush_all later', values %{ $client->flush_all(100) });
    say_line('get before it', scalar $client->get('gone'));
    say_line('flush_all', values %{ $client->flush_all });
    say_line('get after it', scalar $client->get('gone'));
}

my $client = client();
stores_and_reads($client);
stores_and_reads(client(namespace => 'space:'));
compares_and_swaps($client);
counts($client);
takes_many_at_once($client);
writes_without_waiting();
moves_values_of_every_kind($client);
expires($client);
$client->disconnect_all;
say_line('get after disconnect_all', scalar $client->get('long'));
tells_about_itself($client);
