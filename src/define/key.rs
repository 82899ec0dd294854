//! The table of settings: one row for each key a person can set. The command line makes its flags
//! from it, `edit` and `show` find their keys in it, and `docs/definition.md` lists it.

use super::error::suggestion;
use super::word::quoted;

/// How a setting is written in TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number, or text with a unit.
    Number,
    /// `true` or `false`.
    Switch,
    /// A list that is one value.
    List,
    /// A list that grows, one item by one.
    Words,
    /// A table with names of one's own: `NAME=VALUE`.
    Map,
    /// `[[mount]]`: `SOURCE:TARGET[:ro][:noidmap]`.
    Mount,
    /// `[[tmpfs]]`: `TARGET[:SIZE[:MODE]]`.
    Tmpfs,
    /// `[[device]]`: `PATH[:ACCESS]`.
    Device,
    /// `[[io.device]]`: `DEVICE:read=10M,write=5M,read_iops=100,write_iops=100`.
    IoLimit,
    /// `[[network.nic]]`: `NAME=NETWORK[,address=IP,rate_in=10mbit…]`.
    Nic,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it is in the definition: `cpu.limit`.
    pub path: &'static str,
    /// Its flag, without `--`.
    pub flag: &'static str,
    /// What stands for its value in help texts.
    pub value: &'static str,
    /// What it does, with units.
    pub help: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// Whether a running guest can take a new value at once.
    pub live: bool,
}

/// When a new value takes effect.
const LIVE: bool = true;
const RESTART: bool = false;

const fn key(
    path: &'static str,
    flag: &'static str,
    value: &'static str,
    kind: Kind,
    live: bool,
    help: &'static str,
) -> Key {
    Key {
        path,
        flag,
        value,
        help,
        kind,
        live,
    }
}

/// All settings, in the order in which people are shown them.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("template", "template", "NAME", Kind::Text, RESTART,
        "Recipe of the root filesystem; `bulkhead template list` names them [default: host]"),
    key("template.options", "option", "NAME=VALUE", Kind::Map, RESTART,
        "Option of the template, such as suite=trixie"),
    key("image", "image", "IMAGE", Kind::Text, RESTART,
        "Image to make it from instead of a template: a tag, or the beginning of a digest; \
         `bulkhead image list` names them"),
    key("profiles", "profile", "NAME", Kind::List, RESTART,
        "Profile below the guest's own settings; later ones win over earlier"),
    key("description", "description", "TEXT", Kind::Text, LIVE,
        "Free text, one line"),
    key("labels", "label", "NAME=VALUE", Kind::Map, LIVE,
        "Free label, for --select"),
    key("tenant", "tenant", "NAME", Kind::Text, RESTART,
        "Tenant whose limits it shares with the tenant's other guests, or none; `bulkhead tenant \
         list` names them [default: none]"),
    key("protect", "protect", "BOOL", Kind::Switch, LIVE,
        "Whether `delete` refuses it, whatever else is said [default: false]"),
    key("cpu.mode", "cpu-mode", "MODE", Kind::Text, LIVE,
        "How it is given CPUs: shared with other guests, dedicated (whole ones, for it alone) or pool \
         [default: shared]"),
    key("cpu.dedicated", "dedicated", "N", Kind::Number, LIVE,
        "With cpu.mode dedicated: how many whole CPUs, or none [default: none]"),
    key("cpu.pool", "cpupool", "POOL", Kind::Text, LIVE,
        "With cpu.mode pool: the pool whose CPUs it runs on, or none; `bulkhead cpupool list` names them \
         [default: none]"),
    key("cpu.resize", "cpu-resize", "WHEN", Kind::Text, LIVE,
        "When settings of cpu may change: fixed (never), static (at its next start) or dynamic (at once) \
         [default: dynamic]"),
    key("cpu.limit", "cpus", "CPUS", Kind::Number, LIVE,
        "Most CPUs' time used, in steps of 0.01, or none [default: none]"),
    key("cpu.entitled", "entitled", "CPUS", Kind::Number, LIVE,
        "CPUs' time guaranteed to it, in steps of 0.01, or none [default: none]"),
    key("cpu.weight", "cpu-weight", "WEIGHT", Kind::Number, LIVE,
        "Share of CPU time under contention, 1 to 10000 [default: 100, or 100 for each CPU of \
         cpu.entitled]"),
    key("cpu.cpuset", "cpuset", "LIST", Kind::Text, LIVE,
        "CPUs it may run on, such as 0-2,5, or none for all [default: none]"),
    key("cpu.burst", "cpu-burst", "CPUS", Kind::Number, LIVE,
        "Unused CPU time saved up to be used above the limit, in CPUs, at most the limit \
         [default: none]"),
    key("cpu.earn", "cpu-earn", "CPUS", Kind::Number, LIVE,
        "CPU time it earns for credits, and all it gets without any, in CPUs below cpu.limit, or none; needs \
         cpu.bank [default: none]"),
    key("cpu.bank", "cpu-bank", "TIME", Kind::Text, LIVE,
        "Most credits it saves up, as CPU time: 1s to 30d, or none; needs cpu.earn [default: none]"),
    key("cpu.core_scheduling", "core-scheduling", "BOOL", Kind::Switch, RESTART,
        "Whether nobody else runs on a core, on any of its threads, while it runs there \
         [default: false]"),
    key("memory.resize", "memory-resize", "WHEN", Kind::Text, LIVE,
        "When settings of memory may change: fixed, static or dynamic, as for cpu.resize \
         [default: dynamic]"),
    key("memory.limit", "memory", "BYTES", Kind::Number, LIVE,
        "Most memory, with K, M, G or T; at least 4M [default: 512M]"),
    key("memory.swap", "swap", "BYTES", Kind::Number, LIVE,
        "Most swap beyond memory [default: 0]"),
    key("memory.high", "memory-high", "BYTES", Kind::Number, LIVE,
        "Slowed down and reclaimed above this much memory, or none [default: none]"),
    key("memory.low", "memory-low", "BYTES", Kind::Number, LIVE,
        "Memory kept while others can give theirs [default: 0]"),
    key("memory.min", "memory-min", "BYTES", Kind::Number, LIVE,
        "Memory kept whatever happens [default: 0]"),
    key("memory.oom_group", "oom-group", "BOOL", Kind::Switch, LIVE,
        "Running out of memory kills the whole guest instead of one process [default: false]"),
    key("processes", "processes", "COUNT", Kind::Number, LIVE,
        "Most processes and threads at once [default: 1024]"),
    key("io.weight", "io-weight", "WEIGHT", Kind::Number, LIVE,
        "Share of block devices under contention, 1 to 10000, or none [default: none]"),
    key("io.device", "io-limit", "DEVICE:LIMITS", Kind::IoLimit, LIVE,
        "Limits of a block device a second: \
         /dev/vda:read=10M,write=5M,read_iops=100,write_iops=100"),
    key("disk.pool", "pool", "NAME", Kind::Text, RESTART,
        "Pool its root lies in, chosen when it is made; `bulkhead pool list` names them \
         [default: default]"),
    key("disk.size", "disk", "BYTES", Kind::Number, LIVE,
        "Size of its root: what it may write and what df shows, or none [default: none]"),
    key("disk.inodes", "disk-inodes", "COUNT", Kind::Number, RESTART,
        "Most files of its root, chosen when it is made, or none [default: none]"),
    key("rlimits", "rlimit", "NAME=SOFT[:HARD]", Kind::Map, RESTART,
        "Resource limit of getrlimit(2): nofile=1024:4096, core=unlimited, memlock=64M"),
    key("sysctls", "sysctl", "NAME=VALUE", Kind::Map, RESTART,
        "Kernel setting of the guest's own: net.*, fs.mqueue.*, kernel.shm*, kernel.msg*, \
         kernel.sem"),
    key("hostname", "hostname", "NAME", Kind::Text, RESTART,
        "Host name inside [default: the guest's name]"),
    key("domain", "domain", "NAME", Kind::Text, RESTART,
        "Domain name inside [default: none]"),
    key("timezone", "timezone", "ZONE", Kind::Text, RESTART,
        "Time zone inside, such as Europe/Berlin [default: Etc/UTC]"),
    key("environment", "env", "NAME=VALUE", Kind::Map, RESTART,
        "Variable in the environment of the guest's init"),
    key("init.command", "init", "COMMAND", Kind::List, RESTART,
        "First program and its arguments, split at blanks [default: the root's /sbin/init]"),
    key("init.stop_signal", "stop-signal", "SIGNAL", Kind::Text, LIVE,
        "Signal that asks it to shut down, such as SIGRTMIN+3, or none for what its init \
         expects [default: none]"),
    key("init.stop_timeout", "stop-timeout", "TIME", Kind::Text, LIVE,
        "Time to shut down before it is killed: 30s, 2m, 500ms [default: 30s]"),
    key("mount", "mount", "SOURCE:TARGET[:ro][:noidmap]", Kind::Mount, RESTART,
        "Host folder or file shown inside; ids are shifted into the guest's unless noidmap"),
    key("tmpfs", "tmpfs", "TARGET[:SIZE[:MODE]]", Kind::Tmpfs, RESTART,
        "Memory file system inside, counted as the guest's memory [default: 64M, mode 1777]"),
    key("device", "device", "PATH[:ACCESS]", Kind::Device, RESTART,
        "Device node of the host shown inside; access is of r (read), w (write), m (make) \
         [default: rw]"),
    key("security.add", "cap-add", "CAPABILITY", Kind::Words, RESTART,
        "Capability beyond the usual ones, with or without CAP_"),
    key("security.drop", "cap-drop", "CAPABILITY", Kind::Words, RESTART,
        "Capability taken away, or ALL"),
    key("security.seccomp", "seccomp", "NAME", Kind::Text, RESTART,
        "List of allowed system calls [default: default]"),
    key("security.no_new_privileges", "no-new-privileges", "BOOL", Kind::Switch, RESTART,
        "Programs gain nothing by executing setuid programs [default: false]"),
    key("security.nesting", "nesting", "BOOL", Kind::Switch, RESTART,
        "User namespaces, so containers, may be made inside [default: false]"),
    key("autostart.enabled", "autostart", "BOOL", Kind::Switch, LIVE,
        "Start with the host [default: false]"),
    key("autostart.priority", "start-priority", "NUMBER", Kind::Number, LIVE,
        "Higher starts earlier, -1000 to 1000 [default: 0]"),
    key("autostart.after", "start-after", "GUEST", Kind::Words, LIVE,
        "Guest that must run before this one starts with the host"),
    key("restart.policy", "restart", "POLICY", Kind::Text, LIVE,
        "Start again after an end nobody asked for: no, on-failure, always [default: no]"),
    key("restart.delay", "restart-delay", "TIME", Kind::Text, LIVE,
        "First pause before it starts again, doubled each time, 100ms to 1h [default: 1s]"),
    key("restart.delay_max", "restart-delay-max", "TIME", Kind::Text, LIVE,
        "Longest pause, at most 24h [default: 60s]"),
    key("restart.attempts", "restart-attempts", "COUNT", Kind::Number, LIVE,
        "Give up after so many in a row; 0 for never [default: 10]"),
    key("snapshots.every", "snapshot-every", "TIME", Kind::Text, LIVE,
        "Time between snapshots that `bulkhead snapshot run` takes, such as 1h or 1d, or none \
         [default: none]"),
    key("snapshots.keep_last", "snapshot-keep-last", "COUNT", Kind::Number, LIVE,
        "How many of the newest of them are kept [default: 3]"),
    key("snapshots.daily", "snapshot-daily", "COUNT", Kind::Number, LIVE,
        "Of how many of the last days that have any the newest is kept [default: 7]"),
    key("snapshots.weekly", "snapshot-weekly", "COUNT", Kind::Number, LIVE,
        "The same of weeks [default: 4]"),
    key("snapshots.monthly", "snapshot-monthly", "COUNT", Kind::Number, LIVE,
        "The same of months [default: 0]"),
    key("events.throttled", "throttled", "PERCENT", Kind::Number, LIVE,
        "Told when its CPU limit held it back in so much of the time, 1 to 100, or none \
         [default: 25]"),
    key("network.kind", "network", "KIND", Kind::Text, RESTART,
        "bridge, none, host (no isolation), or a network's name [default: bridge]"),
    key("network.address", "address", "IP", Kind::Text, RESTART,
        "IPv4 address on the bridge, or none to be given one [default: none]"),
    key("network.address6", "address6", "IP", Kind::Text, RESTART,
        "IPv6 address of the network's prefix, or none for the one that follows from the IPv4 address [default: none]"),
    key("network.mac", "mac", "MAC", Kind::Text, RESTART,
        "Hardware address of its interface, or none for one made from its address [default: none]"),
    key("network.nic", "nic", "NAME=NETWORK[,KEY=VALUE]", Kind::Nic, LIVE,
        "Further interface, on another network: lan=db,address=10.9.0.5,mac=02:00:5e:00:00:01,rate_in=10mbit"),
    key("network.dns", "dns", "IP", Kind::List, RESTART,
        "Name server, up to three [default: the host's]"),
    key("network.isolated_ports", "isolated-ports", "BOOL", Kind::Switch, LIVE,
        "Keep it from speaking with other guests that have this set, or none [default: none, the host's]"),
    key("network.rate_in", "rate-in", "RATE", Kind::Text, LIVE,
        "Most it receives, such as 10mbit or 1gbit, or none [default: none]"),
    key("network.rate_out", "rate-out", "RATE", Kind::Text, LIVE,
        "Most it sends, such as 10mbit or 1gbit, or none [default: none]"),
    key("network.burst_in", "burst-in", "BYTES", Kind::Number, LIVE,
        "How much of that may come at once, or none [default: none, 10 ms of the rate]"),
    key("network.burst_out", "burst-out", "BYTES", Kind::Number, LIVE,
        "How much of that may go at once, or none [default: none, 10 ms of the rate]"),
    key("network.forward", "forward", "HOST:GUEST", Kind::Words, LIVE,
        "Port of the host that leads to it, such as 8080:80, 53:53/udp or 8000-8009:8000-8009"),
    key("network.firewall", "firewall", "RULE", Kind::Words, LIVE,
        "Rule, in order, such as \"in accept tcp 80,443\", \"group web\" or \"in policy drop\"; the first that fits decides"),
    key("network.packets", "packets", "COUNT", Kind::Number, LIVE,
        "Most packets it sends in a second, or none [default: none]"),
    key("network.new_connections", "new-connections", "COUNT", Kind::Number, LIVE,
        "Most connections it begins in a second, or none [default: none]"),
    key("network.connections", "connections", "COUNT", Kind::Number, LIVE,
        "Most connections of it that the host keeps track of, or none [default: none, the host's]"),
    key("network.priority", "network-priority", "WORD", Kind::Text, LIVE,
        "Whose packets go first where there is no room for all: low, normal or high [default: normal]"),
    key("network.allowance", "allowance", "BYTES", Kind::Number, LIVE,
        "Bytes it may send and receive in a month, both together, or none [default: none]"),
    key("network.allowance_class", "allowance-class", "CLASS", Kind::Text, LIVE,
        "What counts for it: all, or external for what is not internal to the host's networks [default: all]"),
    key("network.allowance_day", "allowance-day", "DAY", Kind::Number, LIVE,
        "Day on which such a month begins, 1 to 31 [default: 1]"),
    key("network.allowance_rate", "allowance-rate", "RATE", Kind::Text, LIVE,
        "Most it sends and receives once the allowance is used up, or none [default: none, it is only told]"),
    key("network.allowance_cut", "allowance-cut", "BYTES", Kind::Number, LIVE,
        "Bytes in a month beyond which nothing passes, or none [default: none]"),
    key("access.ssh_keys", "ssh-key", "KEY", Kind::Words, RESTART,
        "Public key, one line, that may log in as root; written at the start after a change"),
    key("access.root_password_hash", "root-password-hash", "HASH", Kind::Text, RESTART,
        "crypt(5) hash of root's password, or none [default: none]"),
    key("view", "view", "WHOSE", Kind::Text, RESTART,
        "Whose memory, CPUs and load it sees: guest for its own, files for its own in /proc and the \
         host's by system calls, or host [default: guest]"),
    key("ptys", "ptys", "COUNT", Kind::Number, RESTART,
        "Most pseudo-terminals [default: 256]"),
    key("console_log", "console-log", "BYTES", Kind::Number, RESTART,
        "Most bytes of console output kept, 4K to 1G [default: 512K]"),
    key("cgroups", "cgroups", "COUNT", Kind::Number, LIVE,
        "Most cgroups below the guest's own [default: 1000]"),
];

/// A flag's text, or a path, that is not what the setting takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is no value of the setting.
    #[error("--{flag}: {message}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// There is no such setting.
    #[error("there is no setting {path}{hint}")]
    Unknown {
        /// What was asked for, quoted.
        path: String,
        /// The nearest one.
        hint: String,
    },
}

impl Key {
    /// The row of a path.
    #[must_use]
    pub fn find(path: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// Whether its flag can be given several times.
    #[must_use]
    pub const fn repeats(&self) -> bool {
        match self.kind {
            Kind::Text | Kind::Number | Kind::Switch => false,
            // Arguments of a command may have blanks between them: one flag says all of it.
            Kind::List => !matches!(self.path.as_bytes(), b"init.command"),
            _ => true,
        }
    }

    /// Whether there are items below it, each with a name.
    #[must_use]
    pub const fn has_items(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Text | Kind::Number | Kind::Switch | Kind::List
        )
    }
}

/// A place in a definition: a setting, or one item of a setting that has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPath {
    /// The setting.
    pub key: &'static Key,
    /// Name of a label, target of a mount, name of a capability.
    pub item: Option<String>,
}

impl KeyPath {
    /// `cpu.limit`, `labels.team`, `mount./data`, `template.suite`.
    ///
    /// # Errors
    /// There is no such setting; the message has the nearest.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if let Some(key) = Key::find(text) {
            return Ok(Self { key, item: None });
        }
        let below = |key: &Key| {
            let path = if key.path == "template.options" {
                "template"
            } else {
                key.path
            };
            let item = text.strip_prefix(path)?.strip_prefix('.')?;
            (key.has_items() && !item.is_empty()).then(|| item.to_owned())
        };
        let found = KEYS
            .iter()
            .find_map(|key| below(key).map(|item| (key, item)));
        found
            .map(|(key, item)| Self {
                key,
                item: Some(item),
            })
            .ok_or_else(|| KeyError::Unknown {
                path: quoted(text),
                hint: suggestion(nearly(text), KEYS.iter().map(|key| key.path)),
            })
    }
}

/// Of a flag's name (`cpus`) its setting; of the name of a table (`memory`) its first setting, which
/// is the one most people mean.
fn nearly(text: &str) -> &str {
    let below = |key: &&Key| {
        key.path
            .strip_prefix(text)
            .is_some_and(|rest| rest.starts_with('.'))
    };
    let of_flag = KEYS.iter().find(|key| key.flag == text);
    of_flag
        .or_else(|| KEYS.iter().find(below))
        .map_or(text, |key| key.path)
}

impl std::fmt::Display for KeyPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = if self.item.is_some() && self.key.path == "template.options" {
            "template"
        } else {
            self.key.path
        };
        f.write_str(&super::read::join(
            path,
            self.item.as_deref().unwrap_or_default(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::definition::Definition;
    use super::super::layer::{Layer, Shape};
    use super::*;

    fn leaves(prefix: &str, shape: &Shape, found: &mut Vec<String>) {
        match shape {
            Shape::Table(fields) => {
                for (name, shape) in *fields {
                    leaves(&super::super::read::join(prefix, name), shape, found);
                }
            }
            _ => found.push(prefix.to_owned()),
        }
    }

    #[test]
    fn every_field_of_the_definition_is_a_setting_and_the_reverse() {
        let mut fields = Vec::new();
        leaves("", &Definition::SHAPE, &mut fields);
        // The template's name is the template; reasons belong to profiles only.
        let mut fields: Vec<&str> = fields
            .iter()
            .map(|path| {
                if path == "template.name" {
                    "template"
                } else {
                    path
                }
            })
            .filter(|path| *path != "why")
            .collect();
        let mut keys: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
        fields.sort_unstable();
        keys.sort_unstable();
        assert_eq!(fields, keys);
    }

    #[test]
    fn kinds_fit_the_shapes() {
        for key in KEYS {
            let mut shape = &Definition::SHAPE;
            for part in key.path.split('.') {
                let Shape::Table(fields) = shape else {
                    panic!("{}", key.path)
                };
                shape = fields.iter().find(|(name, _)| *name == part).unwrap().1;
            }
            let fits = match key.kind {
                Kind::Text | Kind::Number | Kind::Switch | Kind::List => {
                    matches!(shape, Shape::Single) || key.path == "template"
                }
                Kind::Words => matches!(shape, Shape::Words),
                Kind::Map => matches!(shape, Shape::Map),
                Kind::Mount | Kind::Tmpfs | Kind::Device | Kind::IoLimit | Kind::Nic => {
                    matches!(shape, Shape::Entries)
                }
            };
            assert!(fits, "{}: {shape:?}", key.path);
        }
    }

    #[test]
    fn flags_are_unique() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..i].iter().all(|other| other.flag != key.flag),
                "{}",
                key.flag
            );
        }
    }

    #[test]
    fn paths_find_settings_and_their_items() {
        let parse = |text: &str| KeyPath::parse(text).map(|p| (p.key.path, p.item));
        assert_eq!(parse("cpu.limit"), Ok(("cpu.limit", None)));
        assert_eq!(parse("labels.team"), Ok(("labels", Some("team".into()))));
        assert_eq!(parse("mount./data"), Ok(("mount", Some("/data".into()))));
        assert_eq!(
            parse("sysctls.net.ipv4.ip_forward"),
            Ok(("sysctls", Some("net.ipv4.ip_forward".into())))
        );
        assert_eq!(
            parse("template.suite"),
            Ok(("template.options", Some("suite".into())))
        );
        let error = parse("memory.limt").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no setting \"memory.limt\": did you mean \"memory.limit\"?"
        );
        assert!(parse("cpu.limit.x").is_err() && parse("labels.").is_err());
        // The name of a flag, and of a table.
        for (near, setting) in [
            ("cpus", "cpu.limit"),
            ("memory", "memory.limit"),
            ("restart", "restart.policy"),
        ] {
            let error = parse(near).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!("did you mean {setting:?}?")),
                "{error}"
            );
        }
    }
}
