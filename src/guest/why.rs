//! Why a guest is slow: what its processes waited for while they were watched, in words. The kernel
//! tells that they waited (PSI, cgroups); for whose sake follows from limits and neighbours.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::cgroup::{Counters, Group, Pressure};
use crate::model::{Bytes, Cpus, GuestName, Sample, Status};

/// What it waited for less than this part of the time is no cause, hundredths of a percent.
const LEAST: u64 = 100;
/// Held so many percent of a limit, it is near it.
const NEAR: u64 = 95;
/// Neighbours that are named.
const NAMED: usize = 3;
/// Neighbours that took less of a CPU than this, in percent, are none.
const IDLE: u64 = 5;

/// One thing that slows a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Guest.
    pub guest: GuestName,
    /// `cpu`, `memory`, `io`, `processes`, `pause`.
    pub resource: &'static str,
    /// In what part of the time it waited for it, hundredths of a percent; `None` where that is not
    /// counted.
    pub part: Option<u64>,
    /// Why, in words.
    pub why: String,
    /// What would help.
    pub advice: String,
}

/// What is read at the beginning and at the end.
struct Look {
    counters: Counters,
    sample: Sample,
    cpu: Option<Pressure>,
    memory: Option<Pressure>,
    io: Option<Pressure>,
}

impl Look {
    fn at(group: &Group) -> Result<Self> {
        Ok(Self {
            counters: group.counters()?,
            sample: group.stats()?,
            cpu: group.pressure("cpu")?,
            memory: group.pressure("memory")?,
            io: group.pressure("io")?,
        })
    }
}

/// What another guest took meanwhile.
struct Neighbour {
    name: GuestName,
    cpu_us: u64,
    io: u64,
}

impl Manager {
    /// Watches a running guest and says what its processes waited for, the worst first; nothing when
    /// they did not wait.
    ///
    /// # Errors
    /// There is no such guest, it does not run, or its counters cannot be read.
    pub fn why(&self, name: &GuestName, window: Duration) -> Result<Vec<Cause>> {
        let status = self.status(name)?;
        if status == Status::Paused {
            return Ok(vec![Cause {
                guest: name.clone(),
                resource: "pause",
                part: None,
                why: "it is paused".into(),
                advice: format!("bulkhead resume {name}"),
            }]);
        }
        let group = match status {
            Status::Running | Status::Stopping => self.group(name)?,
            _ => None,
        };
        let group = group.ok_or_else(|| GuestError::WrongState {
            verb: "watch",
            name: name.clone(),
            status,
            advice: Some("what slows it is seen while it runs"),
        })?;
        let others = self.samples_of_others(name)?;
        let began = Instant::now();
        let before = Look::at(&group)?;
        std::thread::sleep(window);
        let after = Look::at(&group)?;
        let us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let now = self.samples_of_others(name)?;
        let took = now.into_iter().filter_map(|(name, now)| {
            let (_, then) = others.iter().find(|(other, _)| *other == name)?;
            let io = |sample: &Sample| sample.io_read + sample.io_write;
            Some(Neighbour {
                cpu_us: now.cpu_us.saturating_sub(then.cpu_us),
                io: io(&now).saturating_sub(io(then)),
                name,
            })
        });
        let watched = Watched {
            name,
            before: &before,
            after: &after,
            us: us.max(1),
            neighbours: took.collect(),
        };
        let mut causes = watched.causes();
        self.blame_credits(name, &mut causes);
        Ok(causes)
    }

    fn samples_of_others(&self, name: &GuestName) -> Result<Vec<(GuestName, Sample)>> {
        let others = self.names()?.into_iter().filter(|other| other != name);
        Ok(others
            .filter_map(|other| Some((other.clone(), self.usage(&other)?)))
            .collect())
    }
}

/// A guest between two looks.
struct Watched<'a> {
    name: &'a GuestName,
    before: &'a Look,
    after: &'a Look,
    us: u64,
    neighbours: Vec<Neighbour>,
}

impl Watched<'_> {
    fn causes(&self) -> Vec<Cause> {
        let all = [
            self.held_back(),
            self.crowded(),
            self.memory(),
            self.killed(),
            self.io(),
            self.processes(),
        ];
        let mut all: Vec<Cause> = all.into_iter().flatten().collect();
        all.sort_by_key(|cause| std::cmp::Reverse(cause.part));
        all
    }

    fn cause(
        &self,
        resource: &'static str,
        part: Option<u64>,
        why: String,
        advice: impl Into<String>,
    ) -> Cause {
        Cause {
            guest: self.name.clone(),
            resource,
            part,
            why,
            advice: advice.into(),
        }
    }

    /// In what part of the time some process waited, hundredths of a percent.
    fn waited(&self, of: impl Fn(&Look) -> Option<Pressure>) -> Option<u64> {
        let (then, now) = (of(self.before)?, of(self.after)?);
        let us = now.some_total_us.saturating_sub(then.some_total_us);
        let part = (us.saturating_mul(10_000) / self.us).min(10_000);
        (part >= LEAST).then_some(part)
    }

    /// In what part of its periods the guest's own limit stopped it, hundredths of a percent.
    fn throttled(&self) -> Option<(u64, u64)> {
        let (then, now) = (
            self.before.counters.cpu.as_ref()?,
            self.after.counters.cpu.as_ref()?,
        );
        let periods = now.periods.saturating_sub(then.periods);
        let stopped = now.throttled.saturating_sub(then.throttled);
        let part = (stopped * 10_000).checked_div(periods)?.min(10_000);
        (part >= LEAST).then_some((part, now.limit))
    }

    fn held_back(&self) -> Option<Cause> {
        let (part, limit) = self.throttled()?;
        let cpus = u32::try_from(limit).ok().and_then(Cpus::from_hundredths)?;
        let why = format!("its own limit of {cpus} CPUs stopped it in this part of the periods");
        let advice = format!("raise it: bulkhead set {} cpu.limit=CPUS", self.name);
        Some(self.cause("cpu", Some(part), why, advice))
    }

    /// Waiting for a CPU that its own limit does not explain.
    fn crowded(&self) -> Option<Cause> {
        let waited = self.waited(|look| look.cpu)?;
        let limited = self.throttled().map_or(0, |(part, _)| part);
        let part = waited.checked_sub(limited).filter(|part| *part >= LEAST)?;
        let who = self.most(
            |other| other.cpu_us * 100 / self.us,
            IDLE,
            |percent| format!("{percent}% of a CPU"),
        );
        let cpu = |look: &Look| look.sample.cpu_us;
        let own = cpu(self.after).saturating_sub(cpu(self.before));
        let own = own * 100 / self.us;
        let why = match who {
            Some(who) => format!("its processes wait for a CPU; it has {own}%, {who}"),
            None => format!(
                "its processes wait for a CPU; it has {own}%, no other guest is busy: it has more \
                 to do than its CPUs can, or the host itself is busy"
            ),
        };
        let advice = format!(
            "guarantee it more: bulkhead set {0} cpu.entitled=CPUS, or cpu.weight=N",
            self.name
        );
        Some(self.cause("cpu", Some(part), why, advice))
    }

    fn memory(&self) -> Option<Cause> {
        let part = self.waited(|look| look.memory)?;
        let memory = &self.after.counters.memory;
        let near = memory.held.zip(memory.limit).filter(|(held, limit)| {
            u128::from(*held) * 100 >= u128::from(*limit) * u128::from(NEAR)
        });
        let swap = self.after.sample.swap;
        let swapped = match swap {
            0 => String::new(),
            bytes => format!(", {} MiB of it are in swap", bytes >> 20),
        };
        Some(match near {
            Some((held, limit)) => self.cause(
                "memory",
                Some(part),
                format!(
                    "it holds {} MiB of its limit of {}, and waits for pages to be freed{swapped}",
                    held >> 20,
                    Bytes(limit)
                ),
                format!("raise it: bulkhead set {} memory.limit=BYTES", self.name),
            ),
            None => self.cause(
                "memory",
                Some(part),
                format!("it waits for pages though it is not at its limit{swapped}: the host is short of memory"),
                format!(
                    "guarantee it more: bulkhead set {} memory.low=BYTES; see bulkhead capacity",
                    self.name
                ),
            ),
        })
    }

    fn killed(&self) -> Option<Cause> {
        let kills = self.after.sample.oom_kills;
        let now = kills.saturating_sub(self.before.sample.oom_kills);
        (now > 0).then(|| {
            let why = format!("{now} of its processes were killed for want of memory meanwhile");
            let advice = format!("raise it: bulkhead set {} memory.limit=BYTES", self.name);
            self.cause("memory", None, why, advice)
        })
    }

    fn io(&self) -> Option<Cause> {
        let part = self.waited(|look| look.io)?;
        let who = self.most(|other| other.io >> 20, 1, |mib| format!("{mib} MiB"));
        let io = |look: &Look| look.sample.io_read + look.sample.io_write;
        let own = io(self.after).saturating_sub(io(self.before)) >> 20;
        let why = match who {
            Some(who) => format!("its processes wait for disks; it moved {own} MiB, {who}"),
            None => format!("its processes wait for disks; it moved {own} MiB"),
        };
        let advice = "see its io limits (bulkhead get), and io.weight of those that move most";
        Some(self.cause("io", Some(part), why, advice))
    }

    fn processes(&self) -> Option<Cause> {
        let (then, now) = (
            &self.before.counters.processes,
            &self.after.counters.processes,
        );
        let refused = now.hits.unwrap_or(0).saturating_sub(then.hits.unwrap_or(0));
        let limit = now.limit?;
        (refused > 0).then(|| {
            let why = format!("{refused} processes were refused: its limit is {limit}");
            let advice = format!("raise it: bulkhead set {} processes=COUNT", self.name);
            self.cause("processes", None, why, advice)
        })
    }

    /// The neighbours that took most of something, in words.
    fn most(
        &self,
        of: impl Fn(&Neighbour) -> u64,
        least: u64,
        say: impl Fn(u64) -> String,
    ) -> Option<String> {
        let mut all: Vec<_> = self
            .neighbours
            .iter()
            .map(|other| (of(other), &other.name))
            .filter(|(amount, _)| *amount >= least)
            .collect();
        all.sort_by(|one, other| other.cmp(one));
        all.truncate(NAMED);
        let words = all
            .iter()
            .map(|(amount, name)| format!("{name} {}", say(*amount)));
        (!all.is_empty()).then(|| words.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::Throttling;

    fn look() -> Look {
        Look {
            counters: Counters::default(),
            sample: Sample::default(),
            cpu: Some(Pressure::default()),
            memory: Some(Pressure::default()),
            io: Some(Pressure::default()),
        }
    }

    fn causes(before: &Look, after: &Look, neighbours: Vec<Neighbour>) -> Vec<Cause> {
        let name = "web".parse().unwrap();
        let watched = Watched {
            name: &name,
            before,
            after,
            us: 1_000_000,
            neighbours,
        };
        watched.causes()
    }

    fn waited(us: u64) -> Option<Pressure> {
        Some(Pressure {
            some_total_us: us,
            ..Pressure::default()
        })
    }

    #[test]
    fn a_guest_that_waits_for_nothing_has_no_cause() {
        let mut after = look();
        after.cpu = waited(9_999);
        assert_eq!(causes(&look(), &after, Vec::new()), []);
        (after.cpu, after.memory, after.io) = (None, None, None);
        assert_eq!(causes(&look(), &after, Vec::new()), []);
    }

    #[test]
    fn its_own_limit_and_its_neighbours_are_told_apart() {
        let throttling = |periods, throttled| {
            Some(Throttling {
                limit: 50,
                periods,
                throttled,
                throttled_us: 0,
            })
        };
        let (mut before, mut after) = (look(), look());
        before.counters.cpu = throttling(100, 10);
        after.counters.cpu = throttling(110, 19);
        after.cpu = waited(900_000);
        let found = causes(&before, &after, Vec::new());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].part, Some(9000));
        assert!(found[0].why.contains("limit of 0.5 CPUs"), "{found:?}");

        after.counters.cpu = throttling(110, 10);
        let neighbour = |name: &str, cpu_us| Neighbour {
            name: name.parse().unwrap(),
            cpu_us,
            io: 0,
        };
        let neighbours = vec![neighbour("calm", 1000), neighbour("loud", 1_500_000)];
        let found = causes(&before, &after, neighbours);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].why.ends_with("loud 150% of a CPU"), "{found:?}");
    }

    #[test]
    fn the_worst_comes_first() {
        let mut after = look();
        (after.cpu, after.memory, after.io) = (waited(20_000), waited(300_000), waited(40_000));
        after.counters.memory.held = Some(99 << 20);
        after.counters.memory.limit = Some(100 << 20);
        after.sample.oom_kills = 2;
        let found = causes(&look(), &after, Vec::new());
        let order: Vec<_> = found.iter().map(|cause| cause.resource).collect();
        assert_eq!(order, ["memory", "io", "cpu", "memory"]);
        assert!(
            found[0].why.contains("99 MiB of its limit of 100M"),
            "{found:?}"
        );
        assert!(found[3].why.starts_with("2 of its processes"), "{found:?}");
    }
}
