"""bench/floor_oci.c built for a bundle: its decisions become constants of the program."""
import os

from . import bundle, peers


def text(value):
    return '"' + value.replace('\\', '\\\\').replace('"', '\\"') + '"'


def array(declaration, rows):
    return f'static const {declaration} = {{\n' + ''.join(f'    {row},\n' for row in rows) + '};\n'


def plan(config, group, program):
    resources, process = config['linux']['resources'], config['process']
    limits = [('CPU', 'cpu.shares', resources['cpu']['shares']),
              ('CPU', 'cpu.cfs_period_us', resources['cpu']['period']),
              ('CPU', 'cpu.cfs_quota_us', resources['cpu']['quota']),
              ('DEVICES', 'devices.deny', 'a'),
              ('MEMORY', 'memory.limit_in_bytes', resources['memory']['limit']),
              ('PIDS', 'pids.max', resources['pids']['limit'])]
    number = lambda value: '*' if value is None else value
    allowed = [f'{device.get("type")} {number(device.get("major"))}:{number(device.get("minor"))} '
               f'{device["access"]}' for device in resources['devices'] if device['allow']]
    capabilities = sum(1 << bit for bit in bundle.NUMBERS)
    assert set(process['capabilities']['bounding']) == set(bundle.CAPABILITIES)
    return ''.join((
        'enum { BLKIO, CPU, CPUACCT, DEVICES, FREEZER, MEMORY, PIDS };\n',
        f'#define GROUP {text(group)}\n#define ROOTFS {text(config["root"]["path"])}\n',
        f'#define HOSTNAME {text(config["hostname"])}\n#define CAPABILITIES {capabilities}ull\n',
        f'#define NO_NEW_PRIVILEGES {int(process["noNewPrivileges"])}\n',
        array('struct { int group; const char *file, *text; } limits[]',
              [f'{{{kind}, {text(file)}, {text(str(value))}}}' for kind, file, value in limits]),
        array('char *const allowed[]', map(text, allowed)),
        array('char *const masked[]', map(text, config['linux']['maskedPaths'])),
        array('char *const read_only[]', map(text, config['linux']['readonlyPaths'])),
        array('char *const environment[]', [*map(text, process['env']), 'NULL']),
        array('struct sock_filter filter[]',
              ['{%d, %d, %d, %du}' % instruction for instruction in program])))


BARE = ('-nostdlib', '-fno-pie', '-no-pie', '-fno-builtin', '-fno-stack-protector',
        '-fno-tree-loop-distribute-patterns')


def build(here, folder, config, group, program, name):
    """The program's path."""
    folder = os.path.join(folder, name)
    os.makedirs(folder)
    with open(os.path.join(folder, 'plan.h'), 'w') as file:
        file.write(plan(config, group, program))
    target = os.path.join(folder, 'program')
    kind = (*BARE, os.path.join(here, 'bare.c')) if name == 'floor' else ('-DLEAN',)
    peers.step('gcc', '-O2', '-Wall', '-static', '-s', '-I', folder, '-o', target,
               os.path.join(here, 'floor_oci.c'), *kind)
    return target
