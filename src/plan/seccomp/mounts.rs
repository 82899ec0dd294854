//! The rules of a filter whose listener is told of mounts in a guest with containers (`guest/calls_mount`):
//! only of those that can be what it looks for, so that no other mount is slower.

use oci_spec::runtime::LinuxSeccomp;

use super::{Group, Profile, ProfileError, notifying};
use crate::model::{Action, ArgCmp, Compare};

/// Mounts that may be a container's procfs or sysfs, and their end: the call, which of its arguments has
/// the flags, which of these matter, and what they then are. What else these calls do (binding, changing,
/// moving) nobody outside is asked about.
const MOUNTS: [(&str, u8, u64, u64); 3] = [
    ("mount", 3, MS_REMOUNT | MS_BIND | MS_MOVE, 0),
    (
        "move_mount",
        4,
        MOVE_MOUNT_F_EMPTY_PATH,
        MOVE_MOUNT_F_EMPTY_PATH,
    ),
    ("umount2", 1, MNT_EXPIRE, 0),
];
const MS_REMOUNT: u64 = 1 << 5;
const MS_BIND: u64 = 1 << 12;
const MS_MOVE: u64 = 1 << 13;
const MNT_EXPIRE: u64 = 1 << 2;
const MOVE_MOUNT_F_EMPTY_PATH: u64 = 1 << 2;

/// As [`profile_that_notifies`](super::profile_that_notifies), and the listener is told of mounts that may
/// be a container's procfs or sysfs as well. For a profile that allows these calls in every case.
///
/// # Errors
/// As there.
pub fn profile_that_notifies_of_mounts(
    name: &str,
    calls: &[&str],
) -> Result<LinuxSeccomp, ProfileError> {
    let mut profile = notifying(name, calls)?;
    profile.notify_of_mounts();
    profile.to_oci(name)
}

impl Profile {
    /// Each of these calls is asked about in one case and allowed in the others. A rule for every case
    /// would go before the one with conditions (`model::Filter`), so it leaves the profile.
    fn notify_of_mounts(&mut self) {
        let mut groups = Vec::new();
        for (call, arg, mask, value) in MOUNTS {
            let group = |why: &str, action, when| Group {
                why: why.to_owned(),
                action,
                calls: vec![call.to_owned()],
                when,
            };
            let is = |mask, value| {
                let compare = Compare::MaskedEq { mask, value };
                vec![ArgCmp { arg, compare }]
            };
            let why = "a container's own procfs or sysfs is to tell the guest's numbers";
            groups.push(group(why, Action::Notify, vec![is(mask, value)]));
            let bits = (0..u64::BITS).map(|bit| 1 << bit);
            let others = bits
                .filter(|bit| mask & bit != 0)
                .map(|bit| is(bit, (value & bit) ^ bit));
            let why = "what cannot be that is the kernel's alone";
            groups.push(group(why, Action::Allow, others.collect()));
            for old in &mut self.groups {
                old.calls.retain(|one| one != call);
            }
        }
        self.groups.retain(|group| !group.calls.is_empty());
        self.put_before(groups);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::seccomp::to_filter;

    /// The action for a call with this argument, as the order of rules has it.
    fn decided(call: &str, place: u8, argument: u64) -> Action {
        let spec = profile_that_notifies_of_mounts("nesting", &["sysinfo"]).unwrap();
        let filter = to_filter(&spec).unwrap();
        let of_it = || {
            filter
                .rules
                .iter()
                .filter(|rule| rule.names.iter().any(|name| name == call))
        };
        assert!(
            of_it().all(|rule| !rule.args.is_empty()),
            "{call} is decided by one rule alone"
        );
        let holds = |cmp: &ArgCmp| cmp.arg == place && cmp.compare.holds(argument);
        let rule = of_it().find(|rule| rule.args.iter().all(holds));
        rule.map_or(filter.default, |rule| rule.action)
    }

    #[test]
    fn a_new_mount_is_asked_about_and_nothing_else() {
        let notified = |call, place, flags| match decided(call, place, flags) {
            Action::Notify => true,
            Action::Allow => false,
            other => panic!("{call} with {flags:#x}: {other:?}"),
        };
        // nosuid, nodev, noexec; the magic number of old programs; what changes a mount.
        assert!(notified("mount", 3, 14));
        assert!(notified("mount", 3, 0xc0ed_000e));
        for flags in [
            MS_BIND,
            MS_BIND | 1 << 14,
            MS_REMOUNT | MS_BIND | 1,
            MS_MOVE,
            MS_REMOUNT,
        ] {
            assert!(!notified("mount", 3, flags), "{flags:#x}");
        }
        assert!(notified("move_mount", 4, 4) && notified("move_mount", 4, 0x44));
        assert!(!notified("move_mount", 4, 0) && !notified("move_mount", 4, 0x40));
        assert!(notified("umount2", 1, 0) && notified("umount2", 1, 8));
        assert!(notified("umount2", 1, 2) && !notified("umount2", 1, 4));
    }
}
