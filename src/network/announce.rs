//! Where guests of a routed network have addresses of the world, the host answers for them on the link
//! that it would reach their prefix over if they were not its own: the uplink. So a router that takes the
//! prefix to be on that wire finds them. As the entries of the guard (`guard.rs`) these follow from the
//! leases alone.
//!
//! On which interface that is, and whether the setting for it was on before, is kept in the alias of the
//! network's bridge (`ndp=eth0/0/80`), with the prefix's length for whoever finds the bridge when its
//! installation is gone. Whoever is the last to need the setting puts it back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::files;
use super::host::HostError;
use super::{Lease, Network};
use crate::kernel::netlink::{Link, Netlink, NetlinkError, Way};
use crate::kernel::netlink_ipv6::Route6;
use crate::model::Prefix6;

/// In a bridge's alias, before the interface.
const NOTE: &str = "ndp=";
/// In the alias, what comes last (`ipv6.rs`).
const LAST: &str = " ipv6-was=";

/// The uplink's name, whether it answered for others before, and the length of the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    uplink: String,
    was: bool,
    length: Option<u8>,
}

fn setting(interface: &str) -> PathBuf {
    let folder = Path::new("/proc/sys/net/ipv6/conf").join(interface);
    folder.join("proxy_ndp")
}

fn is_on(interface: &str) -> Result<bool, HostError> {
    Ok(files::read_sysctl(&setting(interface))?.as_deref() == Some("1"))
}

/// What a bridge of this program's says of its uplink.
fn note_of(alias: &str) -> Option<Note> {
    let mut words = alias.split(' ');
    if !words.next()?.starts_with("bulkhead") {
        return None;
    }
    let mut parts = words.find_map(|word| word.strip_prefix(NOTE))?.split('/');
    let (uplink, was) = (parts.next()?, parts.next()?);
    // A name of two dots would be another folder.
    (!uplink.is_empty() && !uplink.starts_with('.')).then(|| Note {
        uplink: uplink.to_owned(),
        was: was == "1",
        length: parts.next().and_then(|length| length.parse().ok()),
    })
}

/// An alias that says this of the uplink.
fn with_note(alias: &str, note: Option<&Note>) -> String {
    let (first, last) = alias
        .split_once(LAST)
        .map_or((alias, String::new()), |(first, last)| {
            (first, format!("{LAST}{last}"))
        });
    let kept = first.split(' ').filter(|word| !word.starts_with(NOTE));
    let mut text = kept.collect::<Vec<_>>().join(" ");
    if let Some(Note {
        uplink,
        was,
        length,
    }) = note
    {
        let length = length.map_or(String::new(), |length| format!("/{length}"));
        text += &format!(" {NOTE}{uplink}/{}{length}", u8::from(*was));
    }
    text + &last
}

impl Network {
    /// The prefix whose guests' addresses are announced.
    fn announces(&self) -> Option<Prefix6> {
        self.prefix6
            .filter(|prefix| self.is_routed() && !prefix.is_private())
    }

    /// Whether a route of the host's into which the prefix falls leaves it to guests: it is the wire's
    /// that they are announced on.
    pub(super) fn is_around(&self, route: &Route6, links: &[Link]) -> bool {
        let wire = |link: &Link| link.index == route.interface && !is_of_program(link);
        self.announces()
            .is_some_and(|prefix| route.length < prefix.length())
            && links.iter().any(wire)
    }

    /// Where the host would send what is for the prefix and for no guest.
    fn uplink(&self, kernel: &mut Netlink, prefix: Prefix6) -> Result<Option<Link>, HostError> {
        // One that nobody has: the prefix's first address is the host's, as any router's, where the prefix
        // is the first part of a wire's.
        let taken = self.hosts6()?;
        let mut last = (0..=u16::MAX).rev().map(|place| prefix.at(place));
        let free = last.find(|address| taken.iter().all(|(other, _)| other != address));
        let Way::Over { interface, .. } = kernel.way_to(free.unwrap_or(prefix.gateway()))? else {
            return Ok(None);
        };
        let mut links = kernel.links("")?.into_iter();
        let own = self.prefix();
        let other = |link: &Link| !is_of_program(link) && !link.name.starts_with(&own);
        Ok(links.find(|link| link.index == interface && link.name != "lo" && other(link)))
    }

    fn uplink_note(&self, kernel: &mut Netlink) -> Result<Option<Note>, NetlinkError> {
        Ok(self.memory(kernel)?.as_deref().and_then(note_of))
    }

    /// What of the note stays when the alias is written anew.
    pub(super) fn kept_note(&self, kernel: &mut Netlink) -> Result<String, NetlinkError> {
        Ok(with_note("", self.uplink_note(kernel)?.as_ref()))
    }

    /// The bridge's alias; `None` if it is gone, or somebody was killed before it had one.
    fn memory(&self, kernel: &mut Netlink) -> Result<Option<String>, NetlinkError> {
        Ok(kernel.link(&self.bridge)?.and_then(|bridge| bridge.alias))
    }

    /// Announces guests on the uplink that there is now, and nowhere else. What cannot be remembered is
    /// not begun.
    pub(super) fn announce(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        let (Some(prefix), Some(alias)) = (self.announces(), self.memory(kernel)?) else {
            return Ok(());
        };
        let pause = || files::pause(Path::new(&self.bridge));
        let before = self.uplink_note(kernel)?;
        let uplink = self.uplink(kernel, prefix)?;
        let same = before.as_ref().map(|note| &note.uplink) == uplink.as_ref().map(|l| &l.name);
        if !same {
            self.withdraw(kernel)?;
            let note = match &uplink {
                Some(link) => Some(self.first_note(kernel, &link.name)?),
                None => None,
            };
            kernel.set_alias(&self.bridge, &with_note(&alias, note.as_ref()))?;
            pause()?;
        }
        if let Some(uplink) = &uplink {
            // After the note: whoever puts it back looks again after writing.
            files::write_sysctl(&setting(&uplink.name), "1")?;
            pause()?;
        }
        // In this order: whoever is announced meanwhile has a lease before.
        let there = self.announced(kernel, prefix)?;
        let wanted = self.to_announce(uplink.as_ref())?;
        for (interface, address) in there.difference(&wanted) {
            kernel.answer_no_more(*interface, *address)?;
        }
        for (interface, address) in wanted.difference(&there) {
            kernel.answer_for(*interface, *address)?;
        }
        Ok(pause()?)
    }

    fn first_note(&self, kernel: &mut Netlink, uplink: &str) -> Result<Note, HostError> {
        // In this order: another that turns it on between the two has written its note before.
        let on = is_on(uplink)?;
        let others = notes(kernel, uplink, &self.bridge)?;
        Ok(Note {
            uplink: uplink.to_owned(),
            was: on && others.iter().all(|other| other.was),
            length: self.prefix6.map(Prefix6::length),
        })
    }

    /// Takes back all announcements, and the setting if nobody else needs it. The note stays.
    pub(super) fn withdraw(&self, kernel: &mut Netlink) -> Result<(), HostError> {
        let Some(prefix) = self.announces() else {
            return Ok(());
        };
        let pause = || files::pause(Path::new(&self.bridge));
        for (interface, address) in self.announced(kernel, prefix)? {
            kernel.answer_no_more(interface, address)?;
        }
        pause()?;
        if let Some(bridge) = kernel.link(&self.bridge)? {
            put_back(kernel, &bridge)?;
            pause()?;
        }
        Ok(())
    }

    /// What is announced of a prefix, wherever.
    fn announced(
        &self,
        kernel: &mut Netlink,
        prefix: Prefix6,
    ) -> Result<BTreeSet<(u32, Ipv6Addr)>, NetlinkError> {
        let all = kernel.answers6()?.into_iter();
        Ok(all
            .filter(|(_, address)| prefix.overlaps(*address, 128))
            .collect())
    }

    /// What is to be announced: addresses of all leases.
    fn to_announce(&self, uplink: Option<&Link>) -> Result<BTreeSet<(u32, Ipv6Addr)>, HostError> {
        let all = self.hosts6()?.into_iter();
        let on = uplink.map(|link| link.index);
        Ok(all
            .filter_map(|(address, _)| Some((on?, address)))
            .collect())
    }

    /// Announces a guest that is about to run.
    pub(super) fn announce_one(&self, lease: &Lease) -> Result<(), HostError> {
        let (Some(_), Some(ipv6)) = (self.announces(), &lease.ipv6) else {
            return Ok(());
        };
        let mut kernel = Netlink::open()?;
        let Some(note) = self.uplink_note(&mut kernel)? else {
            return Ok(());
        };
        if let Some(uplink) = kernel.link(&note.uplink)? {
            kernel.answer_for(uplink.index, ipv6.address)?;
        }
        Ok(())
    }

    /// The opposite, for an address that is free again.
    pub(super) fn silence(&self, lease: &Lease, now: Option<&Lease>) -> Result<(), HostError> {
        let own = |lease: &Lease| lease.ipv6.as_ref().map(|ipv6| ipv6.address);
        let gone = own(lease).filter(|address| now.and_then(own) != Some(*address));
        let (Some(prefix), Some(gone)) = (self.announces(), gone) else {
            return Ok(());
        };
        let mut kernel = Netlink::open()?;
        for (interface, address) in self.announced(&mut kernel, prefix)? {
            if address == gone {
                kernel.answer_no_more(interface, address)?;
            }
        }
        Ok(())
    }

    /// Whether all that is announced is some guest's, on the uplink that there is now, and that of all
    /// guests with an interface.
    pub(super) fn is_announced(&self, kernel: &mut Netlink) -> Result<bool, HostError> {
        let Some(prefix) = self.announces() else {
            return Ok(true);
        };
        let there = self.announced(kernel, prefix)?;
        if self.memory(kernel)?.is_none() {
            return Ok(there.is_empty());
        }
        let uplink = self.uplink(kernel, prefix)?;
        let note = self.uplink_note(kernel)?.map(|note| note.uplink);
        if note.as_ref() != uplink.as_ref().map(|link| &link.name) {
            return Ok(false);
        }
        let Some(uplink) = uplink else {
            return Ok(there.is_empty());
        };
        // After what is there: whoever is announced has a lease by then.
        let wanted = self.to_announce(Some(&uplink))?;
        let ends = kernel.links(&self.prefix())?;
        let missing = self.held_at(&ends)?.into_iter();
        let mut missing = missing.filter(|address| !there.contains(&(uplink.index, *address)));
        Ok(is_on(&uplink.name)? && there.is_subset(&wanted) && missing.next().is_none())
    }

    /// IPv6 addresses of guests whose interfaces these are.
    fn held_at(&self, ends: &[Link]) -> Result<Vec<Ipv6Addr>, HostError> {
        let Some(subnet) = self.known_subnet()? else {
            return Ok(Vec::new());
        };
        let leases = self.leases()?;
        let all = leases.by_guest.values();
        let leases = all.filter_map(|held| self.lease_held(held, subnet));
        let there = leases.filter(|l| ends.iter().any(|end| end.name == l.host_interface));
        Ok(there.filter_map(|l| Some(l.ipv6?.address)).collect())
    }

    /// The same for `doctor`: true also where nothing is to be announced.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or a file cannot be read.
    pub fn announces_right(&self) -> Result<bool, HostError> {
        self.is_announced(&mut Netlink::open()?)
    }

    /// Announces what there is to be announced, and takes back all else.
    ///
    /// # Errors
    /// When the kernel refuses, or a file cannot be read.
    pub fn announce_again(&self) -> Result<(), HostError> {
        let mut kernel = Netlink::open()?;
        let _lock = files::lock(&self.run_folder())?;
        match self.memory(&mut kernel)? {
            Some(_) => self.announce(&mut kernel),
            None => self.withdraw(&mut kernel),
        }
    }
}

/// What networks of whatever installation say of an uplink, but for one bridge.
fn notes(kernel: &mut Netlink, uplink: &str, but: &str) -> Result<Vec<Note>, NetlinkError> {
    let links = kernel.links("")?.into_iter();
    let others = links.filter(|link| link.name != but);
    let notes = others.filter_map(|link| note_of(&link.alias?));
    Ok(notes.filter(|note| note.uplink == uplink).collect())
}

/// Takes back what is announced of a bridge's prefix, of which its own address is the first after the
/// network's, and the setting.
pub(super) fn withdraw_of(kernel: &mut Netlink, bridge: &Link) -> Result<(), HostError> {
    let note = bridge.alias.as_deref().and_then(note_of);
    if let Some(length) = note.and_then(|note| note.length) {
        let own = kernel.ip_of(bridge.index, true)?;
        for (interface, address) in kernel.answers6()? {
            if own.iter().any(|own| is_beside(address, *own, length)) {
                kernel.answer_no_more(interface, address)?;
            }
        }
    }
    put_back(kernel, bridge)
}

/// Whether an address is in the prefix of this length that has the other as its first.
fn is_beside(address: Ipv6Addr, first: IpAddr, length: u8) -> bool {
    let (IpAddr::V6(first), 64..128) = (first, length) else {
        return false;
    };
    let host = u128::MAX >> length;
    first.to_bits() & host == 1 && (first.to_bits() ^ address.to_bits()) & !host == 0
}

/// Makes the setting of a bridge's uplink what it was, if nobody else needs it.
pub(super) fn put_back(kernel: &mut Netlink, bridge: &Link) -> Result<(), HostError> {
    let note = bridge.alias.as_deref().and_then(note_of);
    let Some(Note {
        uplink, was: false, ..
    }) = note
    else {
        return Ok(());
    };
    if notes(kernel, &uplink, &bridge.name)?.is_empty() && is_on(&uplink)? {
        files::write_sysctl(&setting(&uplink), "0")?;
        // Another may have found it on a moment ago.
        if !notes(kernel, &uplink, &bridge.name)?.is_empty() {
            files::write_sysctl(&setting(&uplink), "1")?;
        }
    }
    Ok(())
}

fn is_of_program(link: &Link) -> bool {
    let alias = link.alias.as_deref().unwrap_or_default();
    alias.starts_with("bulkhead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_of_a_prefix_is_known_by_the_bridges_address() {
        let is = |address: &str, own: &str| {
            is_beside(address.parse().unwrap(), own.parse().unwrap(), 80)
        };
        assert!(is("2001:db8:1:0:7::9", "2001:db8:1:0:7::1"));
        assert!(!is("2001:db8:1:0:8::9", "2001:db8:1:0:7::1"));
        assert!(!is("2001:db8:1:0:7::9", "2001:db8:1:0:7::2"));
        assert!(!is("fe80::9", "fe80::62:aff:fe09:1") && !is("::9", "10.0.0.1"));
    }

    #[test]
    fn a_bridge_remembers_its_uplink() {
        let bare = "bulkhead.shop subnet=10.9.0.0/24 forward-was=0";
        let full = format!("{bare} ipv6-was=0/eth1");
        let note = Note {
            uplink: "eth0".to_owned(),
            was: true,
            length: Some(80),
        };
        // What was written before the length was.
        let short = note_of("bulkhead ndp=eth0/0").unwrap();
        assert_eq!((short.was, short.length), (false, None));
        for alias in [bare, &full] {
            let noted = with_note(alias, Some(&note));
            assert_eq!(note_of(&noted), Some(note.clone()), "{noted}");
            assert_eq!(with_note(&noted, None), alias);
            assert_eq!(noted.ends_with("ipv6-was=0/eth1"), alias == full);
        }
        assert_eq!(with_note("", Some(&note)), " ndp=eth0/1/80");
        for foreign in [
            "ndp=eth0/1",
            "libvirt ndp=eth0/1",
            "bulkhead ndp=../1",
            bare,
        ] {
            assert_eq!(note_of(foreign), None, "{foreign}");
        }
    }
}
