//! The note of an interface of the host's that is in a guest: what it is, and what it was. There is one
//! as long as the interface is not back, or cannot come back any more.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{self, FileError};
use super::host::{BOOT_ID, HostError};
use super::{Lease, Network};
use crate::kernel::namespace;
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_card::{Card, Identity, Settings};
use crate::kernel::netlink_passthrough::{Lent, number_away, spare_name};

/// What is known of an interface that is in a guest. No two are equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Away {
    boot_id: String,
    /// When it was written, nanoseconds since boot.
    noted: u64,
    /// Its number on the host.
    index: u32,
    /// Address of the guest that has it.
    address: Ipv4Addr,
    identity: Identity,
    settings: Settings,
}

impl Away {
    pub(super) fn new(card: Card, lease: &Lease) -> Result<Self, FileError> {
        Ok(Self {
            boot_id: boot_id()?,
            noted: u64::try_from(namespace::clocks().1).unwrap_or(0),
            index: card.link.index,
            address: lease.address,
            identity: card.identity,
            settings: card.settings,
        })
    }

    pub(super) fn is_of(&self, lease: &Lease) -> bool {
        self.address == lease.address
    }

    pub(super) fn lent(&self) -> Lent<'_> {
        Lent {
            index: self.index,
            identity: &self.identity,
            names: self.settings.names(),
        }
    }

    /// Whether it cannot come back any more, its guest having ended.
    pub(super) fn is_gone(&self) -> bool {
        self.identity.is_mortal()
    }

    /// Whether an interface on the host is this one. Where there is only one of it, that tells; else
    /// it must have a number or a name that only we give, or its name and be of the same device or where
    /// it was.
    fn is(&self, card: &Card, name: &str) -> bool {
        let link = &card.link;
        card.identity == self.identity
            && (self.identity.is_unique()
                || link.index == number_away(self.index)
                || link.name == name
                    && (link.index == self.index || self.identity.parent.is_some())
                || link.name == spare_name(self.index))
    }
}

impl Network {
    /// The note of its interface, if that is away.
    pub(super) fn away(&self) -> Result<Option<Away>, FileError> {
        let away: Option<Away> = match self.is_passthrough() {
            true => files::read(&self.away_file())?,
            false => None,
        };
        let boot = boot_id()?;
        Ok(away.filter(|away| away.boot_id == boot))
    }

    /// The note, if the guest that has it is this one.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn lent_to(&self, lease: &Lease) -> Result<Option<Away>, FileError> {
        Ok(self.away()?.filter(|away| away.is_of(lease)))
    }

    /// The note, if no guest of these addresses has it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn astray_card(&self, of_running: &[Ipv4Addr]) -> Result<Option<Away>, FileError> {
        let away = self.away()?;
        Ok(away.filter(|away| !of_running.contains(&away.address)))
    }

    /// If the interface is on the host, gives it its name and makes it what it was, and it is not away
    /// any more. The lock of the run folder is held.
    pub(super) fn settle(&self, away: &Away) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let cards = kernel.cards()?;
        let Some(card) = cards.iter().find(|card| away.is(card, self.bridge())) else {
            return Ok(false);
        };
        kernel.restore(card, self.bridge(), &away.settings)?;
        files::pause(&self.away_file())?;
        files::remove(&self.away_file())?;
        Ok(true)
    }

    pub(super) fn away_file(&self) -> PathBuf {
        self.run_folder().join("away.json")
    }
}

fn boot_id() -> Result<String, FileError> {
    Ok(files::read_sysctl(Path::new(BOOT_ID))?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::Link;

    fn card(index: u32, name: &str, identity: Identity) -> Card {
        Card {
            link: Link {
                index,
                name: name.to_owned(),
                alias: None,
                kind: identity.kind.clone(),
                master: None,
                mac: None,
                mtu: 1500,
                up: false,
            },
            identity,
            settings: Settings::default(),
            below: None,
            outside: None,
        }
    }

    fn noted(identity: Identity) -> Away {
        Away {
            boot_id: String::new(),
            noted: 1,
            index: 3,
            address: Ipv4Addr::LOCALHOST,
            identity,
            settings: Settings::default(),
        }
    }

    fn of_kind(kind: &str) -> Identity {
        Identity {
            kind: Some(kind.to_owned()),
            ..Identity::default()
        }
    }

    #[test]
    fn a_card_is_known_wherever_it_comes_back_and_nothing_else_is_taken_for_it() {
        let real = Identity {
            kind: None,
            permanent: vec![2, 0, 0, 0, 0, 9],
            parent: Some(("pci".to_owned(), "0000:00:03.0".to_owned())),
        };
        let away = noted(real.clone());
        let away_number = number_away(3);
        for (index, name) in [(3, "card"), (away_number, "mine"), (77, "dev77")] {
            assert!(away.is(&card(index, name, real.clone()), "card"), "{name}");
            // What a guest's root makes has a kind, no device, and an address by chance.
            let chance = Identity::default();
            let twin = Identity {
                permanent: vec![2, 0, 0, 0, 0, 8],
                ..real.clone()
            };
            for other in [of_kind("dummy"), chance, twin] {
                let other = card(index, name, other);
                assert!(!away.is(&other, "card"), "{other:?}");
            }
        }
    }

    #[test]
    fn what_is_no_card_is_known_by_a_number_or_name_of_ours() {
        let away = noted(of_kind("veth"));
        let is = |index, name: &str, kind: &str| away.is(&card(index, name, of_kind(kind)), "card");
        assert!(is(3, "card", "veth") && is(number_away(3), "x", "veth"));
        assert!(is(9, "bhx3", "veth"));
        assert!(!is(3, "other", "veth") && !is(9, "card", "veth"));
        let port = Identity {
            parent: Some(("usb".to_owned(), "1-2:1.0".to_owned())),
            ..of_kind("can")
        };
        let away = noted(port.clone());
        assert!(away.is(&card(9, "card", port.clone()), "card"));
        assert!(!away.is(&card(9, "can1", port), "card"), "the other port");
        assert!(!is(3, "card", "dummy") && !is(number_away(3), "x", "dummy"));
    }

    #[test]
    fn only_what_the_kernel_takes_along_or_was_pulled_out_is_gone() {
        let parent = |name: &str| Some(("pci".to_owned(), name.to_owned()));
        let hardware = Identity {
            permanent: vec![1; 6],
            ..Identity::default()
        };
        assert!(noted(of_kind("veth")).is_gone());
        assert!(!noted(hardware.clone()).is_gone());
        let pulled = Identity {
            parent: parent("ffff:ff:ff.7"),
            ..hardware
        };
        let has_bus = Path::new("/sys/bus/pci/devices").exists();
        assert_eq!(noted(pulled).is_gone(), has_bus);
    }
}
