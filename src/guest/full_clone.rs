//! Clones that share nothing with their model but the image: they may lie in another pool, count for
//! themselves alone, and leave the model's layers as they are.

use super::create::quota;
use super::error::{GuestError, Result};
use super::manager::Manager;
use super::snapshot::CloneRequest;
use crate::model::{Guest, GuestName, Status};
use crate::storage::{self, Image, Model, Saved};

impl Manager {
    /// The root of such a clone.
    pub(super) fn full_root(
        &self,
        from: &GuestName,
        guest: &Guest,
        image: &Image,
        (request, runs): (&CloneRequest, bool),
    ) -> Result<()> {
        let pool = self.pool_of(guest)?;
        let copy = |model: Model<'_>| {
            let wish = (&pool, quota(guest));
            storage::create_root_as(&self.layout, &guest.name, image, model, wish)
                .map_err(|error| self.root_error(&guest.name, error))
        };
        let saved = |saved: &Saved| copy(Model::Saved(saved));
        if let Some(snapshot) = &request.snapshot {
            return saved(&self.snapshot(from, snapshot)?.root);
        }
        let failed = |error| self.root_error(from, error);
        if runs && storage::is_counted(&self.layout, from).map_err(|e| failed(e.into()))? {
            // Nobody waits for what costs nothing to keep.
            let (kept, _held) = storage::save_root(&self.layout, from, runs).map_err(failed)?;
            let made = saved(&kept);
            let _left = storage::remove_saved(&kept);
            return made;
        }
        let moves = runs && self.status(from)? == Status::Running;
        let still = moves.then(|| self.hold(from)).transpose()?;
        let made = copy(Model::Guest(from));
        if let Some(still) = still {
            still.release()?;
        }
        made
    }

    /// Whether a clone may lie in the pool that its definition names: one that is linked lies where its
    /// model does.
    pub(super) fn check_pool_of_clone(
        &self,
        guest: &Guest,
        model: &str,
        request: &CloneRequest,
    ) -> Result<()> {
        if request.full || self.define(&guest.name, model)?.disk.pool == guest.disk.pool {
            return Ok(());
        }
        Err(GuestError::Chosen {
            name: guest.name.clone(),
            key: "disk.pool",
            why: "it begins with files that it shares with its model, in that one's pool: clone with \
                  --full, which copies them"
                .into(),
        })
    }
}
