#!/usr/bin/env python3
"""What it costs the host that guests see their own machine, while all of them look at it in a loop.

    bench/view.py [PROGRAM] [GUESTS] [SECONDS]        as root

Makes GUESTS (200) guests of the busybox template in an installation of its own. In each a shell
reads, again and again, every file that bulkhead serves (`inside` in docs/inside.md), at first with a
second between the rounds, as a monitor does, then without any. Printed is the CPU time that the
guests' keepers and the processes that answer their calls take meanwhile, beside what they take while
nobody reads, in percent of one CPU over SECONDS (20) each; and how many files were read. What a guest
spends on reading is its own, and held to a limit of 0.01 CPUs. Removes everything.
"""
import os, subprocess, sys, tempfile, time

program = sys.argv[1] if len(sys.argv) > 1 else "target/x86_64-unknown-linux-gnu/release/bulkhead"
number = int(sys.argv[2]) if len(sys.argv) > 2 else 200
seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 20
FILES = ["meminfo", "swaps", "vmstat", "stat", "loadavg", "cpuinfo", "diskstats", "uptime",
         "pressure/cpu", "pressure/memory", "pressure/io"]
TICK = os.sysconf("SC_CLK_TCK")
# A reader without a process for each file: the shell's own `read` opens it and takes a line.
READ = ("n=0; while :; do for f in " + " ".join("/proc/" + f for f in FILES)
        + " /sys/devices/system/cpu/online; do read x <$f; done; n=$((n+1)); echo $n >/tmp/NAME; PAUSE; done")


def run(*args, check=True):
    return subprocess.run([program, "--root", root, *args], check=check, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True).stdout


def keepers():
    """Pids of this installation's keepers and of the processes they have made."""
    parents, ours = {}, set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parents[pid] = file.read().rsplit(")", 1)[1].split()[1]
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
        except OSError:
            continue
        if "--keeper" in words and root in words:
            ours.add(pid)
    named = lambda pid: open(f"/proc/{pid}/cmdline").read().startswith("bulkhead: ")
    return ours | {pid for pid, parent in parents.items() if parent in ours and named(pid)}


def spent(pids):
    """CPU seconds of those processes up to now, by the scheduler's own clock."""
    total = 0.0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/schedstat") as file:
                total += int(file.read().split()[0]) / 1e9
        except OSError:
            with open(f"/proc/{pid}/stat") as file:
                words = file.read().rsplit(")", 1)[1].split()
            total += (int(words[11]) + int(words[12])) / TICK
    return total


def measure(what):
    pids = keepers()
    before, began = spent(pids), time.monotonic()
    time.sleep(seconds)
    cost = (spent(pids) - before) / (time.monotonic() - began) * 100
    print(f"{what:34} {cost:6.2f} % of one CPU in {len(pids)} processes")


def rounds(name):
    """How often the readers of some guests have read all files, as far as they say so at this moment."""
    said = {n: run("exec", f"g{n}", "--", "cat", f"/tmp/{name}", check=False).strip()
            for n in range(0, number, max(number // 10, 1))}
    return {n: int(text) for n, text in said.items() if text}


def per_second(before, after, passed):
    turns = [after[n] - before[n] for n in before if n in after]
    return sum(turns) / max(len(turns), 1) * (len(FILES) + 1) * number / passed


with tempfile.TemporaryDirectory(prefix="bulkhead-view-", dir="/var/tmp") as root:
    try:
        for n in range(number):
            run("create", f"g{n}", "--template", "busybox", "--memory", "16M", "--network", "none",
                "--cpus", "0.01")
        run("start", "--all", "-j", "2")
        time.sleep(10)
        measure("nobody reads")
        for what, name, pause in (("all read, a second between", "slow", "sleep 1"),
                                  ("all read without a pause", "fast", ":")):
            shell = READ.replace("PAUSE", pause).replace("NAME", name)
            for n in range(number):
                # In the background of a shell that ends: the reader is the guest's own from then on.
                run("exec", f"g{n}", "--", "sh", "-c", f"({shell}) >/dev/null 2>&1 </dev/null &")
            time.sleep(5)
            before, began = rounds(name), time.monotonic()
            measure(what)
            passed = time.monotonic() - began
            print(f"{'':34} {per_second(before, rounds(name), passed):8.0f} files a second, about")
            for n in range(number):
                run("exec", f"g{n}", "--", "killall", "sh", check=False)
    finally:
        run("delete", "--all", "--force", "--yes", "-j", "2", check=False)
        run("doctor", "--fix", check=False)
