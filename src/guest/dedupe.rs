//! Equal files of a pool's guests: those that a stopped guest has as its base has them go back to that;
//! others share their blocks where the filesystem can.

use std::time::Duration;

use serde::Serialize;

use super::error::Result;
use super::manager::Manager;
use crate::model::{GuestName, Status};
use crate::storage::{self, Deduped, Pool, PoolError, Returned, RootError};

/// How long a command at work is waited for before its guest is passed over.
const PATIENCE: Duration = Duration::from_millis(200);

/// What was done in a pool, or would be.
#[derive(Debug, Serialize)]
pub struct Spared {
    /// Files that share blocks; none where the filesystem cannot.
    #[serde(flatten)]
    pub shared: Option<Deduped>,
    /// Files that are seen through to the base.
    #[serde(flatten)]
    pub returned: Returned,
}

impl Manager {
    /// Has equal files of a pool's guests take their room once; with `would`, only counts.
    ///
    /// # Errors
    /// A folder cannot be read; it was interrupted.
    pub fn dedupe(&self, pool: &Pool, would: bool) -> std::result::Result<Spared, DedupeError> {
        let mut returned = Returned::default();
        for guest in storage::guests_in(&self.layout, &pool.name).map_err(RootError::from)? {
            let Ok(name) = guest.parse::<GuestName>() else {
                continue;
            };
            self.to_base(&name, would, &mut returned)?;
        }
        let shared = match storage::dedupe(&self.layout, pool, would) {
            Ok(shared) => Some(shared),
            // Its filesystem cannot let files share blocks.
            Err(RootError::Pool(PoolError::Refused { .. })) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Spared { shared, returned })
    }

    fn to_base(
        &self,
        name: &GuestName,
        would: bool,
        found: &mut Returned,
    ) -> std::result::Result<(), DedupeError> {
        let idle = self.lock_within(name, "dedupe", PATIENCE).ok();
        let stopped = || matches!(self.status(name), Ok(Status::Stopped));
        let Some(_lock) = idle.filter(|_| stopped()) else {
            found.base_running += 1;
            return Ok(());
        };
        if !would {
            self.clean_up(name)?;
        }
        let image = self.base_of(name)?;
        Ok(storage::return_to_base(
            &self.layout,
            name,
            &image,
            would,
            found,
        )?)
    }

    fn base_of(&self, name: &GuestName) -> Result<storage::Image> {
        let digest = storage::image_digest(&self.layout, name)
            .map_err(|error| self.root_error(name, error))?;
        Ok(storage::load_image(&self.layout, &digest)?)
    }
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum DedupeError {
    /// In what guests' files lie in.
    #[error(transparent)]
    Root(#[from] RootError),
    /// With a guest.
    #[error(transparent)]
    Guest(#[from] super::error::GuestError),
}
