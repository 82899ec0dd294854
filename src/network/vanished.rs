//! Bridges and firewall tables of installations whose folder is gone: nobody can ask those for them any
//! more. A bridge's alias has the folder (`root=/srv/test`), from which its name and those of its tables
//! follow, so one that says what is not so is left alone; and so is one that guests are on.

use std::fmt;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

use super::firewall;
use super::host::{HostError, stop_forwarding};
use super::{Network, announce, files, passage};
use crate::kernel::netlink::{Link, Netlink};
use crate::kernel::netlink_nft::Family;
use crate::model::{Layout, NetworkName};

/// In a bridge's alias, before the folder.
const ROOT: &str = " root=";
/// What an alias has room for, and what of that the note of the uplink may take (`announce.rs`).
const ROOM: usize = 255;
const KEPT: usize = 28;

/// A bridge that nobody has any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vanished {
    bridge: String,
    root: PathBuf,
}

impl fmt::Display for Vanished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.bridge, self.root.display())
    }
}

/// Whose a bridge says it is.
struct Owner {
    layout: Layout,
    /// The network's name; `None` for the one that is always there.
    name: Option<NetworkName>,
}

impl Owner {
    /// What the alias says, if its parts belong together.
    fn of(alias: &str) -> Option<Self> {
        let table = alias.split(' ').next()?;
        let root = alias.split_once(ROOT)?.1.split(' ').next()?;
        let layout = Layout::new(Path::new(root));
        let owner = Self {
            name: name_in(&layout, table)?,
            layout,
        };
        (root.starts_with('/') && root != "/" && owner.table() == table).then_some(owner)
    }

    fn table(&self) -> String {
        match &self.name {
            Some(name) => self.layout.network_table(name),
            None => self.layout.kernel_name(),
        }
    }

    /// How names of its guests' interfaces go on behind `bh`.
    fn tag(&self) -> String {
        match &self.name {
            Some(name) => self.layout.network_tag(name),
            None => self.layout.tag().to_owned(),
        }
    }

    fn is_gone(&self) -> bool {
        let there = std::fs::symlink_metadata(self.layout.root());
        there.is_err_and(|error| error.kind() == NotFound)
    }

    /// Whether guests have interfaces there.
    fn has_guests(&self, links: &[Link]) -> bool {
        let ends = format!("bh{}", self.tag());
        links.iter().any(|link| link.name.starts_with(&ends))
    }
}

/// The network of an installation that a table is of: `None` is none, and none of it the one that is
/// always there.
fn name_in(layout: &Layout, table: &str) -> Option<Option<NetworkName>> {
    let rest = table.strip_prefix(&layout.kernel_name())?;
    match rest.strip_prefix('.') {
        Some(name) => name.trim_end_matches(".guard").parse().ok().map(Some),
        None => rest.is_empty().then_some(None),
    }
}

/// A bridge whose installation is gone, with whose it was, if nothing is on it but its own wire.
fn vanished(link: &Link, links: &[Link]) -> Option<Owner> {
    let owner = Owner::of(link.alias.as_deref()?)?;
    let wire = format!("vx-{}", owner.tag());
    let used = |other: &Link| other.master == Some(link.index) && other.name != wire;
    let free = !links.iter().any(used) && !owner.has_guests(links);
    (link.kind.as_deref() == Some("bridge") && free && owner.is_gone()).then_some(owner)
}

impl Network {
    /// What the bridge's alias says of the folder, if there is room for it beside all else.
    pub(super) fn root_note(&self, beside: usize) -> String {
        let text = self.layout.root().to_str().unwrap_or_default();
        let plain =
            text.starts_with('/') && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        let note = format!("{ROOT}{text}");
        match plain && text != "/" && beside + KEPT + note.len() <= ROOM {
            true => note,
            false => String::new(),
        }
    }

    /// Bridges of installations whose folder is gone, whichever those were.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn vanished(&self) -> Result<Vec<Vanished>, HostError> {
        let links = Netlink::open()?.links("")?;
        let all = links.iter().filter_map(|link| {
            let owner = vanished(link, &links)?;
            Some(Vanished {
                bridge: link.name.clone(),
                root: owner.layout.root().to_owned(),
            })
        });
        Ok(all.collect())
    }

    /// Removes one with its tables, and puts back what it was the last to need. It is looked at once
    /// more; the bridge goes last, since it tells of all else.
    ///
    /// # Errors
    /// When the kernel or `nft` refuses.
    pub fn remove_vanished(&self, gone: &Vanished) -> Result<(), HostError> {
        let mut kernel = Netlink::open()?;
        let links = kernel.links("")?;
        let bridge = links.iter().find(|link| link.name == gone.bridge);
        let Some((bridge, owner)) = bridge.and_then(|b| Some((b, vanished(b, &links)?))) else {
            return Ok(());
        };
        let pause = || files::pause(Path::new(&gone.bridge));
        let tables = tables_of(&owner, bridge, &links)?;
        let names: Vec<&str> = tables.iter().map(|(_, table)| table.as_str()).collect();
        passage::close(&names)?;
        pause()?;
        for (family, table) in tables {
            firewall::delete(family, &table)?;
            pause()?;
        }
        kernel.delete_link(&format!("vx-{}", owner.tag()))?;
        pause()?;
        if owner.name.is_none() {
            // What its tenants' guests shared.
            let shared = format!("bt{}", owner.tag());
            for link in kernel.links(&shared)? {
                kernel.delete_link(&link.name)?;
                pause()?;
            }
        }
        announce::withdraw_of(&mut kernel, bridge)?;
        pause()?;
        kernel.delete_link(&bridge.name)?;
        pause()?;
        Self::stop_forwarding6(&mut kernel, bridge)?;
        if super::bridge::has_turned_on(bridge) {
            stop_forwarding(&mut kernel)?;
        }
        Ok(())
    }
}

/// Tables that go with a bridge: its own, and those of networks of the same installation that have no
/// bridge of their own and no guests.
fn tables_of(
    owner: &Owner,
    bridge: &Link,
    links: &[Link],
) -> Result<Vec<(Family, String)>, HostError> {
    let list = firewall::read()?;
    let all = list["nftables"].as_array().into_iter().flatten();
    let mut gone = Vec::new();
    for table in all.map(|one| &one["table"]) {
        let family = match table["family"].as_str() {
            Some("inet") => Family::Inet,
            Some("bridge") => Family::Bridge,
            _ => continue,
        };
        let text = table["name"].as_str().unwrap_or_default();
        let Some(name) = name_in(&owner.layout, text) else {
            continue;
        };
        let of = Owner {
            layout: owner.layout.clone(),
            name,
        };
        let has = |link: &Link| {
            let other = link.alias.as_deref().and_then(Owner::of);
            link.name != bridge.name && other.is_some_and(|other| other.table() == of.table())
        };
        if !of.has_guests(links) && !links.iter().any(has) {
            gone.push((family, text.to_owned()));
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_alias_whose_parts_belong_together_tells_whose_a_bridge_is() {
        let layout = Layout::new(Path::new("/srv/gone"));
        let lan: NetworkName = "lan".parse().unwrap();
        let rest = "subnet=10.9.0.0/24 forward-was=0 root=/srv/gone ipv6-was=0/eth0";
        for (table, name) in [
            (layout.kernel_name(), None),
            (layout.network_table(&lan), Some(&lan)),
        ] {
            let owner = Owner::of(&format!("{table} {rest}")).unwrap();
            assert_eq!((owner.table(), owner.name.as_ref()), (table, name));
            assert!(owner.is_gone());
        }
        for alias in [
            "bulkhead-00000000 subnet=10.9.0.0/24 forward-was=0 root=/srv/gone".to_owned(),
            format!("{} subnet=10.9.0.0/24 forward-was=0", layout.kernel_name()),
            "bulkhead subnet=10.9.0.0/24 forward-was=0 root=/".to_owned(),
            format!("virbr {rest}"),
        ] {
            assert!(Owner::of(&alias).is_none(), "{alias}");
        }
        let guard = format!("{}.guard", layout.network_table(&lan));
        assert_eq!(name_in(&layout, &guard), Some(Some(lan)));
    }
}
