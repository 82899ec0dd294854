//! The program that enters guests, executed from where nobody can write to it. A guest can have its
//! own file lead to the program that executes it (`#!/proc/self/exe`) and so get hold of ours
//! (CVE-2019-5736). Its ids have no right to that file; this is the second wall: the file is seen
//! through a mount of its own that is read-only, attached nowhere, and gone with the process.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::error::{KernelError, Result};
use super::mount::{self, Attr};

const OWN: &str = "/proc/self/exe";

// The same as `ensure` for `bulkhead-oci`, before anything else of it has begun: build.rs makes it
// the place where that program starts.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(include_str!("sealed_first.s"));

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static bulkhead_sealed: u32;
}

/// Whether the program has been seen to run from a read-only mount before it began.
fn was_sealed() -> bool {
    // SAFETY: four bytes of the assembly file, written there alone, before any of this runs.
    #[cfg(target_arch = "x86_64")]
    return unsafe { (&raw const bulkhead_sealed).read_volatile() } == 1;
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether this process runs from a mount that is read-only.
pub fn is_sealed() -> Result<bool> {
    let failed = |errno| KernelError::new("look at", "this program's own mount", errno);
    let own = rustix::fs::open(OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let facts = own.and_then(rustix::fs::fstatvfs).map_err(failed)?;
    Ok(facts.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Executes this program once more, with the same arguments, from a read-only clone of its mount
/// (open_tree(2), mount_setattr(2)). Comes back when it runs from one already, or has no right to
/// make one, and so none to enter a guest either.
///
/// # Errors
/// The clone cannot be made or executed.
pub fn ensure() -> Result<()> {
    if was_sealed() || is_sealed()? || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = match mount::clone_tree(Path::new(OWN), false) {
        // Root of a user namespace alone, in mounts that are not its own: the program's file belongs
        // to somebody who is nobody to it.
        Err(error) if error.errno == Errno::PERM => return Ok(()),
        other => other?,
    };
    let attributes = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV;
    let set = |fd| mount::set_attr(fd, attributes, Attr::empty(), false, None, "this program");
    set(program.as_fd())?;
    let text = |bytes: Vec<u8>| CString::new(bytes).unwrap_or_default();
    let arguments: Vec<_> = std::env::args_os().map(|a| text(a.into_vec())).collect();
    let environment: Vec<_> = std::env::vars_os()
        .map(|(name, value)| text([name.into_vec(), b"=".to_vec(), value.into_vec()].concat()))
        .collect();
    match nix::unistd::fexecve(program.as_fd(), &arguments, &environment) {
        Err(errno) => Err(KernelError::nix("execute again", "this program")(errno)),
        Ok(never) => match never {},
    }
}

/// Refuses to go on from a place that could be written.
///
/// # Errors
/// [`ensure`] has not been called.
pub fn check() -> Result<()> {
    if is_sealed()? {
        return Ok(());
    }
    Err(
        KernelError::new("enter a guest with", "this program", Errno::PERM)
            .because("it does not run from a read-only mount"),
    )
}
