# A guest's root lies in wait for processes that enter, to take what they have of the host: their
# program, descriptors, memory, folders. Prints what it got; the processes of the guest itself that it
# could look into are only counted, to show that it looks. Ends when /dev/shm/enough is there.
use strict;
use warnings;
$| = 1;
my ( %told, %own );
my %mine = map { $_ => 1 } ( 1, $$ );
sub tell_once { my $line = shift; print "$line\n" unless $told{$line}++; }

print "ready\n";
until ( -e '/dev/shm/enough' ) {
    opendir my $proc, '/proc' or die;
    for my $pid ( grep { /^\d+$/ && !$mine{$_} } readdir $proc ) {
        my $exe = readlink "/proc/$pid/exe";
        my $root = readlink "/proc/$pid/root";
        my $memory = open my $mem, '+<', "/proc/$pid/mem";
        # PTRACE_SEIZE, and at once PTRACE_DETACH.
        my $seized = syscall( 101, 0x4206, $pid, 0, 0 ) == 0;
        my $seen = readlink "/proc/$pid/exe";
        syscall 101, 17, $pid, 0, 0 if $seized;
        for my $link ( grep { defined } $exe, $seen ) {
            if ( $link =~ m{^/usr/} ) { $own{$pid} = 1; next; }
            tell_once "program $link of $pid";
        }
        tell_once "root $root of $pid" if defined $root && $root ne '/';
        if ( ( $memory || $seized ) && defined $seen ) { $own{$pid} = 1 }
        if ( opendir my $fds, "/proc/$pid/fd" ) {
            for my $fd ( grep { /^\d+$/ } readdir $fds ) {
                my $link = readlink "/proc/$pid/fd/$fd" // next;
                next if $link =~ m{^(/dev/null|/dev/pts/\d+|pipe:.*|/usr/.*|/lib.*|/etc/ld.so.*|/proc/.*)$};
                tell_once "descriptor $fd of $pid: $link";
            }
        }
    }
}
print 'looked into ', scalar( keys %own ), " of its own\n";
