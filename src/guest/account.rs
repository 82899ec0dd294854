//! The account of a guest: what it has used and what it has sent and received, over all its runs.
//! Whoever is alive reads the counters: a keeper every ten minutes, whoever puts a run away, and
//! commands that ask, which write nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::account_share::{self, Share, Tenants};
use super::cores::{self, Bounds, Cores};
use super::disk_time::{self, Moment, Promised};
use super::error::{GuestError, Result};
use super::ledger::{Counters, DAY, Ledger, Seen};
use super::manager::{Manager, now_ms};
use super::products::{self, Products};
use crate::kernel::{fault, file, namespace};
use crate::model::{EventKind, Gauge, GuestName, TenantName, Traffic, Used, clock};

pub use super::ledger::By;

/// Longest account that is read, bytes: some thousand days.
pub(super) const LONGEST: u64 = 4 << 20;
/// How often a keeper looks, in milliseconds.
const EVERY: u64 = 600_000;
/// A day, in milliseconds.
const A_DAY: u64 = 86_400_000;
/// Milliseconds in which the kernel counts when processes began (USER_HZ, 100 a second).
const TICK: u64 = 10;

/// `account.json` in a guest's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    used: Ledger<Gauge, Used>,
    traffic: Ledger<Traffic, Traffic>,
    /// What the counters of its further interfaces said, by their networks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    nics: BTreeMap<String, Seen<Traffic>>,
    /// Room on disks over time, KiB times seconds.
    #[serde(default)]
    disk: Ledger<Promised, u64>,
    /// Cores that it could use.
    #[serde(default)]
    cores: Cores,
    /// For which licensed products.
    #[serde(default, skip_serializing_if = "Products::is_empty")]
    products: Products,
    /// Left out as long as it can be: keepers from before know nothing of it.
    #[serde(default, skip_serializing_if = "Tenants::are_nobody")]
    tenants: Tenants,
    /// What a program after this one has added, kept as it is: a keeper outlives an upgrade, and what it
    /// counts until it is replaced must not be lost for a part that it does not know.
    #[serde(flatten)]
    later: BTreeMap<String, serde_json::Value>,
}

impl Account {
    /// Its sums.
    pub(super) fn periods(mut self, by: By) -> Vec<Period> {
        let last = self.take_share();
        let shares = self.tenants.shares(last).into_iter();
        let shares = shares.map(|(_, share)| share).collect();
        let mut periods = account_share::periods(shares, self.cores, by);
        for period in periods.iter_mut().filter(|_| by != By::All) {
            period.products = self.products.in_period(&period.period);
        }
        periods
    }

    /// The same for each tenant that it was of, without the cores.
    pub(super) fn by_tenant(mut self, by: By) -> Vec<(Option<TenantName>, Vec<Period>)> {
        let last = self.take_share();
        let sums = |share| account_share::periods(vec![share], Cores::default(), by);
        let shares = self.tenants.shares(last).into_iter();
        shares
            .map(|(tenant, share)| (tenant, sums(share)))
            .collect()
    }

    /// Whose it was, of a guest that is no more, where that is not written in it.
    pub(super) fn was_of(&mut self, tenant: Option<&TenantName>) {
        if !self.tenants.are_known() {
            self.belongs_to(tenant);
        }
    }

    /// Whose it is from now on.
    fn belongs_to(&mut self, tenant: Option<&TenantName>) {
        let share = self.take_share();
        let share = self.tenants.change(tenant, share);
        (self.used.periods, self.traffic.periods) = (share.used, share.traffic);
        self.disk.periods = share.disk;
    }

    fn take_share(&mut self) -> Share {
        Share {
            used: std::mem::take(&mut self.used.periods),
            traffic: std::mem::take(&mut self.traffic.periods),
            disk: std::mem::take(&mut self.disk.periods),
        }
    }

    /// Whether nothing was ever used.
    pub(super) fn is_empty(&self) -> bool {
        self.used.periods.is_empty()
            && self.traffic.periods.is_empty()
            && self.disk.periods.is_empty()
            && self.tenants.is_empty()
    }
}

impl Counters<Used> for Gauge {
    fn since(&self, before: Option<&Self>) -> Used {
        self.since(before)
    }
}

impl Counters<Self> for Traffic {
    fn since(&self, before: Option<&Self>) -> Self {
        before.map_or(*self, |before| self.since(before))
    }
}

/// Counters of a guest's first interface, and of the others by their networks.
pub(super) type Counted = (Option<Seen<Traffic>>, BTreeMap<String, Seen<Traffic>>);

/// What a guest's counters say at a moment, and whose they are.
#[derive(Clone, Debug)]
pub(super) struct Reading(Seen<Gauge>);

/// The account of a guest in a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Period {
    /// `2026-03-15`, `2026-03`, or `all`.
    pub period: String,
    /// What it has used.
    pub used: Used,
    /// What it has sent and received.
    pub traffic: Traffic,
    /// Room on disks that it was promised, over time, KiB times seconds.
    pub disk_kib_s: u64,
    /// Most that it could use of CPUs at once while it ran, hundredths of one.
    pub cores: u32,
    /// What bounds that together with other guests', where it is known.
    pub bounds: Option<Bounds>,
    /// Licensed products that its label named in that day or month, where it is known.
    pub products: Option<BTreeSet<String>>,
}

impl Manager {
    /// A guest's account up to now. Writes nothing and takes no lock.
    ///
    /// # Errors
    /// There is no such guest, its account is damaged, or the kernel refuses to tell.
    pub fn account(&self, name: &GuestName, by: By) -> Result<Vec<Period>> {
        self.status(name)?;
        let (_, account) = self.account_now(name, self.reading(name))?;
        Ok(account.periods(by))
    }

    /// The same by tenants: what it has used as each one's. Those that it left are among them.
    ///
    /// # Errors
    /// As [`Manager::account`].
    pub fn account_by_tenant(
        &self,
        name: &GuestName,
        by: By,
    ) -> Result<Vec<(Option<TenantName>, Vec<Period>)>> {
        self.status(name)?;
        let (_, account) = self.account_now(name, self.reading(name))?;
        Ok(account.by_tenant(by))
    }

    /// What was written of a guest's account last.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub(super) fn account_as_written(&self, name: &GuestName) -> Result<Account> {
        if let Some(late) = self.late_account(name) {
            return Ok(late);
        }
        let path = self.account_path(name);
        let Some(text) = file::read_small(&path, LONGEST)? else {
            return Ok(Account::default());
        };
        serde_json::from_slice(&text).map_err(|error| GuestError::Damaged {
            path: path.display().to_string(),
            why: error.to_string(),
            advice: "restore it from a backup, or remove it: the account begins anew",
        })
    }

    /// Brings a guest's account up to date; `held` is what was read while its processes still lived.
    /// Its lock is held: two at once would add the same. Neither a full disk nor a damaged account
    /// keeps a guest from being stopped, and counters stay until they are read.
    pub(super) fn keep_account(&self, name: &GuestName, held: Option<Reading>) {
        if self.layout.guest(name).is_dir() {
            let _later = self.settle(name, held, false);
        }
    }

    /// The same when its counters are about to go. Where that cannot be done, it is told what is lost.
    pub(super) fn close_run(&self, name: &GuestName, held: Option<Reading>) {
        if !self.layout.guest(name).is_dir() {
            return;
        }
        if let Err(error) = self.settle(name, held, true) {
            let why = error.to_string();
            // There may be no room for that either.
            let _lost = self.record(name, EventKind::NotCounted { why });
        }
    }

    /// The same from its keeper, if no command is at work on the guest: that one does it.
    pub(super) fn keep_account_if_idle(&self, name: &GuestName) {
        if let Ok(_lock) = self.lock_within(name, "keeper", Duration::ZERO) {
            self.keep_account(name, None);
        }
    }

    fn settle(&self, name: &GuestName, held: Option<Reading>, ends: bool) -> Result<()> {
        let last = match (self.reading(name), held) {
            // What died meanwhile has given its memory back; until then it held it.
            (Some(mut last), Some(held)) if last.0.source == held.0.source => {
                last.0.counters.memory = held.0.counters.memory;
                last.0.counters.swap = held.0.counters.swap;
                Some(last)
            }
            (last, held) => last.or(held),
        };
        let (before, now) = self.account_now(name, last)?;
        if before != now || self.late_account(name).is_some() {
            fault::point()?;
            self.write_account(name, &now, ends)?;
        }
        Ok(())
    }

    /// What a guest's cgroups have counted in its run, if it has one.
    pub(super) fn reading(&self, name: &GuestName) -> Option<Reading> {
        let state = self.run_state(name).ok()??;
        let init = state.init?;
        let sample = self.usage(name)?;
        Some(Reading(Seen {
            source: format!("{} {} {}", state.boot_id, init.pid, init.start),
            counters: Gauge {
                began_ms: init.start.saturating_mul(TICK),
                at_ms: boot_ms(),
                cpu_us: sample.cpu_us,
                memory: sample.memory,
                swap: sample.swap,
                io_read: sample.io_read,
                io_written: sample.io_write,
                reads: sample.io_reads,
                writes: sample.io_writes,
            },
        }))
    }

    /// The account as it is, and as it is to be.
    fn account_now(
        &self,
        name: &GuestName,
        reading: Option<Reading>,
    ) -> Result<(Account, Account)> {
        let path = self.account_path(name);
        let before = self.account_as_written(name)?;
        let now_ms = now_ms();
        let day = &clock::time(now_ms)[..DAY];
        let mut now = before.clone();
        // Of a definition that cannot be read now, what it said before.
        let guest = self.guest(name).ok();
        // What was promised until now was the tenant's who had it then.
        let size = guest.as_ref().map(|guest| guest.disk.size);
        let size = size.map(|size| size.map(|size| size.0));
        let moment = Moment {
            day_ms: now_ms,
            boot: self.facts.boot_id.clone(),
            boot_ms: boot_ms(),
        };
        disk_time::look(&mut now.disk, size, &moment);
        let runs = self.run_state(name).ok().flatten();
        match (&runs, &guest) {
            (Some(run), _) => now.belongs_to(run.tenant.as_ref()),
            (None, Some(guest)) => now.belongs_to(guest.tenant.as_ref()),
            (None, None) => {}
        }
        // What waits for its next start is not what it can use now.
        let guest = guest.map(|guest| match runs {
            Some(run) => run.in_force.of(guest),
            None => guest,
        });
        if let (Some(reading), Some(guest)) = (&reading, &guest) {
            let pool = guest.cpu.pool.as_ref().map(|pool| self.cpu_pool(pool));
            let pool = pool.and_then(Result::ok).map(|pool| pool.cpus.len());
            let host = self.facts.cpus.iter().count();
            let hundredths = cores::of(guest, host, pool);
            let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let bounds = Bounds {
                host: whole(host),
                pool: guest.cpu.pool.clone().zip(pool.map(whole)),
            };
            let counters = &reading.0.counters;
            let run_ms = counters.at_ms.saturating_sub(counters.began_ms);
            let run = (reading.0.source.as_str(), run_ms);
            now.cores.look(run, hundredths, bounds, now_ms);
            now.products.look(day, guest.labels.get(products::LABEL));
        }
        now.used.add(reading.map(|reading| reading.0), day);
        let (first, further) = self.counted(name)?;
        if let Some(note) = self.noted(name, &path) {
            note.add(&mut now.traffic, &mut now.nics, day);
        }
        now.traffic.add(first, day);
        for (network, seen) in &further {
            now.traffic.add_beside(now.nics.get(network), seen, day);
        }
        now.nics = further;
        Ok((before, now))
    }

    /// What the firewall has counted of a guest, if it has an address: of its first interface, and of
    /// the further ones by their networks.
    pub(super) fn counted(&self, name: &GuestName) -> Result<Counted> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| GuestError::Network(error);
        let (mut first, mut further) = (None, BTreeMap::new());
        for (network, lease) in self.all_leased(name)? {
            let counters = network.counters(&lease);
            let counters = counters.map_err(|e| failed(e.into()))?;
            let seen = counters.map(|counters| Seen {
                source: counters.source,
                counters: counters.traffic,
            });
            match lease.nic {
                None => first = seen,
                Some(_) => further.extend(seen.map(|seen| (network.word().to_owned(), seen))),
            }
        }
        Ok((first, further))
    }

    pub(super) fn account_path(&self, name: &GuestName) -> PathBuf {
        self.layout.guest(name).join("account.json")
    }
}

/// Milliseconds since boot.
fn boot_ms() -> u64 {
    let (_, boot_ns) = namespace::clocks();
    u64::try_from(boot_ns / 1_000_000).unwrap_or(0)
}

/// How long until a keeper looks again: each at a time of its own, so that thousands do not write at
/// once, and all at midnight, so that what came before counts as that day's.
pub(super) fn until_next_look() -> Duration {
    Duration::from_millis(next_look(now_ms(), std::process::id()))
}

fn next_look(now: u64, keeper: u32) -> u64 {
    let own = u64::from(keeper).wrapping_mul(1000);
    (EVERY - (now + own) % EVERY).min(A_DAY - now % A_DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_from_before_is_of_whoever_had_the_guest_at_its_end() {
        let old = r#"{"used":{"seen":null,"periods":{"2026-01-01":{"run_ms":5,"cpu_us":7,
            "memory_kib_s":0,"swap_kib_s":0,"io_read":0,"io_written":9}}},
            "traffic":{"seen":null,"periods":{}}}"#;
        let acme: TenantName = "acme".parse().unwrap();
        let zed = "zed".parse().unwrap();
        let mut account: Account = serde_json::from_str(old).unwrap();
        let text = serde_json::to_string(&account).unwrap();
        assert!(
            !text.contains("tenants") && !text.contains("bounds"),
            "{text}"
        );
        account.was_of(Some(&acme));
        // What is written in it counts.
        account.was_of(Some(&zed));
        let shares = account.by_tenant(By::All);
        let of: Vec<_> = shares.iter().map(|(tenant, _)| tenant.as_ref()).collect();
        assert_eq!(of, [Some(&acme)]);
        assert_eq!(shares[0].1[0].used.cpu_us, 7);
    }

    #[test]
    fn what_a_later_program_has_added_is_neither_refused_nor_lost() {
        let text = r#"{"used":{"seen":null,"periods":{}},"traffic":{"seen":null,"periods":{}},
            "gpu":{"seen":null,"periods":{"2027-01-01":5}}}"#;
        let account: Account = serde_json::from_str(text).unwrap();
        let again = serde_json::to_value(&account).unwrap();
        assert_eq!(again["gpu"]["periods"]["2027-01-01"], 5);
        // What is not whole is still an error.
        for bad in [r#"{"used":{"seen":null}}"#, r#"{"traffic":{}}"#, "{"] {
            assert!(serde_json::from_str::<Account>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keepers_look_at_times_of_their_own_and_at_midnight() {
        let times = |keeper| {
            let mut now = 0;
            let mut all = Vec::new();
            while now < A_DAY {
                let pause = next_look(now, keeper);
                assert!((1..=EVERY).contains(&pause));
                now += pause;
                all.push(now);
            }
            all
        };
        let (one, other) = (times(4_711), times(4_712));
        assert_eq!((one.len(), one.last()), (145, Some(&A_DAY)));
        let same: Vec<_> = one.iter().filter(|time| other.contains(time)).collect();
        assert_eq!(same, [&A_DAY]);
    }
}
