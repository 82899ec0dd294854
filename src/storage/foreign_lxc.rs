//! What the configuration of a container of LXC says (`config` beside `rootfs`, see
//! lxc.container.conf(5)), in words of this program. Both the keys of today and those before LXC 2.1
//! are read.

use super::foreign::Told;

/// Whether a text is one: it sets a key of LXC's.
pub(super) fn is_config(text: &str) -> bool {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| line.split_once('='))
        .any(|(key, _)| {
            let key = key.trim_end();
            key.starts_with("lxc.") && key.bytes().all(|b| b.is_ascii_graphic())
        })
}

/// Lines `key = value`.
pub(super) fn container(text: &str) -> Result<Told, String> {
    let mut told = Told::default();
    let mut quota = None;
    let mut period = 100_000;
    for line in text.lines().map(str::trim) {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        if line.starts_with('#') {
            continue;
        }
        let (key, value) = (key.trim(), value.trim());
        match key {
            "lxc.cgroup.cpu.cfs_quota_us" => quota = value.parse::<u64>().ok(),
            "lxc.cgroup.cpu.cfs_period_us" => period = value.parse().unwrap_or(period),
            "lxc.cgroup2.cpu.max" => {
                let mut parts = value.split_whitespace();
                quota = parts.next().and_then(|text| text.parse().ok());
                period = parts
                    .next()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(period);
            }
            _ => setting(&mut told, key, value)?,
        }
    }
    // Hundredths of a CPU, as many as are meant, and at least one.
    if let Some(hundredths) = quota.and_then(|quota| (quota * 100).checked_div(period)) {
        let hundredths = hundredths.max(1);
        told.set(
            "cpu.limit",
            format!("{}.{:02}", hundredths / 100, hundredths % 100),
        );
    }
    Ok(told)
}

fn setting(told: &mut Told, key: &str, value: &str) -> Result<(), String> {
    match key {
        "lxc.arch"
            if ![
                "x86", "amd64", "x86_64", "i386", "i486", "i586", "i686", "linux64", "linux32",
            ]
            .contains(&value) =>
        {
            return Err(format!(
                "its programs are for {value:.40?}, this host runs amd64 and i386"
            ));
        }
        "lxc.uts.name" | "lxc.utsname" => {
            value.clone_into(&mut told.name);
            told.set("hostname", value.split('.').next().unwrap_or(value));
        }
        "lxc.cgroup2.memory.max" | "lxc.cgroup.memory.limit_in_bytes" => {
            amount(told, "memory.limit", key, value);
        }
        "lxc.cgroup2.memory.swap.max" => amount(told, "memory.swap", key, value),
        "lxc.cgroup2.pids.max" | "lxc.cgroup.pids.max" if value.parse::<u32>().is_ok() => {
            told.set("processes", value);
        }
        "lxc.cgroup2.cpuset.cpus" | "lxc.cgroup.cpuset.cpus" => told.set("cpu.cpuset", value),
        "lxc.cgroup2.cpu.weight" => told.set("cpu.weight", value),
        "lxc.start.auto" if value == "1" => told.set("autostart.enabled", "true"),
        "lxc.environment" => told.set("environment", value),
        "lxc.net.0.ipv4.address" | "lxc.network.ipv4" => told.address(value),
        "lxc.idmap" | "lxc.id_map" => told.shift = shift(told.shift, value)?,
        _ if is_lost(key) => told.lost(key, value),
        // What is so here anyway, or means something to LXC only.
        _ => {}
    }
    Ok(())
}

/// An amount with K, M or G; `max` and -1 are none.
fn amount(told: &mut Told, path: &'static str, key: &str, value: &str) {
    let text = value.to_ascii_uppercase();
    match text.trim_end_matches(['K', 'M', 'G']).parse::<u64>() {
        Ok(_) => told.set(path, text),
        Err(_) if matches!(value, "max" | "-1") => {}
        Err(_) => told.lost(key, value),
    }
}

/// Groups of keys that say something which a guest does not get.
fn is_lost(key: &str) -> bool {
    let of_net = |rest: &str| rest.contains("ipv6") || !rest.starts_with("0.");
    key.strip_prefix("lxc.net.").is_some_and(of_net)
        || [
            "lxc.cgroup",
            "lxc.mount.entry",
            "lxc.mount.fstab",
            "lxc.hook.",
            "lxc.cap.",
            "lxc.init.",
            "lxc.prlimit.",
            "lxc.sysctl.",
            "lxc.group",
            "lxc.network.ipv6",
        ]
        .iter()
        .any(|group| key.starts_with(group))
}

/// First id on the host of the owners: of `u 0 100000 65536`. Those of users and of groups must be the
/// same; which of the two a line is for stands first.
fn shift(before: u32, value: &str) -> Result<u32, String> {
    let parts: Vec<&str> = value.split_whitespace().collect();
    let [_, inside, host, _] = parts.as_slice() else {
        return Err(format!("its map of ids is not understood: {value:.80}"));
    };
    let host: u32 = host
        .parse()
        .map_err(|_| format!("its map of ids is not understood: {value:.80}"))?;
    match *inside == "0" && (before == 0 || before == host) {
        true => Ok(host),
        false => Err(format!(
            "its map of ids has more than one part or differs for users and groups ({value:.80}): \
             shift its files to 0 first, and leave lxc.idmap out"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_of_lxc() {
        let text = "# made by hand\nlxc.include = /usr/share/lxc/config/common.conf\nlxc.arch = \
                    linux64\nlxc.uts.name = box1\nlxc.net.0.type = veth\nlxc.net.0.ipv4.address = \
                    10.0.3.7/24\nlxc.net.1.type = veth\nlxc.cgroup2.memory.max = 256m\n\
                    lxc.cgroup2.cpu.max = 50000 100000\nlxc.start.auto = 1\nlxc.mount.entry = /srv srv \
                    none bind 0 0\nlxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n";
        assert!(is_config(text));
        let told = container(text).unwrap();
        assert_eq!((told.name.as_str(), told.shift), ("box1", 100_000));
        let settings: Vec<String> = told
            .settings
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            settings,
            [
                "hostname=box1",
                "memory.limit=256M",
                "autostart.enabled=true",
                "cpu.limit=0.50"
            ]
        );
        assert_eq!(told.wishes[0].1, "10.0.3.7");
        let notes = told.notes.join("\n");
        assert!(
            notes.contains("lxc.net.1") && notes.contains("/srv"),
            "{notes}"
        );
    }

    #[test]
    fn what_is_none_of_lxc_is_not_taken_for_one() {
        for text in [
            "",
            "hostname = x\n",
            "# lxc.uts.name = x\n",
            "arch: amd64\n",
        ] {
            assert!(!is_config(text), "{text:?}");
        }
        assert!(container("lxc.arch = armhf\n").is_err());
        assert!(container("lxc.idmap = u 0 100000 1000\nlxc.idmap = u 1000 1000 1\n").is_err());
    }
}
