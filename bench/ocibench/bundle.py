"""The container every runtime is asked for: what `docker run` with limits writes, as a bundle."""
import json, os, shutil

from . import peers

CAPABILITIES = ['CAP_' + name for name in (
    'CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP '
    'NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE').split()]
NUMBERS = [0, 1, 4, 3, 27, 13, 6, 7, 31, 8, 10, 18, 5, 29]  # of those, linux/capability.h
MASKED = ['/proc/asound', '/proc/acpi', '/proc/interrupts', '/proc/kcore', '/proc/keys',
          '/proc/latency_stats', '/proc/timer_list', '/proc/timer_stats', '/proc/sched_debug',
          '/proc/scsi', '/sys/firmware', '/sys/devices/virtual/powercap']
READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']
NAMESPACES = ['pid', 'network', 'ipc', 'uts', 'mount', 'cgroup']
MEMORY, SHARES, QUOTA, PERIOD, PIDS = 256 << 20, 512, 100000, 100000, 100
DEVICES = [('c', 1, 3), ('c', 1, 5), ('c', 1, 7), ('c', 1, 8), ('c', 1, 9), ('c', 5, 0),
           ('c', 5, 2), ('c', 136, None)]
ERRORS = {'EPERM': 1, 'EINVAL': 22, 'ENOSYS': 38}


def seccomp(profile):
    """An engine's profile as linux.seccomp, for x86-64 with x86 and x32, as Docker derives it."""
    with open(profile) as file:
        profile = json.load(file)
    rules = []
    for entry in profile['syscalls']:
        only, unless = entry.get('includes') or {}, entry.get('excludes') or {}
        if (only.get('arches') and 'amd64' not in only['arches']
                or 'amd64' in unless.get('arches', [])
                or set(only.get('caps', [])) - set(CAPABILITIES)
                or set(unless.get('caps', [])) & set(CAPABILITIES)):
            continue
        rule = {'names': entry['names'], 'action': entry['action']}
        if entry['action'] == 'SCMP_ACT_ERRNO':
            rule['errnoRet'] = entry.get('errnoRet', ERRORS.get(entry.get('errno'), 1))
        if entry.get('args'):
            rule['args'] = [{key: arg.get(key, 0) for key in ('index', 'value', 'valueTwo', 'op')}
                            for arg in entry['args']]
        rules.append(rule)
    default = ERRORS.get(profile.get('defaultErrno'), profile.get('defaultErrnoRet', 1))
    return {'defaultAction': profile['defaultAction'], 'defaultErrnoRet': default,
            'architectures': ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
            'syscalls': rules}


def mounts():
    safe = ['nosuid', 'noexec', 'nodev']
    return [{'destination': at, 'type': kind, 'source': source, 'options': options}
            for at, kind, source, options in (
        ('/proc', 'proc', 'proc', safe),
        ('/dev', 'tmpfs', 'tmpfs', ['nosuid', 'strictatime', 'mode=755', 'size=65536k']),
        ('/dev/pts', 'devpts', 'devpts',
         ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5']),
        ('/sys', 'sysfs', 'sysfs', [*safe, 'ro']),
        ('/sys/fs/cgroup', 'cgroup', 'cgroup', ['ro', *safe]),
        ('/dev/mqueue', 'mqueue', 'mqueue', safe),
        ('/dev/shm', 'tmpfs', 'shm', [*safe, 'mode=1777', 'size=67108864']))]


def config(root, filter_rules, no_new_privileges):
    devices = [{'allow': False, 'access': 'rwm'}]
    devices += [{'allow': True, 'type': kind, 'access': 'm'} for kind in 'cb']
    for kind, major, minor in DEVICES:
        device = {'allow': True, 'type': kind, 'major': major, 'minor': minor, 'access': 'rwm'}
        devices.append({key: value for key, value in device.items() if value is not None})
    sets = ('bounding', 'effective', 'permitted')
    return {
        'ociVersion': '1.0.2', 'hostname': 'bench', 'root': {'path': root, 'readonly': False},
        'process': {
            'terminal': False, 'user': {'uid': 0, 'gid': 0}, 'args': ['/bin/true'], 'cwd': '/',
            'env': ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
                    'HOME=/root'],
            'capabilities': {kind: CAPABILITIES for kind in sets},
            'noNewPrivileges': no_new_privileges},
        'mounts': mounts(),
        'linux': {
            'namespaces': [{'type': kind} for kind in NAMESPACES],
            'maskedPaths': MASKED, 'readonlyPaths': READ_ONLY, 'cgroupsPath': '@GROUP@',
            'resources': {'devices': devices, 'memory': {'limit': MEMORY},
                          'cpu': {'shares': SHARES, 'quota': QUOTA, 'period': PERIOD},
                          'pids': {'limit': PIDS}},
            'seccomp': filter_rules}}


def compile_c(source, target, *flags):
    if not os.path.exists(target) or os.path.getmtime(target) < os.path.getmtime(source):
        peers.step('gcc', '-O2', '-Wall', *flags, '-o', target, source)


class Bundles:
    """A rootfs, and bundles in which containers of it have a cgroup of their own."""

    def __init__(self, here, folder, group, rules, no_new_privileges):
        self.folder, self.group, self.root = folder, group, os.path.join(folder, 'rootfs')
        for name in 'bin dev etc proc sys tmp root usr/bin'.split():
            os.makedirs(os.path.join(self.root, name))
        shutil.copy('/bin/busybox', os.path.join(self.root, 'bin/busybox'))
        os.symlink('busybox', os.path.join(self.root, 'bin/sh'))
        with open(os.path.join(self.root, 'etc/passwd'), 'w') as file:
            file.write('root:x:0:0:root:/root:/bin/sh\n')
        bare = ('-static', '-nostdlib', '-ffreestanding', '-fno-stack-protector', '-s')
        inside = os.path.join(here, 'inside.c')
        for name in ('true', 'pause'):
            compile_c(inside, os.path.join(self.root, 'bin', name), *bare, '-D' + name.upper())
        compile_c(inside, os.path.join(self.root, 'bin/inside'), '-static', '-s')
        self.config = config(self.root, rules, no_new_privileges)
        self.text = json.dumps(self.config)

    def make(self, identity, program=('/bin/true',)):
        """The folder of a bundle for the container of that name."""
        at = os.path.join(self.folder, 'bundles', identity)
        os.makedirs(at, exist_ok=True)
        text = self.text.replace('@GROUP@', f'/{self.group}/{identity}')
        with open(os.path.join(at, 'config.json'), 'w') as file:
            file.write(text.replace('["/bin/true"]', json.dumps(program)))
        return at

    def drop(self, identity):
        shutil.rmtree(os.path.join(self.folder, 'bundles', identity), ignore_errors=True)
