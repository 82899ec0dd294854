#!/usr/bin/env python3
"""How fast a shell of the host's answers while the host is filled up with guests to its ratio.

    bench/full_host.py [PROGRAM] [SECONDS] [MIB]        as root

Makes an installation of its own in which CPUs may be promised twice, and all memory but MIB (half of
what is available now, 16384 at most) is in reserve; and in it eight guests of the busybox template that
are sold all of that: together twice the CPUs there are, and MIB. A ninth is refused, which is printed.
In each run twice as many loops as the host has CPUs, and a program that writes seven eighths of its memory
and then those again and again. Meanwhile a shell of the host's, of no other priority than theirs, lists a
folder for SECONDS (30), with a tenth of a second between; printed is how long that took, before and while
the guests are at it, and how full the host was. Nothing else should run on the machine. Removes everything.
"""
import os, subprocess, sys, tempfile, time

program = sys.argv[1] if len(sys.argv) > 1 else "target/x86_64-unknown-linux-gnu/release/bulkhead"
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 30
GUESTS = 8
cpus = os.cpu_count()


def memory(key):
    """A line of the host's /proc/meminfo, MiB."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith(key + ":"))


promised = int(sys.argv[3]) if len(sys.argv) > 3 else min(memory("MemAvailable") // 2, 16384)
# The part of each: hundredths of a CPU, MiB.
each, size = cpus * 2 * 100 // GUESTS, promised // GUESTS
fill = size * 7 // 8
LOAD = (f"for n in $(seq {cpus * 2}); do (while :; do :; done) & done; "
        f"while :; do dd if=/dev/zero of=/fill/x bs=1M count={fill} conv=notrunc; done")


def run(*args, check=True):
    return subprocess.run([program, "--root", root, *args], check=check, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True).stdout


def answers(what, time_s):
    took, until = [], time.monotonic() + time_s
    while time.monotonic() < until:
        began = time.monotonic()
        subprocess.run(["sh", "-c", "ls / | wc -l"], stdout=subprocess.DEVNULL, check=True)
        took.append((time.monotonic() - began) * 1000)
        time.sleep(0.1)
    took.sort()
    print(f"{what:28} median {took[len(took) // 2]:7.1f} ms, slowest {took[-1]:7.1f} ms of {len(took)}",
          flush=True)


def used():
    with open("/proc/stat") as file:
        words = [int(word) for word in file.readline().split()[1:]]
    return sum(words) - words[3] - words[4], sum(words)


def held():
    """MiB that the guests hold together."""
    text = run("list", "--format", "csv").splitlines()
    at = text[0].split(",").index("memory")
    return sum(int(line.split(",")[at] or 0) for line in text[1:]) >> 20


with tempfile.TemporaryDirectory(prefix="bulkhead-full-", dir="/var/tmp") as root:
    os.makedirs(f"{root}/etc/bulkhead")
    with open(f"{root}/etc/bulkhead/bulkhead.toml", "w") as file:
        file.write(f"[reserve]\nmemory = \"{memory('MemTotal') - promised}M\"\n\n[overcommit]\ncpus = 2\n")
    try:
        for n in range(GUESTS + 1):
            run("create", f"g{n}", "--template", "busybox", "--memory", f"{size}M", "--network", "none",
                "--entitled", f"{each / 100:.2f}", "--tmpfs", f"/fill:{size}M")
            # Version 1 of control groups can guarantee no memory: there the limits are all that is said.
            run("set", f"g{n}", "memory.low=" + f"{size}M", check=False)
        for n in range(GUESTS):
            run("start", f"g{n}")
        refused = run("start", f"g{GUESTS}", check=False).strip().splitlines()
        print(f"{GUESTS} guests, each sold {each / 100} CPUs and {size} MiB of {cpus} and {promised}; "
              f"one more: {refused[0]}")
        answers("host's shell, guests idle", min(seconds, 5))
        for n in range(GUESTS):
            run("exec", f"g{n}", "--", "sh", "-c", f"({LOAD}) >/dev/null 2>&1 </dev/null &")
        until = time.monotonic() + 60
        while held() < promised * 3 // 4 and time.monotonic() < until:
            time.sleep(1)
        before = used()
        answers("host's shell, guests busy", seconds)
        now = used()
        busy = (now[0] - before[0]) / (now[1] - before[1]) * 100
        print(f"CPUs were in use for {busy:.0f} % of that time, guests hold {held()} MiB")
    finally:
        run("delete", "--all", "--force", "--yes", check=False)
        run("doctor", "--fix", check=False)
