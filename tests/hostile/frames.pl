# Frames as a guest's root can make them, by packet(7).
#   watch              prints the marks of what arrives, up to the mark -end
#   forge, honest      sends what it must not, and what it may, from SELF to PEER, as OTHER
#   plain MARK, routed MARK    sends one packet to PEER, directly or to the bridge's hardware address
# Addresses follow as SELF PEER OTHER GATEWAY. A hardware address is 02:62 and the IP address.
use strict;
use warnings;
use Socket qw(inet_aton SOCK_RAW);
my ( $verb, @rest ) = @ARGV;
my $mark = $verb =~ /^(plain|routed)$/ ? shift @rest : '';
my ( $self, $peer, $other, $gateway ) = map { inet_aton $_ } @rest;
my ( $all, $stranger ) = ( "\xff" x 6, "\x02\0\0\0\0\x99" );
my $nobody = "\0\0\0\0";
open my $number, '<', '/sys/class/net/eth0/ifindex' or die $!;
my $index = <$number>;
socket my $wire, 17, SOCK_RAW, unpack( 'S', pack 'n', 3 ) or die $!;
bind $wire, pack( 'SniSCCa8', 17, 3, $index, 0, 0, 0, '' ) or die $!;

# What its peer must not see, it asks to see.
setsockopt $wire, 263, 1, pack( 'iSSa8', $index, 1, 0, '' ) or die $! if $verb eq 'watch';

sub mac { "\x02\x62" . $_[0] }

sub frame {
    my ( $to, $from, $type, $body, $name ) = @_;
    my $bytes = $to . $from . pack( 'n', $type ) . $body . "<$name>" . "\0" x 40;
    send $wire, $bytes, 0, pack( 'SniSCCa8', 17, $type, $index, 0, 0, 6, $to ) or die "$name: $!";
}
sub arp { pack( 'nnCCna6a4a6a4', 1, 0x800, 6, 4, @_ ) }

sub ip4 {
    my ( $from, $to, $protocol, $body ) = @_;
    my @head = ( 0x4500, 20 + length $body, 7, 0, 64 << 8 | $protocol, 0 );
    my $sum  = 0;
    $sum += $_ for @head, unpack( 'n*', $from . $to );
    $sum = ( $sum & 0xffff ) + ( $sum >> 16 ) for 1, 2;
    $head[5] = ~$sum & 0xffff;
    return pack( 'n6', @head ) . $from . $to . $body;
}

sub udp {
    my ( $from, $to, $name, $source, $target ) = ( @_, 4000, 4000 );
    my $data = "<$name>" . "\0" x 30;
    return ip4( $from, $to, 17, pack( 'n4', $source, $target, 8 + length $data, 0 ) . $data );
}

sub icmp {
    my ( $from, $to, $name, $type ) = @_;
    return ip4( $from, $to, 1, pack( 'CCn', $type, 0, 0 ) . $from . "<$name>" . "\0" x 30 );
}

sub ip6 {
    my ( $next, $body ) = @_;
    my $from = "\xfe\x80" . "\0" x 10 . $self;
    return pack( 'NnCC', 6 << 28, length $body, $next, 255 ) . $from . "\xff\x02" . "\0" x 13 . "\1" . $body;
}

if ( $verb eq 'watch' ) {
    $| = 1;
    print "ready\n";
    while ( defined( my $from = recv $wire, my $bytes, 2000, 0 ) ) {

        # Its own refusals, which quote what they refuse, go out.
        next if unpack( 'x10C', $from ) == 4;
        my ($name) = $bytes =~ /<([a-z0-9-]+)>/ or next;
        print "$name\n";
        last if $name eq 'end';
    }
}
elsif ( $verb eq 'forge' ) {
    my ( $me, $it ) = ( mac($self), mac($other) );
    frame $all, $me, 0x806, arp( 2, $me, $other,   $all, $peer ), 'arp-other';
    frame $all, $me, 0x806, arp( 2, $me, $gateway, $all, $peer ), 'arp-gateway';
    frame $all, $me, 0x806, arp( 2, $stranger, $self, $all, $peer ), 'arp-foreign-hardware';
    frame $all, $it, 0x806, arp( 2, $it, $other, $all, $peer ), 'arp-wholly-other';
    frame $all, $it, 0x806, arp( 2, $me, $self,  $all, $peer ), 'arp-foreign-frame';
    frame $all, $me, 0x806, arp( 1, $me, $nobody, $nobody, $peer ), 'arp-claim';
    frame $all, $me, 0x8035, arp( 4, $me, $other, $me, $other ), 'rarp';
    frame mac($peer), $me, 0x800, udp( $other, $peer, 'ip-other' ), '';
    frame mac($peer), $me, 0x800, udp( $gateway, $peer, 'ip-gateway' ), '';
    frame mac($peer), $me, 0x800, udp( inet_aton('8.8.8.8'), $peer, 'ip-world' ), '';
    frame mac($peer), $me, 0x800, udp( $nobody, $peer, 'ip-nobody' ), '';
    frame mac($peer), $it, 0x800, udp( $other, $peer, 'ip-wholly-other' ), '';
    frame mac($peer), $stranger, 0x800, udp( $self, $peer, 'ip-foreign-hardware' ), '';
    frame $all, $me, 0x800, udp( $self, "\xff" x 4, 'dhcp-offer', 67, 68 ), '';
    frame $all, $me, 0x800, udp( $self, "\xff" x 4, 'dhcp-other-port', 1067, 68 ), '';
    frame mac($peer), $me, 0x800, udp( $self, $peer, 'dhcp-server', 67, 1068 ), '';
    frame $all, $me, 0x800, icmp( $self, "\xff" x 4, 'icmp-router', 9 ), '';
    frame mac($peer), $me, 0x800, icmp( $self, $peer, 'icmp-redirect', 5 ), '';
    frame "\x33\x33\0\0\0\1", $me, 0x86dd, ip6( 58, "\x86\0" . "\0" x 14 . '<router-advertisement>' ), '';
    frame "\x33\x33\0\0\0\1", $me, 0x86dd, ip6( 58, "\x88\0" . "\0" x 22 . '<neighbour-advertisement>' ), '';
    frame mac($peer), $me, 0x86dd, ip6( 17, pack( 'n4', 547, 546, 15, 0 ) . '<dhcp6>' ), '';
    frame $all, $me, 0x8100, pack( 'nn', 5, 0x806 ) . arp( 2, $me, $other, $all, $peer ), 'tagged-arp';
    frame mac($peer), $me, 0x8100, pack( 'nn', 5, 0x800 ) . udp( $other, $peer, 'tagged-ip' ), '';
    frame mac($peer), $me, 0x88a8, pack( 'nnnn', 5, 0x8100, 6, 0x800 ) . udp( $other, $peer, 'twice-tagged' ), '';

    # Its own addresses, so that only the tag is wrong.
    frame mac($peer), $me, 0x8100, pack( 'nn', 0,  0x800 ) . udp( $self, $peer, 'tagged-own' ), '';
    frame mac($peer), $me, 0x8100, pack( 'nn', 10, 0x800 ) . udp( $self, $peer, 'tagged-ten' ), '';
    frame mac($peer), $me, 0x88b5, '', 'no-protocol';
    frame "\1\x80\xc2\0\0\0", $me, 38, "\x42\x42\3", 'spanning-tree';

    # Past the filter, to the bridge's own ear: it must not learn who is behind the port.
    frame "\1\x80\xc2\0\0\x0e", mac($peer), 0x88cc, '', 'learned';
}
elsif ( $verb eq 'honest' ) {
    my $me = mac($self);
    frame $all, $me, 0x806, arp( 1, $me, $self,   $nobody, $peer ), 'ask';
    frame $all, $me, 0x806, arp( 1, $me, $nobody, $nobody, $self ), 'probe';
    frame mac($peer), $me, 0x800, udp( $self, $peer, 'packet' ), '';
    frame $all, $me, 0x800, udp( $self, "\xff" x 4, 'broadcast' ), '';
}
else {
    my $to = $verb eq 'routed' ? mac($gateway) : mac($peer);
    frame $to, mac($self), 0x800, udp( $self, $peer, $mark ), '';
}
