//! containerd drives the OCI runtime through its runc shim: by `ctr`, and by the interface that
//! kubelet uses. What a container leaves behind fails its test (`clients/containerd.rs`).

use std::fs;

use crate::clients::containerd::{Containerd, with_containerd};
use crate::clients::cri::{Kubelet, Stream, value};
use crate::clients::terminal::{SIZED, Terminal};
use crate::clients::{capabilities, end_with, field, ready, succeed};
use crate::support::{Need, eventually, run};

const SLEEPER: [&str; 3] = [
    "sh",
    "-c",
    "trap 'exit 3' TERM; while :; do sleep 0.1; done",
];

#[test]
fn ctr_runs_to_the_end() {
    if !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        let line = ["sh", "-c", "echo out; echo err >&2; exit 7"];
        let outcome = end_with(7, host.ctr_run(&["--rm"], "one", &line));
        assert_eq!((&*outcome.stdout, &*outcome.stderr), ("out\n", "err\n"));
        let missing = end_with(1, host.ctr_run(&["--rm"], "two", &["no-such-program"]));
        assert!(
            missing.stderr.contains("no-such-program"),
            "{}",
            missing.report()
        );
        let line = format!("{SIZED}; exit 4");
        let line = ["sh", "-c", &line];
        let mut at = Terminal::start(&host.ctr_run(&["--rm", "--tty"], "three", &line));
        at.shows("/dev/pts/0");
        at.shows("37 91");
        at.types("word\r");
        at.shows("got-word");
        assert_eq!(at.ends(), 4, "{}", at.screen());
        let status = ["cat", "/proc/self/status"];
        let flags = [
            "--rm",
            "--read-only",
            "--cap-drop",
            "CAP_CHOWN",
            "--cap-add",
            "CAP_NET_ADMIN",
        ];
        let status = succeed(host.ctr_run(&flags, "four", &status));
        let bounds = capabilities(&status, "CapBnd");
        assert!(bounds & 1 == 0 && bounds & 1 << 12 != 0, "{status}");
        assert_eq!(host.ok(&["containers", "list", "--quiet"]), "");
    });
}

#[test]
fn ctr_works_with_a_task() {
    if !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        let limits = ["--detach", "--memory-limit", "50331648", "--cpus", "0.25"];
        succeed(host.ctr_run(&limits, "web", &SLEEPER));
        assert!(host.ok(&["tasks", "list"]).contains("RUNNING"));
        let exec = [
            "tasks",
            "exec",
            "--exec-id",
            "e1",
            "web",
            "sh",
            "-c",
            "echo in; exit 9",
        ];
        assert_eq!(host.ends(&exec, 9).stdout, "in\n");
        let exec = [
            "tasks",
            "exec",
            "--tty",
            "--exec-id",
            "e2",
            "web",
            "sh",
            "-c",
            SIZED,
        ];
        let mut at = Terminal::start(&host.ctr(&exec));
        at.shows("37 91");
        at.types("word\r");
        at.shows("got-word");
        assert_eq!(at.ends(), 0, "{}", at.screen());
        assert!(host.ok(&["tasks", "ps", "web"]).lines().count() >= 2);

        host.ok(&["tasks", "pause", "web"]);
        assert!(host.ok(&["tasks", "list"]).contains("PAUSED"));
        host.ok(&["tasks", "resume", "web"]);
        assert!(host.ok(&["tasks", "list"]).contains("RUNNING"));
        let metrics = host.ok(&["tasks", "metrics", "web"]);
        assert!(metrics.contains("memory"), "{metrics}");
        let told = |v1, v2| host.limit("box", "web", v1, v2);
        assert_eq!(
            told(["memory", "memory.limit_in_bytes"], "memory.max"),
            "50331648"
        );
        let quota = told(["cpu", "cpu.cfs_quota_us"], "cpu.max");
        assert_eq!(quota.split(' ').next(), Some("25000"));

        assert_ne!(
            run(host.ctr(&["tasks", "delete", "web"])).code,
            0,
            "it runs"
        );
        host.ok(&["tasks", "kill", "--signal", "SIGTERM", "web"]);
        eventually("it stops", 60, || {
            host.ok(&["tasks", "list"]).contains("STOPPED")
        });
        let deleted = host.ends(&["tasks", "delete", "web"], 0);
        assert!(
            deleted.stderr.contains("exit code 3"),
            "{}",
            deleted.report()
        );
        host.ok(&["containers", "delete", "web"]);

        succeed(host.ctr_run(&["--detach"], "db", &SLEEPER));
        host.ok(&["tasks", "delete", "--force", "db"]);
        host.ok(&["containers", "delete", "db"]);
    });
}

#[test]
fn ten_tasks_at_once() {
    if !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        std::thread::scope(|scope| {
            for number in 0..10 {
                scope.spawn(move || {
                    let (id, line) = (format!("n{number}"), format!("exit {number}"));
                    end_with(number, host.ctr_run(&["--rm"], &id, &["sh", "-c", &line]));
                });
            }
        });
        assert_eq!(host.ok(&["tasks", "list", "--quiet"]), "");
    });
}

/// A pod as kubelet asks for it, with more to say about its namespaces.
fn pod(host: &Containerd, name: &str, options: &str) -> String {
    let (logs, parent) = (host.folder().display(), host.marks().cgroup());
    format!(
        r#"metadata {{ name: "{name}" uid: "{name}-1" namespace: "shop" }}
        log_directory: "{logs}" linux {{ cgroup_parent: "{parent}"
        security_context {{ namespace_options {{ {options} }} }} }}"#
    )
}

/// Starts a container in a pod; its id.
fn container(kubelet: &Kubelet, pod: (&str, &str), name: &str, line: &str, more: &str) -> String {
    let request = format!(
        r#"pod_sandbox_id: "{}" sandbox_config {{ {} }} config {{ metadata {{ name: "{name}" }}
        image {{ image: "localhost/box:latest" }} log_path: "{name}.log"
        command: "sh" args: "-c" args: "{line}" {more} }}"#,
        pod.0, pod.1
    );
    let request = ("CreateContainerRequest", &*request);
    let made = kubelet.call("CreateContainer", request, "ContainerId");
    let id = value(&made, "container_id").to_owned();
    kubelet.call("StartContainer", ("ContainerId", &named(&id)), "Empty");
    id
}

fn named(id: &str) -> String {
    format!("container_id: {id:?}")
}

/// What a shell prints that enters the container.
fn inside(kubelet: &Kubelet, id: &str, line: &str) -> String {
    let request = format!(
        "{} cmd: 'sh' cmd: '-c' cmd: {line:?} timeout: 20",
        named(id)
    );
    kubelet.call(
        "ExecSync",
        ("ExecSyncRequest", &request),
        "ExecSyncResponse",
    )
}

/// Ends a pod and all in it.
fn remove(kubelet: &Kubelet, pod: &str) {
    let request = format!("pod_sandbox_id: {pod:?}");
    for method in ["StopPodSandbox", "RemovePodSandbox"] {
        kubelet.call(method, ("PodSandboxRequest", &request), "Empty");
    }
}

fn stream(kubelet: &Kubelet, id: &str, flags: &str, line: &str) -> Stream {
    let request = format!("{} {flags} cmd: 'sh' cmd: '-c' cmd: {line:?}", named(id));
    let answer = kubelet.call("Exec", ("ExecRequest", &request), "ExecResponse");
    Stream::open(value(&answer, "url"))
}

#[test]
fn kubelet_runs_a_pod() {
    if !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        let kubelet = Kubelet::new(host.socket(), host.folder());
        let config = pod(host, "web", "pid: CONTAINER") + " hostname: 'web'";
        let request = format!("config {{ {config} }}");
        let request = ("RunPodSandboxRequest", &*request);
        let made = kubelet.call("RunPodSandbox", request, "RunPodSandboxResponse");
        let sandbox = value(&made, "pod_sandbox_id").to_owned();
        let ask = format!("pod_sandbox_id: {sandbox:?}");
        let ask = ("PodSandboxRequest", &*ask);
        let status = kubelet.call("PodSandboxStatus", ask, "PodSandboxStatusResponse");
        assert!(value(&status, "ip").starts_with("10.99.0."), "{status}");

        let more = "envs { key: 'COLOUR' value: 'blue' } linux { resources { cpu_period: 100000 \
            cpu_quota: 50000 memory_limit_in_bytes: 50331648 } security_context { no_new_privs: \
            true capabilities { drop_capabilities: 'CHOWN' add_capabilities: 'NET_ADMIN' } } }";
        let line = "trap 'exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done";
        let id = container(&kubelet, (&sandbox, &config), "web", line, more);
        let told = inside(&kubelet, &id, "echo $COLOUR-$(hostname); exit 9");
        assert_eq!(value(&told, "stdout"), "blue-web\\n");
        assert_eq!(value(&told, "exit_code"), "9");
        let status = inside(&kubelet, &id, "cat /proc/self/status");
        let status = value(&status, "stdout")
            .replace("\\n", "\n")
            .replace("\\t", "\t");
        let bounds = capabilities(&status, "CapBnd");
        assert!(bounds & 1 == 0 && bounds & 1 << 12 != 0, "{status}");
        assert_eq!(field(&status, "NoNewPrivs"), "1");
        let log = host.folder().join("web.log");
        eventually("the log has both streams", 60, || {
            let log = fs::read_to_string(&log).unwrap_or_default();
            log.contains("stdout F out") && log.contains("stderr F err")
        });

        let limit = || {
            let v1 = ["memory", "memory.limit_in_bytes"];
            host.limit("cri-containerd", &id, v1, "memory.max")
        };
        assert_eq!(limit(), "50331648");
        let update = format!("{} linux {{ memory_limit_in_bytes: 67108864 }}", named(&id));
        let update = ("UpdateContainerResourcesRequest", &*update);
        kubelet.call("UpdateContainerResources", update, "Empty");
        assert_eq!(limit(), "67108864");
        let request = ("ContainerId", &*named(&id));
        let stats = kubelet.call("ContainerStats", request, "ContainerStatsResponse");
        assert!(stats.contains("working_set_bytes"), "{stats}");

        let stop = format!("{} timeout: 10", named(&id));
        kubelet.call("StopContainer", ("StopContainerRequest", &stop), "Empty");
        let status = kubelet.call("ContainerStatus", request, "ContainerStatusResponse");
        assert_eq!(
            (value(&status, "state"), value(&status, "exit_code")),
            ("2", "3"),
            "{status}"
        );
        kubelet.call("RemoveContainer", request, "Empty");
        remove(&kubelet, &sandbox);
        let gone = kubelet.try_call("PodSandboxStatus", ask, "PodSandboxStatusResponse");
        assert!(gone.expect_err("it is removed").contains("not found"));
    });
}

#[test]
fn kubelet_streams_and_shares() {
    if !ready(Need::Containerd) {
        return;
    }
    with_containerd(|host| {
        let kubelet = Kubelet::new(host.socket(), host.folder());
        // The node's network, and one namespace of processes for the whole pod.
        let config = pod(host, "node", "network: NODE");
        let request = format!("config {{ {config} }}");
        let request = ("RunPodSandboxRequest", &*request);
        let made = kubelet.call("RunPodSandbox", request, "RunPodSandboxResponse");
        let sandbox = value(&made, "pod_sandbox_id").to_owned();
        let shared = "linux { security_context { namespace_options { network: NODE } } }";
        let pod = (&*sandbox, &*config);
        let web = container(&kubelet, pod, "web", "sleep 1000", shared);
        let db = container(&kubelet, pod, "db", "sleep 1000", shared);
        for kind in ["net", "ipc", "pid"] {
            let line = format!("readlink /proc/self/ns/{kind}");
            assert_eq!(
                inside(&kubelet, &web, &line),
                inside(&kubelet, &db, &line),
                "{kind}"
            );
        }
        let own = fs::read_link("/proc/thread-self/ns/net").expect("/proc");
        let net = inside(&kubelet, &web, "readlink /proc/self/ns/net");
        assert!(net.contains(own.to_str().expect("text")), "{net}");

        let flags = "stdin: true stdout: true stderr: true";
        let line = "read x; echo got-$x; echo err >&2; exit 6";
        let mut exec = stream(&kubelet, &web, flags, line);
        exec.send("word\n");
        let [_, out, err, end] = exec.rest();
        assert_eq!((&*out, &*err), ("got-word\n", "err\n"));
        assert!(
            end.contains("exit code 6") || end.contains("\"6\""),
            "{end}"
        );
        let mut exec = stream(
            &kubelet,
            &web,
            "tty: true stdin: true stdout: true",
            "tty; read x; echo got-$x",
        );
        exec.send("word\n");
        let [_, out, _, end] = exec.rest();
        assert!(
            out.contains("/dev/pts/") && out.contains("got-word"),
            "{out}"
        );
        assert!(end.contains("Success"), "{end}");

        let late = format!("{} cmd: 'sleep' cmd: '100' timeout: 1", named(&web));
        let late = kubelet.try_call("ExecSync", ("ExecSyncRequest", &late), "ExecSyncResponse");
        assert!(late.expect_err("the time is up").contains("time"));
        remove(&kubelet, &sandbox);
    });
}
