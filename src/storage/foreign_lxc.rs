//! What LXC says of a container (`/var/lib/lxc/NAME/config`, see lxc.container.conf(5)), in words of this
//! program: by the names of its keys since version 3 and by those before.

use std::collections::BTreeMap;

use super::foreign::Told;
use super::foreign_words::{self as words, Card};

/// More interfaces than anybody gives a container.
const CARDS_MOST: usize = 32;

/// What is so here anyway, or means something to LXC only; with all that begins so and goes on with a dot.
const ONLY_THERE: &[&str] = &[
    "lxc.log",
    "lxc.console",
    "lxc.tty",
    "lxc.autodev",
    "lxc.mount.auto",
    "lxc.monitor",
    "lxc.ephemeral",
    "lxc.loglevel",
    "lxc.logfile",
    "lxc.devttydir",
    "lxc.rootfs.mount",
    "lxc.rootfs.backend",
    "lxc.init.cwd",
];

/// Whether a text is such a configuration.
pub(super) fn is_one(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with("lxc.") && line.contains('=')
    })
}

/// Where the root is, if that is not a folder.
pub(super) fn root_elsewhere(text: &str) -> Option<&str> {
    fn root(line: &str) -> Option<&str> {
        let (key, value) = line.trim().split_once('=')?;
        matches!(key.trim(), "lxc.rootfs.path" | "lxc.rootfs").then(|| value.trim())
    }
    let is_folder = |place: &str| match place.split_once(':') {
        Some((kind, _)) => matches!(kind, "dir" | "btrfs"),
        None => !place.starts_with("/dev/"),
    };
    text.lines()
        .filter_map(root)
        .find(|place| !is_folder(place))
}

/// Reads the file.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let mut all = Reading::default();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.split_once('=') {
            Some((key, value)) => all.setting(key.trim(), value.trim())?,
            None => all.told.lost("a line", line),
        }
    }
    all.finish()
}

/// What has been read, as far as several lines say one thing.
#[derive(Default)]
struct Reading {
    told: Told,
    /// Interfaces by their numbers, each with its kind.
    cards: BTreeMap<u32, (String, Card)>,
    /// The interface that lines of the old names are about.
    old_card: u32,
    quota: Option<u64>,
    period: Option<u64>,
    memory: Option<u64>,
    memory_and_swap: Option<u64>,
    /// First id inside, first id on the host.
    ids: Vec<(u32, u32)>,
}

impl Reading {
    fn setting(&mut self, key: &str, value: &str) -> Result<(), String> {
        let told = &mut self.told;
        match key {
            "lxc.uts.name" | "lxc.utsname" => {
                value.clone_into(&mut told.name);
                told.set("hostname", value);
            }
            "lxc.arch" if !matches!(value, "x86_64" | "amd64" | "linux64" | "x86" | "i386" | "i686" | "linux32") => {
                return Err(format!("its programs are for {value:.80?}, this host runs x86_64 and i686"));
            }
            "lxc.arch" => {}
            "lxc.include" => told.note(format!(
                "lxc.include: {value:.80}: no file that it names is read, so what stands there is not known"
            )),
            "lxc.rootfs.path" | "lxc.rootfs" if value.starts_with('/') || value.starts_with("dir:") => {}
            "lxc.start.auto" if value == "1" => told.set("autostart.enabled", "true"),
            "lxc.start.auto" if value == "0" => {}
            "lxc.start.order" => {
                told.set_or_lost("autostart.priority", words::priority_of_order(value), (key, value));
            }
            "lxc.environment" if value.contains('=') => told.set("environment", value),
            "lxc.signal.halt" | "lxc.haltsignal" => told.set("init.stop_signal", value),
            "lxc.init.cmd" | "lxc.init_cmd" => told.set("init.command", value),
            "lxc.pty.max" | "lxc.pts" => told.set("ptys", value),
            "lxc.apparmor.allow_nesting" if value == "1" => told.set("security.nesting", "true"),
            "lxc.cap.drop" if value.is_empty() => told.settings.retain(|(key, _)| *key != "security.drop"),
            "lxc.cap.drop" => {
                for name in value.split_whitespace() {
                    told.set("security.drop", name.to_uppercase());
                }
            }
            "lxc.idmap" | "lxc.id_map" => self.id_map(value)?,
            _ => return self.of_group(key, value),
        }
        Ok(())
    }

    /// Keys of which there are many.
    fn of_group(&mut self, key: &str, value: &str) -> Result<(), String> {
        let told = &mut self.told;
        if let Some(name) = key
            .strip_prefix("lxc.cgroup2.")
            .or(key.strip_prefix("lxc.cgroup."))
        {
            self.limit(key, name, value);
        } else if let Some(rest) = key.strip_prefix("lxc.net.") {
            match rest.split_once('.') {
                Some((number, name)) if number.parse::<u32>().is_ok() => {
                    self.card(key, number.parse().unwrap_or_default(), name, value);
                }
                _ if value.is_empty() => self.cards.clear(),
                _ => told.lost(key, value),
            }
        } else if let Some(name) = key.strip_prefix("lxc.network.") {
            if name == "type" {
                self.old_card = self
                    .cards
                    .keys()
                    .next_back()
                    .map_or(0, |last| last.saturating_add(1));
            }
            self.card(key, self.old_card, name, value);
        } else if let Some(name) = key.strip_prefix("lxc.prlimit.") {
            told.set("rlimits", format!("{name}={}", value.replace(' ', "")));
        } else if let Some(name) = key.strip_prefix("lxc.sysctl.") {
            told.set("sysctls", format!("{name}={value}"));
        } else if !is_only_there(key) && !value.is_empty() {
            told.lost(key, value);
        }
        Ok(())
    }

    /// A limit of its control group, of either version.
    fn limit(&mut self, key: &str, name: &str, value: &str) {
        let told = &mut self.told;
        let lost = (key, value);
        let unlimited = matches!(value, "max" | "-1");
        match name {
            "memory.max" | "memory.limit_in_bytes" if !unlimited => match bytes(value) {
                Some(bytes) => self.memory = Some(bytes),
                None => told.lost(key, value),
            },
            "memory.memsw.limit_in_bytes" if !unlimited => match bytes(value) {
                Some(bytes) => self.memory_and_swap = Some(bytes),
                None => told.lost(key, value),
            },
            "memory.swap.max" | "memory.high" | "memory.low" | "memory.min" if !unlimited => {
                let ours = match name {
                    "memory.swap.max" => "memory.swap",
                    "memory.high" => "memory.high",
                    "memory.low" => "memory.low",
                    _ => "memory.min",
                };
                told.set_or_lost(ours, bytes(value).map(|bytes| bytes.to_string()), lost);
            }
            "pids.max" if !unlimited => told.set("processes", value),
            "cpu.weight" => told.set_or_lost("cpu.weight", words::weight(value, 100), lost),
            "cpu.shares" => told.set_or_lost("cpu.weight", words::weight(value, 1024), lost),
            "cpuset.cpus" => told.set("cpu.cpuset", value),
            "io.weight" => told.set(
                "io.weight",
                value.trim_start_matches("default").trim_start(),
            ),
            "cpu.max" => {
                let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
                match (quota, quota.parse(), period.trim().parse()) {
                    ("max", ..) => {}
                    (_, Ok(quota), Ok(period)) => {
                        (self.quota, self.period) = (Some(quota), Some(period));
                    }
                    _ => told.lost(key, value),
                }
            }
            "cpu.cfs_quota_us" if value == "-1" => {}
            "cpu.cfs_quota_us" | "cpu.cfs_period_us" => match value.parse() {
                Ok(time) if name == "cpu.cfs_quota_us" => self.quota = Some(time),
                Ok(time) => self.period = Some(time),
                Err(_) => told.lost(key, value),
            },
            // What every guest has without asking, or may not have.
            "devices.allow" | "devices.deny" => {}
            _ if unlimited => told.note(format!(
                "{key:.60}: no limit there; here it has one, or its usual"
            )),
            _ => told.lost(key, value),
        }
    }

    fn card(&mut self, key: &str, number: u32, name: &str, value: &str) {
        if !self.cards.contains_key(&number) && self.cards.len() == CARDS_MOST {
            return self.told.lost(key, value);
        }
        let (kind, card) = self.cards.entry(number).or_insert_with(|| {
            let label = format!("lxc.net.{number}");
            ("veth".to_owned(), Card::new(label))
        });
        let own = || (!value.is_empty()).then(|| value.to_owned());
        let first = || {
            value
                .split_whitespace()
                .next()
                .and_then(words::bare_address)
        };
        match name {
            "type" => value.clone_into(kind),
            "name" => card.name = own(),
            "link" => card.network = own(),
            "hwaddr" => card.mac = own(),
            "ipv4.address" | "ipv4" if card.address.is_none() => card.address = first(),
            "ipv6.address" | "ipv6" if card.address6.is_none() => card.address6 = first(),
            "ipv4.gateway" => {
                card.gateway = own().filter(|gateway| gateway != "auto" && gateway != "dev")
            }
            // Up, as every one is here; its other end's name, which is chosen here.
            "flags" | "veth.pair" | "veth.mode" => {}
            _ => self.told.lost(key, value),
        }
    }

    /// `u 0 100000 65536`: kind, first id inside, first on the host, how many.
    fn id_map(&mut self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            self.ids.clear();
            return Ok(());
        }
        let parts: Vec<&str> = value.split_whitespace().collect();
        let [_, inside, host, _] = parts[..] else {
            return Err(format!("lxc.idmap: {value:.80}: that is no map of ids"));
        };
        match (inside.parse(), host.parse()) {
            (Ok(inside), Ok(host)) => self.ids.push((inside, host)),
            _ => return Err(format!("lxc.idmap: {value:.80}: that is no map of ids")),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Told, String> {
        let told = &mut self.told;
        if let Some(quota) = self.quota {
            let limit = words::cpus(quota, self.period.unwrap_or(100_000));
            told.set_or_lost("cpu.limit", limit, ("CPU time", &quota.to_string()));
        }
        if let Some(bytes) = self.memory {
            told.set("memory.limit", bytes.to_string());
        }
        if let (Some(all), Some(memory)) = (self.memory_and_swap, self.memory) {
            told.set("memory.swap", all.saturating_sub(memory).to_string());
        }
        let first = self.ids.iter().find(|(inside, _)| *inside == 0);
        told.shift = first.map_or(0, |(_, host)| *host);
        if !self
            .ids
            .iter()
            .all(|(inside, host)| host.checked_sub(*inside) == Some(told.shift))
        {
            return Err("its files are owned by ids of several ranges".into());
        }
        let count = self.cards.len();
        for (kind, card) in self.cards.into_values() {
            match kind.as_str() {
                "empty" if count == 1 => told.set("network.kind", "none"),
                "empty" => {}
                "none" => told.note(format!(
                    "{}: it was on the network of its host: not taken",
                    card.label
                )),
                _ => told.cards.push(card),
            }
        }
        Ok(self.told)
    }
}

fn is_only_there(key: &str) -> bool {
    ONLY_THERE.iter().any(|known| {
        let rest = key.strip_prefix(known);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Bytes, with K, M or G behind them if wanted.
fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let unit: u64 = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" => 1 << 10,
        "M" | "MB" => 1 << 20,
        "G" | "GB" => 1 << 30,
        "T" | "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn has(told: &Told, wanted: &[(&str, &str)]) {
        for one in wanted {
            let found = told
                .settings
                .iter()
                .any(|(key, value)| (*key, value.as_str()) == *one);
            assert!(found, "{one:?}: {:?}", told.settings);
        }
    }

    #[test]
    fn a_configuration_of_today() {
        let told = container(
            "# Template\nlxc.include = /usr/share/lxc/config/common.conf\nlxc.arch = linux64\n\
             lxc.uts.name = web\nlxc.rootfs.path = dir:/var/lib/lxc/web/rootfs\nlxc.start.auto = 1\n\
             lxc.start.order = 5\nlxc.net.0.type = veth\nlxc.net.0.link = lxcbr0\nlxc.net.0.flags = up\n\
             lxc.net.0.hwaddr = 00:16:3e:01:02:03\nlxc.net.0.ipv4.address = 10.0.3.5/24 10.0.3.255\n\
             lxc.net.0.ipv4.gateway = auto\nlxc.net.1.type = veth\nlxc.net.1.name = lan\n\
             lxc.cgroup2.memory.max = 256M\nlxc.cgroup2.memory.swap.max = 0\nlxc.cgroup2.cpu.weight = 50\n\
             lxc.cgroup2.cpu.max = 150000 100000\nlxc.cgroup2.pids.max = 99\nlxc.prlimit.nofile = 1024:4096\n\
             lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\nlxc.cap.drop = sys_time sys_module\n\
             lxc.mount.entry = /srv srv none bind 0 0\nlxc.hook.start = /bin/evil\nlxc.apparmor.allow_nesting = 1\n",
        )
        .unwrap();
        assert_eq!((told.name.as_str(), told.shift), ("web", 100_000));
        has(
            &told,
            &[
                ("hostname", "web"),
                ("autostart.enabled", "true"),
                ("autostart.priority", "995"),
                ("memory.limit", "268435456"),
                ("memory.swap", "0"),
                ("cpu.weight", "50"),
                ("cpu.limit", "1.50"),
                ("processes", "99"),
                ("rlimits", "nofile=1024:4096"),
                ("security.drop", "SYS_TIME"),
                ("security.nesting", "true"),
            ],
        );
        let card = &told.cards[0];
        assert_eq!(card.address.as_deref(), Some("10.0.3.5"));
        assert_eq!(card.mac.as_deref(), Some("00:16:3e:01:02:03"));
        assert_eq!(
            (card.gateway.as_deref(), card.network.as_deref()),
            (None, Some("lxcbr0"))
        );
        assert_eq!(told.cards[1].name.as_deref(), Some("lan"));
        let notes = told.notes.join("\n");
        for what in ["lxc.include", "lxc.mount.entry", "lxc.hook.start"] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
        assert_eq!(told.notes.len(), 3, "{notes}");
    }

    #[test]
    fn a_configuration_of_before() {
        let told = container(
            "lxc.utsname = old\nlxc.rootfs = /var/lib/lxc/old/rootfs\nlxc.network.type = veth\n\
             lxc.network.link = br0\nlxc.network.ipv4 = 10.0.0.5/24\nlxc.network.type = veth\n\
             lxc.network.ipv4 = 10.1.0.5/24\nlxc.cgroup.memory.limit_in_bytes = 128M\n\
             lxc.cgroup.memory.memsw.limit_in_bytes = 192M\nlxc.cgroup.cpu.shares = 512\n\
             lxc.cgroup.cpu.cfs_quota_us = 50000\nlxc.id_map = u 0 100000 65536\n",
        )
        .unwrap();
        has(
            &told,
            &[
                ("memory.swap", "67108864"),
                ("cpu.weight", "50"),
                ("cpu.limit", "0.50"),
            ],
        );
        let addresses: Vec<_> = told
            .cards
            .iter()
            .map(|card| card.address.as_deref())
            .collect();
        assert_eq!(addresses, [Some("10.0.0.5"), Some("10.1.0.5")]);
        assert_eq!(told.shift, 100_000);
    }

    #[test]
    fn what_cannot_be_is_refused_or_told() {
        assert!(container("lxc.arch = aarch64\n").is_err());
        assert!(container("lxc.idmap = u 0 100000 65536\nlxc.idmap = u 1000 1000 1\n").is_err());
        assert!(container("lxc.idmap = u 0 99999999999 65536\n").is_err());
        let told = container(
            "lxc.cgroup2.memory.max = 99999999999999999999\nlxc.cgroup2.cpu.max = 1 0\nlxc.cgroup2.cpu.weight = 0\n\
             lxc.net.x.type = veth\nlxc.net.4294967296.type = veth\nlxc.start.order = -1\nx\n",
        )
        .unwrap();
        assert_eq!((told.settings.len(), told.notes.len()), (0, 7), "{told:?}");
        let many: String = (0..100)
            .map(|n| format!("lxc.net.{n}.type = veth\n"))
            .collect();
        assert_eq!(container(&many).unwrap().cards.len(), CARDS_MOST);
        let told = container("lxc.net.0.type = empty\n").unwrap();
        has(&told, &[("network.kind", "none")]);
        assert!(is_one("# x\n lxc.uts.name=a\n") && !is_one("Host *\n  User root\n"));
    }

    proptest! {
        #[test]
        fn any_text_ends(
            text in "(lxc\\.(net\\.0|network|cgroup2?|idmap|start|cap|prlimit)\\.?[a-z_.0-9]{0,12} ?= ?[-a-zKM0-9 :./\0]{0,20}\n){0,8}"
        ) {
            if let Ok(told) = container(&text) {
                prop_assert!(told.cards.len() <= CARDS_MOST);
            }
        }

        #[test]
        fn any_bytes_end(text: String) {
            let _told = container(&text);
        }
    }
}
