/* Starts commands for bench/oci and measures them, so that no interpreter stands between the clock
 * and the command: posix_spawn (a child that shares our memory until it executes) and wait4. Loaded
 * by ocibench/clock.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct result {
    double wall, cpu, own_cpu; /* us: until reaped; of all processes set to work; of those reaped */
    long sleeps;               /* voluntary context switches of the command and those it reaped */
    int status;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* cpuacct.usage (ns) or cpu.stat (its first line is "usage_usec N") of the bench's own cgroup. */
static double usage(int fd)
{
    char text[64] = "";
    if (fd < 0 || pread(fd, text, sizeof text - 1, 0) <= 0)
        return 0;
    return text[0] == 'u' ? strtod(text + strcspn(text, " "), NULL) : strtod(text, NULL) / 1e3;
}

static int start(char *const argv[], char *const env[], int out, pid_t *pid)
{
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    posix_spawn_file_actions_adddup2(&files, null, 0);
    posix_spawn_file_actions_adddup2(&files, out < 0 ? null : out, 1);
    posix_spawn_file_actions_adddup2(&files, out < 0 ? null : out, 2);
    int error = posix_spawn(pid, argv[0], &files, NULL, argv, env);
    posix_spawn_file_actions_destroy(&files);
    close(null);
    return error;
}

static volatile pid_t measured;
static volatile sig_atomic_t late;

static void too_late(int signal)
{
    (void)signal;
    late = 1;
    kill(measured, SIGKILL);
}

/* 0, or an error; ETIME: killed after `patience` seconds. Processes of containers come to us when
 * the command that made them ends (the bench is their subreaper, as an engine's shim is): they are
 * reaped on the way. */
int clock_run(char *const argv[], char *const env[], int out, int cpu, int patience,
              struct result *result)
{
    struct sigaction alarm = {.sa_handler = too_late}, before_alarm;
    struct rusage used;
    pid_t pid, ended;
    int error;
    late = 0;
    double cpu_before = usage(cpu), before = now();
    if ((error = start(argv, env, out, &pid)))
        return error;
    measured = pid;
    sigaction(SIGALRM, &alarm, &before_alarm);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {.tv_sec = patience}}, NULL);
    do
        ended = wait4(-1, &result->status, 0, &used);
    while (ended != pid && (ended > 0 || errno == EINTR));
    result->wall = now() - before;
    result->cpu = usage(cpu) - cpu_before;
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    sigaction(SIGALRM, &before_alarm, NULL);
    result->own_cpu = used.ru_utime.tv_sec * 1e6 + used.ru_utime.tv_usec +
                      used.ru_stime.tv_sec * 1e6 + used.ru_stime.tv_usec;
    result->sleeps = used.ru_nvcsw;
    return late ? ETIME : ended != pid ? ECHILD : 0;
}

/* All commands, `jobs` at a time; us for the lot. `failed` counts those that did not end well. */
double clock_parallel(char *const *const argvs[], int count, int jobs, char *const env[],
                      int *failed)
{
    pid_t running[256], pid;
    int next = 0, active = 0, status;
    double before = now();
    memset(running, 0, sizeof running);
    while (next < count || active) {
        while (next < count && active < jobs) {
            int slot = 0;
            while (running[slot])
                slot++;
            if (start(argvs[next++], env, -1, &running[slot]) == 0) {
                active++;
            } else {
                running[slot] = 0;
                ++*failed;
            }
        }
        if ((pid = wait4(-1, &status, 0, NULL)) < 0) {
            if (errno == EINTR)
                continue;
            break;
        }
        for (int slot = 0; slot < jobs; slot++)
            if (running[slot] == pid) {
                running[slot] = 0;
                active--;
                *failed += status != 0;
            }
    }
    return now() - before;
}
