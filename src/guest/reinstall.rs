//! A stopped guest with a fresh root, and what becomes true of a guest when its root is another one.
//!
//! The new root changes places with the old one in one step, and brings along as a note what the
//! guest's records are to say from then on ([`Arrival`]). Whoever has the guest's lock next writes it
//! down, so that a command that dies in between leaves a guest with one root or the other, and records
//! that fit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::create::quota;
use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::{Manager, now_ms};
use super::snapshot_deadline::Stay;
use super::store::{Machine, Written};
use crate::define::{self, Change, KeyPath};
use crate::kernel::{fault, file};
use crate::model::{EventKind, Guest, GuestName, clock};
use crate::plan;
use crate::storage::{self, Fresh, Image, Progress, ReinstallError};

/// What a fresh root is to be.
#[derive(Clone, Debug, Default)]
pub struct ReinstallWish {
    /// Another template, other options of it, or another image; none for those of its definition.
    pub changes: Vec<(KeyPath, Change)>,
    /// Absolute paths inside the guest that it keeps.
    pub keep: Vec<String>,
    /// How long its root before is kept; `None` for as long as nobody removes it.
    pub keep_old: Option<Duration>,
}

/// A guest that was reinstalled, or would be.
#[derive(Clone, Debug)]
pub struct Reinstalled {
    /// As it is meant.
    pub guest: Guest,
    /// The snapshot that keeps its root before.
    pub snapshot: String,
    /// Until when, milliseconds since 1970; `None` for as long as nobody removes it.
    pub until_ms: Option<u64>,
}

/// What becomes true of a guest with its new root.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Arrival {
    /// Its definition, if that changes.
    pub(super) definition: Option<String>,
    /// The snapshot that its files come from, if any.
    pub(super) snapshot: Option<String>,
    /// What is written in its files, if that is known.
    #[serde(default)]
    pub(super) written: Option<Written>,
}

impl Arrival {
    /// As it lies in the root.
    pub(super) fn note(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Manager {
    /// Checks what [`Manager::reinstall`] would need, and changes nothing.
    ///
    /// # Errors
    /// As there, but for what only doing it shows.
    pub fn check_reinstall(&self, name: &GuestName, wish: &ReinstallWish) -> Result<Reinstalled> {
        let (_, guest) = self.plan_reinstall(name, wish)?;
        self.check_origin(&guest)?;
        let snapshot = self.name_of_now(name, "before-reinstall")?;
        Ok(Reinstalled {
            guest,
            snapshot,
            until_ms: until(wish),
        })
    }

    /// Gives a stopped guest a fresh root. Its name, address, ids, limits and what clients know it by
    /// stay; its root before is kept as a snapshot.
    ///
    /// # Errors
    /// It is not stopped, its image is not to be had, what is to be kept is not there, the disk is
    /// full; the guest is then as it was.
    pub fn reinstall(
        &self,
        name: &GuestName,
        wish: &ReinstallWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Reinstalled> {
        let _lock = self.lock(name, Verb::Reinstall.name())?;
        Verb::Reinstall.check(name, self.status(name)?)?;
        self.clean_up(name)?;
        let (text, guest) = self.plan_reinstall(name, wish)?;
        let image = self.image_of(&guest, progress)?;
        let snapshot = self.name_of_now(name, "before-reinstall")?;
        let before = self.machine(name)?;
        let until_ms = until(wish);
        let stay = until_ms.map_or(Stay::Always, Stay::Until);
        fault::point()?;
        progress(Progress::Phase(format!("making a fresh root for {name}")));
        let done = self
            .keep(name, &snapshot, ("before it was reinstalled", stay), false)
            .and_then(|_| self.fresh_root(name, &text, &guest, &image, &wish.keep));
        if let Err(error) = done {
            // The error that matters is this one; a snapshot that stays harms nobody.
            let _same = self.write_machine(name, &before);
            let _left = self.drop_snapshot(name, &snapshot);
            return Err(error);
        }
        let kind = EventKind::Reinstalled {
            from: guest.origin.to_string(),
            snapshot: snapshot.clone(),
        };
        let _lost = self.record(name, kind);
        // Of one that is given a fresh root again and again no more are kept than are wanted.
        let _later = self
            .outlived(name)
            .and_then(|gone| self.forget_all(name, gone));
        self.drop_unused();
        Ok(Reinstalled {
            guest,
            snapshot,
            until_ms,
        })
    }

    fn plan_reinstall(&self, name: &GuestName, wish: &ReinstallWish) -> Result<(String, Guest)> {
        Verb::Reinstall.check(name, self.status(name)?)?;
        let text = define::edit(&self.definition_text(name)?, &in_place(&wish.changes)?)?;
        let guest = self.define(name, &text)?;
        plan::spec::supported(&guest, &self.facts)?;
        self.check_host_side(&guest)?;
        self.check_keep(name, &wish.keep)?;
        Ok((text, guest))
    }

    /// Whether a stopped guest has what is to be kept of its root.
    ///
    /// # Errors
    /// Something is not there, or cannot be kept.
    pub fn check_keep(&self, name: &GuestName, keep: &[String]) -> Result<()> {
        if keep.is_empty() {
            return Ok(());
        }
        let image = storage::load_image(&self.layout, &self.machine(name)?.image)?;
        let checked = storage::check_keep(&self.layout, name, &image, keep);
        checked.map_err(|error| GuestError::File {
            verb: error.verb,
            guest: name.clone(),
            path: error.path.display().to_string(),
            why: error.source.to_string(),
        })
    }

    /// A name for a snapshot that is taken for this reason: it tells the minute.
    pub(super) fn name_of_now(&self, name: &GuestName, reason: &str) -> Result<String> {
        let there = self.snapshots(name)?;
        let minute: String = clock::time(now_ms()).chars().take(16).collect();
        let minute = minute.replace('T', "-").replace(':', "");
        let first = format!("{reason}-{minute}");
        let others = (2..).map(|number| format!("{first}-{number}"));
        let mut names = std::iter::once(first.clone()).chain(others);
        let free = names.find(|name| there.iter().all(|one| one.name != *name));
        Ok(free.unwrap_or(first))
    }

    fn fresh_root(
        &self,
        name: &GuestName,
        text: &str,
        guest: &Guest,
        image: &Image,
        keep: &[String],
    ) -> Result<()> {
        let machine = self.machine(name)?;
        let old = storage::load_image(&self.layout, &machine.image)?;
        let lease = self.lease(name, guest)?;
        let boot = self.first_boot_data(guest, &machine, lease.as_ref())?;
        let pool = self.pool_of(guest)?;
        let arrival = Arrival {
            definition: Some(text.to_owned()),
            snapshot: None,
            written: Some(Written::of(guest, lease.as_ref())),
        };
        let fresh = Fresh {
            pool: (&pool, quota(guest)),
            boot: &boot,
            keep,
            note: &arrival.note(),
        };
        fault::point()?;
        let made = storage::reinstall_root(&self.layout, name, (&old, image), &fresh);
        made.map_err(|error| match error {
            ReinstallError::Root(error) => self.root_error(name, error),
            ReinstallError::FirstBoot(error) => GuestError::Root {
                name: name.clone(),
                source: error.into(),
            },
        })?;
        // It has its new root: what cannot be written down now, the next command writes.
        let _later = self.settle_root(name);
        Ok(())
    }

    /// Writes down what became true of a guest with its new root. Its lock is held.
    pub(super) fn settle_root(&self, name: &GuestName) -> Result<()> {
        let failed = |error: storage::FileError| self.root_error(name, error.into());
        let Some(note) = storage::root_note(&self.layout, name).map_err(failed)? else {
            return Ok(());
        };
        let arrival: Arrival =
            serde_json::from_slice(&note).map_err(|error| GuestError::Damaged {
                path: self.layout.guest(name).join("root").display().to_string(),
                why: error.to_string(),
                advice: "restore the guest from a backup, or delete it",
            })?;
        fault::point()?;
        if let Some(text) = &arrival.definition {
            file::write_whole(&self.definition_path(name), text.as_bytes(), 0o600)?;
        }
        let digest = storage::image_digest(&self.layout, name);
        let machine = Machine {
            image: digest.map_err(|error| self.root_error(name, error))?,
            snapshot: arrival.snapshot,
            ..self.machine(name)?
        };
        self.write_machine(name, &machine)?;
        if let Some(written) = &arrival.written {
            fault::point()?;
            self.write_written(name, written)?;
        }
        fault::point()?;
        storage::forget_root_note(&self.layout, name).map_err(failed)
    }
}

/// Until when the root before is kept.
fn until(wish: &ReinstallWish) -> Option<u64> {
    let time = wish.keep_old.map(clock::ms);
    time.map(|time| now_ms().saturating_add(time))
}

/// The same changes, with what they replace taken out first: options of another template, the image
/// where a template is wanted.
pub(super) fn in_place(changes: &[(KeyPath, Change)]) -> Result<Vec<(KeyPath, Change)>> {
    let mut all = Vec::new();
    if changes
        .iter()
        .any(|(path, _)| matches!(path.key.path, "template" | "image"))
    {
        for key in ["template", "image"] {
            all.push((KeyPath::parse(key)?, Change::Unset));
        }
    }
    all.extend_from_slice(changes);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::{KEYS, edit};

    #[test]
    fn another_origin_replaces_all_of_the_one_before() {
        let change = |path: &str, value: &str| {
            let key = KEYS.iter().find(|key| key.path == path).unwrap();
            key.changes(&[value]).unwrap()
        };
        let after = |text: &str, changes: &[(KeyPath, Change)]| {
            edit(text, &in_place(changes).unwrap()).unwrap()
        };
        let debian = "# ours\n[template]\nname = \"debian\"\nsuite = \"trixie\"\n";
        assert_eq!(
            after(debian, &change("image", "shop:1")).trim_end(),
            "image = \"shop:1\""
        );
        assert_eq!(
            after(
                "image = \"shop:1\" # ours\n",
                &change("template", "busybox")
            )
            .trim_end(),
            "template = \"busybox\""
        );
        let option = change("template.options", "suite=bookworm");
        assert!(after(debian, &option).contains("bookworm"));
        assert_eq!(after(debian, &[]), debian);
    }
}
