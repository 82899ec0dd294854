/* Executes a program instruction by instruction and writes which of its own it came by, in the order of
 * the first time: one address for each 16 bytes of it, which lie between those given.
 *
 *     step FILE LOWEST HIGHEST PROGRAM [ARGUMENT...]
 *
 * Children that the program forks are followed until they execute another, and are let go when it ends.
 * Its end is ours.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 64 /* processes */

static unsigned long lowest, highest;
static pid_t followed[MOST];
static unsigned char *seen;
static FILE *to;

static void look(pid_t pid)
{
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, pid, 0, &registers))
        return;
    unsigned long at = registers.rip;
    if (at >= lowest && at < highest && !seen[(at - lowest) >> 4]) {
        seen[(at - lowest) >> 4] = 1;
        fprintf(to, "%lx\n", at);
    }
}

/* The first stop of a child that a tracee has forked is none that it was sent. */
static int signal_of(int status)
{
    int signal = WSTOPSIG(status);
    return signal == SIGTRAP || signal == SIGSTOP ? 0 : signal;
}

/* A process that is still followed when we end would be killed by its next step. */
static void let_go(void)
{
    int status;
    for (int n = 0; n < MOST; n++) {
        if (!followed[n] || kill(followed[n], SIGSTOP))
            continue;
        while (waitpid(followed[n], &status, __WALL) > 0 && WIFSTOPPED(status)) {
            if (WSTOPSIG(status) == SIGSTOP) {
                ptrace(PTRACE_DETACH, followed[n], 0, 0);
                break;
            }
            ptrace(PTRACE_CONT, followed[n], 0, signal_of(status));
        }
    }
}

static void forget(pid_t pid)
{
    for (int n = 0; n < MOST; n++)
        if (followed[n] == pid)
            followed[n] = 0;
}

static void remember(pid_t pid)
{
    int free = -1;
    for (int n = 0; n < MOST; n++) {
        if (followed[n] == pid)
            return;
        if (!followed[n])
            free = n;
    }
    if (free < 0)
        exit(125);
    followed[free] = pid;
}

int main(int count, char **words)
{
    if (count < 5 || !(to = fopen(words[1], "w")))
        return 125;
    lowest = strtoul(words[2], NULL, 16);
    highest = strtoul(words[3], NULL, 16);
    seen = calloc((highest - lowest) / 16 + 1, 1);
    pid_t first = fork();
    if (first == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        execv(words[4], words + 4);
        _exit(127);
    }
    int status;
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0,
           PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC);
    ptrace(PTRACE_SINGLESTEP, first, 0, 0);
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0)
            return 125;
        if (!WIFSTOPPED(status)) {
            if (pid != first) {
                forget(pid);
                continue;
            }
            let_go();
            fclose(to);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
        }
        if (pid != first && status >> 16 == PTRACE_EVENT_EXEC) {
            ptrace(PTRACE_DETACH, pid, 0, 0);
            forget(pid);
            continue;
        }
        if (pid != first)
            remember(pid);
        look(pid);
        ptrace(PTRACE_SINGLESTEP, pid, 0, signal_of(status));
    }
}
