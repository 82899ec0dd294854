//! Rules of a guest's firewall, as people write them: `in accept tcp 80,443`, `in drop`,
//! `out drop tcp 25`, `in accept new tcp 22 from 192.0.2.0/24 log`, `in accept from @office`. What
//! makes them so is the network room's firewall; what else a line of one can be, `firewall_line`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::{AddressBlock, ShareName};

/// Most ports and ranges of one rule.
const MOST_RANGES: usize = 16;

/// Text that is no rule; the message says what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a firewall rule: {why}; write in or out, accept or drop, then if wanted new, established or invalid, tcp, udp or icmp, ports such as 80,443 or 8000-8010, from or to ADDRESS[/BITS] or @SET, log"
)]
pub struct RuleError {
    text: String,
    why: String,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleProtocol {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
    /// icmp(7)
    Icmp,
}

impl RuleProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// As people and `nft` write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// How what a rule is about stands to what was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleState {
    /// It begins something.
    New,
    /// It belongs to something that was let begin; without such a rule it passes.
    Established,
    /// It belongs to nothing and begins nothing.
    Invalid,
}

impl RuleState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::New, Self::Established, Self::Invalid];

    /// As people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Established => "established",
            Self::Invalid => "invalid",
        }
    }
}

/// The other end of what a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// These addresses.
    Block(AddressBlock),
    /// Those that a set has at that moment.
    Set(ShareName),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => block.fmt(f),
            Self::Set(name) => write!(f, "@{name}"),
        }
    }
}

/// One rule: the first that fits a new connection decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirewallRule {
    /// Whether it is for what comes to the guest; else for what it sends.
    pub incoming: bool,
    /// Whether what fits passes.
    pub accept: bool,
    /// How it stands to what was there before; whatever does not belong to that if `None`.
    pub state: Option<RuleState>,
    /// What runs over it; anything if `None`.
    pub protocol: Option<RuleProtocol>,
    /// First and last of the ports of who is called; all if empty.
    pub ports: Vec<(u16, u16)>,
    /// The other end; anybody if `None`.
    pub peer: Option<Peer>,
    /// Whether it is written to the kernel's log.
    pub log: bool,
}

impl FirewallRule {
    /// One about everything of a direction.
    #[must_use]
    pub fn for_all(incoming: bool, accept: bool) -> Self {
        Self {
            incoming,
            accept,
            state: None,
            protocol: None,
            ports: Vec::new(),
            peer: None,
            log: false,
        }
    }

    /// Whether it is about everything of its direction.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.protocol.is_none()
            && self.ports.is_empty()
            && self.peer.is_none()
            && self.state.is_none()
    }

    /// The set of addresses that it names.
    #[must_use]
    pub fn set(&self) -> Option<&ShareName> {
        match &self.peer {
            Some(Peer::Set(name)) => Some(name),
            _ => None,
        }
    }
}

impl FromStr for FirewallRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = |why: &str| RuleError {
            text: text.chars().take(80).collect(),
            why: why.to_owned(),
        };
        let mut words = text.split_ascii_whitespace().peekable();
        let incoming = match words.next() {
            Some("in") => true,
            Some("out") => false,
            _ => return Err(wrong("it begins with in or out")),
        };
        let accept = match words.next() {
            Some("accept") => true,
            Some("drop") => false,
            _ => return Err(wrong("the second word is accept or drop")),
        };
        let mut rule = Self::for_all(incoming, accept);
        let state = |word: &&str| RuleState::ALL.into_iter().find(|one| one.name() == *word);
        rule.state = words.peek().and_then(state);
        if rule.state.is_some() {
            words.next();
        }
        let named = |word: &&str| {
            RuleProtocol::ALL
                .into_iter()
                .find(|one| one.name() == *word)
        };
        rule.protocol = words.peek().and_then(named);
        if rule.protocol.is_some() {
            words.next();
        }
        if matches!(rule.protocol, Some(RuleProtocol::Tcp | RuleProtocol::Udp))
            && let Some(list) = words.next_if(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        {
            rule.ports = ports(list).map_err(|why| wrong(&why))?;
        }
        let other = if incoming { "from" } else { "to" };
        if words.next_if_eq(&other).is_some() {
            let peer = peer(words.next().unwrap_or_default());
            rule.peer = Some(peer.map_err(|why| wrong(&format!("the other end {why}")))?);
        }
        rule.log = words.next_if_eq(&"log").is_some();
        match words.next() {
            None => Ok(rule),
            Some(_) => Err(wrong("there is a word too many, or in the wrong place")),
        }
    }
}

fn ports(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        let port = plain.then(|| text.parse::<u16>().ok()).flatten();
        port.filter(|port| *port > 0)
            .ok_or_else(|| format!("its ports are from 1 to 65535, not {text:?}"))
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first)?, port(last)?) {
            (first, last) if first <= last => Ok((first, last)),
            (first, last) => Err(format!(
                "its ports {first}-{last} end before they begin: write {last}-{first}"
            )),
        }
    };
    let mut all = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
    all.sort_unstable();
    if let Some(two) = all.windows(2).find(|two| two[0].1 >= two[1].0) {
        return Err(format!(
            "its ports have {} twice: write each once",
            two[1].0
        ));
    }
    match all.len() <= MOST_RANGES {
        true => Ok(all),
        false => Err(format!(
            "its ports are {} and ranges of them, and {MOST_RANGES} are the most: make two rules of it",
            all.len()
        )),
    }
}

fn peer(text: &str) -> Result<Peer, String> {
    match text.strip_prefix('@') {
        Some(name) => name
            .parse()
            .map(Peer::Set)
            .map_err(|_| format!("is no address or @SET: {name:?} cannot name a set")),
        None => match text.parse::<AddressBlock>() {
            Ok(block) => Ok(Peer::Block(block)),
            Err(error) if text.ends_with("/0") => Err(format!(
                "is no address or @SET: {error}; a rule without it is for everybody"
            )),
            Err(error) => Err(format!("is no address or @SET: {error}")),
        },
    }
}

impl fmt::Display for FirewallRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.incoming { "in" } else { "out" })?;
        f.write_str(if self.accept { " accept" } else { " drop" })?;
        if let Some(state) = self.state {
            write!(f, " {}", state.name())?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, " {}", protocol.name())?;
        }
        for (at, (first, last)) in self.ports.iter().enumerate() {
            f.write_str(if at == 0 { " " } else { "," })?;
            write!(f, "{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        if let Some(peer) = &self.peer {
            write!(f, " {} {peer}", if self.incoming { "from" } else { "to" })?;
        }
        f.write_str(if self.log { " log" } else { "" })
    }
}

impl Serialize for FirewallRule {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FirewallRule {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        for (text, again) in [
            ("in drop", "in drop"),
            ("in accept tcp 80,443", "in accept tcp 80,443"),
            ("in  accept tcp 443,80", "in accept tcp 80,443"),
            ("out drop tcp 25 log", "out drop tcp 25 log"),
            ("in accept icmp", "in accept icmp"),
            ("in drop invalid", "in drop invalid"),
            ("in accept established", "in accept established"),
            (
                "in accept new tcp 22 from @office",
                "in accept new tcp 22 from @office",
            ),
            (
                "in accept tcp 22 from 2001:db8:0::/48",
                "in accept tcp 22 from 2001:db8::/48",
            ),
            ("out drop to fd42::5/128", "out drop to fd42::5"),
            ("in accept udp 5000-5010,53", "in accept udp 53,5000-5010"),
            (
                "in accept tcp 22 from 192.0.2.0/24",
                "in accept tcp 22 from 192.0.2.0/24",
            ),
            (
                "out accept to 192.0.2.1/32 log",
                "out accept to 192.0.2.1 log",
            ),
        ] {
            let rule: FirewallRule = text.parse().unwrap();
            assert_eq!(rule.to_string(), again);
            assert_eq!(again.parse(), Ok(rule));
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "begins with in or out"),
            ("in", "accept or drop"),
            ("in reject", "accept or drop"),
            ("in accept tcp 0", "its ports are from 1 to 65535"),
            ("in accept tcp 80,70000", "its ports are from 1 to 65535"),
            ("in accept tcp 90-80", "write 80-90"),
            ("in accept tcp 80-90,85", "its ports have 85 twice"),
            (
                "in accept tcp 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                "16 are the most",
            ),
            ("in accept from ::/0", "for everybody"),
            ("in accept from 192.0.2.1/24", "write 192.0.2.0/24"),
            ("in accept icmp 80", "too many"),
            ("in accept 80", "too many"),
            ("in accept to 192.0.2.1", "too many"),
            ("out accept from 192.0.2.1", "too many"),
            ("in accept from 192.0.2.1/24", "no address"),
            ("in accept from fd42::1/64", "no address"),
            ("in accept from fd42::/129", "no address"),
            ("in accept from ::1::", "no address"),
            ("in accept from", "no address"),
            ("in accept log tcp", "too many"),
            ("in accept tcp new", "too many"),
            ("in accept from @", "no address"),
            ("in accept from @Office", "no address"),
        ] {
            let error = text.parse::<FirewallRule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(in|out|accept|drop|new|invalid|tcp|udp|icmp|from|to|@a|log|[0-9,./-]{1,9}| ){0,12}") {
            if let Ok(rule) = text.parse::<FirewallRule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
