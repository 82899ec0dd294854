//! What a container's backup of Proxmox VE (`etc/vzdump/pct.conf`, see pct.conf(5)) says, in words of this
//! program.

use super::foreign::Told;
use super::foreign_words::{self as words, Card};

/// Lines `key: value` up to the first section, which would be a snapshot.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let mut told = Told::default();
    let mut description = Vec::new();
    let mut cpus = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            told.note("its snapshots are not in the backup".to_owned());
            break;
        }
        if let Some(comment) = line.strip_prefix('#') {
            description.push(plain(comment));
            continue;
        }
        match line.split_once(':') {
            Some((key, value)) => setting(&mut told, &mut cpus, key.trim(), value.trim())?,
            None if line.is_empty() => {}
            None => told.lost("a line", line),
        }
    }
    // CPUs that it sees, and CPUs' time that it gets: the smaller one is its limit.
    if let Some(least) = cpus.into_iter().min() {
        let limit = words::cpus(least, 1_000_000);
        told.set_or_lost("cpu.limit", limit, ("cpulimit", &least.to_string()));
    }
    let description = description.join(" ");
    if !description.is_empty() {
        told.set("description", description);
    }
    Ok(told)
}

fn setting(told: &mut Told, cpus: &mut Vec<u64>, key: &str, value: &str) -> Result<(), String> {
    let whole = || value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty();
    match key {
        "arch" if !matches!(value, "amd64" | "i386") => {
            return Err(format!("its programs are for {value:.80?}, this host runs amd64 and i386"));
        }
        "hostname" => {
            value.clone_into(&mut told.name);
            told.set("hostname", value);
        }
        "memory" if whole() && value != "0" => told.set("memory.limit", format!("{value}M")),
        "swap" if whole() => told.set("memory.swap", format!("{value}M")),
        "cpulimit" | "cores" => match words::millionths(value) {
            Some(0) => {}
            Some(number) => cpus.push(number),
            None => told.lost(key, value),
        },
        "cpuunits" => {
            // Up to that they are weights as they are here; shares of older hosts go on beyond.
            let weight = match value.parse() {
                Ok(1..=10_000_u32) => Some(value.to_owned()),
                _ => words::weight(value, 1024),
            };
            told.set_or_lost("cpu.weight", weight, (key, value));
        }
        "onboot" if value == "1" => told.set("autostart.enabled", "true"),
        "protection" if value == "1" => told.set("protect", "true"),
        "startup" => startup(told, value),
        "features" => features(told, value),
        "timezone" if value != "host" => told.set("timezone", value),
        "searchdomain" => {
            if let Some(domain) = value.split([' ', ',']).find(|s| !s.is_empty()) {
                told.set("domain", domain);
            }
        }
        "nameserver" => {
            for server in value.split([' ', ',']).filter(|s| !s.is_empty()) {
                told.set("network.dns", server);
            }
        }
        "rootfs" => {
            if let Some(size) = option(value, "size") {
                told.set("disk.size", size);
            }
        }
        key if is_numbered(key, "net") => interface(told, key, value),
        key if is_numbered(key, "mp") => told.note(format!(
            "{key}: {value:.80}: a volume beside the root, not in the backup's definition here; --mount shows a folder"
        )),
        // What is so here anyway, or means something to Proxmox only.
        "arch" | "ostype" | "unprivileged" | "onboot" | "protection" | "console" | "tty" | "cmode" | "digest"
        | "lock" | "template" | "parent" | "snaptime" | "timezone" => {}
        _ => told.lost(key, value),
    }
    Ok(())
}

/// `order=1,up=30,down=60`: lower orders start earlier, those without one last.
fn startup(told: &mut Told, value: &str) {
    for part in value.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('=').unwrap_or(("order", part)) {
            ("order", order) => {
                let priority = words::priority_of_order(order);
                told.set_or_lost("autostart.priority", priority, ("startup", part));
            }
            ("down", seconds) if seconds.parse::<u32>().is_ok() => {
                told.set("init.stop_timeout", format!("{seconds}s"));
            }
            _ => told.lost("startup", part),
        }
    }
}

fn features(told: &mut Told, value: &str) {
    for part in value.split(',').filter(|part| !part.is_empty()) {
        match part {
            "nesting=1" => told.set("security.nesting", "true"),
            // Those are allowed to whoever has user namespaces, or are off.
            "keyctl=1" => {}
            part if part.ends_with("=0") => {}
            _ => told.lost("features", part),
        }
    }
}

fn interface(told: &mut Told, key: &str, value: &str) {
    let own = |name: &str| option(value, name).map(str::to_owned);
    let mut card = Card {
        name: own("name"),
        address: option(value, "ip").and_then(words::bare_address),
        address6: option(value, "ip6").and_then(words::bare_address),
        gateway: own("gw"),
        mac: own("hwaddr"),
        network: own("bridge"),
        ..Card::new(key)
    };
    // Megabytes a second, each way.
    if let Some(rate) = option(value, "rate") {
        let bits = words::millionths(rate).and_then(|number| number.checked_mul(8));
        match bits.and_then(words::rate) {
            Some(rate) => (card.rate_in, card.rate_out) = (Some(rate.clone()), Some(rate)),
            None => told.lost(key, &format!("rate={rate}")),
        }
    }
    for part in value.split(',') {
        let name = part.split('=').next().unwrap_or(part);
        // Its VLAN, its own size of packets, and what only a bridge there has.
        if matches!(name, "tag" | "trunks" | "mtu" | "link_down") {
            told.lost(key, part);
        }
    }
    told.cards.push(card);
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
                "hostname=shop",
                "memory.limit=512M",
                "memory.swap=256M",
                "autostart.enabled=true",
                "disk.size=8G",
                "network.dns=1.1.1.1",
                "network.dns=9.9.9.9",
                "security.nesting=true",
                "cpu.limit=2.00",
                "description=web: the shop"
            ]
        );
        assert_eq!(told.cards[0].address.as_deref(), Some("192.168.1.5"));
        let notes = told.notes.join("\n");
        for what in ["mp0", "lxc.apparmor", "snapshots"] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
        assert!(container("arch: arm64\n").is_err());
    }

    #[test]
    fn cards_and_what_is_wrong_with_them() {
        let told = container(
            "net0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:AA:00:01,ip=10.0.0.5/24,ip6=auto,rate=12.5\n\
             net1: name=lan,bridge=vmbr1,ip=dhcp,tag=7,rate=x\nnet2: junk\nmemory: 0\nswap: -1\ncpuunits: 500001\n\
             cpulimit: 99999999999999999999\nstartup: order=3,up=10,down=60\nstrange line\nfeatures: nesting=1,fuse=1\n",
        )
        .unwrap();
        let card = &told.cards[0];
        assert_eq!(card.address.as_deref(), Some("10.0.0.5"));
        assert_eq!(
            (card.address6.as_deref(), card.gateway.as_deref()),
            (None, Some("10.0.0.1"))
        );
        assert_eq!(card.rate_in.as_deref(), Some("100000kbit"));
        assert_eq!(told.cards.len(), 3);
        assert_eq!(told.cards[1].name.as_deref(), Some("lan"));
        for set in [
            ("cpu.weight", "10000"),
            ("autostart.priority", "997"),
            ("init.stop_timeout", "60s"),
            ("security.nesting", "true"),
        ] {
            let has = told
                .settings
                .iter()
                .any(|(key, value)| (*key, value.as_str()) == set);
            assert!(has, "{set:?}: {:?}", told.settings);
        }
        let notes = told.notes.join("\n");
        for what in [
            "tag=7",
            "rate=x",
            "memory: 0",
            "swap: -1",
            "cpulimit",
            "up=10",
            "strange line",
            "fuse=1",
        ] {
            assert!(notes.contains(what), "{what}: {notes}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text in "((net0|startup|features|cpulimit|cpuunits|rootfs|#)[:=]? ?[-a-z0-9:.,=/%]{0,30}\n){0,6}") {
            let _told = container(&text);
        }

        #[test]
        fn any_bytes_end(text: String) {
            let _told = container(&text);
        }
    }
}
