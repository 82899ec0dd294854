//! Interfaces of the host's that a guest has as they are, one guest at a time. Such an interface moves
//! into the guest's network namespace and must come back with its name, however the guest ends:
//! whoever puts the guest away holds the namespace until it has, and so does the guest's keeper.
//!
//! Before it goes, a note of it is written. If nobody who holds the namespace is left, the kernel gives a
//! card back to the host under the name that it had inside, or one like `dev3` if that is taken; by its
//! number it is known and gets its name again. An interface without a card (veth, dummy, VLAN) the
//! kernel takes away with the namespace.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::external::ExternalError;
use super::files::{self, FileError};
use super::host::{BOOT_ID, HostError};
use super::{Kind, Lease, Network};
use crate::kernel::namespace;
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::netlink_passthrough::{is_taken, number_away};

/// How long the kernel may take to give a card back when its namespace has ended.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of an interface that is in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Away {
    boot_id: String,
    /// Its number on the host.
    index: u32,
    /// Whether it was up.
    up: bool,
    /// Address of the guest that has it.
    address: std::net::Ipv4Addr,
}

impl Network {
    /// Whether its one guest at a time has the host's interface itself.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        self.kind == Kind::Passthrough
    }

    /// The host's interface, if it can be given to a guest now.
    pub(super) fn lendable(&self, kernel: &mut Netlink) -> Result<Link, HostError> {
        let name = self.bridge.clone();
        let Some(link) = kernel.link(&name)? else {
            return Err(ExternalError::Away(name).into());
        };
        let refused = |why| {
            Err(ExternalError::NotLent {
                name: name.clone(),
                why,
            }
            .into())
        };
        if link.name == "lo" {
            return refused("it is loopback");
        }
        if link.master.is_some() {
            return refused("it is a port of a bridge or a bond; take it out of that first");
        }
        if kernel
            .links("")?
            .iter()
            .any(|other| other.master == Some(link.index))
        {
            return refused("it has ports of its own, which would stay behind");
        }
        if link.name.starts_with("bh") && link.kind.as_deref() == Some("veth") {
            return refused("it is the host's end of a guest's interface");
        }
        if !self.force && kernel.is_way_out(link.index)? {
            return refused(
                "the host's default route leads over it, and the host would be cut off; make the network with --force if that is meant",
            );
        }
        Ok(link)
    }

    /// Notes that the interface goes to a guest; the launch moves it.
    pub(super) fn lend(&self, lease: &Lease) -> Result<(), HostError> {
        let _lock = files::lock(&self.run_folder())?;
        let link = self.lendable(&mut Netlink::open()?)?;
        let away = Away {
            boot_id: boot_id()?,
            index: link.index,
            up: link.up,
            address: lease.address,
        };
        files::write(&self.away_file(), &away)?;
        Ok(files::pause(&self.away_file())?)
    }

    /// Whether a guest has the interface, or had it and nobody has brought it back.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn is_lent(&self, lease: &Lease) -> Result<bool, FileError> {
        let away = self.away()?;
        Ok(away.is_some_and(|away| away.address == lease.address))
    }

    /// The note of an interface that is away, if no guest of these addresses has it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn is_astray(&self, of_running: &[std::net::Ipv4Addr]) -> Result<bool, FileError> {
        let away = self.away()?;
        Ok(away.is_some_and(|away| !of_running.contains(&away.address)))
    }

    /// Whether the interface is in that namespace.
    pub(super) fn is_inside(&self, inside: BorrowedFd<'_>) -> Result<bool, HostError> {
        let Some(away) = self.away()? else {
            return Ok(false);
        };
        let number = number_away(away.index);
        let links = Netlink::open_in(inside)?.links("")?;
        Ok(links.iter().any(|link| link.index == number))
    }

    /// Brings the interface back to the host, under its name and up if it was; out of that namespace, or
    /// from where the kernel has put it when the namespace ended. False if it is gone with that.
    ///
    /// # Errors
    /// When the kernel refuses, or something else on the host has its name; then it is there under
    /// another, and the note of it stays.
    pub fn bring_back(&self, inside: Option<BorrowedFd<'_>>) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let until = Instant::now() + PATIENCE;
        loop {
            // Not held while waiting: the keeper may be about to do it, which holds the namespace.
            let lock = files::lock(&self.run_folder())?;
            let Some(away) = self.away()? else {
                return Ok(true);
            };
            if let Some(inside) = inside {
                self.take_out(inside, &away)?;
                files::pause(&self.away_file())?;
            }
            if let Some(link) = self.returned(&mut kernel, &away, inside.is_some())? {
                if link.name != self.bridge {
                    kernel.rename(link.index, &self.bridge)?;
                }
                if away.up {
                    kernel.set_up(&self.bridge)?;
                }
                files::remove(&self.away_file())?;
                return Ok(true);
            }
            if Instant::now() >= until {
                files::remove(&self.away_file())?;
                return Ok(false);
            }
            drop(lock);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The interface, if it is on the host again. Of one that nobody has taken out the kernel decides the
    /// name, so only its number tells.
    fn returned(
        &self,
        kernel: &mut Netlink,
        away: &Away,
        taken_out: bool,
    ) -> Result<Option<Link>, HostError> {
        let number = number_away(away.index);
        let links = kernel.links("")?;
        let is = |link: &&Link| {
            link.index == number
                || (link.index == away.index && is_ours(link, &self.bridge))
                || (taken_out && link.name == self.bridge)
        };
        Ok(links.iter().find(is).cloned())
    }

    fn take_out(&self, inside: BorrowedFd<'_>, away: &Away) -> Result<(), HostError> {
        let number = number_away(away.index);
        let mut there = Netlink::open_in(inside)?;
        if !there.links("")?.iter().any(|link| link.index == number) {
            return Ok(());
        }
        let home = namespace::open_own("net")?;
        match there.hand_over(number, home.as_fd(), &self.bridge, away.index) {
            Err(error) if is_taken(&error) => {
                // Better there under another name than gone; `doctor` tells.
                Ok(there.hand_over(number, home.as_fd(), &spare(away.index), away.index)?)
            }
            done => Ok(done?),
        }
    }

    fn away(&self) -> Result<Option<Away>, FileError> {
        let away: Option<Away> = match self.is_passthrough() {
            true => files::read(&self.away_file())?,
            false => None,
        };
        let boot = boot_id()?;
        Ok(away.filter(|away| away.boot_id == boot))
    }

    fn away_file(&self) -> PathBuf {
        self.run_folder().join("away.json")
    }
}

fn boot_id() -> Result<String, FileError> {
    Ok(files::read_sysctl(Path::new(BOOT_ID))?.unwrap_or_default())
}

/// A name that nothing else has.
fn spare(index: u32) -> String {
    format!("bhx{index}")
}

fn is_ours(link: &Link, name: &str) -> bool {
    link.name == name || link.name == spare(link.index)
}
