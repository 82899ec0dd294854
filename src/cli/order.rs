//! In what order guests start together: higher priority first, then by name, and after the guests
//! that `autostart.after` names. No I/O.

use std::collections::BTreeSet;

use crate::model::GuestName;

/// A guest to be started.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its name.
    pub(super) name: GuestName,
    /// Higher starts earlier.
    pub(super) priority: i32,
    /// Guests that must run before.
    pub(super) after: Vec<GuestName>,
}

/// One thing to do, and what must have been done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// Guest.
    pub(super) name: GuestName,
    /// Guests among the same jobs.
    pub(super) after: Vec<GuestName>,
}

impl Job {
    /// Jobs that need not wait for each other.
    pub(super) fn plain(names: Vec<GuestName>) -> Vec<Self> {
        let after = Vec::new;
        names
            .into_iter()
            .map(|name| Self {
                name,
                after: after(),
            })
            .collect()
    }
}

/// The jobs in order, and the guests at which a circle of `after` was cut: those do not wait.
pub(super) fn order(mut all: Vec<Candidate>) -> (Vec<Job>, Vec<GuestName>) {
    all.sort_by(|a, b| (b.priority, &a.name).cmp(&(a.priority, &b.name)));
    let known: BTreeSet<GuestName> = all.iter().map(|c| c.name.clone()).collect();
    for candidate in &mut all {
        candidate.after.retain(|name| known.contains(name));
    }
    let (mut jobs, mut cut) = (Vec::<Job>::new(), Vec::new());
    let mut taken: BTreeSet<GuestName> = BTreeSet::new();
    while !all.is_empty() {
        let ready = |c: &Candidate| c.after.iter().all(|name| taken.contains(name));
        let place = all.iter().position(ready);
        let mut next = all.remove(place.unwrap_or(0));
        if place.is_none() {
            next.after.retain(|name| taken.contains(name));
            cut.push(next.name.clone());
        }
        taken.insert(next.name.clone());
        jobs.push(Job {
            name: next.name,
            after: next.after,
        });
    }
    (jobs, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: i32, after: &[&str]) -> Candidate {
        Candidate {
            name: name.parse().unwrap(),
            priority,
            after: after.iter().map(|n| n.parse().unwrap()).collect(),
        }
    }

    fn names(all: Vec<Candidate>) -> (String, usize) {
        let (jobs, cut) = order(all);
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        (names.join(" "), cut.len())
    }

    #[test]
    fn higher_first_then_by_name() {
        let all = vec![
            candidate("b", 0, &[]),
            candidate("a", 0, &[]),
            candidate("z", 10, &[]),
        ];
        assert_eq!(names(all), ("z a b".into(), 0));
    }

    #[test]
    fn after_wins_over_priority() {
        let all = vec![
            candidate("web", 100, &["db", "elsewhere"]),
            candidate("db", 0, &["net"]),
            candidate("net", -5, &[]),
        ];
        assert_eq!(names(all), ("net db web".into(), 0));
    }

    #[test]
    fn a_circle_is_cut_once() {
        let all = vec![
            candidate("a", 0, &["b"]),
            candidate("b", 0, &["a"]),
            candidate("c", 0, &["c"]),
        ];
        assert_eq!(names(all), ("a b c".into(), 2));
    }
}
