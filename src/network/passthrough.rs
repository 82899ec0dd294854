//! Interfaces of the host's that a guest has as they are, one guest at a time. Such an interface moves
//! into the guest's network namespace and must come back with its name, however the guest ends:
//! whoever puts the guest away holds the namespace until it has, and so does the guest's keeper.
//!
//! Before it goes, a note of it is written (`away.rs`). If nobody who holds the namespace is left, or
//! the guest's root has moved it on, the kernel gives a card back to the host when the guest has ended,
//! under the name that it had inside, or one like `dev3` if that is taken; it is known by what it is and
//! gets its name again. An interface without a card (veth, dummy, VLAN) the kernel takes away with the
//! namespace.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::away::Away;
use super::external::ExternalError;
use super::files;
use super::host::HostError;
use super::{Kind, Lease, Network};
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_card::Card;

/// How long the kernel may take to give a card back when its namespace has ended.
const PATIENCE: Duration = Duration::from_secs(3);

impl Network {
    /// Whether its one guest at a time has the host's interface itself.
    #[must_use]
    pub fn is_passthrough(&self) -> bool {
        self.kind == Kind::Passthrough
    }

    /// The host's interface, if it can be given to a guest now.
    pub(super) fn lendable(&self, kernel: &mut Netlink) -> Result<Card, HostError> {
        let name = self.bridge.clone();
        let link = kernel.link(&name)?;
        let cards = kernel.cards()?;
        let index = link.map(|link| link.index);
        let Some(card) = cards.iter().find(|card| Some(card.link.index) == index) else {
            return Err(ExternalError::Away(name).into());
        };
        let why = match unfit(card, &cards, &name) {
            None if !self.force && kernel.is_way_out(card.link.index)? => Some(
                "the host's default route leads over it, and the host would be cut off; make the network with --force if that is meant",
            ),
            why => why,
        };
        match why {
            Some(why) => Err(ExternalError::NotLent { name, why }.into()),
            None => Ok(card.clone()),
        }
    }

    /// Notes that the interface goes to a guest; the launch moves it. One that was away and is back is
    /// made what it was first.
    pub(super) fn lend(&self, lease: &Lease) -> Result<(), HostError> {
        let _lock = files::lock(&self.run_folder())?;
        self.must_be_home()?;
        let card = self.lendable(&mut Netlink::open()?)?;
        files::write(&self.away_file(), &Away::new(card, lease)?)?;
        Ok(files::pause(&self.away_file())?)
    }

    fn must_be_home(&self) -> Result<(), HostError> {
        match self.away()? {
            Some(away) if !self.settle(&away)? => {
                Err(ExternalError::Lent(self.bridge.clone()).into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses while its interface is away and can come back: nothing would know of it any more.
    pub(super) fn refuse_away(&self) -> Result<(), HostError> {
        match self.away()? {
            Some(away) if away.is_gone() => Ok(()),
            _ => self.must_be_home(),
        }
    }

    /// Whether a guest has the interface in its namespace.
    pub(super) fn is_inside(
        &self,
        lease: &Lease,
        inside: BorrowedFd<'_>,
    ) -> Result<bool, HostError> {
        match self.lent_to(lease)? {
            Some(away) => Ok(away.lent().is_in(inside)?),
            None => Ok(false),
        }
    }

    /// Takes the interface out of a guest that goes on; nothing to do if it has not got it.
    ///
    /// # Errors
    /// When it is not in the guest's namespace and not on the host: its root has moved it on, or
    /// deleted it. When the kernel refuses. The note of it stays.
    pub(super) fn take_out(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<(), HostError> {
        let _lock = files::lock(&self.run_folder())?;
        let Some(away) = self.lent_to(lease)? else {
            return Ok(());
        };
        if away.lent().take_home(inside)? {
            files::pause(&self.away_file())?;
        }
        match self.settle(&away)? {
            true => Ok(()),
            false => Err(ExternalError::Strayed(self.bridge.clone()).into()),
        }
    }

    /// The same for a guest's keeper, once the guest has ended: what is not in the namespace is left to
    /// whoever puts the guest away, for it may be with the guest's next run by now.
    ///
    /// # Errors
    /// When the kernel refuses, or something else on the host has its name; the note of it stays.
    pub fn take_back(&self, lease: &Lease, inside: BorrowedFd<'_>) -> Result<(), HostError> {
        let _lock = files::lock(&self.run_folder())?;
        let Some(away) = self.lent_to(lease)? else {
            return Ok(());
        };
        if away.lent().take_home(inside)? {
            files::pause(&self.away_file())?;
            self.settle(&away)?;
        }
        Ok(())
    }

    /// Brings an interface whose guest has ended back to the host, as it was; out of that namespace, or
    /// from where the kernel has put it when the namespace ended. Nothing to do if the note is not true
    /// any more. False if the interface is gone with its namespace, or out of the machine.
    ///
    /// # Errors
    /// When the kernel refuses, something else on the host has its name (then it is there under
    /// another), or it is nowhere. The note of it stays.
    pub fn bring_back(
        &self,
        noted: &Away,
        inside: Option<BorrowedFd<'_>>,
    ) -> Result<bool, HostError> {
        let until = Instant::now() + PATIENCE;
        loop {
            // Not held while waiting: the keeper may be about to do it, which holds the namespace.
            let lock = files::lock(&self.run_folder())?;
            if self.away()?.as_ref() != Some(noted) {
                return Ok(true);
            }
            if let Some(inside) = inside {
                noted.lent().take_home(inside)?;
                files::pause(&self.away_file())?;
            }
            if self.settle(noted)? {
                return Ok(true);
            }
            // With the namespace at hand there is nobody else to wait for but the kernel, which gives
            // back cards only.
            if Instant::now() >= until || inside.is_some() && noted.is_gone() {
                if !noted.is_gone() {
                    return Err(ExternalError::Lost(self.bridge.clone()).into());
                }
                files::remove(&self.away_file())?;
                return Ok(false);
            }
            drop(lock);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Why an interface cannot be given away, among all of the host's.
fn unfit(card: &Card, all: &[Card], name: &str) -> Option<&'static str> {
    let link = &card.link;
    let others = || all.iter().filter(|other| other.link.index != link.index);
    if link.name != name {
        return Some(
            "that is a further name of it; name it by its own, as `ip link` shows it first",
        );
    }
    if link.name == "lo" {
        return Some("it is loopback");
    }
    if link.master.is_some() {
        return Some("it is a port of a bridge or a bond; take it out of that first");
    }
    if others().any(|other| other.link.master == Some(link.index)) {
        return Some("it has ports of its own, which would stay behind");
    }
    // The two ends of a pair name each other; neither stands on the other.
    let stands =
        |other: &Card| other.below == Some(link.index) && card.below != Some(other.link.index);
    if others().any(stands) {
        return Some(
            "another interface of the host's stands on it (a VLAN, macvlan or the like); delete that first",
        );
    }
    if link.name.starts_with("bh") && link.kind.as_deref() == Some("veth") {
        return Some("it is the host's end of a guest's interface");
    }
    has_functions(card).then_some(
        "it has virtual functions, whose settings the guest's root could change; set their number to 0, or give the guest one of them",
    )
}

/// Whether a card has virtual functions (SR-IOV) made of it.
fn has_functions(card: &Card) -> bool {
    let Some((bus, device)) = &card.identity.parent else {
        return false;
    };
    let devices = Path::new("/sys/bus").join(bus).join("devices");
    let made = files::read_sysctl(&devices.join(device).join("sriov_numvfs"));
    made.is_ok_and(|made| made.is_some_and(|made| made != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::namespace;
    use crate::kernel::netlink::Link;
    use crate::kernel::netlink_card::{Identity, Settings};
    use crate::model::Layout;
    use crate::network::NetworkSettings;
    use std::os::fd::AsFd;
    use std::slice::from_ref;

    fn card(index: u32, name: &str, below: Option<u32>) -> Card {
        Card {
            link: Link {
                index,
                name: name.to_owned(),
                alias: None,
                kind: None,
                master: None,
                mac: None,
                mtu: 1500,
                up: true,
            },
            identity: Identity::default(),
            settings: Settings::default(),
            below,
            outside: None,
        }
    }

    /// A note belongs to one run of one guest; whoever has seen an earlier one leaves it alone.
    #[test]
    fn a_note_is_only_taken_away_by_whoever_knows_it() {
        let folder = std::env::temp_dir().join(format!("bh-lent-{}", std::process::id()));
        let layout = Layout::new(&folder);
        let mut network = Network::new(&layout, NetworkSettings::default()).unwrap();
        (network.kind, network.bridge) = (Kind::Passthrough, "bh-none".to_owned());
        let lease = |address: [u8; 4]| {
            let subnet = "10.9.0.0/24".parse().unwrap();
            Lease::of(address.into(), subnet, "").unwrap()
        };
        let (one, other) = (lease([10, 9, 0, 5]), lease([10, 9, 0, 6]));
        let hardware = || {
            let mut card = card(u32::MAX >> 2, "bh-none", None);
            card.identity.permanent = vec![2, 9, 9, 9, 9, 9];
            card
        };
        let note = |lease: &Lease| {
            let _lock = files::lock(&network.run_folder()).unwrap();
            let away = Away::new(hardware(), lease).unwrap();
            files::write(&network.away_file(), &away).unwrap();
            away
        };
        let (first, second) = (note(&one), note(&one));
        assert_ne!(first, second, "two runs of one guest");
        let own = namespace::open_own("net").unwrap();
        assert!(network.bring_back(&first, None).unwrap());
        network.take_back(&other, own.as_fd()).unwrap();
        assert_eq!(network.lent_to(&one).unwrap(), Some(second.clone()));
        assert_eq!(network.lent_to(&other).unwrap(), None);
        assert_eq!(network.astray_card(&[one.address]).unwrap(), None);
        // A card that is nowhere is not forgotten, nor lent, nor its network removed.
        assert!(network.refuse_away().is_err() && network.lend(&other).is_err());
        let nowhere = network.bring_back(&second, None).unwrap_err().to_string();
        assert!(nowhere.contains("cannot bring bh-none back"), "{nowhere}");
        assert_eq!(network.astray_card(&[]).unwrap(), Some(second));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_others_stand_on_is_not_given_away() {
        let alone = card(3, "card", None);
        assert_eq!(unfit(&alone, from_ref(&alone), "card"), None);
        let on_it = card(4, "card.5", Some(3));
        let why = unfit(&alone, &[alone.clone(), on_it.clone()], "card");
        assert!(why.is_some_and(|why| why.contains("stands on it")));
        // What stands on another itself may go.
        assert_eq!(
            unfit(&on_it, &[alone.clone(), on_it.clone()], "card.5"),
            None
        );
        let (one, other) = (card(5, "a", Some(6)), card(6, "b", Some(5)));
        assert_eq!(unfit(&one, &[one.clone(), other], "a"), None);
        let why = unfit(&alone, from_ref(&alone), "enp3s0");
        assert!(why.is_some_and(|why| why.contains("further name")));
    }
}
