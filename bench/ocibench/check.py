"""Is what the bundle asks for in force? Judged from what bench/inside.c says inside a container; of
a runtime that leaves anything out no figure is printed."""
import os

from . import bundle
from .filter import X32_BIT, X64, X86, interpreted

ALL = ('/proc', 'proc', set()), ('/dev', 'tmpfs', {'nosuid'}), \
    ('/dev/pts', 'devpts', {'nosuid', 'noexec'}), \
    ('/dev/shm', 'tmpfs', {'nosuid', 'noexec', 'nodev'}), \
    ('/dev/mqueue', 'mqueue', {'nosuid', 'noexec', 'nodev'}), \
    ('/sys', 'sysfs', {'ro', 'nosuid', 'noexec', 'nodev'}), \
    ('/sys/fs/cgroup', None, {'nosuid', 'noexec', 'nodev'})
NAMESPACES = ('pid', 'net', 'ipc', 'uts', 'mnt', 'cgroup')
CALLS = {  # probe: ABI, number, first argument
    'getpid': (X64, 39, 0), 'acct': (X64, 163, 0), 'personality-query': (X64, 135, 0xFFFFFFFF),
    'personality-other': (X64, 135, 0x1000), 'x32-acct': (X64, X32_BIT | 163, 0),
    'x86-getpid': (X86, 20, 0), 'x86-personality-other': (X86, 136, 0x1000)}
ALLOW, ERROR, EPERM, EROFS = 0x7FFF0000, 0x00050000, 1, 30


def arguments():
    masked = [word for path in bundle.MASKED for word in ('-m', path)]
    return ['/bin/inside', *masked,
            *[word for path in bundle.READ_ONLY for word in ('-r', path)]]


def parse(text):
    """{first word: [the rest of the line]}"""
    facts = {}
    for line in text.splitlines():
        word, _, rest = line.partition(' ')
        facts.setdefault(word, []).append(rest)
    return facts


def status(facts, no_new_privileges, entered):
    fields = dict(line.split(':', 1) for line in facts['status'] if ':' in line)
    fields = {key: value.strip() for key, value in fields.items()}
    keep = '%016x' % sum(1 << bit for bit in bundle.NUMBERS)
    wanted = {'Seccomp': '2', 'NoNewPrivs': str(int(no_new_privileges)), 'CapBnd': keep,
              'CapEff': keep, 'CapPrm': keep, 'CapInh': '0' * 16, 'CapAmb': '0' * 16}
    if entered:  # `crun exec` takes that from its command line or a process.json of the engine
        del wanted['NoNewPrivs']
    return [f'{key} is {fields.get(key)}, not {value}' for key, value in wanted.items()
            if fields.get(key) != value]


def mounts(facts):
    wrong, found = [], {}
    for line in facts['mount']:
        words = line.split()
        behind = words.index('-')  # a mount is read-only, or its file system is
        read_only = {'ro'} & set(words[behind + 3].split(','))
        found[words[4]] = (words[behind + 1], set(words[5].split(',')) | read_only)
    for at, kind, options in ALL:
        there = found.get(at)
        if not there or kind and there[0] != kind or options - there[1]:
            wrong.append(f'{at} is {there}, not {kind} with {sorted(options)}')
    # crun and runc seal each hierarchy, not the tmpfs that holds their folders.
    wrong += [f'{at} is not read-only' for at, (kind, options) in found.items()
              if kind.startswith('cgroup') and 'ro' not in options]
    known = {at for at, _, _ in ALL} | {'/'} | set(bundle.MASKED) | set(bundle.READ_ONLY)
    wrong += [f'a mount of the host: {at}' for at in found
              if at not in known and not at.startswith('/sys/fs/cgroup/')]
    return wrong


def limits(facts):
    if 'memory.max' in facts:
        wanted = {'memory.max': bundle.MEMORY, 'cpu.max': f'{bundle.QUOTA} {bundle.PERIOD}',
                  'pids.max': bundle.PIDS}
    else:
        wanted = {'memory/memory.limit_in_bytes': bundle.MEMORY, 'cpu/cpu.shares': bundle.SHARES,
                  'cpu/cpu.cfs_quota_us': bundle.QUOTA, 'cpu/cpu.cfs_period_us': bundle.PERIOD,
                  'pids/pids.max': bundle.PIDS}
    wrong = [f'{key} is {facts.get(key)}, not {value}' for key, value in wanted.items()
             if facts.get(key) != [str(value)]]
    if 'devices/devices.list' in facts:
        there = set(facts['devices/devices.list'])
        asked = {f'{kind} {major}:{"*" if minor is None else minor} rwm'
                 for kind, major, minor in bundle.DEVICES}
        if 'a *:* rwm' in there or asked - there:
            wrong.append(f'devices allowed: {sorted(there)}')
    wrong += [f'the cgroup of {line} is not the root of its namespace' for line in facts['group']
              if not line.endswith(':/')
              and set(line.split(':')[1].split(',')) & {'memory', 'cpu', 'pids', 'devices', ''}]
    return wrong


def paths(facts):
    """Masked ones are empty, read-only ones read-only; absent only where the host has none."""
    wrong = []
    for kind, good, wanted in (('masked', 'empty', bundle.MASKED),
                               ('readonly', 'yes', bundle.READ_ONLY)):
        said = dict(line.rsplit(' ', 1) for line in facts.get(kind, []))
        wrong += [f'{kind} {path}: {said.get(path)}' for path in wanted
                  if said.get(path) != good
                  and not (said.get(path) == 'absent' and not os.path.exists(path))]
    return wrong


def calls(facts, program):
    said = {name: int(number) for name, number in (line.split() for line in facts['call'])}
    wrong = []
    for name, (arch, number, argument) in CALLS.items():
        verdict = interpreted(program, arch, number, [argument, 0, 0, 0, 0, 0])
        wanted = 0 if verdict == ALLOW else verdict & 0xFFFF
        if said.get(name) != wanted:
            wrong.append(f'the call {name} gives {said.get(name)}, not {wanted}')
    for name, wanted in (('mknod', 0), ('open-kmem', EPERM)):
        if said.get(name) != wanted:
            wrong.append(f'{name} gives {said.get(name)}, not {wanted}')
    if 'memory/memory.limit_in_bytes' in facts and said['write-limit'] != EROFS:
        wrong.append('a limit can be opened for writing')
    return wrong


def spaces(facts, same_as):
    """Other namespaces than ours or, for an exec, those of the container's first process."""
    wrong = []
    for line in facts['namespace']:
        name, _, there = line.partition(' ')
        other = os.readlink(f'/proc/{same_as or "self"}/ns/{name}')
        if (there == other) != bool(same_as):
            wrong.append(f'namespace {name} is {there}' +
                         (f', not {other}' if same_as else ', which is the host\'s'))
    return wrong if len(facts['namespace']) == len(NAMESPACES) else ['namespaces missing']


def surroundings(facts, first):
    wrong = []
    nodes = {'null 1:3', 'zero 1:5', 'full 1:7', 'random 1:8', 'urandom 1:9', 'tty 5:0'}
    if {line.rsplit(' ', 1)[0] for line in facts.get('device', [])} != nodes:
        wrong.append(f'devices are {facts.get("device")}')
    if {'fd', 'stdin', 'stdout', 'stderr', 'ptmx'} - set(facts.get('link', [])):
        wrong.append(f'links are {facts.get("link")}')
    if facts['hostname'] != ['bench']:
        wrong.append(f'host name {facts["hostname"]}')
    if (facts['pid'] == ['1']) != first:
        wrong.append(f'pid {facts["pid"]}')
    if facts['descriptors'] != ['0']:
        wrong.append(f'{facts["descriptors"][0]} descriptors of others are open')
    return wrong


def judged(text, program, no_new_privileges, entered=None):
    """What is wrong; `entered` is the first process of the container that was entered."""
    facts = parse(text)
    if 'end' not in facts:
        return [f'ended early: {text.strip()[-400:] or "silent"}']
    return (status(facts, no_new_privileges, entered) + mounts(facts) + limits(facts) + paths(facts)
            + calls(facts, program) + spaces(facts, entered)
            + surroundings(facts, first=not entered))


def runtime(one, program, no_new_privileges):
    """What is wrong with the containers of a runtime: one run, one entered."""
    wanted = arguments()
    identity = one.new(wanted)
    wrong = [f'run: {fault}' for fault in
             judged(one.clock.said(one.command('run', identity)), program, no_new_privileges)]
    one.forget(identity)
    identity = one.up()
    said = one.clock.said(one.command('exec', identity, wanted))
    wrong += [f'exec: {fault}' for fault in
              judged(said, program, no_new_privileges, one.pid(identity))]
    state = one.clock.said(one.command('state', identity))
    if '"running"' not in state:
        wrong.append(f'state: {state.strip()[:200]}')
    if identity not in one.clock.said(one.command('list')):
        wrong.append('list: a running container is missing')
    one.do('kill', identity)
    one.forget(identity)
    if identity in one.clock.said(one.command('list')):
        wrong.append('delete -f: still in the list')
    return wrong
