//! CPUs of a dedicated guest as a partition of the kernel's (cgroup version 2, Linux 6.7): programs of
//! the host are kept off them as long as it has them, and come back.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::life::{data, info, scripted};
use crate::support::{Bulkhead, Need, eventually, need};
use serde_json::json;

/// A program of the host's.
struct Stranger(Child);

impl Stranger {
    /// CPUs it may run on.
    fn cpus(&self) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("proc");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("a line").trim().to_owned()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What says whether a running guest's group is a partition.
fn state(host: &Bulkhead, name: &str) -> PathBuf {
    let pid = info(host, name)["pid"].as_u64().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("proc");
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let delegated = Path::new("/sys/fs/cgroup").join(path.expect("version 2"));
    let folder = delegated.parent().expect("a folder");
    folder.join("cpuset.cpus.partition")
}

#[test]
fn programs_of_the_host_are_kept_off_a_dedicated_guest() {
    if !need(Need::Root) || !need(Need::CgroupV2) || !need(Need::TwoCpus) {
        return;
    }
    let host = Bulkhead::new();
    let stranger = Stranger(
        Command::new("sleep")
            .arg("10000")
            .spawn()
            .expect("sleep(1)"),
    );
    let all = stranger.cpus();
    host.ok(&["tenant", "create", "acme"]);
    for (name, tenant) in [("a", None), ("b", Some("acme"))] {
        let mode = ["--cpu-mode", "dedicated", "--dedicated", "1"];
        let of_it = tenant.map_or(vec![], |tenant| vec!["--tenant", tenant]);
        let flags = [&["--network", "none", "--start"][..], &mode, &of_it].concat();
        scripted(&host, name, "sleep 10000", &flags);
        let seen = info(&host, name);
        let own = seen["runs_on"].as_str().expect("a list").to_owned();
        assert_eq!(seen["apart"], json!(true), "{seen}");
        assert!(!stranger.cpus().contains(&own), "{} {own}", stranger.cpus());
        assert!(
            host.ok(&["info", name])
                .contains("1 whole CPU for itself, on ")
        );

        // It shares again, and everybody is everywhere.
        host.ok(&["set", name, "cpu.mode=shared", "cpu.dedicated=none"]);
        eventually("the host has its CPUs back", 20, || stranger.cpus() == all);
        assert_eq!(info(&host, name)["apart"], json!(null));
        host.ok(&["set", name, "cpu.mode=dedicated", "cpu.dedicated=1"]);
        eventually("it is apart again", 20, || stranger.cpus() != all);
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));

        // As a command leaves it that dies when it has claimed them, before it keeps others off.
        std::fs::write(state(&host, name), "member").expect("a file of the kernel's");
        assert_eq!(info(&host, name)["apart"], json!(false));
        let found = host.run(&["doctor"]).stdout;
        assert!(found.contains("CPUs") && found.contains(name), "{found}");
        host.ok(&["doctor", "--fix"]);
        assert_eq!(info(&host, name)["apart"], json!(true));
        assert_eq!(data(&host, &["doctor"])["leftovers"], json!([]));
        host.ok(&["kill", name]);
        eventually("the host has its CPUs back", 20, || stranger.cpus() == all);
    }
}
