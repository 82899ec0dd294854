//! Bringing back the image below a guest: its tree, or the layers it is made of, appear among the
//! images whole, and its digest is held against what was restored.

use std::path::Path;

use super::super::build::{Workshop, verify_image};
use super::super::dirfd::{self, FileError, Owner, child_dir, ensure_private};
use super::super::image::{Image, load_image};
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
    /// left.
    pub fn restore_image(
        &self,
        layout: &Layout,
        snapshot: &Snapshot,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<Image> {
        let digest = &snapshot.image.digest;
        for (number, below) in snapshot.below.iter().enumerate() {
            if !is_plain(&below.digest) || !is_plain(digest) {
                return Err(BackupError::damaged("a snapshot", "a digest in it is none"));
            }
            let there = match snapshot.image.layers.is_empty() {
                true => layout.images().join(digest),
                false => layout.images().join("layers").join(&below.digest),
            };
            if there.exists() {
                continue;
            }
            let mut workshop = Workshop::open(layout, &below.digest)?;
            self.fill(snapshot, number + 1, &workshop, progress)?;
            if snapshot.image.layers.is_empty() {
                self.prove(snapshot, &workshop)?;
                record(&workshop, &snapshot.image)?;
                fault::point()?;
                workshop.keep(digest)?;
            } else {
                let layers = ensure_private(&layout.images().join("layers"))?;
                fault::point()?;
                workshop.keep_in(&layers, &below.digest)?;
            }
        }
        if !layout.images().join(digest).exists() {
            // One made of layers has a record and no tree.
            let workshop = Workshop::open(layout, digest)?;
            remove_root(&workshop)?;
            record(&workshop, &snapshot.image)?;
            workshop.keep(digest)?;
        }
        load_image(layout, digest).map_err(|error| BackupError::Restore {
            what: format!("image {digest}"),
            why: error.to_string(),
        })
    }

    fn fill(
        &self,
        snapshot: &Snapshot,
        number: usize,
        workshop: &Workshop,
        progress: &mut dyn FnMut(&Restored),
    ) -> Result<()> {
        let root = child_dir(&workshop.lock, c"root")
            .map_err(|e| FileError::new("open", &workshop.shown, e))?;
        self.restore_tree(snapshot, number, &root, progress)?;
        Ok(fault::point()?)
    }

    /// Holds the tree against its digest.
    fn prove(&self, snapshot: &Snapshot, workshop: &Workshop) -> Result<()> {
        let image = Image {
            path: workshop.shown.clone(),
            ..snapshot.image.clone()
        };
        if verify_image(&image)? {
            return Ok(());
        }
        Err(BackupError::Restore {
            what: format!("image {}", image.digest),
            why: "what came out of the backup is not what its digest names: restore the files \
                  with --to, or create the guest from its template"
                .to_owned(),
        })
    }
}

fn record(workshop: &Workshop, image: &Image) -> Result<()> {
    let path = workshop.shown.join("image.json");
    let failed = |e| FileError::new("write", &path, e);
    let text = serde_json::to_vec_pretty(image).map_err(|e| failed(e.into()))?;
    let owner = Owner::root(0o600);
    Ok(dirfd::write_whole(&workshop.lock, c"image.json", &text, owner, true).map_err(failed)?)
}

fn remove_root(workshop: &Workshop) -> Result<()> {
    let flags = rustix::fs::AtFlags::REMOVEDIR;
    Ok(rustix::fs::unlinkat(&workshop.lock, c"root", flags)
        .map_err(|e| FileError::new("remove", Path::new("root"), e))?)
}

/// Whether a digest may be a folder's name.
fn is_plain(digest: &str) -> bool {
    digest.len() == 64
        && digest
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
