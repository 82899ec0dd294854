//! What a network tells its guests, on the command line: flags of `network create` and `network set`, a
//! line of `network info`.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches};

use super::render::safe;
use crate::guest::networks::NetworkView;
use crate::network::{Served, Standing};

pub(super) fn arguments() -> [Arg; 4] {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("BOOL")
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .help(help)
    };
    [
        switch(
            "dhcp",
            "Tell guests their own addresses by DHCP [default: false]",
        ),
        switch(
            "ra",
            "Tell guests the router by IPv6 router advertisements, their own addresses by DHCPv6 [default: false]",
        ),
        switch(
            "dns",
            "Tell guests each other's names by DNS, and what the host's name servers know [default: false]",
        ),
        Arg::new("domain")
            .long("domain")
            .value_name("NAME")
            .help("Domain of guests' names, or none for NETWORK.internal [default: none]"),
    ]
}

/// What was said before, with what is said anew.
pub(super) fn said(matches: &ArgMatches, mut served: Served) -> Served {
    for (name, value) in [
        ("dhcp", &mut served.dhcp),
        ("ra", &mut served.ra),
        ("dns", &mut served.dns),
    ] {
        if let Some(text) = matches.get_one::<String>(name) {
            *value = text == "true";
        }
    }
    if let Some(domain) = matches.get_one::<String>("domain") {
        served.domain = (domain != "none").then(|| domain.clone());
    }
    served
}

/// A line of `network info`; empty if nothing is served.
pub(super) fn shown(view: &NetworkView) -> String {
    let Some(domain) = &view.domain else {
        return String::new();
    };
    let words = view.served.words().join(", ");
    let how = match &view.server {
        Standing::Missing => {
            ": not now; a start of a guest or `bulkhead network reload` begins it".to_owned()
        }
        Standing::Failing(why) => format!(": not now: {}", safe(why)),
        Standing::Well | Standing::Stray => String::new(),
    };
    match view.served.dns {
        true => format!("{words} ({domain}){how}"),
        false => format!("{words}{how}"),
    }
}
