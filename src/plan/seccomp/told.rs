//! Which mounts somebody outside of a guest is told of before they are made: those by which a container
//! could come by a view of the machine, and those that take one away. The filter looks at flags alone;
//! what is mounted where lies in memory, and is looked at by whoever is told.

use super::{Group, Profile};
use crate::model::{Action, ArgCmp, Compare};

/// Which calls with what in their flags are told: where to look, what it must be, and whether it is told
/// then. The first that holds decides.
pub(super) fn mounts(profile: &Profile) -> Vec<Group> {
    const TOLD: &str = "what shows the kernel's numbers in a container is to show the guest's";
    const OTHER: &str = "changes what is mounted already, or its folder";
    let bits = |arg, mask: u32, value: u32| ArgCmp {
        arg,
        compare: Compare::MaskedEq {
            mask: mask.into(),
            value: value.into(),
        },
    };
    let set = |arg, bit: u32| vec![bits(arg, bit, bit)];
    let any = |arg| vec![bits(arg, 0, 0)];
    // mount(2): MS_REMOUNT, MS_BIND, MS_MOVE; in the upper half nothing counts if a certain number is
    // there, else MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED.
    let (changes, old) = ([0x20, 0x1000, 0x2000], bits(3, 0xffff_0000, 0xc0ed_0000));
    let spreads = [1 << 17, 1 << 18, 1 << 19, 1 << 20];
    // move_mount(2): MOVE_MOUNT_F_EMPTY_PATH without _SET_GROUP and _BENEATH.
    let attaches = vec![bits(4, 0x304, 0x4)];
    // umount2(2): MNT_DETACH.
    let lazily = set(1, 0x2);
    let (told, other) = ((TOLD, Action::Notify), (OTHER, Action::Allow));
    let groups = [
        ("mount", other, changes.map(|bit| set(3, bit)).to_vec()),
        ("mount", told, vec![vec![old]]),
        ("mount", other, spreads.map(|bit| set(3, bit)).to_vec()),
        ("mount", told, vec![any(3)]),
        ("move_mount", told, vec![attaches]),
        ("move_mount", other, vec![any(4)]),
        ("umount2", other, vec![lazily]),
        ("umount2", told, vec![any(1)]),
        ("umount", told, Vec::new()),
    ];
    let allowed = |call: &str| {
        let mut all = profile.groups.iter();
        let first = all.find(|group| group.calls.iter().any(|one| one == call));
        first.is_some_and(|group| group.action == Action::Allow && group.when.is_empty())
    };
    let groups = groups.into_iter().filter(|(call, ..)| allowed(call));
    groups
        .map(|(call, (why, action), when)| Group {
            why: why.to_owned(),
            action,
            calls: vec![call.to_owned()],
            when,
        })
        .collect()
}
