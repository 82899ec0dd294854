"""The measures: each takes the bench and gives {what: {runtime: …}} beside its table."""
import collections, os, random, re, shutil, signal, statistics, subprocess, tempfile, time

from . import clock, host
from . import order as ordered
from .clock import Failed, Run, interleaved, show, total

# What ratios are taken to.
REFERENCES = ('floor', 'lean', 'ours')


def rounds(bench, once):
    """Interleaved rounds; a runtime that fails is left out of this measure, aloud."""
    names = list(bench.runtimes)
    while names:
        failed = []

        def guarded(name):
            try:
                return once(bench.runtimes[name])
            except Failed as fault:
                failed.append(name)
                bench.say(f'{name} is left out: {fault}')
                raise
        try:
            return interleaved(names, bench.options.rounds, guarded)
        except Failed:
            names = [name for name in names if name not in failed]
            for one in bench.runtimes.values():
                one.close()
    return {}


def table(bench, results):
    for what, runs in results.items():
        show(what, runs, REFERENCES)
        bench.keep(what, runs)


def run(bench):
    def once(one):
        identity = one.new()
        done = one.do('run', identity)
        one.forget(identity)
        return {'run': done}
    table(bench, rounds(bench, once))


def split(bench):
    def once(one):
        identity = one.new()
        create = one.do('create', identity)
        watched = one.watch(identity)
        start = one.do('start', identity)
        one.ended(watched)
        delete = one.do('delete', identity)
        one.forget(identity)
        return {'create': create, 'start': start, 'delete': delete,
                'create+start+delete': total([create, start, delete])}
    table(bench, rounds(bench, once))


def standing(bench, verbs):
    """Verbs of a container that stays."""
    up = {}

    def once(one):
        if one.name not in up or up[one.name] not in one.live:
            up[one.name] = one.up()
        return {verb: one.do(verb, up[one.name] if verb != 'list' else None) for verb in verbs}
    try:
        table(bench, rounds(bench, once))
    finally:
        for one in bench.runtimes.values():
            one.close()


def exec_(bench):
    standing(bench, ['exec'])


def state(bench):
    standing(bench, ['state', 'list'])


def kill(bench):
    def once(one):
        identity = one.up()
        done = one.do('kill', identity)
        one.forget(identity)
        return {'delete -f': done}
    table(bench, rounds(bench, once))


def parallel(bench):
    """Launches a second; four parts, in turn with the others."""
    parts, count, jobs = 4, bench.options.launches, bench.options.jobs
    rates = collections.defaultdict(list)
    for part in range(parts):
        for one in random.sample(list(bench.runtimes.values()), len(bench.runtimes)):
            identities = [one.new() for _ in range(count // parts)]
            try:
                rates[one.name].append(one.clock.parallel(
                    [one.command('run', identity) for identity in identities], jobs))
                for identity in identities:
                    one.forget(identity)
            except Failed as fault:
                bench.say(f'{one.name}: {fault}')
                one.close()
    title = f'{count} runs, {jobs} at a time'
    floors = [name for name in ('floor', 'lean', 'ranges') if len(rates[name]) == parts]
    print(f'\n{title:24}{"a second":>10}' + ''.join(f'{"/ " + name:>9}' for name in floors))
    result = {}
    for name in bench.runtimes:
        if len(rates[name]) == parts:
            result[name] = rates[name]
            shares = (statistics.median(a / b for a, b in zip(rates[name], rates[floor]))
                      for floor in floors)
            print(f'  {name:22}{statistics.median(rates[name]):10.0f}'
                  + ''.join(f'{share:9.2f}' for share in shares))
    bench.document['measures'][title] = result


def usage(bench):
    """KiB: charged to the cgroup that holds all containers; of the kernel, as the host sees it."""
    file = bench.host.file('memory', 'memory.usage_in_bytes') or \
        bench.host.file('', 'memory.current')
    charged = int(host.get(file)) / 1024 if file else 0
    return charged, host.memory()


def private(one):
    """KiB that processes of running containers use alone or share with one another (PSS)."""
    sizes = []
    for identity in one.live:
        with open(f'/proc/{one.pid(identity)}/smaps_rollup') as file:
            sizes.append(int(re.search(r'^Pss:\s+(\d+)', file.read(), re.M)[1]))
    return statistics.mean(sizes) if sizes else 0


def idle(bench):
    """Memory of containers that do nothing, in three rounds in turn."""
    count, samples = bench.options.idle, collections.defaultdict(list)
    for _ in range(3):
        for one in random.sample(list(bench.runtimes.values()), len(bench.runtimes)):
            try:
                one.gone(one.up())
                time.sleep(1)
                before = usage(bench)
                for _ in range(count):
                    one.up()
                time.sleep(1)
                after = usage(bench)
                samples[one.name].append([(after[0] - before[0]) / count,
                                          (after[1] - before[1]) / count, private(one)])
            except Failed as fault:
                bench.say(f'{one.name}: {fault}')
            finally:
                one.close()
    title = 'idle container, KiB'
    print(f'\n{title:24}{"charged":>10}{"kernel":>9}{"PSS":>7}{"x floor":>9}'
          f'    ({count} at once, median of 3)')
    middle = lambda name, at: statistics.median(row[at] for row in samples[name])
    for name in bench.runtimes:
        if samples[name]:
            ratio = middle(name, 0) / middle('floor', 0) if samples.get('floor') else 0
            print(f'  {name:22}{middle(name, 0):10.0f}{middle(name, 1):9.0f}{middle(name, 2):7.0f}'
                  f'{ratio:9.2f}')
    bench.document['measures'][title] = dict(samples)


REST = 0.05  # s; the kernel takes a removed container apart after its runtime has ended


def many(bench):
    """With ten containers running, with very many, and with ten again: a machine that has become
    slower or faster meanwhile is no growth. A start is measured when the one before it is gone for
    good, and again right after it (`at once`)."""
    result, number = {}, bench.options.many
    print(f'\n{f"{number} containers":24}{"run at 10":>10}{"run, all":>10}{"ratio":>7}{"at once":>8}'
          f'{"list":>9}{"state":>8}{"delete -f":>10}   ms;{"charged":>9}{"kernel":>8} KiB each')
    for one in bench.runtimes.values():
        try:
            def sample(verb, times, identity=None, rest=0.0):
                done = []
                for _ in range(times):
                    name = one.new() if verb == 'run' else identity
                    time.sleep(rest)
                    done.append(one.do(verb, name).wall / 1e3)
                    if verb == 'run':
                        one.forget(name)
                return done
            one.gone(one.up())
            time.sleep(1)
            before = usage(bench)
            up = [one.up() for _ in range(10)]
            few, few_at_once = sample('run', 40, rest=REST), sample('run', 40)
            up += [one.up() for _ in range(number - 10)]
            time.sleep(1)
            after = usage(bench)
            all_up, all_at_once = sample('run', 40, rest=REST), sample('run', 40)
            listed, state_ = sample('list', 10), sample('state', 10, up[0])
            killed = []
            for identity in up[10:]:
                killed.append(one.do('kill', identity).wall / 1e3)
                one.forget(identity)
            time.sleep(1)
            few += sample('run', 40, rest=REST)
            few_at_once += sample('run', 40)
            few, few_at_once, all_up, all_at_once = map(
                statistics.median, (few, few_at_once, all_up, all_at_once))
            row = [few, all_up, all_up / few, all_at_once / few_at_once,
                   *map(statistics.median, (listed, state_, killed)),
                   (after[0] - before[0]) / number, (after[1] - before[1]) / number]
            result[one.name] = row
            print(f'  {one.name:22}{row[0]:10.2f}{row[1]:10.2f}{row[2]:7.2f}{row[3]:8.2f}'
                  f'{row[4]:9.2f}{row[5]:8.2f}{row[6]:10.2f}      {row[7]:9.0f}{row[8]:8.0f}',
                  flush=True)
        except Failed as fault:
            bench.say(f'{one.name} is left out: {fault}')
        finally:
            one.close()
    bench.document['measures'][f'{number} containers'] = result


# ---- counts: what does not depend on the machine's load ----

def reap(but):
    """Reaps orphans of containers, which some commands wait for."""
    while (there := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and \
            there.si_pid != but:
        os.waitpid(there.si_pid, 0)


def traced(_, argv):
    """System calls of a command and what it starts, until the command itself has ended."""
    with tempfile.NamedTemporaryFile() as trace:
        strace = subprocess.Popen(['strace', '-I1', '-f', '-q', '-o', trace.name, *argv],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        try:
            until, ended = time.monotonic() + 60, None
            while not ended and strace.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
                reap(strace.pid)
                with open(trace.name, errors='replace') as file:
                    text = file.read()
                first = text.split(None, 1)[0] if text else '-'
                ended = re.search(rf'^{first} +\+\+\+ exited', text, re.M)
            if strace.poll() is None:  # a container stays
                time.sleep(0.05)
                strace.send_signal(signal.SIGTERM)
            strace.wait()
        except BaseException:
            strace.kill()
            strace.wait()
            raise
        with open(trace.name, errors='replace') as file:
            lines = file.read().splitlines()
        calls = [match[1] for line in lines if (match := re.match(r'\d+ +([a-z_0-9]+)\(', line))]
        return {'calls': len(calls), 'processes': len({line.split(None, 1)[0] for line in lines}),
                'execve': calls.count('execve')}


def largest(timer, argv):
    """Largest resident size in KiB; busybox, which executes the command in a child of its own
    1.3 MiB, is the least that can be seen. It counts 1 KiB as 4."""
    with tempfile.NamedTemporaryFile('r') as file:
        timer.run(['/bin/busybox', 'time', '-o', file.name, '-f', '%M', *argv])
        return int(file.read().split()[-1]) // 4


def instructions(timer, argv):
    """Of the command's first process alone, by callgrind; None where that cannot follow."""
    with tempfile.TemporaryDirectory() as folder:
        timer.run([shutil.which('valgrind'), '--tool=callgrind', '--callgrind-out-file=/dev/null',
                   f'--log-file={folder}/%p', *argv], good=None)
        logs = sorted(os.listdir(folder), key=int)  # the parent has the first pid
        with open(os.path.join(folder, logs[0])) as file:
            found = re.search(r'Collected : (\d+)', file.read())
        return int(found[1]) if found else None


def phases(one, measured):
    """{verb: measured(command)}, each on a container in the state that the verb wants."""
    result = {}

    def take(verb, identity, then=None):
        result[verb] = measured(one.clock, one.command(verb, identity))
        if then and f'"{then}"' not in one.clock.said(one.command('state', identity), good=None):
            one.do(verb, identity)  # a tool that cannot follow has stopped it
    identity = one.new()
    take('run', identity)
    one.gone(identity)
    identity = one.new(('/bin/pause',))
    take('create', identity, 'created')
    take('start', identity, 'running')
    for verb in ('exec', 'state', 'list'):
        take(verb, identity)
    take('kill', identity)
    one.gone(identity)
    identity = one.new()
    one.do('create', identity)
    watched = one.watch(identity)
    one.do('start', identity)
    one.ended(watched)
    take('delete', identity)
    one.gone(identity)
    return result


def counts(bench):
    """System calls, processes and memory of each verb; our own instructions."""
    verbs = ('run', 'create', 'start', 'exec', 'state', 'list', 'delete', 'kill')
    kinds = []
    if shutil.which('strace'):
        kinds.append(('system calls', traced))
    kinds.append(('largest process, KiB', largest))
    if shutil.which('valgrind') and 'ours' in bench.runtimes:
        kinds.append(('instructions, million', instructions))
    for title, measured in kinds:
        print(f'\n{title:24}' + ''.join(f'{verb if verb != "kill" else "delete -f":>11}'
                                        for verb in verbs))
        kept = bench.document['measures'].setdefault(title, {})
        for name, one in bench.runtimes.items():
            if measured is instructions and name != 'ours':
                continue
            try:
                kept[name] = phases(one, measured)
            except (Failed, OSError, ValueError, IndexError, subprocess.SubprocessError) as fault:
                bench.say(f'{name}: {title}: {fault}')
                one.close()
                continue
            cells = []
            for verb in verbs:
                value = kept[name].get(verb)
                if isinstance(value, dict):
                    value = f'{value["calls"]}/{value["processes"]}'
                elif measured is instructions:
                    value = f'{value / 1e6:.2f}' if value else '-'
                cells.append(f'{value:>11}')
            print(f'  {name:22}' + ''.join(cells), flush=True)
    print('\nsystem calls are of all processes, whose number follows, until the command ends')


def order(bench):
    """Which functions of ours lie side by side the next time it is linked."""
    one = bench.runtimes['ours']
    found = ordered.Order(bench.host.folder, one.path)
    for verb, new in phases(one, found.follow).items():
        print(f'{verb:10} {new:5} functions')
    print(f'{os.path.relpath(ordered.FILE)}: {len(found.named)} functions, {found.write()} bytes')


MEASURES = {'run': run, 'split': split, 'exec': exec_, 'kill': kill, 'state': state,
            'parallel': parallel, 'idle': idle, 'many': many, 'counts': counts, 'order': order}
UNASKED = [name for name in MEASURES if name not in ('many', 'order')]
