//! Ports of the host that lead to guests: over wires from outside, from the host itself and from
//! guests, changed while they run, refused when somebody has them, and gone with their guest.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::life::made;
use crate::support::{Bulkhead, Need, need};
use crate::wires::{
    HOST_OUTSIDE, Installation, Namespace, WORLD, as_host, guest, guest_with, name, own_namespace,
    without_nat, world,
};
use crate::{life, support, traces};
use bulkhead::model::{Forward, NetworkWish};
use bulkhead::network::{LeaseError, NetworkSettings};

fn forwards(texts: &[&str]) -> Vec<Forward> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn wishing(texts: &[&str]) -> NetworkWish {
    NetworkWish {
        forwards: forwards(texts),
        ..NetworkWish::default()
    }
}

/// Who `server`, which listens on a port of its own, sees when `client` connects to a port of the
/// host.
fn through(
    client: &Namespace,
    (host, port): (Ipv4Addr, u16),
    server: &Namespace,
    own: u16,
) -> std::io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind(("0.0.0.0", own)).unwrap());
    let target = SocketAddr::from((host, port));
    let mut stream = client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)))?;
    let (mut accepted, from) = listener.accept()?;
    stream.write_all(b"hello")?;
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "hello");
    Ok(from.ip())
}

#[test]
fn a_port_of_the_host_leads_to_its_guest_from_everywhere() {
    as_host(|| {
        let (here, world) = (own_namespace(), world());
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let wish = wishing(&["8080:80", "9000-9001:90-91", "53:53/udp"]);
        let (web, lease) = guest_with(&network, "web", &wish);
        let (other, _) = guest(&network, "other");
        let host = |port| (HOST_OUTSIDE, port);
        assert_eq!(through(&world, host(8080), &web, 80).unwrap(), WORLD);
        assert_eq!(through(&world, host(9000), &web, 90).unwrap(), WORLD);
        assert_eq!(through(&world, host(9001), &web, 91).unwrap(), WORLD);
        assert_eq!(through(&here, host(8080), &web, 80).unwrap(), HOST_OUTSIDE);
        // Guests come by way of the host, and so does the guest that means itself.
        for client in [&other, &web] {
            let from = through(client, host(8080), &web, 80).unwrap();
            assert_eq!(from, lease.gateway);
            let from = through(client, (lease.gateway, 8080), &web, 80).unwrap();
            assert_eq!(from, lease.gateway);
        }
        // Neither the next port nor the next protocol.
        for port in [8081, 9002, 53] {
            let error = through(&world, host(port), &web, 80).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{port}");
        }
        let server = web.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        let client = world.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        for socket in [&server, &client] {
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
        }
        client.send_to(b"ask", (HOST_OUTSIDE, 53)).unwrap();
        let mut buffer = [0; 8];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"ask"[..], WORLD.into()));
        server.send_to(b"answer", from).unwrap();
        let (_, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            from,
            (HOST_OUTSIDE, 53).into(),
            "by the port that was asked"
        );

        network.teardown_guest(&lease).unwrap();
        network.release(&name("web")).unwrap();
        let error = through(&world, host(8080), &web, 80).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(network.stale_entries().unwrap(), []);
    });
}

#[test]
fn ports_change_while_the_guest_runs_and_come_back_with_the_table() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (a, lease) = guest_with(&network, "a", &wishing(&["8080:80"]));
        let (b, _) = guest(&network, "b");
        network.follow(&name("a"), &wishing(&["8081:80"])).unwrap();
        network.follow(&name("b"), &wishing(&["8080:81"])).unwrap();
        let host = |port| (HOST_OUTSIDE, port);
        let both_lead = || {
            assert_eq!(through(&world, host(8081), &a, 80).unwrap(), WORLD);
            assert_eq!(through(&world, host(8080), &b, 81).unwrap(), WORLD);
        };
        both_lead();
        let error = network.follow(&name("b"), &wishing(&["8081:81"]));
        assert!(matches!(error, Err(LeaseError::PortTaken { .. })));
        both_lead();

        // Somebody reloads the host's firewall.
        let table = installation.layout().kernel_name();
        let nft = |words: &[&str]| {
            let mut nft = std::process::Command::new("/usr/sbin/nft");
            assert!(nft.args(words).status().unwrap().success(), "{words:?}");
        };
        nft(&["flush", "ruleset"]);
        network.ensure_host().unwrap();
        both_lead();

        // What a killed command leaves: a port of nobody's, and one that leads elsewhere.
        nft(&[
            "add",
            "element",
            "inet",
            &table,
            "tcp_port",
            "{ 7000 : 70 }",
        ]);
        nft(&["delete", "element", "inet", &table, "tcp_port", "{ 8080 }"]);
        nft(&[
            "add",
            "element",
            "inet",
            &table,
            "tcp_port",
            "{ 8080 : 99 }",
        ]);
        let stale = network.stale_entries().unwrap();
        let named: Vec<_> = stale.iter().map(ToString::to_string).collect();
        assert_eq!(named, ["tcp port 7000", "tcp port 8080"]);
        for entry in &stale {
            network.remove_entry(entry).unwrap();
        }
        assert_eq!(network.stale_entries().unwrap(), []);
        both_lead();
        // One that is missing comes back with the guest's next start.
        nft(&[
            "delete",
            "element",
            "inet",
            &table,
            "tcp_address",
            "{ 8081 }",
        ]);
        network.admit(&lease, &wishing(&["8081:80"])).unwrap();
        both_lead();
    });
}

#[test]
fn a_thousand_ports_are_led_and_given_back() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (a, _) = guest_with(&network, "a", &wishing(&["10000-10999:20000-20999"]));
        let last = (HOST_OUTSIDE, 10_999);
        assert_eq!(through(&world, last, &a, 20_999).unwrap(), WORLD);
        network.follow(&name("a"), &NetworkWish::default()).unwrap();
        let error = through(&world, last, &a, 20_999).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(network.stale_entries().unwrap(), []);
    });
}

#[test]
fn what_listens_on_the_host_keeps_its_port() {
    as_host(|| {
        let installation = Installation::new();
        let network = installation.network(NetworkSettings::default());
        let (_a, _) = guest(&network, "a");
        let _server = TcpListener::bind("0.0.0.0:8080").unwrap();
        let _hidden = TcpListener::bind("127.0.0.1:8081").unwrap();
        let wish = wishing(&["8000-8090:8000-8090"]);
        for error in [
            network.preview(&name("b"), &wish).unwrap_err(),
            network.lease(&name("b"), &wish).unwrap_err(),
            network.follow(&name("a"), &wish).unwrap_err(),
        ] {
            let said = error.to_string();
            assert!(said.contains("listens on tcp port 8080;"), "{said}");
        }
        assert!(network.find(&name("b")).unwrap().is_none());
        network
            .follow(&name("a"), &wishing(&["8081:80", "8080:80/udp"]))
            .unwrap();
        let routed = installation.network(without_nat());
        let error = routed.lease(&name("b"), &wishing(&["70:70"])).unwrap_err();
        assert!(matches!(error, LeaseError::NoNat { .. }), "{error}");
    });
}

/// Ports that nothing on this machine uses now.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| TcpListener::bind("0.0.0.0:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

#[test]
fn the_commands_keep_a_port_to_one_guest() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let [one, two] = free_ports().map(|port: u16| port.to_string());
    let forward = |port: &str| format!("{port}:80");
    made(&host, "a", &["--forward", &forward(&one)]);
    let create = ["create", "b", "--template", "busybox", "--forward"];
    let said = host.fails(&[&create[..], &[&forward(&one)]].concat(), 5);
    assert!(said.contains(&format!("a has {one}:80;")), "{said}");
    assert!(!host.root().join("var/lib/bulkhead/guests/b").exists());
    host.ok(&["start", "a"]);
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let led = |port: &str| {
        let nft = std::process::Command::new("/usr/sbin/nft")
            .args(["get", "element", "inet", &table, "tcp_port"])
            .arg(format!("{{ {port} }}"))
            .output()
            .unwrap();
        nft.status.success()
    };
    assert!(led(&one) && !led(&two));
    host.ok(&["set", "a", "--forward", &forward(&two)]);
    assert!(led(&one) && led(&two));
    let shown = host.ok(&["info", "a"]);
    assert!(shown.contains(&forward(&two)), "{shown}");
    host.ok(&["set", "a", "--unset", &format!("network.forward.{one}:80")]);
    assert!(!led(&one) && led(&two));
    // A clone has none: the ports are its model's.
    host.ok(&["stop", "a"]);
    host.ok(&["clone", "a", "c"]);
    host.ok(&["rename", "a", "z"]);
    let said = host.fails(&["set", "c", "--forward", &forward(&two)], 5);
    assert!(said.contains(&format!("z has {two}:80;")), "{said}");
    host.ok(&["set", "c", "--forward", &forward(&one)]);
    host.ok(&["delete", "--force", "z"]);
    assert!(!led(&two));
    host.ok(&["set", "c", "--forward", &forward(&two)]);

    // The book is damaged, and each guest gets back what its definition says.
    fs::write(
        host.root().join("var/lib/bulkhead/network/leases.json"),
        "{",
    )
    .unwrap();
    host.ok(&["doctor", "--fix"]);
    let book = host.root().join("var/lib/bulkhead/network/leases.json");
    let book = fs::read_to_string(book).unwrap();
    assert!(
        book.contains(&forward(&one)) && book.contains(&forward(&two)),
        "{book}"
    );
}

#[test]
fn forwards_that_cannot_be_are_refused() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let create = ["create", "a", "--template", "busybox"];
    for (flags, said) in [
        (
            &["--forward", "80-81:80"][..],
            "2 ports of the host and 1 of the guest",
        ),
        (&["--forward", "0:80"], "is not a forward"),
        (&["--forward", "80:80/sctp"], "is not a forward"),
        (&["--forward", "1-2000:1-2000"], "more than the 1000"),
        (
            &["--forward", "70:1", "--forward", "60-70:60-70"],
            "the same port",
        ),
        (
            &["--forward", "70:1", "--network", "none"],
            "network kind bridge",
        ),
    ] {
        let outcome = host.run(&[&create[..], flags].concat());
        assert_ne!(outcome.code, 0, "{flags:?}");
        assert!(
            outcome.stderr.contains(said),
            "{flags:?}: {}",
            outcome.stderr
        );
        assert!(!host.root().join("var/lib/bulkhead/guests/a").exists());
    }
}

#[test]
fn a_guest_does_not_fill_the_hosts_table_of_connections() {
    as_host(|| {
        let world = world();
        let installation = Installation::new();
        let network = installation.network(NetworkSettings {
            connections: Some(50),
            ..NetworkSettings::default()
        });
        let (flooder, _) = guest(&network, "flooder");
        let (neighbour, _) = guest(&network, "neighbour");
        let server = world.run(|| UdpSocket::bind((WORLD, 0)).unwrap());
        let target = server.local_addr().unwrap();
        let flood = |from: &Namespace, count: usize| {
            // All at once, each from a port of its own.
            from.run(|| {
                let sockets: Vec<_> = (0..count)
                    .map(|_| UdpSocket::bind("0.0.0.0:0").unwrap())
                    .collect();
                for socket in &sockets {
                    // What is dropped on the way out may be an error.
                    let _dropped = socket.send_to(b"new", target);
                }
            });
            server
                .set_read_timeout(Some(Duration::from_millis(500)))
                .unwrap();
            let mut buffer = [0; 8];
            std::iter::from_fn(|| server.recv_from(&mut buffer).ok()).count()
        };
        assert_eq!(flood(&flooder, 200), 50);
        assert_eq!(flood(&flooder, 10), 0, "it has all it gets");
        assert_eq!(flood(&neighbour, 10), 10);
        // Another setting is in force from the next start of a guest on.
        let open = installation.network(NetworkSettings {
            connections: Some(0),
            ..NetworkSettings::default()
        });
        open.ensure_host().unwrap();
        assert_eq!(flood(&flooder, 200), 200);
    });
}

#[test]
fn ports_are_what_the_definition_says_wherever_a_change_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let [port] = free_ports::<1>();
    let forward = format!("{port}:80");
    let unset = format!("network.forward.{forward}/tcp");
    made(&host, "a", &["--start"]);
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let led = || {
        let nft = std::process::Command::new("/usr/sbin/nft")
            .args(["get", "element", "inet", &table, "tcp_port"])
            .arg(format!("{{ {port} }}"))
            .output()
            .unwrap();
        nft.status.success()
    };
    let defined = || host.ok(&["get", "a", "network.forward"]).contains(&forward);
    let (add, remove) = (
        ["set", "a", "--forward", &forward],
        ["set", "a", "--unset", &unset],
    );
    for (change, back) in [(add, remove), (remove, add)] {
        for number in 0..60 {
            let mut command = host.command(&change);
            command.env("BULKHEAD_FAULT", format!("command:{number}"));
            let done = support::run(command);
            host.ok(&["doctor", "--fix"]);
            assert_eq!(led(), defined(), "{change:?} killed at {number}");
            let left = life::data(&host, &["doctor"]);
            assert_eq!(left["leftovers"].as_array().unwrap().len(), 0, "{left}");
            if done.code == 0 {
                assert!(number > 3, "{number} points");
                break;
            }
            assert!(number < 59, "more than 59 points");
            if defined() == (change == add) {
                host.ok(&back);
            }
        }
    }
}
