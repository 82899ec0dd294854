//! What running guests use from moment to moment, for `top`: two looks at their cgroups and at the
//! firewall's counters, and what lies between. Reads, takes no lock, leaves no descriptor open; a
//! guest that came or went between two looks is no error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use crate::kernel::cgroup::{CgroupError, Glance, Group, Parent, Pressure};
use crate::kernel::process::Identity;
use crate::model::{GuestName, Status, TenantCaps, TenantName};
use crate::network::Counters;

/// One running guest in an interval. What is not kept on this host is `None`, and so is every rate of a
/// guest that has started within the interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Load {
    /// When the interval ended, milliseconds since 1970.
    pub time_ms: u64,
    /// How long it was.
    pub interval_ms: u64,
    /// Guest.
    pub name: GuestName,
    /// The tenant it is of.
    pub tenant: Option<TenantName>,
    /// What it is doing.
    pub status: Status,
    /// Seconds since it started.
    pub up_s: u64,
    /// CPU time, in percent of one CPU.
    pub cpu_percent: Option<f64>,
    /// The same in percent of its limit, if it has one.
    pub cpu_of_limit_percent: Option<f64>,
    /// Bytes of memory it is charged for.
    pub memory: Option<u64>,
    /// Those of them that hold pages of files.
    pub memory_cache: Option<u64>,
    /// Most bytes of memory.
    pub memory_limit: Option<u64>,
    /// Bytes of swap.
    pub swap: Option<u64>,
    /// Bytes it received, a second.
    pub received_bytes_s: Option<u64>,
    /// Bytes it sent, a second.
    pub sent_bytes_s: Option<u64>,
    /// Bytes read from block devices, a second.
    pub read_bytes_s: Option<u64>,
    /// Bytes written to block devices, a second.
    pub written_bytes_s: Option<u64>,
    /// Part of the interval in which some process of it waited for a CPU, percent.
    pub cpu_some_percent: Option<f64>,
    /// The same, all processes.
    pub cpu_full_percent: Option<f64>,
    /// The same, some process, for pages of memory.
    pub memory_some_percent: Option<f64>,
    /// The same, all processes.
    pub memory_full_percent: Option<f64>,
    /// The same, some process, for disks.
    pub io_some_percent: Option<f64>,
    /// The same, all processes.
    pub io_full_percent: Option<f64>,
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Most of them.
    pub processes_limit: Option<u64>,
    /// Hundredths of a CPU that all guests of its tenant may use together.
    pub tenant_cpu_limit: Option<u64>,
    /// Most bytes of memory that they may have.
    pub tenant_memory_limit: Option<u64>,
    /// Most processes and threads.
    pub tenant_processes_limit: Option<u64>,
}

/// One guest at a moment.
#[derive(Clone, Debug)]
struct Seen {
    status: Status,
    started_ms: u64,
    tenant: Option<TenantName>,
    caps: TenantCaps,
    /// With another first process its counters began anew.
    init: Option<Identity>,
    glance: Glance,
    traffic: Option<Counters>,
}

/// Where groups are, and what those in them may have together, by tenant, looked at once a look.
type Parents = BTreeMap<Option<TenantName>, Option<(Parent, TenantCaps)>>;

/// All of them at a moment.
#[derive(Debug)]
struct Look {
    at: Instant,
    time_ms: u64,
    guests: BTreeMap<GuestName, Seen>,
}

/// Running guests, watched.
#[derive(Debug)]
pub struct Watch<'a> {
    manager: &'a Manager,
    /// Only these; `None` for all.
    chosen: Option<Vec<GuestName>>,
    before: Look,
    /// The look before that, for rates when the last one was a moment ago.
    earlier: Option<Look>,
}

/// In less time than this the counters say nothing of what a guest uses.
const SHORTEST: Duration = Duration::from_millis(100);

impl Manager {
    /// Watches these guests, whenever they run; with `None` all, also those that are yet to come.
    ///
    /// # Errors
    /// The guests' states, cgroups or counters cannot be read.
    pub fn watch(&self, chosen: Option<Vec<GuestName>>) -> Result<Watch<'_>> {
        let before = self.look(chosen.as_deref())?;
        Ok(Watch {
            manager: self,
            chosen,
            before,
            earlier: None,
        })
    }

    fn look(&self, chosen: Option<&[GuestName]>) -> Result<Look> {
        let mut look = Look {
            at: Instant::now(),
            time_ms: now_ms(),
            guests: BTreeMap::new(),
        };
        let mut parents = Parents::default();
        let names = match chosen {
            None => self.names()?,
            Some(chosen) => chosen.to_vec(),
        };
        for name in names {
            if let Some(seen) = self.seen(&mut parents, &name)? {
                look.guests.insert(name, seen);
            }
        }
        let names: Vec<GuestName> = look.guests.keys().cloned().collect();
        for network in self.networks()? {
            let traffic = network.counters_of(&names);
            for (name, counters) in traffic.map_err(|error| GuestError::Network(error.into()))? {
                if let Some(seen) = look.guests.get_mut(&name) {
                    // Each of its interfaces is on a network of its own.
                    seen.traffic = Some(match seen.traffic.take() {
                        None => counters,
                        Some(other) => Counters {
                            source: format!("{} {}", other.source, counters.source),
                            traffic: other.traffic + counters.traffic,
                        },
                    });
                }
            }
        }
        Ok(look)
    }

    /// A guest now; `None` when it does not run, or not any more.
    fn seen(&self, parents: &mut Parents, name: &GuestName) -> Result<Option<Seen>> {
        let Some(state) = self.run_state(name)? else {
            return Ok(None);
        };
        let status = self.status_of(name, Some(&state));
        if !matches!(status, Status::Running | Status::Paused | Status::Stopping) {
            return Ok(None);
        }
        let parent = match parents.entry(state.tenant.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let tenant = state.tenant.as_ref();
                // A record that cannot be read now is no reason to show nothing of its guests.
                let caps = tenant.and_then(|tenant| self.tenant_caps(tenant).ok());
                let parent = self.existing_cgroups_for(tenant)?;
                place.insert(parent.map(|parent| (parent, caps.unwrap_or_default())))
            }
        };
        let Some((parent, caps)) = parent else {
            return Ok(None);
        };
        let glance = match Group::open(parent, name.as_str()).and_then(|group| group.glance()) {
            Ok(glance) => glance,
            Err(CgroupError::Absent { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(glance.map(|glance| Seen {
            status,
            started_ms: state.started_ms,
            tenant: state.tenant,
            caps: *caps,
            init: state.init,
            glance,
            traffic: None,
        }))
    }
}

impl Watch<'_> {
    /// Looks again: what guests that run now have used since the last time, by name.
    ///
    /// # Errors
    /// The guests' states, cgroups or counters cannot be read.
    pub fn look_again(&mut self) -> Result<Vec<Load>> {
        let now = self.manager.look(self.chosen.as_deref())?;
        let loads = between_looks(&now, &self.before);
        self.earlier = Some(std::mem::replace(&mut self.before, now));
        Ok(loads)
    }

    /// Looks between two times, for what has just been changed: rates are those since the last time, or,
    /// if that was a moment ago, since the time before. The next interval begins where it began.
    ///
    /// # Errors
    /// As [`Watch::look_again`].
    pub fn look_meanwhile(&self) -> Result<Vec<Load>> {
        let now = self.manager.look(self.chosen.as_deref())?;
        let begins = begin(&now, &self.before, self.earlier.as_ref());
        Ok(between_looks(&now, begins))
    }
}

/// From which look rates up to `now` are told.
fn begin<'a>(now: &Look, before: &'a Look, earlier: Option<&'a Look>) -> &'a Look {
    let long = now.at.saturating_duration_since(before.at) >= SHORTEST;
    earlier.filter(|_| !long).unwrap_or(before)
}

fn between_looks(now: &Look, before: &Look) -> Vec<Load> {
    let since = now.at.saturating_duration_since(before.at);
    let loads = now.guests.iter().map(|(name, seen)| {
        let then = before.guests.get(name);
        let then = then.filter(|then| then.init == seen.init);
        load(name, seen, then, since, now.time_ms)
    });
    loads.collect()
}

/// What lies between two looks at a guest.
fn load(name: &GuestName, now: &Seen, then: Option<&Seen>, since: Duration, time_ms: u64) -> Load {
    let us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1);
    let (glance, before) = (&now.glance, then.map(|then| &then.glance));
    let cpu = before.map(|before| percent(glance.cpu_us.saturating_sub(before.cpu_us), us));
    // A limit is in hundredths of a CPU, so its percent are those of a CPU.
    let of_limit = |(cpu, limit): (f64, u64)| hundredths(cpu * 100.0 / limit as f64);
    let a_second = |now: u64, then: u64| {
        let bytes = u128::from(now.saturating_sub(then)) * 1_000_000 / u128::from(us);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let io = glance.io.zip(before.and_then(|before| before.io));
    let traffic = now
        .traffic
        .as_ref()
        .zip(then.and_then(|t| t.traffic.as_ref()));
    let traffic = traffic
        .filter(|(now, then)| now.source == then.source)
        .map(|(now, then)| now.traffic.since(&then.traffic));
    let waited = |of: fn(&Glance) -> Option<Pressure>| {
        let (now, then) = (of(glance)?, before.and_then(of)?);
        let part = |now: u64, then: u64| percent(now.saturating_sub(then), us).min(100.0);
        Some((
            part(now.some_total_us, then.some_total_us),
            part(now.full_total_us, then.full_total_us),
        ))
    };
    let (for_cpu, for_memory, for_io) = (
        waited(|glance| glance.cpu_pressure),
        waited(|glance| glance.memory_pressure),
        waited(|glance| glance.io_pressure),
    );
    Load {
        time_ms,
        interval_ms: us / 1000,
        name: name.clone(),
        tenant: now.tenant.clone(),
        status: now.status,
        up_s: time_ms.saturating_sub(now.started_ms) / 1000,
        cpu_percent: cpu,
        cpu_of_limit_percent: cpu
            .zip(glance.cpu_limit.filter(|limit| *limit > 0))
            .map(of_limit),
        memory: glance.memory,
        memory_cache: glance.cache,
        memory_limit: glance.memory_limit,
        swap: glance.swap,
        received_bytes_s: traffic.map(|since| a_second(since.total().received().bytes, 0)),
        sent_bytes_s: traffic.map(|since| a_second(since.total().sent().bytes, 0)),
        read_bytes_s: io.map(|(now, then)| a_second(now.0, then.0)),
        written_bytes_s: io.map(|(now, then)| a_second(now.1, then.1)),
        cpu_some_percent: for_cpu.map(|(some, _)| some),
        cpu_full_percent: for_cpu.map(|(_, full)| full),
        memory_some_percent: for_memory.map(|(some, _)| some),
        memory_full_percent: for_memory.map(|(_, full)| full),
        io_some_percent: for_io.map(|(some, _)| some),
        io_full_percent: for_io.map(|(_, full)| full),
        processes: glance.processes,
        processes_limit: glance.processes_limit,
        tenant_cpu_limit: now.caps.cpus.map(|cpus| cpus.hundredths().into()),
        tenant_memory_limit: now.caps.memory.map(|bytes| bytes.0),
        tenant_processes_limit: now.caps.processes.map(u64::from),
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    hundredths(part as f64 * 100.0 / whole as f64)
}

/// What lies behind is noise.
fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flows, Traffic, Volume};

    fn seen(glance: Glance, received: Option<(&str, u64)>) -> Seen {
        let volume = |bytes| Volume { packets: 1, bytes };
        Seen {
            status: Status::Running,
            started_ms: 5_000,
            tenant: None,
            caps: TenantCaps::default(),
            init: Some(Identity { pid: 7, start: 9 }),
            glance,
            traffic: received.map(|(source, bytes)| Counters {
                source: source.to_owned(),
                traffic: Traffic {
                    internal: Flows {
                        received_ipv4: volume(bytes),
                        ..Flows::default()
                    },
                    ..Traffic::default()
                },
            }),
        }
    }

    fn between(now: &Seen, then: Option<&Seen>) -> Load {
        let name = "web".parse().unwrap();
        load(&name, now, then, Duration::from_secs(2), 65_000)
    }

    #[test]
    fn rates_are_what_lies_between_two_looks() {
        let waited = |some_total_us, full_total_us| {
            Some(Pressure {
                some_total_us,
                full_total_us,
                ..Pressure::default()
            })
        };
        let then = Glance {
            cpu_us: 1_000,
            io: Some((100, 5)),
            cpu_pressure: waited(10, 10),
            ..Glance::default()
        };
        let now = Glance {
            cpu_us: 501_000,
            cpu_limit: Some(50),
            io: Some((4_100, 5)),
            cpu_pressure: waited(200_010, 20_010),
            memory: Some(9),
            ..Glance::default()
        };
        let load = between(
            &seen(now, Some(("a", 700))),
            Some(&seen(then, Some(("a", 100)))),
        );
        assert_eq!((load.up_s, load.interval_ms), (60, 2000));
        assert_eq!(
            (load.cpu_percent, load.cpu_of_limit_percent),
            (Some(25.0), Some(50.0))
        );
        assert_eq!(
            (load.read_bytes_s, load.written_bytes_s),
            (Some(2000), Some(0))
        );
        assert_eq!(
            (load.received_bytes_s, load.sent_bytes_s),
            (Some(300), Some(0))
        );
        assert_eq!(
            (load.cpu_some_percent, load.cpu_full_percent),
            (Some(10.0), Some(1.0))
        );
        assert_eq!((load.memory, load.io_some_percent), (Some(9), None));
    }

    #[test]
    fn who_has_just_come_has_no_rates_and_counters_that_began_anew_have_none() {
        let glance = Glance {
            cpu_us: 9,
            io: Some((1, 1)),
            cpu_pressure: Some(Pressure::default()),
            processes: Some(3),
            ..Glance::default()
        };
        let now = seen(glance.clone(), Some(("b", 700)));
        let load = between(&now, None);
        assert_eq!((load.cpu_percent, load.read_bytes_s), (None, None));
        assert_eq!((load.received_bytes_s, load.cpu_some_percent), (None, None));
        assert_eq!(load.processes, Some(3));
        let load = between(&now, Some(&seen(glance, Some(("a", 800)))));
        assert_eq!((load.cpu_percent, load.received_bytes_s), (Some(0.0), None));
    }

    #[test]
    fn a_look_a_moment_after_the_last_one_goes_back_to_the_one_before() {
        let start = Instant::now();
        let look = |ms| Look {
            at: start + Duration::from_millis(ms),
            time_ms: ms,
            guests: BTreeMap::new(),
        };
        let (earlier, before) = (look(0), look(2_000));
        let from = |now| begin(&look(now), &before, Some(&earlier)).time_ms;
        assert_eq!((from(2_099), from(2_100)), (0, 2_000));
        assert_eq!(begin(&look(2_001), &before, None).time_ms, 2_000);
    }
}
