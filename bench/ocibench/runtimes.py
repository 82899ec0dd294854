"""How each program measured is asked for a container."""
import os, select

from .clock import Failed


class Runtime:
    """A program with the command line of runc; every container has a bundle and a cgroup of its
    own, so that a name is enough."""

    def __init__(self, name, path, bundles, clock):
        self.name, self.path, self.bundles, self.clock = name, path, bundles, clock
        self.state_folder = os.path.join(bundles.folder, 'state', name)
        os.makedirs(self.state_folder)
        self.base = [path, '--root', self.state_folder]
        self.live, self.count = {}, 0

    def new(self, program=('/bin/true',)):
        """A name for a container, and its bundle."""
        self.count += 1
        identity = f'{self.name}-{self.count}'.replace('.', '_')
        self.bundles.make(identity, program)
        self.live[identity] = program
        return identity

    def bundle(self, identity):
        return os.path.join(self.bundles.folder, 'bundles', identity)

    def pid_file(self, identity):
        return os.path.join(self.bundle(identity), 'pid')

    def argv(self, verb, identity=None):
        """The command for a verb; `kill` is delete -f."""
        return {
            'run': lambda: ['run', '-b', self.bundle(identity), identity],
            'create': lambda: ['create', '-b', self.bundle(identity), '--pid-file',
                               self.pid_file(identity), identity],
            'start': lambda: ['start', identity], 'delete': lambda: ['delete', identity],
            'kill': lambda: ['delete', '-f', identity], 'state': lambda: ['state', identity],
            'exec': lambda: ['exec', identity, '/bin/true'], 'list': lambda: ['list']}[verb]()

    def command(self, verb, identity=None, program=None):
        words = self.argv(verb, identity)
        if program:  # of an exec
            words = words[:-1] + list(program)
        return self.base + words

    def do(self, verb, identity=None):
        """Runs and measures a command."""
        return self.clock.run(self.command(verb, identity))

    def up(self, program=('/bin/pause',)):
        """A running container."""
        identity = self.new(program)
        self.do('create', identity)
        self.do('start', identity)
        return identity

    def pid(self, identity):
        with open(self.pid_file(identity)) as file:
            return int(file.read())

    def ended(self, watched):
        """Waits until a container's process is gone; `watched` is from `watch`."""
        pid, fd = watched
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(10000):
            raise Failed(f'{self.name}: a container does not end')
        os.close(fd)
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass  # reaped while the command was measured

    def watch(self, identity):
        pid = self.pid(identity)
        return pid, os.pidfd_open(pid)

    def forget(self, identity):
        self.live.pop(identity, None)
        self.bundles.drop(identity)

    def gone(self, identity):
        """Deletes a container, whatever its state."""
        try:
            self.clock.run(self.command('kill', identity), good=None)
        except (Failed, OSError):
            pass
        self.forget(identity)

    def close(self):
        for identity in list(self.live):
            self.gone(identity)


class Floor(Runtime):
    """bench/floor_oci.c: the same verbs in its own order of words."""

    def __init__(self, name, path, bundles, clock, empty):
        super().__init__(name, path, bundles, clock)
        self.base = [path, self.state_folder, f'/proc/{os.getpid()}/fd/{empty}']

    def argv(self, verb, identity=None):
        if verb == 'list':
            return ['list']
        words = [verb, identity]
        if verb == 'create':
            words.append(self.pid_file(identity))
        if verb in ('create', 'run'):
            words += self.live[identity]
        if verb == 'exec':
            words.append('/bin/true')
        return words
