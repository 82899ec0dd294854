# A guest's root tries the ways out that need no programming, and prints those that are open.
# Whatever it changes is its own: the guest is thrown away.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
try() {
    way=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "open: $way"; fi
}
readable() { test -n "$(timeout 5 head -c 64 "$1" 2>/dev/null | tr -d '\0')"; }
mkdir -p /tmp/ways/at
cd /tmp/ways
try 'none, only to see that this is told' true

# Devices that are the host's: disk, memory, ports, kernel log, loop, console, tun.
for node in 'b 254 0' 'b 8 0' 'c 1 1' 'c 1 4' 'c 1 11' 'b 7 0' 'c 5 1' 'c 4 0' 'c 10 200' 'c 10 237'; do
    try "mknod $node" mknod "node-$(echo "$node" | tr ' ' -)" $node
done
for name in mem kmem port kmsg vda sda loop0 loop-control kvm fuse net/tun vsock rtc0 tty0 hpet; do
    try "/dev/$name" test -e "/dev/$name"
done

# File systems that show the whole kernel or the whole machine.
for kind in devtmpfs debugfs tracefs securityfs pstore efivarfs configfs bpf fusectl hugetlbfs nfsd selinuxfs; do
    try "mount of $kind" mount -t $kind none at
    umount at 2>/dev/null
done
for disk in /dev/vda /dev/sda /dev/loop0 /proc/self/exe; do
    try "mount of $disk" mount -t ext4 $disk at
done

# Cgroups: a version 1 hierarchy may be shown, and nothing of it written.
for controller in memory pids devices cpu,cpuacct cpu cpuset freezer blkio net_cls rdma name=systemd; do
    mount -t cgroup -o $controller none at 2>/dev/null || continue
    for file in release_agent notify_on_release memory.limit_in_bytes pids.max devices.allow cpu.cfs_quota_us cpu.shares cpuset.cpus; do
        [ -e at/$file ] && try "cgroup v1 $controller: $file" sh -c "cat at/$file > kept && cat kept > at/$file"
    done
    [ "$controller" = name=systemd ] || try "cgroup v1 $controller: a new group" mkdir at/mine
    umount at
done
try 'mount of a new cgroup v1 hierarchy' mount -t cgroup -o none,name=mine none at
mount -t cgroup2 none at 2>/dev/null && {
    for file in memory.max memory.high memory.swap.max pids.max cpu.max cpu.weight io.max cgroup.max.descendants cgroup.freeze cgroup.kill; do
        [ -e at/$file ] && try "its own $file" sh -c "echo max > at/$file"
    done
    try 'its own group seen from above' test -e at/guest
    umount at
}

# Kernel settings by which the host's root runs something.
for file in kernel/core_pattern kernel/modprobe kernel/sysrq kernel/panic kernel/hotplug kernel/poweroff_cmd \
    kernel/usermodehelper/bset kernel/randomize_va_space vm/overcommit_memory vm/drop_caches \
    vm/panic_on_oom fs/file-max fs/suid_dumpable fs/protected_hardlinks fs/binfmt_misc/register; do
    [ -e /proc/sys/$file ] && try "/proc/sys/$file" sh -c "cat /proc/sys/$file > kept; cat kept > /proc/sys/$file"
done
try '/proc/sysrq-trigger' sh -c 'echo h > /proc/sysrq-trigger'
for file in /sys/kernel/uevent_helper /sys/power/state /sys/kernel/mm/ksm/run /sys/kernel/mm/transparent_hugepage/enabled \
    /sys/module/kernel/parameters/panic /sys/kernel/uevent_seqnum /sys/class/net/lo/flags; do
    [ -e $file ] && try "$file" sh -c "cat $file > kept; cat kept > $file"
done

# The host's /usr.
try '/usr written' touch /usr/ways
try '/usr remounted' mount -o remount,rw /usr
try '/usr remounted by bind' mount -o remount,bind,rw /usr
try '/usr taken off' umount /usr
try '/usr taken off lazily' umount -l /usr
mount --bind /usr at 2>/dev/null && {
    try '/usr bound and remounted' mount -o remount,bind,rw at
    try '/usr written elsewhere' touch at/ways
    umount at
}
mount --rbind / at 2>/dev/null && {
    try '/usr written below another root' touch at/usr/ways
    umount -l at
}

# What the kernel tells of all.
try 'dmesg' dmesg
try 'a user namespace' unshare -U true
try 'a user namespace with its root' unshare -Ur true
try 'modprobe' modprobe -f dummy
try 'the clock' date -s '2001-01-01'
try 'the hardware clock' hwclock -w
try 'a file nobody can remove' sh -c 'touch fixed; chattr +i fixed'
try 'swap' sh -c 'dd if=/dev/zero of=swap bs=4096 count=20; mkswap swap; swapon swap'
try 'a higher nice' nice -n -20 sh -c 'test $(nice) = -20'
try 'a real-time scheduler' chrt -f 50 true
try 'more open files than the ceiling' sh -c 'ulimit -Hn 1000000'
for number in 1 2 10 100 $(seq 3 30); do try "a process of the host's: $number" sh -c "test -e /proc/$number && ! grep -q '^NSpid:.*' /proc/$number/status"; done
