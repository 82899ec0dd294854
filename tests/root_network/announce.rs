//! Guests of a routed network that the host answers for on its uplink: who finds them there, what
//! follows when the uplink is another, and what is left behind by commands that are killed, and by
//! installations whose folder is gone.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::life::{data, info, inside, made, started};
use crate::support;
use crate::support::{Bulkhead, Need, need, run};
use crate::wires::{as_host, world};
use serde_json::Value;

const PREFIX: &str = "2001:db8:1:0:7::/80";

fn told(args: &str) -> String {
    let done = Command::new("ip").args(args.split(' ')).output();
    let done = done.expect("ip");
    assert!(done.status.success(), "ip {args}: {done:?}");
    String::from_utf8(done.stdout).expect("text")
}

fn answers(interface: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/proxy_ndp");
    std::fs::read_to_string(path)
        .expect("a setting")
        .trim()
        .to_owned()
}

fn announced() -> String {
    told("-6 neigh show proxy")
}

fn make(host: &Bulkhead, fault: &str) -> support::Outcome {
    let mut command = host.command(&["network", "create", "shop", "--kind", "routed"]);
    command.args([
        "--subnet",
        "10.203.1.0/28",
        "--prefix6",
        PREFIX,
        "--nat",
        "false",
    ]);
    command.env("BULKHEAD_FAULT", fault);
    run(command)
}

/// The uplink is where the host has its address of the LAN and its way out.
fn uplink_is(now: &str, before: Option<&str>) {
    if let Some(before) = before {
        told(&format!("-6 addr del 2001:db8:1::1/64 dev {before}"));
    }
    told(&format!("-6 addr add 2001:db8:1::1/64 dev {now} nodad"));
    told(&format!(
        "-6 route replace default via 2001:db8:1::2 dev {now}"
    ));
}

fn found(host: &Bulkhead) -> Vec<String> {
    let said = host.run(&["doctor", "--format", "json"]);
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let all = report["leftovers"].as_array().expect("a list");
    all.iter()
        .map(|one| one["kind"].as_str().expect("a kind").to_owned())
        .collect()
}

#[test]
fn guests_are_found_on_the_hosts_wire() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let world = world();
        uplink_is("uplink", None);
        world.run(|| told("-6 addr add 2001:db8:1::2/64 dev wire nodad"));
        let host = Bulkhead::new();
        assert_eq!(make(&host, "").code, 0);
        for name in ["web", "db"] {
            started(&host, name, &["--network", "shop"]);
        }
        let own = |name: &str| {
            info(&host, name)["address6"]
                .as_str()
                .expect("one")
                .to_owned()
        };
        let (web, db) = (own("web"), own("db"));
        let reaches = |to: &str| {
            let to = SocketAddr::new(to.parse().expect("an address"), 9);
            let patience = Duration::from_secs(3);
            let said = world.run(|| TcpStream::connect_timeout(&to, patience));
            said.expect_err("nobody listens").kind() == ErrorKind::ConnectionRefused
        };
        // Nobody outside has a route: it asks on the wire who has the address.
        assert!(reaches(&web) && reaches(&db), "{}", announced());
        inside(&host, "web", "ping -c 1 -W 3 2001:db8:1::2");
        assert!(!reaches("2001:db8:1:0:7::99"));
        assert_eq!(found(&host), [] as [&str; 0]);

        // What somebody has taken away or put there is named, and mended.
        told(&format!("-6 neigh del proxy {web} dev uplink"));
        assert_eq!(found(&host), ["announcement"]);
        host.ok(&["network", "reload"]);
        assert!(reaches(&web));
        told("-6 neigh add proxy 2001:db8:1:0:7::99 dev uplink");
        assert_eq!(found(&host), ["announcement"]);
        host.ok(&["doctor", "--fix"]);
        assert!(!announced().contains("7::99"), "{}", announced());
        std::fs::write("/proc/sys/net/ipv6/conf/uplink/proxy_ndp", "0").expect("a setting");
        assert_eq!(found(&host), ["announcement"]);

        // Another uplink: the next start follows it, and leaves the old one as it was.
        told("link add moved type veth peer name far");
        for end in ["moved", "far"] {
            told(&format!("link set {end} up"));
        }
        uplink_is("moved", Some("uplink"));
        assert_eq!(found(&host), ["announcement"]);
        host.ok(&["restart", "db"]);
        assert_eq!([answers("uplink"), answers("moved")], ["0", "1"]);
        for address in [&web, &db] {
            assert!(
                announced().contains(&format!("{address} dev moved")),
                "{}",
                announced()
            );
        }
        assert!(!announced().contains("uplink"), "{}", announced());
        uplink_is("uplink", Some("moved"));
        host.ok(&["network", "reload"]);
        assert!(reaches(&web));

        // A guest that is gone is not answered for; with the network all is as before.
        host.ok(&["delete", "db", "--force"]);
        assert!(!announced().contains(&db), "{}", announced());
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["network", "delete", "shop"]);
        assert_eq!(
            (announced().as_str(), answers("uplink").as_str()),
            ("", "0")
        );

        // One that was on before stays on.
        std::fs::write("/proc/sys/net/ipv6/conf/uplink/proxy_ndp", "1").expect("a setting");
        assert_eq!(make(&host, "").code, 0);
        host.ok(&["network", "delete", "shop"]);
        assert_eq!(answers("uplink"), "1");
    });
}

/// The prefix is the first part of the wire's own: its first address is any router's there, so the host's.
#[test]
fn the_first_part_of_a_wire_is_announced_too() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let _world = world();
        told("-6 addr add 2001:db8:1:0:9::1/64 dev uplink nodad");
        let host = Bulkhead::new();
        let words = ["--kind", "routed", "--nat", "false"];
        let create = ["network", "create", "shop", "--prefix6", "2001:db8:1::/80"];
        host.ok(&[&create[..], &words].concat());
        started(&host, "web", &["--network", "shop"]);
        let way = told("-6 route get 2001:db8:1::");
        assert!(way.contains("anycast"), "{way}");
        host.ok(&["network", "reload"]);
        let address = info(&host, "web")["address6"].clone();
        let address = address.as_str().expect("one");
        let line = format!("{address} dev uplink");
        assert!(announced().contains(&line), "{}", announced());
        assert_eq!(found(&host), [] as [&str; 0]);
        host.ok(&["delete", "web", "--force"]);
        host.ok(&["network", "delete", "shop"]);
        let left = (announced(), answers("uplink"));
        assert_eq!(left, (String::new(), "0".to_owned()));
    });
}

#[test]
fn a_killed_command_leaves_nothing_on_the_uplink() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let _world = world();
        uplink_is("uplink", None);
        let host = Bulkhead::new();
        let gone = |fault: &str| {
            let mut delete = host.command(&["network", "delete", "shop"]);
            delete.env("BULKHEAD_FAULT", fault);
            run(delete).code == 0
        };
        let nothing_left = |fault: &str| {
            host.ok(&["doctor", "--fix"]);
            if host.run(&["network", "info", "shop"]).code == 0 {
                host.ok(&["network", "delete", "shop"]);
            }
            let left = (announced(), answers("uplink"));
            assert_eq!(left, (String::new(), "0".to_owned()), "{fault}");
        };
        let faults = || (0..).map(|point| format!("command:{point}"));
        let killed = faults().take_while(|fault| {
            let made = make(&host, fault).code == 0;
            nothing_left(fault);
            !made
        });
        assert!(killed.count() > 8);
        let killed = faults().take_while(|fault| {
            assert_eq!(make(&host, "").code, 0);
            let deleted = gone(fault);
            nothing_left(fault);
            !deleted
        });
        assert!(killed.count() > 4);
    });
}

/// Bridges and tables of an installation whose folder is gone, as another sees them.
#[test]
fn what_nobody_can_ask_for_any_more_is_removed() {
    if !need(Need::Root) {
        return;
    }
    as_host(|| {
        let _world = world();
        uplink_is("uplink", None);
        let (host, other) = (Bulkhead::new(), Bulkhead::new());
        let named = |host: &Bulkhead| {
            host.ok(&["network", "create", "lan"]);
        };
        named(&host);
        named(&other);
        assert_eq!(make(&host, "").code, 0);
        let shop = [
            "network", "create", "shop", "--kind", "routed", "--nat", "false",
        ];
        other.ok(&[&shop[..], &["--prefix6", "2001:db8:1:0:8::/80"]].concat());
        started(&host, "web", &["--network", "lan"]);
        made(&host, "idle", &["--network", "shop"]);
        host.ok(&["network", "reload"]);
        assert!(announced().contains("2001:db8:1:0:7:"), "{}", announced());
        // With no guest that runs `doctor --fix` takes its own bridges down as well.
        started(&other, "app", &["--network", "shop"]);
        let root = host.root().to_owned();
        let away = root.with_extension("away");
        let bridges = || told("link show type bridge").matches(" state ").count();
        let tables = || {
            let done = Command::new("nft").args(["list", "tables"]).output();
            String::from_utf8(done.expect("nft").stdout).expect("text")
        };
        let ours = |host: &Bulkhead, network: &str| {
            let view = data(host, &["network", "info", network]);
            view["bridge"].as_str().expect("a bridge").to_owned()
        };
        let (lan, of_other) = (ours(&host, "lan"), ours(&other, "shop"));
        assert_eq!((bridges(), found(&other)), (4, Vec::new()));
        // The folder is away: only what has no guest on it goes.
        std::fs::rename(&root, &away).expect("a folder of ours");
        assert_eq!(found(&other), ["vanished installation"]);
        other.ok(&["doctor", "--fix"]);
        assert_eq!((bridges(), found(&other)), (3, Vec::new()));
        assert!(told("link show type bridge").contains(&lan));
        std::fs::rename(&away, &root).expect("a folder of ours");
        host.ok(&["delete", "web", "--force"]);
        assert_eq!(found(&other), [] as [&str; 0]);
        host.ok(&["network", "reload"]);
        assert_eq!(found(&host), [] as [&str; 0]);

        // Killed at any point, it is found again.
        std::fs::rename(&root, &away).expect("a folder of ours");
        let fixed = |fault: String| {
            let mut fix = other.command(&["doctor", "--fix"]);
            fix.env("BULKHEAD_FAULT", fault);
            run(fix).code == 0
        };
        let killed = (0..).take_while(|point| !fixed(format!("command:{point}")));
        assert!(killed.count() > 2);
        assert_eq!((bridges(), found(&other)), (2, Vec::new()));
        assert!(told("link show type bridge").contains(&of_other));
        assert_eq!(tables().lines().count(), 3, "{}", tables());
        assert_eq!(answers("uplink"), "1", "the other needs it");
        let left = announced();
        assert!(!left.contains(":7:") && left.contains(":8:"), "{left}");
        std::fs::rename(&away, &root).expect("a folder of ours");
        other.ok(&["delete", "app", "--force"]);
        host.ok(&["delete", "idle", "--force"]);
        for host in [&host, &other] {
            for name in ["lan", "shop"] {
                host.ok(&["network", "delete", name]);
            }
        }
        assert_eq!((bridges(), answers("uplink").as_str()), (0, "0"));
    });
}
