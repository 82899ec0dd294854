//! `network`: what guests' interfaces are connected to.

use std::net::IpAddr;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::network_served;
use super::render::{Cell, safe};
use crate::guest::networks::NetworkView;
use crate::model::{NetworkName, Prefix6, Prefix6Error};
use crate::network::{
    Addresses, DirectoryError, Kind, Network, NewNetwork, Range, Served, Subnet, Vxlan, ranges,
};

pub(super) const NETWORK: Verb = Verb {
    name: "network",
    about: "Make, list and remove the networks that guests are on",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List networks"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a network, its pool and its guests")
                    .arg(name()),
            )
            .subcommand(
                Command::new("create")
                    .about("Make a network")
                    .arg(name())
                    .args([
                        Arg::new("kind")
                            .long("kind")
                            .value_name("KIND")
                            .value_parser(PossibleValuesParser::new(Kind::WORDS))
                            .default_value("bridge")
                            .help("bridge (a way out by NAT), isolated (no way out, none to the host), routed (no bridge: a route to each address), external (a bridge that is there, such as one with a card in it), macvlan (on an interface of the host's; nothing holds guests back there) or passthrough (that interface itself, one guest at a time)"),
                        Arg::new("subnet")
                            .long("subnet")
                            .value_name("ADDRESS/BITS")
                            .value_parser(value_parser!(Subnet))
                            .help("Pool of addresses, from /16 to /30 [default: a free one]"),
                        Arg::new("nat")
                            .long("nat")
                            .value_name("BOOL")
                            .value_parser(PossibleValuesParser::new(["true", "false"]))
                            .help("Whether guests of a routed network go out under the host's address [default: true]"),
                        Arg::new("parent")
                            .long("parent")
                            .value_name("NAME")
                            .help("Interface of the host's that guests of a macvlan network are on, or that the guest of a passthrough one has"),
                        Arg::new("bridge")
                            .long("bridge")
                            .value_name("NAME")
                            .help("Name of its bridge on the host; of an external network, the one that is there [default: one made from its name]"),
                    ])
                    .args(shared())
                    .arg(switch("force", "Let a guest have the interface that the host's default route leads over"))
                    .args(settings())
                    .args(addresses())
                    .args(network_served::arguments())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("set")
                    .about("Change a network")
                    .arg(name())
                    .args(settings())
                    .args(addresses())
                    .args(network_served::arguments())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("delete")
                    .about("Remove a network that no guest is on")
                    .arg(name())
                    .arg(dry_run()),
            )
            .subcommand(super::network_trace::command())
            .subcommands(super::network_watch::commands())
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => info(context, matches),
        Some(("create", matches)) => create(context, matches),
        Some(("set", matches)) => set(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        Some(("reload", _)) => super::network_watch::reload(context),
        Some(("watch", _)) => super::network_watch::watch(context),
        Some(("trace", matches)) => super::network_trace::trace(context, matches),
        _ => list(context),
    },
    hidden: false,
};

fn name() -> Arg {
    Arg::new("network")
        .value_name("NETWORK")
        .required(true)
        .help("Name of the network")
}

/// What is said of other hosts that share a network.
fn shared() -> [Arg; 3] {
    [
        Arg::new("vxlan")
            .long("vxlan")
            .value_name("NUMBER")
            .requires("local")
            .requires("remote")
            .value_parser(value_parser!(u32))
            .help("Share it with other hosts, over VXLAN of this number, the same on all of them"),
        Arg::new("local")
            .long("local")
            .value_name("IP")
            .requires("vxlan")
            .value_parser(value_parser!(IpAddr))
            .help("This host's address among them"),
        Arg::new("remote")
            .long("remote")
            .value_name("IP,…")
            .requires("vxlan")
            .value_delimiter(',')
            .value_parser(value_parser!(IpAddr))
            .help("Addresses of the other hosts"),
    ]
}

fn vxlan(matches: &ArgMatches) -> Result<Option<Vxlan>> {
    let Some(id) = matches.get_one::<u32>("vxlan").copied() else {
        return Ok(None);
    };
    let remotes = matches.get_many::<IpAddr>("remote").unwrap_or_default();
    Ok(Some(Vxlan {
        id,
        local: required(matches, "local")?,
        remotes: remotes.copied().collect(),
    }))
}

fn settings() -> [Arg; 3] {
    [
        Arg::new("prefix6")
            .long("prefix6")
            .value_name("ADDRESS/BITS")
            .help("IPv6 prefix, from /64 to /112, auto for a private one, or none [default: none]"),
        Arg::new("mtu")
            .long("mtu")
            .value_name("BYTES")
            .help("Largest packet, or none for the way out's [default: none]"),
        Arg::new("isolated-ports")
            .long("isolated-ports")
            .value_name("BOOL")
            .value_parser(PossibleValuesParser::new(["true", "false", "none"]))
            .help("Keep guests that do not say otherwise apart, or none for the host's setting [default: none]"),
    ]
}

fn addresses() -> [Arg; 4] {
    let list = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FIRST-LAST,…")
            .help(help)
    };
    [
        list("range", "Addresses that guests get who ask for none in particular, or none for all of the pool [default: none]"),
        list("exclude", "Addresses that no guest gets, or none [default: none]"),
        Arg::new("gateway")
            .long("gateway")
            .value_name("IP")
            .help("Address of the gateway, or none for the first of the pool; of an external network, none for no way out [default: none]"),
        Arg::new("gateway6")
            .long("gateway6")
            .value_name("IP")
            .help("Gateway of IPv6 of an external or macvlan network, or none for no way out [default: none]"),
    ]
}

/// What of the addresses is said anew.
fn said_of_addresses(matches: &ArgMatches, all: &mut Addresses) -> Result<()> {
    for (name, list) in [("range", &mut all.ranges), ("exclude", &mut all.excluded)] {
        if let Some(text) = matches.get_one::<String>(name) {
            *list = match text.as_str() {
                "none" => Vec::new(),
                text => ranges(text).map_err(|why| Fault::usage(format!("--{name}: {why}")))?,
            };
        }
    }
    if let Some(text) = matches.get_one::<String>("gateway") {
        let wrong = || Fault::usage(format!("--gateway: {text:?} is no IPv4 address"));
        all.gateway = match text.as_str() {
            "none" => None,
            text => Some(text.parse().map_err(|_| wrong())?),
        };
    }
    if let Some(text) = matches.get_one::<String>("gateway6") {
        let wrong = || Fault::usage(format!("--gateway6: {text:?} is no IPv6 address"));
        all.gateway6 = match text.as_str() {
            "none" => None,
            text => Some(text.parse().map_err(|_| wrong())?),
        };
    }
    Ok(())
}

fn free(view: &NetworkView) -> String {
    view.free.map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn subnet(view: &NetworkView) -> String {
    let text = view.subnet.map(|subnet| subnet.to_string());
    text.unwrap_or_else(|| "not chosen yet".to_owned())
}

fn prefix6(view: &NetworkView) -> String {
    match (view.prefix6, view.prefix6_missed) {
        (Some(prefix), _) => prefix.to_string(),
        (None, Some(prefix)) => format!("none: {prefix} is not used, this host has no IPv6"),
        (None, None) => "none".to_owned(),
    }
}

fn list(context: &Context) -> Result<u8> {
    let all = context.manager()?.network_views()?;
    let heads = ["NAME", "KIND", "SUBNET", "BRIDGE", "GUESTS", "FREE"];
    context.list(&all, &heads, |view| {
        vec![
            Cell::from(view.name.as_str()),
            Cell::from(view.kind.word()),
            Cell::from(subnet(view)),
            Cell::from(safe(&view.bridge)),
            Cell::from(view.guests.len().to_string()),
            Cell::from(free(view)),
        ]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let view = context
        .manager()?
        .network_view(&required::<String>(matches, "network")?)?;
    let yes_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    context.one(&view, |_| {
        let none = || "none".to_owned();
        let lines = [
            ("kind", view.kind.word().to_owned()),
            ("subnet", subnet(&view)),
            ("gateway", view.gateway.map_or_else(none, |a| a.to_string())),
            ("range", listed(&view.ranges)),
            ("excluded", listed(&view.excluded)),
            ("prefix6", prefix6(&view)),
            ("nat", yes_no(view.nat)),
            (
                if view.held { "bridge" } else { "parent" },
                match view.set_up {
                    true => safe(&view.bridge),
                    false => format!(
                        "{}, set up by the next start of a guest",
                        safe(&view.bridge)
                    ),
                },
            ),
            (
                "held back",
                match view.held {
                    true => String::new(),
                    false => "no: no anti-spoofing, rates, accounts or firewalls here".to_owned(),
                },
            ),
            (
                "mtu",
                view.mtu
                    .map_or_else(|| "the way out's".to_owned(), |n| n.to_string()),
            ),
            ("vxlan", view.vxlan.as_ref().map_or_else(String::new, hosts)),
            ("serves", network_served::shown(&view)),
            ("apart", yes_no(view.isolated_ports)),
            (
                "addresses",
                format!("{} used, {} free", view.guests.len(), free(&view)),
            ),
        ];
        let lines = lines.into_iter().filter(|(_, value)| !value.is_empty());
        let mut text = format!("{}\n", view.name);
        let guests = view.guests.iter();
        let guests = guests.map(|(guest, address)| {
            let second = view.guests6.get(guest).map(|a| format!(" {a}"));
            (
                "guest",
                format!("{guest} {address}{}", second.unwrap_or_default()),
            )
        });
        for (key, value) in lines.into_iter().chain(guests) {
            text += format!("  {key:<11}{value}").trim_end();
            text.push('\n');
        }
        text
    })?;
    Ok(0)
}

fn listed(ranges: &[Range]) -> String {
    let all: Vec<String> = ranges.iter().map(Range::to_string).collect();
    all.join(",")
}

/// The hosts that share a network.
fn hosts(vxlan: &Vxlan) -> String {
    let remotes: Vec<String> = vxlan.remotes.iter().map(IpAddr::to_string).collect();
    format!(
        "{}, from {} to {}",
        vxlan.id,
        vxlan.local,
        remotes.join(",")
    )
}

/// A network's name that somebody may give one.
fn own_name(matches: &ArgMatches) -> Result<NetworkName> {
    let text: String = required(matches, "network")?;
    match text.as_str() {
        "bridge" => Err(Fault::usage(
            "the network bridge is always there; its settings are in [network] of bulkhead.toml",
        )),
        text => text
            .parse()
            .map_err(|error: crate::model::NetworkNameError| Fault::usage(error.to_string())),
    }
}

/// A setting that may be given up again by the word `none`; outer `None` if it is not there.
fn or_none<T: std::str::FromStr>(matches: &ArgMatches, name: &str) -> Result<Option<Option<T>>> {
    let Some(text) = matches.get_one::<String>(name) else {
        return Ok(None);
    };
    match text.as_str() {
        "none" => Ok(Some(None)),
        text => match text.parse() {
            Ok(value) => Ok(Some(Some(value))),
            Err(_) => Err(Fault::usage(format!("--{name}: {text:?} is no number"))),
        },
    }
}

/// The IPv6 prefix that is said anew; outer `None` if none is said.
fn said_of_ipv6(matches: &ArgMatches, usual: &Network) -> Result<Option<Option<Prefix6>>> {
    let Some(text) = matches.get_one::<String>("prefix6") else {
        return Ok(None);
    };
    let prefix = match text.as_str() {
        "none" => None,
        "auto" => Some(usual.choose_prefix6().map_err(DirectoryError::from)?),
        text => Some(
            text.parse()
                .map_err(|error: Prefix6Error| Fault::usage(format!("--prefix6: {error}")))?,
        ),
    };
    Ok(Some(prefix))
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let kind: String = required(matches, "kind")?;
    let mut addresses = Addresses::default();
    said_of_addresses(matches, &mut addresses)?;
    let wish = NewNetwork {
        name: own_name(matches)?,
        kind: Kind::of_word(&kind).unwrap_or(Kind::Bridge),
        subnet: matches.get_one("subnet").copied(),
        prefix6: said_of_ipv6(matches, &manager.network)?.flatten(),
        bridge: matches.get_one::<String>("bridge").cloned(),
        parent: matches.get_one::<String>("parent").cloned(),
        nat: or_none(matches, "nat")?.flatten(),
        mtu: or_none(matches, "mtu")?.flatten(),
        isolated_ports: or_none(matches, "isolated-ports")?.flatten(),
        addresses,
        vxlan: vxlan(matches)?,
        force: matches.get_flag("force"),
        served: network_served::said(matches, Served::default()),
    };
    if matches.get_flag("dry-run") {
        let record = manager.network.check_new(&wish)?;
        context.done(&format!(
            "would make network {} of {}",
            record.name, record.subnet
        ))?;
        return Ok(0);
    }
    let record = manager.network.create(&wish)?;
    context.done(&format!(
        "network {} is made, of {}",
        record.name, record.subnet
    ))?;
    Ok(0)
}

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let mut record = manager.network.record(&own_name(matches)?)?;
    if let Some(mtu) = or_none(matches, "mtu")? {
        record.mtu = mtu;
    }
    if let Some(apart) = or_none(matches, "isolated-ports")? {
        record.isolated_ports = apart;
    }
    if let Some(prefix6) = said_of_ipv6(matches, &manager.network)? {
        record.prefix6 = prefix6;
    }
    said_of_addresses(matches, &mut record.addresses)?;
    record.served = network_served::said(matches, record.served);
    if matches.get_flag("dry-run") {
        manager.network.check_change(&record)?;
        context.done(&format!("would change network {}", record.name))?;
        return Ok(0);
    }
    manager.change_network(&record)?;
    context.done(&format!("network {} is changed", record.name))?;
    Ok(0)
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let name = own_name(matches)?;
    if matches.get_flag("dry-run") {
        manager.check_network_unused(&name)?;
        context.done(&format!("would remove network {name}"))?;
        return Ok(0);
    }
    manager.delete_network(&name)?;
    context.done(&format!("network {name} is removed"))?;
    Ok(0)
}
