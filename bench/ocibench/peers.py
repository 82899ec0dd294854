"""The programs measured: what of them is not ours is fetched once into a cache folder.

Peers come from Debian packages of a fixed suite, from the mirror that this machine's apt uses, each
with the libraries of its own suite. Nothing is installed: packages are unpacked, and a program is
told by patchelf where its own loader and libraries lie, so it is executed like any other (no
wrapper, no call of the loader, which would change what /proc/self/exe is).
"""
import os, shutil, subprocess, sys

PEERS = {  # name: suite, package, program
    'crun-1.21': ('trixie', 'crun', 'usr/bin/crun'),
    'crun-1.8': ('bookworm', 'crun', 'usr/bin/crun'),
    'runc-1.1': ('bookworm', 'runc', 'usr/sbin/runc'),
}
KEYS = '/usr/share/keyrings/debian-archive-keyring.gpg'
LOADER = 'ld-linux-x86-64.so.2'


def say(*words):
    print('bench:', *words, file=sys.stderr, flush=True)


def step(*argv, **how):
    """A step of preparing: quiet, unless it fails."""
    done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace', **how)
    if done.returncode:
        sys.exit(f'bench: {" ".join(map(str, argv[:4]))} …: {done.stdout[-3000:]}')
    return done.stdout


def mirror():
    """The Debian mirror this machine already uses."""
    listing = step('apt-get', 'indextargets', '--format', '$(REPO_URI) $(LABEL)',
                   'Created-By: Packages')
    for line in listing.splitlines():
        uri, _, label = line.partition(' ')
        if label == 'Debian':
            return uri.rstrip('/')
    sys.exit('bench: no Debian mirror in the apt sources; apt-get update gives the lists')


class Suite:
    """apt with a suite, lists and an empty list of installed packages of its own."""

    def __init__(self, cache, suite):
        self.apt = os.path.join(cache, 'apt-' + suite)
        for folder in ('lists/partial', 'archives/partial'):
            os.makedirs(os.path.join(self.apt, folder), exist_ok=True)
        at = lambda name: os.path.join(self.apt, name)
        open(at('status'), 'w').close()
        with open(at('sources.list'), 'w') as file:
            file.write(f'deb [signed-by={KEYS}] {mirror()} {suite} main\n')
        options = {
            'Dir::Etc::sourcelist': at('sources.list'), 'Dir::Etc::sourceparts': '-',
            'Dir::Etc::preferencesparts': '-', 'Dir::State::Lists': at('lists'),
            'Dir::State::status': at('status'), 'Dir::Cache': self.apt,
            'Dir::Cache::archives': at('archives'), 'APT::Install-Recommends': 'false',
            'APT::Sandbox::User': 'root', 'Acquire::Languages': 'none',
            'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled': 'false',
            'Debug::NoLocking': 'true'}
        self.options = [word for pair in options.items() for word in ('-o', '='.join(pair))]
        step('apt-get', '-q', *self.options, 'update')

    def unpack(self, folder, *packages, alone=False):
        """Packages and, unless `alone`, all they depend on."""
        archives = os.path.join(self.apt, 'archives')
        if alone:
            step('apt-get', '-q', *self.options, 'download', *packages, cwd=archives)
        else:
            step('apt-get', '-q', *self.options, '-y', '--download-only', 'install', *packages)
        for name in sorted(os.listdir(archives)):
            if name.endswith('.deb'):
                step('dpkg-deb', '-x', os.path.join(archives, name), folder)
                os.unlink(os.path.join(archives, name))

    def close(self):
        shutil.rmtree(self.apt, ignore_errors=True)


def tree(cache, name, suite, packages, alone=False):
    """A folder of unpacked packages; whole or not there."""
    folder = os.path.join(cache, name)
    if not os.path.isdir(folder):
        say('fetching', *packages, 'of', suite)
        shutil.rmtree(folder + '.new', ignore_errors=True)
        source = Suite(cache, suite)
        try:
            source.unpack(folder + '.new', *packages, alone=alone)
        finally:
            source.close()
        os.rename(folder + '.new', folder)
    return folder


def find(folder, name):
    for at, _, files in os.walk(folder):
        if name in files:
            return os.path.join(at, name)
    sys.exit(f'bench: no {name} below {folder}')


def patchelf(cache):
    if there := shutil.which('patchelf'):
        return there
    return os.path.join(tree(cache, 'patchelf', 'bookworm', ['patchelf'], alone=True),
                        'usr/bin/patchelf')


def peer(cache, name):
    """The program's path, ready to be executed."""
    suite, package, inside = PEERS[name]
    folder = tree(cache, name, suite, [package])
    program = os.path.join(cache, 'bin', name)
    if not os.path.exists(program):
        os.makedirs(os.path.dirname(program), exist_ok=True)
        shutil.copy2(os.path.join(folder, inside), program + '.new')
        libraries = ':'.join(os.path.join(folder, at) for at in
                             ('lib/x86_64-linux-gnu', 'usr/lib/x86_64-linux-gnu')
                             if os.path.isdir(os.path.join(folder, at)))
        loader = os.path.realpath(find(folder, LOADER))
        step(patchelf(cache), '--set-interpreter', loader, '--force-rpath', '--set-rpath',
             libraries, program + '.new')
        os.rename(program + '.new', program)
    return program


def profile(cache):
    """The default seccomp profile of Docker and its kin, as a file."""
    package = 'golang-github-containers-common'
    return find(tree(cache, 'profile', 'bookworm', [package], alone=True), 'seccomp.json')


def version(program):
    done = subprocess.run([program, '--version'], capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.stdout else '?'
