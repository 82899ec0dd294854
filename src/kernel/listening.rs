//! Ports on which programs of the calling thread's network namespace listen (proc_net(5)).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::error::{KernelError, Result};
use crate::model::Protocol;

/// States of <linux/tcp_states.h> as procfs writes them: TCP that waits for connections, and UDP
/// that no peer was chosen for.
const LISTENS: &str = "0A";
const NO_PEER: &str = "07";

/// Ports of IPv4 that programs listen on, but for those that only the host itself reaches.
///
/// # Errors
/// procfs cannot be read.
pub fn ports(protocol: Protocol) -> Result<BTreeSet<u16>> {
    let mut ports = BTreeSet::new();
    for version in ["", "6"] {
        let path = format!("/proc/thread-self/net/{protocol}{version}");
        match std::fs::read_to_string(&path) {
            Ok(table) => ports.extend(table.lines().filter_map(|line| port(protocol, line))),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(KernelError::io("read", path)(error)),
        }
    }
    Ok(ports)
}

/// The port of a line that says that somebody listens for packets of IPv4.
fn port(protocol: Protocol, line: &str) -> Option<u16> {
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
    let reached = !Ipv4Addr::from(address).is_loopback();
    (state == listens && reached)
        .then(|| u16::from_str_radix(port, 16).ok())
        .flatten()
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
            assert_eq!(port(Protocol::Tcp, &line), found);
        }
        let local = format!("{:08X}:0016", u32::from_ne_bytes([127, 0, 0, 53]));
        for line in [
            "  sl  local_address rem_address   st tx_queue",
            "",
            &format!("  0: {local} 0:0 0A {rest}"),
        ] {
            assert_eq!(port(Protocol::Tcp, line), None);
        }
    }

    #[test]
    fn sockets_of_this_process_are_among_them() {
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = |address: std::io::Result<std::net::SocketAddr>| address.unwrap().port();
        let found = ports(Protocol::Tcp).unwrap();
        assert!(found.contains(&port(tcp.local_addr())));
        assert!(!found.contains(&port(own.local_addr())));
        assert!(
            ports(Protocol::Udp)
                .unwrap()
                .contains(&port(udp.local_addr()))
        );
    }
}
