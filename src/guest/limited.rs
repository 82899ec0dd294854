//! What `limits` shows: of each limited resource of a running guest what it holds, the most it ever
//! held, the limit, and how often that was hit. All of it is the kernel's; what a kernel does not
//! keep is left out, never guessed.

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::kernel::cgroup::{Counter, Counters, Throttling};
use crate::model::{Event, GuestName, Seat, Status};
use crate::storage;

/// In what an amount is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things.
    Count,
    /// Things in a second.
    PerSecond,
    /// Hundredths of a CPU.
    PercentOfCpu,
    /// Seconds of CPU time.
    CpuSeconds,
}

/// One limited resource of one guest.
#[derive(Clone, Debug, Serialize)]
pub struct Limited {
    /// Guest.
    pub guest: GuestName,
    /// `memory`, `swap`, `processes`, `cgroups`, `cpu`, `cpus`, `credits`, `disk`, `files`, `packets`, `new connections`,
    /// `connections`, `traffic`, `traffic cut`; `tenant memory`, `tenant processes`,
    /// `tenant cpu` of what it shares.
    pub resource: &'static str,
    /// In what it is counted.
    pub unit: Unit,
    /// Held now.
    pub held: Option<u64>,
    /// Most ever held since its start.
    pub peak: Option<u64>,
    /// Most it may hold.
    pub limit: u64,
    /// How often the limit was in the way; of the CPU, periods in which it was held back.
    pub hits: Option<u64>,
    /// Processes killed for want of memory.
    pub killed: Option<u64>,
    /// Periods in which it wanted to run.
    pub periods: Option<u64>,
    /// For how long the CPU limit held it back, microseconds, summed over CPUs.
    pub throttled_us: Option<u64>,
    /// What was told of this limit last in the present run, if anybody has looked (`tell_last`).
    pub last: Option<Event>,
}

impl Limited {
    pub(super) fn new(guest: &GuestName, resource: &'static str, unit: Unit, limit: u64) -> Self {
        Self {
            guest: guest.clone(),
            resource,
            unit,
            held: None,
            peak: None,
            limit,
            hits: None,
            killed: None,
            periods: None,
            throttled_us: None,
            last: None,
        }
    }

    /// A counter as a row, if there is a limit.
    fn of(
        guest: &GuestName,
        resource: &'static str,
        unit: Unit,
        counter: &Counter,
    ) -> Option<Self> {
        Some(Self {
            held: counter.held,
            peak: counter.peak,
            hits: counter.hits,
            ..Self::new(guest, resource, unit, counter.limit?)
        })
    }

    fn of_cpu(guest: &GuestName, cpu: &Throttling) -> Self {
        Self {
            hits: Some(cpu.throttled),
            periods: Some(cpu.periods),
            throttled_us: Some(cpu.throttled_us),
            ..Self::new(guest, "cpu", Unit::PercentOfCpu, cpu.limit)
        }
    }

    /// Whether it holds or has held so many percent of the limit. Of what no peak is kept, a limit
    /// that was hit tells the same.
    #[must_use]
    pub fn is_near(&self, percent: u8) -> bool {
        let wanted = u128::from(self.limit) * u128::from(percent);
        let reached = |n: u64| self.limit > 0 && u128::from(n) * 100 >= wanted;
        let hit = self.peak.is_none() && self.hits.is_some_and(|hits| hits > 0);
        self.held.into_iter().chain(self.peak).any(reached) || hit
    }
}

impl Manager {
    /// The limited resources of a running guest.
    ///
    /// # Errors
    /// There is no such guest, it does not run, or its counters cannot be read.
    pub fn limited(&self, name: &GuestName) -> Result<Vec<Limited>> {
        let status = self.status(name)?;
        let runs = matches!(status, Status::Running | Status::Paused | Status::Stopping);
        let group = if runs { self.group(name)? } else { None };
        let Some(group) = group else {
            return Err(GuestError::WrongState {
                verb: "read the limits of",
                name: name.clone(),
                status,
                advice: Some("limits are counted while it runs"),
            });
        };
        let mut rows = rows(name, &group.counters()?);
        rows.extend(self.whole_cpus(name)?);
        rows.extend(self.credits(name));
        rows.extend(self.shared_limits(name)?);
        rows.extend(self.disk(name)?);
        rows.extend(self.network_limits(name)?);
        Ok(rows)
    }

    /// CPUs that are its own or its pool's: more than these it cannot use, whatever its limit.
    fn whole_cpus(&self, name: &GuestName) -> Result<Option<Limited>> {
        let seat = self.run_state(name)?.map(|state| state.seat);
        let cpus = match seat {
            Some(Seat::Dedicated { cpus, .. }) => cpus,
            Some(Seat::Pool(pool)) => self.cpu_pool(&pool)?.cpus,
            Some(Seat::Shared | Seat::Pinned(_)) | None => return Ok(None),
        };
        let most = cpus.len() as u64 * 100;
        Ok(Some(Limited::new(name, "cpus", Unit::PercentOfCpu, most)))
    }

    /// Of its tenant, what all guests of that hold together.
    fn shared_limits(&self, name: &GuestName) -> Result<Vec<Limited>> {
        let tenant = self.run_state(name)?.and_then(|state| state.tenant);
        let group = match &tenant {
            Some(tenant) => self.tenant_group(tenant)?,
            None => None,
        };
        let Some(group) = group else {
            return Ok(Vec::new());
        };
        let mut rows = rows(name, &group.counters()?);
        rows.retain_mut(|row| {
            let shared = match row.resource {
                "memory" => Some("tenant memory"),
                "processes" => Some("tenant processes"),
                "cpu" => Some("tenant cpu"),
                _ => None,
            };
            row.resource = shared.unwrap_or(row.resource);
            if row.resource == "tenant processes" && self.facts.cgroup_v1.contains_key("pids") {
                // Counted in the groups of its guests.
                row.hits = None;
            }
            shared.is_some()
        });
        Ok(rows)
    }

    /// Of its credits, what is not there.
    fn credits(&self, name: &GuestName) -> Option<Limited> {
        let guest = self.guest(name).ok()?;
        let view = self.credit_view(name, &guest)?;
        let whole = view.bank_us / 1_000_000;
        let saved = u64::try_from(view.saved_us).unwrap_or(0) / 1_000_000;
        Some(Limited {
            held: Some(whole.saturating_sub(saved)),
            ..Limited::new(name, "credits", Unit::CpuSeconds, whole)
        })
    }

    /// Of its own layer what it holds and may hold; where nobody counts that, only the size it was sold.
    fn disk(&self, name: &GuestName) -> Result<Vec<Limited>> {
        let space = storage::space_in_use(&self.layout, name)
            .map_err(|error| self.root_error(name, error.into()))?;
        let Some(space) = space else {
            let size = self.guest(name).ok().and_then(|guest| guest.disk.size);
            let row = size.map(|size| Limited::new(name, "disk", Unit::Bytes, size.0));
            return Ok(row.into_iter().collect());
        };
        let row = |resource, unit, size: u64, free: u64| Limited {
            held: Some(size.saturating_sub(free)),
            ..Limited::new(name, resource, unit, size)
        };
        let rows = [
            row("disk", Unit::Bytes, space.size, space.free),
            row("files", Unit::Count, space.files, space.files_free),
        ];
        Ok(rows.into_iter().filter(|row| row.limit > 0).collect())
    }
}

fn rows(name: &GuestName, all: &Counters) -> Vec<Limited> {
    let memory = Limited::of(name, "memory", Unit::Bytes, &all.memory).map(|row| Limited {
        killed: all.oom_kills,
        ..row
    });
    let swap = all.swap.as_ref();
    let swap = swap.and_then(|swap| Limited::of(name, "swap", Unit::Bytes, swap));
    let cpu = all.cpu.as_ref().map(|cpu| Limited::of_cpu(name, cpu));
    let rows = [
        memory,
        swap,
        Limited::of(name, "processes", Unit::Count, &all.processes),
        Limited::of(name, "cgroups", Unit::Count, &all.groups),
        cpu,
    ];
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(held: Option<u64>, peak: Option<u64>, limit: u64, hits: Option<u64>) -> Limited {
        let name = "web".parse().unwrap();
        let counter = Counter {
            held,
            peak,
            limit: Some(limit),
            hits,
        };
        Limited::of(&name, "processes", Unit::Count, &counter).unwrap()
    }

    #[test]
    fn near_is_at_least_that_part_of_the_limit() {
        assert!(row(Some(8), None, 10, None).is_near(80));
        assert!(!row(Some(7), Some(7), 10, Some(0)).is_near(80));
        assert!(row(Some(1), Some(8), 10, Some(0)).is_near(80));
        // The largest limit there is overflows nothing.
        assert!(!row(Some(1 << 60), None, u64::MAX, None).is_near(80));
        assert!(!row(Some(0), Some(0), 0, Some(0)).is_near(80));
    }

    #[test]
    fn a_hit_tells_only_where_no_peak_is_kept() {
        assert!(row(None, None, 50, Some(1)).is_near(80));
        assert!(!row(Some(1), Some(2), 50, Some(1)).is_near(80));
    }

    #[test]
    fn what_has_no_limit_or_is_not_kept_is_no_row_and_no_number() {
        let name = "web".parse().unwrap();
        let mut all = Counters::default();
        assert!(rows(&name, &all).is_empty());
        all.memory.limit = Some(5);
        let shown = serde_json::to_value(rows(&name, &all)).unwrap();
        assert_eq!(shown[0]["limit"], 5);
        for field in ["held", "peak", "hits", "killed"] {
            assert!(shown[0][field].is_null(), "{field}");
        }
    }
}
