//! Snapshots that come with an archive of a guest. Their definitions are wishes as the guest's own is;
//! what of them cannot be taken is left out and said, and the guest is made all the same.

use super::create::quota;
use super::error::{GuestError, Result};
use super::export::archive;
use super::import::{ImportWish, Imported, refuse_reach};
use super::manager::Manager;
use super::snapshot::Snapshot;
use crate::define::{self, Change, KeyPath};
use crate::model::GuestName;
use crate::storage::{self, FirstBoot, Image, Manifest, PackError, PackedSnapshot, SavedPlan};

impl Manager {
    /// Writes down the snapshots that are taken, and says where what they keep goes. The guest's root
    /// is there, with the layers of its own that were set aside.
    pub(super) fn plan_snapshots(
        &self,
        name: &GuestName,
        planned: &mut Imported,
        (manifest, image): (&Manifest, &Image),
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
        let taken = |wanted: &str| {
            let mut both = all.iter().zip(&plan.saved);
            both.any(|(one, saved)| one.name == wanted && saved.is_some())
        };
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
                    created_ms: one.created_ms,
                    comment: one.comment.clone(),
                    parent: nearest(all, one.parent.as_deref(), &taken),
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
        machine.snapshot = nearest(all, manifest.guest.snapshot.as_deref(), &taken);
        self.write_machine(name, &machine)?;
        Ok(plan)
    }

    /// The definition of a snapshot as it is here, or why it is not taken.
    fn definition_taken(
        &self,
        name: &GuestName,
        one: &PackedSnapshot,
        image: &Image,
        wish: &ImportWish,
    ) -> std::result::Result<String, String> {
        if one.image != image.digest && storage::load_image(&self.layout, &one.image).is_err() {
            return Err(format!(
                "it lies over image {:.12}, which is not here",
                one.image
            ));
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

    /// Makes what snapshots keep those of a guest that has an identity of its own.
    pub(super) fn settle_snapshots(
        &self,
        name: &GuestName,
        plan: &SavedPlan,
        manifest: (&Manifest, &Image),
        boot: &FirstBoot,
    ) -> Result<()> {
        let settled = plan.settle(&self.layout, name, manifest, boot);
        settled.map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })
    }
}

/// The snapshot of this name, or the nearest before it that is taken.
fn nearest<'a>(
    all: &'a [PackedSnapshot],
    mut name: Option<&'a str>,
    taken: &dyn Fn(&str) -> bool,
) -> Option<String> {
    // What leads in a circle has an end here as well.
    for _ in 0..=all.len() {
        let now = name?;
        if taken(now) {
            return Some(now.to_owned());
        }
        let one = all.iter().find(|one| one.name == now)?;
        name = one.parent.as_deref();
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
        let taken = |name: &str| name != "b";
        assert_eq!(nearest(&all, Some("b"), &taken).as_deref(), Some("a"));
        assert_eq!(nearest(&all, Some("c"), &taken).as_deref(), Some("c"));
        assert_eq!(nearest(&all, Some("gone"), &|_| false), None);
        let circle = [one("a", Some("b")), one("b", Some("a"))];
        assert_eq!(nearest(&circle, Some("a"), &|_| false), None);
    }
}
