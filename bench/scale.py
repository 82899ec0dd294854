#!/usr/bin/env python3
"""How the time to start a guest grows with the number of guests that run.

    bench/scale.py [PROGRAM] [GUESTS]

Makes GUESTS (200) guests of the busybox template in an installation of its own, starts them one
after the other, and prints the median time of the first 20 and of the last 20 starts and their
ratio; then the same again with 20 fresh starts on an otherwise empty installation, so that a
machine that grew slower meanwhile is told apart from a program that does. Removes everything.
"""
import statistics, subprocess, sys, tempfile, time

program = sys.argv[1] if len(sys.argv) > 1 else "target/x86_64-unknown-linux-gnu/release/bulkhead"
number = int(sys.argv[2]) if len(sys.argv) > 2 else 200
window = min(20, number // 4)


def run(*args, check=True):
    return subprocess.run([program, "--root", root, *args], check=check, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True)


def timed(*args):
    began = time.perf_counter()
    run(*args)
    return (time.perf_counter() - began) * 1000


def show(what, times):
    quartiles = statistics.quantiles(times, n=4)
    print(f"{what:28} median {quartiles[1]:7.2f} ms   quartiles {quartiles[0]:7.2f} .. {quartiles[2]:7.2f}")
    return quartiles[1]


with tempfile.TemporaryDirectory(prefix="bulkhead-scale-", dir="/var/tmp") as root:
    try:
        names = [f"g{n}" for n in range(number)]
        created = [timed("create", name, "--template", "busybox", "--memory", "32M") for name in names]
        show(f"create, first {window}", created[1:window + 1])
        show(f"create, last {window}", created[-window:])
        started = [timed("start", name) for name in names]
        first = show(f"start, first {window}", started[1:window + 1])
        last = show(f"start, last {window}", started[-window:])
        listed = [timed("list") for _ in range(5)]
        show(f"list of {number}", listed)
        print(f"ratio of starts, last to first   {last / first:.2f}")
        killed = timed("kill", "--all", "-j", "2")
        print(f"kill of all                  {killed / number:14.2f} ms a guest")
        again = [timed("start", name) for name in names[:window]]
        fresh = show(f"start, {window} again, alone", again)
        print(f"ratio of starts, last to alone   {last / fresh:.2f}")
    finally:
        deleted = time.perf_counter()
        run("delete", "--all", "--force", "-j", "2", check=False)
        print(f"delete of all                {(time.perf_counter() - deleted) * 1000 / number:14.2f} ms a guest")
        run("doctor", "--fix", check=False)
