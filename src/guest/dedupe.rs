//! Equal files of a pool's guests: those that a stopped guest has as its base has them go back to that;
//! what several stopped guests have alike goes into a layer that they share; what their images have alike is
//! kept once; others share their blocks where the filesystem can.

use std::collections::BTreeMap;

use serde::Serialize;

use super::alike::Shared;
use super::error::Result;
use super::manager::Manager;
use crate::kernel::{Errno, interrupt};
use crate::model::GuestName;
use crate::storage::{self, Deduped, Leads, Linked, Pool, PoolError, Returned, RootError};

/// What was done in a pool, or would be.
#[derive(Debug, Serialize)]
pub struct Spared {
    /// Files that share blocks; none where the filesystem cannot.
    #[serde(flatten)]
    pub shared: Option<Deduped>,
    /// Files that are seen through to the base.
    #[serde(flatten)]
    pub returned: Returned,
    /// Files that are seen through to layers that their guests share.
    #[serde(flatten)]
    pub common: Shared,
    /// Files that images have alike.
    #[serde(flatten)]
    pub linked: Linked,
    /// What went wrong with single guests; it was done with the others.
    pub failed: Vec<String>,
}

impl Manager {
    /// Has equal files of a pool's guests take their room once; with `would`, only counts.
    ///
    /// # Errors
    /// The pool cannot be read; it was interrupted.
    pub fn dedupe(&self, pool: &Pool, would: bool) -> std::result::Result<Spared, DedupeError> {
        let guests = storage::guests_in(&self.layout, &pool.name).map_err(RootError::from)?;
        let guests = guests
            .iter()
            .filter_map(|guest| guest.parse::<GuestName>().ok());
        let (mut returned, mut failed) = (Returned::default(), Vec::new());
        // What two tenants have is not shared between them: a guest can see whether its blocks are
        // somebody's too, and so whether somebody has a file that it made up.
        let mut tenants = BTreeMap::from([(String::new(), Vec::new())]);
        for name in guests {
            match self.to_base(&name, would, &mut returned) {
                Err(error) if error.ends_all() => return Err(error),
                Err(error) => failed.push(format!("guest {name}: {error}")),
                Ok(()) => {}
            }
            tenants.entry(self.whose(&name)).or_default().push(name);
        }
        let mut common = Shared::default();
        // Where that is not known, no layer is taken for one that only these guests share.
        let leads = storage::leads(&self.layout).unwrap_or_else(|error| {
            failed.push(format!(
                "layers that guests share are left as they are: {error}"
            ));
            Leads::new()
        });
        for guests in tenants.values() {
            let would = would.then_some(&mut returned.gone);
            self.share_layers(guests, &leads, would, &mut common, &mut failed)?;
        }
        let mut linked = Linked::default();
        for (whose, guests) in &tenants {
            self.link_images((whose, guests), would, &mut linked, &mut failed)?;
        }
        let mut shared = Some(Deduped::default());
        for guests in tenants.values() {
            let Some(found) = &mut shared else { break };
            let would = would.then_some(&returned.gone);
            match storage::dedupe(&self.layout, pool, guests, would, (found, &mut failed)) {
                Ok(()) => {}
                // Its filesystem cannot let files share blocks.
                Err(RootError::Pool(PoolError::Refused { .. })) => shared = None,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Spared {
            shared,
            returned,
            common,
            linked,
            failed,
        })
    }

    /// The tenant of a guest, empty for none. One whose definition cannot be read is by itself: no
    /// name begins with a space.
    pub(super) fn whose(&self, name: &GuestName) -> String {
        match self.guest(name) {
            Ok(guest) => guest
                .tenant
                .map_or_else(String::new, |name| name.to_string()),
            Err(_) => format!(" {name}"),
        }
    }

    fn to_base(
        &self,
        name: &GuestName,
        would: bool,
        found: &mut Returned,
    ) -> std::result::Result<(), DedupeError> {
        let Some(_lock) = self.at_rest(name) else {
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

impl DedupeError {
    /// Whether it is no matter of one guest: somebody asked for an end, or a test for a fault.
    pub(super) fn ends_all(&self) -> bool {
        let asked = match self {
            Self::Root(RootError::File(error)) => error.source.raw_os_error(),
            _ => None,
        };
        asked == Some(Errno::CANCELED.raw_os_error()) || interrupt::caught().is_some()
    }
}
