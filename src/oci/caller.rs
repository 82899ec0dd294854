//! What the caller has open and a container's program is to have: checked before anything of ours is
//! open beside it; and what a caller may say in more than one way.

use std::path::Component;

use clap::ValueEnum;

use super::activation;
use super::args::{Cli, Command, Global, Make};
use super::error::{OciError, Result};
use crate::kernel::inherited;

/// Refuses to pass on what is not there, and what leads out of the container.
pub(super) fn check(cli: &Cli) -> Result<()> {
    let root = cli.global.root.as_deref();
    if root.is_some_and(|root| {
        !root
            .components()
            .any(|part| matches!(part, Component::Normal(_)))
    }) {
        return Err(OciError::Usage {
            what: "--root /".into(),
            why: "every folder of the host would be a container: name one of its own".into(),
        });
    }
    let preserved = match &cli.command {
        Some(Command::Create(create)) => create.make.passed_on(),
        Some(Command::Run(run)) => run.make.passed_on(),
        Some(Command::Exec(exec)) => exec.preserve_fds,
        _ => return Ok(()),
    };
    if !inherited::are_open(preserved) {
        return Err(OciError::Usage {
            what: format!(
                "{preserved} descriptors to pass on (LISTEN_FDS and --preserve-fds together)"
            ),
            why: "not that many are open from 3 on; pass fewer, or leave the option out".into(),
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

/// Who makes control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CgroupManager {
    Cgroupfs,
    Systemd,
}

impl Global {
    /// Whether control groups are made through systemd.
    pub(super) fn systemd(&self) -> bool {
        self.systemd_cgroup || self.cgroup_manager == Some(CgroupManager::Systemd)
    }
}

impl Make {
    /// How many descriptors from 3 on the program is to have: sockets of a service manager's first.
    pub(super) fn passed_on(&self) -> u32 {
        activation::sockets().saturating_add(self.preserve_fds)
    }
}
