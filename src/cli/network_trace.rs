//! `network trace`: why a packet does or does not pass. Reads, takes no lock.

use std::net::Ipv4Addr;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::context::Context;
use super::fault::{Fault, Result};
use super::render::{Cell, Tone, safe};
use crate::model::{GuestName, RuleProtocol};
use crate::network::{Hop, Question, Verdict};

const USAGE: &str = "write [in|out] [tcp|udp|icmp] [ADDRESS[:PORT]], such as `out tcp 192.0.2.7:443` or `in tcp :80`";
/// Somebody in the world; nothing is sent there.
const WORLD: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);
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
            Arg::new("packet")
                .value_name("PACKET")
                .num_args(0..=3)
                .help("[in|out] [tcp|udp|icmp] [ADDRESS[:PORT]]: to or from the guest, what runs over it, the other end, and the port of who is called [default: out icmp to the world]"),
        )
        .after_help("Nothing is sent: what the kernel would do is told from its routes and its firewall as they are.")
}

fn question(words: &[&str]) -> std::result::Result<Question, String> {
    let mut words = words.iter().copied().peekable();
    let way = words.next_if(|word| ["in", "out"].contains(word));
    let named = |word: &&str| {
        let mut all = RuleProtocol::ALL.into_iter();
        all.find(|one| one.name() == *word)
    };
    let protocol = words.peek().and_then(named);
    if protocol.is_some() {
        words.next();
    }
    let protocol = protocol.unwrap_or(RuleProtocol::Icmp);
    let (mut peer, mut port) = (WORLD, None);
    if let Some(text) = words.next() {
        let (address, number) = match text.split_once(':') {
            Some((address, number)) => (address, Some(number)),
            None => (text, None),
        };
        if !address.is_empty() {
            peer = address
                .parse()
                .map_err(|_| format!("{address:?} is no IPv4 address: {USAGE}"))?;
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
    if peer.is_multicast() || peer.is_unspecified() || peer.is_broadcast() || peer.is_loopback() {
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

pub(super) fn trace(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let Some(name) = matches.get_one::<GuestName>("guest") else {
        return Ok(super::fault::USAGE);
    };
    let words = matches.get_many::<String>("packet").unwrap_or_default();
    let words: Vec<&str> = words.map(String::as_str).collect();
    let question = question(&words).map_err(Fault::usage)?;
    let hops = context.manager()?.trace(name, question)?;
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
            ("", false, RuleProtocol::Icmp, [1, 1, 1, 1], 0),
            ("in", true, RuleProtocol::Icmp, [1, 1, 1, 1], 0),
            ("192.0.2.7", false, RuleProtocol::Icmp, [192, 0, 2, 7], 0),
            ("in tcp :80", true, RuleProtocol::Tcp, [1, 1, 1, 1], 80),
            (
                "out udp 192.0.2.7:53",
                false,
                RuleProtocol::Udp,
                [192, 0, 2, 7],
                53,
            ),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let peer = Ipv4Addr::from(peer);
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
            ("sideways", "no IPv4 address"),
            ("tcp 192.0.2.7:0", "no port"),
            ("tcp fd00::1", "no IPv4"),
            ("192.0.2.7 in", "too many"),
            ("224.0.0.1", "one machine"),
        ] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let error = question(&words).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
