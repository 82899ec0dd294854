/* The floor under an OCI runtime: what the kernel alone asks for the container of bench/oci, by the
 * cheapest calls known, everything decided beforehand. It does the work of each command as a process
 * of its own, so that the start of a program is in it as in the runtimes measured beside it.
 *
 *   floor STATE SPACE run ID PROGRAM...       create, start, wait, remove
 *   floor STATE SPACE create ID PIDFILE PROGRAM...
 *   floor STATE SPACE start|delete|kill|state ID      kill: kills first, then deletes
 *   floor STATE SPACE exec ID PROGRAM...
 *   floor STATE SPACE list
 *
 * STATE is a folder. SPACE is the path of an empty mount namespace that bench/oci keeps: a
 * container's namespace is a copy of that, so neither the host's mounts are copied nor its root is
 * left. plan.h comes from the bundle (ocibench/floor.py): paths, limits, the compiled filter.
 *
 * With -DLEAN it is what a program can do that keeps nothing from one launch to the next and has the
 * C library: SPACE is not looked at, the host's mounts are copied and left by pivot_root, and the
 * filter is the one that libseccomp makes.
 *
 * What makes it the floor: one program, no library to link or to start (bare.c); the child shares
 * the parent's memory; it writes itself into the `tasks` files (a pid in cgroup.procs waits for a
 * grace period); nothing is unmounted; what is masked is looked at first (a bind that fails waits as
 * well); one file system for all masked folders; its own cgroups are bound, not mounted.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "plan.h" /* GROUP, ROOTFS, HOSTNAME, CAPABILITIES, NO_NEW_PRIVILEGES, limits, allowed,
                     masked, read_only, filter */

#define TRY(call) ({ long done_ = (long)(call); if (done_ < 0) fail(#call, __LINE__); done_; })
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static void fail(const char *call, int line)
{
    dprintf(2, "floor_oci.c:%d: %s: error %d\n", line, call, errno);
    _exit(1);
}

/* In the order of `group_of` in plan.h. */
static const char *const hierarchy[] = {"blkio", "cpu", "cpuacct", "devices", "freezer", "memory",
                                        "pids"};
enum { GROUPS = COUNT(hierarchy) };
static int parent[GROUPS], group[GROUPS], state_dir, proc, ready[2], fifo = -1;
static int root_tree, group_tree[GROUPS];
static const char *identity;
static char **program;
static char stack[65536] __attribute__((aligned(16)));

static void put(int dir, const char *file, const char *text)
{
    int fd = TRY(openat(dir, file, O_WRONLY | O_CLOEXEC));
    TRY(write(fd, text, strlen(text)));
    close(fd);
}

/* ---- cgroups ---- */

static void open_parents(void)
{
    char path[160];
    for (int i = 0; i < GROUPS; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s/" GROUP, hierarchy[i]);
        parent[i] = TRY(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
}

static void open_groups(void)
{
    for (int i = 0; i < GROUPS; i++)
        group[i] = TRY(openat(parent[i], identity, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static void make_groups(void)
{
    for (int i = 0; i < GROUPS; i++)
        TRY(mkdirat(parent[i], identity, 0755));
    open_groups();
    for (int i = 0; i < COUNT(limits); i++)
        put(group[limits[i].group], limits[i].file, limits[i].text);
    int allow = TRY(openat(group[DEVICES], "devices.allow", O_WRONLY | O_CLOEXEC));
    for (int i = 0; i < COUNT(allowed); i++)
        TRY(write(allow, allowed[i], strlen(allowed[i])));
    close(allow);
}

static void remove_groups(void)
{
    for (int i = 0; i < GROUPS; i++)
        while (unlinkat(parent[i], identity, AT_REMOVEDIR) < 0 && errno == EBUSY)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
}

static void join_groups(void)
{
    for (int i = 0; i < GROUPS; i++)
        put(group[i], "tasks", "0");
}

/* ---- the record of a container: pid and start time, as a file of its name ---- */

static unsigned long long born(int pid)
{
    char path[32], text[512], *at;
    snprintf(path, sizeof path, "%d/stat", pid);
    int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0)
        return 0;
    text[size] = 0;
    at = strrchr(text, ')') + 2;
    if (*at == 'Z')
        return 0;
    for (int field = 3; field < 22; field++)
        at = strchr(at, ' ') + 1;
    return strtoull(at, NULL, 10);
}

static void save(int pid)
{
    char text[64];
    int fd = TRY(openat(state_dir, identity, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    TRY(write(fd, text, snprintf(text, sizeof text, "%d %llu\n", pid, born(pid))));
    close(fd);
}

/* The pid; 0 when it has ended. */
static int load(const char *name)
{
    char text[64] = "";
    int fd = TRY(openat(state_dir, name, O_RDONLY | O_CLOEXEC));
    TRY(read(fd, text, sizeof text - 1));
    close(fd);
    char *end;
    int pid = (int)strtoull(text, &end, 10);
    return born(pid) == strtoull(end, NULL, 10) ? pid : 0;
}

static const char *fifo_name(void)
{
    static char name[128];
    snprintf(name, sizeof name, "%s.go", identity);
    return name;
}

/* ---- the container's first process ---- */

static void in_root(void)
{
    int safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
#ifdef LEAN
    TRY(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    TRY(move_mount(root_tree, "", AT_FDCWD, ROOTFS, MOVE_MOUNT_F_EMPTY_PATH));
    TRY(fchdir(root_tree));
    TRY(syscall(SYS_pivot_root, ".", "."));
    TRY(umount2(".", MNT_DETACH));
#else
    TRY(move_mount(root_tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH));
    TRY(fchdir(root_tree));
    TRY(chroot("."));
#endif
    TRY(mount("proc", "/proc", "proc", safe, NULL));
    TRY(mount("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    TRY(mkdir("/dev/pts", 0755));
    TRY(mkdir("/dev/mqueue", 0755));
    TRY(mkdir("/dev/shm", 0755));
    TRY(mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
              "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    TRY(mount("mqueue", "/dev/mqueue", "mqueue", safe, NULL));
    TRY(mount("shm", "/dev/shm", "tmpfs", safe, "mode=1777,size=67108864"));
    TRY(mount("sysfs", "/sys", "sysfs", safe | MS_RDONLY, NULL));
    TRY(mount("cgroup", "/sys/fs/cgroup", "tmpfs", safe, "mode=755"));
    for (int i = 0; i < GROUPS; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", hierarchy[i]);
        TRY(mkdir(path, 0755));
        TRY(move_mount(group_tree[i], "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH));
    }
    struct mount_attr sealed = {.attr_set = MOUNT_ATTR_RDONLY};
    TRY(mount_setattr(AT_FDCWD, "/sys/fs/cgroup", 0, &sealed, sizeof sealed));
}

static void devices(void)
{
    static const struct { const char *path; int major, minor; } nodes[] = {
        {"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8},
        {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
        {"/proc/self/fd/0", "/dev/stdin"}, {"/proc/self/fd/1", "/dev/stdout"},
        {"/proc/self/fd/2", "/dev/stderr"}, {"pts/ptmx", "/dev/ptmx"},
        {"/proc/kcore", "/dev/core"}};
    for (int i = 0; i < COUNT(nodes); i++)
        TRY(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    for (int i = 0; i < COUNT(links); i++)
        TRY(symlink(links[i][0], links[i][1]));
}

static void hide(void)
{
    const char *empty = NULL;
    struct stat stat;
    for (int i = 0; i < COUNT(masked); i++) {
        if (lstat(masked[i], &stat) < 0)
            continue;
        if (!S_ISDIR(stat.st_mode))
            TRY(mount("/dev/null", masked[i], NULL, MS_BIND, NULL));
        else if (empty)
            TRY(mount(empty, masked[i], NULL, MS_BIND, NULL));
        else
            TRY(mount("tmpfs", empty = masked[i], "tmpfs", MS_RDONLY, "size=0,nr_inodes=1"));
    }
    struct mount_attr sealed = {.attr_set = MOUNT_ATTR_RDONLY};
    for (int i = 0; i < COUNT(read_only); i++)
        if (lstat(read_only[i], &stat) == 0) {
            TRY(mount(read_only[i], read_only[i], NULL, MS_BIND, NULL));
            TRY(mount_setattr(AT_FDCWD, read_only[i], 0, &sealed, sizeof sealed));
        }
}

static void loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = TRY(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    TRY(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void confine(void)
{
    uint64_t keep = CAPABILITIES;
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (!(keep >> capability & 1))
            TRY(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0));
    if (NO_NEW_PRIVILEGES)
        TRY(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    struct sock_fprog load = {.len = COUNT(filter), .filter = (struct sock_filter *)filter};
    TRY(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &load));
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct sets[2] = {{(uint32_t)keep, (uint32_t)keep, 0},
        {(uint32_t)(keep >> 32), (uint32_t)(keep >> 32), 0}};
    TRY(syscall(SYS_capset, &head, sets));
}

static void execute(void)
{
    TRY(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
    execve(program[0], program, (char *const *)environment);
    fail("execve", __LINE__);
}

static int init(void *unused)
{
    (void)unused;
    join_groups();
    TRY(unshare(CLONE_NEWCGROUP));
    TRY(sethostname(HOSTNAME, sizeof HOSTNAME - 1));
    TRY(setsid());
    TRY(syscall(SYS_keyctl, 1, NULL)); /* a session keyring of its own */
    umask(0);
    in_root();
    devices();
    hide();
    umask(022);
    TRY(chdir("/"));
    loopback();
    confine();
    if (fifo >= 0) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fifo);
        TRY(write(ready[1], "r", 1));
        int go = TRY(open(path, O_WRONLY | O_CLOEXEC)); /* until it is started */
        TRY(write(go, "g", 1));
    }
    execute();
    return 1;
}

/* ---- commands ---- */

/* A container with its process; `run` has it execute at once and is held until it does. */
static int launch(const char *empty, int flags)
{
    static const struct mount_attr sealed = {.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID |
                                             MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC};
    open_parents();
    make_groups();
    for (int i = 0; i < GROUPS; i++) {
        group_tree[i] = TRY(open_tree(group[i], "", AT_EMPTY_PATH | OPEN_TREE_CLONE |
                                      OPEN_TREE_CLOEXEC));
        TRY(mount_setattr(group_tree[i], "", AT_EMPTY_PATH, (void *)&sealed, sizeof sealed));
    }
    root_tree = TRY(open_tree(AT_FDCWD, ROOTFS,
                              OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
#ifdef LEAN
    (void)empty;
#else
    int space = TRY(open(empty, O_RDONLY | O_CLOEXEC));
    TRY(setns(space, CLONE_NEWNS));
#endif
    int all = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    return TRY(clone(init, stack + sizeof stack, all | CLONE_VM | flags | SIGCHLD, NULL));
}

static int run(const char *space)
{
    int status, pid = launch(space, CLONE_VFORK);
    save(pid);
    TRY(waitpid(pid, &status, 0));
    remove_groups();
    TRY(unlinkat(state_dir, identity, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int create(const char *space, const char *pid_file)
{
    char text[16];
    TRY(mkfifoat(state_dir, fifo_name(), 0600));
    fifo = TRY(openat(state_dir, fifo_name(), O_PATH | O_CLOEXEC));
    int record = TRY(open(pid_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    TRY(pipe2(ready, O_CLOEXEC));
    int pid = launch(space, 0);
    close(ready[1]);
    if (TRY(read(ready[0], text, 1)) != 1)
        return 1;
    save(pid);
    TRY(write(record, text, snprintf(text, sizeof text, "%d", pid)));
    return 0;
}

static int start(void)
{
    char go;
    int fd = TRY(openat(state_dir, fifo_name(), O_RDONLY | O_CLOEXEC));
    return TRY(read(fd, &go, 1)) != 1 || unlinkat(state_dir, fifo_name(), 0) < 0;
}

static int delete(int killing)
{
    int pid = load(identity);
    if (killing && pid) {
        int fd = TRY(syscall(SYS_pidfd_open, pid, 0));
        TRY(syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0));
        struct pollfd ended = {.fd = fd, .events = POLLIN};
        TRY(poll(&ended, 1, -1));
    } else if (pid) {
        return 1;
    }
    open_parents();
    remove_groups();
    unlinkat(state_dir, fifo_name(), 0);
    TRY(unlinkat(state_dir, identity, 0));
    return 0;
}

static int entered(void *unused)
{
    (void)unused;
    join_groups();
    TRY(setsid());
    TRY(syscall(SYS_keyctl, 1, NULL));
    confine();
    execute();
    return 1;
}

static int exec(void)
{
    int status, pid = load(identity);
    open_parents();
    open_groups();
    int fd = TRY(syscall(SYS_pidfd_open, pid, 0));
    TRY(setns(fd, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
              CLONE_NEWCGROUP));
    pid = TRY(clone(entered, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
    TRY(waitpid(pid, &status, 0));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static int state(void)
{
    int pid = load(identity), waits = faccessat(state_dir, fifo_name(), F_OK, 0) == 0;
    dprintf(1, "{\"ociVersion\":\"1.0.2\",\"id\":\"%s\",\"status\":\"%s\",\"pid\":%d,"
           "\"bundle\":\"%s\"}\n", identity,
           !pid ? "stopped" : waits ? "created" : "running", pid, ROOTFS);
    return 0;
}

static int list(void)
{
    static char names[65536], out[65536];
    long size, written = 0;
    while ((size = TRY(getdents64(state_dir, names, sizeof names))) > 0)
        for (long at = 0; at < size;) {
            struct dirent64 *entry = (void *)(names + at);
            at += entry->d_reclen;
            if (strchr(entry->d_name, '.'))
                continue;
            int pid = load(entry->d_name);
            written += snprintf(out + written, sizeof out - written, "%s\t%d\t%s\n",
                                entry->d_name, pid, pid ? "running" : "stopped");
            if (written > (long)sizeof out - 512) {
                TRY(write(1, out, written));
                written = 0;
            }
        }
    TRY(write(1, out, written));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    const char *space = argv[2], *verb = argv[3];
    proc = TRY(open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
    state_dir = TRY(open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    identity = argc > 4 ? argv[4] : "";
    program = argv + (strcmp(verb, "create") ? 5 : 6);
    int done = !strcmp(verb, "run") ? run(space) : !strcmp(verb, "create") ? create(space, argv[5]) :
               !strcmp(verb, "start") ? start() : !strcmp(verb, "delete") ? delete(0) :
               !strcmp(verb, "kill") ? delete(1) : !strcmp(verb, "exec") ? exec() :
               !strcmp(verb, "state") ? state() : !strcmp(verb, "list") ? list() : 2;
    return done;
}
