//! What an interface of the host's is, whatever a guest's root has made of it meanwhile, and what that
//! root can change: to know it again, and to make it what it was.

use std::collections::BTreeMap;
use std::path::Path;

use netlink_packet_core::NLM_F_DUMP;
use serde::{Deserialize, Serialize};

use super::netlink::{Link, Netlink, NetlinkError, errno};
use super::netlink_link::{Message, UP, ended, link_of, number};
use super::netlink_nft::{attribute, inside, nest};
use super::netlink_socket::Refusal;

/// Attributes that are set as they are told.
const CHANGEABLE: [u16; 11] = [
    number::ADDRESS,
    number::BROADCAST,
    number::MTU,
    number::QUEUE,
    number::MODE,
    number::GROUP,
    number::GSO_SEGMENTS,
    number::GSO_SIZE,
    number::GRO_SIZE,
    number::GSO_SIZE4,
    number::GRO_SIZE4,
];

/// Flags of netdevice(7) that can be set: up, debug, no ARP, promiscuous, all multicast, multicast,
/// dynamic.
const FLAGS: u32 = UP | 1 << 2 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 12 | 1 << 15;

/// What nobody can change of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Kind, such as `veth`; `None` for most hardware.
    pub kind: Option<String>,
    /// The hardware address that it was made with; empty if that is made by chance.
    pub permanent: Vec<u8>,
    /// Bus and name of the device that it is of (Linux 5.14).
    pub parent: Option<(String, String)>,
}

impl Identity {
    /// Whether there is only one of it.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        !self.permanent.is_empty() && (self.kind.is_none() || self.parent.is_some())
    }

    /// Whether it cannot come back once its namespace has ended: the kernel takes what is no card along,
    /// and a card that was pulled out of the machine is in none.
    #[must_use]
    pub fn is_mortal(&self) -> bool {
        match &self.parent {
            None => self.kind.is_some(),
            Some((bus, name)) => {
                let devices = Path::new("/sys/bus").join(bus).join("devices");
                devices.exists() && !devices.join(name).exists()
            }
        }
    }
}

/// What whoever has an interface can change of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    flags: u32,
    alias: Vec<u8>,
    /// Names beside its name.
    names: Vec<Vec<u8>>,
    /// By their numbers: hardware address, MTU and the like, as the kernel tells them.
    attributes: BTreeMap<u16, Vec<u8>>,
}

/// An interface with both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What is known of any.
    pub link: Link,
    /// What nobody can change.
    pub identity: Identity,
    /// What its owner can.
    pub settings: Settings,
    /// Number of the interface that it stands on, if that is in the same namespace: of a VLAN for
    /// example; or of the other end of a pair.
    pub below: Option<u32>,
    /// The same if that is in another namespace: its number there.
    pub outside: Option<u32>,
}

impl Netlink {
    /// The interface of a number, or `None`.
    ///
    /// # Errors
    /// Whatever the kernel says but that there is none.
    pub fn card(&mut self, index: u32) -> Result<Option<Card>, NetlinkError> {
        match self.kernel.ask(Message::question(index, Vec::new()), 0) {
            Ok(answers) => Ok(answers.iter().find_map(card_of)),
            Err(e) if errno(&e) == libc::ENODEV => Ok(None),
            Err(e) => Err(NetlinkError::new(
                "look up the interface",
                &index.to_string(),
                e,
            )),
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cards(&mut self) -> Result<Vec<Card>, NetlinkError> {
        let all = self
            .kernel
            .ask(Message::question(0, Vec::new()), NLM_F_DUMP);
        let all = all.map_err(|e| NetlinkError::new("list", "the interfaces", e))?;
        Ok(all.iter().filter_map(card_of).collect())
    }

    /// Gives an interface its name and makes it what it was. All is tried; the first error is returned.
    ///
    /// # Errors
    /// When it is gone, something else has the name, or the kernel refuses.
    pub fn restore(&mut self, now: &Card, name: &str, was: &Settings) -> Result<(), NetlinkError> {
        let index = now.link.index;
        let refused = |verb| move |e: Refusal| NetlinkError::new(verb, name, e);
        // A further name may be the one that it is to have.
        let mut done = self.keep_names(now, &was.names);
        if now.link.name != name {
            done = done.and(self.rename(index, name));
        }
        let differs = |(kind, _): &(&u16, &Vec<u8>)| {
            now.settings.attributes.get(kind) != was.attributes.get(kind)
        };
        let up = now.settings.flags & UP != 0;
        if up && was.attributes.iter().any(|one| differs(&one)) {
            // Many drivers change a hardware address only while it is down; its flags are set below.
            let mut down = Message::change(index, Vec::new());
            (down.flags, down.change) = (0, UP);
            done = done.and(self.change(down).map_err(refused("take down")));
        }
        for (kind, value) in was.attributes.iter().filter(differs) {
            let set = self.change(Message::change(index, attribute(*kind, value)));
            done = done.and(set.map_err(refused("set back the settings of")));
        }
        if now.settings.alias != was.alias {
            let alias = attribute(number::ALIAS, &was.alias);
            let set = self.change(Message::change(index, alias));
            done = done.and(set.map_err(refused("set back the alias of")));
        }
        let had = &now.settings.names;
        let missing = was.names.iter().filter(|name| !had.contains(name));
        let missing: Vec<&[u8]> = missing.map(Vec::as_slice).collect();
        let named = self.names(number::NEW_NAMES, index, &missing);
        done = done.and(named.map_err(refused("give back the further names of")));
        let mut flags = Message::change(index, Vec::new());
        (flags.flags, flags.change) = (was.flags, FLAGS);
        let set = self.change(flags);
        done.and(set.map_err(refused("set back the flags of")))
    }

    /// Takes all further names from an interface but these: one that something else has where it goes
    /// would keep it from going there.
    pub(super) fn keep_names(&mut self, of: &Card, kept: &[Vec<u8>]) -> Result<(), NetlinkError> {
        let strange = of.settings.names.iter().filter(|name| !kept.contains(name));
        let strange: Vec<&[u8]> = strange.map(Vec::as_slice).collect();
        let gone = self.names(number::DELETE_NAMES, of.link.index, &strange);
        gone.map_err(|e| {
            let number = of.link.index.to_string();
            NetlinkError::new("take the further names from the interface", &number, e)
        })
    }

    fn names(&mut self, verb: u16, index: u32, names: &[&[u8]]) -> Result<(), Refusal> {
        for some in names.chunks(NAMES_AT_ONCE) {
            let one = |name: &&[u8]| attribute(number::FURTHER_NAME, &[name, &[0][..]].concat());
            let list = some.iter().flat_map(one).collect();
            let mut message = Message::change(index, nest(number::NAMES, list));
            message.kind = verb;
            self.change(message)?;
        }
        Ok(())
    }

    fn change(&mut self, message: Message) -> Result<(), Refusal> {
        self.kernel.ask(message, 0).map(drop)
    }
}

/// Further names in one message; each has at most 127 bytes.
const NAMES_AT_ONCE: usize = 100;

impl Settings {
    /// Names beside its name.
    #[must_use]
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }
}

fn card_of(answer: &Message) -> Option<Card> {
    let link = link_of(answer)?;
    let bytes = |kind| answer.first(kind).map(<[u8]>::to_vec);
    let parent = answer.text(number::PARENT);
    let names = answer.first(number::NAMES).unwrap_or_default();
    let names = inside(names, number::FURTHER_NAME);
    let elsewhere = answer.first(number::ELSEWHERE).is_some();
    let attributes = CHANGEABLE
        .iter()
        .filter_map(|kind| Some((*kind, bytes(*kind)?)));
    Some(Card {
        identity: Identity {
            kind: link.kind.clone(),
            permanent: bytes(number::PERMANENT).unwrap_or_default(),
            parent: parent.map(|name| (answer.text(number::PARENT_BUS).unwrap_or_default(), name)),
        },
        settings: Settings {
            flags: answer.flags & FLAGS,
            alias: answer
                .first(number::ALIAS)
                .map_or(Vec::new(), |alias| ended(alias).to_vec()),
            names: names.into_iter().map(|name| ended(name).to_vec()).collect(),
            attributes: attributes.collect(),
        },
        below: answer.number(number::BELOW).filter(|_| !elsewhere),
        outside: answer.number(number::BELOW).filter(|_| elsewhere),
        link,
    })
}
