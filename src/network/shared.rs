//! What guests' firewalls share: sets of addresses and groups of rules, of one installation. The book of
//! them is `firewall/shared.json`, changed under the lock beside it. Where rules name a set, the kernel
//! has one in the table of that network; the rules of a group are in the chains of each guest that names
//! it. A change is written first, and then made in the tables of all networks by one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::files::{self, FileError, Locked};
use super::firewall;
use super::host::HostError;
use super::{LeaseError, Network};
use crate::model::{AddressBlock, FirewallLine, FirewallRule, GuestName, ShareName, nearest};

/// What is shared, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Sets of addresses.
    #[serde(default)]
    pub sets: BTreeMap<ShareName, Vec<AddressBlock>>,
    /// Groups of rules.
    #[serde(default)]
    pub groups: BTreeMap<ShareName, Vec<FirewallLine>>,
}

/// A rule, and whose line it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) rule: FirewallRule,
    /// The group that it is of; the guest's own if `None`.
    pub(super) group: Option<ShareName>,
    /// Its place there, from one.
    pub(super) number: usize,
}

impl Shared {
    /// What a set holds; nothing, if there is none.
    pub(super) fn addresses(&self, name: &ShareName) -> &[AddressBlock] {
        self.sets.get(name).map_or(&[], Vec::as_slice)
    }

    /// What a guest's lines come to: groups in their places, and last of all for each direction the
    /// policy that was said last. A group that is gone lets nothing pass.
    pub(super) fn lines(&self, lines: &[FirewallLine]) -> Vec<Line> {
        let mut all = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            let own = |line: &FirewallLine| (line.clone(), None, at + 1);
            match line {
                FirewallLine::Group(name) => match self.groups.get(name) {
                    Some(lines) => all.extend(
                        lines
                            .iter()
                            .enumerate()
                            .map(|(at, line)| (line.clone(), Some(name.clone()), at + 1)),
                    ),
                    None => all.extend([true, false].map(|incoming| {
                        let nothing = FirewallRule::for_all(incoming, false);
                        own(&FirewallLine::Rule(nothing))
                    })),
                },
                line => all.push(own(line)),
            }
        }
        let mut rules = Vec::new();
        let mut policies = BTreeMap::new();
        for (line, group, number) in all {
            let of = |rule| Line {
                rule,
                group,
                number,
            };
            match line {
                FirewallLine::Rule(rule) => rules.push(of(rule)),
                FirewallLine::Policy(rule) => {
                    policies.insert(rule.incoming, of(rule));
                }
                FirewallLine::Group(_) => {}
            }
        }
        rules.extend(policies.into_values());
        rules
    }

    /// Names in lines that nothing has: what they are, and the nearest that is there.
    fn unknown(&self, lines: &[FirewallLine]) -> Option<(&'static str, ShareName, Option<String>)> {
        let near =
            |name: &ShareName, known: Vec<&str>| nearest(name.as_str(), known).map(str::to_owned);
        for line in lines {
            if let FirewallLine::Group(name) = line
                && !self.groups.contains_key(name)
            {
                let known = self.groups.keys().map(ShareName::as_str).collect();
                return Some(("group of rules", name.clone(), near(name, known)));
            }
            if let Some(name) = line.rule().and_then(FirewallRule::set)
                && !self.sets.contains_key(name)
            {
                let known = self.sets.keys().map(ShareName::as_str).collect();
                return Some(("set of addresses", name.clone(), near(name, known)));
            }
        }
        None
    }

    /// Refuses lines with a name that nothing has; the message says what would make it.
    ///
    /// # Errors
    /// There is no set or group of a name.
    pub fn check(&self, lines: &[FirewallLine]) -> Result<(), String> {
        let Some((what, name, near)) = self.unknown(lines) else {
            return Ok(());
        };
        let verb = match what {
            "set of addresses" => "addrset",
            _ => "secgroup",
        };
        Err(match near {
            Some(near) => format!("there is no {what} {name}: did you mean {near}?"),
            None => format!("there is no {what} {name}: `bulkhead {verb} create {name}` makes it"),
        })
    }

    /// Groups that name a set.
    #[must_use]
    pub fn groups_with(&self, set: &ShareName) -> Vec<&ShareName> {
        let names = |lines: &[FirewallLine]| {
            let mut rules = lines.iter().filter_map(FirewallLine::rule);
            rules.any(|rule| rule.set() == Some(set))
        };
        let all = self.groups.iter();
        all.filter(|(_, lines)| names(lines))
            .map(|(name, _)| name)
            .collect()
    }
}

/// The lock of the book, held.
#[derive(Debug)]
pub struct SharedLock {
    _held: Locked,
}

/// All of these are methods of the network that is always there, but for what says otherwise.
impl Network {
    /// What is shared. Of any network.
    ///
    /// # Errors
    /// When the book cannot be read.
    pub fn shared(&self) -> Result<Shared, FileError> {
        Ok(files::read(&self.shared_file())?.unwrap_or_default())
    }

    /// Waits for the lock of the book.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn lock_shared(&self) -> Result<SharedLock, FileError> {
        let folder = self.layout.var().join("firewall");
        Ok(SharedLock {
            _held: files::lock(&folder)?,
        })
    }

    /// Writes the book, and makes the tables of all networks what it says then, by one transaction. When
    /// that is refused the book is what it was.
    ///
    /// # Errors
    /// When a file cannot be written, or the kernel or `nft` refuses.
    pub fn share(&self, _lock: &SharedLock, shared: &Shared) -> Result<(), HostError> {
        let before = self.shared()?;
        let file = self.shared_file();
        files::write(&file, shared)?;
        let done = files::pause(&file).map_err(HostError::from);
        let done = done.and_then(|()| self.share_as_written());
        if done.is_err() {
            files::write(&file, &before)?;
        }
        done
    }

    fn share_as_written(&self) -> Result<(), HostError> {
        let mut networks = vec![self.clone()];
        networks.extend(self.others()?);
        let mut all: Vec<Value> = Vec::new();
        // Held until all is in force: whoever starts a guest meanwhile waits.
        let mut books = Vec::new();
        for one in &networks {
            books.push(one.lock_book()?);
            all.extend(one.wall_commands(false)?);
        }
        if all.is_empty() {
            return Ok(());
        }
        match firewall::apply(&self.table, &json!({ "nftables": all })) {
            Err(error) => Err(networks
                .iter()
                .find_map(|one| one.blamed(&error))
                .unwrap_or(error)
                .into()),
            Ok(()) => Ok(files::pause(Path::new(&self.table))?),
        }
    }

    /// Refuses a guest's lines with a name that nothing has. Of any network.
    pub(super) fn check_shared(
        &self,
        guest: &GuestName,
        lines: &[FirewallLine],
    ) -> Result<(), LeaseError> {
        let named = |line: &FirewallLine| match line {
            FirewallLine::Group(_) => true,
            line => line.rule().and_then(FirewallRule::set).is_some(),
        };
        if !lines.iter().any(named) {
            return Ok(());
        }
        self.shared()?
            .check(lines)
            .map_err(|why| LeaseError::NotShared {
                guest: guest.clone(),
                why,
            })
    }

    /// Guests that are held to such a line, of any network.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn guests_with(
        &self,
        fits: impl Fn(&FirewallLine) -> bool,
    ) -> Result<Vec<GuestName>, FileError> {
        let leases = self.leases()?;
        let all = leases.walls();
        Ok(all
            .filter(|(_, held)| held.rules.iter().any(&fits))
            .map(|(guest, _)| guest.clone())
            .collect())
    }

    fn shared_file(&self) -> PathBuf {
        self.layout.var().join("firewall/shared.json")
    }
}

/// Sets that these lines name.
pub(super) fn sets_of<'a>(lines: impl Iterator<Item = &'a Line>) -> BTreeSet<ShareName> {
    lines.filter_map(|line| line.rule.set().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<FirewallLine> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn shared() -> Shared {
        let web = lines(&["in accept tcp 80,443", "in policy drop"]);
        Shared {
            sets: BTreeMap::from([("office".parse().unwrap(), Vec::new())]),
            groups: BTreeMap::from([("web".parse().unwrap(), web)]),
        }
    }

    #[test]
    fn groups_are_in_their_places_and_the_last_policy_is_last() {
        let of = |texts: &[&str]| -> Vec<String> {
            let all = shared().lines(&lines(texts));
            all.iter()
                .map(|line| {
                    let group = line.group.as_ref().map_or("", ShareName::as_str);
                    format!("{group} {} {}", line.number, line.rule)
                })
                .collect()
        };
        assert_eq!(
            of(&["in accept tcp 22", "group web", "in drop tcp 9"]),
            [
                " 1 in accept tcp 22",
                "web 1 in accept tcp 80,443",
                " 3 in drop tcp 9",
                "web 2 in drop"
            ]
        );
        assert_eq!(
            of(&["group web", "out policy drop", "in policy accept"]),
            ["web 1 in accept tcp 80,443", " 2 out drop", " 3 in accept"]
        );
        assert_eq!(of(&["group gone"]), [" 1 in drop", " 1 out drop"]);
    }

    #[test]
    fn names_that_nothing_has_are_refused() {
        for (line, why) in [
            ("group wep", "did you mean web"),
            ("group mail", "secgroup create mail"),
            ("in drop from @offices", "did you mean office"),
            ("in drop from @x", "addrset create x"),
        ] {
            let error = shared().check(&lines(&[line])).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let known = ["group web", "in drop", "out drop to @office"];
        shared().check(&lines(&known)).unwrap();
    }
}
