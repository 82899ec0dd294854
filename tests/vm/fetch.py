"""What a VM is made of, fetched once into a cache folder.

Parts: the *tools* (QEMU, virtiofsd and a kernel of a newer Debian, unpacked and run from the
cache; nothing on the host is replaced) the *image*, a Debian root file system on ext4; and
apart from the VM a *guest*, a Debian server in a tar for tests to make guests of. How the machine is started from them is in `machine.py`; what runs in it is in `inside/`.
"""
import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import time

# Debian 12's own QEMU 7.2 will not do: a 6.12 kernel panics or hangs in most boots under its TCG.
TOOLS_SUITE = "trixie"
TOOLS = ["qemu-system-x86", "virtiofsd"]
KERNEL = "linux-image-cloud-amd64"

PACKAGES = """
    systemd systemd-sysv dbus udev kmod procps psmisc util-linux mount e2fsprogs xfsprogs btrfs-progs
    iproute2 iputils-ping nftables dnsmasq-base busybox-static strace libseccomp2 libcap2-bin attr acl
    curl ca-certificates openssh-client openssh-server python3-minimal xz-utils zstd tar
    podman conmon containerd containernetworking-plugins protobuf-compiler buildah docker.io apparmor
""".split()

# A guest that tests can start without a network: the same Debian as people would build.
GUEST_PACKAGES = """
    systemd systemd-sysv dbus udev libpam-systemd openssh-server nginx-light iproute2 iputils-ping
    ifupdown procps curl ca-certificates netbase
""".split()

# Modules the first program needs before there is a root file system, in no order: their
# dependencies come from modules.dep. All others are loaded from the image when asked for.
EARLY_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "virtiofs", "ext4"]

IMAGE_SIZE = "8G"  # sparse: what is free in it is what tests may fill


def say(*words):
    """A line of our own, on standard error: standard output belongs to the command."""
    print("vm:", *words, file=sys.stderr, flush=True)


def fail(*words):
    """Ends with the status that says that the VM, not the command, failed."""
    say(*words)
    sys.exit(125)


def run(*argv, **kw):
    """Runs a preparation step quietly; shows what it printed if it fails."""
    kw.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", **kw)
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:])
        fail(" ".join(map(str, argv[:3])), "… failed with", done.returncode)
    return done.stdout


def mirror():
    """The Debian mirror this machine already uses."""
    for _ in range(2):
        listing = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)",
                      "Created-By: Packages")
        for line in listing.splitlines():
            uri, _, label = line.partition(" ")
            if label == "Debian":
                return uri.rstrip("/")
        run("apt-get", "-q", "update")  # a bare machine: no lists yet
    fail("no Debian mirror in the apt sources: add one to /etc/apt/sources.list")


def install_missing():
    """The few programs that preparing needs on the host itself."""
    wanted = {"mmdebstrap": "mmdebstrap", "zstd": "zstd", "xz": "xz-utils", "mke2fs": "e2fsprogs"}
    need = [package for tool, package in wanted.items() if not shutil.which(tool)]
    if need:
        run("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "install", "-y",
            "--no-install-recommends", *need,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def debootstrap(suite, packages, target):
    """A root file system of a suite, from the machine's own mirror: a folder or, by name, a tar."""
    run("mmdebstrap", "--mode=root", "--variant=minbase", "--include=" + ",".join(packages),
        '--aptopt=Apt::Install-Recommends "false"',
        '--dpkgopt=path-exclude=/usr/share/man/*',
        '--dpkgopt=path-exclude=/usr/share/doc/*',
        '--dpkgopt=path-exclude=/usr/share/locale/*',
        suite, target, mirror())


def unpack_packages(folder, suite, packages, kernel):
    """Unpacks packages of a suite, and all they depend on, under folder/root."""
    apt = folder / "apt"
    for sub in ("lists/partial", "archives/partial"):
        (apt / sub).mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
        f"{mirror()} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferencesparts": "-", "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status", "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives", "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root", "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Debug::NoLocking": "true",
    }
    settings = [x for k, v in options.items() for x in ("-o", f"{k}={v}")]
    run("apt-get", "-q", *settings, "update")
    run("apt-get", "-q", *settings, "-y", "--download-only", "install", *packages)
    # The kernel package asks for an initramfs builder: take the real image package alone.
    shown = run("apt-cache", *settings, "depends", kernel)
    real = next(w for w in shown.split() if w.startswith("linux-image-") and w != kernel)
    run("apt-get", "-q", *settings, "download", real, cwd=apt / "archives")
    root = folder / "root"
    root.mkdir(exist_ok=True)
    for deb in sorted((apt / "archives").glob("*.deb")):
        run("dpkg-deb", "-x", deb, root)
    shutil.rmtree(apt)


def unpacked(path, tool_of):
    """A file's bytes, uncompressed by the tool that its name asks for."""
    tool = tool_of.get(path.suffix)
    if tool is None:
        return path.read_bytes()
    return subprocess.run([tool, "-dc", str(path)], check=True, stdout=subprocess.PIPE).stdout


def uncompressed_kernel(image, target):
    """Takes the ELF kernel out of a bzImage (boot protocol, Documentation/arch/x86/boot.rst):
    QEMU starts it directly, which saves one or two seconds of emulated decompression."""
    data = image.read_bytes()
    start = (data[0x1F1] + 1) * 512 + struct.unpack_from("<I", data, 0x248)[0]
    length = struct.unpack_from("<I", data, 0x24C)[0]
    payload = data[start:start + length - 4]
    for magic, tool in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"\x1f\x8b", "gzip")):
        if payload.startswith(magic):
            target.write_bytes(subprocess.run([tool, "-dc"], input=payload, check=True,
                                              stdout=subprocess.PIPE).stdout)
            return
    fail("unknown compression in", image)


def early_modules(modules):
    """The early modules as (file name, bytes), each after those it needs."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[file] = rest.split()
    by_name = {f.rpartition("/")[2].partition(".")[0].replace("-", "_"): f for f in needs}
    order = []

    def visit(file):
        for need in needs[file]:
            visit(need)
        if file not in order:
            order.append(file)

    for name in EARLY_MODULES:
        if name in by_name:  # the others are part of the kernel itself
            visit(by_name[name])
    tools = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
    return [(f"{n:02d}-{f.rpartition('/')[2].partition('.')[0]}.ko", unpacked(modules / f, tools))
            for n, f in enumerate(order)]


class Cache:
    """The cache folder: `tools` and `image` are ready after `prepare`."""

    def __init__(self, folder, suite, extra):
        self.folder, self.suite = folder, suite
        self.packages = sorted(set(PACKAGES) | set(extra))
        words = " ".join([suite, TOOLS_SUITE, IMAGE_SIZE, *self.packages])
        key = hashlib.sha256(words.encode()).hexdigest()[:12]
        self.tools = folder / f"tools-{TOOLS_SUITE}"
        self.image = folder / f"image-{suite}-{key}"
        self.kernel = self.tools / "vmlinux"
        self.disk = self.image / "root.ext4"
        self.busybox = self.image / "busybox"
        self.modules = self.image / "early"

    def prepare(self):
        """Fetches and builds what a VM needs and is not there yet."""
        self.ready(self.tools, "fetching QEMU, virtiofsd and a kernel", self.build_tools)
        self.ready(self.image, f"building a Debian {self.suite} disk image", self.build_image)

    def guest_image(self):
        """The path of a tar of a Debian server that tests can make a guest of."""
        words = " ".join([self.suite, *GUEST_PACKAGES])
        part = self.folder / f"guest-{self.suite}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
        tar = part / "root.tar"
        self.ready(part, f"building a Debian {self.suite} guest",
                   lambda: debootstrap(self.suite, GUEST_PACKAGES, tar))
        return tar

    def ready(self, part, what, build):
        """Builds one part of the cache if it is missing; a second caller waits for the first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (part / "done").exists():
                return
            say(what, "…")
            began = time.monotonic()
            shutil.rmtree(part, ignore_errors=True)  # what a killed run left
            part.mkdir()
            install_missing()
            build()
            (part / "done").touch()
            say(f"… done in {time.monotonic() - began:.0f} s")

    def build_tools(self):
        unpack_packages(self.tools, TOOLS_SUITE, TOOLS, KERNEL)
        image = next((self.tools / "root/boot").glob("vmlinuz-*"))
        uncompressed_kernel(image, self.kernel)
        release = image.name.removeprefix("vmlinuz-")
        (self.tools / "release").write_text(release)
        modules = next((self.tools / "root").glob(f"**/modules/{release}"))
        shutil.move(modules, self.tools / "modules")

    def build_image(self):
        tree = self.image / "tree"
        debootstrap(self.suite, self.packages, tree)
        release = (self.tools / "release").read_text()
        modules = tree / "usr/lib/modules" / release
        shutil.copytree(self.tools / "modules", modules, symlinks=True)
        run("chroot", tree, "depmod", release)  # the packages hold no modules.dep
        self.modules.mkdir()
        for name, data in early_modules(modules):
            (self.modules / name).write_bytes(data)
        shutil.copy(tree / "bin/busybox", self.busybox)
        run("truncate", "-s", IMAGE_SIZE, self.disk)
        run("mke2fs", "-q", "-t", "ext4", "-F", "-L", "vm-root", "-m", "0",
            "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
            "-d", tree, self.disk)
        shutil.rmtree(tree)

    def tool(self, path):
        """How to start a program of the unpacked suite on this host, whatever its libraries."""
        root = self.tools / "root"
        lib = root / "usr/lib/x86_64-linux-gnu"
        return [str(lib / "ld-linux-x86-64.so.2"), "--library-path", str(lib), str(root / path)]
