/* What runs in the containers of bench/oci.
 *
 * With TRUE or PAUSE defined a program of one call, without a library: what is measured around it
 * is the runtime. Without them the one that tells, before anything is measured, what is in force
 * around it: one fact a line for ocibench/check.py, which knows what was asked for and judges.
 *
 *   inside [-m MASKED]... [-r READ-ONLY]...
 */
#if defined TRUE || defined PAUSE
static long call(long number, long argument)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(argument)
                     : "rcx", "r11", "memory");
    return result;
}
void _start(void)
{
#ifdef PAUSE
    for (;;)
        call(34, 0);
#endif
    call(231, 0);
    __builtin_unreachable();
}
#else
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A file's lines, each behind a word that says where it is from. */
static void tell(const char *word, const char *path)
{
    char line[4096];
    FILE *file = fopen(path, "re");
    if (!file) {
        printf("%s missing\n", word);
        return;
    }
    while (fgets(line, sizeof line, file))
        printf("%s %s", word, line);
    fclose(file);
}

static void masked(const char *path)
{
    struct stat stat;
    if (lstat(path, &stat) < 0) {
        printf("masked %s absent\n", path);
        return;
    }
    int seen = 0;
    if (S_ISDIR(stat.st_mode)) {
        DIR *dir = opendir(path);
        while (dir && readdir(dir))
            seen++;
        seen -= 2;
        if (dir)
            closedir(dir);
    } else {
        char text[16];
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        seen = fd < 0 ? 0 : (int)read(fd, text, sizeof text);
        close(fd);
    }
    printf("masked %s %s\n", path, seen > 0 ? "open" : "empty");
}

static void read_only(const char *path)
{
    struct statvfs fs;
    if (statvfs(path, &fs) < 0)
        printf("readonly %s absent\n", path);
    else
        printf("readonly %s %s\n", path, fs.f_flag & ST_RDONLY ? "yes" : "no");
}

static void result(const char *what, long done)
{
    printf("call %s %d\n", what, done < 0 ? errno : 0);
}

static long compat(long number, long first)
{
    long done;
    __asm__ volatile("int $0x80" : "=a"(done) : "a"(number), "b"(first)
                     : "memory", "r8", "r9", "r10", "r11");
    if (done < 0 && done > -4096) {
        errno = (int)-done;
        return -1;
    }
    return done;
}

static void calls(void)
{
    result("getpid", syscall(SYS_getpid));
    result("acct", syscall(SYS_acct, NULL));
    result("personality-query", syscall(SYS_personality, 0xffffffffUL));
    result("personality-other", syscall(SYS_personality, 0x1000UL));
    result("x32-acct", syscall(0x40000000 | SYS_acct, NULL));
    result("x86-getpid", compat(20, 0));
    result("x86-personality-other", compat(136, 0x1000));
    /* The device is none of those allowed, making its node is. */
    result("mknod", mknod("/dev/kmem-of-bench", S_IFCHR | 0600, makedev(1, 1)));
    int fd = open("/dev/kmem-of-bench", O_RDONLY | O_CLOEXEC);
    result("open-kmem", fd);
    unlink("/dev/kmem-of-bench");
}

static void devices(void)
{
    static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};
    static const char *const links[] = {"fd", "stdin", "stdout", "stderr", "ptmx"};
    char path[32];
    struct stat stat;
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/dev/%s", names[i]);
        if (lstat(path, &stat) == 0 && S_ISCHR(stat.st_mode))
            printf("device %s %u:%u %o\n", names[i], major(stat.st_rdev), minor(stat.st_rdev),
                   stat.st_mode & 0777);
    }
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/dev/%s", links[i]);
        if (lstat(path, &stat) == 0)
            printf("link %s\n", links[i]);
    }
}

static void descriptors(void)
{
    int count = 0;
    for (int fd = 3; fd < 1024; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    printf("descriptors %d\n", count);
}

static void spaces(void)
{
    static const char *const names[] = {"pid", "net", "ipc", "uts", "mnt", "cgroup"};
    char path[32], link[64];
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        ssize_t size = readlink(path, link, sizeof link - 1);
        printf("namespace %s %.*s\n", names[i], size > 0 ? (int)size : 0, link);
    }
}

int main(int argc, char **argv)
{
    static const char *const groups[] = {
        "memory/memory.limit_in_bytes", "cpu/cpu.shares", "cpu/cpu.cfs_quota_us",
        "cpu/cpu.cfs_period_us", "pids/pids.max", "devices/devices.list",
        "memory.max", "cpu.max", "cpu.weight", "pids.max"};
    char path[128], name[65] = "";
    descriptors();
    printf("pid %d\n", getpid());
    gethostname(name, sizeof name - 1);
    printf("hostname %s\n", name);
    tell("status", "/proc/self/status");
    tell("group", "/proc/self/cgroup");
    tell("mount", "/proc/self/mountinfo");
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", groups[i]);
        if (access(path, F_OK) == 0)
            tell(groups[i], path);
    }
    printf("call write-limit %d\n", open("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                                         O_WRONLY | O_CLOEXEC) < 0 ? errno : 0);
    spaces();
    devices();
    for (int i = 1; i + 1 < argc; i += 2)
        (argv[i][1] == 'm' ? masked : read_only)(argv[i + 1]);
    calls();
    printf("end\n");
    return 0;
}
#endif
