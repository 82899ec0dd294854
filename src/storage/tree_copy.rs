//! Copies a whole tree with everything its files have.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::dirfd::FileError;
use super::tree_item::failed;
use super::tree_policy::Policy;
use super::tree_read::{Content, read_tree};
use super::tree_write::{Sink, TreeWriter};
use crate::kernel::interrupt;

/// Bytes that are read at once.
pub(super) const PIECE: usize = 256 << 10;

/// Makes the empty folder `to` a copy of `from`. Gives the number of attributes that were left out.
///
/// # Errors
/// A file cannot be read or made, or a signal asked to end.
pub(super) fn copy_tree(
    from: BorrowedFd<'_>,
    to: impl AsFd,
    policy: Policy,
) -> Result<u64, FileError> {
    let mut writer = TreeWriter::new(to, policy)?;
    let mut buffer = vec![0; PIECE];
    // Names of files that went while they were met: a later name of one is a file of its own.
    let mut gone = std::collections::HashSet::new();
    read_tree::<FileError>(from, |found| {
        if interrupt::caught().is_some() {
            let stopped = io::Error::new(io::ErrorKind::Interrupted, "interrupted by a signal");
            return Err(failed("copy", found.path, stopped));
        }
        let lost = found.earlier.is_some_and(|path| gone.contains(path));
        let met = if lost {
            found.alone().item()
        } else {
            found.item()
        };
        let Some((item, content)) = met? else {
            gone.insert(found.path.to_vec());
            return Ok(());
        };
        let sink = writer.item(item)?;
        if let (Some(sink), Some(content)) = (sink, content) {
            writer.close(pour(content, sink, found.path, &mut buffer)?)?;
        }
        Ok(())
    })?;
    writer.finish()
}

/// Writes all of a file's data.
pub(super) fn pour(
    mut content: Content,
    mut sink: Sink,
    path: &[u8],
    buffer: &mut [u8],
) -> Result<Sink, FileError> {
    loop {
        let n = content.read(buffer);
        match n.map_err(|e| failed("read", path, e))? {
            0 => return Ok(sink),
            n => sink.write(&buffer[..n])?,
        }
    }
}
