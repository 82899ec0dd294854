//! Room for the host in a guest's own layer that is full. A start needs some: overlayfs makes its working
//! folder anew whenever it is mounted, and where it cannot the guest's root is read-only, so that the
//! guest could not even remove what fills it; and the host writes names and addresses. So what the guest
//! is kept to is wider as long as this lives.

use super::driver::{Driver, Object, Quota};
use super::place::{self, Opened};
use super::root::RootError;
use crate::model::{GuestName, Layout};

/// Bytes that a quota is wider meanwhile.
pub(super) const BYTES: u64 = 16 << 20;
/// The same of files.
pub(super) const FILES: u32 = 64;

/// The room, which is taken back when this goes.
#[derive(Debug)]
pub struct SpareRoom {
    object: Object,
    opened: Opened,
    sold: Quota,
}

/// Makes room in the layer of a guest that does not run and was sold this; of none given, what it is kept
/// to counts. Its lock is held. A folder that is kept to nothing has all the room there is.
///
/// # Errors
/// It cannot be opened, or what keeps it to its size cannot be changed.
pub fn spare_room(
    layout: &Layout,
    name: &GuestName,
    sold: Option<Quota>,
) -> Result<Option<SpareRoom>, RootError> {
    let object = place::object(layout, name)?;
    let sold = sold.map_or_else(|| object.kept_to(), Ok)?;
    if object.driver == Driver::Overlay && sold == Quota::default() {
        return Ok(None);
    }
    let opened = object.open()?;
    object.widen(&opened.folder, sold)?;
    Ok(Some(SpareRoom {
        object,
        opened,
        sold,
    }))
}

impl Drop for SpareRoom {
    fn drop(&mut self) {
        // A quota that stays wider is one that `doctor` names; the next start takes it back.
        let _wider = self.object.narrow(&self.opened.folder, self.sold);
    }
}
