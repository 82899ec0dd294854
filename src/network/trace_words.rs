//! What a traced packet meets, in words, and what would help. Where it comes by is `trace.rs`.

use std::net::IpAddr;

use super::renamed::Renamed;
use super::ruleset::Decided;
use super::trace::{Asked, Hop, Verdict};
use super::{Network, interface_of};
use crate::kernel::netlink::{Link, Way};
use crate::model::GuestName;

/// The interface inside; with a hardware address of its own, that is the guest's matter.
pub(super) fn interface(asked: &Asked<'_>, link: Option<&Link>, has_own: bool) -> Hop {
    let guest = asked.guest;
    let other = |mac: [u8; 6]| mac != asked.lease.mac && !has_own;
    let name = interface_of(asked.lease);
    let stops = |why: &str| Hop::new("guest", Verdict::Stops, why);
    match link {
        None => stops(&format!(
            "its interface {name} is gone: the guest's root has removed or renamed it"
        ))
        .advise(format!("bulkhead restart {guest}")),
        Some(link) if !link.up => stops(&format!("its interface {name} is down"))
            .advise(format!("bulkhead exec {guest} -- ip link set {name} up")),
        Some(link) if link.mac.is_some_and(other) => stops(
            "its interface has another hardware address than it was given; nothing from that passes",
        )
        .advise(format!("bulkhead restart {guest}")),
        Some(_) => Hop::new(
            "guest",
            Verdict::Passes,
            format!("its interface {name} is up"),
        ),
    }
}

/// It has no address of that version.
pub(super) fn no_ipv6(network: &Network, guest: &GuestName) -> Hop {
    let word = network.word();
    let stops = |why: String| Hop::new("guest", Verdict::Stops, why);
    match (network.missed_prefix6(), &network.name) {
        (Some(prefix), _) => stops(format!(
            "it has no IPv6: the network {word} has the prefix {prefix}, but this host has no IPv6"
        ))
        .advise("sysctl net.ipv6.conf.all.disable_ipv6=0"),
        (None, Some(_)) => stops(format!("it has no IPv6: the network {word} has no prefix"))
            .advise(format!(
                "bulkhead stop {guest}, bulkhead network set {word} --prefix6 auto"
            )),
        (None, None) => stops(format!("it has no IPv6: the network {word} has no prefix"))
            .advise("set prefix6 in [network] of bulkhead.toml"),
    }
}

pub(super) fn address(asked: &Asked<'_>, addresses: &[IpAddr]) -> Hop {
    let own = asked.own();
    if addresses.contains(&own) {
        return Hop::new(
            "guest",
            Verdict::Passes,
            format!("it has its address {own}"),
        );
    }
    let all: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let has = match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    };
    let why = format!("its address is {own}, and inside it has {has}");
    let six = asked.lease.ipv6.as_ref().filter(|_| asked.is_ipv6());
    let prefix = six.map_or(asked.lease.prefix, |six| six.length);
    Hop::new("guest", Verdict::Stops, why).advise(format!(
        "bulkhead exec {} -- ip addr add {own}/{prefix} dev {}",
        asked.guest,
        interface_of(asked.lease)
    ))
}

pub(super) fn way_out(asked: &Asked<'_>, way: Way, index: u32, gateway: Option<IpAddr>) -> Hop {
    let peer = asked.question.peer;
    let (guest, name) = (asked.guest, interface_of(asked.lease));
    match way {
        Way::Over { interface, gateway } if interface == index => {
            let by = gateway.map_or_else(
                || "directly".to_owned(),
                |gateway| format!("by way of {gateway}"),
            );
            Hop::new("guest", Verdict::Passes, format!("it sends to {peer} {by}"))
        }
        Way::Here => Hop::new(
            "guest",
            Verdict::Stops,
            format!("inside, {peer} is an address of its own"),
        ),
        Way::Over { .. } => Hop::new(
            "guest",
            Verdict::Stops,
            format!("inside, the route to {peer} leads over another interface than {name}"),
        )
        .advise(format!("bulkhead exec {guest} -- ip route get {peer}")),
        Way::Nowhere => {
            let hop = Hop::new(
                "guest",
                Verdict::Stops,
                format!("inside there is no route to {peer}"),
            );
            match gateway {
                Some(gateway) => {
                    // That of a link is on no interface in particular.
                    let (six, on) = match gateway.is_ipv6() {
                        true => (" -6", format!(" dev {name}")),
                        false => ("", String::new()),
                    };
                    hop.advise(format!(
                        "bulkhead exec {guest} -- ip{six} route add default via {gateway}{on}"
                    ))
                }
                None => hop.advise("this network has no gateway: `bulkhead network info` shows it"),
            }
        }
    }
}

pub(super) fn on_the_wire(asked: &Asked<'_>, parent: Option<Link>, name: &str) -> Hop {
    let peer = asked.question.peer;
    match parent {
        None => Hop::new(
            "host",
            Verdict::Stops,
            format!("the host's interface {name} is gone"),
        ),
        Some(parent) if !parent.up => Hop::new(
            "host",
            Verdict::Stops,
            format!("the host's interface {name} is down"),
        )
        .advise(format!("ip link set {name} up")),
        Some(_) => Hop::new(
            "host",
            Verdict::Note,
            format!(
                "it is on the wire of {name} and meets no rule of the host's; {peer} is reached unless it is the host, which macvlan keeps apart from its guests"
            ),
        ),
    }
}

pub(super) fn flushed(network: &Network) -> Hop {
    let why = format!(
        "the firewall of the network {} is gone, so nobody is held to an address: the host's was flushed",
        network.word()
    );
    Hop::new("firewall", Verdict::Note, why).advise("bulkhead network reload")
}

/// Somebody has given the host's end of a guest's interface another name.
pub(super) fn unnamed(end: &Renamed) -> String {
    format!(
        "the host's end of its interface is called {} and not {}, so nobody holds it to an address",
        end.is, end.was
    )
}

pub(super) fn led(asked: &Asked<'_>) -> Hop {
    let port = asked.question.port;
    let why =
        format!("a port of the host leads to its port {port}; to that of the host others send");
    Hop::new("ports", Verdict::Passes, why)
}

/// The host leads what is for a port of its own to another guest.
pub(super) fn led_on(asked: &Asked<'_>, guest: &GuestName, port: u16) -> Hop {
    let question = asked.question;
    let why = format!(
        "port {} of the host leads to port {port} of {guest}, to which it comes as from the gateway",
        question.port
    );
    let six = if asked.is_ipv6() { "ip6 " } else { "" };
    let protocol = question.protocol.name();
    Hop::new("ports", Verdict::Note, why).advise(format!(
        "bulkhead network trace {guest} in {six}{protocol} :{port}"
    ))
}

/// The host has a way, but not for what comes from there.
pub(super) fn led_nowhere(asked: &Asked<'_>, inside: &str) -> Hop {
    let (own, peer) = (asked.own(), asked.question.peer);
    let why = format!(
        "the host has a route to {peer}, but rules about who sends (`ip rule`), or the setting `forwarding` of {inside}, lead what comes from {own} nowhere"
    );
    Hop::new("host", Verdict::Stops, why)
        .advise(format!("ip route get {peer} from {own} iif {inside}"))
}

pub(super) fn astray(asked: &Asked<'_>, inside: &str) -> Hop {
    let address = asked.own();
    let what = match asked.question.incoming {
        true => "so nothing comes to it",
        false => "so no answer comes, and with rp_filter nothing is taken from it",
    };
    let why = format!("the host's route to {address} does not lead over {inside}, {what}");
    Hop::new("host", Verdict::Stops, why).advise(format!(
        "bulkhead network reload, and if that does not help, ip route get {address}"
    ))
}

pub(super) fn forwarding(asked: &Asked<'_>, on: bool) -> Hop {
    let setting = match asked.is_ipv6() {
        true => "net.ipv6.conf.all.forwarding",
        false => "net.ipv4.ip_forward",
    };
    match on {
        true => Hop::new(
            "host",
            Verdict::Passes,
            format!("it passes packets on ({setting} is 1)"),
        ),
        false => Hop::new(
            "host",
            Verdict::Stops,
            format!("it passes no packets on: {setting} is 0"),
        )
        .advise("bulkhead network reload"),
    }
}

pub(super) fn apart(asked: &Asked<'_>, other: &GuestName) -> Hop {
    let guest = asked.guest;
    let why = format!("{guest} and {other} are kept apart (isolated_ports)");
    Hop::new("isolation", Verdict::Stops, why).advise(together(asked))
}

/// How a guest is kept apart no more, on the network that is looked at.
fn together(asked: &Asked<'_>) -> String {
    let guest = asked.guest;
    match &asked.lease.nic {
        None => format!("bulkhead set {guest} network.isolated_ports=false"),
        Some(nic) => {
            format!(
                "bulkhead edit {guest}, and write isolated_ports = false for its interface {nic}"
            )
        }
    }
}

/// How a guest that is to reach more gets there.
pub(super) fn elsewhere(asked: &Asked<'_>) -> String {
    let guest = asked.guest;
    match &asked.lease.nic {
        None => format!("bulkhead set {guest} --network bridge"),
        Some(_) => format!("bulkhead nic add {guest} NAME=bridge"),
    }
}

pub(super) fn rate(asked: &Asked<'_>) -> Option<Hop> {
    let rate = match asked.question.incoming {
        true => asked.wish.rate_in,
        false => asked.wish.rate_out,
    };
    rate.map(|rate| {
        let why = format!("no faster than {rate}: what is more waits, and is dropped after 50 ms");
        Hop::new("rate", Verdict::Note, why)
    })
}

pub(super) fn old(asked: &Asked<'_>, tables: &str) -> Hop {
    let program = if asked.is_ipv6() {
        "ip6tables-legacy"
    } else {
        "iptables-legacy"
    };
    let why = format!(
        "this host also has tables of {program} ({tables}), which cannot be read from here and may drop it"
    );
    Hop::new("host", Verdict::MayStop, why).advise(format!("{program} -S"))
}

/// What a rule decided.
pub(super) fn decided(
    network: &Network,
    asked: &Asked<'_>,
    at: &str,
    verdict: Verdict,
    by: &Decided,
) -> Hop {
    let (family, guard) = &network.guard;
    let ours = (by.table == *guard && by.family == family.name())
        || (by.table == network.table && by.family == "inet");
    match ours {
        true => of_ours(network, asked, verdict, by),
        false => of_others(at, verdict, by),
    }
}

fn of_ours(network: &Network, asked: &Asked<'_>, verdict: Verdict, by: &Decided) -> Hop {
    let guest = asked.guest;
    let rule = by.rule.clone().unwrap_or_default();
    if let Some((_, interface)) = by.chain.split_once('-') {
        return wall(network, asked, verdict, &rule, interface);
    }
    let (at, why, advice) = match by.chain.as_str() {
        "guard"
            if ["dport 68 ", "sport 67 ", "dport 546 ", "sport 547 "]
                .iter()
                .any(|one| format!("{rule} ").contains(one)) =>
        {
            (
                "anti-spoofing",
                "it is what only a DHCP server sends, and no guest is one".to_owned(),
                None,
            )
        }
        "guard"
            if ["dport 67 ", "dport 547 "]
                .iter()
                .any(|one| format!("{rule} ").contains(one)) =>
        {
            (
                "anti-spoofing",
                format!("it is a question by DHCP, which passes if {guest} asks for itself"),
                None,
            )
        }
        "guard" => (
            "anti-spoofing",
            format!(
                "the firewall has no entry that lets {guest} send from {}: the set `{}` lacks it",
                asked.own(),
                if asked.is_ipv6() { "guests6" } else { "guests" }
            ),
            Some("bulkhead network reload".to_owned()),
        ),
        "apart" | "around" => (
            "isolation",
            "it is for a guest that is kept apart (isolated_ports)".to_owned(),
            Some(together(asked)),
        ),
        "host" => (
            "isolation",
            match network.tells_closed() {
                true => format!(
                    "{} is an isolated network: of it, nothing comes to the host but questions for {}",
                    network.word(),
                    network.served().words().join(" and ")
                ),
                false => format!(
                    "{} is an isolated network: nothing of it comes to the host",
                    network.word()
                ),
            },
            None,
        ),
        "forward" => (
            "NAT",
            format!(
                "into the network {} comes what answers its guests and what a port of the host leads there, and this is neither",
                network.word()
            ),
            // Ports of the host lead to the first interface.
            asked.lease.nic.is_none().then(|| {
                let port = asked.question.port;
                match asked.led {
                    Some((own, inside)) if own == guest => format!(
                        "port {port} of the host leads to its port {inside}, and that is asked for here: :{inside}"
                    ),
                    _ => format!(
                        "bulkhead set {guest} --forward {port}:{port}, and connect to the host's port"
                    ),
                }
            }),
        ),
        chain => (
            "firewall",
            format!("chain {chain} of our table {}: {rule}", by.table),
            None,
        ),
    };
    let hop = Hop::new(at, verdict, why);
    match advice {
        Some(advice) => hop.advise(advice),
        None => hop,
    }
}

/// A rule of a guest's own firewall; of the other end's, if that is a guest.
fn wall(network: &Network, asked: &Asked<'_>, verdict: Verdict, rule: &str, port: &str) -> Hop {
    let own = port == asked.lease.host_interface;
    let whose = match own {
        true => asked.guest.to_string(),
        false => network.holder_of(port).unwrap_or_else(|| port.to_owned()),
    };
    let passes = verdict == Verdict::Passes;
    let rules = &asked.wish.firewall;
    if own && !passes && asked.cut {
        let why = format!("the allowance of {whose} is used up: nothing passes");
        return Hop::new("allowance", verdict, why).advise(format!(
            "bulkhead set {whose} --allowance-cut MORE, or wait for the next month"
        ));
    }
    let is = |one: &&crate::model::FirewallLine| {
        let text = one.rule().map(ToString::to_string).unwrap_or_default();
        text == rule || text.strip_suffix(" log") == Some(rule)
    };
    let number = rules.iter().position(|one| is(&one)).filter(|_| own);
    let number = number.map_or_else(String::new, |at| format!("rule {} of ", at + 1));
    let why = match number.is_empty() && passes {
        true => format!("no rule of {whose}'s firewall is against it"),
        false => format!("{number}{whose}'s firewall decides: {rule}"),
    };
    let hop = Hop::new("firewall", verdict, why);
    match passes {
        true => hop,
        false if own && asked.lease.nic.is_some() => {
            hop.advise(format!("bulkhead get {whose} network.nic"))
        }
        false => hop.advise(format!("bulkhead get {whose} network.firewall")),
    }
}

fn of_others(at: &str, verdict: Verdict, by: &Decided) -> Hop {
    let place = format!("table {} {}, chain {}", by.family, by.table, by.chain);
    let docker = ["ip", "ip6"].contains(&by.family.as_str())
        && by.table == "filter"
        && by.chain == "FORWARD";
    let what = match &by.rule {
        Some(rule) => format!("rule `{rule}`"),
        None => "what no rule is about is dropped (its policy)".to_owned(),
    };
    let mut why = format!("the host's own firewall, {place}: {what}");
    if verdict == Verdict::MayStop {
        why += "; it asks for what cannot be told from here";
    }
    let hop = Hop::new(at, verdict, why);
    if docker && by.rule.is_none() {
        let mut hop = hop.advise("bulkhead doctor --fix, which opens it for guests");
        hop.why += "; Docker sets it so";
        return hop;
    }
    hop.advise(format!(
        "nft list chain {} {} {}",
        by.family, by.table, by.chain
    ))
}
