//! What a container's backup of Proxmox VE (`etc/vzdump/pct.conf`, see pct.conf(5)) and one of
//! OpenVZ (`etc/vzdump/vps.conf`, see ctid.conf(5)) say, in words of this program.

use super::foreign::Told;

/// Lines `key: value` up to the first section, which would be a snapshot.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let mut told = Told::default();
    let mut description = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            told.note("its snapshots are not in the backup".to_owned());
            break;
        }
        if let Some(comment) = line.strip_prefix('#') {
            description.push(plain(comment));
            continue;
        }
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        setting(&mut told, key.trim(), value.trim())?;
    }
    let description = description.join(" ");
    if !description.is_empty() {
        told.set("description", description);
    }
    Ok(told)
}

fn setting(told: &mut Told, key: &str, value: &str) -> Result<(), String> {
    match key {
        "arch" if !matches!(value, "amd64" | "i386") => {
            return Err(format!("its programs are for {value:?}, this host runs amd64 and i386"));
        }
        "hostname" => {
            value.clone_into(&mut told.name);
            told.set("hostname", value);
        }
        "memory" => told.set("memory.limit", format!("{value}M")),
        "swap" => told.set("memory.swap", format!("{value}M")),
        "cpulimit" if value != "0" => told.set("cpu.limit", value),
        "cores" => cores(told, value),
        "onboot" if value == "1" => told.set("autostart.enabled", "true"),
        "searchdomain" => told.set("domain", value),
        "nameserver" => {
            for server in value.split([' ', ',']).filter(|s| !s.is_empty()) {
                told.set("network.dns", server);
            }
        }
        "rootfs" => {
            if let Some(size) = option(value, "size") {
                told.disk(size);
            }
        }
        key if is_numbered(key, "net") => interface(told, key, value),
        "cpuunits" => told.set("cpu.weight", value),
        "features" | "startup" | "tags" | "dev0" => told.lost(key, value),
        key if is_numbered(key, "mp") => told.note(format!(
            "{key}: {value:.80}: a volume beside the root, not in the backup's definition here; --mount shows a folder"
        )),
        key if key.starts_with("lxc.") || is_numbered(key, "unused") => told.lost(key, value),
        // What is so here anyway, or means something to Proxmox only.
        _ => {}
    }
    Ok(())
}

/// `cores` are CPUs it sees; `cpulimit`, where it is there, is the limit.
fn cores(told: &mut Told, value: &str) {
    if told.settings.iter().all(|(key, _)| *key != "cpu.limit") {
        told.set("cpu.limit", value);
    }
}

fn interface(told: &mut Told, key: &str, value: &str) {
    if key != "net0" {
        told.note(format!(
            "{key}: {value:.80}: not translated; `bulkhead nic add` gives it further interfaces"
        ));
        return;
    }
    if let Some(address) = option(value, "ip").filter(|ip| ip.contains('/')) {
        told.address(address);
    }
    if let Some(address) = option(value, "ip6").filter(|ip| ip.contains('/')) {
        told.lost("net0 ip6", address);
    }
    if let Some(rate) = option(value, "rate") {
        told.lost("net0 rate", rate);
    }
    if option(value, "tag").is_some() {
        told.note("net0: its VLAN is not translated".to_owned());
    }
}

/// The value of `name=` in a list with commas.
fn option<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    list.split(',')
        .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn is_numbered(key: &str, name: &str) -> bool {
    let number = key.strip_prefix(name).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// A comment, in which Proxmox escapes what is no plain character.
fn plain(comment: &str) -> String {
    let mut text = String::new();
    let mut left = comment.trim();
    while let Some(at) = left.find('%') {
        text += &left[..at];
        let code = left.get(at + 1..at + 3);
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if byte.is_ascii_graphic() => text.push(char::from(byte)),
            Some(_) => text.push(' '),
            None => text.push('%'),
        }
        left = &left[(at + if code.is_some() { 3 } else { 1 }).min(left.len())..];
    }
    text + left
}

/// Lines `KEY="value"`; limits are `barrier:limit`, or one number, in pages of 4 KiB.
pub(super) fn private_area(text: &str) -> Result<Told, String> {
    let mut told = Told::default();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let value = value.trim_matches('"');
        let limit = value.rsplit(':').next().unwrap_or(value);
        match key {
            "HOSTNAME" => {
                let name = value.split('.').next().unwrap_or(value);
                name.clone_into(&mut told.name);
                told.set("hostname", name);
            }
            "PHYSPAGES" | "SWAPPAGES" => match bytes_of_pages(limit) {
                Some(bytes) if key == "PHYSPAGES" => told.set("memory.limit", bytes),
                Some(bytes) => told.set("memory.swap", bytes),
                None => told.lost(key, value),
            },
            "CPUS" => told.set("cpu.limit", value),
            "NUMPROC" if limit.parse::<u32>().is_ok_and(|n| n > 0) => told.set("processes", limit),
            "ONBOOT" if value == "yes" => told.set("autostart.enabled", "true"),
            "SEARCHDOMAIN" => told.set("domain", value.split(' ').next().unwrap_or(value)),
            "NAMESERVER" => {
                for server in value.split_whitespace() {
                    told.set("network.dns", server);
                }
            }
            "IP_ADDRESS" => addresses(&mut told, value),
            "DISKSPACE" => match disk(limit) {
                Some(size) => told.disk(&size),
                None => told.lost(key, value),
            },
            "CPULIMIT" | "CPUUNITS" | "DISKINODES" | "CAPABILITY" | "FEATURES" | "DEVNODES"
            | "NETIF" | "IOLIMIT" | "IOPSLIMIT" => told.lost(key, value),
            _ => {}
        }
    }
    Ok(told)
}

/// The first that is IPv4, and the others in words.
fn addresses(told: &mut Told, list: &str) {
    let is_v4 = |text: &&str| text.contains('.') && !text.contains(':');
    let first = list.split_whitespace().find(is_v4);
    for address in list.split_whitespace() {
        match Some(address) == first {
            true => told.address(address),
            false => told.lost("IP_ADDRESS", address),
        }
    }
}

/// A size of a disk: a number of KiB, or an amount with K, M or G.
fn disk(text: &str) -> Option<String> {
    if text.ends_with(['K', 'M', 'G']) {
        return Some(text.to_owned());
    }
    let size: u64 = text.parse().ok()?;
    (size < 1 << 40).then(|| format!("{size}K"))
}

/// A number of pages, or an amount with K, M or G; none where it is unlimited.
fn bytes_of_pages(text: &str) -> Option<String> {
    if text.ends_with(['K', 'M', 'G']) {
        return Some(text.to_owned());
    }
    let pages: u64 = text.parse().ok()?;
    (pages < 1 << 40).then(|| (pages * 4096).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_proxmox() {
        let told = container(
            "#web%3A the shop\narch: amd64\ncores: 2\nhostname: shop\nmemory: 512\nswap: 256\nnet0: \
             name=eth0,bridge=vmbr0,ip=192.168.1.5/24,gw=192.168.1.1\nonboot: 1\nrootfs: \
             local:101/vm-101-disk-0.raw,size=8G\nnameserver: 1.1.1.1 9.9.9.9\nmp0: tank:x,mp=/data\n\
             features: nesting=1\nlxc.apparmor.profile: unconfined\n[before]\nmemory: 1\n",
        )
        .unwrap();
        assert_eq!(told.name, "shop");
        let settings: Vec<String> = told
            .settings
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            settings,
            [
                "cpu.limit=2",
                "hostname=shop",
                "memory.limit=512M",
                "memory.swap=256M",
                "autostart.enabled=true",
                "network.dns=1.1.1.1",
                "network.dns=9.9.9.9",
                "description=web: the shop"
            ]
        );
        let wishes: Vec<(&str, &str)> = told
            .wishes
            .iter()
            .map(|(key, value, _)| (*key, value.as_str()))
            .collect();
        assert_eq!(
            wishes,
            [("network.address", "192.168.1.5"), ("disk.size", "8G")]
        );
        let notes = told.notes.join("\n");
        for what in ["mp0", "nesting", "lxc.apparmor", "snapshots"] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
        assert!(container("arch: arm64\n").is_err());
    }

    #[test]
    fn a_private_area_of_openvz() {
        let told = private_area(
            "# x\nONBOOT=\"yes\"\nPHYSPAGES=\"0:262144\"\nSWAPPAGES=\"0:512M\"\nNUMPROC=\"200:240\"\n\
             HOSTNAME=\"db.example.org\"\nIP_ADDRESS=\"10.0.0.7 2001:db8::7\"\nDISKSPACE=\"2097152:2306867\"\nCPULIMIT=\"50\"\n",
        )
        .unwrap();
        assert_eq!(told.name, "db");
        assert!(
            told.settings
                .contains(&("memory.limit", "1073741824".into()))
        );
        assert!(told.settings.contains(&("memory.swap", "512M".into())));
        assert!(told.settings.contains(&("processes", "240".into())));
        assert_eq!(told.wishes[0].1, "10.0.0.7");
        assert_eq!(told.wishes[1].1, "2306867K");
        assert_eq!(told.notes.len(), 2);
    }
}
