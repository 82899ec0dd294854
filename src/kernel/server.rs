//! A server program of the host's that hears strangers, run so that it can reach little else: a root of
//! its own with the host's programs and one folder, both read-only; a user of its own with the
//! capabilities that it is given; no other process in sight, no new privileges, and gone when we are. It
//! has the host's network, which is what it serves: a filter keeps it from the host's firewall, which
//! its capabilities alone would let it change.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::capability::{self, CapabilitySet};
use super::confined::Place;
use super::credentials::{become_user, no_new_privileges, set_rlimit};
use super::error::{KernelError, Result};
use super::namespace::kind;
use super::process::{self, CloneFlags, Forked};
use super::seccomp::Program;
use crate::model::{Action, Arch, ArgCmp, Compare, Filter, FilterFlags, Rule};

/// Most memory it may ask for, bytes.
const MEMORY: u64 = 1 << 30;
/// Most files that it may have open.
const OPEN: u64 = 1024;
/// Most bytes of what it says that are read.
const SAID_MOST: usize = 4096;
/// How long it may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// What a server program is given.
#[derive(Debug)]
pub struct Wish<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [String],
    /// The name in its root of the folder that it sees.
    pub name: &'a str,
    /// That folder.
    pub folder: &'a Path,
    /// Who it is: user and group.
    pub user: (u32, u32),
    /// What it keeps of root's rights.
    pub capabilities: &'a [&'a str],
}

/// A server program that was started.
#[derive(Debug)]
pub struct Begun {
    /// Its process, as the host sees it.
    pub pid: u32,
    /// The same.
    pub pidfd: OwnedFd,
    /// What it has said so far.
    pub said: String,
}

/// Starts one, and waits until it lets go of standard error, as servers do that have begun, or has
/// ended. Only for a process with one thread.
///
/// # Errors
/// It cannot be confined or executed.
pub fn begin(wish: &Wish<'_>) -> Result<Begun> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(KernelError::on("make", "a pipe for a server program"))?;
    let place = Place::prepare(&[])?
        .with_device("urandom")?
        .with_folder(wish.name, wish.folder)?;
    let unfit = |error: &dyn std::error::Error| {
        KernelError::new("filter", "the calls of a server program", Errno::INVAL)
            .because(error.to_string())
    };
    let filter = Program::compile(&filter()).map_err(|error| unfit(&error))?;
    let flags = CloneFlags {
        namespaces: kind::MOUNT | kind::IPC | kind::UTS | kind::PID,
        sibling: false,
    };
    match process::fork_with(flags, None)? {
        Forked::Child => {
            let _guard = process::NoReturn;
            drop(ours);
            let entered = enter(wish, &place, &theirs).and_then(|()| {
                let loaded = filter.load(FilterFlags::default());
                loaded.map_err(|error| unfit(&error))
            });
            let failed = match entered {
                Ok(()) => execute(wish),
                Err(error) => error,
            };
            let _nobody_left_to_tell = rustix::io::write(&theirs, failed.to_string().as_bytes());
            process::leave(126)
        }
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            Ok(Begun {
                pid,
                said: read(&ours)?,
                pidfd,
            })
        }
    }
}

/// What no such program does: speak with the kernel of anything but addresses, routes and neighbours,
/// replace tables of iptables, and reach for other processes, mounts and namespaces.
fn filter() -> Filter {
    let refuse = |names: &[&str], args: Vec<ArgCmp>| Rule {
        names: names.iter().map(|&name| name.to_owned()).collect(),
        action: Action::Errno(u16::try_from(libc::EPERM).unwrap_or(1)),
        args,
    };
    let other = |arg, compare| ArgCmp { arg, compare };
    let is = |arg, value: i32| other(arg, number(u64::from(value.unsigned_abs())));
    let netlink = libc::AF_NETLINK;
    let beyond = u64::from(netlink.unsigned_abs());
    let mut rules = vec![
        refuse(&NEVER, Vec::new()),
        refuse(&["socket"], vec![is(0, netlink), other(2, Compare::Ne(0))]),
        refuse(&["socket"], vec![other(0, Compare::Gt(beyond))]),
        // Of the host's that have no place in the file system whoever is on its network can call.
        refuse(&["socket"], vec![is(0, libc::AF_UNIX)]),
    ];
    for (level, option) in TABLES {
        rules.push(refuse(
            &["setsockopt"],
            vec![is(1, level), other(2, option)],
        ));
    }
    Filter {
        default: Action::Allow,
        beyond: None,
        bad_arch: Action::KillProcess,
        arches: Arch::native().into_iter().collect(),
        rules,
        flags: FilterFlags::default(),
    }
}

/// Level and options by which tables are replaced: of IPv4, ARP, bridges, routes of many, IPVS; of IPv6
/// those that no option of a socket lies between (<linux/netfilter_ipv4/ip_tables.h>, `arp_tables.h`,
/// `ebtables.h`, `ip_vs.h`, <linux/mroute.h>, `ip6_tables.h`, `mroute6.h`).
const TABLES: [(i32, Compare); 4] = [
    (0, Compare::Ge(64)),
    (41, number(64)),
    (41, number(65)),
    (41, Compare::Ge(128)),
];

/// A number of 32 bits, whatever is beyond them: the kernel does not look there.
const fn number(value: u64) -> Compare {
    Compare::MaskedEq {
        mask: 0xffff_ffff,
        value,
    }
}

/// Calls that none of them makes.
const NEVER: [&str; 19] = [
    "add_key",
    "bpf",
    "chroot",
    "fsopen",
    "io_uring_setup",
    "keyctl",
    "kexec_load",
    "mount",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_vm_writev",
    "ptrace",
    "setns",
    "umount2",
    "unshare",
    "userfaultfd",
];

fn execute(wish: &Wish<'_>) -> KernelError {
    let program = wish.program.display().to_string();
    let mut argv = vec![program.clone()];
    argv.extend(wish.arguments.iter().cloned());
    process::execute(&program, &argv, &["LC_ALL=C".to_owned()])
}

fn enter(wish: &Wish<'_>, place: &Place, said: &OwnedFd) -> Result<()> {
    let refused = |error: capability::CapabilityError| {
        KernelError::new("keep", "capabilities", error.errno).because(error.what)
    };
    place.become_root()?;
    let keep = CapabilitySet::from_names(wish.capabilities.iter().copied())
        .map_err(|_| KernelError::new("keep", "capabilities", Errno::INVAL))?;
    for (name, most) in [("core", 0), ("as", MEMORY), ("nofile", OPEN), ("fsize", 0)] {
        set_rlimit(name, most, most)?;
    }
    process::reset_signals()?;
    capability::drop_bounding_except(keep).map_err(refused)?;
    capability::set_keep_caps(true).map_err(refused)?;
    become_user(wish.user.0, wish.user.1, &[])?;
    capability::set_all(keep, keep, keep, keep).map_err(refused)?;
    no_new_privileges()?;
    // A change of user takes this back, so it comes after it.
    process::on_parent_death(Some(Signal::KILL))?;
    // Who died before that hears nothing any more.
    let mut pipe = [PollFd::new(said, PollFlags::empty())];
    let now = process::timespec(Duration::ZERO);
    poll(&mut pipe, Some(&now)).map_err(KernelError::on("look at", "a pipe"))?;
    if pipe[0].revents().contains(PollFlags::ERR) {
        process::leave(1);
    }
    place.speak_to(&place.null, said)
}

/// What it says until it lets go of the pipe, or for as long as it may take.
fn read(pipe: &OwnedFd) -> Result<String> {
    let failed = |errno| KernelError::new("read", "what a server program said", errno);
    let until = Instant::now() + BEGIN;
    let mut said = Vec::new();
    loop {
        let left = process::timespec(until.saturating_duration_since(Instant::now()));
        let mut ready = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut ready, Some(&left)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        let mut part = [0_u8; 512];
        match rustix::io::read(pipe.as_fd(), &mut part) {
            Ok(0) => break,
            Ok(n) if said.len() < SAID_MOST => said.extend(&part[..n]),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_sees_its_folder_and_has_what_it_is_given() {
        // Namespaces need root. nextest gives each test a process, whose other thread only waits.
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("server-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("names"), "shown").unwrap();
        let line = "exec >&2; cat /served/names; id -u; ls /; echo $$; cat /etc/shadow; echo > /served/x; exit 3";
        let wish = Wish {
            program: Path::new("/bin/sh"),
            arguments: &["-c".to_owned(), line.to_owned()],
            name: "served",
            folder: &folder,
            user: (65_534, 65_534),
            capabilities: &["net_bind_service"],
        };
        let begun = begin(&wish).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let said = &begun.said;
        assert!(said.starts_with("shown65534\n"), "{said}");
        assert!(!said.contains("etc\n") && said.contains("\n1\n"), "{said}");
        assert!(said.contains("Read-only file system"), "{said}");
        let ended = process::collect(begun.pidfd.as_fd());
        assert!(matches!(ended, process::Ended::Code(3)), "{ended:?}");
    }

    #[test]
    fn a_server_cannot_change_the_firewall_whatever_it_may_do_to_the_network() {
        let program = Program::compile(&filter()).unwrap();
        let native = Arch::native().unwrap();
        let number = |name| crate::kernel::seccomp::number(name, native).unwrap();
        let passes = |name, args: [u64; 6]| {
            let run = program.run(native.audit_token(), number(name), &args);
            run.unwrap().code == Action::Allow.code()
        };
        let family = |number: i32| u64::from(number.unsigned_abs());
        let (netlink, route, firewall) = (family(libc::AF_NETLINK), 0, 12);
        assert!(passes("socket", [netlink, 3, route, 0, 0, 0]));
        assert!(!passes("socket", [netlink, 3, firewall, 0, 0, 0]));
        assert!(!passes("socket", [netlink | 1 << 32, 3, firewall, 0, 0, 0]));
        assert!(passes("socket", [family(libc::AF_INET6), 3, 58, 0, 0, 0]));
        assert!(!passes("socket", [family(libc::AF_PACKET), 3, 0, 0, 0, 0]));
        // IPV6_TCLASS and IPT_SO_SET_REPLACE.
        assert!(passes("setsockopt", [3, 41, 67, 0, 0, 0]));
        // Of ARP, bridges, multicast routes and IPVS as well.
        for (level, option) in [
            (0, 64),
            (0, 96),
            (0, 128),
            (0, 200),
            (0, 1159),
            (41, 64),
            (41, 64 | 1 << 32),
            (41, 200),
        ] {
            assert!(
                !passes("setsockopt", [3, level, option, 0, 0, 0]),
                "{level} {option}"
            );
        }
        // IP_UNICAST_IF.
        assert!(passes("setsockopt", [3, 0, 50, 0, 0, 0]));
        assert!(!passes("socket", [family(libc::AF_UNIX), 1, 0, 0, 0, 0]));
        assert!(!passes("unshare", [0; 6]));
    }
}
