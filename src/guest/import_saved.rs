//! Snapshots that come with an archive of a guest. Their definitions are wishes as the guest's own is;
//! what of them cannot be taken is left out and said, and the guest is made all the same.

use std::collections::{HashMap, HashSet};

use super::create::quota;
use super::error::{GuestError, Result};
use super::export::archive;
use super::import::{ImportWish, Imported, refuse_reach};
use super::manager::{Manager, RECORD, now_ms};
use super::snapshot::Snapshot;
use crate::define::{self, Change, KeyPath};
use crate::model::GuestName;
use crate::storage::{
    self, FirstBoot, Manifest, PackError, PackedSnapshot, ReceivedImage, SavedPlan,
};

/// So many snapshots in a row that are left out are stepped over: what archives say has an end.
const STEPS_MOST: usize = 1000;

impl Manager {
    /// Writes down the snapshots that are taken, and says where what they keep goes. The guest's root
    /// is there, with the layers of its own that were set aside.
    pub(super) fn plan_snapshots(
        &self,
        name: &GuestName,
        planned: &mut Imported,
        (manifest, image): (&Manifest, &ReceivedImage),
        wish: &ImportWish,
    ) -> Result<SavedPlan> {
        let failed = |source: PackError| archive(format!("import {}", wish.shown), source);
        let all = &manifest.guest.snapshots;
        let mut definitions = Vec::new();
        for one in all {
            definitions.push(match self.definition_taken(name, one, image, wish) {
                Ok(text) => Some(text),
                Err(why) => {
                    let note = format!("snapshot {} is left out: {why}", one.name);
                    planned.notes.push(note);
                    None
                }
            });
        }
        let wanted: Vec<bool> = definitions.iter().map(Option::is_some).collect();
        let sold = (wanted.as_slice(), quota(&planned.guest));
        let plan = storage::plan_saved(&self.layout, name, manifest, sold).map_err(failed)?;
        let both = all.iter().zip(&plan.saved);
        let taken: HashSet<&str> = both
            .filter(|(_, saved)| saved.is_some())
            .map(|(one, _)| one.name.as_str())
            .collect();
        let parents = parents(all);
        for ((one, saved), definition) in all.iter().zip(&plan.saved).zip(definitions) {
            let Some(definition) = definition else {
                continue;
            };
            let Some(saved) = saved else {
                planned.notes.push(format!(
                    "snapshot {} is left out: only a pool of the driver overlay holds the layers it is \
                     made of: name one with --pool",
                    one.name
                ));
                continue;
            };
            self.write_snapshot(
                name,
                &Snapshot {
                    name: one.name.clone(),
                    // One of the future would be the newest for good.
                    created_ms: one.created_ms.min(now_ms()),
                    comment: one.comment.clone(),
                    parent: nearest(&parents, one.parent.as_deref(), &taken),
                    image: one.image.clone(),
                    definition,
                    root: saved.clone(),
                    automatic: one.automatic,
                    until_ms: None,
                    written: serde_json::from_value(one.written.clone()).unwrap_or_default(),
                },
            )?;
        }
        let mut machine = self.machine(name)?;
        machine.snapshot = nearest(&parents, manifest.guest.snapshot.as_deref(), &taken);
        self.write_machine(name, &machine)?;
        Ok(plan)
    }

    /// The definition of a snapshot as it is here, or why it is not taken.
    fn definition_taken(
        &self,
        name: &GuestName,
        one: &PackedSnapshot,
        image: &ReceivedImage,
        wish: &ImportWish,
    ) -> std::result::Result<String, String> {
        if image.of(&one.image).is_none() && storage::load_image(&self.layout, &one.image).is_err()
        {
            return Err(format!(
                "it lies over image {:.12}, which is neither here nor in the archive",
                one.image
            ));
        }
        // Its record is written as it is, and must be read again.
        let said = serde_json::to_vec(one).map_or(usize::MAX, |text| text.len());
        if said as u64 > RECORD / 2 {
            return Err("what it says of itself is too long".to_owned());
        }
        let text = (|| -> Result<String> {
            let mut changes = define::without_addresses(&one.definition)?;
            changes.push((KeyPath::parse("network.forward")?, Change::Unset));
            // Where the guest lies, and how large it is, is said of it and not of its past.
            let of_disk = |(path, _): &&(KeyPath, Change)| path.key.path.starts_with("disk.");
            changes.extend(wish.changes.iter().filter(of_disk).cloned());
            let text = define::edit(&one.definition, &changes)?;
            let guest = self.define(name, &text)?;
            if !wish.trust {
                refuse_reach(name, &guest)?;
            }
            Ok(text)
        })();
        text.map_err(|error| super::view::chain(&error))
    }

    /// Makes what snapshots keep those of a guest that has an identity of its own. One whose files do not
    /// let that be done is left out.
    pub(super) fn settle_snapshots(
        &self,
        name: &GuestName,
        (plan, notes): (&SavedPlan, &mut Vec<String>),
        manifest: (&Manifest, &ReceivedImage),
        boot: &FirstBoot,
    ) -> Result<()> {
        let settled = plan.settle(&self.layout, name, manifest, boot);
        let unusable = settled.map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })?;
        for (gone, why) in unusable {
            let records = self.snapshot_records(name)?;
            if let Some(one) = records.iter().find(|one| one.name == gone) {
                self.forget(name, one)?;
            }
            notes.push(format!(
                "snapshot {gone} is left out: it cannot have this guest's own identity: {why}"
            ));
            self.drop_unused();
        }
        Ok(())
    }
}

/// After which one each snapshot came.
fn parents(all: &[PackedSnapshot]) -> HashMap<&str, Option<&str>> {
    all.iter()
        .map(|one| (one.name.as_str(), one.parent.as_deref()))
        .collect()
}

/// The snapshot of this name, or the nearest before it that is taken.
fn nearest<'a>(
    parents: &HashMap<&str, Option<&'a str>>,
    mut name: Option<&'a str>,
    taken: &HashSet<&str>,
) -> Option<String> {
    // What leads in a circle has an end here as well.
    for _ in 0..=STEPS_MOST {
        let now = name?;
        if taken.contains(now) {
            return Some(now.to_owned());
        }
        name = *parents.get(now)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_stepped_over() {
        let one = |name: &str, parent: Option<&str>| PackedSnapshot {
            name: name.into(),
            created_ms: 0,
            comment: String::new(),
            parent: parent.map(str::to_owned),
            image: String::new(),
            definition: String::new(),
            automatic: false,
            written: serde_json::Value::Null,
            layers: Vec::new(),
        };
        let all = [one("a", None), one("b", Some("a")), one("c", Some("b"))];
        let (taken, none) = (HashSet::from(["a", "c"]), HashSet::new());
        let parents_of_all = parents(&all);
        let found = |name| nearest(&parents_of_all, Some(name), &taken);
        assert_eq!(found("b").as_deref(), Some("a"));
        assert_eq!(found("c").as_deref(), Some("c"));
        assert_eq!(nearest(&parents_of_all, Some("gone"), &none), None);
        let circle = [one("a", Some("b")), one("b", Some("a"))];
        assert_eq!(nearest(&parents(&circle), Some("a"), &none), None);
    }
}
