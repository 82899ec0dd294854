//! Ways out of an OCI container that lead through paths: links where something is mounted, made or
//! hidden, the same while somebody swaps them. The host's files and mounts stay as they are.
//!
//! Ways through descriptors, devices and capabilities are in `root_oci/escape.rs`; hostile
//! configurations and names in `root_oci/hostile.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bundle::{Site, ready};
use crate::clients;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

/// A folder of the host's that nothing may be mounted on or made in.
fn victim(site: &Site) -> PathBuf {
    let victim = site.path("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "the host's").unwrap();
    victim
}

#[track_caller]
fn is_untouched(victim: &Path, what: &str) {
    let names: Vec<_> = fs::read_dir(victim)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["file"], "{what}");
    assert_eq!(
        fs::read_to_string(victim.join("file")).unwrap(),
        "the host's",
        "{what}"
    );
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(&*victim.to_string_lossy()),
        "{what}: {table}"
    );
}

fn replace(at: &Path, target: &Path) {
    let _ = fs::remove_dir_all(at);
    let _ = fs::remove_file(at);
    symlink(target, at).unwrap();
}

/// CVE-2019-19921, CVE-2023-27561, CVE-2026-41579: folders of an image that are links.
#[test]
fn links_in_an_image_lead_nowhere() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = victim(&site);
    let up = Path::new("../../../../../../../../../..").join(victim.strip_prefix("/").unwrap());
    for name in [
        "dev",
        "proc",
        "sys",
        "etc",
        "dev/null",
        "dev/pts",
        "dev/console",
        "etc/resolv.conf",
    ] {
        for (number, target) in [
            victim.clone(),
            up.clone(),
            "/tmp".into(),
            "/nowhere/x".into(),
        ]
        .iter()
        .enumerate()
        {
            let name_of_it = format!("{}{number}", name.replace('/', "-"));
            let mut bundle = site.bundle(&name_of_it, "echo inside > /etc/resolv.conf; exit 7");
            replace(&bundle.root().join(name), target);
            if name.starts_with("dev/") {
                bundle.unmount("/dev");
            }
            bundle.mount(json!({"destination": "/etc/resolv.conf", "type": "bind",
                "source": site.path(&name_of_it).join("config.json"), "options": ["bind", "ro"]}));
            bundle.write();
            let done = site.run_in(&bundle, "c");
            let kernels = ["proc", "sys"].contains(&name);
            assert_eq!(
                kernels,
                done.stderr.contains("ordinary directory"),
                "{name}: {}",
                done.report()
            );
            is_untouched(&victim, &name_of_it);
            site.is_clean(&name_of_it);
            fs::remove_dir_all(&bundle.folder).unwrap();
        }
    }
}

/// The client's own paths may be links: what they lead to is looked up once.
#[test]
fn a_root_and_a_source_that_are_links_show_what_they_lead_to() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = victim(&site);
    let mut bundle = site.bundle(
        "c",
        "cat /vol/file; umount /vol; touch /vol/new; ls / | grep -c victim",
    );
    fs::rename(bundle.root(), site.path("real")).unwrap();
    symlink(site.path("real"), bundle.root()).unwrap();
    symlink(&victim, site.path("source")).unwrap();
    bundle.mount(
        json!({"destination": "/vol", "type": "bind", "source": site.path("source"),
        "options": ["bind", "ro"]}),
    );
    bundle.write();
    let done = site.run_in(&bundle, "c");
    assert_eq!(done.stdout, "the host's0\n", "{}", done.report());
    is_untouched(&victim, "a source that is a link");
}

/// Swaps a folder of a volume with a link, until it is dropped.
struct Swap {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Swap {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let flag = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut count = 0;
            while !flag.load(Ordering::Relaxed) {
                let done = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
                count += u64::from(done.is_ok());
            }
            count
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.take().unwrap().join().unwrap();
        assert!(
            std::thread::panicking() || count > 100,
            "swapped only {count} times"
        );
    }
}

/// CVE-2021-30465, CVE-2024-45310: a second container swaps links in a shared volume while the
/// first one is made on it again and again.
#[test]
fn mount_targets_may_be_swapped() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = victim(&site);
    let volume = site.path("volume");
    fs::create_dir_all(volume.join("at/below")).unwrap();
    symlink(&victim, volume.join("other")).unwrap();
    let mut bundle = site.bundle("c", "exit 0");
    bundle.mount(
        json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}),
    );
    bundle.mount(json!({"destination": "/vol/at", "type": "tmpfs", "source": "tmpfs"}));
    bundle.mount(json!({"destination": "/vol/at/file", "type": "bind",
        "source": "/etc/hostname", "options": ["bind"]}));
    bundle.mount(json!({"destination": "/vol/at/new/deep", "type": "bind",
        "source": "/usr/share", "options": ["rbind"]}));
    let linux = &mut bundle.config["linux"];
    for list in ["maskedPaths", "readonlyPaths"] {
        linux[list]
            .as_array_mut()
            .unwrap()
            .push(json!("/vol/at/file"));
    }
    bundle.config["process"]["cwd"] = json!("/vol/at/cwd/made");
    bundle.write();
    for number in 0..2 {
        let _swap = Swap::start(volume.join("at"), volume.join("other"));
        for _ in 0..40 {
            site.run_in(&bundle, "c");
        }
        is_untouched(&victim, "swapped targets");
        if number == 0 {
            bundle.with_ids();
        }
    }
    site.is_clean("swapped targets");
}

/// CVE-2025-31133, CVE-2025-52565: what stands where a device should be is bound over a masked path.
#[test]
fn what_hides_is_the_null_device() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let dev = site.path("dev");
    fs::create_dir(&dev).unwrap();
    let say = "head -c 40 /proc/kcore | od -c | head -n 1; \
        (echo x > /proc/kcore) 2>/dev/null; cat /proc/sys/kernel/core_pattern";
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for ids in [false, true] {
        for volume in [false, true] {
            for target in [
                "/proc/sys/kernel/core_pattern",
                "/proc/self/status",
                "/etc/shown",
                "file",
            ] {
                let mut bundle = site.bundle("c", say);
                fs::write(bundle.root().join("etc/shown"), "shown in its place").unwrap();
                bundle.unmount("/dev");
                let place = if volume {
                    dev.clone()
                } else {
                    bundle.root().join("dev")
                };
                if volume {
                    bundle.mount(json!({"destination": "/dev", "type": "bind", "source": dev,
                        "options": ["rbind"]}));
                }
                let null = place.join("null");
                let _ = fs::remove_file(&null);
                if target == "file" {
                    fs::write(&null, "shown in its place").unwrap();
                } else {
                    symlink(target, &null).unwrap();
                }
                bundle.config["linux"]["readonlyPaths"] = json!([]);
                bundle.write();
                if ids {
                    bundle.with_ids();
                }
                let done = site.run_in(&bundle, "c");
                let hidden = done.stdout == pattern || done.code != 0;
                assert!(
                    hidden && !done.stdout.contains("in its place"),
                    "{target} {ids} {volume}: {}",
                    done.report()
                );
                assert_eq!(
                    fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
                    pattern
                );
                if volume {
                    assert!(
                        done.stderr.contains("not the null device")
                            || done.stderr.contains("/dev/null"),
                        "{}",
                        done.report()
                    );
                }
                fs::remove_dir_all(&bundle.folder).unwrap();
            }
        }
    }
}

/// The same while they are swapped in a volume that two containers share; with a terminal.
#[test]
fn dev_may_be_swapped() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = victim(&site);
    let volume = site.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("console"), "").unwrap();
    symlink(victim.join("file"), volume.join("other")).unwrap();
    let mut bundle = site.bundle("c", "exit 0");
    bundle.unmount("/dev");
    bundle.mount(
        json!({"destination": "/dev", "type": "bind", "source": volume, "options": ["rbind"]}),
    );
    bundle.mount(
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}),
    );
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.write();
    for (one, other) in [("console", "other"), ("pts", "link")] {
        if one == "pts" {
            symlink(&victim, volume.join("link")).unwrap();
        }
        let _ = fs::create_dir(volume.join("pts"));
        let _swap = Swap::start(volume.join(one), volume.join(other));
        for _ in 0..40 {
            site.run_in(&bundle, "c");
        }
        is_untouched(&victim, one);
    }
    site.is_clean("a swapped console");
}

/// CVE-2019-16884, CVE-2025-52881: a false procfs. Ours is another one.
#[test]
fn a_false_proc_is_written_to_by_nobody() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut bundle = site.bundle(
        "c",
        "cat /proc/sys/net/ipv4/ip_forward; cat /proc/self/attr/exec",
    );
    let proc = site.path("proc");
    fs::create_dir_all(proc.join("sys/net/ipv4")).unwrap();
    fs::create_dir_all(proc.join("self/attr")).unwrap();
    symlink("/proc/sysrq-trigger", proc.join("self/attr/exec")).unwrap();
    fs::write(proc.join("sys/net/ipv4/ip_forward"), "false\n").unwrap();
    symlink(
        "../../kernel/core_pattern",
        proc.join("sys/net/ipv4/ip_default_ttl"),
    )
    .unwrap();
    bundle.unmount("/proc");
    bundle.mount(
        json!({"destination": "/proc", "type": "bind", "source": proc, "options": ["rbind"]}),
    );
    bundle.config["linux"]["sysctl"] =
        json!({"net.ipv4.ip_forward": "1", "net.ipv4.ip_default_ttl": "77"});
    bundle.write();
    let done = site.run_in(&bundle, "c");
    assert!(done.stdout.starts_with("false\n"), "{}", done.report());
    assert_eq!(
        fs::read_to_string(proc.join("sys/net/ipv4/ip_forward")).unwrap(),
        "false\n"
    );
    assert_eq!(
        fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
        pattern
    );
}

/// What a container mounts, the host does not see, also where the host's mounts are shared.
#[test]
fn no_mount_reaches_the_host() {
    if !ready() {
        return;
    }
    clients::apart(CloneFlags::CLONE_NEWNS, || {
        let site = Site::new();
        let volume = site.path("volume");
        fs::create_dir(&volume).unwrap();
        let at = volume.display();
        clients::succeed_in_shell(&format!(
            "mount -t tmpfs none {at}; mount --make-shared {at}; mkdir {at}/in"
        ));
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        // What is kept for further launches is there after the first.
        site.run_in(&site.bundle("first", "true"), "first");
        let before = mounts();
        let mut bundle = site.bundle(
            "c",
            "mount -t tmpfs none /vol/in && mount --bind /usr /tmp && echo mounted",
        );
        bundle.mount(
            json!({"destination": "/vol", "type": "bind", "source": volume, "options": ["rbind"]}),
        );
        let caps = &mut bundle.config["process"]["capabilities"];
        for set in ["bounding", "effective", "permitted"] {
            caps[set]
                .as_array_mut()
                .unwrap()
                .push(json!("CAP_SYS_ADMIN"));
        }
        bundle.write();
        for propagation in ["", "private", "rslave"] {
            bundle.config["linux"]["rootfsPropagation"] = json!(propagation);
            bundle.write();
            let done = site.run_in(&bundle, "c");
            assert_eq!(done.stdout, "mounted\n", "{}", done.report());
            assert_eq!(mounts(), before, "{propagation}");
        }
        clients::succeed_in_shell(&format!("umount {at}"));
    });
}

/// `..` in a destination ends at the root, and mounts may lie on each other and show each other.
#[test]
fn mounts_stay_below_the_root() {
    if !ready() {
        return;
    }
    let site = Site::new();
    let victim = victim(&site);
    let mut bundle = site.bundle("c", "cat /tmp/dots/a; ls /vol/vol/vol | head -n 1");
    let up = format!("/../../../../../../../..{}", victim.display());
    let volume = site.path("volume");
    fs::create_dir_all(volume.join("vol/vol/vol")).unwrap();
    fs::write(volume.join("a"), "a\n").unwrap();
    for (at, source) in [
        (up.as_str(), volume.as_path()),
        ("/tmp/../tmp/./dots/../dots", &volume),
        ("/vol", &volume),
        ("/vol/vol", &volume),
        ("/vol/vol/vol", &bundle.root()),
        ("/tmp/root", &bundle.folder.clone()),
    ] {
        bundle.mount(
            json!({"destination": at, "type": "bind", "source": source, "options": ["rbind"]}),
        );
    }
    bundle.write();
    let done = site.run_in(&bundle, "c");
    assert_eq!(done.stdout, "a\nbin\n", "{}", done.report());
    is_untouched(&victim, "..");
}
