//! Sets of addresses and groups of rules that guests' firewalls name: made, changed and deleted by
//! whoever runs the host, in force at once for all guests that name them. What they are in the kernel is
//! the network room's matter.

use std::collections::BTreeSet;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::networks::network;
use crate::model::{
    AddressBlock, FirewallLine, FirewallRule, GuestName, NetworkWish, ShareName, nearest,
};
use crate::network::Shared;

/// Most addresses of one set: a change writes all of them.
const MOST_ADDRESSES: usize = 16_384;
/// As many as a guest may have of its own.
const MOST_RULES: usize = 128;

/// A set of addresses, as it is shown.
#[derive(Debug, Serialize)]
pub struct SetView {
    /// Its name.
    pub name: ShareName,
    /// What is in it.
    pub addresses: Vec<AddressBlock>,
    /// Groups whose rules name it.
    pub groups: Vec<ShareName>,
    /// Guests whose own rules name it.
    pub guests: Vec<GuestName>,
}

/// A group of rules, as it is shown.
#[derive(Debug, Serialize)]
pub struct GroupView {
    /// Its name.
    pub name: ShareName,
    /// Its rules.
    pub rules: Vec<FirewallLine>,
    /// Guests that name it.
    pub guests: Vec<GuestName>,
}

/// What becomes of a set of addresses.
#[derive(Debug)]
pub enum SetChange {
    /// It is made, with these in it.
    Create(Vec<AddressBlock>),
    /// These come to it.
    Add(Vec<AddressBlock>),
    /// These go; each was in it as it is said.
    Remove(Vec<AddressBlock>),
    /// It is deleted.
    Delete,
}

/// What becomes of a group of rules.
#[derive(Debug)]
pub enum GroupChange {
    /// It is made of these.
    Create(Vec<FirewallLine>),
    /// It has these in place of its own.
    Set(Vec<FirewallLine>),
    /// It is deleted.
    Delete,
}

/// What is refused, or is not there, in words.
const SET: &str = "address set";

impl Manager {
    /// All sets of addresses.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn address_sets(&self) -> Result<Vec<SetView>> {
        let shared = self.network.shared().map_err(network)?;
        let view = |name: &ShareName| self.view_set(&shared, name);
        shared.sets.keys().map(view).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name, or a file cannot be read.
    pub fn address_set(&self, name: &ShareName) -> Result<SetView> {
        let shared = self.network.shared().map_err(network)?;
        known(SET, name, shared.sets.keys())?;
        self.view_set(&shared, name)
    }

    /// All groups of rules.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn rule_groups(&self) -> Result<Vec<GroupView>> {
        let shared = self.network.shared().map_err(network)?;
        let view = |name: &ShareName| self.view_group(&shared, name);
        shared.groups.keys().map(view).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name, or a file cannot be read.
    pub fn rule_group(&self, name: &ShareName) -> Result<GroupView> {
        let shared = self.network.shared().map_err(network)?;
        known("security group", name, shared.groups.keys())?;
        self.view_group(&shared, name)
    }

    /// Changes a set of addresses; at once for all rules that name it.
    ///
    /// # Errors
    /// It cannot be so, or the kernel refuses; nothing is changed then.
    pub fn change_address_set(
        &self,
        name: &ShareName,
        change: &SetChange,
        dry_run: bool,
    ) -> Result<()> {
        const WHAT: &str = SET;
        let lock = self.network.lock_shared().map_err(network)?;
        let mut shared = self.network.shared().map_err(network)?;
        match change {
            SetChange::Create(_) => unknown(WHAT, name, shared.sets.keys())?,
            _ => known(WHAT, name, shared.sets.keys())?,
        }
        let set = shared.sets.entry(name.clone()).or_default();
        match change {
            SetChange::Create(blocks) | SetChange::Add(blocks) => {
                set.extend(blocks);
                set.sort_unstable();
                set.dedup();
            }
            SetChange::Remove(blocks) => {
                if let Some(block) = blocks.iter().find(|block| !set.contains(block)) {
                    return Err(refused(WHAT, name, format!("{block} is not in it")));
                }
                set.retain(|block| !blocks.contains(block));
            }
            SetChange::Delete => {
                let view = self.view_set(&shared, name)?;
                let mut users: Vec<String> = view.guests.iter().map(ToString::to_string).collect();
                users.extend(view.groups.iter().map(|group| format!("group {group}")));
                free(WHAT, name, &users)?;
                shared.sets.remove(name);
            }
        }
        if shared.sets.get(name).map_or(0, Vec::len) > MOST_ADDRESSES {
            let why = format!("more than {MOST_ADDRESSES} addresses do not fit into it");
            return Err(refused(WHAT, name, why));
        }
        match dry_run {
            true => Ok(()),
            false => self.network.share(&lock, &shared).map_err(network),
        }
    }

    /// Changes a group of rules; at once for all guests that name it, all in one.
    ///
    /// # Errors
    /// It cannot be so, or the kernel refuses; nothing is changed then.
    pub fn change_rule_group(
        &self,
        name: &ShareName,
        change: &GroupChange,
        dry_run: bool,
    ) -> Result<()> {
        const WHAT: &str = "security group";
        let lock = self.network.lock_shared().map_err(network)?;
        let mut shared = self.network.shared().map_err(network)?;
        match change {
            GroupChange::Create(_) => unknown(WHAT, name, shared.groups.keys())?,
            _ => known(WHAT, name, shared.groups.keys())?,
        }
        match change {
            GroupChange::Create(lines) | GroupChange::Set(lines) => {
                let nested = |line: &&FirewallLine| matches!(line, FirewallLine::Group(_));
                if let Some(line) = lines.iter().find(nested) {
                    let why = format!(
                        "a group has rules of its own only, not {line:?}",
                        line = line.to_string()
                    );
                    return Err(refused(WHAT, name, why));
                }
                if lines.len() > MOST_RULES {
                    let why = format!("more than {MOST_RULES} rules: every packet meets them all");
                    return Err(refused(WHAT, name, why));
                }
                let missing = shared.check(lines);
                missing.map_err(|why| refused(WHAT, name, why))?;
                shared.groups.insert(name.clone(), lines.clone());
            }
            GroupChange::Delete => {
                let users = self.view_group(&shared, name)?.guests;
                let users: Vec<String> = users.iter().map(ToString::to_string).collect();
                free(WHAT, name, &users)?;
                shared.groups.remove(name);
            }
        }
        match dry_run {
            true => Ok(()),
            false => self.network.share(&lock, &shared).map_err(network),
        }
    }

    fn view_set(&self, shared: &Shared, name: &ShareName) -> Result<SetView> {
        let names = |line: &FirewallLine| line.rule().and_then(FirewallRule::set) == Some(name);
        Ok(SetView {
            name: name.clone(),
            addresses: shared.sets.get(name).cloned().unwrap_or_default(),
            groups: shared.groups_with(name).into_iter().cloned().collect(),
            guests: self.guests_with(names)?,
        })
    }

    fn view_group(&self, shared: &Shared, name: &ShareName) -> Result<GroupView> {
        let names = |line: &FirewallLine| matches!(line, FirewallLine::Group(one) if one == name);
        Ok(GroupView {
            name: name.clone(),
            rules: shared.groups.get(name).cloned().unwrap_or_default(),
            guests: self.guests_with(names)?,
        })
    }

    /// Guests with such a line, by their definitions or by what they are held to.
    fn guests_with(&self, fits: impl Fn(&FirewallLine) -> bool) -> Result<Vec<GuestName>> {
        let profiles = self.profiles()?;
        let mut all = BTreeSet::new();
        for guest in self.names()? {
            let text = self.definition_text(&guest);
            let defined = text.and_then(|text| self.define_by(&guest, &text, &profiles));
            if defined.is_ok_and(|defined| lines(&defined.network).any(&fits)) {
                all.insert(guest);
            }
        }
        for one in self.networks()? {
            all.extend(one.guests_with(&fits).map_err(network)?);
        }
        Ok(all.into_iter().collect())
    }
}

/// The firewall's lines of all interfaces of a guest.
fn lines(wish: &NetworkWish) -> impl Iterator<Item = &FirewallLine> {
    let nics = wish.nics.iter().flat_map(|nic| &nic.firewall);
    wish.firewall.iter().chain(nics)
}

fn refused(what: &'static str, name: &ShareName, why: String) -> GuestError {
    GuestError::Host {
        key: what,
        what: name.to_string(),
        why,
    }
}

fn known<'a>(
    what: &'static str,
    name: &ShareName,
    mut all: impl Iterator<Item = &'a ShareName> + Clone,
) -> Result<()> {
    let near = nearest(name.as_str(), all.clone().map(ShareName::as_str));
    match (all.any(|one| one == name), near) {
        (true, _) => Ok(()),
        (false, Some(near)) => Err(refused(
            what,
            name,
            format!("there is none of that name: did you mean {near}?"),
        )),
        (false, None) => Err(refused(what, name, "there is none of that name".to_owned())),
    }
}

fn unknown<'a>(
    what: &'static str,
    name: &ShareName,
    mut all: impl Iterator<Item = &'a ShareName>,
) -> Result<()> {
    match all.any(|one| one == name) {
        true => {
            let change = match what {
                SET => "addrset add",
                _ => "secgroup set",
            };
            let why = format!(
                "there is one of that name already; `bulkhead {change} {name} …` changes it"
            );
            Err(refused(what, name, why))
        }
        false => Ok(()),
    }
}

/// Refuses while somebody names it.
fn free(what: &'static str, name: &ShareName, users: &[String]) -> Result<()> {
    match users.is_empty() {
        true => Ok(()),
        false => {
            let why = format!("rules of {} name it: change those first", users.join(", "));
            Err(refused(what, name, why))
        }
    }
}
