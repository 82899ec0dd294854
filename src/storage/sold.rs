//! What a guest's disk is kept to, beside what it was sold: a definition changed by hand, a quota that somebody
//! took away, a filesystem that was put in the place of another.

use super::driver::{Driver, Quota};
use super::driver_image::USUAL;
use super::place;
use super::pool::Filesystem;
use super::root::RootError;
use crate::model::{Bytes, GuestName, Layout};

/// A filesystem in a file may be larger by so much of a hundred than what was sold: it comes in blocks, and what
/// it needs for itself changes with its size.
const SPARE: u64 = 2;

/// How a guest's disk is not what it was sold, in words. Whoever calls holds the guest's lock.
///
/// # Errors
/// It cannot be looked at.
pub fn disk_differs(
    layout: &Layout,
    name: &GuestName,
    sold: Quota,
) -> Result<Option<String>, RootError> {
    let object = place::object(layout, name)?;
    let kept = object.kept_to()?;
    Ok(match object.driver {
        Driver::Image => file_differs(object.filesystem, kept.size.unwrap_or(0), sold.size),
        Driver::Overlay | Driver::Btrfs => differs(kept, sold),
    })
}

/// The size that a guest's disk is kept to; `None` if to none.
///
/// # Errors
/// It cannot be looked at.
pub fn disk_kept_to(layout: &Layout, name: &GuestName) -> Result<Option<u64>, RootError> {
    Ok(place::object(layout, name)?.kept_to()?.size)
}

/// A filesystem in a file, which shows this much.
fn file_differs(kind: Filesystem, shown: u64, sold: Option<u64>) -> Option<String> {
    let wanted = sold.unwrap_or(USUAL);
    let most = wanted.max(kind.least());
    let most = most + most / 100 * SPARE;
    (!(wanted..=most).contains(&shown)).then(|| {
        let shown = in_units(shown);
        format!("its filesystem has {shown}, sold are {}", Bytes(wanted))
    })
}

/// A folder or a subvolume.
fn differs(kept: Quota, sold: Quota) -> Option<String> {
    // Project quotas are in such blocks.
    let size = |quota: Quota| quota.size.map(|size| size.div_ceil(1024));
    if size(kept) != size(sold) {
        let text = |quota: Quota| quota.size.map_or_else(|| "any size".into(), in_units);
        return Some(format!(
            "it is kept to {}, sold is {}",
            text(kept),
            text(sold)
        ));
    }
    if kept.inodes != sold.inodes {
        let text = |quota: Quota| quota.inodes.map_or_else(|| "any".into(), |n| n.to_string());
        return Some(format!(
            "it is kept to {} files, sold are {}",
            text(kept),
            text(sold)
        ));
    }
    None
}

/// In the largest unit that says it to a thousandth.
fn in_units(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let fit = units.iter().find(|(shift, _)| bytes >> shift >= 1000);
    match fit.filter(|(shift, _)| !bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => Bytes(bytes).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_filesystem_is_what_was_sold_or_a_little_more() {
        let ext4 = |shown, sold| file_differs(Filesystem::Ext4, shown, sold);
        assert_eq!(ext4(GIB, Some(GIB)), None);
        assert_eq!(ext4(GIB + (4 << 20), Some(GIB)), None);
        assert_eq!(
            ext4(GIB - 4096, Some(GIB)).as_deref(),
            Some("its filesystem has 1023M, sold are 1G")
        );
        assert_eq!(
            ext4(2 * GIB, Some(GIB)).as_deref(),
            Some("its filesystem has 2G, sold are 1G")
        );
        assert_eq!(ext4(USUAL, None), None);
        assert!(ext4(GIB, None).is_some());
        // xfs is never smaller than this.
        assert_eq!(
            file_differs(Filesystem::Xfs, 300 << 20, Some(32 << 20)),
            None
        );
    }

    #[test]
    fn a_quota_is_exactly_what_was_sold() {
        let of = |size, inodes| Quota { size, inodes };
        assert_eq!(differs(of(None, None), of(None, None)), None);
        assert_eq!(
            differs(of(Some(2048), Some(9)), of(Some(1025), Some(9))),
            None
        );
        assert_eq!(
            differs(of(None, None), of(Some(GIB), None)).as_deref(),
            Some("it is kept to any size, sold is 1G")
        );
        assert_eq!(
            differs(of(Some(GIB), Some(9)), of(Some(GIB), None)).as_deref(),
            Some("it is kept to 9 files, sold are any")
        );
    }
}
