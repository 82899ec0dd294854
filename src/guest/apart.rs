//! CPUs of dedicated guests against the whole host (cgroup version 2, Linux 6.7): the kernel keeps
//! programs that are no guests off them too. Who has which is said next door in `seats`.

use super::error::Result;
use super::manager::Manager;
use crate::kernel::cgroup::{self, Group, Parent};
use crate::model::{CpuSet, GuestName, Seat, Seating, Status, TenantName};

impl Manager {
    /// Brings the kernel's partitions to what is said of seats. The lock of `admission` is held.
    pub(super) fn set_apart(&self, parent: &Parent, seating: &Seating) -> Result<()> {
        // What is above is put together from what all installations have in it.
        let _above = parent.alone_above()?;
        let mut groups: Vec<(Group, Option<&CpuSet>)> = Vec::new();
        for (name, seat) in &seating.seats {
            if let Some(group) = self.group(name)? {
                groups.push((group, own(seat)));
            }
        }
        // What somebody gives back first, another can have then. What is refused to one, or further up,
        // keeps no other from what it claims.
        let mut first: Result<()> = Ok(());
        for (group, cpus) in &groups {
            if !group.claims(*cpus).unwrap_or(true) {
                first = first.and(group.claim(None).map_err(Into::into));
            }
        }
        let _again = set_folders_apart(parent);
        for (group, cpus) in &groups {
            first = first.and(group.claim(*cpus).map_err(Into::into));
        }
        first = first.and(set_folders_apart(parent));
        for (group, cpus) in &groups {
            if cpus.is_some() && group.claims(*cpus).unwrap_or(false) {
                first = first.and(group.part().map_err(Into::into));
            }
        }
        first
    }

    /// Whether a guest has claimed what it has to itself, and nothing else, and has been made the only
    /// one there. One that starts comes to that when its groups are there.
    pub(super) fn has_its_own(&self, name: &GuestName, seat: &Seat, group: &Group) -> bool {
        let cpus = own(seat);
        // The kernel may have refused it; nobody can do more about that than try.
        let parted = cpus.is_none() || group.was_parted();
        let all = parted && group.claims(cpus).unwrap_or(true);
        all || matches!(self.status(name), Ok(Status::Starting))
    }

    /// Whether programs of the host are kept off a dedicated guest's CPUs; `None` if it has none.
    pub(super) fn is_apart(&self, name: &GuestName) -> Option<bool> {
        let state = self.run_state(name).ok()??;
        own(&state.seat)?;
        Some(self.group(name).ok()??.is_apart())
    }
}

/// The CPUs that a guest has to itself.
fn own(seat: &Seat) -> Option<&CpuSet> {
    match seat {
        Seat::Dedicated { cpus, .. } => Some(cpus),
        Seat::Shared | Seat::Pinned(_) | Seat::Pool(_) => None,
    }
}

fn set_folders_apart(parent: &Parent) -> Result<()> {
    for group in cgroup::list(parent)? {
        if TenantName::of_group(&group).is_some()
            && let Some(folder) = parent.folder(&group)?
        {
            folder.set_apart()?;
        }
    }
    Ok(parent.set_apart()?)
}
