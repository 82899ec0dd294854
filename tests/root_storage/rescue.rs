//! Guests in rescue: their own root below a userspace of the host's, in pools of each driver; what a
//! hostile root cannot do about it, and what is left when it is cut short.

use crate::life::{data, events, in_a_pool, info, inside, made};
use crate::support::{Bulkhead, Need, became, eventually, need, run};
use crate::{life, traces};
use serde_json::json;

fn nothing_left(host: &Bulkhead) {
    // The process that tells neighbours of an end may still be at it.
    became(10, || host.run(&["doctor"]).code == 0);
    assert_eq!(data(host, &["doctor"])["leftovers"], json!([]));
}

/// What makes a guest this guest, seen from inside.
const WHO: &str = "hostname; cat /proc/self/uid_map /etc/machine-id /sys/class/net/eth0/address; \
                   ip addr show eth0 | grep 'inet '; cat /etc/hosts; ulimit -n";

fn a_rescue(host: &Bulkhead, flags: &[&str]) {
    let more = ["--memory", "64M", "--env", "MINE=yes", "--start"];
    made(host, "w", &[flags, &more].concat());
    // Whatever of its own were started would leave a trace.
    inside(
        host,
        "w",
        "echo mine >/data; chown 33:44 /data; mkdir /keep; echo gone >/keep/me; cp /bin/busybox /suid; \
         chmod 4755 /suid; printf '#!/bin/sh\\necho started >>/trace\\nexec /bin/busybox init\\n' >/new; \
         chmod 755 /new; rm /sbin/init; mv /new /sbin/init; echo 'echo started >>/trace' >/etc/profile",
    );
    let (who, address) = (inside(host, "w", WHO), info(host, "w")["address"].clone());
    let said = host.fails(&["rescue", "w"], 4);
    assert!(said.contains("stop it first"), "{said}");
    host.ok(&["kill", "w"]);
    let limits = |host: &Bulkhead| data(host, &["limits", "w"])[0]["memory_limit"].clone();

    host.ok(&["rescue", "w"]);
    assert_eq!(inside(host, "w", WHO), who);
    let told = info(host, "w");
    assert_eq!(
        (&told["rescue"], &told["address"]),
        (&json!("busybox"), &address)
    );
    assert_eq!(told["status"], "running");
    assert!(host.ok(&["list"]).contains("in rescue with busybox"));
    let rescued = limits(host);
    assert_eq!(
        inside(
            host,
            "w",
            "cat /mnt/guest/data; stat -c %u:%g /mnt/guest/data; ls /trace /mnt/guest/trace; echo $MINE"
        ),
        "mine\n33:44"
    );
    // Neither is a device, nor does a setuid bit count; both would need the mount to be changed.
    let flags = inside(host, "w", "grep ' /mnt/guest ' /proc/mounts");
    assert!(flags.contains("rw,nosuid,nodev"), "{flags}");
    inside(
        host,
        "w",
        "mount -o remount,suid,bind /mnt/guest 2>/dev/null; umount /mnt/guest 2>/dev/null; true",
    );
    let flags = inside(host, "w", "grep ' /mnt/guest ' /proc/mounts");
    assert!(flags.contains("rw,nosuid,nodev"), "{flags}");
    inside(
        host,
        "w",
        "echo more >>/mnt/guest/data; rm /mnt/guest/keep/me; echo lost >/lost; chroot /mnt/guest rm /sbin/init",
    );
    inside(host, "w", "ln -s /bin/busybox /mnt/guest/sbin/init");
    let snapshot = ["snapshot", "create", "w", "rescued"];
    host.ok(&snapshot);

    // Its reboot stays in rescue, and begins anew there.
    let pid = info(host, "w")["pid"].clone();
    host.run(&["exec", "w", "--", "reboot", "-f"]);
    eventually("it has rebooted", 20, || {
        let now = info(host, "w");
        now["status"] == "running" && now["pid"] != pid
    });
    assert_eq!(info(host, "w")["rescue"], "busybox");
    assert_eq!(
        inside(host, "w", "cat /lost 2>/dev/null; cat /mnt/guest/data"),
        "mine\nmore"
    );

    host.ok(&["stop", "w"]);
    assert_eq!(info(host, "w")["rescue"], json!(null));
    nothing_left(host);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", WHO), who);
    assert_eq!(
        inside(
            host,
            "w",
            "cat /data; ls /keep /lost /trace 2>/dev/null; echo $MINE"
        ),
        "mine\nmore\n/keep:\nyes"
    );
    assert_eq!(limits(host), rescued);
    assert_eq!(
        events(host, "w").iter().filter(|e| *e == "rescue").count(),
        2
    );
    host.ok(&["delete", "--force", "w"]);
    nothing_left(host);
}

#[test]
fn over_folders() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    a_rescue(host, &[]);
}

#[test]
fn over_files() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("image", a_rescue);
}

#[test]
fn over_subvolumes() {
    if !need(Need::Root) {
        return;
    }
    in_a_pool("btrfs", a_rescue);
}

/// A root that cannot be started any more, and was made so that it would harm whoever looks into it.
#[test]
fn of_what_is_broken() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    let outside = host.root().join("outside");
    std::fs::create_dir(&outside).expect("a folder of ours");
    made(host, "w", &["--start"]);
    let outside = outside.display();
    inside(
        host,
        "w",
        &format!(
            "cd /; mv etc was; ln -s {outside} etc; rm -rf mnt; ln -s {outside} mnt; \
             rmdir srv; mkfifo srv; mv sbin was-sbin; ln -s {outside} sbin; chmod 000 /"
        ),
    );
    host.ok(&["kill", "w"]);
    host.fails(&["start", "w"], 1);
    nothing_left(host);
    host.ok(&["rescue", "w"]);
    assert_eq!(
        inside(
            host,
            "w",
            "cd /mnt/guest; readlink etc; stat -c %a .; cat was/hostname"
        ),
        format!("{outside}\n0\nw")
    );
    inside(
        host,
        "w",
        "cd /mnt/guest; chmod 755 .; rm etc mnt srv sbin; mv was etc; mv was-sbin sbin; mkdir mnt srv",
    );
    host.ok(&["stop", "w"]);
    host.ok(&["start", "w"]);
    assert_eq!(inside(host, "w", "cat /etc/hostname"), "w");
    let left = std::fs::read_dir(host.root().join("outside")).expect("ours");
    assert_eq!(left.count(), 0, "nothing was written outside");
    host.ok(&["delete", "--force", "w"]);
    nothing_left(host);
}

/// Any image is good for it, and is in use meanwhile; folders of the host's are not shown.
#[test]
fn with_an_image() {
    if !need(Need::Root) {
        return;
    }
    let host = &Bulkhead::new();
    made(host, "v", &["--network", "none", "--start"]);
    inside(host, "v", "echo tools >/marker");
    host.ok(&["kill", "v"]);
    host.ok(&["image", "publish", "v", "--tag", "tools:1"]);
    host.ok(&["delete", "--yes", "v"]);
    let shown = host.root().join("shown");
    std::fs::create_dir(&shown).expect("a folder of ours");
    let mount = format!("{}:/shown", shown.display());
    made(host, "w", &["--network", "none", "--mount", &mount]);

    let said = host.fails(&["rescue", "w", "--image", "tols:1"], 5);
    assert!(said.contains("tols:1"), "{said}");
    host.ok(&["rescue", "w", "--image", "tools:1", "--dry-run"]);
    host.fails(&["rescue", "w", "--image", "nothing", "--dry-run"], 5);
    host.fails(&["rescue", "nobody"], 3);
    assert!(life::is(host, "w", "stopped"));
    // What its definition shows of the host must not be there for a rescue.
    std::fs::remove_dir(&shown).expect("a folder of ours");
    host.ok(&["rescue", "w", "--image", "tools:1"]);
    assert_eq!(
        inside(host, "w", "cat /marker; ls -d /shown 2>/dev/null; true"),
        "tools"
    );
    assert_eq!(info(host, "w")["rescue"], "tools:1");
    let said = host.fails(&["image", "delete", "tools:1"], 4);
    assert!(said.contains('w'), "{said}");
    host.ok(&["image", "prune", "--all"]);
    assert_eq!(inside(host, "w", "cat /marker"), "tools");
    host.ok(&["stop", "w"]);
    host.ok(&["image", "delete", "tools:1"]);
    host.ok(&["delete", "w"]);
    nothing_left(host);
}

struct Site {
    host: Bulkhead,
    clean: traces::Traces,
}

impl Site {
    fn new() -> Self {
        let host = Bulkhead::new();
        made(&host, "w", &["--start"]);
        inside(&host, "w", "echo kept >/data");
        host.ok(&["kill", "w"]);
        // What a first rescue makes for good.
        host.ok(&["rescue", "w"]);
        host.ok(&["kill", "w"]);
        let clean = traces::of(host.root());
        let site = Self { host, clean };
        site.settle();
        let clean = traces::of(site.host.root());
        Self { clean, ..site }
    }

    fn settle(&self) {
        eventually("no process is left", 20, || {
            traces::processes(self.host.root()).is_empty()
        });
        eventually("no guest's interface is left", 20, || {
            traces::interfaces(self.host.root()).len() <= 1
        });
    }

    /// Runs a command with a fault; what it leaves is cleared by `doctor`, or by the next start.
    fn cut(&self, fault: &str, args: &[&str], heals: bool) -> i32 {
        let mut command = self.host.command(args);
        command.env("BULKHEAD_FAULT", fault);
        let done = run(command);
        let launching = || {
            let all = traces::processes(self.host.root());
            all.iter().any(|line| line.contains(" rescue w"))
        };
        eventually("the launch has ended", 20, || !launching());
        if info(&self.host, "w")["status"] == "running" {
            self.host.ok(&["kill", "w"]);
        }
        self.settle();
        if heals {
            self.host.ok(&["start", "w"]);
            assert_eq!(info(&self.host, "w")["rescue"], json!(null), "{fault}");
            assert_eq!(inside(&self.host, "w", "cat /data"), "kept", "{fault}");
            self.host.ok(&["kill", "w"]);
        } else {
            self.host.ok(&["doctor", "--fix"]);
        }
        self.settle();
        let left = traces::new(&self.clean, &traces::of(self.host.root()));
        assert_eq!(left, [] as [String; 0], "left by {args:?} at {fault}");
        let folder = self.host.root().join("var/lib/bulkhead/guests/w/rescue");
        assert!(!folder.exists(), "left by {args:?} at {fault}");
        done.code
    }

    fn every(&self, place: &str, act: &str, least: usize) {
        for number in 0.. {
            let fault = format!("{place}:{number}{act}");
            let heals = number % 2 == 0;
            if self.cut(&fault, &["rescue", "w"], heals) == 0 {
                assert!(number >= least, "{place}: {number} points");
                return;
            }
            assert!(number < 100, "{place}: more than 100 points");
        }
    }
}

#[test]
fn cut_short_in_the_command() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.every("command", "", 1);
    site.every("launch", "", 8);
    site.every("launch", ":fail", 8);
}

#[test]
fn cut_short_in_the_launch() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    site.every("host", "", 20);
    site.every("stage", "", 6);
    site.every("init", "", 15);
}

#[test]
fn cut_short_at_its_end() {
    if !need(Need::Root) {
        return;
    }
    let site = Site::new();
    for number in 0..40 {
        site.host.ok(&["rescue", "w"]);
        let fault = format!("command:{number}");
        if site.cut(&fault, &["kill", "w"], number % 2 == 0) == 0 {
            assert!(number >= 5, "{number} points");
            return;
        }
    }
    panic!("more than 40 points");
}
