"""One throw-away machine: its initial memory disk, its QEMU command line, its wires, its end.

What it is built from is in `fetch.py`; the scripts that run in it are in `inside/`.
"""
import ctypes
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fetch import fail, run

LIBC = ctypes.CDLL(None)
INSIDE = Path(__file__).resolve().parent / "inside"

# Initcalls that cost emulated seconds and that no test needs: the built-in certificate list, the
# jitter entropy self-test, encrypted keys, KDF self-test.
KERNEL_ARGS = """
    quiet panic=-1 console=ttyS0 nokaslr mitigations=off audit=0
    noreplace-smp cryptomgr.notests
    initcall_blacklist=load_system_certificate_list,jent_mod_init,init_encrypted,crypto_kdf108_init,digsig_init
""".split()


def cpio(entries):
    """A newc archive of (name, mode, bytes): the format of an initial memory disk."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4)
        out += data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(cache, args):
    """The memory disk: busybox, early modules, the scripts of `inside/`, settings, the command."""
    settings = {"INIT": args.init, "HOSTNAME": args.hostname, "CWD": args.cwd,
                "SHARES": len(args.share)}
    for n, (path, mode) in enumerate(args.share):
        settings[f"SHARE_{n}"] = path
        settings[f"MODE_{n}"] = mode
    text = "".join(f"{k}={shlex.quote(str(v))}\n" for k, v in settings.items())
    exports = "".join(f"export {shlex.quote(e)}\n" for e in args.env)
    command = exports + "exec " + shlex.join(args.command) + "\n"
    folder, script, plain = 0o040755, 0o100755, 0o100644
    entries = [(name, folder, b"") for name in ("bin", "job", "dev", "modules")]
    entries.append(("bin/busybox", script, cache.busybox.read_bytes()))
    entries.append(("init", script, (INSIDE / "first").read_bytes()))
    entries += [(f"modules/{m.name}", plain, m.read_bytes()) for m in sorted(cache.modules.iterdir())]
    for file in sorted(INSIDE.iterdir()):
        is_script = file.read_bytes().startswith(b"#!")
        entries.append((f"job/{file.name}", script if is_script else plain, file.read_bytes()))
    entries.append(("job/settings", plain, text.encode()))
    entries.append(("job/command", plain, command.encode()))
    return cpio(entries)


class Machine:
    """A running VM and the processes beside it; `end` must be called."""

    def __init__(self, cache, args, work):
        self.cache, self.args, self.work = cache, args, work
        self.children = []
        self.listeners = {}
        self.console = work / "console"

    def start(self, argv, **kw):
        # PR_SET_PDEATHSIG: a killed runner must not leave an emulator behind.
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0,
                                 preexec_fn=lambda: LIBC.prctl(1, signal.SIGKILL), **kw)
        self.children.append(child)
        return child

    def share_daemon(self, tag, path):
        sock = self.work / f"{tag}.fs"
        log = open(self.work / f"{tag}.log", "w")
        self.start([*self.cache.tool("usr/libexec/virtiofsd"), f"--socket-path={sock}",
                    f"--shared-dir={path}", "--cache=auto", "--xattr", "--rlimit-nofile=0",
                    "--sandbox=chroot", "--inode-file-handles=never", "--log-level=error"],
                   stdout=log, stderr=log)
        return sock

    def wires(self):
        """QEMU arguments for the three serial ports: output, errors, exit status."""
        argv = ["-device", "virtio-serial-pci"]
        for name in ("out", "err", "status"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.work / name))
            listener.listen(1)
            self.listeners[name] = listener
            argv += ["-chardev", f"socket,id={name},path={self.work / name}",
                     "-device", f"virtserialport,chardev={name},name={name}"]
        return argv

    def disks(self):
        """QEMU arguments for the root disk and the empty ones. Nothing written is kept: the root
        disk is read-only below an overlay that QEMU makes and unlinks by itself."""
        argv = ["-drive", f"file={self.cache.disk},format=raw,if=none,id=root,snapshot=on,"
                          "cache=unsafe,discard=unmap",
                "-device", "virtio-blk-pci,drive=root,serial=root"]
        for n, size in enumerate(self.args.disk):
            image = self.work / f"disk{n}"
            run("truncate", "-s", size, image)
            argv += ["-drive", f"file={image},format=raw,if=none,id=d{n},cache=unsafe,discard=unmap",
                     "-device", f"virtio-blk-pci,drive=d{n},serial=disk{n}"]
        return argv

    def boot(self):
        args, work = self.args, self.work
        (work / "initrd").write_bytes(initramfs(self.cache, args))
        socks = [(f"share{n}", self.share_daemon(f"share{n}", path))
                 for n, (path, _) in enumerate(args.share)]
        data = self.cache.tools / "root/usr/share"
        argv = [
            *self.cache.tool("usr/bin/qemu-system-x86_64"),
            "-L", str(data / "qemu"), "-L", str(data / "seabios"),
            "-bios", str(data / "qemu/qboot.rom"),  # quicker than SeaBIOS
            "-M", "q35,graphics=off,usb=off,smbus=off,sata=off,i8042=off",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-smp", str(args.cpus), "-m", args.mem,
            "-object", f"memory-backend-memfd,id=mem,size={args.mem},share=on",
            "-numa", "node,memdev=mem",
            "-kernel", str(self.cache.kernel), "-initrd", str(work / "initrd"),
            "-append", " ".join(KERNEL_ARGS + args.kernel_arg),
            "-serial", f"file:{self.console}", "-device", "virtio-rng-pci",
        ]
        if args.accel == "kvm":
            argv += ["-accel", "kvm", "-cpu", "host"]
        else:
            argv += ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,la57=off"]
        argv += self.disks()
        for tag, sock in socks:
            argv += ["-chardev", f"socket,id={tag},path={sock}",
                     "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
        argv += self.wires()
        self.await_shares([sock for _, sock in socks])
        self.began = time.monotonic()
        self.qemu = self.start(argv, stdout=open(work / "qemu.log", "w"), stderr=subprocess.STDOUT)

    def await_shares(self, socks):
        until = time.monotonic() + 10
        while not all(sock.exists() for sock in socks):
            if time.monotonic() > until or any(c.poll() is not None for c in self.children):
                logs = (p.read_text() for p in self.work.glob("*.log"))
                fail("virtiofsd did not start:", *logs)
            time.sleep(0.01)

    def connect(self):
        """The wires, or None if QEMU did not open them."""
        wires = selectors.DefaultSelector()
        for name, listener in self.listeners.items():
            listener.settimeout(30)
            try:
                wires.register(listener.accept()[0], selectors.EVENT_READ, name)
            except TimeoutError:
                return None
        return wires

    def follow(self):
        """Passes output on until the status comes: [exit status, uptime], "timeout", or None for
        a machine that ended by itself."""
        wires = self.connect()
        if wires is None:
            return None
        targets = {"out": sys.stdout.buffer, "err": sys.stderr.buffer}
        report = b""
        until = self.began + self.args.timeout if self.args.timeout else None
        while True:
            wait = 1 if until is None else until - time.monotonic()
            if wait <= 0:
                return "timeout"
            for key, _ in wires.select(min(wait, 1)):
                data = key.fileobj.recv(65536)
                if not data:
                    wires.unregister(key.fileobj)
                elif key.data == "status":
                    report += data
                else:
                    targets[key.data].write(data)
                    targets[key.data].flush()
            if report.endswith(b"\n"):
                drain(wires, targets)
                return report.split()
            if self.qemu.poll() is not None and not wires.get_map():
                return None

    def end(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.kill()
            child.wait()


def drain(wires, targets):
    """What was written before the report may still be in the sockets."""
    for key in list(wires.get_map().values()):
        if key.data not in targets:
            continue
        key.fileobj.setblocking(False)
        try:
            while data := key.fileobj.recv(65536):
                targets[key.data].write(data)
        except BlockingIOError:
            pass
        targets[key.data].flush()
