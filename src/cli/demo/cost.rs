//! What a guest costs: the time of its start, the memory charged to it right after that, and the
//! memory of its keeper.

use std::time::Duration;

use super::report::Report;
use super::site::{GUESTS, Site};
use super::{Result, Stop, host, pause};
use crate::guest::view::bytes_text;

/// Most a start may take at the median, microseconds.
const START_US: u64 = 100_000;
/// Most memory of a busybox guest, its init and its console login running, at the median.
const SMALL: u64 = 4 << 20;
/// Most memory of a guest with systemd.
const LARGE: u64 = 64 << 20;
/// Most private memory of a keeper, at the median.
const KEEPER: u64 = 400 << 10;

/// One guest's costs.
struct Cost {
    launch_us: u64,
    memory: u64,
    keeper: u64,
}

/// Reads and reports the costs of all guests that run.
pub(super) fn measure(site: &Site, report: &mut Report) -> Result<()> {
    for guest in ["host", "server"] {
        if site.manager.row(&Site::name(guest)?).pid.is_some() {
            super::server::wait_ready(site, guest)?;
        }
    }
    pause(Duration::from_millis(200))?;
    let mut small = Vec::new();
    let mut large = Vec::new();
    for (guest, definition) in GUESTS {
        let Some(cost) = cost(site, guest)? else {
            continue;
        };
        match definition.contains("busybox") {
            true => small.push(cost),
            false => large.push((guest, cost)),
        }
    }
    if small.is_empty() {
        return Err(Stop::Failed("no guest runs".to_owned()));
    }
    let all = || small.iter().chain(large.iter().map(|(_, cost)| cost));
    let start = Spread::of(all().map(|cost| cost.launch_us));
    report.line(
        "start of a guest",
        &format!("median under {} ms", START_US / 1000),
        &format!(
            "{:.1} ms ({:.1} to {:.1}, {} guests)",
            ms(start.median),
            ms(start.least),
            ms(start.most),
            small.len() + large.len()
        ),
        start.median < START_US,
    );
    let memory = Spread::of(small.iter().map(|cost| cost.memory));
    report.line(
        "memory of a busybox guest",
        &format!("median under {}", bytes_text(SMALL)),
        &format!(
            "{:.1}M ({:.1} to {:.1})",
            mib(memory.median),
            mib(memory.least),
            mib(memory.most)
        ),
        memory.median < SMALL,
    );
    for (guest, cost) in &large {
        report.line(
            &format!("memory of guest {guest}"),
            &format!("under {}", bytes_text(LARGE)),
            &format!("{:.1}M, all of systemd running", mib(cost.memory)),
            cost.memory < LARGE,
        );
    }
    let keeper = Spread::of(all().map(|cost| cost.keeper));
    report.line(
        "private memory of a keeper",
        &format!("median under {}K", KEEPER >> 10),
        &format!(
            "{}K ({} to {})",
            keeper.median >> 10,
            keeper.least >> 10,
            keeper.most >> 10
        ),
        keeper.median < KEEPER,
    );
    Ok(())
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The costs of a guest; `None` if it does not run.
fn cost(site: &Site, guest: &str) -> Result<Option<Cost>> {
    let name = Site::name(guest)?;
    if !site.manager.names()?.contains(&name) {
        return Ok(None);
    }
    let info = site.manager.info(&name)?;
    let (Some(pid), Some(launch_us), Some(usage)) = (info.row.pid, info.launch_us, info.usage)
    else {
        return Ok(None);
    };
    let keeper = host::parent_of(pid).and_then(host::private_memory);
    let unknown = || Stop::Failed(format!("the keeper of guest {guest} cannot be looked at"));
    Ok(Some(Cost {
        launch_us,
        memory: usage.memory,
        keeper: keeper.ok_or_else(unknown)?,
    }))
}

/// Of many numbers the least, the middle one and the most.
#[derive(Debug, PartialEq, Eq)]
struct Spread {
    least: u64,
    median: u64,
    most: u64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = numbers.collect();
        sorted.sort_unstable();
        let at = |n: usize| sorted.get(n).copied().unwrap_or(0);
        Self {
            least: at(0),
            median: at(sorted.len() / 2),
            most: at(sorted.len().saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let spread = |numbers: &[u64]| Spread::of(numbers.iter().copied());
        let (least, median, most) = (1, 5, 9);
        assert_eq!(
            spread(&[9, 1, 5]),
            Spread {
                least,
                median,
                most
            }
        );
        assert_eq!(spread(&[]).median, 0);
    }
}
