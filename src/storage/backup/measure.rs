//! What a restore would bring, without reading a byte of any file.

use super::super::image::load_image;
use super::super::layer;
use super::super::verify::check_sound;
use super::error::{BackupError, Result};
use super::manifest::is_below;
use super::repo::Repository;
use super::restore::{Restored, Selection};
use super::restore_gap::unlisted;
use super::snapshot::Snapshot;
use super::source::{Source, View};
use crate::model::Layout;

impl Repository {
    /// Files and bytes that a restore would bring.
    ///
    /// # Errors
    /// A path is not in the snapshot; the repository is damaged.
    pub fn measure(&self, snapshot: &Snapshot, selection: &Selection) -> Result<Restored> {
        let mut source = Source::past_damage(self, snapshot, selection.view)?;
        let mut missing = selection.paths.clone();
        let mut found = Restored::default();
        while let Some((_, entry)) = source.next(self)? {
            if selection.takes(&entry) {
                found.files += 1;
                found.bytes += entry.item.what.data();
                missing.retain(|path| !is_below(&entry.item.path, path));
            }
        }
        found.unlisted = unlisted(&source, snapshot, &selection.paths);
        let Some(path) = missing.first() else {
            return Ok(found);
        };
        match unlisted(&source, snapshot, std::slice::from_ref(path)).is_empty() {
            true => Err(BackupError::missing(path, snapshot)),
            false => Err(BackupError::unlisted(path, snapshot)),
        }
    }

    /// Files and bytes that bringing back a guest would bring: of its own, and of its image what is not
    /// here.
    ///
    /// # Errors
    /// The repository is damaged, or a list of the files of an image that is not here.
    pub fn measure_guest(&self, layout: &Layout, snapshot: &Snapshot) -> Result<Restored> {
        let mut found = self.measure(&snapshot.own_alone(), &Selection::new(View::Own, &[])?)?;
        let image = &snapshot.image;
        let is_here =
            load_image(layout, &image.digest).is_ok_and(|there| check_sound(&there).is_ok());
        let last = snapshot.below.len().saturating_sub(1);
        for (number, below) in snapshot.below.iter().enumerate() {
            let is_wanted = match image.layers.is_empty() {
                true => number == last && !is_here,
                false => {
                    image.layers.contains(&below.digest)
                        && layer::sound(layout, &below.digest).is_none()
                }
            };
            if is_wanted {
                let (files, bytes) = self.measure_below(snapshot, number)?;
                found.files += files;
                found.bytes += bytes;
            }
        }
        Ok(found)
    }

    /// Files and bytes of one tree of a guest's image, whose list must be whole.
    fn measure_below(&self, snapshot: &Snapshot, number: usize) -> Result<(u64, u64)> {
        let mut source = Source::new(self, &snapshot.below_alone(number), View::Own)?;
        let (mut files, mut bytes) = (0, 0);
        while let Some((_, entry)) = source.next(self)? {
            files += 1;
            bytes += entry.item.what.data();
        }
        Ok((files, bytes))
    }
}
