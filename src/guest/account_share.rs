//! What a guest used as one tenant's: when it goes to another, its account is divided, so that who had it
//! pays for what it used until then, and the new one for what comes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::Period;
use super::cores::Cores;
use super::ledger::{self, By};
use crate::model::{TenantName, Traffic, Used};

/// Sums by days and months.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Share {
    #[serde(deserialize_with = "ledger::periods")]
    pub(super) used: BTreeMap<String, Used>,
    #[serde(deserialize_with = "ledger::periods")]
    pub(super) traffic: BTreeMap<String, Traffic>,
    /// Room on disks over time, KiB times seconds.
    #[serde(deserialize_with = "ledger::periods")]
    pub(super) disk: BTreeMap<String, u64>,
}

/// Whose a guest is, and what it used as another's. A guest of nobody is of the tenant without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tenants {
    /// Whose it was at the last look; `None` if nobody has written it down yet.
    now: Option<String>,
    former: BTreeMap<String, Share>,
}

impl Tenants {
    /// From now on it is of this tenant: what it used until now is for what it used as that one's, which
    /// is given back, to be gone on with.
    pub(super) fn change(&mut self, tenant: Option<&TenantName>, until_now: Share) -> Share {
        let tenant = tenant.map(ToString::to_string).unwrap_or_default();
        if self.now.is_none() && tenant.is_empty() && until_now == Share::default() {
            // Nothing that is worth a file.
            return until_now;
        }
        match self.now.replace(tenant.clone()) {
            Some(before) if before != tenant => {
                if until_now != Share::default() {
                    self.former.insert(before, until_now);
                }
                self.former.remove(&tenant).unwrap_or_default()
            }
            _ => until_now,
        }
    }

    /// Each with its share; `last` is that of now.
    pub(super) fn shares(self, last: Share) -> Vec<(Option<TenantName>, Share)> {
        let now = self.now.unwrap_or_default();
        let all = self.former.into_iter().chain([(now, last)]);
        all.map(|(tenant, share)| (tenant.parse().ok(), share))
            .collect()
    }

    /// Whether somebody has written down whose it is.
    pub(super) fn are_known(&self) -> bool {
        self.now.is_some()
    }

    /// Whether there is nothing to write down.
    pub(super) fn are_nobody(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.former.values().all(|share| *share == Share::default())
    }
}

/// Sums of shares, with the cores if they are asked for.
pub(super) fn periods(shares: Vec<Share>, cores: Cores, by: By) -> Vec<Period> {
    let mut sums: BTreeMap<String, Period> = BTreeMap::new();
    let mut sum = |day: &str, add: &mut dyn FnMut(&mut Period)| {
        let period = by.period(day);
        let sum = sums.entry(period.clone()).or_insert_with(|| Period {
            period,
            ..Period::default()
        });
        add(sum);
    };
    if by == By::All {
        sum("", &mut |_| {});
    }
    for share in shares {
        for (day, used) in share.used {
            sum(&day, &mut |sum| sum.used = sum.used + used);
        }
        for (day, traffic) in share.traffic {
            sum(&day, &mut |sum| sum.traffic = sum.traffic + traffic);
        }
        for (day, disk) in share.disk {
            let all = |sum: u64| sum.saturating_add(disk);
            sum(&day, &mut |sum| sum.disk_kib_s = all(sum.disk_kib_s));
        }
    }
    for (day, most) in cores.periods {
        sum(&day, &mut |sum| sum.cores = sum.cores.max(most));
    }
    for (day, bounds) in cores.bounds {
        sum(&day, &mut |sum| {
            let before = sum.bounds.take();
            let bounds = bounds.clone();
            sum.bounds = Some(match before {
                Some(before) => before.with(bounds),
                None => bounds,
            });
        });
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(day: &str, disk: u64) -> Share {
        Share {
            disk: BTreeMap::from([(day.to_owned(), disk)]),
            ..Share::default()
        }
    }

    #[test]
    fn each_tenant_has_what_was_used_while_the_guest_was_its_own() {
        let name = |name: &str| name.parse::<TenantName>().unwrap();
        let (acme, zed) = (name("acme"), name("zed"));
        let mut tenants = Tenants::default();
        tenants.change(None, Share::default());
        assert_eq!(tenants, Tenants::default());
        // An account from before this was written down is of whoever has the guest now.
        let first = tenants.change(Some(&acme), share("2026-03-01", 2));
        assert_eq!(first, share("2026-03-01", 2));
        let same = tenants.change(Some(&acme), first.clone());
        assert_eq!(same, first);
        assert_eq!(tenants.change(Some(&zed), same), Share::default());
        tenants.change(None, share("2026-03-02", 4));
        // It goes on where it was.
        let mut last = tenants.change(Some(&acme), share("2026-04-03", 8));
        assert_eq!(last, first);
        last.disk.insert("2026-04-04".into(), 16);
        let shares = tenants.shares(last);
        let of = |wanted: Option<&TenantName>| {
            let of = shares
                .iter()
                .filter(|(tenant, _)| tenant.as_ref() == wanted);
            let of: Vec<_> = of.map(|(_, share)| share.clone()).collect();
            assert_eq!(of.len(), 1);
            let months = periods(of, Cores::default(), By::Month);
            let months = months.into_iter().map(|one| (one.period, one.disk_kib_s));
            months.collect::<Vec<_>>()
        };
        assert_eq!(
            of(Some(&acme)),
            [("2026-03".into(), 2), ("2026-04".into(), 16)]
        );
        assert_eq!(of(Some(&zed)), [("2026-03".into(), 4)]);
        assert_eq!(of(None), [("2026-04".into(), 8)]);
        let all: Vec<_> = shares.iter().map(|(_, share)| share.clone()).collect();
        let all = periods(all, Cores::default(), By::All);
        assert_eq!((all.len(), all[0].disk_kib_s), (1, 30));
    }
}
