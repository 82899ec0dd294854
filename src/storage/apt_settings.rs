//! What of the host's apt configuration a build needs to reach the archives, and what of that a guest
//! is given. Where packages come from is in `debian`.

use super::debian::{find, tool};

/// What the host's apt needs to reach its archives: proxies, and whether old lists are accepted, as
/// lines of apt.conf(5).
pub(super) fn host_settings() -> Vec<String> {
    let output = find("apt-config").and_then(|path| tool(&path).arg("dump").output().ok());
    output.map_or_else(Vec::new, |output| {
        parse_settings(&String::from_utf8_lossy(&output.stdout))
    })
}

fn parse_settings(dump: &str) -> Vec<String> {
    const WANTED: [&str; 4] = [
        "Acquire::http::Proxy",
        "Acquire::https::Proxy",
        "Acquire::Check-Valid-Until",
        "Acquire::Check-Date",
    ];
    let wanted = |line: &&str| {
        line.split_once(' ').is_some_and(|(name, value)| {
            WANTED.iter().any(|w| w.eq_ignore_ascii_case(name)) && value != "\"\";"
        })
    };
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

/// Whether a guest may and can use it: no password of the host's, no proxy on the host's loopback.
pub(super) fn is_for_guests(setting: &str) -> bool {
    let of_host = ["@", "://127.", "://localhost", "://[::1]"];
    !of_host.iter().any(|part| setting.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_hosts_apt_reach_a_guest_but_no_secrets() {
        let dump = "Acquire::http::Proxy \"http://proxy.example:3128/\";\n\
                    Acquire::https::Proxy \"http://user:pass@proxy.example/\";\n\
                    Acquire::http::Proxy \"http://127.0.0.1:3142\";\nAcquire::Check-Date \"\";\n\
                    Acquire::Check-Valid-Until \"false\";\nDPkg::Post-Invoke \"x\";\n\
                    Acquire::AllowInsecureRepositories \"1\";\n";
        let settings = parse_settings(dump);
        assert_eq!(settings.len(), 4, "{settings:?}");
        let inside: Vec<_> = settings.iter().filter(|s| is_for_guests(s)).collect();
        assert_eq!(
            inside,
            [
                "Acquire::http::Proxy \"http://proxy.example:3128/\";",
                "Acquire::Check-Valid-Until \"false\";"
            ]
        );
    }
}
