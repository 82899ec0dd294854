//! What languages take their guest's machine to be: how many threads Go, Java, Node and Python would
//! run, how large a heap they would have. Those are asked that this machine has, and that there is one
//! is printed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::life::inside;

use crate::support::{Bulkhead, Need, TestDir, eventually, need, run};

const GO: &str = r#"
package main

import (
	"fmt"
	"runtime"
	"syscall"
)

func main() {
	var s syscall.Sysinfo_t
	if err := syscall.Sysinfo(&s); err != nil {
		panic(err)
	}
	fmt.Println(runtime.NumCPU(), runtime.GOMAXPROCS(0), s.Totalram*uint64(s.Unit))
}
"#;

/// With and without its own look at control groups; the heap it would take is a quarter, of half a GiB
/// or more.
const JAVA: &str = r#"
import java.lang.management.ManagementFactory;
import com.sun.management.HotSpotDiagnosticMXBean;

class A {
    public static void main(String[] none) {
        var system = (com.sun.management.OperatingSystemMXBean)
            ManagementFactory.getOperatingSystemMXBean();
        var machine = ManagementFactory.getPlatformMXBean(HotSpotDiagnosticMXBean.class);
        System.out.println(Runtime.getRuntime().availableProcessors() + " "
            + system.getAvailableProcessors() + " " + system.getTotalPhysicalMemorySize() + " "
            + machine.getVMOption("MaxHeapSize").getValue());
    }
}
"#;

const NODE: &str = "const os = require('os'); \
    console.log(os.cpus().length, os.availableParallelism?.() ?? os.cpus().length, os.totalmem())";

const PYTHON: &str = "import os, multiprocessing; \
    print(os.cpu_count(), len(os.sched_getaffinity(0)), multiprocessing.cpu_count(), \
    os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))";

/// A program of Go's, which asks the kernel by itself.
fn made_with_go(folder: &Path) -> Option<PathBuf> {
    let (source, program) = (folder.join("a.go"), folder.join("a"));
    std::fs::write(&source, GO).expect("a folder of ours");
    let mut go = Command::new("/usr/bin/go");
    go.arg("build").arg("-o").arg(&program).arg(&source);
    go.envs([("GO111MODULE", "off"), ("CGO_ENABLED", "0")]);
    go.env("GOCACHE", folder.join("cache")).env("HOME", folder);
    Path::new("/usr/bin/go").exists().then(|| {
        let done = run(go);
        assert_eq!(done.code, 0, "{}", done.report());
        program
    })
}

/// A guest with the host's programs.
#[track_caller]
fn with_tools(host: &Bulkhead, name: &str, flags: &[&str]) {
    let base = ["create", name, "--template", "host", "--network", "none"];
    let init = ["--start", "--init", "/bin/sleep 86400"];
    // Java wants its settings in /etc, where the template has the guest's own.
    let etc = std::fs::read_dir("/etc").expect("a folder");
    let names = etc.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let settings = names.filter(|name| name.starts_with("java-"));
    let settings: Vec<String> = settings
        .map(|name| format!("/etc/{name}:/etc/{name}:ro"))
        .collect();
    let mounts: Vec<&str> = settings.iter().flat_map(|one| ["--mount", one]).collect();
    host.ok(&[&base[..], &init, flags, &mounts].concat());
}

/// What is asked, by the program that has to be there, and what is to be said.
fn questions(cpus: u64, memory: u64) -> Vec<(&'static str, String, String)> {
    let one = format!("{cpus} {cpus} {memory}");
    let heap = memory / 4;
    let java = format!("{cpus} {cpus} {memory} {heap}\n{cpus} {cpus} {memory} {heap}");
    let python = format!("{cpus} {cpus} {cpus} {memory}");
    let java_line = "for how in + -; do java -XX:${how}UseContainerSupport /root/A.java; done";
    let heap_line = "java -XX:+PrintFlagsFinal -version 2>/dev/null | \
                     awk '$2 == \"MaxHeapSize\" {print $4}'";
    vec![
        ("/root/go", "/root/go".to_owned(), one.clone()),
        ("/usr/bin/java", java_line.to_owned(), java),
        ("/usr/bin/java", heap_line.to_owned(), heap.to_string()),
        ("/usr/bin/node", format!("node -e \"{NODE}\""), one),
        (
            "/usr/bin/python3",
            format!("/usr/bin/python3 -c \"{PYTHON}\""),
            python,
        ),
        (
            "/usr/bin/vmstat",
            "vmstat -s | awk '/total memory/ {print $1}'".to_owned(),
            (memory / 1024).to_string(),
        ),
        (
            "/usr/bin/lscpu",
            "lscpu -p=CPU | grep -vc '#'".to_owned(),
            cpus.to_string(),
        ),
    ]
}

#[test]
fn languages_take_the_guests_machine_for_theirs() {
    if !(need(Need::Root) && need(Need::TwoCpus)) {
        return;
    }
    let (host, folder) = (Bulkhead::new(), TestDir::new());
    let go = made_with_go(folder.path());
    let java = folder.path().join("A.java");
    std::fs::write(&java, JAVA).expect("a folder of ours");
    let ask_all = |name: &str, cpus: u64, memory: u64| {
        for (program, script, want) in questions(cpus, memory) {
            let there = format!("test -e {program}; echo $?");
            match inside(&host, name, &there).as_str() {
                "0" => assert_eq!(inside(&host, name, &script), want, "{name}: {script}"),
                _ => println!("not asked: {program}, which is not installed"),
            }
        }
    };
    let (mib, half) = (1 << 20, ["--memory", "512M"]);
    for (name, how, cpus) in [
        ("part", ["--cpus", "0.5"], 1),
        ("more", ["--cpus", "1.5"], 2),
        ("tied", ["--cpuset", "1"], 1),
    ] {
        with_tools(&host, name, &[how, half].concat());
        let push = |path: &Path, to: &str| {
            let (path, to) = (path.display().to_string(), format!("{name}:/root/{to}"));
            host.ok(&["file", "push", &path, &to]);
        };
        go.iter().for_each(|program| push(program, "go"));
        push(&java, "A.java");
        ask_all(name, cpus, 512 * mib);
    }
    // Another size is theirs at once, without a restart.
    host.ok(&["set", "more", "--cpus", "1", "--memory", "768M"]);
    eventually("calls tell the new size", 5, || {
        inside(&host, "more", "getconf _PHYS_PAGES; nproc") == "196608\n1"
    });
    ask_all("more", 1, 768 * mib);
}
