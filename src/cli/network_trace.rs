//! `network trace`: why a packet does or does not pass. Reads, takes no lock.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::{Arg, ArgMatches, Command, value_parser};

use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{Cell, Tone, safe};
use crate::model::{GuestName, NicName, RuleProtocol};
use crate::network::{GUEST_INTERFACE, Hop, Question, Verdict};

const USAGE: &str = "write [in|out] [ip6] [tcp|udp|icmp] [ADDRESS[:PORT]], such as `out tcp 192.0.2.7:443`, `in tcp :80`, or of IPv6 `tcp [2001:db8::7]:443` or `ip6 tcp :443`";
/// Somebody in the world; nothing is sent there.
const WORLD: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);
const HEADINGS: [&str; 4] = ["AT", "PACKET", "WHY", "WHAT HELPS"];

pub(super) fn command() -> Command {
    Command::new("trace")
        .about("Say why a packet of a guest's does or does not pass")
        .arg(
            Arg::new("guest")
                .value_name("GUEST")
                .required(true)
                .value_parser(value_parser!(GuestName))
                .help("The guest"),
        )
        .arg(
            Arg::new("nic")
                .long("nic")
                .value_name("NAME")
                .help("Over this one of its interfaces (`bulkhead nic list`) [default: the first]"),
        )
        .arg(
            Arg::new("packet")
                .value_name("PACKET")
                .num_args(0..=4)
                .help("[in|out] [ip6] [tcp|udp|icmp] [ADDRESS[:PORT]]: to or from the guest, by IPv6 also without an address, what runs over it, the other end, and the port of who is called [default: out icmp to the world]"),
        )
        .after_help("Nothing is sent: what the kernel would do is told from its routes and its firewall as they are.")
}

/// Address and port of `192.0.2.7:443`, `[2001:db8::7]:443`, or either alone.
fn parts(text: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        return match rest.is_empty() {
            true => (address, None),
            // What stands between is no port.
            false => (address, Some(rest.strip_prefix(':').unwrap_or(rest))),
        };
    }
    match text.split_once(':') {
        Some((address, number)) if !number.contains(':') => (address, Some(number)),
        _ => (text, None),
    }
}

fn question(words: &[&str]) -> std::result::Result<Question, String> {
    let mut words = words.iter().copied().peekable();
    let way = words.next_if(|word| ["in", "out"].contains(word));
    let six = words.next_if(|word| *word == "ip6").is_some();
    let named = |word: &&str| {
        let mut all = RuleProtocol::ALL.into_iter();
        all.find(|one| one.name() == *word)
    };
    let protocol = words.peek().and_then(named);
    if protocol.is_some() {
        words.next();
    }
    let protocol = protocol.unwrap_or(RuleProtocol::Icmp);
    let (mut peer, mut port) = (IpAddr::V4(WORLD), None);
    if six {
        peer = WORLD6.into();
    }
    if let Some(text) = words.next() {
        let (address, number) = parts(text);
        if !address.is_empty() {
            peer = address
                .parse()
                .map_err(|_| format!("{address:?} is no IP address: {USAGE}"))?;
            if six && peer.is_ipv4() {
                return Err(format!("{peer} is no IPv6 address: {USAGE}"));
            }
        }
        let of = |number: &str| number.parse::<u16>().ok().filter(|port| *port > 0);
        port = match number {
            Some(number) => {
                Some(of(number).ok_or_else(|| format!("{number:?} is no port: {USAGE}"))?)
            }
            None => None,
        };
    }
    if words.next().is_some() {
        return Err(format!(
            "there is a word too many, or in the wrong place: {USAGE}"
        ));
    }
    let many = match peer {
        IpAddr::V4(four) => four.is_broadcast(),
        // Of which link is not said.
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    if many || peer.is_multicast() || peer.is_unspecified() || peer.is_loopback() {
        return Err(format!(
            "{peer} is no address of one machine's on a network"
        ));
    }
    match (protocol, port) {
        (RuleProtocol::Icmp, Some(_)) => Err(format!("ICMP has no ports: {USAGE}")),
        (RuleProtocol::Tcp | RuleProtocol::Udp, None) => {
            Err(format!("{} needs a port: {USAGE}", protocol.name()))
        }
        (_, port) => Ok(Question {
            incoming: way == Some("in"),
            protocol,
            peer,
            port: port.unwrap_or(0),
        }),
    }
}

/// A further interface, by the name that `nic list` has for it; `None` for the first.
fn nic(text: Option<&String>) -> std::result::Result<Option<NicName>, String> {
    match text.map(String::as_str) {
        None | Some(GUEST_INTERFACE) => Ok(None),
        Some(text) => match text.parse::<NicName>() {
            Ok(nic) => Ok(Some(nic)),
            Err(error) => Err(error.to_string()),
        },
    }
}

pub(super) fn trace(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let Some(name) = matches.get_one::<GuestName>("guest") else {
        return Ok(super::fault::USAGE);
    };
    let words = matches.get_many::<String>("packet").unwrap_or_default();
    let words: Vec<&str> = words.map(String::as_str).collect();
    let question = question(&words).map_err(Fault::usage)?;
    let nic = nic(matches.get_one::<String>("nic")).map_err(Fault::usage)?;
    let hops = context.manager()?.trace(name, nic.as_ref(), question)?;
    context.list(&hops, &HEADINGS, cells)?;
    Ok(0)
}

fn cells(hop: &Hop) -> Vec<Cell> {
    let (word, tone) = match hop.verdict {
        Verdict::Passes => ("passes", Tone::Good),
        Verdict::Stops => ("stops", Tone::Bad),
        Verdict::MayStop => ("may stop", Tone::Odd),
        Verdict::Note => ("goes on", Tone::Plain),
    };
    vec![
        Cell::from(safe(&hop.at)),
        Cell::new(word, tone),
        Cell::from(safe(&hop.why)),
        Cell::from(safe(hop.advice.as_deref().unwrap_or_default())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_what_is_said_and_the_rest_is_usual() {
        for (text, incoming, protocol, peer, port) in [
            ("", false, RuleProtocol::Icmp, "1.1.1.1", 0),
            ("in", true, RuleProtocol::Icmp, "1.1.1.1", 0),
            ("192.0.2.7", false, RuleProtocol::Icmp, "192.0.2.7", 0),
            ("in tcp :80", true, RuleProtocol::Tcp, "1.1.1.1", 80),
            ("in fd00::7", true, RuleProtocol::Icmp, "fd00::7", 0),
            ("tcp [fd00::7]:80", false, RuleProtocol::Tcp, "fd00::7", 80),
            (
                "ip6 udp :53",
                false,
                RuleProtocol::Udp,
                "2606:4700:4700::1111",
                53,
            ),
            (
                "out udp 192.0.2.7:53",
                false,
                RuleProtocol::Udp,
                "192.0.2.7",
                53,
            ),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let peer = peer.parse().unwrap();
            let wanted = Question {
                incoming,
                protocol,
                peer,
                port,
            };
            assert_eq!(question(&words), Ok(wanted), "{text}");
        }
        for (text, part) in [
            ("tcp", "needs a port"),
            ("icmp 192.0.2.7:1", "no ports"),
            ("sideways", "no IP address"),
            ("ip6 tcp 192.0.2.7:1", "no IPv6 address"),
            ("tcp [fd00::1]", "needs a port"),
            ("tcp [fd00::1]x:1", "no port"),
            ("fe80::1", "one machine"),
            ("tcp 192.0.2.7:0", "no port"),
            ("tcp fd00::1", "needs a port"),
            ("192.0.2.7 in", "too many"),
            ("224.0.0.1", "one machine"),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let error = question(&words).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
