//! Single promises of the pages in `docs` that no other test has for its subject: settings of the
//! host that are used, refusals that come before anything is made, what some verbs print.

use crate::support::{Bulkhead, Need, need};

/// An installation with a guest `cell` of the smallest template.
fn with_cell(start: bool) -> Bulkhead {
    let bulkhead = Bulkhead::new();
    let mut create = vec!["create", "cell", "--template", "busybox", "--memory", "32M"];
    if start {
        create.push("--start");
    }
    bulkhead.ok(&create);
    bulkhead
}

#[test]
fn images_lie_where_the_settings_want_them() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let etc = bulkhead.root().join("etc/bulkhead");
    let images = bulkhead.root().join("big/images");
    std::fs::create_dir_all(&etc).expect("a folder of ours");
    let settings = format!("[images]\ndir = {:?}\n", images.display().to_string());
    std::fs::write(etc.join("bulkhead.toml"), settings).expect("a folder of ours");
    bulkhead.ok(&["create", "cell", "--template", "busybox", "--start"]);
    assert_eq!(bulkhead.ok(&["exec", "cell", "--", "hostname"]), "cell\n");
    assert!(images.join("by-recipe").is_dir());
    assert!(!bulkhead.root().join("var/lib/bulkhead/images").exists());
}

#[test]
fn what_version_1_cannot_do_is_refused_before_anything_is_made() {
    if !need(Need::Root) || !need(Need::CgroupV1) {
        return;
    }
    let bulkhead = with_cell(false);
    for flag in [
        "--memory-low=1M",
        "--memory-min=1M",
        "--memory-high=16M",
        "--oom-group",
    ] {
        let why = bulkhead.fails(&["create", "other", "--template", "busybox", flag], 5);
        assert!(why.contains("needs cgroup v2"), "{flag}: {why}");
        let why = bulkhead.fails(&["set", "cell", flag], 5);
        assert!(why.contains("needs cgroup v2"), "{flag}: {why}");
    }
    let list = bulkhead.ok(&["list", "--format", "csv"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    assert_eq!(bulkhead.ok(&["get", "cell", "memory.low"]), "0\n");
}

#[test]
fn a_running_guest_is_not_promised_an_address_it_cannot_have() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = with_cell(true);
    bulkhead.ok(&[
        "create",
        "other",
        "--template",
        "busybox",
        "--memory",
        "32M",
    ]);
    let own = bulkhead.ok(&["wait", "cell", "ip"]);
    let other = bulkhead.ok(&["info", "other", "--format", "json"]);
    let taken = other
        .split("\"address\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("an address");
    for (address, why) in [("192.0.2.1", "outside the pool"), (taken, "other has it")] {
        let said = bulkhead.fails(&["set", "cell", "--address", address], 5);
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(bulkhead.ok(&["get", "cell", "network.address"]), "none\n");
    assert_eq!(bulkhead.ok(&["wait", "cell", "ip"]), own);
}

#[test]
fn a_plan_has_a_reason_for_every_step() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = with_cell(false);
    let plan = bulkhead.ok(&["plan", "cell"]);
    let numbered = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let steps: Vec<&str> = plan.lines().filter(numbered).collect();
    assert!(steps.len() > 40, "{plan}");
    for step in steps {
        let (_, why) = step.split_once(": ").unwrap_or_default();
        assert!(why.len() > 15, "{step}");
    }
    let order = [
        "make-cgroup: ",
        "make-stage: ",
        "make-init: ",
        "load-seccomp: ",
        "execute: ",
    ];
    let places: Vec<_> = order.map(|step| plan.find(step)).to_vec();
    assert!(places.is_sorted() && places[0].is_some(), "{places:?}");
}
