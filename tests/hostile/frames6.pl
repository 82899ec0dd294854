# Frames of IPv6 as a guest's root can make them, by packet(7); the same verbs as frames.pl.
#   watch              prints the marks of what arrives, up to the mark -end
#   forge, honest      sends what it must not, and what it may, from SELF to PEER, as OTHER
#   plain MARK, routed MARK    sends one packet to PEER, directly or to the gateway's hardware address
# Addresses follow as SELF PEER OTHER GATEWAY, each as ADDRESS,HARDWARE.
use strict;
use warnings;
use Socket qw(inet_pton AF_INET6 SOCK_RAW);
my ( $verb, @rest ) = @ARGV;
my $mark = $verb =~ /^(plain|routed)$/ ? shift @rest : '';
my ( $self, $peer, $other, $gateway ) = map {
    my ( $address, $mac ) = split /,/;
    { ip => inet_pton( AF_INET6, $address ), mac => pack( 'H*', $mac =~ tr/://dr ) }
} @rest;
my $nobody = "\0" x 16;
my $many   = inet_pton AF_INET6, 'ff02::1';
my ( $all, $stranger ) = ( "\x33\x33\0\0\0\1", "\x02\0\0\0\0\x99" );
open my $number, '<', '/sys/class/net/eth0/ifindex' or die $!;
my $index = <$number>;
socket my $wire, 17, SOCK_RAW, unpack( 'S', pack 'n', 3 ) or die $!;
bind $wire, pack( 'SniSCCa8', 17, 3, $index, 0, 0, 0, '' ) or die $!;

# What its peer must not see, it asks to see.
setsockopt $wire, 263, 1, pack( 'iSSa8', $index, 1, 0, '' ) or die $! if $verb eq 'watch';

sub local_of {
    my @mac = unpack 'C6', $_[0]{mac};
    return pack 'H*C8', 'fe80000000000000', $mac[0] ^ 2, @mac[ 1, 2 ], 0xff, 0xfe, @mac[ 3 .. 5 ];
}

sub frame {
    my ( $to, $from, $bytes, $type ) = ( @_, 0x86dd );
    send $wire, $to . $from . pack( 'n', $type ) . $bytes, 0,
        pack( 'SniSCCa8', 17, $type, $index, 0, 0, 6, $to )
        or die "$!";
}

sub ip6 {
    my ( $from, $to, $next, $body ) = @_;
    return pack( 'NnCC', 6 << 28, length $body, $next, 255 ) . $from . $to . $body;
}

# The sum of a packet's words, as ICMPv6 and UDP want it.
sub summed {
    my ( $from, $to, $next, $body, $at ) = @_;
    my $sum = 0;
    $sum += $_ for unpack 'n*', $from . $to . pack( 'NN', length $body, $next ) . $body . "\0" x ( length($body) % 2 );
    $sum = ( $sum & 0xffff ) + ( $sum >> 16 ) for 1, 2;
    substr $body, $at, 2, pack( 'n', ~$sum & 0xffff );
    return $body;
}

sub icmp {
    my ( $from, $to, $kind, $rest ) = @_;
    return ip6 $from, $to, 58, summed( $from, $to, 58, pack( 'CCn', $kind, 0, 0 ) . $rest, 2 );
}

# Neighbour discovery about an address, with the option that has a hardware address.
sub about {
    my ( $kind, $target, $mac ) = @_;
    return bits($kind) . $target . pack( 'CC', $kind - 134, 1 ) . $mac;
}
sub bits { pack 'N', ( $_[0] == 136 ? 0x60000000 : 0 ) + ( $verb eq 'forge' ? 1 : 2 ) }

sub udp {
    my ( $from, $to, $name, $source, $target ) = ( @_, 4000, 4000 );
    my $body = pack( 'n4', $source, $target, 8 + 40, 0 ) . "<$name>" . "\0" x ( 38 - length $name );
    return ip6 $from, $to, 17, summed( $from, $to, 17, $body, 6 );
}

# What arrives, by its mark: neighbour discovery has no room for one but in bits that nobody looks at.
sub name_of {
    my $bytes = shift;
    return $1 if $bytes =~ /<([a-z0-9-]+)>/;
    # Such as a question by ARP; unpack dies beyond the end.
    return if length $bytes < 62;
    my ( $type, $next, $kind, $bits ) = unpack 'x12n x6C x33C x3N', $bytes;
    return unless defined $bits and $type == 0x86dd and $next == 58 and $kind =~ /^13[56]$/;
    my %known = ( 1 => "forged-$kind", 2 => "honest-$kind" );
    return $known{ $bits & 0xff };
}

if ( $verb eq 'watch' ) {
    $| = 1;
    print "ready\n";
    while ( defined( my $from = recv $wire, my $bytes, 2000, 0 ) ) {

        # Its own refusals, which quote what they refuse, go out.
        next if unpack( 'x10C', $from ) == 4;
        my $name = name_of $bytes or next;
        print "$name\n";
        last if $name eq 'end';
    }
}
elsif ( $verb eq 'forge' ) {
    my ( $me, $it, $to ) = ( $self->{mac}, $other->{mac}, $peer->{mac} );
    my ( $mine, $local, $theirs ) = ( $self->{ip}, local_of($self), $peer->{ip} );
    for my $victim ( $other->{ip}, local_of($other), $gateway->{ip} ) {
        frame $all, $me, icmp( $mine, $many, 136, about( 136, $victim, $me ) );
        frame $to, $me, icmp( $local, $theirs, 136, about( 136, $victim, $me ) );
        frame $to, $me, icmp( $victim, $theirs, 136, about( 136, $victim, $me ) );
        frame $to, $me, icmp( $victim, $theirs, 135, about( 135, $theirs, $me ) );
        frame $to, $me, icmp( $mine, $theirs, 136, bits(136) . $victim );
        frame $all, $me, icmp( $nobody, $many, 135, bits(135) . $victim );
        frame $to, $me, udp( $victim, $theirs, 'ip6-other' );
        frame $to, $it, udp( $victim, $theirs, 'ip6-wholly-other' );
    }

    # About itself, with the hardware address of another.
    frame $to, $me, icmp( $mine, $theirs, 136, about( 136, $mine, $it ) );
    frame $to, $me, icmp( $mine, $theirs, 135, about( 135, $theirs, $it ) );
    frame $to, $me, icmp( $mine, $theirs, 136, about( 136, $mine, $me ) . about( 136, '', $it ) );
    frame $to, $stranger, udp( $mine, $theirs, 'ip6-foreign-hardware' );
    frame $to, $me, udp( $nobody, $theirs, 'ip6-nobody' );
    frame $to, $me, udp( inet_pton( AF_INET6, '2001:db8::1' ), $theirs, 'ip6-world' );

    my $advert = pack( 'CCn N N', 64, 0, 1800, 0, 0 ) . '<router-advertisement>';
    frame $all, $me, icmp( $local, $many, 134, $advert );
    frame $to,  $me, icmp( $mine, $theirs, 134, $advert );
    frame $all, $me, icmp( $local, $many, 133, "\0" x 4 . '<router-solicitation>' );
    frame $to,  $me, icmp( $local, $theirs, 137, "\0" x 4 . $other->{ip} . $mine . '<redirect>' );
    frame $all, $me, icmp( $local, $many, 130, "\0" x 20 . '<listener-query>' );
    frame $all, $me, icmp( $local, $many, 143, "\0" x 4 . '<listener-report>' );

    # The same behind other headers, whole and cut up so that the first part does not say what it is.
    my $options = pack( 'CCCCN', 58, 0, 1, 4, 0 );
    frame $all, $me, ip6( $local, $many, 60, $options . pack( 'CCn', 134, 0, 0 ) . '<advertisement-behind-options>' );
    frame $all, $me, ip6( $local, $many, 44, pack( 'CCnN', 58, 0, 1, 7 ) . pack( 'CCn', 134, 0, 0 ) . "\0" x 12 . '<advertisement-cut-up>' );
    frame $all, $me, ip6( $local, $many, 44, pack( 'CCnN', 60, 0, 1, 8 ) . $options );
    frame $all, $me, ip6( $local, $many, 44, pack( 'CCnN', 60, 0, 8, 8 ) . pack( 'CCn', 134, 0, 0 ) . '<advertisement-in-second-part>' );

    frame $to, $me, udp( $local, $theirs, 'dhcp6-server', 547, 546 );
    frame $to, $me, udp( $local, $theirs, 'dhcp6-other-port', 1547, 546 );
    frame $to, $me, pack( 'nn', 5, 0x86dd ) . udp( $other->{ip}, $theirs, 'tagged-ip6' ), 0x8100;
}
elsif ( $verb eq 'honest' ) {
    my ( $me, $to ) = ( $self->{mac}, $peer->{mac} );
    for my $from ( $self->{ip}, local_of $self ) {
        frame $to, $me, udp( $from, $peer->{ip}, 'packet' );
        frame $all, $me, udp( $from, $many, 'multicast' );
        frame $to, $me, icmp( $from, $peer->{ip}, 135, about( 135, $peer->{ip}, $me ) );
        frame $to, $me, icmp( $self->{ip}, $peer->{ip}, 136, about( 136, $from, $me ) );
        frame $to, $me, icmp( $from, $peer->{ip}, 136, bits(136) . $self->{ip} );
    }
}
else {
    my $to = $verb eq 'routed' ? $gateway->{mac} : $peer->{mac};
    frame $to, $self->{mac}, udp( $self->{ip}, $peer->{ip}, $mark );
}
