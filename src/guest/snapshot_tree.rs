//! The tree that a guest's snapshots are: which came after which, and after which the guest comes now.
//! Where one is taken out, those after it come after its own parent.

use super::error::Result;
use super::manager::Manager;
use super::snapshot::Snapshot;
use super::store::Machine;
use crate::kernel::{fault, file};
use crate::model::GuestName;

impl Manager {
    /// The snapshot that a guest was last taken at or put back to; `None` for none.
    ///
    /// # Errors
    /// The guest's record cannot be read.
    pub fn comes_after(&self, name: &GuestName) -> Result<Option<String>> {
        Ok(self.machine(name)?.snapshot)
    }

    /// Writes a snapshot's record.
    pub(super) fn write_snapshot(&self, name: &GuestName, one: &Snapshot) -> Result<()> {
        file::make_private_dir(&self.snapshots_folder(name))?;
        let text = serde_json::to_vec_pretty(one).unwrap_or_default();
        Ok(file::write_whole(
            &self.snapshot_path(name, &one.name),
            &text,
            0o600,
        )?)
    }

    /// Writes down for all that came after a snapshot that they come after its parent: it is about to
    /// go. Cut short, all come after one that is there, and the next try does the rest. The guest's
    /// lock is held.
    pub(super) fn close_gap(&self, name: &GuestName, gone: &str) -> Result<()> {
        // What is true of the guest with its root is not written down yet if that was cut short.
        self.settle_root(name)?;
        let all = self.snapshot_records(name)?;
        let above = all.iter().find(|one| one.name == gone);
        let above = above.and_then(|one| one.parent.clone());
        // Programs before this one left names of snapshots that were gone.
        let above = above.filter(|above| all.iter().any(|one| one.name == *above));
        let came_after = |parent: &Option<String>| parent.as_deref() == Some(gone);
        for mut one in all {
            if came_after(&one.parent) && one.name != gone {
                fault::point()?;
                one.parent.clone_from(&above);
                self.write_snapshot(name, &one)?;
            }
        }
        self.undo_comes_after(name, gone, above.as_ref())?;
        let machine = self.machine(name)?;
        if came_after(&machine.snapshot) {
            fault::point()?;
            let machine = Machine {
                snapshot: above,
                ..machine
            };
            self.write_machine(name, &machine)?;
        }
        Ok(())
    }
}

/// Snapshots in the order of their tree, what came after one below it, each with the number of forks
/// above it: of those that came after the same one each is one deeper, an only one is not.
#[must_use]
pub fn in_tree(all: &[Snapshot]) -> Vec<(usize, &Snapshot)> {
    let at = |name: &String| all.iter().position(|one| one.name == *name);
    let parents: Vec<Option<usize>> = all
        .iter()
        .map(|one| one.parent.as_ref().and_then(at))
        .collect();
    let after = |parent: usize| -> Vec<usize> {
        let all = parents.iter().enumerate();
        let found = all.filter(|(_, above)| **above == Some(parent));
        found.map(|(one, _)| one).collect()
    };
    let first = (0..all.len()).filter(|one| parents[*one].is_none());
    // Records in which each comes after the other have no first one.
    let begins: Vec<usize> = first.chain(0..all.len()).collect();
    let (mut order, mut placed) = (Vec::new(), vec![false; all.len()]);
    for begin in begins {
        let mut next = vec![(0, begin)];
        while let Some((depth, one)) = next.pop() {
            if std::mem::replace(&mut placed[one], true) {
                continue;
            }
            order.push((depth, &all[one]));
            let after = after(one);
            let below = depth + usize::from(after.len() > 1);
            next.extend(after.into_iter().rev().map(|one| (below, one)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, parent: Option<&str>) -> Snapshot {
        let record = serde_json::json!({
            "name": name, "created_ms": 1, "comment": "", "parent": parent, "image": "",
            "definition": "", "root": {"layers": {"chain": [], "place": null}},
        });
        serde_json::from_value(record).unwrap()
    }

    fn order(all: &[(&str, Option<&str>)]) -> Vec<(usize, String)> {
        let all: Vec<_> = all
            .iter()
            .map(|(name, parent)| named(name, *parent))
            .collect();
        let order = in_tree(&all).into_iter();
        order
            .map(|(depth, one)| (depth, one.name.clone()))
            .collect()
    }

    fn is(wanted: &[(usize, &str)]) -> Vec<(usize, String)> {
        let all = wanted
            .iter()
            .map(|(depth, name)| (*depth, (*name).to_owned()));
        all.collect()
    }

    #[test]
    fn what_came_after_one_stands_below_it() {
        let line = [("a", None), ("b", Some("a")), ("c", Some("b"))];
        assert_eq!(order(&line), is(&[(0, "a"), (0, "b"), (0, "c")]));
        let forks = [
            ("a", None),
            ("b", Some("a")),
            ("c", Some("a")),
            ("d", Some("b")),
            ("e", None),
            ("f", Some("gone")),
        ];
        assert_eq!(
            order(&forks),
            is(&[(0, "a"), (1, "b"), (1, "d"), (1, "c"), (0, "e"), (0, "f")])
        );
    }

    #[test]
    fn records_that_go_round_in_a_circle_are_all_told() {
        let circle = [("a", Some("b")), ("b", Some("a")), ("c", Some("c"))];
        assert_eq!(order(&circle).len(), 3);
    }
}
