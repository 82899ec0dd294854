"""Commands measured, in rounds; what the rounds say."""
import collections, ctypes, errno, os, random, statistics

SUBREAPER = 36
Run = collections.namedtuple('Run', 'wall cpu sleeps')  # us, us, number


class Failed(Exception):
    """A command did not do what was asked."""


class Result(ctypes.Structure):
    _fields_ = [('wall', ctypes.c_double), ('cpu', ctypes.c_double), ('own_cpu', ctypes.c_double),
                ('sleeps', ctypes.c_long), ('status', ctypes.c_int)]


def words(argv):
    return (ctypes.c_char_p * (len(argv) + 1))(*[os.fsencode(word) for word in argv], None)


class Clock:
    PATIENCE = 30  # seconds, then a command has hung

    def __init__(self, library, cpu_file):
        self.library = ctypes.CDLL(library)
        self.library.prctl(SUBREAPER, 1, 0, 0, 0)
        self.library.clock_parallel.restype = ctypes.c_double
        path = os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')
        self.environment = words(['PATH=' + path])
        self.cpu = os.open(cpu_file, os.O_RDONLY | os.O_CLOEXEC) if cpu_file else -1

    def run(self, argv, good=(0,), out=-1):
        """Runs a command until it is reaped."""
        result = Result()
        error = self.library.clock_run(words(argv), self.environment, out, self.cpu,
                                       self.PATIENCE, ctypes.byref(result))
        if error == errno.ETIME:
            raise Failed(f'{" ".join(argv)}: hung for {self.PATIENCE} s and killed')
        if error:
            raise OSError(error, os.strerror(error), argv[0])
        if good and os.waitstatus_to_exitcode(result.status) not in good:
            raise Failed(f'{" ".join(argv)}: status {os.waitstatus_to_exitcode(result.status)}')
        return Run(result.wall, result.cpu if self.cpu >= 0 else result.own_cpu, result.sleeps)

    def said(self, argv, good=(0,)):
        """What a command prints, its errors included."""
        reader = os.memfd_create('out', os.MFD_CLOEXEC)
        try:
            try:
                self.run(argv, good, out=reader)
            finally:
                text = os.pread(reader, 1 << 22, 0).decode(errors='replace')
        except Failed as failed:
            raise Failed(f'{failed}: {text.strip()[-500:]}') from None
        finally:
            os.close(reader)
        return text

    def parallel(self, argvs, jobs):
        """Commands a second, `jobs` at a time."""
        kept = [words(argv) for argv in argvs]
        array = (ctypes.c_void_p * len(kept))(*[ctypes.addressof(argv) for argv in kept])
        failed = ctypes.c_int(0)
        took = self.library.clock_parallel(array, len(kept), jobs, self.environment,
                                           ctypes.byref(failed))
        if failed.value:
            raise Failed(f'{argvs[0][0]}: {failed.value} of {len(argvs)} failed')
        return len(kept) / took * 1e6


def interleaved(names, rounds, once):
    """`once(name)` gives {what: Run}; every round has all names in a new order, and one round in
    advance warms caches. Gives {what: {name: [Run]}}."""
    results = {}
    for number in range(-1, rounds):
        for name in random.sample(names, len(names)):
            for what, run in once(name).items():
                if number >= 0:
                    results.setdefault(what, {}).setdefault(name, []).append(run)
    return {what: {name: runs[name] for name in names if name in runs}
            for what, runs in results.items()}


def total(runs):
    return Run(*map(sum, zip(*runs)))


def tenth(values):
    return sorted(values)[len(values) // 10]


def ratio(runs, reference):
    return statistics.median(one.wall / other.wall for one, other in zip(runs, reference))


def summary(runs, references):
    wall = [run.wall for run in runs]
    return {'median': statistics.median(wall), 'p10': tenth(wall),
            'cpu': statistics.median(run.cpu for run in runs),
            'sleeps': statistics.median(run.sleeps for run in runs),
            'ratios': {name: ratio(runs, other) for name, other in references.items()}}


def show(what, results, columns):
    """A table of one measured command; `columns` are the runtimes that ratios are taken to."""
    columns = [name for name in columns if name in results]
    head = ''.join(f'{"x " + name:>11}' for name in columns)
    print(f'\n{what:24}{"median ms":>10}{"p10":>8}{head}{"CPU ms":>9}{"sleeps":>8}')
    for name, runs in results.items():
        one = summary(runs, {column: results[column] for column in columns})
        ratios = ''.join(f'{one["ratios"][column]:11.2f}' for column in columns)
        print(f'  {name:22}{one["median"] / 1e3:10.2f}{one["p10"] / 1e3:8.2f}{ratios}'
              f'{one["cpu"] / 1e3:9.2f}{one["sleeps"]:8.0f}')
