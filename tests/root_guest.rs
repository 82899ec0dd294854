//! The life of a guest, from outside: create, start, look at, stop, rename, delete.

mod support;

use support::{Bulkhead, Need, eventually, need};

/// A busybox guest, made with these flags and started.
#[track_caller]
fn started(host: &Bulkhead, name: &str, flags: &[&str]) {
    made(host, name, &[flags, &["--start"]].concat());
}

/// A busybox guest, made with these flags.
#[track_caller]
fn made(host: &Bulkhead, name: &str, flags: &[&str]) {
    host.ok(&[&["create", name, "--template", "busybox"], flags].concat());
}

/// What a shell in the guest prints, without the last line's end.
#[track_caller]
fn inside(host: &Bulkhead, name: &str, line: &str) -> String {
    let text = host.ok(&["exec", name, "--", "sh", "-c", line]);
    text.trim_end().to_owned()
}

/// What `info` says of a guest, as data.
#[track_caller]
fn info(host: &Bulkhead, name: &str) -> serde_json::Value {
    let text = host.ok(&["info", name, "--format", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn a_guest_lives_from_create_to_delete() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    made(&host, "web", &["--memory", "64M", "--label", "team=shop"]);
    let stopped = info(&host, "web");
    assert_eq!(stopped["status"], "stopped");
    let (address, ids) = (stopped["address"].clone(), stopped["ids"].clone());
    assert!(address.is_string() && ids.is_number(), "{stopped}");

    host.ok(&["start", "web"]);
    assert_eq!(info(&host, "web")["status"], "running");
    assert_eq!(inside(&host, "web", "hostname"), "web");
    inside(&host, "web", "echo kept > /root/mark");

    host.ok(&["stop", "web"]);
    let after = info(&host, "web");
    assert_eq!(after["status"], "stopped");
    assert_eq!(after["last_end"]["reason"], "stopped", "{after}");

    host.ok(&["rename", "web", "shop"]);
    host.fails(&["info", "web"], 3);
    host.ok(&["start", "shop"]);
    let renamed = info(&host, "shop");
    assert_eq!((&renamed["address"], &renamed["ids"]), (&address, &ids));
    assert_eq!(
        inside(&host, "shop", "hostname; cat /root/mark"),
        "shop\nkept"
    );

    let why = host.fails(&["delete", "shop"], 4);
    assert!(why.contains("running"), "{why}");
    host.ok(&["delete", "shop", "--force"]);
    host.fails(&["info", "shop"], 3);
    assert_eq!(host.ok(&["list", "--format", "json"]).trim(), "[]");
}

#[test]
fn restart_keeps_address_ids_and_files() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "web", &[]);
    let before = info(&host, "web");
    inside(&host, "web", "echo kept > /root/mark");
    host.ok(&["kill", "web"]);
    host.ok(&["restart", "web"]);
    let after = info(&host, "web");
    for key in ["address", "ids", "image", "created_ms"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_ne!(before["pid"], after["pid"]);
    assert_eq!(inside(&host, "web", "cat /root/mark"), "kept");
    eventually("the address is inside too", 5, || {
        let address = after["address"].as_str().expect("an address");
        inside(&host, "web", "ip addr").contains(&format!("inet {address}/"))
    });
}
