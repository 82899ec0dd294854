# A guest's root makes the calls that only the host may make, and prints those that worked, and what
# else must not be. Numbers are those of x86-64.
use strict;
use warnings;
my $high = 1 << 32;
my ( $path, $null, $zeros ) = ( "/proc/self/exe\0", 0, "\0" x 4096 );

sub refused {
    my ( $what, @call ) = @_;
    my $got = syscall $call[0], map { $_ } @call[ 1 .. $#call ];
    print "open: $what\n" if $got >= 0;
}
my %family = ( ALG => 38, KEY => 15, RXRPC => 33, TIPC => 30, VSOCK => 40, BLUETOOTH => 31, CAN => 29,
    NFC => 39, XDP => 44, QIPCRTR => 42, SMC => 43, X25 => 9, AX25 => 3, IPX => 4, PPPOX => 24, RDS => 21,
    LLC => 26, PHONET => 35, CAIF => 37, KCM => 41, MCTP => 45, ISDN => 34, IEEE802154 => 36 );
for my $name ( sort keys %family ) {
    for my $type ( 1, 2, 3, 5 ) {
        refused "socket $name", 41, $family{$name}, $type, 0;
        refused "socket $name, high half", 41, $family{$name} | $high, $type, 0;
    }
}
refused "netlink $_", 41, 16, 3, $_ for 1, 6, 9, 12, 20, 21;
refused 'SCTP',       41, 2,  1, 132;

my %call = (
    io_uring_setup => 425, bpf => 321, perf_event_open => 298, userfaultfd => 323, fanotify_init => 300,
    init_module => 175, finit_module => 313, delete_module => 176, kexec_load => 246, kexec_file_load => 320,
    swapon => 167, swapoff => 168, acct => 163, iopl => 172, ioperm => 173, quotactl => 179, syslog => 103,
    add_key => 248, request_key => 249, keyctl => 250, settimeofday => 164, clock_settime => 227,
    open_by_handle_at => 304, fsopen => 430, open_tree => 428, mount_setattr => 442, fspick => 433,
    modify_ldt => 154, clone3 => 435, memfd_secret => 447, cachestat => 451, lookup_dcookie => 212,
);
for my $name ( sort keys %call ) {
    refused $name, $call{$name}, 0, 0, 0, 0, 0;
    refused "$name with memory", $call{$name}, $zeros, $zeros, 0, 0, 0;
}
my $clock = pack 'L4 x192', 0x8000;
refused 'adjtimex', 159, $clock;
refused 'unshare of a user namespace', 272, 0x10000000;
refused 'the same, high half',         272, 0x10000000 | $high;

# Shocker: a handle of its own root, then of inode 2.
my $handle = pack 'I i x128', 128, 0;
my $mount  = pack 'i',        0;
my $root   = "/\0";
syscall 303, -100, $root, $handle, $mount, 0;
refused 'open_by_handle_at of its own root', 304, 3, $handle, 0;

# Limits above the ceilings: 7 files, 11 pending signals, 12 message queues, 8 locked memory.
for my $limit ( 7, 8, 11, 12 ) {
    my $now = pack 'QQ', 0, 0;
    syscall 97, $limit, $now;
    my ( undef, $hard ) = unpack 'QQ', $now;
    my $more = pack 'QQ', $hard + 4096, $hard + 4096;
    refused "limit $limit above $hard", 160, $limit, $more;
    my $none = pack 'QQ', ~0, ~0;
    refused "no limit $limit", 160, $limit, $none;
}

# Out of a chroot one comes to the guest's root, not further.
mkdir '/tmp/jail';
opendir my $top, '/' or die;
my @inside = stat '/';
chroot '/tmp/jail' or die "chroot: $!";
chdir $top;
chdir '..' for 1 .. 100;
chroot '.';
my @outside = stat '/';
print "open: chroot climb\n" if "@inside[0,1]" ne "@outside[0,1]";
print "end\n";
