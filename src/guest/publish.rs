//! An image from a guest, or from one of its snapshots.

use super::error::{GuestError, Result};
use super::manager::Manager;
use crate::model::{GuestName, ImageName, Status};
use crate::storage::{self, Image, Progress};

impl Manager {
    /// Whether an image can be made of a guest now, or of a snapshot of it.
    ///
    /// # Errors
    /// There is no such guest or snapshot, or the guest itself is wanted and not stopped.
    pub fn check_publish(&self, name: &GuestName, snapshot: Option<&str>) -> Result<()> {
        if let Some(snapshot) = snapshot {
            return self.snapshot(name, snapshot).map(drop);
        }
        match self.status(name)? {
            Status::Stopped => Ok(()),
            status => Err(GuestError::WrongState {
                verb: "publish",
                name: name.clone(),
                status,
                advice: Some(
                    "stop it first, or say --snapshot: a copy of files that change is no image",
                ),
            }),
        }
    }

    /// Makes an image of a stopped guest, or of a snapshot of one in any state, without what makes it
    /// this guest, and gives it a name.
    ///
    /// # Errors
    /// As [`Manager::check_publish`]; there is no such snapshot; its tree cannot be copied; the disk is
    /// full.
    pub fn publish(
        &self,
        name: &GuestName,
        snapshot: Option<&str>,
        image: &ImageName,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image> {
        let _lock = self.lock(name, "image publish")?;
        self.check_publish(name, snapshot)?;
        self.clean_up(name)?;
        let kept = snapshot.map(|one| self.snapshot(name, one)).transpose()?;
        let digest = match &kept {
            Some(kept) => kept.image.clone(),
            None => self.machine(name)?.image,
        };
        let below = storage::load_image(&self.layout, &digest)?;
        storage::check_sound(&below)?;
        let kept = kept.as_ref().map(|kept| (kept.name.as_str(), &kept.root));
        Ok(storage::publish_guest(
            &self.layout,
            name,
            (&below, kept),
            image,
            progress,
        )?)
    }
}
