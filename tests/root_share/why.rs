//! Guests that are slow for a known reason, and what `why` says of them.

use std::process::{Child, Stdio};

use crate::life::{data, started};
use crate::support;
use crate::support::{Bulkhead, Need, need};
use serde_json::Value;

/// Work in a guest that goes on until it is dropped.
struct Busy(Child);

impl Busy {
    fn new(host: &Bulkhead, guest: &str, line: &str) -> Self {
        let mut command = host.command(&["exec", guest, "--", "sh", "-c", line]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.stderr(Stdio::null()).spawn().expect("the program"))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn causes(host: &Bulkhead, guest: &str) -> Vec<Value> {
    let all = data(host, &["why", guest, "--for", "2s"]);
    all.as_array().expect("a list").clone()
}

#[track_caller]
fn says(causes: &[Value], resource: &str, words: &str) {
    let fits = |cause: &Value| {
        cause["resource"] == resource
            && cause["why"].as_str().is_some_and(|why| why.contains(words))
    };
    assert!(causes.iter().any(fits), "{resource}, {words}: {causes:?}");
}

#[test]
fn a_guest_at_its_limits_is_told_so() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(
        &host,
        "a",
        &["--cpus", "0.1", "--memory", "64M", "--processes", "20"],
    );
    let said = host.run(&["why", "a", "--for", "200ms"]);
    assert_eq!(said.code, 0, "{}", said.report());
    let _busy = Busy::new(&host, "a", "while :; do :; done");
    let found = causes(&host, "a");
    says(&found, "cpu", "its own limit of 0.1 CPUs");
    assert!(
        found[0]["part"].as_u64().expect("counted") > 2000,
        "{found:?}"
    );
    let _bomb = Busy::new(
        &host,
        "a",
        "while :; do for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24; do \
         sleep 1 & done; wait; done",
    );
    support::eventually("a refused process", 60, || {
        let found = causes(&host, "a");
        found.iter().any(|cause| cause["resource"] == "processes")
    });
    host.ok(&["pause", "a"]);
    says(&causes(&host, "a"), "pause", "it is paused");
    host.ok(&["resume", "a"]);
    host.ok(&["stop", "a"]);
    let said = host.fails(&["why", "a"], 4);
    assert!(said.contains("cannot watch guest a"), "{said}");
    assert_eq!(host.run(&["why", "a", "--for", "1ms"]).code, 2);
}

#[test]
fn alone_a_loud_neighbour_is_named() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let cpu = ["--cpuset", "0"];
    for guest in ["calm", "loud"] {
        started(&host, guest, &cpu);
    }
    let _loud = Busy::new(&host, "loud", "while :; do :; done");
    let _calm = Busy::new(&host, "calm", "while :; do :; done");
    support::eventually("both at work", 60, || {
        let found = causes(&host, "calm");
        let named = |cause: &Value| {
            cause["why"]
                .as_str()
                .is_some_and(|why| why.contains("loud"))
        };
        found
            .iter()
            .any(|cause| cause["resource"] == "cpu" && named(cause))
    });
}
