//! Why a guest is slow: what its processes waited for while they were watched, in words. The kernel
//! tells that they waited (PSI, cgroups); for whose sake follows from limits and neighbours.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::cgroup::{Counter, Counters, Group, Pressure, Throttling};
use crate::model::{Bytes, Cpus, GuestName, Sample, Status, TenantName};

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
pub(super) struct Look {
    pub(super) counters: Counters,
    sample: Sample,
    /// Of all guests of its tenant together.
    pub(super) tenant: Option<Counters>,
    pub(super) cpu: Option<Pressure>,
    memory: Option<Pressure>,
    io: Option<Pressure>,
}

impl Look {
    fn at(group: &Group, tenant: Option<&Group>) -> Result<Self> {
        Ok(Self {
            counters: group.counters()?,
            sample: group.stats()?,
            tenant: tenant.map(Group::counters).transpose()?,
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
        let tenant = self.run_state(name)?.and_then(|state| state.tenant);
        let shared = match &tenant {
            Some(tenant) => self.tenant_group(tenant)?,
            None => None,
        };
        let others = self.samples_of_others(name)?;
        let began = Instant::now();
        let before = Look::at(&group, shared.as_ref())?;
        std::thread::sleep(window);
        let after = Look::at(&group, shared.as_ref())?;
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
            tenant: tenant.as_ref(),
            before: &before,
            after: &after,
            us: us.max(1),
            neighbours: took.collect(),
        };
        let mut causes = watched.causes();
        self.blame_credits(name, &mut causes);
        self.blame_goals(name, &mut causes);
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
pub(super) struct Watched<'a> {
    name: &'a GuestName,
    pub(super) tenant: Option<&'a TenantName>,
    pub(super) before: &'a Look,
    pub(super) after: &'a Look,
    us: u64,
    neighbours: Vec<Neighbour>,
}

impl Watched<'_> {
    fn causes(&self) -> Vec<Cause> {
        let all = [
            self.held_back(),
            self.held_back_with_others(),
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

    pub(super) fn cause(
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
    pub(super) fn waited(&self, of: impl Fn(&Look) -> Option<Pressure>) -> Option<u64> {
        let (then, now) = (of(self.before)?, of(self.after)?);
        let us = now.some_total_us.saturating_sub(then.some_total_us);
        let part = (us.saturating_mul(10_000) / self.us).min(10_000);
        (part >= LEAST).then_some(part)
    }

    /// In what part of its periods a limit stopped it, hundredths of a percent; and that limit.
    pub(super) fn throttled(&self, of: impl Fn(&Look) -> Option<Throttling>) -> Option<(u64, u64)> {
        let (then, now) = (of(self.before)?, of(self.after)?);
        let periods = now.periods.saturating_sub(then.periods);
        let stopped = now.throttled.saturating_sub(then.throttled);
        let part = (stopped * 10_000).checked_div(periods)?.min(10_000);
        (part >= LEAST).then_some((part, now.limit))
    }

    fn throttled_alone(&self) -> Option<(u64, u64)> {
        let own = self.throttled(|look| look.counters.cpu);
        own.filter(|_| !self.has_all_cpus_of_its_tenant())
    }

    fn held_back(&self) -> Option<Cause> {
        let (part, limit) = self.throttled_alone()?;
        let cpus = u32::try_from(limit).ok().and_then(Cpus::from_hundredths)?;
        let why = format!("its own limit of {cpus} CPUs stopped it in this part of the periods");
        let advice = format!("raise it: bulkhead set {} cpu.limit=CPUS", self.name);
        Some(self.cause("cpu", Some(part), why, advice))
    }

    /// Waiting for a CPU that its own limit does not explain.
    fn crowded(&self) -> Option<Cause> {
        let waited = self.waited(|look| look.cpu)?;
        let limits = [self.throttled_alone(), self.throttled_with_others()];
        let limited = limits.iter().flatten().map(|(part, _)| *part).max();
        let part = waited.checked_sub(limited.unwrap_or(0));
        let part = part.filter(|part| *part >= LEAST)?;
        let own = self.own_cpu();
        let why = match self.busy() {
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

    /// How much of a CPU it had, percent.
    pub(super) fn own_cpu(&self) -> u64 {
        let cpu = |look: &Look| look.sample.cpu_us;
        cpu(self.after).saturating_sub(cpu(self.before)) * 100 / self.us
    }

    /// Who else had much of one, in words.
    pub(super) fn busy(&self) -> Option<String> {
        let say = |percent| format!("{percent}% of a CPU");
        self.most(|other| other.cpu_us * 100 / self.us, IDLE, say)
    }

    fn memory(&self) -> Option<Cause> {
        let part = self.waited(|look| look.memory)?;
        let alone = !self.has_all_of_its_tenant(|all| all.memory.limit);
        let near = near(&self.after.counters.memory).filter(|_| alone);
        let swap = self.after.sample.swap;
        let swapped = match swap {
            0 => String::new(),
            bytes => format!(", {} MiB of it are in swap", bytes >> 20),
        };
        Some(match (near, self.full_tenant()) {
            (Some((held, limit)), _) => self.cause(
                "memory",
                Some(part),
                format!(
                    "it holds {} MiB of its limit of {}, and waits for pages to be freed{swapped}",
                    held >> 20,
                    Bytes(limit)
                ),
                format!("raise it: bulkhead set {} memory.limit=BYTES", self.name),
            ),
            (None, Some((limit, tenant))) => self.cause(
                "memory",
                Some(part),
                format!(
                    "all guests of its tenant {tenant} together hold their limit of {}, and it waits for pages \
                     to be freed{swapped}",
                    Bytes(limit)
                ),
                format!("raise it: bulkhead tenant set {tenant} --memory BYTES"),
            ),
            (None, None) => self.cause(
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
            let (why, advice) = match self.tenant_that_kills(now) {
                Some(tenant) => (
                    format!(
                        "{why}: all guests of its tenant {tenant} together were at their limit"
                    ),
                    format!("raise it: bulkhead tenant set {tenant} --memory BYTES"),
                ),
                None => (
                    why,
                    format!("raise it: bulkhead set {} memory.limit=BYTES", self.name),
                ),
            };
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
        let more = |then: &Counter, now: &Counter| {
            now.hits.unwrap_or(0).saturating_sub(then.hits.unwrap_or(0))
        };
        let now = &self.after.counters.processes;
        let own = more(&self.before.counters.processes, now);
        let of = |look: &Look| look.tenant.as_ref().map(|all| all.processes);
        let shared = of(self.before).zip(of(self.after));
        let refused = own + shared.map_or(0, |(then, now)| more(&then, &now));
        // Version 1 counts in the guest's group whatever limit it was.
        let never = now
            .peak
            .zip(now.limit)
            .is_some_and(|(peak, most)| peak < most);
        let all = shared.and_then(|(_, now)| now.limit);
        let tenant = self.tenant.zip(all).filter(|_| own == 0 || never);
        let (why, advice) = match (tenant, now.limit) {
            _ if refused == 0 => return None,
            (Some((tenant, limit)), _) => (
                format!(
                    "{refused} processes were refused: the limit of all guests of its tenant {tenant} is {limit}"
                ),
                format!("raise it: bulkhead tenant set {tenant} --processes COUNT"),
            ),
            (None, limit) => (
                format!("{refused} processes were refused: its limit is {}", limit?),
                format!("raise it: bulkhead set {} processes=COUNT", self.name),
            ),
        };
        Some(self.cause("processes", None, why, advice))
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

/// What is held of a limit, and the limit, if it is nearly all of it.
pub(super) fn near(memory: &Counter) -> Option<(u64, u64)> {
    let both = memory.held.zip(memory.limit);
    both.filter(|(held, limit)| u128::from(*held) * 100 >= u128::from(*limit) * u128::from(NEAR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cgroup::Throttling;

    fn look() -> Look {
        Look {
            counters: Counters::default(),
            sample: Sample::default(),
            tenant: None,
            cpu: Some(Pressure::default()),
            memory: Some(Pressure::default()),
            io: Some(Pressure::default()),
        }
    }

    fn causes(before: &Look, after: &Look, neighbours: Vec<Neighbour>) -> Vec<Cause> {
        let (name, tenant) = ("web".parse().unwrap(), "acme".parse().unwrap());
        let watched = Watched {
            name: &name,
            tenant: after.tenant.as_ref().map(|_| &tenant),
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

    #[test]
    fn what_the_limit_of_its_tenant_does_is_not_laid_at_its_own_nor_at_its_neighbours() {
        let shared = |throttled, refused, hits| {
            let throttling = Throttling {
                limit: 80,
                periods: throttled,
                throttled,
                throttled_us: 0,
            };
            let counter = |held, hits| Counter {
                held,
                peak: None,
                limit: Some(100),
                hits: Some(hits),
            };
            Some(Counters {
                cpu: Some(throttling),
                memory: counter(Some(99), hits),
                processes: counter(None, refused),
                ..Counters::default()
            })
        };
        let (mut before, mut after) = (look(), look());
        (before.tenant, after.tenant) = (shared(10, 0, 1), shared(20, 3, 9));
        (after.cpu, after.memory) = (waited(700_000), waited(20_000));
        after.sample.oom_kills = 1;
        after.counters.memory.hits = Some(1);
        before.counters.memory.hits = Some(0);
        let found = causes(&before, &after, Vec::new());
        let said = |resource| {
            let of = found.iter().filter(move |cause| cause.resource == resource);
            of.map(|cause| format!("{} / {}", cause.why, cause.advice))
                .collect::<Vec<_>>()
        };
        assert_eq!(said("cpu").len(), 1, "{found:?}");
        assert_eq!(found[0].part, Some(7000), "{found:?}");
        for (resource, flag) in [
            ("cpu", "--cpus CPUS"),
            ("memory", "--memory BYTES"),
            ("processes", "--processes COUNT"),
        ] {
            for line in said(resource) {
                assert!(line.contains("its tenant acme"), "{line}");
                assert!(
                    line.ends_with(&format!("bulkhead tenant set acme {flag}")),
                    "{line}"
                );
            }
        }
        assert_eq!((said("memory").len(), said("processes").len()), (2, 1));
        // The limit in force is its tenant's where the definition has a larger one, or none.
        after.counters.cpu = after.tenant.as_ref().and_then(|all| all.cpu);
        before.counters.cpu = before.tenant.as_ref().and_then(|all| all.cpu);
        let found = causes(&before, &after, Vec::new());
        let cpu = |cause: &&Cause| cause.resource == "cpu";
        assert_eq!(found.iter().filter(cpu).count(), 1, "{found:?}");
        assert!(
            found.iter().all(|cause| cause.why.contains("tenant acme")),
            "{found:?}"
        );
        (before.counters.cpu, after.counters.cpu) = (None, None);
        // One that wanted nothing meanwhile was not stopped.
        after.cpu = waited(0);
        assert!(
            causes(&before, &after, Vec::new())
                .iter()
                .all(|cause| cause.resource != "cpu")
        );
    }
}
