//! What a controller of goals sees of a guest: how much it uses of a limit, how long its processes
//! wait, and between which bounds that limit may change. What follows is `model::goal_control`, and
//! what is done about it `goal_run`.

use std::time::Instant;

use super::goal::GoalView;
use super::goal_metric::Metrics;
use super::manager::Manager;
use crate::kernel::cgroup::{Counters, DiskUse, Group};
use crate::kernel::process::Identity;
use crate::model::{
    BlockLimit, GoalResource, Guest, GuestName, Policy, Resize, Resource, Seen, Status,
};

/// A guest with its goal, at a moment.
pub(super) struct Watched {
    pub(super) goal: GoalView,
    pub(super) guest: Guest,
    pub(super) group: Group,
    pub(super) seen: Seen,
}

/// What a guest's counters said.
#[derive(Clone)]
pub(super) struct Look {
    at: Instant,
    pub(super) init: Option<Identity>,
    cpu_us: u64,
    waited_us: u64,
    disks: Vec<DiskUse>,
}

impl Manager {
    /// A guest as it is now; `None` when it does not run, or was not looked at before. `io` is what it
    /// has of its I/O limits now, percent.
    pub(super) fn look_for_goal(
        &self,
        name: &GuestName,
        goal: &GoalView,
        io: u64,
        before: &mut Option<Look>,
        metrics: &mut Metrics,
    ) -> Option<Watched> {
        // One whose records cannot be read must not keep the others from their goals.
        let state = self.run_state(name).ok().flatten()?;
        if self.status_of(name, Some(&state)) != Status::Running {
            return None;
        }
        // One that ends, or whose definition is being changed, is looked at another time.
        let group = self.group(name).ok().flatten()?;
        let guest = self.as_it_runs(name).ok()?;
        let resource = goal.goal.resource;
        let may_change = match resource {
            GoalResource::Cpu => guest.cpu.resize == Resize::Dynamic,
            GoalResource::Memory => guest.memory.resize == Resize::Dynamic,
            GoalResource::Io => !guest.io.devices.is_empty(),
        };
        // Who is entitled to nothing has nothing to lend, and would be left with nothing.
        let owns = goal.goal.policy != Policy::Own || resource.entitled(&guest) > 0;
        if !may_change || !owns {
            return None;
        }
        let counters = group.counters().ok()?;
        let now = look(&group, resource, &counters, state.init)?;
        let before = before.replace(now.clone());
        let before = before.filter(|before| before.init == now.init)?;
        let us = now.at.saturating_duration_since(before.at).as_micros();
        let us = u64::try_from(us).unwrap_or(u64::MAX).max(1);
        let part = |now: u64, then: u64| now.saturating_sub(then).saturating_mul(100) / us;
        let used = match resource {
            GoalResource::Cpu => part(now.cpu_us, before.cpu_us),
            GoalResource::Memory => needed(&group)?,
            GoalResource::Io => {
                let blocks = self.block_numbers(&guest).ok()?;
                let limits = guest.io.devices.iter().zip(blocks);
                moved(limits, &before.disks, &now.disks, us)
            }
        };
        let metric = match &goal.goal.policy {
            Policy::Metric { command, .. } => metrics.number(&goal.name, command),
            _ => None,
        };
        let seen = Seen {
            policy: goal.goal.policy.clone(),
            used,
            waiting: part(now.waited_us, before.waited_us).min(100),
            metric,
            ..self.bounds(goal, &guest, &counters, io)
        };
        Some(Watched {
            goal: goal.clone(),
            guest,
            group,
            seen,
        })
    }

    /// What all guests with goals may have together.
    pub(super) fn goal_capacity(&self, resource: GoalResource) -> u64 {
        let room = self.host_room();
        match resource {
            GoalResource::Cpu => room.of(Resource::Cpus).whole(),
            GoalResource::Memory => room.of(Resource::Memory).whole() >> 20,
            // Each has a part of what is its own.
            GoalResource::Io => u64::MAX >> 8,
        }
    }

    /// The limit in force, and those between which it may be.
    fn bounds(&self, goal: &GoalView, guest: &Guest, counters: &Counters, io: u64) -> Seen {
        let resource = goal.goal.resource;
        let host = self.host_room().of(Resource::Cpus).host;
        let entitled = resource.entitled(guest);
        let most = resource.most(guest, host);
        let wish = |bound: Option<crate::model::GoalBound>| bound.map(|bound| bound.amount());
        let most = most.min(wish(goal.goal.max).unwrap_or(most));
        let most = most.max(entitled).max(1);
        let least = wish(goal.goal.min).unwrap_or(resource.least());
        let limit = match resource {
            GoalResource::Cpu => counters.cpu.map_or(host, |cpu| cpu.limit),
            GoalResource::Memory => counters.memory.limit.map_or(most, |n| n >> 20),
            GoalResource::Io => io,
        };
        Seen {
            policy: Policy::Own,
            priority: goal.goal.priority,
            limit,
            bounds: (entitled.max(least).clamp(1, most), most),
            entitled,
            firm: resource == GoalResource::Memory,
            used: 0,
            waiting: 0,
            metric: None,
        }
    }
}

fn look(
    group: &Group,
    resource: GoalResource,
    counters: &Counters,
    init: Option<Identity>,
) -> Option<Look> {
    let pressure = group.pressure(resource.word()).ok().flatten();
    let waited_us = pressure.map_or(0, |waits| waits.some_total_us);
    let is = |one| resource == one;
    let held_back = counters.cpu.filter(|_| is(GoalResource::Cpu));
    Some(Look {
        at: Instant::now(),
        init,
        cpu_us: match is(GoalResource::Cpu) {
            true => group.stats().ok()?.cpu_us,
            false => 0,
        },
        waited_us: waited_us.max(held_back.map_or(0, |cpu| cpu.throttled_us)),
        disks: match is(GoalResource::Io) {
            true => group.disk_use().ok()?,
            false => Vec::new(),
        },
    })
}

/// MiB that a guest needs: what it holds but for files that it has not used lately.
fn needed(group: &Group) -> Option<u64> {
    let memory = group.memory_use().ok()?;
    Some(
        memory
            .held
            .saturating_sub(memory.inactive_file)
            .div_ceil(1 << 20),
    )
}

/// Which part of its limits on block devices it used, percent: of the one of which it used most.
fn moved<'a>(
    limits: impl Iterator<Item = (&'a BlockLimit, (u64, u64))>,
    before: &[DiskUse],
    now: &[DiskUse],
    us: u64,
) -> u64 {
    let find = |all: &[DiskUse], block: (u64, u64)| {
        let same = |disk: &&DiskUse| (disk.device.0.into(), disk.device.1.into()) == block;
        all.iter().find(same).copied().unwrap_or_default()
    };
    let mut most = 0;
    for (limit, block) in limits {
        let (then, now) = (find(before, block), find(now, block));
        for (limit, now, then) in [
            (limit.read.map(|n| n.0), now.read_bytes, then.read_bytes),
            (
                limit.write.map(|n| n.0),
                now.written_bytes,
                then.written_bytes,
            ),
            (limit.read_iops, now.reads, then.reads),
            (limit.write_iops, now.writes, then.writes),
        ] {
            let Some(limit) = limit else {
                continue;
            };
            let moved = u128::from(now.saturating_sub(then)) * 1_000_000 / u128::from(us);
            let part = moved * 100 / u128::from(limit.max(1));
            most = most.max(u64::try_from(part).unwrap_or(u64::MAX));
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Bytes;

    #[test]
    fn of_several_limits_the_one_counts_of_which_most_is_used() {
        let limit = BlockLimit {
            device: "/dev/x".into(),
            read: Some(Bytes(1000)),
            write: None,
            read_iops: None,
            write_iops: Some(10),
        };
        let disk = |read_bytes, writes| DiskUse {
            device: (8, 0),
            read_bytes,
            writes,
            written_bytes: 1 << 40,
            ..DiskUse::default()
        };
        let of = |then, now| moved([(&limit, (8, 0))].into_iter(), &[then], &[now], 500_000);
        assert_eq!(of(disk(0, 0), disk(250, 1)), 50);
        assert_eq!(of(disk(0, 0), disk(50, 4)), 80);
        // What it did on another disk is none of it, nor what was counted anew.
        assert_eq!(of(disk(900, 0), disk(0, 0)), 0);
        let other = moved(
            [(&limit, (8, 1))].into_iter(),
            &[],
            &[disk(900, 9)],
            500_000,
        );
        assert_eq!(other, 0);
    }
}
