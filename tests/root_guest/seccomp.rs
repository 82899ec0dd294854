//! Seccomp programs in force: forked children load a profile's program and try calls. Needs root
//! (loading without no_new_privs) and Linux 5.0. What programs say without being loaded is
//! `plain_seccomp.rs`.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Instant;

use bulkhead::kernel::seccomp::{CacheUse, LoadError, Program, supported};
use bulkhead::model::{Action, Arch, Filter, FilterFlags, Rule};
use bulkhead::plan::seccomp::{profile, to_filter};
use libc::{c_long, syscall};

/// How a child ended, and what it left in the shared words.
#[derive(Debug, PartialEq)]
enum End {
    Exited(i32),
    Killed(i32),
}

/// Runs `act` in a forked child. The test program has threads, so `act` must not allocate or lock.
fn in_child(act: impl Fn(&mut [i64; 64])) -> (End, [i64; 64]) {
    const SIZE: usize = size_of::<[i64; 64]>();
    // SAFETY: a new shared mapping of that size; page-aligned, zeroed, unmapped below.
    let words = unsafe {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        let at = libc::mmap(std::ptr::null_mut(), SIZE, prot, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        &mut *at.cast::<[i64; 64]>()
    };
    // SAFETY: the child only runs `act`, which keeps to system calls, and leaves by _exit.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork failed"),
            0 => {
                // No core files of the children that are meant to die.
                libc::prctl(libc::PR_SET_DUMPABLE, 0);
                act(words);
                libc::_exit(0);
            }
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                let result = *words;
                libc::munmap(std::ptr::from_mut(words).cast(), SIZE);
                let end = if libc::WIFSIGNALED(status) {
                    End::Killed(libc::WTERMSIG(status))
                } else {
                    End::Exited(libc::WEXITSTATUS(status))
                };
                (end, result)
            }
        }
    }
}

fn program(name: &str) -> Program {
    Program::compile(&to_filter(&profile(name).unwrap()).unwrap()).unwrap()
}

fn load_or_exit(program: &Program) {
    if program.load(FilterFlags::default()).is_err() {
        // SAFETY: ends this child only.
        unsafe { libc::_exit(99) };
    }
}

/// The result of a call, or its errno negated.
fn call(nr: c_long, a: [u64; 3]) -> i64 {
    // SAFETY: the calls below are given no pointer but null, and no descriptor that matters.
    unsafe {
        match syscall(nr, a[0], a[1], a[2], 0_u64, 0_u64) {
            -1 => -i64::from(*libc::__errno_location()),
            r => r,
        }
    }
}

/// A call by the i386 convention.
#[cfg(target_arch = "x86_64")]
fn int80(nr: u64, a: u32, b: u32, c: u32) -> i64 {
    let r: u64;
    // SAFETY: `int 0x80` changes rax and, on older kernels, r8 to r11; rbx is restored.
    unsafe {
        std::arch::asm!(
            "xchg {a}, rbx", "int 0x80", "xchg {a}, rbx",
            a = inout(reg) u64::from(a) => _, inlateout("rax") nr => r,
            in("rcx") u64::from(b), in("rdx") u64::from(c),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from((r & 0xffff_ffff) as u32 as i32)
}

/// What a call is expected to give.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Works,
    Fails(i32),
    /// Whatever the kernel says; the filter let it through.
    NotFiltered,
}
use Expect::{Fails, NotFiltered, Works};

type Probe = (&'static str, c_long, [u64; 3], Expect);

fn try_all(profile: &str, probes: &[Probe]) {
    assert!(probes.len() <= 64);
    let program = program(profile);
    let (end, results) = in_child(|words| {
        load_or_exit(&program);
        for ((_, nr, args, _), word) in probes.iter().zip(words) {
            *word = call(*nr, *args);
        }
    });
    assert_eq!(end, End::Exited(0), "{profile}");
    for ((what, _, _, expect), got) in probes.iter().zip(results) {
        let right = match expect {
            Works => got >= 0,
            Fails(errno) => got == -i64::from(*errno),
            NotFiltered => got != -i64::from(libc::ENOSYS) && got != -i64::from(libc::EPERM),
        };
        assert!(right, "{profile}: {what} gave {got}, expected {expect:?}");
    }
}

const HIGH: u64 = 1 << 32;
const NEWUSER: u64 = 0x1000_0000;
const NEWNS: u64 = 0x0002_0000;

#[test]
fn default_opens_what_a_system_needs_and_nothing_else() {
    use libc::*;
    let socket = |family: u64, kind: u64, protocol: u64| [family, kind, protocol];
    try_all(
        "default",
        &[
            ("AF_UNIX", SYS_socket, socket(1, 2, 0), Works),
            (
                "AF_UNIX with upper bits",
                SYS_socket,
                socket(HIGH | 1, 2, 0),
                Works,
            ),
            (
                "AF_INET stream",
                SYS_socket,
                socket(2, 1 | 0o2_000_000, 0),
                Works,
            ),
            ("AF_INET datagram UDP", SYS_socket, socket(2, 2, 17), Works),
            ("AF_INET raw ICMP", SYS_socket, socket(2, 3, 1), Works),
            (
                "SCTP",
                SYS_socket,
                socket(2, 1, 132),
                Fails(EPROTONOSUPPORT),
            ),
            (
                "SEQPACKET",
                SYS_socket,
                socket(10, 5, 0),
                Fails(ESOCKTNOSUPPORT),
            ),
            ("netlink ROUTE", SYS_socket, socket(16, 3, 0), Works),
            (
                "netlink KOBJECT_UEVENT",
                SYS_socket,
                socket(16, 3, 15),
                Works,
            ),
            (
                "netlink NETFILTER",
                SYS_socket,
                socket(16, 3, 12),
                Fails(EPROTONOSUPPORT),
            ),
            (
                "netlink AUDIT",
                SYS_socket,
                socket(16, 3, 9),
                Fails(EPROTONOSUPPORT),
            ),
            (
                "netlink XFRM",
                SYS_socket,
                socket(16, 3, 6),
                Fails(EPROTONOSUPPORT),
            ),
            (
                "AF_VSOCK",
                SYS_socket,
                socket(40, 1, 0),
                Fails(EAFNOSUPPORT),
            ),
            (
                "AF_VSOCK with upper bits",
                SYS_socket,
                socket(HIGH | 40, 1, 0),
                Fails(EAFNOSUPPORT),
            ),
            ("AF_ALG", SYS_socket, socket(38, 5, 0), Fails(EAFNOSUPPORT)),
            ("AF_KEY", SYS_socket, socket(15, 3, 2), Fails(EAFNOSUPPORT)),
            (
                "packet ring",
                SYS_setsockopt,
                [u64::MAX, 263, 5],
                Fails(ENOPROTOOPT),
            ),
            ("iptables", SYS_setsockopt, [u64::MAX, 0, 64], Fails(EPERM)),
            (
                "iptables with upper bits",
                SYS_setsockopt,
                [u64::MAX, HIGH, HIGH | 64],
                Fails(EPERM),
            ),
            (
                "SO_REUSEADDR",
                SYS_setsockopt,
                [u64::MAX, 1, 2],
                Fails(EBADF),
            ),
            ("TIOCSTI", SYS_ioctl, [u64::MAX, 0x5412, 0], Fails(EPERM)),
            (
                "TIOCSTI with upper bits",
                SYS_ioctl,
                [u64::MAX, HIGH | 0x5412, 0],
                Fails(EPERM),
            ),
            ("TIOCLINUX", SYS_ioctl, [u64::MAX, 0x541c, 0], Fails(EPERM)),
            ("TCGETS", SYS_ioctl, [u64::MAX, 0x5401, 0], Fails(EBADF)),
            (
                "unshare NEWUSER",
                SYS_unshare,
                [NEWUSER, 0, 0],
                Fails(EPERM),
            ),
            (
                "unshare NEWUSER and NEWNS",
                SYS_unshare,
                [NEWUSER | NEWNS, 0, 0],
                Fails(EPERM),
            ),
            ("clone NEWUSER", SYS_clone, [NEWUSER, 0, 0], Fails(EPERM)),
            ("unshare NEWNS", SYS_unshare, [NEWNS, 0, 0], Works),
            ("clone3", SYS_clone3, [0, 0, 0], Fails(ENOSYS)),
            ("keyctl", SYS_keyctl, [0, 0, 0], Fails(ENOSYS)),
            ("bpf", SYS_bpf, [0, 0, 0], Fails(EPERM)),
            (
                "io_uring_setup",
                SYS_io_uring_setup,
                [1, 0, 0],
                Fails(ENOSYS),
            ),
            ("userfaultfd", SYS_userfaultfd, [0, 0, 0], Fails(EPERM)),
            (
                "perf_event_open",
                SYS_perf_event_open,
                [0, 0, 0],
                Fails(EPERM),
            ),
            (
                "finit_module",
                SYS_finit_module,
                [u64::MAX, 0, 0],
                Fails(EPERM),
            ),
            (
                "open_by_handle_at",
                SYS_open_by_handle_at,
                [0, 0, 0],
                Fails(EPERM),
            ),
            (
                "name_to_handle_at",
                SYS_name_to_handle_at,
                [0, 0, 0],
                NotFiltered,
            ),
            ("fsopen", SYS_fsopen, [0, 0, 0], Fails(ENOSYS)),
            ("settimeofday", SYS_settimeofday, [0, 0, 0], Fails(EPERM)),
            ("syslog", SYS_syslog, [10, 0, 0], Fails(EPERM)),
            (
                "personality asked for",
                SYS_personality,
                [0xffff_ffff, 0, 0],
                Works,
            ),
            (
                "personality READ_IMPLIES_EXEC",
                SYS_personality,
                [0x40_0000, 0, 0],
                Fails(EPERM),
            ),
            ("mount", SYS_mount, [0, 0, 0], NotFiltered),
            ("mseal", 462, [1, 0, 0], NotFiltered),
            ("number 9999", 9999, [0, 0, 0], Fails(ENOSYS)),
            ("number -1", -1, [0, 0, 0], Fails(ENOSYS)),
            ("getpid", SYS_getpid, [0, 0, 0], Works),
        ],
    );
}

#[test]
fn the_other_profiles_differ_where_they_say() {
    use libc::*;
    try_all(
        "hardened",
        &[
            ("unshare NEWNS", SYS_unshare, [NEWNS, 0, 0], Fails(EPERM)),
            ("unshare CLONE_FILES", SYS_unshare, [0x400, 0, 0], Works),
            ("clone NEWNET", SYS_clone, [0x4000_0000, 0, 0], Fails(EPERM)),
            ("mount", SYS_mount, [0, 0, 0], Fails(EPERM)),
            ("ptrace", SYS_ptrace, [0, 0, 0], Fails(EPERM)),
            ("AF_PACKET", SYS_socket, [17, 3, 0], Fails(EAFNOSUPPORT)),
            ("raw", SYS_socket, [2, 3, 1], Fails(EPROTONOSUPPORT)),
            ("TCP", SYS_socket, [2, 1, 6], Works),
            ("netlink ROUTE", SYS_socket, [16, 3, 0], Works),
            (
                "netlink SOCK_DIAG",
                SYS_socket,
                [16, 3, 4],
                Fails(EPROTONOSUPPORT),
            ),
        ],
    );
    try_all(
        "nesting",
        &[
            ("clone3", SYS_clone3, [0, 0, 0], Fails(EINVAL)),
            ("fsopen", SYS_fsopen, [0, 0, 0], Fails(EFAULT)),
            ("keyctl", SYS_keyctl, [0, 0, 0], Fails(ENOSYS)),
            ("iptables", SYS_setsockopt, [u64::MAX, 0, 64], Fails(EBADF)),
            ("AF_VSOCK", SYS_socket, [40, 1, 0], Fails(EAFNOSUPPORT)),
            ("unshare NEWUSER", SYS_unshare, [NEWUSER, 0, 0], Works),
        ],
    );
    try_all(
        "legacy",
        &[
            (
                "personality ADDR_NO_RANDOMIZE",
                SYS_personality,
                [0x4_0000, 0, 0],
                Works,
            ),
            (
                "unshare NEWUSER",
                SYS_unshare,
                [NEWUSER, 0, 0],
                Fails(EPERM),
            ),
            ("keyctl", SYS_keyctl, [0, 0, 0], Fails(ENOSYS)),
        ],
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn other_conventions_walk_around_nothing() {
    let (default, hardened) = (program("default"), program("hardened"));
    let (end, _) = in_child(|_| {
        load_or_exit(&default);
        call(0x4000_0000 | libc::SYS_getpid, [0; 3]);
    });
    assert_eq!(end, End::Killed(libc::SIGSYS), "x32 getpid");

    let (end, words) = in_child(|words| words[0] = int80(20, 0, 0, 0));
    if end != End::Exited(0) || words[0] <= 0 {
        println!(
            "skipped: this kernel has no i386 calls ({end:?}, {})",
            words[0]
        );
        return;
    }
    let (end, words) = in_child(|words| {
        load_or_exit(&default);
        words[0] = int80(20, 0, 0, 0); // getpid
        words[1] = int80(102, 1, 0, 0); // socketcall
        words[2] = int80(359, 40, 1, 0); // socket, AF_VSOCK
        words[3] = int80(359, 1, 2, 0); // socket, AF_UNIX
        words[4] = int80(288, 0, 0, 0); // keyctl
        words[5] = int80(310, 0x1000_0000, 0, 0); // unshare, CLONE_NEWUSER
        words[6] = int80(54, 0xffff_ffff, 0x5412, 0); // ioctl, TIOCSTI
        words[7] = int80(357, 0, 0, 0); // bpf
    });
    assert_eq!(end, End::Exited(0));
    assert!(words[0] > 0 && words[3] >= 0, "{words:?}");
    let errnos = [words[1], words[2], words[4], words[5], words[6], words[7]].map(|w| -w);
    assert_eq!(errnos, [38, 97, 38, 1, 1, 1]);

    let (end, _) = in_child(|words| {
        load_or_exit(&hardened);
        words[0] = int80(20, 0, 0, 0);
    });
    assert_eq!(end, End::Killed(libc::SIGSYS), "i386 in hardened");
}

fn one_rule(name: &str, action: Action) -> Filter {
    Filter {
        default: Action::Allow,
        beyond: None,
        bad_arch: Action::KillProcess,
        arches: Arch::native().into_iter().collect(),
        rules: vec![Rule {
            names: vec![name.into()],
            action,
            args: vec![],
        }],
        flags: FilterFlags::default(),
    }
}

#[test]
fn a_listener_is_a_descriptor_of_its_own() {
    assert!(supported(Action::Notify) && supported(Action::KillProcess));
    let program = Program::compile(&one_rule("getppid", Action::Notify)).unwrap();
    assert!(program.notifies());
    let (end, words) = in_child(|words| {
        if let Ok(fd) = program.load_with_listener(FilterFlags::default()) {
            // SAFETY: fcntl on a live descriptor.
            words[0] = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }.into();
        }
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!(words[0], i64::from(libc::FD_CLOEXEC));
}

#[test]
fn without_privileges_loading_fails_and_says_why() {
    let program = Program::compile(&one_rule("getppid", Action::Errno(5))).unwrap();
    let (end, words) = in_child(|words| {
        // Raw calls: the C library's would signal all threads it believes to be there.
        call(libc::SYS_setresuid, [65534; 3]);
        words[0] = match program.load(FilterFlags::default()) {
            Ok(()) => 1,
            Err(LoadError::Refused { errno, .. }) => -i64::from(errno.raw_os_error()),
            Err(LoadError::Thread(_)) => 2,
        };
    });
    assert_eq!((end, words[0]), (End::Exited(0), -i64::from(libc::EACCES)));
    let error = LoadError::Refused {
        instructions: 3,
        errno: rustix::io::Errno::ACCESS,
    };
    assert!(error.to_string().contains("no_new_privs"), "{error}");
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bh-{name}-{}", std::process::id()));
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn the_cache_believes_only_what_root_wrote_whole() {
    let folder = Folder::new("seccomp-cache");
    let filter = to_filter(&profile("default").unwrap()).unwrap();
    let compiled = Program::compile(&filter).unwrap();
    let again = |expected: CacheUse, why: &str| {
        let (program, used) = Program::cached(&folder.0, &filter, None).unwrap();
        assert_eq!(program, compiled, "{why}");
        assert_eq!(used, expected, "{why}");
    };
    again(CacheUse::Stored, "the first time");
    again(CacheUse::Hit, "the second time");
    let files = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&folder.0).unwrap();
        entries.map(|e| e.unwrap().path()).collect()
    };
    let file = files().remove(0);
    let good = std::fs::read(&file).unwrap();
    let mode = |path: &PathBuf, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&file, 0o602);
    again(CacheUse::Stored, "writable by others");
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    again(CacheUse::Stored, "somebody else's");
    for at in [0, 20, 50, 75, 100, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&file, bad).unwrap();
        again(CacheUse::Stored, "a changed bit");
    }
    std::fs::write(&file, &good[..good.len() / 2]).unwrap();
    again(CacheUse::Stored, "cut short");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    again(CacheUse::Stored, "too long");
    std::fs::remove_file(&file).unwrap();
    symlink("/dev/zero", &file).unwrap();
    again(CacheUse::Stored, "a link");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    again(CacheUse::Stored, "a FIFO");
    assert_eq!(files(), [file], "nothing is left beside it");

    let other = Program::cached(&folder.0, &one_rule("read", Action::Log), None).unwrap();
    assert_eq!(other.1, CacheUse::Stored, "another filter has another key");
    mode(&folder.0, 0o777);
    let (program, used) = Program::cached(&folder.0, &filter, None).unwrap();
    assert!(
        matches!(used, CacheUse::NotStored(_)),
        "a folder others write to: {used:?}"
    );
    assert_eq!(program, compiled);
    mode(&folder.0, 0o700);
}

#[test]
fn warnings_survive_the_cache() {
    let folder = Folder::new("seccomp-warn");
    let filter = one_rule("no_such_call", Action::Log);
    for expected in [CacheUse::Stored, CacheUse::Hit] {
        let (program, used) = Program::cached(&folder.0, &filter, None).unwrap();
        assert_eq!(used, expected);
        assert_eq!(program.warnings().len(), 1);
        assert!(program.warnings()[0].contains("no_such_call"));
    }
}

/// What a start pays, printed (`--nocapture`); no figure is asserted, machines differ.
#[test]
fn what_it_costs() {
    let folder = Folder::new("seccomp-cost");
    let micros = |t: Instant| i64::try_from(t.elapsed().as_micros()).unwrap_or(i64::MAX);
    for name in ["default", "hardened", "nesting"] {
        let t = Instant::now();
        let filter = to_filter(&profile(name).unwrap()).unwrap();
        let parse = micros(t);
        let t = Instant::now();
        Program::cached(&folder.0, &filter, None).unwrap();
        let cold = micros(t);
        let t = Instant::now();
        let (program, used) = Program::cached(&folder.0, &filter, None).unwrap();
        let warm = micros(t);
        assert_eq!(used, CacheUse::Hit);
        let (_, words) = in_child(|words| {
            let t = Instant::now();
            load_or_exit(&program);
            words[0] = micros(t);
        });
        println!(
            "{name}: {} instructions; µs: profile to filter {parse}, compiled {cold}, from the cache {warm}, loaded {}",
            program.instructions().len(),
            words[0]
        );
    }
}
