"""What the bench makes on the host, and takes away again: a mount namespace of its own, a cgroup in
every hierarchy below which all containers lie, an empty mount namespace for the floor."""
import ctypes, os, re, shutil, signal, tempfile, time

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, PRIVATE, LAZILY, PIVOT_ROOT = 0x20000, 0x44000, 2, 155
PREFIX = 'bulkhead-bench-oci-'


def check(done, what):
    if done < 0:
        raise OSError(ctypes.get_errno(), f'{what}: {os.strerror(ctypes.get_errno())}')


def own_mounts():
    """A mount namespace of this process. Version 2 of cgroups beside version 1 is not in it, for
    any program measured: crun of Debian 12 refuses a host where both have controllers."""
    check(LIBC.unshare(NEW_MOUNTS), 'unshare')
    check(LIBC.mount(None, b'/', None, PRIVATE, None), 'private mounts')
    if os.path.exists('/sys/fs/cgroup/unified/cgroup.procs'):
        check(LIBC.umount2(b'/sys/fs/cgroup/unified', LAZILY), 'umount of cgroup2')


def hierarchies():
    """Mount points of version 1 hierarchies, or of the one of version 2."""
    with open('/proc/self/mountinfo') as file:
        rows = [line.split() for line in file]
    return [row[4] for row in rows if row[row.index('-') + 1] in ('cgroup', 'cgroup2')]


def put(*path, value):
    with open(os.path.join(*path), 'w') as file:
        file.write(str(value))


def get(*path):
    with open(os.path.join(*path)) as file:
        return file.read().strip()


def remove_group(top):
    """Ends what still runs in a cgroup of ours, and removes it with all below."""
    for attempt in range(100):
        left = False
        for at, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(at)
            except OSError:
                left = True
                try:
                    for pid in get(at, 'cgroup.procs').split():
                        if int(pid) != os.getpid():
                            os.kill(int(pid), signal.SIGKILL)
                except OSError:
                    pass
        if not left:
            return
        time.sleep(0.02)
    print(f'bench: cannot remove {top}')


def alive(pid):
    return os.path.exists(f'/proc/{pid}')


class Host:
    def __init__(self):
        self.folder = self.empty = None
        self.home = {}
        own_mounts()
        self.tops = hierarchies()
        self.v1 = not (len(self.tops) == 1 and os.path.exists(self.tops[0] + '/cgroup.controllers'))
        for top in self.tops:  # of a bench that was killed
            for name in os.listdir(top):
                if name.startswith(PREFIX) and not alive(name[len(PREFIX):]):
                    remove_group(os.path.join(top, name))
        self.group = PREFIX + str(os.getpid())
        self.folder = tempfile.mkdtemp(prefix=PREFIX, dir='/run')
        os.chmod(self.folder, 0o755)
        check(LIBC.mount(b'bench', self.folder.encode(), b'tmpfs', 0, b'mode=755'), 'tmpfs')

    def prepare(self):
        for top in self.tops:
            group = os.path.join(top, self.group)
            os.mkdir(group)
            if not self.v1:
                put(top, 'cgroup.subtree_control', value='+cpu +memory +pids')
                put(group, 'cgroup.subtree_control', value='+cpu +memory +pids')
            if os.path.exists(os.path.join(group, 'cpuset.cpus')) and self.v1:
                for name in ('cpuset.cpus', 'cpuset.mems'):
                    put(group, name, value=get(top, name))
        # The bench and what it starts count in a cgroup beside the containers'.
        for name in ('memory', 'cpuacct') if self.v1 else ('',):
            top = os.path.join('/sys/fs/cgroup', name)
            if os.path.isdir(os.path.join(top, self.group)):
                bench = os.path.join(top, self.group, 'bench')
                os.mkdir(bench)
                self.home[top] = self.where(name)
                put(bench, 'cgroup.procs', value=os.getpid())
        self.empty = self.empty_namespace()

    def where(self, controller):
        for line in get('/proc/self/cgroup').splitlines():
            _, names, path = line.split(':', 2)
            if controller in names.split(','):
                return path
        return '/'

    def file(self, controller, name):
        """A file of the cgroup that holds all containers, if the host has it."""
        path = os.path.join('/sys/fs/cgroup', controller if self.v1 else '', self.group, name)
        return path if os.path.exists(path) else None

    def empty_namespace(self):
        """A descriptor of a mount namespace with nothing in it."""
        space = os.path.join(self.folder, 'empty')
        os.mkdir(space)
        told, tell = os.pipe()
        held, hold = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(hold)
                check(LIBC.unshare(NEW_MOUNTS), 'unshare')
                check(LIBC.mount(b'empty', space.encode(), b'tmpfs', 0, b'size=64k'), 'tmpfs')
                os.chdir(space)
                os.mkdir('old')
                check(LIBC.syscall(PIVOT_ROOT, b'.', b'old'), 'pivot_root')
                os.chdir('/')
                check(LIBC.umount2(b'/old', LAZILY), 'umount')
                os.rmdir('/old')
                os.write(tell, b'y')
                os.read(held, 1)
            finally:
                os._exit(0)
        os.close(tell)
        os.close(held)
        if os.read(told, 1) != b'y':
            raise OSError('no empty mount namespace')
        found = os.open(f'/proc/{pid}/ns/mnt', os.O_RDONLY | os.O_CLOEXEC)
        os.close(hold)
        os.close(told)
        os.waitpid(pid, 0)
        return found

    def close(self):
        for top, home in self.home.items():
            try:
                put(top + home, 'cgroup.procs', value=os.getpid())
            except OSError:
                put(top, 'cgroup.procs', value=os.getpid())
        for top in self.tops:
            group = os.path.join(top, self.group)
            if os.path.isdir(group):
                remove_group(group)
        if self.folder:
            os.chdir('/')
            LIBC.umount2(self.folder.encode(), LAZILY)
            shutil.rmtree(self.folder, ignore_errors=True)


def memory():
    """Kernel memory of the host in KiB, without what it gives back when asked."""
    with open('/proc/meminfo') as file:
        found = {key: int(value) for key, value in re.findall(r'(\w+):\s+(\d+)', file.read())}
    return sum(found[key] for key in ('SUnreclaim', 'VmallocUsed', 'PageTables', 'Percpu'))


def about():
    release = os.uname()
    return {'kernel': release.release, 'cpus': os.cpu_count(), 'load': os.getloadavg(),
            'cpu': next(iter(re.findall(r'model name\s*: (.*)', get('/proc/cpuinfo'))), '?')}
