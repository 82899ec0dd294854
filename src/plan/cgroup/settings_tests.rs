//! Tables: resources of a Spec and the control files they become, on each version.

use std::path::Path;

use super::*;

fn host(mode: CgroupMode) -> CgroupHost {
    let all = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let (v1, v2) = match mode {
        CgroupMode::V2 => (
            all(&[]),
            all(&["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"]),
        ),
        _ => (
            all(&[
                "cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
            ]),
            all(&[]),
        ),
    };
    CgroupHost {
        mode,
        v1,
        v2,
        swap: true,
    }
}

fn of(json: &str, mode: CgroupMode) -> Result<Vec<String>> {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let settings = settings(&resources, &host(mode))?;
    Ok(settings
        .iter()
        .map(|s| {
            let other = s.otherwise.iter().map(|(f, v)| format!(" | {f}={v}"));
            let other: String = other.collect();
            let soft = if s.best_effort { "?" } else { "" };
            format!("{}={}{other}{soft}", s.file, s.value)
        })
        .collect())
}

#[track_caller]
fn both(json: &str, v1: &[&str], v2: &[&str]) {
    assert_eq!(of(json, CgroupMode::Hybrid).unwrap(), v1, "version 1");
    assert_eq!(of(json, CgroupMode::V2).unwrap(), v2, "version 2");
}

#[test]
fn what_the_kernel_would_bend_is_refused() {
    for shares in ["1", "262145", "18446744073709551615"] {
        let json = format!(r#"{{"cpu":{{"shares":{shares}}}}}"#);
        let error = of(&json, CgroupMode::Hybrid).unwrap_err().to_string();
        assert!(error.contains("shares from 2 to 262144"), "{error}");
        assert!(of(&json, CgroupMode::V2).is_ok());
    }
    for numbers in [r#""major":8,"minor":4294967296"#, r#""major":-1,"minor":0"#] {
        let json = format!(r#"{{"blockIO":{{"throttleReadBpsDevice":[{{{numbers},"rate":5}}]}}}}"#);
        for mode in [CgroupMode::Hybrid, CgroupMode::V2] {
            let error = of(&json, mode).unwrap_err().to_string();
            assert!(error.contains("from 0 to 4294967295"), "{error}");
        }
    }
}

#[test]
fn nothing_said_is_nothing_written() {
    both("{}", &[], &[]);
    both(
        r#"{"memory":{"limit":0,"swap":0},"cpu":{"shares":0,"quota":0,"cpus":""}}"#,
        &[],
        &[],
    );
}

#[test]
fn memory() {
    both(
        r#"{"memory":{"limit":1000,"swap":1500,"reservation":500}}"#,
        &[
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=1500",
            "memory.soft_limit_in_bytes=500",
        ],
        &["memory.swap.max=500", "memory.max=1000", "memory.low=500"],
    );
    both(
        r#"{"memory":{"limit":1000,"swap":1000}}"#,
        &[
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=1000",
        ],
        &["memory.swap.max=0", "memory.max=1000"],
    );
    both(
        r#"{"memory":{"limit":-1}}"#,
        &["memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"],
        &["memory.swap.max=max", "memory.max=max"],
    );
    both(
        r#"{"memory":{"limit":1000,"swap":-1,"kernel":5,"kernelTCP":5}}"#,
        &[
            "memory.limit_in_bytes=1000",
            "memory.memsw.limit_in_bytes=-1",
        ],
        &["memory.swap.max=max", "memory.max=1000"],
    );
    let v1_only = r#"{"memory":{"swappiness":10,"disableOOMKiller":true}}"#;
    assert_eq!(
        of(v1_only, CgroupMode::V1).unwrap(),
        ["memory.swappiness=10", "memory.oom_control=1"]
    );
    assert!(of(v1_only, CgroupMode::V2).is_err());
    for json in [
        r#"{"memory":{"limit":1000,"swap":999}}"#,
        r#"{"memory":{"limit":-2}}"#,
        r#"{"memory":{"swappiness":101}}"#,
    ] {
        assert!(of(json, CgroupMode::V1).is_err(), "{json}");
    }
    assert!(of(r#"{"memory":{"swap":999}}"#, CgroupMode::V2).is_err());
}

#[test]
fn without_swap_accounting_only_a_limit_on_swap_is_refused() {
    for mode in [CgroupMode::V1, CgroupMode::V2] {
        let mut host = host(mode);
        host.swap = false;
        let of = |json| settings(&serde_json::from_str(json).unwrap(), &host);
        assert!(of(r#"{"memory":{"limit":10,"swap":20}}"#).is_err());
        assert!(of(r#"{"memory":{"limit":10,"swap":-1}}"#).is_ok());
        assert!(of(r#"{"memory":{"limit":10}}"#).is_ok());
    }
}

#[test]
fn cpu() {
    both(
        r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,
            "cpus":"0-1","mems":"0"}}"#,
        &[
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpu.cfs_burst_us=1000",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
        ],
        &[
            "cpu.weight=100",
            "cpu.max=50000 100000",
            "cpu.max.burst=1000",
            "cpuset.cpus=0-1",
            "cpuset.mems=0",
        ],
    );
    both(
        r#"{"cpu":{"quota":-1,"idle":1}}"#,
        &["cpu.idle=1", "cpu.cfs_quota_us=-1"],
        &["cpu.idle=1", "cpu.max=max 100000"],
    );
    let real_time = r#"{"cpu":{"realtimeRuntime":5,"realtimePeriod":9}}"#;
    assert_eq!(
        of(real_time, CgroupMode::V1).unwrap(),
        ["cpu.rt_period_us=9", "cpu.rt_runtime_us=5"]
    );
    assert!(of(real_time, CgroupMode::V2).is_err());
}

#[test]
fn weights_of_the_usual_shares() {
    for (shares, weight) in [
        (1, 1),
        (2, 1),
        (1024, 100),
        (262_144, 10_000),
        (1 << 40, 10_000),
    ] {
        assert_eq!(v2::cpu_weight(shares), weight, "{shares}");
    }
    let all: Vec<u64> = (2..2000).map(v2::cpu_weight).collect();
    assert!(all.is_sorted());
}

#[test]
fn processes() {
    both(r#"{"pids":{"limit":7}}"#, &["pids.max=7"], &["pids.max=7"]);
    both(r#"{"pids":{"limit":0}}"#, &["pids.max=1"], &["pids.max=1"]);
    both(
        r#"{"pids":{"limit":-1}}"#,
        &["pids.max=max"],
        &["pids.max=max"],
    );
}

#[test]
fn block_io() {
    both(
        r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#,
        &[
            "blkio.weight=500 | blkio.bfq.weight=500",
            "blkio.weight_device=8:0 10 | blkio.bfq.weight_device=8:0 10",
            "blkio.throttle.read_bps_device=8:0 600",
            "blkio.throttle.write_iops_device=8:16 0",
        ],
        &[
            "io.bfq.weight=500 | io.weight=4950",
            "io.bfq.weight=8:0 10 | io.weight=8:0 1",
            "io.max=8:0 rbps=600",
            "io.max=8:16 wiops=max",
        ],
    );
    assert!(of(r#"{"blockIO":{"weight":5}}"#, CgroupMode::V2).is_err());
    let leaf = r#"{"blockIO":{"leafWeight":50}}"#;
    assert_eq!(of(leaf, CgroupMode::V1).unwrap(), ["blkio.leaf_weight=50"]);
    assert!(of(leaf, CgroupMode::V2).is_err());
}

#[test]
fn huge_pages_and_network() {
    both(
        r#"{"hugepageLimits":[{"pageSize":"2MB","limit":5}]}"#,
        &[
            "hugetlb.2MB.limit_in_bytes=5",
            "hugetlb.2MB.rsvd.limit_in_bytes=5?",
        ],
        &["hugetlb.2MB.max=5", "hugetlb.2MB.rsvd.max=5?"],
    );
    let slash = r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":5}]}"#;
    assert!(of(slash, CgroupMode::V1).is_err());
    let network = r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":3}]}}"#;
    assert_eq!(
        of(network, CgroupMode::V1).unwrap(),
        ["net_cls.classid=1048577", "net_prio.ifpriomap=lo 3"]
    );
    assert!(of(network, CgroupMode::V2).is_err());
}

#[test]
fn rdma_and_unified_need_their_controllers() {
    let rdma = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000}}}"#;
    assert_eq!(
        of(rdma, CgroupMode::V2).unwrap(),
        ["rdma.max=mlx5_1 hca_handle=3 hca_object=10000"]
    );
    assert!(of(rdma, CgroupMode::Hybrid).is_err());
    let unified = r#"{"unified":{"memory.high":"10","io.max":"8:0 rbps=1\n8:1 wbps=2",
        "cgroup.max.depth":"3","hugetlb.1GB.max":"1"}}"#;
    assert_eq!(
        of(unified, CgroupMode::V2).unwrap(),
        [
            "cgroup.max.depth=3",
            "hugetlb.1GB.max=1",
            "io.max=8:0 rbps=1",
            "io.max=8:1 wbps=2",
            "memory.high=10",
        ]
    );
    assert!(of(unified, CgroupMode::Hybrid).is_err());
    for file in [
        "memory",
        ".x",
        "x.",
        "a/b.c",
        "misc.max",
        "cgroup.procs",
        "cgroup.kill",
        "..",
        "Memory.high",
    ] {
        let json = format!(r#"{{"unified":{{"{file}":"1"}}}}"#);
        assert!(of(&json, CgroupMode::V2).is_err(), "{file}");
    }
}

#[test]
fn a_plan_has_it_all() {
    let container = Container {
        id: "web",
        cgroups_path: Path::new("machine.slice:libpod:web"),
        annotations: None,
        systemd: true,
    };
    let json = r#"{"memory":{"limit":1000,"swap":1500,"checkBeforeUpdate":true},
        "pids":{"limit":5},"cpu":{"quota":15500,"cpus":"1"}}"#;
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let plan = plan(&container, Some(&resources), &host(CgroupMode::V2)).unwrap();
    assert_eq!(plan.not_below_usage, Some(1000));
    let scope = plan.place.scope.as_ref().unwrap();
    let value = |name: &str| {
        scope
            .properties
            .iter()
            .find(|(n, _)| n == name)
            .map(|p| &p.1)
    };
    use crate::model::UnitValue::{Bool, Bytes, U64};
    assert_eq!(value("MemoryMax"), Some(&U64(1000)));
    assert_eq!(value("MemorySwapMax"), Some(&U64(500)));
    assert_eq!(value("TasksMax"), Some(&U64(5)));
    assert_eq!(value("CPUQuotaPerSecUSec"), Some(&U64(160_000)));
    assert_eq!(value("AllowedCPUs"), Some(&Bytes(vec![2])));
    assert_eq!(value("Delegate"), Some(&Bool(true)));
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<CgroupPlan>(&text).unwrap(), plan);
}
