//! A guest as one stream: its definition, its image, its own files, and what proves them.

use std::io::Write;
use std::time::{Duration, Instant};

use super::error::{GuestError, Result};
use super::life::Verb;
use super::manager::{Manager, now_ms};
use super::snapshot::Snapshot;
use crate::kernel::fault;
use crate::model::{GuestName, Status};
use crate::storage::{
    self, Compression, PackError, Packed, PackedGuest, PackedSnapshot, Packer, Progress,
};

/// How a guest is to be exported.
#[derive(Clone, Copy, Debug)]
pub struct ExportWish {
    /// How the stream is compressed.
    pub compression: Compression,
    /// Whether its image goes along.
    pub with_image: bool,
    /// Whether its snapshots do.
    pub with_snapshots: bool,
}

/// A guest that was exported.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Digest of its image.
    pub image: String,
    /// What it came to.
    pub packed: Packed,
    /// How long a running guest was held still.
    pub held: Option<Duration>,
}

impl Manager {
    /// Whether a guest can be exported now; changes nothing.
    ///
    /// # Errors
    /// As [`Manager::export`] up to the first byte.
    pub fn check_export(&self, name: &GuestName) -> Result<()> {
        Verb::Export.check(name, self.status(name)?)?;
        let image = storage::load_image(&self.layout, &self.machine(name)?.image)?;
        match image.lowers().iter().find(|lower| !lower.exists()) {
            None => Ok(()),
            Some(_) => Err(storage::ImageError::Missing {
                digest: image.digest,
                images: self.layout.images(),
            }
            .into()),
        }
    }

    /// Writes a guest to `out`. One that runs is held still while its own files are read; its image
    /// nobody changes.
    ///
    /// # Errors
    /// It is in a state between two others, a file cannot be read, `out` cannot be written.
    pub fn export(
        &self,
        name: &GuestName,
        wish: ExportWish,
        out: &mut dyn Write,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Exported> {
        if !self.layout.guest(name).is_dir() {
            return Err(self.missing(name));
        }
        let _lock = self.lock(name, "export")?;
        self.clean_up(name)?;
        self.check_export(name)?;
        let machine = self.machine(name)?;
        let image = storage::load_image(&self.layout, &machine.image)?;
        let runs = self.status(name)? == Status::Running;
        let kept = match wish.with_snapshots {
            true => self.snapshots(name)?,
            false => Vec::new(),
        };
        let saved: Vec<&storage::Saved> = kept.iter().map(|one| &one.root).collect();
        let failed = |source: PackError| archive(format!("export guest {name}"), source);
        let saved = storage::SavedTrees::of(&self.layout, name, &saved).map_err(failed)?;
        let written = self.written(name).map(serde_json::to_value);
        let guest = PackedGuest {
            name: name.to_string(),
            definition: self.definition_text(name)?,
            machine_id: machine.machine_id,
            created_ms: machine.created_ms,
            written: written
                .and_then(std::result::Result::ok)
                .unwrap_or_default(),
            ran: runs,
            snapshot: machine.snapshot,
            snapshots: packed(kept, &saved.layers),
        };
        let manifest = storage::manifest(
            (&self.layout, name),
            guest,
            (&image, wish.with_image, &saved),
            now_ms(),
        )
        .map_err(failed)?;
        let packer = Packer::new(out, wish.compression, &manifest, progress);
        let mut packer = packer.map_err(failed)?;
        fault::point()?;
        if wish.with_image {
            for image in std::iter::once(&image).chain(&manifest.further) {
                packer.image(image).map_err(failed)?;
            }
        }
        storage::pack_sealed(&mut packer, &self.layout, name).map_err(failed)?;
        saved.pack(&mut packer).map_err(failed)?;
        fault::point()?;
        let mut held = None;
        if runs {
            let still = self.hold(name)?;
            let since = Instant::now();
            storage::pack_own(&mut packer, &self.layout, name).map_err(failed)?;
            fault::point()?;
            still.release()?;
            held = Some(since.elapsed());
        } else {
            storage::pack_own(&mut packer, &self.layout, name).map_err(failed)?;
        }
        let packed = packer.finish().map_err(failed)?;
        Ok(Exported {
            image: image.digest,
            packed,
            held,
        })
    }
}

/// What an archive says of snapshots that are made of these parts.
fn packed(kept: Vec<Snapshot>, layers: &[Vec<String>]) -> Vec<PackedSnapshot> {
    let packed = |(one, layers): (Snapshot, &Vec<String>)| PackedSnapshot {
        name: one.name,
        created_ms: one.created_ms,
        comment: one.comment,
        parent: one.parent,
        image: one.image,
        definition: one.definition,
        automatic: one.automatic,
        written: serde_json::to_value(one.written).unwrap_or_default(),
        layers: layers.clone(),
    };
    kept.into_iter().zip(layers).map(packed).collect()
}

/// An error of an archive.
pub(super) fn archive(what: String, source: PackError) -> GuestError {
    GuestError::Archive {
        what,
        source: Box::new(source),
    }
}
