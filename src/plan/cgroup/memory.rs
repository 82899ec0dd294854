//! `resources.memory` → control files. OCI counts memory and swap together, as version 1 does; 0 is
//! "not said" and -1 "no limit", as in every runtime. Limits of the kernel's own memory (`kernel`,
//! `kernelTCP`) are passed over: the kernel has dropped them and the specification advises against
//! them.

use oci_spec::runtime::{LinuxMemory, LinuxResources};

use super::{Result, bad, unsupported, v2};
use crate::model::{CgroupHost, CgroupSetting};

const SWAP: &str = "resources.memory.swap";

/// What is said of memory: nothing, no limit, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amount {
    Unsaid,
    Unlimited,
    Bytes(u64),
}

impl Amount {
    fn of(field: &'static str, value: Option<i64>) -> Result<Self> {
        match value {
            None | Some(0) => Ok(Self::Unsaid),
            Some(-1) => Ok(Self::Unlimited),
            Some(n) => match u64::try_from(n) {
                Ok(n) => Ok(Self::Bytes(n)),
                Err(_) => Err(bad(field, n, "write bytes, or -1 for no limit")),
            },
        }
    }

    /// The value for a file where no limit is called `unlimited`.
    fn text(self, unlimited: &str) -> Option<String> {
        match self {
            Self::Unsaid => None,
            Self::Unlimited => Some(unlimited.to_owned()),
            Self::Bytes(n) => Some(n.to_string()),
        }
    }
}

struct Wanted {
    limit: Amount,
    /// Memory and swap.
    both: Amount,
    reservation: Amount,
    swappiness: Option<u64>,
}

fn wanted(memory: &LinuxMemory) -> Result<Wanted> {
    let limit = Amount::of("resources.memory.limit", memory.limit())?;
    let both = Amount::of(SWAP, memory.swap())?;
    if let (Amount::Bytes(limit), Amount::Bytes(both)) = (limit, both)
        && both < limit
    {
        let rule = "it counts memory and swap together, so it is no less than memory.limit";
        return Err(bad(SWAP, both, rule));
    }
    // Some clients say "not said" as -1.
    let swappiness = memory.swappiness().filter(|&n| n != u64::MAX);
    if let Some(n) = swappiness.filter(|&n| n > 100) {
        return Err(bad(
            "resources.memory.swappiness",
            n,
            "it goes from 0 to 100",
        ));
    }
    Ok(Wanted {
        limit,
        both,
        reservation: Amount::of("resources.memory.reservation", memory.reservation())?,
        swappiness,
    })
}

/// Limit that must not be set below what is in use, if that was asked for.
pub(super) fn not_below_usage(resources: &LinuxResources) -> Option<u64> {
    let memory = resources.memory().as_ref()?;
    memory.check_before_update().filter(|&check| check)?;
    memory
        .limit()
        .and_then(|n| u64::try_from(n).ok())
        .filter(|&n| n > 0)
}

pub(super) fn v1(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let wanted = wanted(memory)?;
    let mut both = wanted.both;
    if wanted.limit == Amount::Unlimited && both == Amount::Unsaid {
        both = Amount::Unlimited;
    }
    let mut push = |file: &str, amount: Amount| {
        if let Some(text) = amount.text("-1") {
            out.push(CgroupSetting::new("memory", file, text));
        }
    };
    // Memory can be no more than both together at any moment. Which is to be written first
    // depends on what was before: whoever writes them takes them in the other order when the
    // kernel refuses this one.
    push("memory.limit_in_bytes", wanted.limit);
    match both {
        Amount::Bytes(_) if !host.swap => {
            return Err(unsupported(host, SWAP, "this kernel does not account swap"));
        }
        Amount::Unlimited if !host.swap => {}
        both => push("memory.memsw.limit_in_bytes", both),
    }
    push("memory.soft_limit_in_bytes", wanted.reservation);
    if let Some(n) = wanted.swappiness {
        out.push(CgroupSetting::new("memory", "memory.swappiness", n));
    }
    if memory.disable_oom_killer() == Some(true) {
        out.push(CgroupSetting::new("memory", "memory.oom_control", 1));
    }
    Ok(())
}

pub(super) fn v2(
    resources: &LinuxResources,
    host: &CgroupHost,
    out: &mut Vec<CgroupSetting>,
) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let wanted = wanted(memory)?;
    let swap = swap_alone(&wanted)?;
    let amounts = [
        ("memory.swap.max", swap),
        ("memory.max", wanted.limit),
        ("memory.low", wanted.reservation),
    ];
    for (file, amount) in amounts {
        let Some(text) = amount.text("max") else {
            continue;
        };
        v2::needs(host, "memory", "resources.memory")?;
        let setting = CgroupSetting::new("memory", file, text);
        match (file, amount) {
            ("memory.swap.max", Amount::Bytes(n)) if n > 0 && !host.swap => {
                return Err(unsupported(host, SWAP, "this kernel does not account swap"));
            }
            ("memory.swap.max", _) if !host.swap => out.push(setting.best_effort()),
            _ => out.push(setting),
        }
    }
    if let Some(n) = wanted.swappiness {
        let why = format!("version 2 has no swappiness of a group; leave out {n}");
        return Err(unsupported(host, "resources.memory.swappiness", why));
    }
    if memory.disable_oom_killer() == Some(true) {
        let why = "version 2 cannot leave processes waiting for memory";
        return Err(unsupported(host, "resources.memory.disableOOMKiller", why));
    }
    Ok(())
}

/// Version 2 counts swap alone.
fn swap_alone(wanted: &Wanted) -> Result<Amount> {
    match (wanted.limit, wanted.both) {
        (Amount::Unlimited, Amount::Unsaid) => Ok(Amount::Unlimited),
        (_, both @ (Amount::Unsaid | Amount::Unlimited)) | (Amount::Unlimited, both) => Ok(both),
        (Amount::Unsaid, Amount::Bytes(n)) => {
            let rule = "it counts memory and swap together, so it needs memory.limit beside it";
            Err(bad(SWAP, n, rule))
        }
        (Amount::Bytes(limit), Amount::Bytes(both)) => {
            Ok(Amount::Bytes(both.saturating_sub(limit)))
        }
    }
}
