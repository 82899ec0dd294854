//! What the caller has open and a container's program is to have: checked before anything of ours is
//! open beside it.

use super::args::Command;
use super::error::{OciError, Result};
use crate::kernel::inherited;

/// Refuses to pass on what is not there, and what leads out of the container.
pub(super) fn check(command: Option<&Command>) -> Result<()> {
    let preserved = match command {
        Some(Command::Create(create)) => create.make.preserve_fds,
        Some(Command::Run(run)) => run.make.preserve_fds,
        Some(Command::Exec(exec)) => exec.preserve_fds,
        _ => return Ok(()),
    };
    if !inherited::are_open(preserved) {
        return Err(OciError::Usage {
            what: format!("--preserve-fds {preserved}"),
            why: "not that many descriptors are open from 3 on".into(),
        });
    }
    match inherited::standard_folder()? {
        None => Ok(()),
        Some(what) => Err(OciError::Usage {
            what: format!("standard {what} is a folder"),
            why: "the container would see the host's files through it: give it a file".into(),
        }),
    }
}
