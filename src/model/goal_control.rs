//! From measurements to CPU limits: a pure function of what was seen and what is remembered, so that
//! it can be tried on a simulated host. All CPUs are in hundredths, all times in milliseconds.
//!
//! Nothing here swings: a limit grows in steps and at once; it shrinks in small steps, only after a
//! time in which there was too much, only where what is used still fits well into what is left, and
//! not below where it was too little a while ago.

use std::collections::BTreeMap;

use super::{GuestName, Policy};

/// Between two changes upwards of one guest.
const UP_PAUSE: u64 = 1000;
/// For so long there must have been too much before a limit shrinks, and between two such steps.
const DOWN_PAUSE: u64 = 10_000;
/// For so long a limit that was too small is not gone back to.
const MEMORY: u64 = 900_000;
/// For so long an owner must have been quiet before what it leaves is lent.
const QUIET: u64 = 2000;
/// Least step, hundredths of a CPU.
const STEP: u64 = 5;
/// A guest that uses so many percent of its limit wants more.
const WANTS: u64 = 85;

/// One guest with a goal, as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What is to be reached.
    pub policy: Policy,
    /// Who gets more first.
    pub priority: u32,
    /// The limit in force.
    pub limit: u64,
    /// The smallest and the largest it may get; what it is entitled to is never above the first.
    pub bounds: (u64, u64),
    /// What it is entitled to.
    pub entitled: u64,
    /// What it used in the last interval.
    pub used: u64,
    /// Whether a limit below that cannot be had: nobody gives back memory that it holds.
    pub firm: bool,
    /// In what part of it its processes waited or were held back, percent.
    pub waiting: u64,
    /// The newest number of its metric.
    pub metric: Option<f64>,
}

/// A limit that is to change, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The limit from now on.
    pub to: u64,
    /// What was seen.
    pub cause: String,
}

/// What is remembered of a guest.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    up_at: Option<u64>,
    /// Since when there has been too much.
    plenty: Option<u64>,
    /// The limit that was found too small, and when.
    small: Option<(u64, u64)>,
    /// When an owner last wanted what is its own.
    busy_at: Option<u64>,
    /// When the kernel last refused a limit.
    refused_at: Option<u64>,
}

/// The controller's memory.
#[derive(Clone, Debug, Default)]
pub struct Control {
    past: BTreeMap<GuestName, Past>,
}

/// What a policy makes of what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pull {
    Up,
    Down,
    Hold,
}

impl Control {
    /// The limits that are to change, of guests with goals on a host that may give `capacity` to
    /// them together.
    pub fn decide(
        &mut self,
        now: u64,
        capacity: u64,
        seen: &BTreeMap<GuestName, Seen>,
    ) -> BTreeMap<GuestName, Change> {
        self.past.retain(|name, _| seen.contains_key(name));
        let mut changes = self.lend(now, seen);
        // What is given beyond entitlements is given in order.
        let of =
            |name: &GuestName, one: &Seen| changes.get(name).map_or(one.limit, |c: &Change| c.to);
        let taken: u64 = seen
            .iter()
            .map(|(name, one)| of(name, one).max(one.entitled))
            .sum();
        let mut spare = capacity.saturating_sub(taken);
        let mut order: Vec<_> = seen
            .iter()
            .filter(|(_, one)| one.policy != Policy::Own)
            .collect();
        order.sort_by_key(|(name, one)| (u32::MAX - one.priority, (*name).clone()));
        // What those before want beyond this step is kept for them from those of lower priority.
        let (mut kept, mut rank) = (0, u32::MAX);
        for (name, one) in order {
            if one.priority < rank {
                (spare, kept, rank) = (spare.saturating_sub(kept), 0, one.priority);
            }
            if pull(one).0 == Pull::Up {
                kept += one.bounds.1.saturating_sub(one.limit.max(one.entitled));
            }
            let past = self.past.entry(name.clone()).or_default();
            if let Some(change) = step(now, one, past, &mut spare) {
                changes.insert(name.clone(), change);
            }
        }
        changes
    }

    /// The kernel has refused a guest the limit that was decided: it is left alone for a while.
    pub fn refused(&mut self, now: u64, name: &GuestName) {
        self.past.entry(name.clone()).or_default().refused_at = Some(now);
    }

    /// Owners and borrowers. What an owner leaves of its own for a while is lent; as soon as it wants
    /// it, nothing of it is.
    fn lend(&mut self, now: u64, seen: &BTreeMap<GuestName, Seen>) -> BTreeMap<GuestName, Change> {
        let own = |one: &&Seen| one.policy == Policy::Own;
        let mut lent: BTreeMap<&GuestName, u64> = BTreeMap::new();
        for (name, one) in seen.iter().filter(|(_, one)| own(one)) {
            let past = self.past.entry(name.clone()).or_default();
            // Beyond half of its own it is about to want all of it.
            if one.used * 2 > one.entitled || past.busy_at.is_none() {
                past.busy_at = Some(now);
            }
            let quiet = past
                .busy_at
                .is_some_and(|at| now.saturating_sub(at) >= QUIET);
            if quiet {
                let rest = one.entitled.saturating_sub(one.used + one.used / 4 + STEP);
                lent.insert(name, rest);
            }
        }
        let mut order: Vec<_> = seen.iter().filter(|(_, one)| own(one)).collect();
        order.sort_by_key(|(name, one)| (u32::MAX - one.priority, (*name).clone()));
        let (mut pool, mut changes) = (lent.values().sum::<u64>(), BTreeMap::new());
        for (name, one) in order {
            let base = one.entitled.clamp(one.bounds.0, one.bounds.1);
            let has = one.limit.saturating_sub(base);
            let wants = one.used * 100 >= one.limit * WANTS;
            // One that does not use what it has keeps it, as long as nobody else wants it.
            let most = match lent.get(name) {
                // Whoever lends does not borrow.
                Some(1..) => 0,
                _ => (one.bounds.1 - base).min(pool),
            };
            let loan = match wants {
                true => most.min(has + (one.limit / 4).max(STEP)),
                false => most.min(has),
            };
            pool -= loan;
            let to = base + loan;
            // What grows may wait for a step that is worth it; what is taken back may not.
            if to < one.limit || to >= one.limit + STEP.min(most) && to > one.limit {
                let lends = lent.get(name).is_some_and(|lent| *lent > 0);
                let cause = match (to < one.limit, loan) {
                    (false, _) => format!("it wants more, and {loan}% of a CPU are lent by others"),
                    (true, _) if lends => {
                        format!("it needs less than its own {base}% of a CPU, and borrows nothing")
                    }
                    (true, 0) => {
                        format!("its own is {base}% of a CPU, and nothing is left that others lend")
                    }
                    (true, _) => {
                        format!("its own is {base}% of a CPU, and {loan}% are lent by others")
                    }
                };
                changes.insert(name.clone(), Change { to, cause });
            }
        }
        changes
    }
}

/// What one guest with another policy gets.
fn step(now: u64, one: &Seen, past: &mut Past, spare: &mut u64) -> Option<Change> {
    let (least, most) = one.bounds;
    let since = |at: Option<u64>| at.map_or(u64::MAX, |at| now.saturating_sub(at));
    let fits = one.used * 100 / roomy(&one.policy) + 1;
    if one.limit < least || one.limit > most {
        let top = if one.firm { most.max(fits) } else { most };
        let to = one.limit.clamp(least, top);
        // On the way to its bounds it goes in steps that are worth it.
        let worth = to <= most || one.limit - to >= (one.limit / 10).max(STEP);
        return (worth && since(past.refused_at) >= DOWN_PAUSE).then(|| Change {
            to,
            cause: match one.limit > most {
                true => "it is more than its goal lets it have at most".to_owned(),
                false => "it is less than its goal lets it have at least".to_owned(),
            },
        });
    }
    let (pull, cause) = pull(one);
    if pull != Pull::Down {
        past.plenty = None;
    }
    match pull {
        Pull::Hold => None,
        Pull::Up => {
            past.small = Some((one.limit, now));
            if since(past.up_at) < UP_PAUSE {
                return None;
            }
            let wish = (one.limit / 4).max(STEP).min(most - one.limit);
            // Up to its entitlement nothing is taken from anybody.
            let own = one.entitled.saturating_sub(one.limit);
            let more = wish.min(own + *spare);
            *spare -= more.saturating_sub(own);
            past.up_at = Some(now);
            (more > 0).then(|| Change {
                to: one.limit + more,
                cause,
            })
        }
        Pull::Down => {
            let plenty = *past.plenty.get_or_insert(now);
            if since(Some(plenty)) < DOWN_PAUSE || since(past.up_at) < DOWN_PAUSE {
                return None;
            }
            let floor = past.small.filter(|(_, at)| since(Some(*at)) < MEMORY);
            // Above where it was too little by the step that has helped.
            let floor = floor.map_or(least, |(limit, _)| least.max(limit + (limit / 4).max(STEP)));
            let to = (one.limit - (one.limit / 10).max(STEP).min(one.limit))
                .max(floor)
                .max(fits);
            past.plenty = Some(now);
            (to < one.limit).then_some(Change { to, cause })
        }
    }
}

/// A limit shrinks to where no more than so many percent of it are used.
fn roomy(policy: &Policy) -> u64 {
    match policy {
        Policy::Utilisation { low, high } => (u64::from(*low) + u64::from(*high)) / 2,
        _ => 60,
    }
}

fn pull(one: &Seen) -> (Pull, String) {
    let of_limit = one.used * 100 / one.limit.max(1);
    let by = |up: bool, down: bool| match (up, down) {
        (true, _) => Pull::Up,
        (_, true) => Pull::Down,
        _ => Pull::Hold,
    };
    match &one.policy {
        Policy::Own => (Pull::Hold, String::new()),
        Policy::Utilisation { low, high } => (
            by(of_limit > (*high).into(), of_limit < (*low).into()),
            format!("it uses {of_limit}% of its limit, which is to be {low} to {high}%"),
        ),
        Policy::Waiting { below } => {
            let below = u64::from(*below);
            let down = one.waiting * 2 < below && of_limit < 60;
            (
                by(one.waiting >= below, down),
                format!(
                    "it waits in {}% of the time, which is to be below {below}%",
                    one.waiting
                ),
            )
        }
        Policy::Metric { below, .. } => match one.metric {
            None => (Pull::Hold, String::new()),
            Some(number) => (
                by(number >= *below, number < below * 0.7 && of_limit < 60),
                format!("its metric says {number}, which is to be below {below}"),
            ),
        },
    }
}

#[cfg(test)]
#[path = "goal_control_tests.rs"]
mod tests;
