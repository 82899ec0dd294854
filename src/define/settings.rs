//! Host settings: `/etc/bulkhead/bulkhead.toml`. All have working values, so the file may be
//! missing. What one guest wants is in its definition, not here.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use super::error::DefineError;
use super::file::{ReadError, read_file};
use super::layer::{Replace, layered};
use super::read::Reader;
use super::word::{OrNone, Word, quoted};
use crate::model::{AddressBlock, Bytes, CpuSet, Cpus, IdBlock, Prefix6, Ratio};

/// A range of IPv4 addresses: `10.213.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// First address of it: all bits after the prefix are zero.
    pub network: Ipv4Addr,
    /// Bits that all its addresses share, 16 to 30.
    pub prefix: u8,
}

impl Word for Subnet {
    fn read(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a range of addresses: write one such as 10.213.0.0/16",
                quoted(text)
            )
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(16..=30).contains(&prefix) {
            return Err(format!(
                "{}: the prefix is out of range: 16 to 30",
                quoted(text)
            ));
        }
        let first = Ipv4Addr::from_bits(network.to_bits() & (u32::MAX << (32 - prefix)));
        if first != network {
            return Err(format!(
                "{}: the range begins at {first}/{prefix}",
                quoted(text)
            ));
        }
        if network.is_multicast() || network.is_loopback() || network.is_unspecified() {
            return Err(format!(
                "{}: these addresses have another use",
                quoted(text)
            ));
        }
        Ok(Self { network, prefix })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// Most ranges that each packet is held against, and that are written with every network's rules.
const MOST_INTERNAL: usize = 1000;

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSettings {
    /// Name of the bridge; `None` for the program's own choice.
    pub bridge: Option<String>,
    /// Addresses of bridge and guests.
    pub subnet: Subnet,
    /// IPv6 prefix of bridge and guests; `None` for no IPv6.
    pub prefix6: Option<Prefix6>,
    /// Whether guests reach the world with the host's address.
    pub nat: bool,
    /// Name servers of guests that name none; empty for the host's.
    pub dns: Vec<IpAddr>,
    /// Whether guests that do not say otherwise are kept apart from each other.
    pub isolated_ports: bool,
    /// Most connections of one guest at once; 0 for as many as the host has room for, `None` for a
    /// part of that.
    pub connections: Option<u32>,
    /// What guests are told: their addresses, the router, names, and the domain of those.
    pub dhcp: bool,
    /// See `dhcp`.
    pub ra: bool,
    /// See `dhcp`.
    pub names: bool,
    /// See `dhcp`; `None` for the usual one.
    pub domain: Option<String>,
    /// `traffic.internal`: addresses with which traffic is internal, beside those of a guest's own
    /// network.
    pub internal: Vec<AddressBlock>,
}

/// `[ids]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSettings {
    /// First host id that may belong to guests.
    pub first: u32,
    /// How many ids from there on; each guest takes [`IdBlock::STRIDE`].
    pub count: u32,
}

/// `[reserve]` and `[overcommit]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// Bytes of memory kept for the host.
    pub memory_reserve: u64,
    /// How often the rest may be promised.
    pub memory_ratio: Ratio,
    /// Hundredths of a CPU kept for the host.
    pub cpu_reserve: u32,
    /// How often the rest may be promised.
    pub cpu_ratio: Ratio,
    /// Bytes of each filesystem with pools that are kept for the host.
    pub disk_reserve: u64,
    /// How often the rest may be sold as disks; `None` for as often as one likes.
    pub disk_ratio: Option<Ratio>,
    /// Whether `--force` may go beyond all this.
    pub force: bool,
}

/// Host settings, all filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Network of the guests.
    pub network: NetworkSettings,
    /// Host ids of the guests.
    pub ids: IdSettings,
    /// More templates, beside the built-in ones; `None` for `templates` in the settings' folder.
    pub templates: Option<PathBuf>,
    /// Where built images are kept; `None` for the usual place.
    pub images: Option<PathBuf>,
    /// Days for which deleted guests are kept in the trash; 0 for not at all.
    pub trash_days: u32,
    /// How much of the host may be promised to guests.
    pub room: RoomSettings,
    /// CPUs that no guest runs on.
    pub reserved_cpus: CpuSet,
    /// What all guests together weigh at disks, where what is not a guest's weighs 100.
    pub io_weight: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            network: NetworkSettings {
                bridge: None,
                subnet: Subnet {
                    network: Ipv4Addr::new(10, 213, 0, 0),
                    prefix: 16,
                },
                prefix6: None,
                nat: true,
                dns: Vec::new(),
                isolated_ports: false,
                connections: None,
                dhcp: false,
                ra: false,
                names: false,
                domain: None,
                internal: Vec::new(),
            },
            // Above what distributions give to people (subuid(5)) and Incus to its containers;
            // room for 8,064 guests, and all below 2^31. systemd-nspawn's --private-users=pick
            // takes from the same numbers: a host that uses both moves one of them.
            ids: IdSettings {
                first: 0x4000_0000,
                count: 0x3f00_0000,
            },
            templates: None,
            images: None,
            trash_days: 0,
            room: RoomSettings {
                memory_reserve: 0,
                memory_ratio: Ratio::ONE,
                cpu_reserve: 0,
                cpu_ratio: Ratio::ONE,
                disk_reserve: 0,
                disk_ratio: None,
                force: true,
            },
            reserved_cpus: CpuSet::default(),
            io_weight: None,
        }
    }
}

layered! {
    /// The file.
    pub struct SettingsPart {
        /// `[network]`
        network: NetworkSettingsPart,
        /// `[traffic]`
        traffic: TrafficPart,
        /// `[ids]`
        ids: IdSettingsPart,
        /// `[templates]`
        templates: FolderPart,
        /// `[images]`
        images: FolderPart,
        /// `[trash]`
        trash: TrashPart,
        /// `[reserve]`
        reserve: ReservePart,
        /// `[overcommit]`
        overcommit: OvercommitPart,
    }
}

layered! {
    /// `[reserve]`
    pub struct ReservePart {
        /// Memory kept for the host.
        memory: Option<Bytes>,
        /// CPUs kept for the host.
        cpus: Option<OrNone<Cpus>>,
        /// Those that no guest runs on.
        cpuset: Option<OrNone<CpuSet>>,
        /// Room kept for the host on each filesystem with pools.
        disk: Option<Bytes>,
        /// What all guests together weigh at disks.
        io_weight: Option<u32>,
    }
}

layered! {
    /// `[overcommit]`
    pub struct OvercommitPart {
        /// How often memory beyond the reserve may be promised.
        memory: Option<Ratio>,
        /// How often CPUs may.
        cpus: Option<Ratio>,
        /// How often room on disks may be sold.
        disk: Option<Ratio>,
        /// Whether `--force` may go beyond.
        force: Option<bool>,
    }
}

layered! {
    /// `[trash]`
    pub struct TrashPart {
        /// Days for which deleted guests are kept.
        days: Option<u32>,
    }
}

layered! {
    /// `[network]`
    pub struct NetworkSettingsPart {
        /// Name of the bridge.
        bridge: Option<String>,
        /// Addresses.
        subnet: Option<Subnet>,
        /// IPv6 prefix.
        prefix6: Option<Prefix6>,
        /// Whether packets out get the host's address.
        nat: Option<bool>,
        /// Name servers.
        dns: Replace<IpAddr>,
        /// Whether guests are kept apart.
        isolated_ports: Option<bool>,
        /// Most connections of a guest.
        connections: Option<u32>,
        /// Whether guests are told their addresses by DHCP.
        dhcp: Option<bool>,
        /// Whether they are told the router by advertisements.
        ra: Option<bool>,
        /// Whether they are told names by DNS.
        names: Option<bool>,
        /// Where the names are.
        domain: Option<String>,
    }
}

layered! {
    /// `[traffic]`
    pub struct TrafficPart {
        /// Addresses with which it is internal.
        internal: Replace<AddressBlock>,
    }
}

layered! {
    /// `[ids]`
    pub struct IdSettingsPart {
        /// First host id.
        first: Option<u32>,
        /// How many.
        count: Option<u32>,
    }
}

layered! {
    /// `[templates]`, `[images]`
    pub struct FolderPart {
        /// The folder.
        dir: Option<PathBuf>,
    }
}

impl ReservePart {
    fn cpuset(&self) -> CpuSet {
        let set = self.cpuset.as_ref().and_then(|set| set.0.clone());
        set.unwrap_or_default()
    }

    /// Hundredths of those that no guest runs on.
    fn whole(&self) -> u32 {
        u32::try_from(self.cpuset().len() * 100).unwrap_or(u32::MAX)
    }

    fn with(&self, overcommit: &OvercommitPart) -> RoomSettings {
        let cpus = self.cpus.as_ref().and_then(|cpus| cpus.0);
        RoomSettings {
            memory_reserve: self.memory.map_or(0, |bytes| bytes.0),
            memory_ratio: overcommit.memory.unwrap_or(Ratio::ONE),
            // Whole ones are kept by their number, and count.
            cpu_reserve: cpus.map_or(0, Cpus::hundredths).max(self.whole()),
            cpu_ratio: overcommit.cpus.unwrap_or(Ratio::ONE),
            disk_reserve: self.disk.map_or(0, |bytes| bytes.0),
            disk_ratio: overcommit.disk,
            force: overcommit.force.unwrap_or(true),
        }
    }
}

impl Settings {
    /// The settings in a file; the usual ones if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or all faults of its text.
    pub fn load(path: &Path) -> Result<Self, DefineError> {
        match read_file(path) {
            Ok(text) => Self::parse(&path.display().to_string(), &text),
            Err(ReadError::Missing(_)) => Ok(Self::default()),
            Err(error) => Err(DefineError::single("", error.to_string())),
        }
    }

    /// The settings a text gives.
    ///
    /// # Errors
    /// All faults of the text, with their lines.
    pub fn parse(source: &str, text: &str) -> Result<Self, DefineError> {
        let mut reader = Reader::new(source, text);
        let part: SettingsPart = reader.document();
        let usual = Self::default();
        let settings = Self {
            network: NetworkSettings {
                bridge: part.network.bridge,
                subnet: part.network.subnet.unwrap_or(usual.network.subnet),
                prefix6: part.network.prefix6,
                nat: part.network.nat.unwrap_or(usual.network.nat),
                dns: part.network.dns.0.unwrap_or_default(),
                isolated_ports: part.network.isolated_ports.unwrap_or(false),
                connections: part.network.connections,
                dhcp: part.network.dhcp.unwrap_or(false),
                ra: part.network.ra.unwrap_or(false),
                names: part.network.names.unwrap_or(false),
                domain: part.network.domain,
                internal: part.traffic.internal.0.unwrap_or_default(),
            },
            ids: IdSettings {
                first: part.ids.first.unwrap_or(usual.ids.first),
                count: part.ids.count.unwrap_or(usual.ids.count),
            },
            templates: part.templates.dir,
            images: part.images.dir,
            trash_days: part.trash.days.unwrap_or(usual.trash_days),
            room: part.reserve.with(&part.overcommit),
            reserved_cpus: part.reserve.cpuset(),
            io_weight: part.reserve.io_weight,
        };
        for (key, message) in settings.refused() {
            reader.fault_at_key(key, format!("{key}: {message}"));
        }
        reader.finish().map(|_| settings)
    }

    fn refused(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        // IFNAMSIZ, netdevice(7).
        let interface = |name: &String| {
            (1..=15).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        if !self.network.bridge.iter().all(interface) {
            let message = "use 1 to 15 letters, digits, - and _".to_owned();
            found.push(("network.bridge", message));
        }
        let ids = self.ids;
        if ids.first < 65_536 {
            let message =
                "is out of range: at least 65536, the ids below are the host's".to_owned();
            found.push(("ids.first", message));
        }
        // 2^32 - 1 is no id, and tools that keep ids in signed numbers stop at 2^31.
        if ids
            .first
            .checked_add(ids.count)
            .is_none_or(|end| end > 1 << 31)
        {
            found.push((
                "ids.count",
                "ids.first and ids.count together are at most 2147483648".into(),
            ));
        }
        if ids.count < IdBlock::STRIDE {
            found.push((
                "ids.count",
                format!("is too few: a guest takes {}", IdBlock::STRIDE),
            ));
        }
        if self.network.internal.len() > MOST_INTERNAL {
            found.push((
                "traffic.internal",
                format!("has more than {MOST_INTERNAL} addresses: name fewer and larger ranges"),
            ));
        }
        if self.io_weight.is_some_and(|n| !(1..=1000).contains(&n)) {
            found.push(("reserve.io_weight", "is out of range: 1 to 1000".into()));
        }
        if self.trash_days > 3650 {
            found.push(("trash.days", "is out of range: 0 to 3650".into()));
        }
        let folders = [
            ("templates.dir", &self.templates),
            ("images.dir", &self.images),
        ];
        for (key, folder) in folders {
            if folder.as_ref().is_some_and(|folder| !folder.is_absolute()) {
                found.push((key, "is relative: begin with /".to_owned()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_and_an_empty_one_are_the_usual_settings() {
        assert_eq!(Settings::parse("s", ""), Ok(Settings::default()));
        assert_eq!(
            Settings::load(Path::new("/nonexistent/x.toml")),
            Ok(Settings::default())
        );
        assert!(Settings::default().refused().is_empty());
    }

    #[test]
    fn settings_are_read_and_refused_with_their_lines() {
        let text = "[network]\nsubnet = \"10.9.0.0/24\"\nnat = false\ndns = [\"1.1.1.1\"]\n\
                    [ids]\nfirst = 1_000_000\ncount = 262144\n[images]\ndir = \"/big\"\n\
                    [trash]\ndays = 7\n";
        let settings = Settings::parse("s", text).unwrap();
        assert_eq!(settings.network.subnet.to_string(), "10.9.0.0/24");
        assert_eq!(
            (settings.network.nat, settings.ids.first),
            (false, 1_000_000)
        );
        assert_eq!(settings.images, Some("/big".into()));
        let text = "[traffic]\ninternal = [\"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"]";
        let listed = Settings::parse("s", text).unwrap().network.internal;
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]);
        assert_eq!(settings.trash_days, 7);
        assert_eq!(settings.room, Settings::default().room);
        let text = "[reserve]\nmemory = \"2G\"\ncpus = 0.5\ndisk = \"20G\"\n\
                    [overcommit]\nmemory = 1.5\ncpus = 4\ndisk = 2\nforce = false\n";
        let room = Settings::parse("s", text).unwrap().room;
        assert_eq!(
            (room.disk_reserve, room.disk_ratio, room.force),
            (20 << 30, Some(Ratio(200)), false)
        );
        assert_eq!((room.memory_reserve, room.cpu_reserve), (2 << 30, 50));
        let whole = Settings::parse("s", "[reserve]\ncpus = 0.5\ncpuset = \"0-1\"").unwrap();
        assert_eq!(whole.reserved_cpus.to_string(), "0-1");
        assert_eq!(whole.room.cpu_reserve, 200);
        assert_eq!(
            (room.memory_ratio, room.cpu_ratio),
            (Ratio(150), Ratio(400))
        );

        let refused = |text: &str| Settings::parse("s", text).unwrap_err().to_string();
        assert_eq!(
            refused("[network]\nsubnet = \"10.9.1.0/16\""),
            "s:2: network.subnet: \"10.9.1.0/16\": the range begins at 10.9.0.0/16"
        );
        assert_eq!(
            refused("[network]\nprefix6 = \"10.0.0.0/8\""),
            "s:2: network.prefix6: \"10.0.0.0/8\" is IPv4: write an IPv6 prefix such as fd42:1:2:3::/64; IPv4 pools are `subnet`"
        );
        assert_eq!(
            refused("[ids]\nfirst = 5"),
            "s:2: ids.first: is out of range: at least 65536, the ids below are the host's"
        );
        assert_eq!(
            refused("[network]\nsubnet = \"10.0.0.0/8\""),
            "s:2: network.subnet: \"10.0.0.0/8\": the prefix is out of range: 16 to 30"
        );
        assert!(refused("[overcommit]\ncpus = 0").starts_with("s:2: overcommit.cpus: "));
        assert!(refused("[reserve]\nmemory = \"x\"").starts_with("s:2: reserve.memory: "));
        assert!(refused("[reserve]\nio_weight = 0").contains("reserve.io_weight: is out of range"));
        assert!(refused("[reserve]\nio_weight = 1001").contains("1 to 1000"));
        let weighed = Settings::parse("s", "[reserve]\nio_weight = 50").unwrap();
        assert_eq!(weighed.io_weight, Some(50));
        assert_eq!(
            refused("[traffic]\ninternal = [\"10.0.0.1/8\"]"),
            "s:2: traffic.internal: \"10.0.0.1/8\" has bits beyond its length: write 10.0.0.0/8"
        );
        let many = vec!["\"10.0.0.1\""; 1001].join(",");
        assert!(refused(&format!("[traffic]\ninternal = [{many}]")).contains("more than 1000"));
        assert_eq!(
            refused("[trash]\ndays = 4000"),
            "s:2: trash.days: is out of range: 0 to 3650"
        );
        assert_eq!(
            refused("[netwrk]"),
            "s:1: unknown key \"netwrk\": did you mean \"network\"?"
        );
    }
}
