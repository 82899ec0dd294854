//! CPUs in a definition: what is meant, and what no guest may ask for. The other settings are next door
//! in `resolve` and `check`, which ask here.

use std::collections::BTreeSet;
use std::time::Duration;

use super::check::Found;
use super::default;
use super::definition::CpuPart;
use super::resolve::BURST_PERIOD_US;
use crate::model::{CpuLimits, CpuMode, Cpus, Guest, HostFacts};

impl From<CpuPart> for CpuLimits {
    fn from(
        CpuPart {
            mode,
            dedicated,
            pool,
            resize,
            limit,
            entitled,
            weight,
            cpuset,
            burst,
            earn,
            bank,
            core_scheduling,
        }: CpuPart,
    ) -> Self {
        let burst: Option<Cpus> = burst.and_then(|b| b.0);
        let entitled: Option<Cpus> = entitled.and_then(|n| n.0);
        // A hundredth is one of weight: under contention guests get what they are entitled to.
        let by_right = entitled.map(|n| n.hundredths().min(10_000));
        Self {
            mode: mode.unwrap_or_default(),
            dedicated: dedicated.and_then(|n| n.0),
            pool: pool.and_then(|pool| pool.0),
            resize: resize.unwrap_or_default(),
            limit: limit.and_then(|limit| limit.0),
            entitled,
            weight: weight.or(by_right).unwrap_or(default::CPU_WEIGHT),
            cpuset: cpuset.and_then(|set| set.0),
            nodes: None,
            burst_us: burst.map_or(0, |cpus| cpus.quota_us(BURST_PERIOD_US)),
            earn: earn.and_then(|earn| earn.0),
            bank: bank.and_then(|bank| bank.0).map(|bank| bank.0),
            core_scheduling: core_scheduling.unwrap_or(false),
            held_to: None,
        }
    }
}

pub(super) fn cpu(guest: &Guest, facts: &HostFacts, found: &mut Found) {
    let cpu = &guest.cpu;
    let there: BTreeSet<u32> = facts.cpus.iter().collect();
    let count = there.len();
    let has = format!("{count} CPU{}", if count == 1 { "" } else { "s" });
    for (key, cpus) in [
        ("cpu.limit", cpu.limit),
        ("cpu.entitled", cpu.entitled),
        ("cpu.earn", cpu.earn),
    ] {
        if let Some(n) = cpus.filter(|n| n.hundredths() as usize > count * 100) {
            let message = format!("{n} is more than there are: this machine has {has}");
            found.add(key, message);
        }
    }
    found.range("cpu.weight", &cpu.weight, &1, &10_000);
    if let Some(set) = &cpu.cpuset
        && let Some(absent) = set.iter().find(|cpu| !there.contains(cpu))
    {
        let message = format!("there is no CPU {absent}: this machine has {}", facts.cpus);
        found.add("cpu.cpuset", message);
    }
    cpu_mode(cpu, count, found);
    credits(cpu, found);
    if cpu.limit.is_some_and(|limit| cpu.entitled > Some(limit)) {
        found.add(
            "cpu.entitled",
            "is above cpu.limit: it can be at most as much",
        );
    }
    if cpu.burst_us > 0 {
        let limit_us = cpu.limit.map(|limit| limit.quota_us(BURST_PERIOD_US));
        match limit_us {
            None => found.add(
                "cpu.burst",
                "needs cpu.limit: without a limit there is nothing to go above",
            ),
            Some(limit_us) if cpu.burst_us > limit_us => {
                found.add("cpu.burst", "is above cpu.limit: it can be at most as much");
            }
            Some(_) => {}
        }
    }
}

/// Least and most that is saved up.
const BANKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600));

/// What goes with credits.
fn credits(cpu: &CpuLimits, found: &mut Found) {
    let (Some(earn), Some(bank)) = (cpu.earn, cpu.bank) else {
        match (cpu.earn, cpu.bank) {
            (Some(_), None) => found.add(
                "cpu.bank",
                "is missing: with cpu.earn, say how much of it is saved up, such as cpu.bank = \"30m\"",
            ),
            (None, Some(_)) => found.add(
                "cpu.earn",
                "is missing: with cpu.bank, say how much CPU time it earns, such as cpu.earn = 0.2",
            ),
            _ => {}
        }
        return;
    };
    if cpu.mode == CpuMode::Dedicated {
        found.add(
            "cpu.earn",
            "makes no sense with cpu.mode = \"dedicated\": those CPUs are its own already",
        );
    }
    if cpu.limit.is_some_and(|limit| earn >= limit) {
        let message = "is not below cpu.limit: what it earns it could never save up and use";
        found.add("cpu.earn", message);
    }
    if cpu.entitled.is_some_and(|entitled| entitled > earn) {
        let message = "is below cpu.entitled: that much is to be its own also without credits";
        found.add("cpu.earn", message);
    }
    if bank < BANKS.0 || bank > BANKS.1 {
        found.add("cpu.bank", "is out of range: 1s to 30d");
    }
}

/// What goes with which way to be given CPUs.
fn cpu_mode(cpu: &CpuLimits, there: usize, found: &mut Found) {
    match (cpu.mode, cpu.dedicated) {
        (CpuMode::Dedicated, None) => found.add(
            "cpu.dedicated",
            "is missing: cpu.mode is dedicated, so say how many CPUs, such as cpu.dedicated = 2",
        ),
        (CpuMode::Dedicated, Some(n)) => {
            if n == 0 || n as usize > there {
                let message = format!("{n} is out of range: this machine has {there}");
                found.add("cpu.dedicated", message);
            }
            if cpu.entitled.is_some() {
                let message = "is for guests that share: this one has its CPUs whole; write none";
                found.add("cpu.entitled", message);
            }
            if let Some(limit) = cpu.limit
                && u64::from(limit.hundredths()) < u64::from(n) * 100
            {
                let message =
                    "is below cpu.dedicated: CPUs of its own would stand idle; write none";
                found.add("cpu.limit", message);
            }
            if cpu
                .cpuset
                .as_ref()
                .is_some_and(|set| set.len() < n as usize)
            {
                let message = "has fewer CPUs than cpu.dedicated: they are chosen among these";
                found.add("cpu.cpuset", message);
            }
        }
        (mode, Some(_)) => {
            let message = format!(
                "goes with cpu.mode = \"dedicated\", and that is {mode}: leave it out, or write none"
            );
            found.add("cpu.dedicated", message);
        }
        (_, None) => {}
    }
    match (cpu.mode, &cpu.pool) {
        (CpuMode::Pool, None) => found.add(
            "cpu.pool",
            "is missing: cpu.mode is pool, so say which; `bulkhead cpupool list` names them",
        ),
        (CpuMode::Pool, Some(_)) if cpu.cpuset.is_some() => {
            let message = "is for guests that share: this one runs on its pool's; write none";
            found.add("cpu.cpuset", message);
        }
        (CpuMode::Pool, Some(_)) | (_, None) => {}
        (mode, Some(_)) => {
            let message = format!(
                "goes with cpu.mode = \"pool\", and that is {mode}: leave it out, or write none"
            );
            found.add("cpu.pool", message);
        }
    }
}
