"""The functions of our program in the order in which commands first call them, for the linker
(scripts/functions.order). What lies side by side takes fewer page faults to be mapped."""
import bisect, os, subprocess

from . import peers

HERE = os.path.dirname(os.path.abspath(__file__))
FILE = os.path.join(HERE, '..', '..', 'scripts', 'functions.order')


def functions(program):
    """[(address, size, name)] of a program with symbols, by address."""
    found = []
    for line in subprocess.run(['nm', '-n', '-S', program], check=True, text=True,
                               stdout=subprocess.PIPE).stdout.splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in 'tTwW':
            found.append((int(words[0], 16), int(words[1], 16), words[3]))
    return sorted(found)


class Order:
    """Follows commands, each a step further."""

    def __init__(self, folder, program):
        self.functions = functions(program)
        self.starts = [start for start, _, _ in self.functions]
        self.named = {}  # in the order of the first call
        self.folder, self.step = folder, os.path.join(folder, 'step')
        peers.step('gcc', '-O2', '-Wall', '-o', self.step, os.path.join(HERE, '..', 'step.c'))

    def follow(self, timer, argv):
        """Functions that this command calls and none before it did."""
        visited = os.path.join(self.folder, 'visited')
        last, size, _ = self.functions[-1]
        timer.run([self.step, visited, f'{self.starts[0]:x}', f'{last + size:x}', *argv])
        before = len(self.named)
        with open(visited) as file:
            for address in (int(line, 16) for line in file):
                start, size, name = self.functions[bisect.bisect_right(self.starts, address) - 1]
                if address < start + size:
                    self.named.setdefault(name, size)
        os.unlink(visited)
        return len(self.named) - before

    def write(self):
        with open(FILE, 'w') as file:
            file.writelines(f'{name}\n' for name in self.named)
        return sum(self.named.values())
