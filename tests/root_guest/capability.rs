//! Capability sets and securebits of a forked child. Needs root with CAP_SETPCAP.

use bulkhead::kernel::capability::{
    CapabilitySet, drop_bounding_except, last_cap, permitted, set, set_all, set_keep_caps,
    set_no_setuid_fixup,
};

/// Runs `act` in a forked child and returns the number it made of what it saw. The test program
/// has threads, so `act` must not allocate or lock.
fn in_child(act: impl Fn() -> i32) -> i32 {
    // SAFETY: the child only runs `act`, which keeps to system calls, and leaves by _exit.
    unsafe {
        match libc::fork() {
            -1 => panic!("fork failed"),
            0 => libc::_exit(act()),
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
                assert!(libc::WIFEXITED(status), "{status:#x}");
                libc::WEXITSTATUS(status)
            }
        }
    }
}

fn bounding() -> u32 {
    // SAFETY: takes no pointer.
    let has = |n: u8| unsafe { libc::prctl(libc::PR_CAPBSET_READ, u64::from(n), 0, 0, 0) } == 1;
    (0..=last_cap()).map(|n| u32::from(has(n))).sum()
}

#[test]
fn the_bounding_set_keeps_what_is_asked_and_nothing_newer() {
    let keep = CapabilitySet::from_names(["CHOWN", "SYS_ADMIN", "CHECKPOINT_RESTORE"]).unwrap();
    let left = in_child(|| match drop_bounding_except(keep) {
        Ok(()) => i32::try_from(bounding()).unwrap_or(200),
        Err(_) => 255,
    });
    assert_eq!(left, 3);
}

#[test]
fn sets_are_as_asked() {
    let some = CapabilitySet::from_names(["CHOWN", "KILL", "BPF"]).unwrap();
    let one = CapabilitySet::from_names(["KILL"]).unwrap();
    let worked = in_child(|| {
        if set(one, some).is_err() || permitted() != Ok(some) {
            return 1;
        }
        // More than is permitted is refused, and nothing changes.
        let more = CapabilitySet::all_to(40);
        if set(more, more).is_ok() || permitted() != Ok(some) {
            return 2;
        }
        if set_all(one, some, one, one).is_err() {
            return 3;
        }
        let kill = 5_u64;
        // SAFETY: takes no pointer.
        let ambient = unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_IS_SET,
                kill,
                0,
                0,
            )
        };
        if ambient != 1 || set(one, one).is_err() || permitted() != Ok(one) {
            return 4;
        }
        0
    });
    assert_eq!(worked, 0);
}

#[test]
fn capabilities_survive_a_change_of_ids_when_asked() {
    // SAFETY: takes no pointer; raw, because the C library's would signal threads that are not there.
    let become_nobody = || unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
    let full = permitted().unwrap();
    let kept = in_child(|| {
        let ok = set_keep_caps(true).is_ok() && become_nobody() == 0;
        i32::from(ok && permitted() == Ok(full))
    });
    assert_eq!(kept, 1);
    let fixed = in_child(|| {
        let ok = set_no_setuid_fixup(true).is_ok() && become_nobody() == 0;
        i32::from(ok && permitted() == Ok(full))
    });
    assert_eq!(fixed, 1);
    let lost = in_child(|| {
        let ok = set_no_setuid_fixup(false).is_ok() && become_nobody() == 0;
        i32::from(ok && permitted() == Ok(CapabilitySet::EMPTY))
    });
    assert_eq!(lost, 1);
}
