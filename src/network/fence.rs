//! What stands around guests once their interfaces have a place: the firewall tables, who is let
//! through, and the note that all of it is there. The place itself is `host.rs`, the rules `firewall.rs`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Network;
use super::files::{self, FileError};
use super::firewall;
use super::host::{BOOT_ID, ETHERNET_MTU, HostError, HostNetwork, Marker, way_out_mtu};
use super::subnet::Subnet;
use crate::kernel::netlink::Netlink;
use crate::kernel::netlink_nft::{Family, table_exists};

/// The file that says what has been set up.
pub(super) const MARKER: &str = "host.json";
/// How many connections the host keeps track of; there when the first rule asks for it.
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// What that is with a GiB of memory and more, before Linux says so.
const USUAL_ROOM: u32 = 262_144;
/// So many guests that want all they can get fill the host's table.
const GUESTS_PART: u32 = 16;
/// A server with fewer is none.
const LEAST_CEILING: u32 = 1024;

impl Network {
    /// How names of its guests' interfaces begin, where there are others' to let go
    /// ([`firewall::gated`]).
    pub(super) fn gate(&self) -> Option<String> {
        self.name.as_ref().map(|_| format!("{}*", self.prefix()))
    }

    /// The firewall, and the note that all is there.
    pub(super) fn fence(
        &self,
        kernel: &mut Netlink,
        subnet: Subnet,
    ) -> Result<HostNetwork, HostError> {
        let pause = || files::pause(Path::new(&self.bridge));
        let table = &self.table;
        firewall::apply(table, &self.tables(subnet)?)?;
        pause()?;
        self.look_into_discovery()?;
        self.look_into_questions()?;
        self.admit_all(subnet)?;
        pause()?;
        if !self.has_inside() && table_exists(Family::Inet, table)? {
            firewall::delete(Family::Inet, table)?;
            pause()?;
        }
        let bridge = self.own_bridge(kernel)?.map(|(link, _)| link);
        let largest = self.largest_within(kernel)?.unwrap_or(u32::MAX);
        let host = HostNetwork {
            bridge: self.bridge.clone(),
            bridge_index: bridge.as_ref().map_or(0, |link| link.index),
            subnet,
            mtu: self.for_guests(match self.mtu {
                Some(mtu) => mtu,
                None if self.is_closed() => ETHERNET_MTU.min(largest),
                None if self.is_external() => bridge.map_or(ETHERNET_MTU, |link| link.mtu),
                None => way_out_mtu(kernel)?.min(largest),
            }),
        };
        let marker = Marker {
            boot_id: files::read_sysctl(Path::new(BOOT_ID))?.unwrap_or_default(),
            host: host.clone(),
            nat: self.nat,
            connections: self.connections,
            prefix6: self.prefix6,
            gateway: self.addresses.gateway,
            served: self.served.clone(),
            internal: self.internal.clone(),
            rules: firewall::REVISION,
        };
        // Before the note: whoever finds none does it again.
        self.end_other_server()?;
        files::write(&self.marker_file(), &marker)?;
        Ok(host)
    }

    /// The firewall, but for what follows from its guests.
    pub(super) fn tables(&self, subnet: Subnet) -> Result<Value, FileError> {
        let nat = match self.nat {
            true => Some(self.ceiling()?),
            false => None,
        };
        let gate = self.gate();
        let wire = self.wire().filter(|_| self.is_closed());
        Ok(firewall::tables(&firewall::Wanted {
            wire: wire.as_deref(),
            guard: &self.guard,
            name: &self.table,
            inside: &self.inside(),
            subnet,
            prefix6: self.prefix6,
            nat,
            own: (!self.is_external()).then(|| self.gateway_in(subnet)),
            closed: self.is_closed(),
            gate: gate.as_deref(),
            spoken: self.spoken(),
            internal: &self.internal(subnet),
        }))
    }

    pub(super) fn marker_file(&self) -> PathBuf {
        self.run_folder().join(MARKER)
    }

    /// Most connections of one guest: what the settings say, else a part of what the host has room for.
    fn ceiling(&self) -> Result<u32, FileError> {
        let usual = || {
            let room = files::read_sysctl(Path::new(CONNTRACK_MAX))?;
            let room = room.and_then(|room| room.parse().ok());
            Ok((room.unwrap_or(USUAL_ROOM) / GUESTS_PART).max(LEAST_CEILING))
        };
        self.connections.map_or_else(usual, Ok)
    }
}
