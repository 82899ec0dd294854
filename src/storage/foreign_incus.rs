//! What a container's backup of Incus or LXD (`backup/index.yaml`) says, in words of this program.

use super::foreign::Told;
use super::foreign_find::Root;
use super::foreign_words::{self as words, Card};
use super::plain_yaml::{self, Yaml};

/// Reads `index.yaml`.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let index = plain_yaml::parse(text)?;
    if index.text("type").is_some_and(|kind| kind != "container") {
        return Err("it is a virtual machine, not a container".into());
    }
    if index.text("optimized") == Some("true") {
        return Err(
            "it is a stream of its storage driver: make the backup anew without --optimized-storage"
                .into(),
        );
    }
    let mut told = Told {
        name: index.text("name").unwrap_or_default().to_owned(),
        root: Root::Folder(b"backup/container/rootfs".to_vec()),
        ..Told::default()
    };
    if index.get("snapshots").is_some_and(|list| list.len() > 0) {
        told.note("its snapshots stay in the backup");
    }
    let config = index.get("config");
    let instance = config.and_then(|config| config.get("instance").or(config.get("container")));
    let Some(instance) = instance else {
        told.note("the backup says nothing of limits: flags of `import` set them");
        return Ok(told);
    };
    if let Some(text) = instance.text("description").filter(|text| !text.is_empty()) {
        told.set("description", text);
    }
    let expanded = |name: &str| {
        instance
            .get(&format!("expanded_{name}"))
            .or(instance.get(name))
    };
    for (key, value) in expanded("config").into_iter().flat_map(Yaml::entries) {
        if let Yaml::Text(value) = value {
            setting(&mut told, key, value)?;
        }
    }
    for (name, device) in expanded("devices").into_iter().flat_map(Yaml::entries) {
        self::device(&mut told, name, device, expanded("config"));
    }
    Ok(told)
}

fn setting(told: &mut Told, key: &str, value: &str) -> Result<(), String> {
    match key {
        "limits.memory" => told.set_or_lost("memory.limit", bytes(value), (key, value)),
        "limits.memory.swap" if value == "false" => told.set("memory.swap", "0"),
        "limits.memory.swap" => told.set_or_lost("memory.swap", bytes(value), (key, value)),
        "limits.cpu" if value.parse::<u32>().is_ok() => told.set("cpu.limit", value),
        "limits.cpu" => told.set("cpu.cpuset", value),
        "limits.cpu.allowance" => allowance(told, value),
        "limits.processes" => told.set("processes", value),
        "boot.autostart" if value == "true" => told.set("autostart.enabled", "true"),
        "boot.autostart.priority" => {
            told.set_or_lost("autostart.priority", words::priority(value), (key, value));
        }
        "boot.host_shutdown_timeout" if value.parse::<u32>().is_ok() => {
            told.set("init.stop_timeout", format!("{value}s"));
        }
        "security.nesting" if value == "true" => told.set("security.nesting", "true"),
        "security.protection.delete" if value == "true" => told.set("protect", "true"),
        "security.nesting" | "security.protection.delete" | "security.privileged"
            if value == "false" => {}
        "volatile.last_state.idmap" => told.shift = shift(value)?,
        _ => match key.split_once('.') {
            Some(("environment", name)) => told.set("environment", format!("{name}={value}")),
            Some(("limits", name)) if name.starts_with("kernel.") => {
                let name = name.trim_start_matches("kernel.");
                told.set("rlimits", format!("{name}={value}"));
            }
            Some(("linux", name)) if name.starts_with("sysctl.") => {
                let name = name.trim_start_matches("sysctl.");
                told.set("sysctls", format!("{name}={value}"));
            }
            // What is so here anyway, or means something to Incus only.
            Some(("volatile" | "image" | "user", _)) => {}
            _ => told.lost(key, value),
        },
    }
    Ok(())
}

/// `25ms/100ms` is a limit, `50%` a share of what is there to share.
fn allowance(told: &mut Told, value: &str) {
    let milliseconds = |text: &str| text.trim().strip_suffix("ms")?.parse::<u64>().ok();
    let lost = ("limits.cpu.allowance", value);
    match value.split_once('/') {
        Some((run, passes)) => {
            let times = milliseconds(run).zip(milliseconds(passes));
            let limit = times.and_then(|(run, passes)| words::cpus(run, passes));
            told.set_or_lost("cpu.limit", limit, lost);
        }
        None => {
            let percent = value.strip_suffix('%').unwrap_or_default();
            told.set_or_lost("cpu.weight", words::weight(percent, 100), lost);
        }
    }
}

fn device(told: &mut Told, name: &str, device: &Yaml, config: Option<&Yaml>) {
    let keys: &[&str] = match device.text("type") {
        Some("disk") if device.text("path") == Some("/") => {
            if let Some(size) = device.text("size") {
                told.set_or_lost("disk.size", bytes(size), ("size of its root", size));
            }
            &["type", "path", "pool", "size"]
        }
        Some("nic") => {
            nic(told, name, device, config);
            NIC
        }
        kind => {
            let kind = kind.unwrap_or("of no type");
            told.note(format!("device {name:.60} ({kind:.60}): not translated"));
            return;
        }
    };
    for (key, value) in device.entries() {
        match value {
            Yaml::Text(value) if !keys.contains(&key) => {
                told.lost(&format!("device {name:.60}, {key}"), value);
            }
            _ => {}
        }
    }
}

/// What of an interface is translated, or means something there only.
const NIC: &[&str] = &[
    "type",
    "name",
    "network",
    "parent",
    "nictype",
    "hwaddr",
    "ipv4.address",
    "ipv6.address",
    "ipv4.gateway",
    "limits.ingress",
    "limits.egress",
    "limits.max",
    "host_name",
];

fn nic(told: &mut Told, name: &str, device: &Yaml, config: Option<&Yaml>) {
    let own = |key: &str| device.text(key).map(str::to_owned);
    let noted = |key: &str| {
        config?
            .text(&format!("volatile.{name}.{key}"))
            .map(str::to_owned)
    };
    let mut rates = [None, None];
    for (at, key) in ["limits.ingress", "limits.egress"].into_iter().enumerate() {
        let Some(value) = device.text(key).or(device.text("limits.max")) else {
            continue;
        };
        rates[at] = bits(value).and_then(words::rate);
        if rates[at].is_none() {
            told.lost(&format!("device {name:.60}, {key}"), value);
        }
    }
    let [rate_in, rate_out] = rates;
    told.cards.push(Card {
        name: own("name").or(noted("name")).or(Some(name.to_owned())),
        address: device.text("ipv4.address").and_then(words::bare_address),
        address6: device.text("ipv6.address").and_then(words::bare_address),
        gateway: own("ipv4.gateway").filter(|gateway| !matches!(gateway.as_str(), "auto" | "none")),
        mac: own("hwaddr").or(noted("hwaddr")),
        network: own("network").or(own("parent")),
        rate_in,
        rate_out,
        ..Card::new(format!("device {name:.60}"))
    });
}

/// Bits of an amount such as `100Mbit`.
fn bits(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit: u64 = match unit {
        "bit" => 1,
        "kbit" => 1000,
        "Mbit" => 1_000_000,
        "Gbit" => 1_000_000_000,
        "Kibit" => 1 << 10,
        "Mibit" => 1 << 20,
        "Gibit" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// First id on the host of the map of ids that the files are owned by; none is 0.
fn shift(text: &str) -> Result<u32, String> {
    #[derive(serde::Deserialize)]
    struct Range {
        #[serde(rename = "Hostid")]
        host: u32,
        #[serde(rename = "Nsid")]
        inside: u32,
    }
    let ranges: Vec<Range> =
        serde_json::from_str(text).map_err(|e| format!("volatile.last_state.idmap: {e}"))?;
    let first = ranges.iter().find(|range| range.inside == 0);
    let first = first.map_or(0, |range| range.host);
    match ranges
        .iter()
        .all(|r| r.host.checked_sub(r.inside) == Some(first))
    {
        true => Ok(first),
        false => Err("its files are owned by ids of several ranges".into()),
    }
}

/// Bytes of an amount such as `512MiB`, `1GB`.
fn bytes(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit: u64 = match &text[end..] {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    Some(number.checked_mul(unit)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_incus() {
        let text = "name: web\nbackend: dir\noptimized: false\ntype: container\nsnapshots:\n- s0\nconfig:\n  \
            container:\n    description: the shop\n    expanded_config:\n      limits.cpu: \"2\"\n      \
            limits.memory: 512MiB\n      limits.cpu.allowance: 30%\n      \
            limits.kernel.nofile: \"4096\"\n      raw.lxc: lxc.aa=1\n      \
            volatile.eth0.hwaddr: 00:16:3e:01:02:03\n      security.nesting: \"true\"\n      image.os: Debian\n      \
            volatile.last_state.idmap: '[{\"Isuid\":true,\"Isgid\":true,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":65536}]'\n    \
            expanded_devices:\n      eth0:\n        ipv4.address: 10.1.2.3\n        limits.egress: 100Mbit\n        network: lan\n        \
            security.ipv4_filtering: \"true\"\n        type: nic\n      root:\n        \
            path: /\n        size: 10GiB\n        type: disk\n      gpu:\n        type: gpu\n";
        let told = container(text).unwrap();
        assert_eq!((told.name.as_str(), told.shift), ("web", 1_000_000));
        assert!(
            told.settings
                .contains(&("memory.limit", "536870912".into()))
        );
        assert!(told.settings.contains(&("cpu.limit", "2".into())));
        for set in [
            ("cpu.weight", "30"),
            ("rlimits", "nofile=4096"),
            ("disk.size", "10737418240"),
            ("security.nesting", "true"),
        ] {
            let has = |(key, value): &(&str, String)| (*key, value.as_str()) == set;
            assert!(
                told.settings.iter().any(has),
                "{set:?}: {:?}",
                told.settings
            );
        }
        let card = &told.cards[0];
        assert_eq!(card.address.as_deref(), Some("10.1.2.3"));
        assert_eq!(card.mac.as_deref(), Some("00:16:3e:01:02:03"));
        assert_eq!(
            (card.network.as_deref(), card.rate_out.as_deref()),
            (Some("lan"), Some("100000kbit"))
        );
        let notes = told.notes.join("\n");
        for what in ["gpu", "raw.lxc", "ipv4_filtering", "snapshots"] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
        assert!(container("type: virtual-machine\n").is_err());
        assert!(container("optimized: true\n").is_err());
    }
}
