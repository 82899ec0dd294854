//! Ports on which programs of the calling thread's network namespace listen (proc_net(5)).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::error::{KernelError, Result};
use crate::model::Protocol;

/// States of <linux/tcp_states.h> as procfs writes them: TCP that waits for connections, and UDP
/// that no peer was chosen for.
const LISTENS: &str = "0A";
const NO_PEER: &str = "07";

/// Addresses and ports of IPv4 that programs listen on, but for those that only the host itself reaches.
///
/// # Errors
/// procfs cannot be read.
pub fn sockets(protocol: Protocol) -> Result<BTreeSet<(Ipv4Addr, u16)>> {
    let mut sockets = BTreeSet::new();
    for version in ["", "6"] {
        let path = format!("/proc/thread-self/net/{protocol}{version}");
        match std::fs::read_to_string(&path) {
            Ok(table) => sockets.extend(table.lines().filter_map(|line| socket(protocol, line))),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::io("read", path)(error)),
        }
    }
    Ok(sockets)
}

/// What a line says that somebody listens on for packets of IPv4.
fn socket(protocol: Protocol, line: &str) -> Option<(Ipv4Addr, u16)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (words.next()?, words.next()?, words.next()?);
    let listens = match protocol {
        Protocol::Tcp => LISTENS,
        Protocol::Udp => NO_PEER,
    };
    let (address, port) = local.split_once(':')?;
    let address = match address.len() {
        8 => address,
        32 if address.bytes().all(|b| b == b'0') => "00000000",
        // ::ffff:0:0/96 in words of the machine's order.
        32 => address.strip_prefix("0000000000000000FFFF0000")?,
        _ => return None,
    };
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let address = Ipv4Addr::from(address);
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == listens && !address.is_loopback()).then_some((address, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn who_listens_for_others_is_found() {
        let rest = "00000000:00000000 00:00000000 00000000 0 0 16103";
        for (local, remote, state, found) in [
            ("00000000:0016", "00000000:0000", "0A", Some(22)),
            ("00000000:0016", "0100007F:D2F0", "01", None),
            (
                "00000000000000000000000000000000:1F90",
                "0:0",
                "0A",
                Some(8080),
            ),
            (
                "0000000000000000FFFF000000000000:1F90",
                "0:0",
                "0A",
                Some(8080),
            ),
            ("0000000000000000FFFF00000100007F:1F90", "0:0", "0A", None),
            ("00000000000000000000000001000000:1F90", "0:0", "0A", None),
            ("garbage", "0:0", "0A", None),
        ] {
            let line = format!("  0: {local} {remote} {state} {rest}");
            let found = found.map(|port| (Ipv4Addr::UNSPECIFIED, port));
            assert_eq!(socket(Protocol::Tcp, &line), found);
        }
        let own = u32::from_ne_bytes([10, 9, 0, 1]);
        let line = format!("  0: {own:08X}:0035 0:0 07 {rest}");
        let found = Some(([10, 9, 0, 1].into(), 53));
        assert_eq!(socket(Protocol::Udp, &line), found);
        let local = format!("{:08X}:0016", u32::from_ne_bytes([127, 0, 0, 53]));
        for line in [
            "  sl  local_address rem_address   st tx_queue",
            "",
            &format!("  0: {local} 0:0 0A {rest}"),
        ] {
            assert_eq!(socket(Protocol::Tcp, line), None);
        }
    }

    #[test]
    fn sockets_of_this_process_are_among_them() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();
        let ports = |protocol| -> BTreeSet<u16> {
            let all = sockets(protocol).unwrap().into_iter();
            all.map(|(_, port)| port).collect()
        };
        let found = ports(Protocol::Tcp);
        assert!(found.contains(&port(tcp.local_addr())));
        assert!(!found.contains(&port(own.local_addr())));
        assert!(ports(Protocol::Udp).contains(&port(udp.local_addr())));
    }
}
