//! Guests' layers of which the kernel counts what they take and shows it nowhere inside: subvolumes of
//! btrfs. Those of other drivers that have a size show it in df(1) by themselves.

use std::io;
use std::os::fd::AsFd;

use super::dirfd::{FileError, open_dir};
use super::driver::Driver;
use super::place;
use crate::kernel::btrfs::Counter;
use crate::model::{GuestName, Layout};

/// Whether a guest's own layer is such a one.
///
/// # Errors
/// It cannot be read where it lies.
pub fn is_counted(layout: &Layout, name: &GuestName) -> Result<bool, FileError> {
    Ok(place::object(layout, name)?.driver == Driver::Btrfs)
}

/// Where it says what a running guest takes; `None` for a layer of another kind.
///
/// # Errors
/// It cannot be looked at.
pub fn counter(layout: &Layout, name: &GuestName) -> Result<Option<Counter>, FileError> {
    let object = place::object(layout, name)?;
    if object.driver != Driver::Btrfs {
        return Ok(None);
    }
    let subvolume = open_dir(&object.path)?;
    let counter = Counter::of(subvolume.as_fd());
    let failed = |e| FileError::new("look at", &object.path, io::Error::other(e));
    counter.map(Some).map_err(failed)
}
