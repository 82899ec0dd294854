//! The host's name servers, as far as a guest can reach them. Writing a guest's resolv.conf is
//! first-boot work, not done here.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::files;

/// What resolv.conf(5) may be long, bytes.
const LONGEST: u64 = 64 << 10;

/// systemd-resolved keeps the real servers in the second when the first names only itself.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// The host's name servers; none when its files say nothing a guest could use.
pub(super) fn of_host() -> Vec<IpAddr> {
    FILES
        .iter()
        .map(|path| of_file(Path::new(path)))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

fn of_file(path: &Path) -> Vec<IpAddr> {
    let bytes = files::read_bytes(path, LONGEST).ok().flatten();
    bytes.map_or_else(Vec::new, |b| servers(&String::from_utf8_lossy(&b)))
}

/// Loopback means the host to the host and nobody to a guest; IPv6 servers are out of the reach of a
/// guest with an IPv4 address only.
fn servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(|word| word.parse::<Ipv4Addr>().ok())
        .filter(|a| !a.is_loopback() && !a.is_unspecified())
        .map(IpAddr::V4)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_a_guest_can_reach() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 127.0.0.53\n\
                    nameserver ::1\nnameserver fe80::1%eth0\n  nameserver\t192.0.2.1 x\n\
                    nameserver\nnameserver 0.0.0.0\nnameserver 192.0.2.2\n";
        let expected: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn what_is_no_file_says_nothing() {
        assert!(of_file(Path::new("/dev/zero")).is_empty());
        assert!(of_file(Path::new("/nonexistent")).is_empty());
    }
}
