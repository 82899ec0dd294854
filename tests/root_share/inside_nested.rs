//! What containers inside a guest see of the machine: their outer guest's, where its files are laid over
//! theirs; and what the kernel refuses them.

use crate::life::{inside, started};
use crate::support::{Bulkhead, Need, need};

const TOTAL: &str = "MemTotal:         131072 kB";

#[test]
fn a_container_inside_can_see_its_outer_guests_size() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--nesting", "true", "--memory", "128M"]);
    // Root of the guest: a procfs of its own, with the guest's files over it.
    let own = "unshare -p -f -m sh -c 'mkdir -p /tmp/p && mount -t proc proc /tmp/p && \
               head -1 /tmp/p/meminfo && cat /tmp/p/1/comm; true'";
    let said = inside(&host, "a", own);
    assert_eq!(said.lines().collect::<Vec<_>>(), [TOTAL, "sh"], "{said}");

    // With a user namespace of its own: the guest's with all that lies on it, which it cannot take off.
    let nested = "unshare -U -r -p -f -m sh -c 'mkdir -p /tmp/q; \
                  mount --rbind /proc /tmp/q && head -1 /tmp/q/meminfo; \
                  umount /proc/meminfo || umount /proc/kcore || umount -l /proc || echo locked' 2>&1";
    let said = inside(&host, "a", nested);
    assert!(said.starts_with(TOTAL), "{said}");
    assert!(said.ends_with("locked"), "{said}");
}

#[test]
fn a_container_with_a_user_namespace_has_a_procfs_and_a_sysfs_of_its_own() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    for view in ["guest", "host"] {
        let flags = [
            "--nesting",
            "true",
            "--memory",
            "128M",
            "--cpus",
            "1",
            "--view",
            view,
        ];
        started(&host, view, &flags);
        let ask = |script: &str| inside(&host, view, script);
        assert_eq!(
            ask("unshare -U -r -m -p -f --mount-proc true && echo fine"),
            "fine"
        );
        // As a user of the guest as well, and once more inside.
        let deep = "unshare -U -r -m -p -f --mount-proc sh -c 'cat /proc/1/comm; \
                    unshare -U -r -m -p -f --mount-proc cat /proc/1/comm'";
        assert_eq!(
            ask(&format!("su -s /bin/sh nobody -c \"{deep}\"")),
            "sh\ncat"
        );
        let sysfs = "unshare -U -r -n -m sh -c 'mkdir -p /tmp/s && \
                     mount -t sysfs -o ro sysfs /tmp/s && ls /tmp/s/class/net'";
        assert_eq!(ask(sysfs), "lo");
        // What makes that possible is to be had by nobody.
        let mounts = ask("grep -c ' /proc/proc ' /proc/self/mountinfo");
        assert_eq!(mounts, "1");
        assert_eq!(ask("ls -d /proc/proc /proc/sysfs 2>/dev/null; true"), "");
        let locked = "unshare -U -r -m sh -c 'umount -l /proc || echo locked' 2>/dev/null";
        assert_eq!(ask(locked), "locked");
    }
    // Calls tell the outer guest's size in there too.
    let calls = "unshare -U -r -m -p -f --mount-proc sh -c 'nproc; free | grep Mem:'";
    let said = inside(&host, "guest", calls);
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..2], ["1", "Mem:"], "{said}");
    assert!(words[2].starts_with("131072"), "{said}");
    // A guest without user namespaces keeps no such thing.
    started(&host, "plain", &["--memory", "64M"]);
    assert_eq!(
        inside(
            &host,
            "plain",
            "grep -c ' /proc/proc ' /proc/self/mountinfo; true"
        ),
        "0"
    );
}

#[test]
fn programs_see_the_size_and_the_calls_agree_with_a_set_of_cpus() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let size = ["--memory", "128M", "--cpus", "1", "--cpuset", "0"];
    started(&host, "a", &size);
    let top = inside(&host, "a", "top -b -n 1 | head -1");
    // "Mem: 3000K used, 128072K free, …"
    let kib = top.split(|c: char| !c.is_ascii_digit());
    let kib: Vec<u64> = kib.filter_map(|word| word.parse().ok()).collect();
    assert_eq!(kib[0] + kib[1], 128 << 10, "{top}");
    let up = inside(&host, "a", "uptime");
    assert!(up.contains("up 0 min"), "{up}");
    // The call, the files, and what C libraries make of the files.
    let count = "nproc; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online";
    assert_eq!(inside(&host, "a", count), "1\n1\n0");
}

#[test]
fn counters_of_the_host_and_its_disks_are_not_to_be_seen() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--memory", "128M"]);
    started(&host, "bare", &["--memory", "128M", "--view", "host"]);
    let node = "cat /sys/devices/system/node/node0/meminfo 2>/dev/null | head -1";
    let hosts = std::fs::read_to_string("/sys/devices/system/node/node0/meminfo");
    if let Ok(hosts) = hosts {
        assert_eq!(
            inside(&host, "a", node),
            "Node 0 MemTotal:         131072 kB"
        );
        assert_eq!(
            inside(&host, "bare", node),
            hosts.lines().next().expect("a line")
        );
    }
    let folders = "ls -A /sys/block /sys/class/block /sys/dev/block | grep -v : | grep .; true";
    assert_eq!(inside(&host, "a", folders), "");
    for file in [
        "buddyinfo",
        "partitions",
        "schedstat",
        "softirqs",
        "zoneinfo",
    ] {
        let read = format!("cat /proc/{file} 2>/dev/null; true");
        assert_eq!(inside(&host, "a", &read), "", "{file}");
    }
    assert_ne!(inside(&host, "bare", "cat /proc/zoneinfo"), "");
}

#[test]
fn programs_that_make_containers_are_told_to_show_the_guests_size() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    let nesting = ["--nesting", "true", "--memory", "128M", "--network", "none"];
    started(&host, "a", &nesting);
    let podman = "/etc/containers/containers.conf.d/50-bulkhead.conf";
    let lxc = "/usr/share/lxc/config/common.conf.d/50-bulkhead.conf";
    let said = inside(&host, "a", &format!("cat {podman}"));
    assert!(
        said.contains("\"/proc/meminfo:/proc/meminfo:ro\","),
        "{said}"
    );
    // runc starts no container with these.
    assert!(
        !said.contains("vmstat") && !said.contains("pressure"),
        "{said}"
    );
    // What they name is there; one that is not would keep Podman from starting anything.
    let all = format!(
        "for f in $(sed -n 's/^  \"\\([^:]*\\):.*/\\1/p' {podman}); do [ -f $f ] || echo $f; done"
    );
    assert_eq!(inside(&host, "a", &all), "");
    let entries = format!(
        "mkdir -p /tmp/c/proc && mount -t proc proc /tmp/c/proc && \
        grep '^lxc.mount.entry = /proc/meminfo ' {lxc} | while read -r k e from to rest; do \
        mount --bind -o ro $from /tmp/c/$to && head -1 /tmp/c/proc/meminfo; done"
    );
    assert_eq!(inside(&host, "a", &entries), TOTAL);
    // Somebody's own stay as they are, an old one of ours does not.
    inside(
        &host,
        "a",
        &format!("echo mine > {podman}; sed -i 2,9d {lxc}"),
    );
    host.ok(&["kill", "a"]);
    host.ok(&["start", "a"]);
    assert_eq!(inside(&host, "a", &format!("cat {podman}")), "mine");
    assert!(inside(&host, "a", &format!("cat {lxc}")).contains("proc/meminfo"));
    // Its own list counts; what is in the way keeps no guest from starting, and no other file away. A
    // guest that does not nest any more tells nothing.
    let entries = format!("grep -c ^lxc.mount.entry {lxc}; true");
    let list = "[containers]\nvolumes = [\"/srv:/srv\"]";
    let own = format!("printf '{list}' > /etc/containers/containers.conf");
    let again = format!("{own}; rm {podman}; sed -i /meminfo/d {lxc}");
    let way = format!("rm -r /etc/containers; echo > /etc/containers; sed -i /meminfo/d {lxc}");
    for (line, nesting) in [(&again, "true"), (&way, "true"), (&way, "false")] {
        inside(&host, "a", line);
        host.ok(&["kill", "a"]);
        host.ok(&["set", "a", &format!("security.nesting={nesting}")]);
        host.ok(&["start", "a"]);
        let told = inside(&host, "a", &format!("grep meminfo {lxc}; true"));
        assert_eq!(told.is_empty(), nesting == "false", "{told}");
        let podman = inside(&host, "a", &format!("cat {podman} 2>/dev/null; true"));
        assert_eq!(podman, "", "{line}");
    }
    assert_eq!(inside(&host, "a", &entries), "0");

    started(&host, "plain", &["--memory", "64M", "--network", "none"]);
    started(&host, "open", &[&nesting[..], &["--view", "host"]].concat());
    for name in ["plain", "open"] {
        let none = format!("[ -e {podman} ] || [ -e {lxc} ] || echo none");
        assert_eq!(inside(&host, name, &none), "none", "{name}");
    }
}
