//! `doctor` names a guest whose disk is not of the size that was sold, and what it says helps.

use crate::life;
use crate::life::{data, shown, started};
use crate::support::{Bulkhead, Need, need};

const MIB: u64 = 1 << 20;

/// What doctor says of guests' disks.
fn told(host: &Bulkhead) -> Vec<String> {
    let text = host.run(&["doctor", "--format", "json"]).stdout;
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let all = all["findings"].as_array().expect("findings");
    let disks = all.iter().filter_map(|finding| {
        let subject = finding["subject"].as_str()?;
        subject
            .starts_with("disk of ")
            .then(|| format!("{subject}: {}", finding["text"]))
    });
    disks.collect()
}

/// As somebody's editor would.
fn written(host: &Bulkhead, from: &str, to: &str) {
    let path = host.root().join("var/lib/bulkhead/guests/a/guest.toml");
    let text = std::fs::read_to_string(&path).expect("a definition");
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).expect("a definition");
}

#[test]
fn a_disk_that_is_not_what_was_sold_is_named() {
    if !need(Need::Root) {
        return;
    }
    for driver in ["image", "btrfs"] {
        life::in_a_pool(driver, |host, flags| {
            let flags = [flags, &["--network", "none", "--memory", "64M"]].concat();
            started(host, "a", &flags);
            started(host, "b", &flags);
            assert_eq!(told(host), [""; 0]);
            written(host, "32M", "48M");
            // A command at work is no reason to wait, and a guest that runs none not to look.
            let said = told(host);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(
                said[0].starts_with("disk of a: ") && said[0].contains("48M"),
                "{said:?}"
            );
            host.ok(&["kill", "a"]);
            assert_eq!(told(host), said);
            host.ok(&["set", "a", "disk.size=48M"]);
            assert_eq!(told(host), [""; 0]);
            if driver == "image" {
                host.ok(&["start", "a"]);
                assert!(shown(host, "a") >= 48 * MIB);
            }
            // Said again nothing is to be done, whatever its filesystem has beyond that.
            host.ok(&["set", "a", "disk.size=48M"]);
            assert_eq!(data(host, &["info", "b"])["status"], "running");
            // What an editor, or a profile, has made larger is sold as any other when it is made so.
            let settings = host.root().join("etc/bulkhead");
            std::fs::create_dir_all(&settings).expect("a folder");
            let text = "[overcommit]\ndisk = 1.0\n";
            std::fs::write(settings.join("bulkhead.toml"), text).expect("settings");
            written(host, "48M", "900T");
            let said = host.fails(&["set", "a", "disk.size=900T"], 5);
            assert!(said.contains("are left"), "{said}");
            host.ok(&["set", "a", "memory.limit=65M"]);
            host.ok(&["delete", "--all", "--force"]);
        });
    }
}
