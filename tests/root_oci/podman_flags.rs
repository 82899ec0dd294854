//! What Podman's flags ask of the OCI runtime is in force: limits, mounts, rights, names, ids. The life
//! of a container is in `root_oci/podman.rs`.

use std::fs;

use crate::clients::podman::Podman;
use crate::clients::{apart, capabilities, field, ready};
use crate::support::{Need, eventually};
use crate::{clients, support};
use nix::sched::CloneFlags;

#[test]
fn limits_are_in_force() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let limits = ["--memory", "48m", "--cpus", "0.25", "--pids-limit", "20"];
    podman.asleep(
        "web",
        &[&limits[..], &["--cpu-shares", "300", "--cpuset-cpus", "0"]].concat(),
    );
    let limit = |v1, v2| podman.limit("web", v1, v2);
    let (v1, bytes) = (Need::CgroupV1.is_met(), |mib: u32| (mib << 20).to_string());
    assert_eq!(
        limit(["memory", "memory.limit_in_bytes"], "memory.max"),
        bytes(48)
    );
    let quota = limit(["cpu", "cpu.cfs_quota_us"], "cpu.max");
    assert_eq!(quota, if v1 { "25000" } else { "25000 100000" });
    let weight = limit(["cpu", "cpu.shares"], "cpu.weight");
    assert_eq!(weight, if v1 { "300" } else { "39" });
    assert_eq!(limit(["cpuset", "cpuset.cpus"], "cpuset.cpus"), "0");
    assert_eq!(limit(["pids", "pids.max"], "pids.max"), "20");
    let many = "for i in $(seq 40); do sleep 1 & done 2>&1; wait";
    let refused = support::run(podman.command(&["exec", "web", "sh", "-c", many]));
    let told = refused.report();
    assert!(told.contains("fork"), "{told}");
    let hungry = [
        "run",
        "--name",
        "hungry",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        "box",
    ];
    let eat = ["sh", "-c", "sleep 1; x=a; while :; do x=$x$x; done"];
    podman.ends(&[&hungry[..], &eat].concat(), 137);
    let update = ["update", "--cpus", "0.5", "--memory", "64m", "web"];
    podman.ok(&update);
    let quota = limit(["cpu", "cpu.cfs_quota_us"], "cpu.max");
    assert_eq!(quota, if v1 { "50000" } else { "50000 100000" });
    assert_eq!(
        limit(["memory", "memory.limit_in_bytes"], "memory.max"),
        bytes(64)
    );
    let shown = podman.prints(
        &["--ulimit", "nofile=100:200", "--ulimit", "nproc=99:99"],
        "ulimit -n; ulimit -Hn",
    );
    assert_eq!(shown, "100\n200");
}

#[test]
fn volumes_tmpfs_and_a_sealed_root() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let data = podman.path("data");
    fs::create_dir(&data).expect("a folder of ours");
    fs::write(data.join("note"), "hello").expect("a folder of ours");
    let volume = |more: &str| format!("{}:/data{more}", data.display());
    let kept = podman.prints(
        &["-v", &volume("")],
        "cat /data/note; echo kept > /data/new",
    );
    assert_eq!(kept, "hello");
    assert_eq!(
        fs::read_to_string(data.join("new")).expect("written inside"),
        "kept\n"
    );
    let sealed = podman.prints(
        &["-v", &volume(":ro")],
        "cat /data/note; echo x > /data/new || :",
    );
    assert_eq!(sealed, "hello");
    assert_eq!(
        fs::read_to_string(data.join("new")).expect("still there"),
        "kept\n"
    );

    podman.ok(&["volume", "create", "kept"]);
    podman.prints(&["-v", "kept:/var"], "echo 1 > /var/file");
    assert_eq!(podman.prints(&["-v", "kept:/var"], "cat /var/file"), "1");
    podman.ok(&["volume", "rm", "kept"]);

    let size = "df -k /scratch | tail -n 1 | awk '{print $2}'; grep ' /scratch ' /proc/mounts";
    let scratch = podman.prints(&["--tmpfs", "/scratch:size=3m,noexec,mode=1770"], size);
    assert!(
        scratch.starts_with("3072\n") && scratch.contains("noexec"),
        "{scratch}"
    );
    // What is below a tmpfs is copied up: Podman's default.
    let copied = podman.prints(
        &["--tmpfs", "/etc"],
        "grep -c root /etc/passwd; touch /etc/x",
    );
    assert_eq!(copied, "1");

    let line = "touch /file 2>&1 || echo refused; touch /tmp/file /run/file && echo ok";
    let sealed = podman.prints(&["--read-only"], line);
    assert!(
        sealed.contains("Read-only") && sealed.ends_with("refused\nok"),
        "{sealed}"
    );
    let strict = podman.prints(
        &["--read-only", "--read-only-tmpfs=false"],
        "touch /tmp/x || echo no",
    );
    assert_eq!(strict, "no");
    let shared = ["-v", &volume(":rshared")];
    assert!(
        podman
            .prints(&shared, "grep ' /data ' /proc/self/mountinfo")
            .contains("shared:")
    );
}

#[test]
fn users_capabilities_and_locks() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let own = "id -u; id -g; id -G; cat /proc/self/status";
    let user = podman.prints(&["--user", "1000:1001", "--group-add", "77"], own);
    assert!(user.starts_with("1000\n1001\n1001 77\n"), "{user}");
    assert_eq!(capabilities(&user, "CapEff"), 0);
    assert_eq!(
        podman.prints(&["--user", "mail"], "id -u; id -G"),
        "8\n8 77"
    );
    let status = |flags: &[&str]| podman.prints(flags, "cat /proc/self/status");
    let (chown, net_admin) = (1 << 0, 1 << 12);

    let plain = status(&[]);
    let bounds = capabilities(&plain, "CapBnd");
    assert!(bounds & chown != 0 && bounds & net_admin == 0, "{bounds:x}");
    assert_eq!(
        (field(&plain, "Seccomp"), field(&plain, "NoNewPrivs")),
        ("2", "0")
    );
    let changed = status(&["--cap-drop", "CHOWN", "--cap-add", "NET_ADMIN"]);
    let bounds = capabilities(&changed, "CapBnd");
    assert!(bounds & chown == 0 && bounds & net_admin != 0, "{bounds:x}");
    let none = status(&["--cap-drop", "all"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(capabilities(&none, set), 0, "{set}: {none}");
    }
    let open = status(&["--security-opt", "seccomp=unconfined"]);
    assert_eq!(field(&open, "Seccomp"), "0");
    let locked = status(&["--security-opt", "no-new-privileges"]);
    assert_eq!(field(&locked, "NoNewPrivs"), "1");
    let all = status(&["--privileged"]);
    assert_eq!(field(&all, "Seccomp"), "0");
    assert!(capabilities(&all, "CapEff") & 1 << 21 != 0, "{all}");

    let look = "cat /proc/timer_list | wc -c; cat /etc/passwd | wc -c; exec 2>&1; echo 1 >/proc/sys/vm/overcommit_memory || :";
    let masked = podman.prints(&["--security-opt", "mask=/etc/passwd"], look);
    assert!(
        masked.starts_with("0\n0\n") && masked.contains("Read-only"),
        "{masked}"
    );
    let bare = podman.prints(&["--security-opt", "unmask=ALL"], look);
    assert!(!bare.starts_with("0\n"), "{bare}");
}

#[test]
fn names_sysctls_devices_and_the_hosts_namespaces() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    assert_eq!(podman.prints(&["--hostname", "shop"], "hostname"), "shop");
    let sysctl = [
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--sysctl",
        "kernel.msgmax=4000",
    ];
    let line = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax";
    assert_eq!(podman.prints(&sysctl, line), "1\n4000");
    let device = ["--device", "/dev/loop-control:/dev/loops:r"];
    let line = ": < /dev/loops && echo reads; (: > /dev/loops) 2>/dev/null || echo sealed";
    assert_eq!(podman.prints(&device, line), "reads\nsealed");
    let line = "mknod /tmp/loops c 10 237 && cat /tmp/loops 2>&1 || :";
    let refused = podman.prints(&["--cap-add", "MKNOD"], line);
    assert!(refused.contains("Operation not permitted"), "{refused}");

    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).expect("/proc");
    for (flag, kind) in [
        ("--pid", "pid"),
        ("--ipc", "ipc"),
        ("--uts", "uts"),
        ("--network", "net"),
    ] {
        let line = format!("readlink /proc/self/ns/{kind}");
        let host = own(kind).display().to_string();
        assert_eq!(podman.prints(&[&format!("{flag}=host")], &line), host);
        assert_ne!(podman.prints(&[], &line), host, "{kind}");
    }
    let us = format!("grep -c Name: /proc/{}/status", std::process::id());
    assert_eq!(podman.prints(&["--pid=host"], &us), "1");
}

#[test]
fn a_container_of_the_hosts_processes_ends_whole() {
    if !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    // Without a namespace of processes nobody kills the others when the first one ends.
    let line = "sleep 1000 & sleep 1000 & echo started; sleep 1000";
    podman.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--pid=host",
        "box",
        "sh",
        "-c",
        line,
    ]);
    eventually("it runs", 60, || {
        podman.ok(&["logs", "web"]).contains("started")
    });
    podman.ok(&["kill", "web"]);
    podman.ok(&["wait", "web"]);
}

#[test]
fn a_container_has_its_own_ids() {
    if !ready(Need::Podman) {
        return;
    }
    apart(CloneFlags::CLONE_NEWNS, || {
        let podman = Podman::new();
        // Podman takes ids from the block of a user with this name: an /etc of this thread's own.
        let layers = podman.path("etc").display().to_string();
        clients::succeed_in_shell(&format!(
            "mkdir -p {layers}/upper {layers}/work
            mount -t overlay -o lowerdir=/etc,upperdir={layers}/upper,workdir={layers}/work etc /etc
            echo containers:300000:200000 | tee /etc/subuid >/etc/subgid"
        ));
        let map = "cat /proc/self/uid_map; id -u; stat -c %u /etc/passwd; touch /tmp/x";
        let auto = podman.prints(&["--userns=auto:size=4096"], map);
        let words: Vec<&str> = auto.split_whitespace().collect();
        assert_eq!(
            (words[0], words[2..].to_vec()),
            ("0", vec!["4096", "0", "0"]),
            "{auto}"
        );
        assert!(
            words[1].parse::<u32>().is_ok_and(|first| first >= 300_000),
            "{auto}"
        );
        let fixed = ["--uidmap", "0:400000:5000", "--gidmap", "0:400000:5000"];
        podman.asleep("web", &fixed);
        let pid = podman.inspect("web", ".State.Pid");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        assert!(field(&status, "Uid").starts_with("400000"), "{status}");
        assert_eq!(podman.inside("web", "id -u"), "0");
        podman.removes(&["web"]);
        clients::succeed_in_shell("umount /etc");
    });
}
