//! Clients on a machine of today, with systemd as process 1 and version 2 of control groups: each
//! makes the containers' groups as units of systemd's. The shortest way past everything that is
//! another there; the whole life is in `root_oci/podman.rs` and `root_oci/containerd.rs`.

use crate::clients::containerd::with_containerd;
use crate::clients::cri::{Kubelet, value};
use crate::clients::podman::Podman;
use crate::clients::{command, ready, succeed};
use crate::support::{Need, need, run};

const MEMORY: [&str; 2] = ["memory", "memory.limit_in_bytes"];
const QUOTA: [&str; 2] = ["cpu", "cpu.cfs_quota_us"];

/// A property of a unit, as systemd has it.
fn property(unit: &str, name: &str) -> String {
    let mut systemctl = command("systemctl");
    systemctl.args(["show", "--value", "--property", name, unit]);
    succeed(systemctl).trim().to_owned()
}

/// systemd reads its units again, and writes its own limits and device rules where it has any.
fn reload() {
    let mut systemctl = command("systemctl");
    systemctl.arg("daemon-reload");
    succeed(systemctl);
}

#[test]
fn podman_has_scopes() {
    if !need(Need::Systemd) || !ready(Need::Podman) {
        return;
    }
    let podman = Podman::new();
    let limits = [
        "--memory",
        "64m",
        "--pids-limit",
        "50",
        "--cap-add",
        "MKNOD",
    ];
    podman.asleep("web", &limits);
    let unit = format!("libpod-{}.scope", podman.inspect("web", ".Id"));
    assert_eq!(property(&unit, "Slice"), podman.marks().cgroup());
    let format = "{{.MemUsage}}";
    let stats = podman.ok(&["stats", "--no-stream", "--format", format, "web"]);
    assert!(stats.contains("/ 67.11MB"), "{stats}");
    podman.ok(&["update", "--memory", "80m", "--cpus", "0.75", "web"]);
    assert_eq!(property(&unit, "MemoryMax"), (80 << 20).to_string());
    reload();
    let limit = |v1, v2| podman.limit("web", v1, v2);
    assert_eq!(limit(MEMORY, "memory.max"), (80 << 20).to_string());
    assert_eq!(limit(QUOTA, "cpu.max"), "75000 100000");
    assert_eq!(limit(["pids", "pids.max"], "pids.max"), "50");
    // Device rules are in force still, and who enters is in the group.
    let line = "cat /proc/self/cgroup; mknod /dev/loops c 10 237 && echo made; \
        cat /dev/loops 2>&1 || :; \
        echo x > /dev/null && echo fine";
    let inside = podman.inside("web", line);
    let told: Vec<&str> = inside.lines().collect();
    assert!(
        told.len() == 4 && told[..2] == ["0::/", "made"] && told[3] == "fine",
        "{inside}"
    );
    assert!(told[2].contains("Operation not permitted"), "{inside}");
    podman.ok(&["pause", "web"]);
    assert_eq!(limit(["freezer", "freezer.state"], "cgroup.freeze"), "1");
    podman.ok(&["unpause", "web"]);
    podman.ok(&["stop", "web"]);
    assert_eq!(podman.inspect("web", ".State.ExitCode"), "0");
    podman.removes(&["web"]);
}

#[test]
fn kubelet_has_scopes() {
    if !need(Need::Systemd) || !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        let kubelet = Kubelet::new(host.socket(), host.folder());
        let config = format!(
            r#"metadata {{ name: "web" uid: "1" namespace: "shop" }} log_directory: "{}"
            linux {{ cgroup_parent: "{}"
            security_context {{ namespace_options {{ network: NODE }} }} }}"#,
            host.folder().display(),
            host.marks().cgroup()
        );
        let made = kubelet.call(
            "RunPodSandbox",
            ("RunPodSandboxRequest", &format!("config {{ {config} }}")),
            "RunPodSandboxResponse",
        );
        let pod = format!("pod_sandbox_id: \"{}\"", value(&made, "pod_sandbox_id"));
        let request = format!(
            r#"{pod} sandbox_config {{ {config} }} config {{ metadata {{ name: "web" }}
            image {{ image: "localhost/box:latest" }} command: "sleep" args: "1000"
            linux {{ resources {{ memory_limit_in_bytes: 50331648 }}
            security_context {{ namespace_options {{ network: NODE }} }} }} }}"#
        );
        let request = ("CreateContainerRequest", &*request);
        let made = kubelet.call("CreateContainer", request, "ContainerId");
        let id = value(&made, "container_id").to_owned();
        let named = format!("container_id: {id:?}");
        let container = ("ContainerId", &*named);
        kubelet.call("StartContainer", container, "Empty");
        let unit = format!("cri-containerd-{id}.scope");
        assert_eq!(property(&unit, "Slice"), host.marks().cgroup());
        let request = format!("{named} cmd: 'cat' cmd: '/proc/self/cgroup' timeout: 60");
        let request = ("ExecSyncRequest", &*request);
        let told = kubelet.call("ExecSync", request, "ExecSyncResponse");
        assert_eq!(value(&told, "stdout"), "0::/\\n");
        let more = format!("{named} linux {{ memory_limit_in_bytes: 67108864 }}");
        let more = ("UpdateContainerResourcesRequest", &*more);
        kubelet.call("UpdateContainerResources", more, "Empty");
        reload();
        let limit = host.limit("cri-containerd", &id, MEMORY, "memory.max");
        assert_eq!(limit, "67108864");
        let metrics = host.ok(&["--namespace", "k8s.io", "tasks", "metrics", &id]);
        assert!(metrics.contains("memory.usage_limit"), "{metrics}");
        let stats = kubelet.call("ContainerStats", container, "ContainerStatsResponse");
        assert!(stats.contains("working_set_bytes"), "{stats}");
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            kubelet.call(method, ("PodSandboxRequest", &pod), "Empty");
        }
        let mut gone = command("systemctl");
        gone.args(["is-active", &unit]);
        assert_ne!(run(gone).code, 0, "{unit} is left");
    });
}
