//! What the CPUs of this machine are of: cores and memory nodes, as /sys/devices/system says
//! (Documentation/ABI/stable/sysfs-devices-system-cpu, sysfs-devices-node).

use std::path::Path;

use crate::model::{CpuSet, Topology};

/// This machine's. Where it does not say, each CPU is a core and there are no nodes.
#[must_use]
pub fn topology(online: &CpuSet) -> Topology {
    topology_below(Path::new("/sys/devices/system"), online)
}

fn topology_below(system: &Path, online: &CpuSet) -> Topology {
    let set = |path: &Path| -> Option<CpuSet> {
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.trim().parse::<CpuSet>().ok()?.common(online))
    };
    let mut found = Topology::default();
    for cpu in online.iter() {
        let folder = system.join(format!("cpu/cpu{cpu}/topology"));
        // Renamed in Linux 4.21; the old name is still there.
        let core = ["core_cpus_list", "thread_siblings_list"]
            .iter()
            .find_map(|file| set(&folder.join(file)));
        let core = core.unwrap_or_else(|| std::iter::once(cpu).collect());
        if !found.cores.contains(&core) {
            found.cores.push(core);
        }
    }
    for entry in std::fs::read_dir(system.join("node"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node"));
        if let Some(number) = number.and_then(|number| number.parse().ok())
            && let Some(cpus) = set(&entry.path().join("cpulist"))
        {
            found.nodes.insert(number, cpus);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_and_nodes_of_a_machine() {
        let dir = std::env::temp_dir().join(format!("bulkhead-topology-{}", std::process::id()));
        let write = |file: &str, text: &str| {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (cpu, core) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            write(
                &format!("cpu/cpu{cpu}/topology/core_cpus_list"),
                &format!("{core}\n"),
            );
        }
        write("node/node0/cpulist", "0,2\n");
        write("node/node1/cpulist", "1,3\n");
        // A node with memory and no CPU.
        write("node/node2/cpulist", "\n");
        write("node/has_cpu", "0-1\n");
        let set = |text: &str| text.parse::<CpuSet>().unwrap();
        let found = topology_below(&dir, &set("0-3"));
        assert_eq!(found.cores, [set("0,2"), set("1,3")]);
        assert_eq!(found.nodes, [(0, set("0,2")), (1, set("1,3"))].into());
        // One that is offline is of no core.
        let found = topology_below(&dir, &set("0-2"));
        assert_eq!(found.cores, [set("0,2"), set("1")]);
        std::fs::remove_dir_all(&dir).unwrap();
        let none = topology_below(&dir, &set("0-1"));
        assert_eq!(none.cores, [set("0"), set("1")]);
        assert!(none.nodes.is_empty());
    }
}
