//! Bringing back the image below a guest: its tree, or the layers it is made of, appear among the
//! images whole, and their digests are held against what was restored.

use super::super::build::beside;
use super::super::digest;
use super::super::dirfd::{FileError, child_dir};
use super::super::image::{Image, check_record, load_image, why_unproved};
use super::super::layer;
use super::super::verify::check_sound;
use super::super::workshop::Workshop;
use super::error::{BackupError, Result};
use super::repo::Repository;
use super::restore::Restored;
use super::snapshot::Snapshot;
use crate::kernel::fault;
use crate::model::Layout;

impl Repository {
    /// The image of a snapshot: the one there is, or restored.
    ///
    /// # Errors
    /// The repository is damaged, what it gives is not the image, the disk is full. Then nothing is
    /// left but whole layers.
    pub fn restore_image(
        &self,
        layout: &Layout,
        snapshot: &Snapshot,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Image> {
        let image = &snapshot.image;
        check_record(image).map_err(|why| BackupError::damaged("a snapshot", why))?;
        let is_here =
            load_image(layout, &image.digest).is_ok_and(|there| check_sound(&there).is_ok());
        if let Some(why) = why_unproved(image).filter(|_| !is_here && !self.is_encrypted()) {
            return Err(BackupError::Restore {
                what: format!("image {}", image.digest),
                why: format!("{why}; nobody vouches for a repository that is not encrypted"),
            });
        }
        let _lock = layer::share(layout)?;
        for (number, below) in snapshot.below.iter().enumerate() {
            if !image.layers.contains(&below.digest) {
                continue;
            }
            let folder = layer::folder(layout);
            let Some(record) = &below.record else {
                return Err(BackupError::damaged(
                    "a snapshot",
                    "a layer in it has no record",
                ));
            };
            if layer::sound(layout, &below.digest).is_some() {
                continue;
            }
            let workshop = Workshop::open(&folder, &below.digest)?;
            let content = self.fill(snapshot, number, &workshop, b"layer", progress)?;
            prove(&below.digest, content == record.content)?;
            workshop.record("layer.json", &json(record)?)?;
            fault::point()?;
            workshop.keep(layout, &below.digest)?;
        }
        if !is_here {
            let workshop = Workshop::open(&layout.images(), &image.digest)?;
            if image.layers.is_empty() {
                let number = snapshot.below.len().saturating_sub(1);
                let beside = beside(image);
                let content =
                    self.fill(snapshot, number, &workshop, beside.as_bytes(), progress)?;
                prove(&image.digest, content == image.digest)?;
            } else {
                // One made of layers has a record and no tree.
                let flags = rustix::fs::AtFlags::REMOVEDIR;
                rustix::fs::unlinkat(&workshop.lock, c"root", flags)
                    .map_err(|e| FileError::new("remove", &workshop.root(), e))?;
            }
            workshop.record("image.json", &json(image)?)?;
            fault::point()?;
            workshop.keep(layout, &image.digest)?;
        }
        load_image(layout, &image.digest).map_err(|error| BackupError::Restore {
            what: format!("image {}", image.digest),
            why: error.to_string(),
        })
    }

    /// Restores a tree below a guest; gives the digest of its content.
    fn fill(
        &self,
        snapshot: &Snapshot,
        number: usize,
        workshop: &Workshop,
        beside: &[u8],
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<String> {
        let failed = |e: std::io::Error| FileError::new("read back", &workshop.root(), e);
        let root = child_dir(&workshop.lock, c"root").map_err(|e| failed(e.into()))?;
        self.restore_below(snapshot, number, &root, progress)?;
        fault::point()?;
        let content = digest::digest(&root, beside).map_err(|e| failed(e.0))?;
        Ok(content.digest)
    }
}

fn prove(digest: &str, same: bool) -> Result<()> {
    if same {
        return Ok(());
    }
    Err(BackupError::Restore {
        what: format!("image {digest}"),
        why: "what came out of the backup is not what its digest names: restore the files with \
              --to, or create the guest from its template"
            .to_owned(),
    })
}

fn json(record: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|e| BackupError::damaged("a snapshot", e.to_string()))
}
