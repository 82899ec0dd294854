//! What a container's backup of Incus or LXD (`backup/index.yaml`) says, in words of this program.

use super::foreign::Told;
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
        root: "backup/container/rootfs".into(),
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
        self::device(&mut told, name, device);
    }
    Ok(told)
}

fn setting(told: &mut Told, key: &str, value: &str) -> Result<(), String> {
    match key {
        "limits.memory" => match bytes(value) {
            Some(bytes) => told.set("memory.limit", bytes),
            None => told.lost(key, value),
        },
        "limits.cpu" if value.parse::<u32>().is_ok() => told.set("cpu.limit", value),
        "limits.cpu" => told.set("cpu.cpuset", value),
        "limits.processes" => told.set("processes", value),
        "boot.autostart" if value == "true" => told.set("autostart.enabled", "true"),
        "volatile.last_state.idmap" => told.shift = shift(value)?,
        _ if [
            "limits.",
            "security.",
            "raw.",
            "linux.",
            "nvidia.",
            "environment.",
            "cloud-init.",
        ]
        .iter()
        .any(|group| key.starts_with(group)) =>
        {
            told.lost(key, value);
        }
        // What is so here anyway, or means something to Incus only.
        _ => {}
    }
    Ok(())
}

fn device(told: &mut Told, name: &str, device: &Yaml) {
    match device.text("type") {
        Some("disk") if device.text("path") == Some("/") => {
            if let Some(size) = device.text("size") {
                match bytes(size) {
                    Some(size) => told.disk(&size),
                    None => told.lost("size of its root", size),
                }
            }
        }
        Some("nic") => {
            if let Some(address) = device.text("ipv4.address") {
                told.address(address);
            }
            if let Some(address) = device.text("ipv6.address") {
                told.lost("ipv6.address", address);
            }
        }
        kind => told.note(format!(
            "device {name:.60} ({}): not translated",
            kind.unwrap_or("of no type")
        )),
    }
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
            limits.memory: 512MiB\n      security.nesting: \"true\"\n      image.os: Debian\n      \
            volatile.last_state.idmap: '[{\"Isuid\":true,\"Isgid\":true,\"Hostid\":1000000,\"Nsid\":0,\"Maprange\":65536}]'\n    \
            expanded_devices:\n      eth0:\n        ipv4.address: 10.1.2.3\n        type: nic\n      root:\n        \
            path: /\n        size: 10GiB\n        type: disk\n      gpu:\n        type: gpu\n";
        let told = container(text).unwrap();
        assert_eq!((told.name.as_str(), told.shift), ("web", 1_000_000));
        assert!(
            told.settings
                .contains(&("memory.limit", "536870912".into()))
        );
        assert!(told.settings.contains(&("cpu.limit", "2".into())));
        let notes = told.notes.join("\n");
        let wishes: Vec<&str> = told.wishes.iter().map(|wish| wish.1.as_str()).collect();
        assert_eq!(wishes, ["10.1.2.3", "10737418240"]);
        for what in ["gpu", "security.nesting", "snapshots"] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
        assert!(container("type: virtual-machine\n").is_err());
        assert!(container("optimized: true\n").is_err());
    }
}
