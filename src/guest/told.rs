//! What a guest is told by its own files before it starts: names, addresses, what its containers are to
//! see, and what of its definition has changed since they were written.

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::store::Written;
use crate::model::{Guest, GuestName};
use crate::storage::{self, FirstBoot, Image, SpareRoom};

impl Manager {
    /// Room in a layer that is full, for what the host writes into it and for mounting it.
    pub(super) fn room_in(&self, name: &GuestName, guest: &Guest) -> Result<Option<SpareRoom>> {
        let sold = Some(super::create::quota(guest));
        let room = storage::spare_room(&self.layout, name, sold);
        room.map_err(|source| GuestError::Root {
            name: name.clone(),
            source: source.into(),
        })
    }

    /// What the guest's own files say of its names and addresses.
    pub(super) fn tell_files(
        &self,
        guest: &Guest,
        image: &Image,
        boot: &FirstBoot,
        written: &Written,
    ) -> Result<()> {
        let name = &guest.name;
        let failed = |error: storage::FirstBootError| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        };
        storage::update_hosts(&self.layout, name, image, boot).map_err(failed)?;
        storage::update_network(&self.layout, name, image, boot).map_err(failed)?;
        let before = self.written(name);
        let told = written.containers;
        if told || before.as_ref().is_some_and(|before| before.containers) {
            // Where something of the guest's is in the way its containers see the host's numbers.
            let _theirs = storage::tell_containers(&self.layout, name, image, told);
        }
        if before.as_ref() != Some(written) {
            self.release_others(name, &guest.network)?;
            if let Some(before) = &before {
                let gone = before.without(written);
                storage::forget_nics(&self.layout, name, image, &gone).map_err(failed)?;
            }
            let stale = before.map(|before| before.stale(written));
            storage::update_stale(&self.layout, name, image, boot, stale.unwrap_or_default())
                .map_err(failed)?;
            self.write_written(name, written)?;
        }
        Ok(())
    }
}
