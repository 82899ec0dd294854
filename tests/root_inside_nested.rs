//! What containers inside a guest see of the machine: their outer guest's, where its files are laid over
//! theirs; and what the kernel refuses them.

mod life;
mod support;

use life::{inside, started};
use support::{Bulkhead, Need, need};

const TOTAL: &str = "MemTotal:         131072 kB";

#[test]
fn a_container_inside_can_see_its_outer_guests_size() {
    if !need(Need::Root) {
        return;
    }
    let host = Bulkhead::new();
    started(&host, "a", &["--nesting", "true", "--memory", "128M"]);
    // Root of the guest: a procfs of its own, first the host's, then with the guest's files over it.
    let own = "unshare -p -f -m sh -c 'mkdir -p /tmp/p && mount -t proc proc /tmp/p && \
               head -1 /tmp/p/meminfo && mount --bind /proc/meminfo /tmp/p/meminfo && \
               head -1 /tmp/p/meminfo && cat /tmp/p/1/comm; true'";
    let said = inside(&host, "a", own);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_ne!(lines[0], TOTAL);
    assert_eq!((lines[1], lines[2]), (TOTAL, "sh"));

    // With a user namespace of its own: no new one, but that of the guest with all that lies on it.
    let nested = "unshare -U -r -p -f -m sh -c 'mkdir -p /tmp/q; mount -t proc proc /tmp/q 2>&1; \
                  mount --rbind /proc /tmp/q && head -1 /tmp/q/meminfo'";
    let said = inside(&host, "a", nested);
    assert!(said.contains("permission denied"), "{said}");
    assert!(said.ends_with(TOTAL), "{said}");
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
