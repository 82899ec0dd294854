//! Allowances of traffic: used up, slowed down, cut off, raised, over restarts and killed keepers.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::life::{data, info, inside, own_network, started};
use crate::support::{Bulkhead, Need, eventually, need};
use crate::traces;
use serde_json::Value;

/// Bytes of a guest's month, and what is in force.
#[track_caller]
fn month(host: &Bulkhead, guest: &str) -> (u64, String) {
    let month = &info(host, guest)["month"];
    let level = month["level"].as_str().unwrap_or_else(|| panic!("{month}"));
    (month["used"].as_u64().expect("a number"), level.to_owned())
}

fn gateway(host: &Bulkhead, guest: &str) -> String {
    let text = info(host, guest)["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    let (net, _) = text.rsplit_once('.').expect("an IPv4 address");
    format!("{net}.1")
}

/// Has a guest send and receive 480 kilobytes.
fn talk(host: &Bulkhead, guest: &str) {
    let to = gateway(host, guest);
    inside(
        host,
        guest,
        &format!("ping -q -c 4 -s 60000 {to} >/dev/null"),
    );
}

fn reaches(host: &Bulkhead, guest: &str) -> bool {
    let to = gateway(host, guest);
    let word = inside(
        host,
        guest,
        &format!("ping -q -c 1 -W 1 {to} >/dev/null && echo yes || echo no"),
    );
    word.trim() == "yes"
}

/// Rates of the buckets on the host's ends of the installation's interfaces, as tc says them.
fn rates(host: &Bulkhead) -> Vec<String> {
    let rate = |line: &str| -> Option<String> {
        let name = line.trim_start_matches("interface ");
        let list = Command::new("tc")
            .args(["qdisc", "show", "dev", name])
            .output();
        let text = String::from_utf8(list.expect("tc").stdout).expect("text");
        let (_, after) = text.split_once("tbf")?.1.split_once(" rate ")?;
        Some(after.split(' ').next()?.to_owned())
    };
    let all = traces::interfaces(host.root());
    all.iter().filter_map(|line| rate(line)).collect()
}

/// A guest's connection to the host, which carries a line every tenth of a second.
fn stream(host: &Bulkhead, guest: &str) -> (Client, TcpStream) {
    let listener =
        TcpListener::bind((gateway(host, guest).as_str(), 0)).expect("the bridge's address");
    let port = listener.local_addr().expect("bound").port();
    let line = format!(
        "while :; do echo line; sleep 0.1; done | nc {} {port}",
        gateway(host, guest)
    );
    let mut client = host.command(&["exec", guest, "--", "sh", "-c", &line]);
    let client = client.stdin(Stdio::null()).stdout(Stdio::null());
    let client = Client(client.spawn().expect("the program"));
    let (stream, _) = listener.accept().expect("a connection");
    let patience = Some(Duration::from_secs(2));
    stream.set_read_timeout(patience).expect("a socket");
    (client, stream)
}

/// Ended with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

/// Whether something comes within two seconds.
fn hears(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0)
}

fn levels(host: &Bulkhead, guest: &str) -> Vec<String> {
    let all = data(host, &["events", guest]);
    let all: Vec<Value> = all.as_array().expect("a list").clone();
    let level = |event: &Value| event["level"].as_str().map(str::to_owned);
    all.iter().filter_map(level).collect()
}

#[test]
fn beyond_its_allowance_a_guest_is_slowed_down_and_then_cut_off() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(
        &host,
        "a",
        &["--allowance", "200K", "--allowance-rate", "1mbit"],
    );
    started(&host, "b", &[]);
    assert_eq!(info(&host, "b")["month"], Value::Null);
    assert_eq!(month(&host, "a").1, "free");
    assert!(rates(&host).is_empty());
    talk(&host, "a");
    let (used, level) = month(&host, "a");
    assert!(used > 400_000 && level == "spent", "{used} {level}");

    // Its keeper finds out, slows it down, and says so once.
    eventually("the keeper to look", 60, || levels(&host, "a") == ["spent"]);
    assert_eq!(rates(&host), ["1Mbit", "1Mbit"]);
    assert!(reaches(&host, "a"));

    // Another start does not begin anew.
    host.ok(&["restart", "a"]);
    assert_eq!(rates(&host), ["1Mbit", "1Mbit"]);

    // A set is in force at once: cut off, from everybody, connections that stand too, and back.
    let (_client, mut stream) = stream(&host, "a");
    assert!(hears(&mut stream), "what a connection carries");
    host.ok(&["set", "a", "--allowance-cut", "300K"]);
    assert_eq!(month(&host, "a").1, "cut");
    assert!(!reaches(&host, "a"));
    // What was on its way has been read by now, but for the last of it.
    let _last = hears(&mut stream);
    assert!(!hears(&mut stream), "a connection goes on");
    assert_eq!(
        host.ok(&["doctor"]),
        host.ok(&["doctor", "--fix"]),
        "nothing is wrong with that"
    );
    assert!(!reaches(&host, "a"));
    host.ok(&["restart", "a"]);
    assert!(!reaches(&host, "a"));
    host.ok(&["set", "a", "--allowance-cut", "none", "--allowance", "1G"]);
    assert_eq!(month(&host, "a").1, "free");
    assert!(reaches(&host, "a"));
    assert!(rates(&host).is_empty());
    assert_eq!(levels(&host, "a").last().map(String::as_str), Some("free"));
    let text = host.ok(&["info", "a"]);
    assert!(text.contains(" of 1024M since "), "{text}");
}

#[test]
fn an_allowance_has_to_make_sense() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for (flags, why) in [
        (
            &["--allowance", "1G", "--network", "none"][..],
            "network kind bridge",
        ),
        (&["--allowance-rate", "1mbit"], "needs network.allowance"),
        (&["--allowance", "1G", "--allowance-cut", "1M"], "less than"),
        (&["--allowance", "1G", "--allowance-day", "32"], "1 to 31"),
    ] {
        let words = [&["create", "x"][..], flags].concat();
        let said = host.fails(&words, 5);
        assert!(said.contains(why), "{flags:?}: {said}");
    }
}

/// A keeper looks often at what a guest with an allowance has sent, and notes it.
#[test]
fn traffic_is_counted_though_somebody_deletes_the_counters() {
    if !need(Need::Root) {
        return;
    }
    own_network();
    let host = Bulkhead::new();
    started(&host, "a", &["--allowance", "1G"]);
    let sum = || {
        let rows = data(&host, &["traffic", "a"]);
        rows[0]["sent_bytes"].as_u64().expect("a number")
    };
    let flush = || {
        let done = Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(done.expect("nft").success());
    };
    let note = host.root().join("run/bulkhead/guests/a/traffic.json");
    let mut before = 0;
    for round in 0..2 {
        // Another number in each round, which is looked for.
        (0..=round).for_each(|_| talk(&host, "a"));
        let sent = sum();
        assert!(sent >= before + 200_000, "{round}: {sent}");
        let account = host.root().join("var/lib/bulkhead/guests/a/account.json");
        // The counters begin anew in each round.
        let counted = (sent - before).to_string();
        let holds = |text: &str| text.contains(&counted);
        eventually("a note", 60, || {
            let read = |path| std::fs::read_to_string(path).unwrap_or_default();
            holds(&read(&note)) || holds(&read(&account))
        });
        flush();
        assert_eq!(sum(), sent, "{round}");
        host.ok(&["network", "reload"]);
        assert_eq!(sum(), sent, "{round}");
        before = sent;
    }
    // What is put away is what is shown, once.
    talk(&host, "a");
    let sent = sum();
    assert!(sent >= before + 200_000, "{sent}");
    host.ok(&["kill", "a"]);
    assert_eq!(sum(), sent);
    host.ok(&["start", "a"]);
    assert_eq!(sum(), sent);
}
