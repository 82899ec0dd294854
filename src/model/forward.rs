//! Ports of the host that lead to a guest, as people write them: `8080:80`, `53:53/udp`,
//! `8000-8009:9000-9009`. What leads them there is the network room's firewall.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// Text that is no forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It reads like none.
    #[error(
        "{0:?} is not a forward: write HOST:GUEST, ports from 1 to 65535 or ranges, then /udp if wanted, such as 8080:80, 53:53/udp or 8000-8009:9000-9009"
    )]
    Form(String),
    /// As many ports are to lead to fewer, or the other way round.
    #[error("{0:?} has {1} ports of the host and {2} of the guest: write as many of both")]
    Lengths(String, u16, u16),
}

/// What runs over the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// tcp(7)
    Tcp,
    /// udp(7)
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As people and `nft` write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Ports of the host, one or several in a row, that lead to as many of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// What runs over them.
    pub protocol: Protocol,
    /// First port of the host.
    pub host: u16,
    /// First port of the guest.
    pub guest: u16,
    /// How many ports.
    pub count: u16,
}

impl Forward {
    /// Each port of the host with the one of the guest that it leads to.
    pub fn ports(self) -> impl Iterator<Item = (u16, u16)> {
        (0..self.count).map(move |n| (self.host + n, self.guest + n))
    }

    /// Whether both want a port of the host.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let end = |one: &Self| u32::from(one.host) + u32::from(one.count);
        self.protocol == other.protocol
            && u32::from(self.host) < end(other)
            && u32::from(other.host) < end(self)
    }
}

impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(text: &str) -> Result<Self, ForwardError> {
        let said = || text.chars().take(60).collect();
        let wrong = || ForwardError::Form(said());
        let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let mut protocols = Protocol::ALL.into_iter();
        let protocol = protocols.find(|one| one.name() == protocol);
        let (host, guest) = ports.split_once(':').unwrap_or((ports, ports));
        let (host, count) = range(host).ok_or_else(wrong)?;
        let (guest, guests) = range(guest).ok_or_else(wrong)?;
        if count != guests {
            return Err(ForwardError::Lengths(said(), count, guests));
        }
        Ok(Self {
            protocol: protocol.ok_or_else(wrong)?,
            host,
            guest,
            count,
        })
    }
}

/// First port and how many.
fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (port(first)?, port(last)?);
    (first > 0 && first <= last).then(|| (first, last - first + 1))
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        write!(f, "{}:{}", range(self.host), range(self.guest))?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl Serialize for Forward {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Forward {
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
    fn a_forward_is_read_as_it_is_written() {
        for (text, again) in [
            ("8080:80", "8080:80"),
            ("8080:80/tcp", "8080:80"),
            ("53:53/udp", "53:53/udp"),
            ("443", "443:443"),
            ("8000-8009:9000-9009", "8000-8009:9000-9009"),
            ("1-65535/udp", "1-65535:1-65535/udp"),
            ("65535:1", "65535:1"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), again);
            assert_eq!(again.parse(), Ok(forward));
        }
    }

    #[test]
    fn what_is_no_forward_is_refused() {
        for text in [
            "",
            ":",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "80:65536",
            "+80:80",
            "80:80/sctp",
            "80:80/",
            "9-8:9-8",
            "1-2-3:1-3",
            "80 :80",
            "-:-",
            "8080:80:80",
            "a:b",
            "８０:80",
        ] {
            let error = text.parse::<Forward>().unwrap_err();
            assert!(matches!(error, ForwardError::Form(_)), "{text:?}: {error}");
        }
        let error = "80-89:80".parse::<Forward>().unwrap_err();
        assert_eq!(error, ForwardError::Lengths("80-89:80".into(), 10, 1));
    }

    proptest! {
        #[test]
        fn two_meet_where_they_share_a_port(a in 1..40_u16, n in 1..20_u16, b in 1..40_u16, m in 1..20_u16) {
            let of = |host, count| Forward { protocol: Protocol::Tcp, host, guest: 1, count };
            let (one, other) = (of(a, n), of(b, m));
            let shared = one.ports().any(|(port, _)| other.ports().any(|(p, _)| p == port));
            prop_assert_eq!(one.meets(&other), shared);
            let udp = Forward { protocol: Protocol::Udp, ..other };
            prop_assert!(!one.meets(&udp));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,20}|[0-9:/udptc-]{0,24}") {
            if let Ok(forward) = text.parse::<Forward>() {
                prop_assert_eq!(forward.to_string().parse(), Ok(forward));
                prop_assert_eq!(forward.ports().count(), usize::from(forward.count));
            }
        }
    }
}
