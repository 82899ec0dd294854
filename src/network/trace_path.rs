//! Which hooks of the firewall a traced packet comes by, in order, and which interfaces the rules there
//! see. What is decided at each is `trace.rs`.

use std::path::Path;

use super::Network;
use super::files::{self, FileError};
use super::trace::{Asked, Peer};

const BRIDGED_TOO: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
/// Families of rules that IPv4 meets where the host routes it.
const ROUTED: [&str; 2] = ["ip", "inet"];
const BRIDGED: [&str; 1] = ["bridge"];

impl Network {
    /// The hooks that the packet comes by.
    pub(super) fn stops(&self, asked: &Asked<'_>, peer: &Peer) -> Result<Vec<Stop>, FileError> {
        let port = asked.lease.host_interface.as_str();
        let bridge = self.bridge.as_str();
        let incoming = asked.question.incoming;
        let routed = self.is_routed();
        let over = |peer: &Peer| match peer {
            Peer::Beyond(interface) => interface.clone(),
            Peer::Neighbour { lease, .. } => lease.host_interface.clone(),
            Peer::Host => String::new(),
        };
        let other = over(peer);
        let (first, last) = match incoming {
            true => (other.as_str(), port),
            false => (port, other.as_str()),
        };
        let switched = !routed
            && (matches!(peer, Peer::Neighbour { .. })
                || (self.is_external() && matches!(peer, Peer::Beyond(_))));
        if switched {
            return self.switched(first, last, bridge);
        }
        // Where guests are on a bridge, that is the interface which the host routes by.
        let inside = if routed { port } else { bridge };
        let mut all = Vec::new();
        if !incoming && !routed {
            all.push(Stop::new("guard", &BRIDGED, "prerouting", port, ""));
            all.push(Stop::new("to the host", &BRIDGED, "input", port, ""));
        }
        let (from, to) = match incoming {
            true => (other.as_str(), inside),
            false => (inside, other.as_str()),
        };
        match (peer, incoming) {
            (Peer::Host, true) => all.push(Stop::new("host sends", &ROUTED, "output", "", to)),
            (Peer::Host, false) => {
                let guard = if routed { "guard" } else { "host" };
                all.push(Stop::new(guard, &ROUTED, "prerouting", from, ""));
                all.push(Stop::new("host takes in", &ROUTED, "input", from, ""));
                return Ok(all);
            }
            _ => {
                let at = if routed && !incoming { "guard" } else { "host" };
                all.push(Stop::new(at, &ROUTED, "prerouting", from, ""));
                let mut forward = Stop::new("host passes on", &ROUTED, "forward", from, to);
                forward.passed_on = true;
                all.push(forward);
            }
        }
        all.push(Stop::new("host sends on", &ROUTED, "postrouting", "", to));
        if incoming && !routed {
            all.push(Stop::new("bridge", &BRIDGED, "output", "", port));
            all.push(Stop::new("to its port", &BRIDGED, "postrouting", "", port));
        }
        Ok(all)
    }

    /// The same where a bridge takes it from one port to another.
    fn switched(&self, from: &str, to: &str, bridge: &str) -> Result<Vec<Stop>, FileError> {
        let mut all = vec![
            Stop::new("guard", &BRIDGED, "prerouting", from, ""),
            Stop::new("bridge", &BRIDGED, "forward", from, to),
        ];
        if files::read_sysctl(Path::new(BRIDGED_TOO))?.as_deref() == Some("1") {
            let at = "host, though bridged";
            all.push(Stop::new(at, &ROUTED, "forward", bridge, bridge));
        }
        all.push(Stop::new("to the port", &BRIDGED, "postrouting", from, to));
        Ok(all)
    }
}

/// A hook, with the interfaces that rules there see.
pub(super) struct Stop {
    pub(super) at: &'static str,
    pub(super) families: &'static [&'static str],
    pub(super) hook: &'static str,
    pub(super) from: String,
    pub(super) to: String,
    /// Whether the host has to pass packets on for it.
    pub(super) passed_on: bool,
}

impl Stop {
    fn new(
        at: &'static str,
        families: &'static [&'static str],
        hook: &'static str,
        from: &str,
        to: &str,
    ) -> Self {
        Self {
            at,
            families,
            hook,
            from: from.to_owned(),
            to: to.to_owned(),
            passed_on: false,
        }
    }
}
