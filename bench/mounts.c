// What a mount costs in a guest: NAME and microseconds for one of each, the median of so many.
//   gcc -O2 -static -o mounts bench/mounts.c && mounts [N]     (as root of the guest)
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *type, unsigned long flags, const char *from, int lazily, int n) {
    double *made = malloc(n * sizeof *made), *gone = malloc(n * sizeof *gone);
    for (int i = 0; i < n; i++) {
        double began = now();
        if (mount(from, "/tmp/m", type, flags, NULL)) { perror(type); exit(1); }
        made[i] = now() - began;
        began = now();
        if (umount2("/tmp/m", lazily ? MNT_DETACH : 0)) { perror("umount"); exit(1); }
        gone[i] = now() - began;
    }
    qsort(made, n, sizeof *made, by_size);
    qsort(gone, n, sizeof *gone, by_size);
    printf("%-6s mount %7.1f (99 of 100: %8.1f)  umount%s %7.1f (%8.1f)\n", type, made[n / 2],
           made[n * 99 / 100], lazily ? " -l" : "   ", gone[n / 2], gone[n * 99 / 100]);
    free(made);
    free(gone);
}

int main(int count, char **words) {
    int n = count > 1 ? atoi(words[1]) : 300;
    mkdir("/tmp/m", 0755);
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        perror("unshare");
        return 1;
    }
    measure("tmpfs", 0, "none", 1, n);
    measure("tmpfs", 0, "none", 0, n);
    measure("bind", MS_BIND, "/tmp", 1, n);
    measure("proc", 0, "none", 1, n);
    measure("proc", 0, "none", 0, n);
    measure("sysfs", 0, "none", 0, n);
    return 0;
}
