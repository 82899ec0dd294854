//! Accounts of guests' traffic against what the other end counts, over restarts, a killed keeper, a
//! killed everything, the trash; and that nothing is counted twice.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use crate::life::{data, info, inside, started};
use crate::support::{Bulkhead, Need, eventually, need, run};
use crate::{life, traces};
use serde_json::Value;

/// Bytes that one flow carries.
const FLOW: u64 = 4 << 20;

/// Sent and received bytes of a guest.
fn account(host: &Bulkhead, guest: &str) -> (u64, u64) {
    let rows = data(host, &["traffic", guest]);
    let number = |key: &str| rows[0][key].as_u64().expect("a number");
    (number("sent_bytes"), number("received_bytes"))
}

fn address(host: &Bulkhead, guest: &str) -> Ipv4Addr {
    let address = info(host, guest)["address"].as_str().map(str::to_owned);
    address.expect("an address").parse().expect("IPv4")
}

/// Bytes that a guest's own interface has received and sent.
fn interface(host: &Bulkhead, guest: &str) -> (u64, u64) {
    let line = "cd /sys/class/net/eth0/statistics; cat rx_bytes tx_bytes";
    let text = inside(host, guest, line);
    let mut numbers = text.lines().map(|line| line.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    (next(), next())
}

/// Has a guest send a flow to the host.
fn flow(host: &Bulkhead, guest: &str) {
    let [a, b, c, _] = address(host, guest).octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    let listener = TcpListener::bind((gateway, 0)).expect("the bridge's address");
    let port = listener.local_addr().expect("bound").port();
    let line = format!("head -c {FLOW} /dev/zero | nc {gateway} {port}");
    let mut client = host.command(&["exec", guest, "--", "sh", "-c", &line]);
    let client = client.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let (mut stream, _) = listener.accept().expect("a connection");
    let mut left = FLOW;
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let read = stream.read(&mut buffer).expect("a connection");
        assert_ne!(read, 0, "the flow ended early");
        left -= read as u64;
    }
    drop(stream);
    client.expect("the program").wait().expect("a child");
}

#[track_caller]
fn same(counted: u64, other: u64) {
    let apart = counted.abs_diff(other);
    assert!(apart * 1000 <= other, "{counted} is not {other}");
}

/// More by one flow, and what belongs to it.
#[track_caller]
fn one_more(before: (u64, u64), after: (u64, u64)) {
    let sent = after.0 - before.0;
    assert!((FLOW..FLOW + FLOW / 10).contains(&sent), "{sent}");
}

fn pid(host: &Bulkhead, guest: &str, field: &str) -> String {
    let file = host.root().join("run/bulkhead/guests").join(guest);
    let text = fs::read_to_string(file.join("state.json")).expect("a guest that runs");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    state[field]["pid"].to_string()
}

#[test]
fn accounts_are_what_the_other_end_counts() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &[]);
    started(&host, "v", &[]);
    // From one to the other, whose own interface is the judge of both.
    let (got, answered) = interface(&host, "v");
    let line = "nc -l -p 4000 >/dev/null";
    let mut server = host.command(&["exec", "v", "--", "sh", "-c", line]);
    // One that has nothing to say would hang up.
    let server = server.stdin(Stdio::piped()).spawn();
    let to = address(&host, "v");
    eventually("the flow", 20, || {
        let line = format!("head -c {FLOW} /dev/zero | nc {to} 4000");
        host.run(&["exec", "w", "--", "sh", "-c", &line]).code == 0
    });
    server.expect("the program").wait().expect("a child");
    let (sent, received) = account(&host, "w");
    let (got, answered) = {
        let after = interface(&host, "v");
        (after.0 - got, after.1 - answered)
    };
    assert!(sent > FLOW);
    same(sent, got);
    // Answers are few: what is not IP shows in them.
    assert!(received.abs_diff(answered) <= 2000, "{received} {answered}");
    let (v_sent, v_received) = account(&host, "v");
    same(v_received, got);
    assert!(v_sent.abs_diff(answered) <= 2000, "{v_sent} {answered}");

    for by in ["day", "month"] {
        let rows = data(&host, &["traffic", "--by", by]);
        let rows = rows.as_array().expect("a list");
        let of = |row: &&Value| row["name"] == "w";
        let sum: u64 = rows
            .iter()
            .filter(of)
            .filter_map(|r| r["sent_bytes"].as_u64())
            .sum();
        assert_eq!(sum, account(&host, "w").0, "{by}");
        let length = if by == "day" { 10 } else { 7 };
        assert!(
            rows.iter()
                .all(|r| r["period"].as_str().is_some_and(|p| p.len() == length))
        );
    }
    host.fails(&["traffic", "nobody"], 3);
}

#[test]
fn accounts_outlive_whoever_keeps_them() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &[]);
    let mut before = account(&host, "w");
    let mut check = |host: &Bulkhead| {
        let after = account(host, "w");
        one_more(before, after);
        assert_eq!(account(host, "w").0, after.0, "counted twice");
        before = after;
    };
    flow(&host, "w");
    check(&host);

    // Nobody looks between the flow and the end.
    flow(&host, "w");
    host.ok(&["restart", "w"]);
    check(&host);

    // Its keeper is killed, then everything.
    let keeper = pid(&host, "w", "keeper");
    let kill = |pid: &str| {
        let done = Command::new("kill").args(["-9", pid]).status();
        assert!(done.expect("kill").success());
    };
    kill(&keeper);
    flow(&host, "w");
    check(&host);
    flow(&host, "w");
    let init = pid(&host, "w", "init");
    for pid in [pid(&host, "w", "keeper"), init] {
        // The first one's may be dead already.
        let _gone = Command::new("kill").args(["-9", &pid]).status();
    }
    eventually("its end", 20, || !life::is(&host, "w", "running"));
    host.ok(&["start", "w"]);
    check(&host);

    // It takes its own interface away.
    flow(&host, "w");
    inside(&host, "w", "ip link del eth0");
    host.ok(&["restart", "w"]);
    check(&host);

    // Another name, then the trash and back: other counters or the same, the account goes on.
    flow(&host, "w");
    host.ok(&["stop", "w"]);
    host.ok(&["rename", "w", "v"]);
    host.ok(&["rename", "v", "w"]);
    host.ok(&["delete", "--keep", "1", "w"]);
    host.ok(&["trash", "restore", "w"]);
    check(&host);
    host.ok(&["start", "w"]);
    flow(&host, "w");
    check(&host);
    // The firewall is begun anew.
    host.ok(&["stop", "w"]);
    let table = format!("bulkhead-{}", traces::tag(host.root()));
    let gone = Command::new("/usr/sbin/nft")
        .args(["delete", "table", "bridge", &table])
        .status();
    assert!(gone.expect("nft").success());
    host.ok(&["start", "w"]);
    flow(&host, "w");
    check(&host);
}

#[test]
fn nothing_is_counted_twice_wherever_it_is_killed() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "w", &[]);
    for number in 0..60 {
        let before = account(&host, "w");
        flow(&host, "w");
        let mut command = host.command(&["stop", "w"]);
        command.env("BULKHEAD_FAULT", format!("command:{number}"));
        let done = run(command);
        host.ok(&["kill", "w"]);
        host.ok(&["doctor", "--fix"]);
        one_more(before, account(&host, "w"));
        host.ok(&["start", "w"]);
        if done.code == 0 {
            assert!(number >= 1, "{number} points");
            break;
        }
        assert!(number < 59, "more than 59 points");
    }
}
