//! Snapshots that are taken by the clock: the keys of `[snapshots]`, what they mean, what is refused.

use std::time::Duration;

use super::check::Found;
use super::default;
use super::layer::layered;
use super::word::{OrNone, Pause};
use crate::model::{Guest, Retention, SnapshotRule};

/// Shortest and longest time between two.
const EVERY: (Duration, Duration) = (
    Duration::from_secs(60),
    Duration::from_secs(365 * 24 * 3600),
);
const MOST: u32 = 1000;

layered! {
    /// `[snapshots]`
    pub struct SnapshotsPart {
        /// How far they are apart.
        every: Option<OrNone<Pause>>,
        /// How many of the newest are kept.
        keep_last: Option<u32>,
        /// Of how many days the newest is kept.
        daily: Option<u32>,
        /// Of how many weeks.
        weekly: Option<u32>,
        /// Of how many months.
        monthly: Option<u32>,
    }
}

impl From<SnapshotsPart> for SnapshotRule {
    fn from(
        SnapshotsPart {
            every,
            keep_last,
            daily,
            weekly,
            monthly,
        }: SnapshotsPart,
    ) -> Self {
        let usual = default::SNAPSHOTS_KEPT;
        Self {
            every: every.and_then(|every| every.0).map(|pause| pause.0),
            keep: Retention {
                last: keep_last.unwrap_or(usual.last),
                daily: daily.unwrap_or(usual.daily),
                weekly: weekly.unwrap_or(usual.weekly),
                monthly: monthly.unwrap_or(usual.monthly),
            },
        }
    }
}

pub(super) fn snapshots(guest: &Guest, found: &mut Found) {
    let SnapshotRule { every, keep } = &guest.snapshots;
    if every.is_some_and(|every| every < EVERY.0 || every > EVERY.1) {
        found.add("snapshots.every", "is out of range: 1m to 365d");
    }
    for (key, count) in [
        ("snapshots.keep_last", keep.last),
        ("snapshots.daily", keep.daily),
        ("snapshots.weekly", keep.weekly),
        ("snapshots.monthly", keep.monthly),
    ] {
        found.range(key, &count, &0, &MOST);
    }
    if every.is_some() && *keep == Retention::default() {
        let message = "nothing would be kept: one of keep_last, daily, weekly and monthly must be \
                       at least 1, or snapshots.every none";
        found.add("snapshots.keep_last", message);
    }
}

/// The value of a key, as `get` shows it.
pub(super) fn text(rule: &SnapshotRule, path: &str) -> Option<String> {
    let keep = &rule.keep;
    Some(match path {
        "snapshots.every" => match rule.every {
            Some(every) => Pause(every).to_string(),
            None => "none".to_owned(),
        },
        "snapshots.keep_last" => keep.last.to_string(),
        "snapshots.daily" => keep.daily.to_string(),
        "snapshots.weekly" => keep.weekly.to_string(),
        "snapshots.monthly" => keep.monthly.to_string(),
        _ => return None,
    })
}
