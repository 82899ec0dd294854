//! What `mounts`, paths and devices of a configuration are inside an OCI container: attributes, ids,
//! propagation, what is hidden, what is in /dev. Namespaces and hooks are in `root_oci/spec.rs`.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::clients::{apart, succeed_in_shell};
use crate::oci::Bundle;
use crate::support::{Need, need};
use bulkhead::kernel::seccomp::Program;
use bulkhead::model::{Action, Arch, Filter, FilterFlags, Rule};
use nix::sched::CloneFlags;
use serde_json::json;

fn ready() -> bool {
    need(Need::Root) && need(Need::OciRuntime)
}

/// Options and optional fields of the mount on `target`, as mountinfo inside has them.
fn mountinfo(text: &str, target: &str) -> String {
    let line = text
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(target));
    line.unwrap_or_else(|| panic!("no {target}: {text}"))
        .split(' ')
        .skip(5)
        .collect::<Vec<_>>()
        .join(" ")
}

const TABLE: &str = "cat /proc/self/mountinfo";

#[test]
fn every_attribute_of_a_mount_is_in_force() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let seen = [
        ("ro", "ro,"),
        ("nosuid", "nosuid"),
        ("nodev", "nodev"),
        ("noexec", "noexec"),
        ("noatime", "noatime"),
        ("nodiratime", "nodiratime"),
        ("nosymfollow", "nosymfollow"),
        ("sync", "sync"),
        ("dirsync", "dirsync"),
        ("lazytime", "lazytime"),
        ("size=64k", "size=64k"),
        ("mode=710", "mode=710"),
    ];
    for (n, (option, _)) in seen.iter().enumerate() {
        bundle.mount(
            json!({"destination": format!("/m{n}"), "type": "tmpfs", "source": "t",
            "options": [option]}),
        );
    }
    // What takes another one back, and what comes last.
    let undone = [
        ("ro", "rw"),
        ("nosuid", "suid"),
        ("nodev", "dev"),
        ("noexec", "exec"),
        ("noatime", "atime"),
        ("noatime", "relatime"),
        ("nodiratime", "diratime"),
        ("nosymfollow", "symfollow"),
    ];
    for (n, (option, back)) in undone.iter().enumerate() {
        bundle.mount(
            json!({"destination": format!("/u{n}"), "type": "tmpfs", "source": "t",
            "options": [option, back]}),
        );
    }
    bundle.mount(
        json!({"destination": "/strict", "type": "tmpfs", "options": ["noatime", "strictatime"]}),
    );
    let table = bundle.says(TABLE);
    for (n, (option, word)) in seen.iter().enumerate() {
        let line = mountinfo(&table, &format!("/m{n}"));
        assert!(line.contains(word), "{option}: {line}");
    }
    for (n, (option, back)) in undone.iter().enumerate() {
        let line = mountinfo(&table, &format!("/u{n}"));
        let here = line.split(' ').next().unwrap_or_default().to_owned() + ",";
        assert!(!here.contains(&format!("{option},")), "{back}: {line}");
    }
    let strict = mountinfo(&table, "/strict");
    assert!(!strict.contains("atime"), "{strict}");
}

#[test]
fn attributes_reach_what_is_mounted_below_if_that_is_asked_for() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let mut bundle = Bundle::new();
        let source = bundle.path("source");
        let at = source.display();
        succeed_in_shell(&format!(
            "mkdir -p {at}; mount -t tmpfs t {at}; mkdir {at}/sub; mount -t tmpfs t {at}/sub"
        ));
        let words = ["ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"];
        for word in words {
            bundle.mount(
                json!({"destination": format!("/flat-{word}"), "type": "bind",
                "source": source, "options": ["rbind", word]}),
            );
            bundle.mount(
                json!({"destination": format!("/deep-{word}"), "type": "bind",
                "source": source, "options": ["rbind", format!("r{word}")]}),
            );
        }
        bundle.mount(json!({"destination": "/alone", "type": "bind",
            "source": source, "options": ["bind"]}));
        let table = bundle.says(TABLE);
        for word in words {
            let has = |target: String| {
                let line = mountinfo(&table, &target);
                let here = line.split(' ').next().unwrap_or_default();
                here.split(',').any(|option| option == word)
            };
            assert!(has(format!("/flat-{word}")), "{word}: {table}");
            assert!(!has(format!("/flat-{word}/sub")), "{word}: {table}");
            assert!(has(format!("/deep-{word}")), "{word}: {table}");
            assert!(has(format!("/deep-{word}/sub")), "{word}: {table}");
        }
        assert!(!table.contains(" /alone/sub "), "{table}");
        // And back: below a tree that is read-only.
        succeed_in_shell(&format!("mount -o remount,ro,bind {at}/sub"));
        let mut bundle = Bundle::new();
        bundle.mount(
            json!({"destination": "/back", "type": "bind", "source": source,
            "options": ["rbind", "rrw"]}),
        );
        bundle.mount(
            json!({"destination": "/kept", "type": "bind", "source": source,
            "options": ["rbind", "rw"]}),
        );
        let table = bundle.says(TABLE);
        assert!(mountinfo(&table, "/back/sub").starts_with("rw"), "{table}");
        assert!(mountinfo(&table, "/kept/sub").starts_with("ro"), "{table}");
        succeed_in_shell(&format!("umount -R {at}"));
    });
}

#[test]
fn ids_of_a_mount_are_shifted() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let mut bundle = Bundle::new();
        bundle.users(300_000);
        let source = bundle.path("source");
        let at = source.display();
        succeed_in_shell(&format!(
            "mkdir -p {at}; mount -t tmpfs t {at}; touch {at}/file; chown 1000:1001 {at}/file
             mkdir {at}/sub; mount -t tmpfs t {at}/sub; touch {at}/sub/file
             chown 7:8 {at}/sub/file"
        ));
        let map = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
        let other = json!([{"containerID": 1000, "hostID": 300_005, "size": 10}]);
        for (name, options) in [
            ("plain", json!(["rbind"])),
            ("one", json!(["rbind", "idmap"])),
            ("all", json!(["rbind", "ridmap"])),
        ] {
            bundle.mount(json!({"destination": format!("/{name}"), "type": "bind",
                "source": source, "options": options}));
        }
        bundle.mount(
            json!({"destination": "/own", "type": "bind", "source": source,
            "options": ["bind"], "uidMappings": map, "gidMappings": map}),
        );
        bundle.mount(
            json!({"destination": "/odd", "type": "bind", "source": source,
            "options": ["bind"], "uidMappings": other, "gidMappings": other}),
        );
        let script = "for d in plain one all own odd; do stat -c '%u:%g' /$d/file; done
            stat -c '%u:%g' /one/sub/file /all/sub/file
            touch /all/new /all/sub/new";
        let said = bundle.says(script);
        let expected = [
            "65534:65534",
            "1000:1001",
            "1000:1001",
            "1000:1001",
            "5:6",
            "65534:65534",
            "7:8",
        ];
        assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        let owner = fs::metadata(source.join("sub/new")).expect("made inside");
        assert_eq!((owner.uid(), owner.gid()), (0, 0));
        let half = json!({"destination": "/half", "type": "bind", "source": source,
            "options": ["bind"], "uidMappings": map});
        bundle.mount(half);
        assert!(bundle.refused("true").contains("gidMappings"));
        succeed_in_shell(&format!("umount -R {at}"));
    });
}

#[test]
fn a_memory_file_system_begins_with_what_it_covers() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let etc = bundle.inside("etc");
    fs::create_dir(etc.join("deep")).expect("ours");
    fs::write(etc.join("deep/file"), "kept").expect("ours");
    fs::set_permissions(etc.join("deep/file"), fs::Permissions::from_mode(0o4751)).expect("ours");
    std::os::unix::fs::chown(etc.join("deep"), Some(5), Some(6)).expect("root may");
    symlink("deep/file", etc.join("link")).expect("ours");
    bundle.mount(
        json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs",
        "options": ["tmpcopyup", "ro"]}),
    );
    bundle.mount(json!({"destination": "/var", "type": "tmpfs", "options": ["size=1m"]}));
    bundle.mount(json!({"destination": "/made/here", "type": "tmpfs", "options": ["tmpcopyup"]}));
    let said = bundle.says(
        "cat /etc/link; echo; stat -c '%a %u:%g' /etc/deep/file /etc/deep
         touch /etc/x 2>&1; ls /var /made/here; touch /var/y",
    );
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(&lines[..2], ["kept", "4751 0:0"], "{said}");
    assert!(lines[2].ends_with("5:6"), "{said}");
    assert!(lines[3].contains("Read-only"), "{said}");
    assert!(!bundle.inside("var/y").exists());
}

#[test]
fn mounts_hear_of_each_other_as_far_as_asked_for() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let mut bundle = Bundle::new();
        let source = bundle.path("source");
        let at = source.display();
        succeed_in_shell(&format!(
            "mkdir -p {at}; mount -t tmpfs t {at}; mount --make-shared {at}; mkdir {at}/in {at}/out"
        ));
        for word in ["shared", "slave", "private", "unbindable"] {
            for word in [word.to_owned(), format!("r{word}")] {
                bundle.mount(json!({"destination": format!("/{word}"), "type": "bind",
                    "source": source, "options": ["rbind", word]}));
            }
        }
        bundle.mount(
            json!({"destination": "/default", "type": "bind", "source": source,
            "options": ["rbind"]}),
        );
        bundle.config["linux"]["rootfsPropagation"] = json!("shared");
        bundle.asleep();
        let table = bundle.exec(&[], TABLE);
        let fields = |target: &str| mountinfo(&table, target);
        assert!(fields("/rshared").contains("shared:"), "{table}");
        assert!(fields("/rslave").contains("master:"), "{table}");
        assert!(!fields("/rslave").contains("shared:"), "{table}");
        for private in ["/private", "/rprivate"] {
            let line = fields(private);
            assert!(
                !line.contains("shared:") && !line.contains("master:"),
                "{table}"
            );
        }
        assert!(fields("/unbindable").contains("unbindable"), "{table}");
        assert!(fields("/runbindable").contains("unbindable"), "{table}");
        succeed_in_shell(&format!("mount -t tmpfs later {at}/in; touch {at}/in/file"));
        let heard = bundle.exec(&[], "ls /rslave/in /rprivate/in /rshared/in");
        assert_eq!(heard.matches("file").count(), 2, "{heard}");
        succeed_in_shell(&format!("umount {at}/in"));
        bundle.remove();
        succeed_in_shell(&format!("umount -R {at}"));
    });
}

#[test]
fn the_root_has_the_propagation_it_is_given() {
    if !ready() {
        return;
    }
    for (word, there, absent) in [
        ("shared", "shared:", "master:"),
        ("rshared", "shared:", "master:"),
        ("private", " - ", "shared:"),
        ("rprivate", " - ", "master:"),
        ("slave", " - ", "shared:"),
        ("rslave", " - ", "shared:"),
        ("unbindable", "unbindable", "shared:"),
    ] {
        let mut bundle = Bundle::new();
        bundle.config["linux"]["rootfsPropagation"] = json!(word);
        let table = bundle.says(TABLE);
        let root = mountinfo(&table, "/");
        assert!(
            root.contains(there) && !root.contains(absent),
            "{word}: {table}"
        );
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["rootfsPropagation"] = json!("sideways");
    assert!(bundle.refused("true").contains("rootfsPropagation"));
}

#[test]
fn files_links_and_missing_targets_are_mounted_on() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::write(bundle.path("passwd"), "mine").expect("ours");
    fs::create_dir(bundle.path("folder")).expect("ours");
    fs::write(bundle.path("folder/inner"), "inner").expect("ours");
    // Absolute and upward links of an image mean its own root.
    symlink("/var", bundle.inside("abs")).expect("ours");
    symlink("../../../../tmp", bundle.inside("up")).expect("ours");
    let file = bundle.path("passwd");
    for target in ["/etc/passwd", "/new/deep/file", "/abs/file", "/up/file"] {
        bundle.mount(
            json!({"destination": target, "type": "bind", "source": file,
            "options": ["bind", "ro"]}),
        );
    }
    // Relative to the bundle; without a type; with a destination that is not absolute.
    bundle.mount(
        json!({"destination": "/relative", "type": "bind", "source": "folder",
        "options": ["rbind"]}),
    );
    bundle.mount(json!({"destination": "/untyped", "source": "folder", "options": ["bind"]}));
    bundle.mount(json!({"destination": "odd/place", "type": "tmpfs"}));
    let said = bundle.says(
        "cat /etc/passwd /new/deep/file /var/file /tmp/file /relative/inner /untyped/inner
         grep -c ' /odd/place ' /proc/mounts; echo x > /etc/passwd || echo sealed",
    );
    assert_eq!(said, "minemineminemineinnerinner1\nsealed");
    assert!(bundle.inside("var/file").exists() && bundle.inside("tmp/file").exists());
    bundle.mount(json!({"destination": "/none", "type": "bind", "options": ["bind"]}));
    assert!(bundle.refused("true").contains("source"));
    bundle.mount(
        json!({"destination": "/none", "type": "bind", "source": "/no/such",
        "options": ["bind"]}),
    );
}

#[test]
fn paths_are_hidden_and_sealed() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    fs::create_dir_all(bundle.inside("secret/deep")).expect("ours");
    fs::write(bundle.inside("secret/deep/key"), "k").expect("ours");
    fs::write(bundle.inside("password"), "p").expect("ours");
    fs::write(bundle.inside("sealed"), "s").expect("ours");
    fs::create_dir(bundle.inside("firm")).expect("ours");
    bundle.config["linux"]["maskedPaths"] = json!([
        "/secret",
        "/password",
        "/no/such",
        "/proc/kcore",
        "/proc/version"
    ]);
    bundle.config["linux"]["readonlyPaths"] = json!(["/sealed", "/firm", "/nowhere", "/proc/sys"]);
    let said = bundle.says(
        "ls -A /secret | wc -l; wc -c < /password; wc -c < /proc/version
         touch /secret/x 2>/dev/null || echo kept
         echo 1 2>/dev/null > /firm/x || echo firm; echo 1 2>/dev/null > /sealed || echo sealed
         echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo proc; cat /sealed",
    );
    assert_eq!(said, "0\n0\n0\nkept\nfirm\nsealed\nproc\ns");
    bundle.config["root"]["readonly"] = json!(true);
    let sealed = bundle.says("touch /x 2>&1 || :; touch /dev/shm/x && echo shm");
    assert!(
        sealed.contains("Read-only") && sealed.ends_with("shm"),
        "{sealed}"
    );
}

/// What is mounted below the kernel's own files is the kernel's as well, and the host's.
#[test]
fn the_host_s_proc_is_sealed_with_what_is_mounted_there() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        succeed_in_shell("mount -t tmpfs none /proc/sys/dev");
        let mut bundle = Bundle::new();
        let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != "/proc");
        mounts.insert(
            0,
            json!({"destination": "/proc", "source": "/proc", "options": ["rbind"]}),
        );
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        let line = "touch /proc/sys/dev/x 2>/dev/null || echo sealed";
        assert_eq!(bundle.says(line), "");
        bundle.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
        assert_eq!(bundle.says(line), "sealed");
    });
}

const NODES: &str = "for n in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$n
    done; for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done
    echo 1 > /dev/null; dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c; echo 1 2>/dev/null > /dev/full || echo full";

fn check_nodes(said: &str) {
    for node in ["null", "zero", "full", "random", "urandom", "tty"] {
        let line = said
            .lines()
            .find(|l| l.starts_with(&format!("/dev/{node} ")));
        let line = line.unwrap_or_else(|| panic!("{node}: {said}"));
        assert!(
            line.contains("character special file") && line.ends_with("666"),
            "{said}"
        );
    }
    let links =
        "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n4\nfull";
    assert!(said.ends_with(links), "{said}");
}

#[test]
fn devices_are_there_and_those_asked_for_as_well() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.config["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640,
         "uid": 5, "gid": 6},
        {"path": "/dev/sub/disk", "type": "b", "major": 254, "minor": 0},
        {"path": "/dev/queue", "type": "p", "fileMode": 0o622},
        {"path": "/elsewhere", "type": "u", "major": 1, "minor": 5},
    ]);
    bundle.config["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1,
        "minor": 5, "access": "r"}]);
    check_nodes(&bundle.says(NODES));
    let caps = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    bundle.config["process"]["capabilities"] =
        json!({"bounding": caps, "effective": caps, "permitted": caps});
    let said = bundle.says(
        "stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/sub/disk /dev/queue /elsewhere
         dd if=/elsewhere bs=3 count=1 2>/dev/null | wc -c
         dd if=/dev/sub/disk count=1 of=/dev/null 2>&1 | head -n 1
         mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | head -n 1",
    );
    let expected = "character special file 1:3 640 5:6\nblock special file fe:0 666 0:0\n\
        fifo 0:0 622 0:0\ncharacter special file 1:5 666 0:0\n3";
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    bundle.config["linux"]["devices"] =
        json!([{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]);
    assert!(bundle.refused("true").contains("/etc/passwd"));
}

#[test]
fn in_a_user_namespace_devices_and_sysfs_are_the_host_s() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.users(310_000);
    check_nodes(&bundle.says(NODES));
    bundle.config["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1,
        "minor": 11}, {"path": "/dev/queue", "type": "p", "uid": 3, "gid": 4}]);
    let said = bundle.says("stat -c '%F %t:%T' /dev/kmsg; stat -c '%F %u:%g' /dev/queue");
    assert_eq!(said, "character special file 1:b\nfifo 3:4");
    bundle.without("network");
    let said = bundle.says("grep ' /sys ' /proc/mounts; ls /sys/class/net");
    assert!(said.contains("ro,") && said.contains("lo"), "{said}");
}

/// It shows the network namespace, which belongs to a user namespace.
#[test]
fn sysfs_is_mounted_where_its_owner_is_joined_as_well() {
    if !ready() {
        return;
    }
    let mut pod = Bundle::new();
    pod.users(390_000).asleep();
    let mut host_s = Bundle::new();
    host_s.asleep();
    let of = |bundle: &Bundle, kind: &str| format!("/proc/{}/ns/{kind}", bundle.pid());
    let (user, net) = (of(&pod, "user"), of(&pod, "net"));
    let mut bundle = Bundle::new();
    bundle.users(390_000).namespace("network", Some(&net));
    let line = "stat -c %d /sys";
    // With a new one the host's is shown.
    let host_s_own = fs::metadata("/sys").expect("a sysfs").dev().to_string();
    assert_eq!(bundle.says(line), host_s_own);
    bundle.config["linux"]["uidMappings"] = json!(null);
    bundle.config["linux"]["gidMappings"] = json!(null);
    bundle.namespace("user", Some(&user));
    let said = bundle.says(line);
    assert!(said == pod.exec(&[], line) && said != host_s_own, "{said}");
    bundle.namespace("network", Some(&of(&host_s, "net")));
    let told = bundle.refused("true");
    assert!(told.contains("another user namespace"), "{told}");
}

#[test]
fn control_groups_are_shown_as_far_as_they_are_its_own() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let v1 = Path::new("/sys/fs/cgroup/memory/tasks").exists();
    let look = if v1 {
        "cat /sys/fs/cgroup/memory/tasks | wc -l; ls /sys/fs/cgroup/freezer/ | grep -c bhtest
         touch /sys/fs/cgroup/memory/x 2>&1; grep -c :/$ /proc/self/cgroup"
    } else {
        "cat /sys/fs/cgroup/cgroup.procs | wc -l; ls /sys/fs/cgroup | grep -c bhtest
         mkdir /sys/fs/cgroup/x 2>&1; grep -c :/$ /proc/self/cgroup"
    };
    let said = bundle.says(look);
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].parse::<u32>().is_ok_and(|n| n >= 1), "{said}");
    assert_eq!(lines[1], "0", "{said}");
    assert!(lines[2].contains("Read-only"), "{said}");
    assert_ne!(lines[3], "0", "{said}");
    bundle.without("cgroup");
    let said = bundle.says("cat /proc/self/cgroup");
    assert!(said.contains(&bundle.group()), "{said}");
}

#[test]
fn without_pivoting_the_root_is_the_same() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    bundle.script("trap 'exit 0' TERM; sleep 100 & wait");
    bundle.create(&["--no-pivot"]);
    bundle.ok(&["start", "c"]);
    assert_eq!(
        bundle.exec(&[], "ls / | head -n 1; cat /etc/group | head -n 1"),
        "bin\nroot:x:0:"
    );
}

#[test]
fn a_file_system_may_be_made_of_folders_of_the_host() {
    if !ready() {
        return;
    }
    let mut bundle = Bundle::new();
    let mut options = Vec::new();
    for name in ["one", "two"] {
        fs::create_dir(bundle.path(name)).unwrap();
        fs::write(bundle.path(name).join(name), name).unwrap();
        options.push(bundle.path(name).display().to_string());
    }
    let layers = format!("lowerdir={}", options.join(":"));
    bundle.mount(
        json!({"destination": "/both", "type": "overlay", "source": "overlay",
        "options": [layers]}),
    );
    assert_eq!(bundle.says("ls /both"), "one\ntwo");
}

/// A command that was killed while it made what containers begin in has left a folder of memory with an
/// ordinary file; the next one goes on from there, and where the kernel has refused it once, containers
/// pivot.
#[test]
fn what_containers_begin_in_is_made_once() {
    if !ready() {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let cache = "/run/bulkhead-oci-cache";
        succeed_in_shell(&format!(
            "mkdir -p {cache}; umount {cache}/mounts || true
            mount -t tmpfs none {cache}; cd {cache}
            mkdir mounts; mount -t tmpfs none mounts; touch mounts/empty"
        ));
        let there = |kind: &str| {
            let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            let below = format!(" {cache}/mounts");
            let kind = format!(" - {kind} ");
            text.lines()
                .filter(|line| line.contains(&below) && line.contains(&kind))
                .count()
        };
        let mut bundle = Bundle::new();
        for _ in 0..2 {
            assert_eq!(bundle.says("echo in; ls -d /bin"), "in\n/bin");
            assert_eq!((there("tmpfs"), there("nsfs")), (1, 1));
        }
        succeed_in_shell(&format!(
            "umount {cache}/mounts/empty; touch {cache}/mounts/refused"
        ));
        assert_eq!(bundle.says("echo in; ls -d /bin"), "in\n/bin");
        assert_eq!((there("tmpfs"), there("nsfs")), (1, 0));
        // As on an initramfs, and remembered.
        succeed_in_shell(&format!("umount {cache}/mounts"));
        no_pivoting();
        bundle.refused("true");
        let mark = fs::read_to_string(format!("{cache}/mounts/refused")).unwrap_or_default();
        assert!(mark.contains("Invalid argument"), "{mark}");
        assert_eq!((there("tmpfs"), there("nsfs")), (0, 0));
    });
}

/// From here on pivot_root(2) fails for this thread, and for what it starts.
fn no_pivoting() {
    let filter = Filter {
        default: Action::Allow,
        beyond: None,
        bad_arch: Action::Allow,
        arches: vec![Arch::X86_64],
        rules: vec![Rule {
            names: vec!["pivot_root".to_owned()],
            action: Action::Errno(22),
            args: Vec::new(),
        }],
        flags: FilterFlags::default(),
    };
    let program = Program::compile(&filter).expect("one rule");
    program.load(filter.flags).expect("root may");
}
