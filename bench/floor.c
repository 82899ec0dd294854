/* The floor under a launch: what the kernel alone asks for a guest like ours, by the cheapest calls
 * known, in one small C program with everything decided beforehand.
 *
 *   floor ROOT WORK INSTRUCTIONS ROUNDS [BRIDGE]
 *
 * ROOT is a root filesystem with a static /bin/true, WORK an empty folder on a filesystem that takes
 * idmapped mounts and overlay layers. Each round makes the cgroups with limits, a user namespace of
 * a uid of its own, an overlay root on idmapped layers, the other namespaces, /proc, /sys, /dev,
 * /dev/pts, /dev/shm, /run, masks, a veth pair on BRIDGE if one is given, cuts the capabilities,
 * loads a filter of INSTRUCTIONS and executes /bin/true; then it takes all away. One line a phase:
 * name, median and 10th percentile in microseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/mount.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BASE 1879048192u /* ids of the guest: BASE to BASE + 65535, its creator one more */
#define MOST 2000

#define TRY(call) ({ long done_ = (long)(call); if (done_ < 0) fail(#call, __LINE__); done_; })

static pid_t launcher, running; /* the launching process, and the guest's process of this round */
static void remove_cgroups(void);

/* Whichever process it is: the launching one takes its child and its cgroups along. */
static void fail(const char *call, int line)
{
    fprintf(stderr, "floor.c:%d: %.60s: %s\n", line, call, strerror(errno));
    if (getpid() == launcher) {
        launcher = 0;
        if (running)
            kill(running, SIGKILL);
        while (waitpid(-1, NULL, __WALL) > 0)
            ;
        remove_cgroups();
    }
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Phases, timed in the launching process: what the others do is part of the wait for them. */
static const char *const phase_name[] = {
    "cgroups", "private mounts", "stage and user namespace", "id maps", "overlay root",
    "tmpfs and devices", "init and its mounts", "network", "exec", "whole start", "teardown",
};
enum { PHASES = sizeof phase_name / sizeof *phase_name };
static double took[PHASES][MOST];

static void put(int dir, const char *file, const char *text)
{
    int fd = TRY(openat(dir, file, O_WRONLY | O_CLOEXEC));
    TRY(write(fd, text, strlen(text)));
    close(fd);
}

/* ---- cgroups: version 1 controllers where they are mounted, else version 2 ---- */

static const char *const v1_name[] = {"blkio", "cpu", "devices", "memory", "pids"};
enum { V1 = 5 };
static int v1_parent[V1], v1_group[V1], v2_parent = -1, v2_group, v2_guest;
static int hybrid;
static char group_name[32];

static int open_dir(const char *path)
{
    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void find_cgroups(void)
{
    char path[64];
    hybrid = 1;
    for (int i = 0; i < V1; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", v1_name[i]);
        if ((v1_parent[i] = open_dir(path)) < 0)
            hybrid = 0;
    }
    v2_parent = TRY(open_dir(hybrid ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup"));
    snprintf(group_name, sizeof group_name, "bulkhead-floor-%d", getpid());
}

static int make_dir(int parent, const char *name)
{
    TRY(mkdirat(parent, name, 0755));
    return TRY(openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static void make_cgroups(void)
{
    static const char *const devices[] = {"c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm",
                                          "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rw", "c 136:* rw"};
    v2_group = make_dir(v2_parent, group_name);
    v2_guest = make_dir(v2_group, "guest");
    put(v2_group, "cgroup.max.descendants", "1001");
    put(v2_group, "cgroup.max.depth", "32");
    if (!hybrid)
        return;
    for (int i = 0; i < V1; i++)
        v1_group[i] = make_dir(v1_parent[i], group_name);
    put(v1_group[1], "cpu.shares", "1024");
    put(v1_group[3], "memory.limit_in_bytes", "536870912");
    put(v1_group[4], "pids.max", "1024");
    put(v1_group[2], "devices.deny", "a");
    int allow = TRY(openat(v1_group[2], "devices.allow", O_WRONLY | O_CLOEXEC));
    for (int i = 0; i < 8; i++)
        TRY(write(allow, devices[i], strlen(devices[i])));
    close(allow);
}

static void remove_cgroups(void)
{
    for (int i = 0; hybrid && i < V1; i++) {
        close(v1_group[i]);
        unlinkat(v1_parent[i], group_name, AT_REMOVEDIR);
    }
    unlinkat(v2_group, "guest", AT_REMOVEDIR);
    close(v2_guest);
    close(v2_group);
    unlinkat(v2_parent, group_name, AT_REMOVEDIR);
}

/* ---- mounts ---- */

static int new_fs(const char *kind, const char *const (*options)[2], int attributes)
{
    int context = TRY(fsopen(kind, FSOPEN_CLOEXEC));
    for (; options && (*options)[0]; options++)
        TRY(fsconfig(context, FSCONFIG_SET_STRING, (*options)[0], (*options)[1], 0));
    TRY(fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    int mount = TRY(fsmount(context, FSMOUNT_CLOEXEC, attributes));
    close(context);
    return mount;
}

static void attach(int tree, int dir, const char *path)
{
    TRY(move_mount(tree, "", dir, path, MOVE_MOUNT_F_EMPTY_PATH));
    close(tree);
}

static void layer(const char *from, const char *to, int users, int attributes)
{
    int tree = TRY(open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    struct mount_attr attr = {.attr_set = attributes | MOUNT_ATTR_IDMAP, .userns_fd = users};
    TRY(mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof attr));
    mkdir(to, 0755);
    attach(tree, AT_FDCWD, to);
}

static char scratch[256], writable[256];

static int overlay_root(const char *lower, int users)
{
    char at[5][300];
    static const char *const below[] = {"lower", "writable", "root"};
    for (int i = 0; i < 3; i++)
        snprintf(at[i], sizeof at[i], "%s/%s", scratch, below[i]);
    snprintf(at[3], sizeof at[3], "%s/writable/upper", scratch);
    snprintf(at[4], sizeof at[4], "%s/writable/work", scratch);
    layer(lower, at[0], users, MOUNT_ATTR_RDONLY);
    layer(writable, at[1], users, 0);
    mkdir(at[2], 0755);
    syscall(SYS_setfsuid, BASE);
    syscall(SYS_setfsgid, BASE);
    const char *const options[][2] = {{"lowerdir", at[0]}, {"upperdir", at[3]},
                                      {"workdir", at[4]}, {NULL, NULL}};
    int mount = new_fs("overlay", options, 0);
    TRY(move_mount(mount, "", AT_FDCWD, at[2], MOVE_MOUNT_F_EMPTY_PATH));
    return mount;
}

static void fill_dev(int root)
{
    static const struct { const char *name; int minor; } nodes[] = {
        {"dev/null", 3}, {"dev/zero", 5}, {"dev/full", 7}, {"dev/random", 8}, {"dev/urandom", 9}};
    static const char *const links[][2] = {{"/proc/self/fd", "dev/fd"}, {"fd/0", "dev/stdin"},
        {"fd/1", "dev/stdout"}, {"fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
    umask(0);
    for (int i = 0; i < 5; i++)
        TRY(mknodat(root, nodes[i].name, S_IFCHR | 0666, makedev(1, nodes[i].minor)));
    for (int i = 0; i < 5; i++)
        TRY(symlinkat(links[i][0], root, links[i][1]));
    TRY(mkdirat(root, "dev/pts", 0755));
    TRY(mkdirat(root, "dev/shm", 0755));
}

/* ---- the filter: a balanced search over ranges of numbers, every one allowed ---- */

static struct sock_filter program[4096];
static int length;

static void search(int low, int high, int left)
{
    if (left < 3) {
        program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        return;
    }
    int middle = (low + high) / 2, at = length++;
    search(low, middle, (left - 1) / 2);
    int skip = length - at - 1;
    /* A jump on a condition reaches 255 instructions. */
    if (skip > 255)
        fail("filter too long", __LINE__);
    program[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, middle, skip, 0);
    search(middle, high, left - 1 - skip);
}

static void make_filter(int instructions)
{
    program[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
    /* Parts that a conditional jump can span, one after the other. */
    for (int part = 0; length < instructions; part++) {
        int size = instructions - length < 250 ? instructions - length : 250;
        int at = length++, begin = length;
        search(part * 128, part * 128 + 128, size - 1);
        program[at] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, part * 128 + 128,
                                                   length - begin, 0);
    }
    program[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
}

/* ---- network ---- */

static struct { struct nlmsghdr head; char body[1024]; } message;

static void begin(int type, int flags, const void *body, int size)
{
    memset(&message, 0, sizeof message);
    message.head = (struct nlmsghdr){.nlmsg_len = NLMSG_LENGTH(size), .nlmsg_type = type,
                                     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags};
    memcpy(NLMSG_DATA(&message.head), body, size);
}

static struct rtattr *add(int type, const void *data, int size)
{
    struct rtattr *a = (void *)((char *)&message + NLMSG_ALIGN(message.head.nlmsg_len));
    *a = (struct rtattr){.rta_type = type, .rta_len = RTA_LENGTH(size)};
    if (size && data)
        memcpy(RTA_DATA(a), data, size);
    message.head.nlmsg_len = NLMSG_ALIGN(message.head.nlmsg_len) + RTA_ALIGN(a->rta_len);
    return a;
}

static void end(struct rtattr *a)
{
    a->rta_len = (char *)&message + message.head.nlmsg_len - (char *)a;
}

static void ask(int netlink)
{
    static char answer[4096];
    TRY(send(netlink, &message, message.head.nlmsg_len, 0));
    TRY(recv(netlink, answer, sizeof answer, 0));
    struct nlmsghdr *head = (void *)answer;
    struct nlmsgerr *error = NLMSG_DATA(head);
    if (head->nlmsg_type == NLMSG_ERROR && error->error) {
        errno = -error->error;
        fail("netlink", message.head.nlmsg_type);
    }
}

/* The pair of a round before may still be going away with its namespace: each has its own name. */
static void veth(int bridge, int inside, int n)
{
    char name[IFNAMSIZ];
    snprintf(name, sizeof name, "bhfloor%d", n);
    int netlink = TRY(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, peer = {0};
    begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
    add(IFLA_IFNAME, name, strlen(name) + 1);
    add(IFLA_MASTER, &bridge, 4);
    struct rtattr *info = add(IFLA_LINKINFO, NULL, 0);
    add(IFLA_INFO_KIND, "veth", 5);
    struct rtattr *data = add(IFLA_INFO_DATA, NULL, 0);
    struct rtattr *other = add(VETH_INFO_PEER, &peer, sizeof peer);
    add(IFLA_IFNAME, "eth0", 5);
    add(IFLA_NET_NS_FD, &inside, 4);
    end(other);
    end(data);
    end(info);
    ask(netlink);
    close(netlink);
}

static void configure(int connected)
{
    int netlink = TRY(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    for (int index = 1; index <= 1 + connected; index++) {
        struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
        up.ifi_index = index == 1 ? 1 : (int)if_nametoindex("eth0");
        if (index == 2) {
            struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = 24,
                                        .ifa_index = up.ifi_index};
            begin(RTM_NEWADDR, NLM_F_CREATE, &address, sizeof address);
            add(IFA_LOCAL, (unsigned char[]){192, 0, 2, 2}, 4);
            ask(netlink);
        }
        begin(RTM_NEWLINK, 0, &up, sizeof up);
        ask(netlink);
    }
    if (connected) {
        struct rtmsg route = {.rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN,
            .rtm_protocol = RTPROT_BOOT, .rtm_scope = RT_SCOPE_UNIVERSE, .rtm_type = RTN_UNICAST};
        begin(RTM_NEWROUTE, NLM_F_CREATE, &route, sizeof route);
        add(RTA_GATEWAY, (unsigned char[]){192, 0, 2, 1}, 4);
        ask(netlink);
    }
    close(netlink);
}

/* ---- the processes ---- */

static int talk[2]; /* [0] is the launching process's end */

static void say(int fd)
{
    TRY(write(fd, "g", 1));
}

/* The launching process has gone: so do we. */
static void hear_go(int fd)
{
    char c;
    if (TRY(read(fd, &c, 1)) == 0)
        _exit(1);
}

static pid_t clone_with(uint64_t flags, int signal, int cgroup)
{
    struct clone_args args = {.flags = flags, .exit_signal = signal, .cgroup = cgroup};
    return TRY(syscall(SYS_clone3, &args, sizeof args));
}

static void init(int connected)
{
    static const char *const pts[][2] = {{"newinstance", ""}, {"mode", "0620"}, {"ptmxmode", "0666"},
                                         {"max", "64"}, {NULL, NULL}};
    static const char *const none[][2] = {{"size", "4k"}, {"nr_inodes", "1"}, {NULL, NULL}};
    static const char *const folders[] = {"proc/acpi", "proc/scsi", "sys/firmware"};
    static const char *const files[] = {"proc/kcore", "proc/keys", "proc/timer_list",
                                        "proc/sysrq-trigger"};
    int safe = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    TRY(syscall(SYS_keyctl, 1, NULL)); /* a session keyring of its own */
    sethostname("floor", 5);
    int root = TRY(open_tree(AT_FDCWD, ".", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
    TRY(move_mount(root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
    attach(new_fs("proc", NULL, safe), root, "proc");
    attach(new_fs("sysfs", NULL, safe | MOUNT_ATTR_RDONLY), root, "sys");
    attach(new_fs("devpts", &pts[1], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), root, "dev/pts");
    struct stat stat;
    int empty = new_fs("tmpfs", none, safe | MOUNT_ATTR_RDONLY), masked = 0;
    for (int i = 0; i < 3; i++)
        if (fstatat(root, folders[i], &stat, 0) == 0) {
            int tree = masked++ ? open_tree(empty, "", AT_EMPTY_PATH | OPEN_TREE_CLONE) : empty;
            TRY(move_mount(tree, "", root, folders[i], MOVE_MOUNT_F_EMPTY_PATH));
        }
    for (int i = 0; i < 4; i++)
        if (fstatat(root, files[i], &stat, 0) == 0)
            attach(TRY(open_tree(root, "dev/null", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)), root,
                   files[i]);
    int sys = TRY(open_tree(root, "proc/sys", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
    TRY(mount_setattr(sys, "", AT_EMPTY_PATH, &read_only, sizeof read_only));
    attach(sys, root, "proc/sys");
    say(talk[1]);
    hear_go(talk[1]);
    configure(connected);
    TRY(fchdir(root));
    TRY(chroot("."));
    for (int capability = 0; capability < 41; capability++)
        if (capability % 3 == 2)
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    struct sock_fprog filter = {.len = length, .filter = program};
    TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    execve("/bin/true", (char *[]){"true", NULL}, (char *[]){NULL});
    fail("execve", __LINE__);
}

static void stage(int connected)
{
    for (int i = 0; hybrid && i < V1; i++)
        put(v1_group[i], "tasks", "0");
    TRY(syscall(SYS_setgroups, 0, NULL));
    TRY(syscall(SYS_setresgid, BASE + 65536, BASE + 65536, BASE + 65536));
    TRY(syscall(SYS_setresuid, BASE + 65536, BASE + 65536, BASE + 65536));
    TRY(unshare(CLONE_NEWUSER));
    TRY(unshare(CLONE_NEWTIME));
    say(talk[1]);
    hear_go(talk[1]);
    TRY(syscall(SYS_setresgid, 0, 0, 0));
    TRY(syscall(SYS_setresuid, 0, 0, 0));
    char root[300];
    snprintf(root, sizeof root, "%s/root", scratch);
    TRY(chdir(root));
    uint64_t all = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID |
                   CLONE_NEWNET | CLONE_PARENT;
    pid_t pid = clone_with(all, 0, 0);
    if (pid == 0)
        init(connected);
    TRY(write(talk[1], &pid, sizeof pid));
    _exit(0);
}

static void round_of(int n, const char *lower, int bridge, int host_mounts)
{
    double start = now(), before = start;
    int phase = 0;
#define DONE() do { double t = now(); took[phase++][n] = t - before; before = t; } while (0)
    make_cgroups();
    DONE();
    TRY(unshare(CLONE_NEWNS));
    TRY(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    attach(new_fs("tmpfs", NULL, MOUNT_ATTR_NOSUID), AT_FDCWD, scratch);
    DONE();
    TRY(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, talk));
    pid_t first = clone_with(CLONE_INTO_CGROUP, SIGCHLD, v2_guest);
    if (first == 0)
        stage(bridge > 0);
    hear_go(talk[0]);
    DONE();
    char path[64], map[64];
    snprintf(path, sizeof path, "/proc/%d", first);
    int proc = TRY(open_dir(path)), users = TRY(openat(proc, "ns/user", O_RDONLY | O_CLOEXEC));
    snprintf(map, sizeof map, "0 %u 65536\n", BASE);
    put(proc, "uid_map", map);
    put(proc, "gid_map", map);
    close(proc);
    DONE();
    int root = overlay_root(lower, users);
    close(users);
    DONE();
    char owner[16];
    snprintf(owner, sizeof owner, "%u", BASE);
    const char *const options[][2] = {{"size", "64k"}, {"mode", "755"}, {"uid", owner}, {NULL, NULL}};
    attach(new_fs("tmpfs", options, MOUNT_ATTR_NOSUID), root, "dev");
    fill_dev(root);
    attach(new_fs("tmpfs", options, MOUNT_ATTR_NOSUID), root, "dev/shm");
    attach(new_fs("tmpfs", options, MOUNT_ATTR_NOSUID), root, "run");
    syscall(SYS_setfsuid, 0);
    syscall(SYS_setfsgid, 0);
    close(root);
    DONE();
    say(talk[0]);
    pid_t pid = 0;
    for (int heard = 0; heard < 2; heard++) { /* the pid, and that init is ready */
        char text[8];
        if (TRY(read(talk[0], text, sizeof text)) == sizeof pid)
            memcpy(&pid, text, sizeof pid);
    }
    running = pid;
    TRY(waitpid(first, NULL, 0));
    DONE();
    if (bridge > 0) {
        snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
        int inside = TRY(open(path, O_RDONLY | O_CLOEXEC));
        veth(bridge, inside, n);
        close(inside);
    }
    DONE();
    close(talk[1]);
    say(talk[0]);
    char c;
    TRY(read(talk[0], &c, 1)); /* closed by the exec */
    DONE();
    took[phase++][n] = before - start;
    int status;
    TRY(waitpid(pid, &status, __WALL));
    running = 0;
    if (status)
        fail("/bin/true in the guest", __LINE__);
    close(talk[0]);
    TRY(setns(host_mounts, CLONE_NEWNS));
    remove_cgroups();
    DONE();
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    int rounds = argc > 4 ? atoi(argv[4]) : 0, bridge = argc > 5 ? (int)if_nametoindex(argv[5]) : 0;
    if (rounds < 1 || rounds > MOST || (argc > 5 && bridge == 0)) {
        fprintf(stderr, "usage: floor ROOT WORK INSTRUCTIONS ROUNDS [BRIDGE]\n");
        return 2;
    }
    const char *const below[] = {"upper", "work"};
    snprintf(scratch, sizeof scratch, "%s/scratch", argv[2]);
    snprintf(writable, sizeof writable, "%s/writable", argv[2]);
    mkdir(scratch, 0755);
    mkdir(writable, 0755);
    for (int i = 0; i < 2; i++) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s", writable, below[i]);
        mkdir(path, 0755);
    }
    /* Acting on files as the guest's root keeps the capabilities. */
    TRY(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0));
    make_filter(atoi(argv[3]));
    find_cgroups();
    launcher = getpid();
    int host_mounts = TRY(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
    for (int n = 0; n < rounds; n++)
        round_of(n, argv[1], bridge, host_mounts);
    for (int i = 0; i < PHASES; i++) {
        qsort(took[i], rounds, sizeof(double), by_size);
        printf("%s\t%.0f\t%.0f\n", phase_name[i], took[i][rounds / 2], took[i][rounds / 10]);
    }
    return 0;
}
