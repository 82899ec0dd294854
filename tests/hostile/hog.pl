# Takes as much of each kind as it is given, and keeps it until its input ends.
#   hog.pl MOST KIND...
# Prints a line for each kind: its name, how many it got, and why it got no more.
# Perl is on every Debian, and its syscall() needs no compiler. Numbers are those of x86-64.
use strict;
use warnings;
use POSIX qw(:signal_h setsid);
$| = 1;

my ( $most, @kinds ) = @ARGV;
my ( $number, %children ) = 0;

# As many files as this guest lets a process have.
my $files = pack 'QQ', 0, 0;
syscall 97, 7, $files;
my ( undef, $ceiling ) = unpack 'QQ', $files;
$files = pack 'QQ', $ceiling, $ceiling;
syscall 160, 7, $files;

sub name { my $text = shift() . $number++ . "\0"; return \$text; }

my $notify;
my %take = (
    inotify => sub { syscall(253) >= 0 },
    watches => sub {
        $notify //= syscall 253;
        my $folder = "/dev/shm/watched$number";
        $number++;
        mkdir $folder or return 0;
        my $path = "$folder\0";
        syscall( 254, $notify, $path, 2 ) >= 0;
    },
    timers => sub { my $id = "\0" x 8; syscall( 222, 1, 0, $id ) == 0 },
    signals => sub {
        my $info = pack 'i3 x4 i2 q x96', SIGRTMIN, 0, -1, $$, $>, 0;
        syscall( 129, $$, SIGRTMIN, $info ) == 0;
    },
    queues => sub {
        my ( $name, $size ) = ( name('queue'), pack 'q8', 0, 8, 1024, (0) x 5 );
        syscall( 240, $$name, 0102, 0600, $size ) >= 0;
    },
    ptys => sub { my $path = "/dev/ptmx\0"; syscall( 2, $path, 0402, 0 ) >= 0 },
    keys => sub {
        my ( $kind, $name, $data ) = ( "user\0", name('key'), 'x' x 4096 );
        syscall( 248, $kind, $$name, $data, length $data, -4 ) >= 0;
    },
    files => sub { syscall( 290, 0, 0 ) >= 0 },
    groups => sub { mkdir '/sys/fs/cgroup/hog'; mkdir '/sys/fs/cgroup/hog/' . $number++ },
    names => sub { open my $file, '>', '/dev/shm/name' . $number++ },
    memory => sub {
        our @memory;
        push @memory, 'x' x ( 1 << 20 );
    },
    processes => sub {
        my $child = fork;
        return 0 unless defined $child;
        if ( !$child ) { sleep 600; POSIX::_exit(0); }
        $children{$child} = 1;
    },
);

sigprocmask SIG_BLOCK, POSIX::SigSet->new(SIGRTMIN);
for my $kind (@kinds) {
    my $got = 0;
    $! = 0;
    $got++ while $got < $most && $take{$kind}->();
    my ($why) = $got < $most ? grep { $!{$_} } sort keys %! : 'enough';
    print "$kind $got $why\n";
}
print "end\n";
my $line = <STDIN>;
kill KILL => keys %children;
1 while wait > 0;
