//! Configurations of OCI containers that nobody would write: a full one with bytes changed, or with
//! values put where others belong. Reading it and planning for it never panics, and whatever plan
//! comes out keeps to what later steps rely on: mounts and control groups lie below their root, and
//! nothing has a NUL byte in it.
//!
//! What a plan must say for an ordinary configuration is tested beside `plan::container`; the same
//! with a kernel behind it is in `root_oci/hostile.rs`.

use std::path::{Component, Path};

use bulkhead::model::{CgroupHost, CgroupMode};
use bulkhead::plan::cgroup::{self, Container};
use bulkhead::plan::container::step::{InsideStep, OutsideStep, Show};
use bulkhead::plan::container::{Entry, Facts, Wish, check, check_process, enter, steps};
use bulkhead::plan::{HostStep, InitStep, LaunchPlan};
use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A configuration with something under every key that is read.
const FULL: &str = include_str!("samples/oci/full.json");

fn facts(mode: CgroupMode) -> Facts {
    Facts {
        cgroup_mode: mode,
        selinux: true,
        apparmor: true,
        rootless: false,
        limited: false,
    }
}

fn host(mode: CgroupMode) -> CgroupHost {
    let names = |on: bool| {
        let all = [
            "cpu", "cpuset", "devices", "freezer", "memory", "pids", "blkio", "io",
        ];
        all.into_iter().filter(|_| on).map(str::to_owned).collect()
    };
    CgroupHost {
        mode,
        v1: names(mode != CgroupMode::V2),
        v2: names(mode == CgroupMode::V2),
        swap: true,
    }
}

/// The plans for it, if it is one that can be carried out.
fn plans(spec: &Spec, mode: CgroupMode) -> Vec<LaunchPlan> {
    let linux = spec.linux().as_ref();
    let empty = std::path::PathBuf::new();
    let container = Container {
        id: "c",
        cgroups_path: linux
            .and_then(|l| l.cgroups_path().as_ref())
            .unwrap_or(&empty),
        annotations: spec.annotations().as_ref(),
        systemd: false,
    };
    let resources = linux.and_then(|l| l.resources().as_ref());
    let cgroup = cgroup::plan(&container, resources, &host(mode)).ok();
    if let Some(plan) = &cgroup {
        stays_below(&plan.place.path);
    }
    let wish = Wish {
        id: "c",
        spec,
        bundle: Path::new("/bundle"),
        cgroup,
        filter_known: false,
        facts: facts(mode),
        waits: true,
        no_pivot: false,
        empty_mounts: true,
        keep_keyring: false,
        preserve: 0,
    };
    let made = steps(&wish);
    assert!(made.is_err() || check(spec).is_ok());
    let process = spec.process().as_ref();
    let entered = process
        .filter(|process| check_process(process).is_ok())
        .map(|process| {
            enter(&Entry {
                spec,
                process,
                filter_known: false,
                facts: facts(mode),
                cgroups: true,
                frozen: true,
                keep_keyring: false,
                preserve: 0,
            })
        });
    made.ok()
        .into_iter()
        .chain(entered.and_then(Result::ok))
        .collect()
}

fn stays_below(path: &Path) {
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    assert!(
        path.is_absolute() && path.components().all(plain),
        "{path:?}"
    );
    has_no_nul(path);
}

fn has_no_nul(path: &Path) {
    assert!(
        !path.as_os_str().as_encoded_bytes().contains(&0),
        "{path:?}"
    );
}

/// What later steps rely on.
fn holds(plan: &LaunchPlan) {
    let mut trees = 0;
    for step in &plan.host {
        if let HostStep::Container(
            OutsideStep::Clone { source, .. } | OutsideStep::CloneDevice { path: source, .. },
        ) = step
        {
            trees += 1;
            has_no_nul(source);
        }
    }
    for step in &plan.init {
        match step {
            InitStep::Container(InsideStep::Mount { mount }) => {
                stays_below(&mount.target);
                if let Show::Tree { number } = mount.show {
                    assert!(number < trees, "{mount:?}");
                }
            }
            InitStep::Container(InsideStep::MakeNodes { nodes }) => {
                for node in nodes {
                    has_no_nul(&node.path);
                    assert!(node.tree.is_none_or(|number| number < trees), "{node:?}");
                }
            }
            InitStep::Container(InsideStep::ChangeFolder { path, .. }) => {
                assert!(path.is_absolute());
                has_no_nul(path);
            }
            InitStep::ReadOnly { paths } | InitStep::Mask { paths } => {
                paths.iter().for_each(|path| has_no_nul(path));
            }
            _ => {}
        }
    }
}

fn modes() -> impl Strategy<Value = CgroupMode> {
    prop_oneof![
        Just(CgroupMode::V1),
        Just(CgroupMode::V2),
        Just(CgroupMode::Hybrid)
    ]
}

/// What may be put in the place of another value.
fn odd() -> impl Strategy<Value = Value> {
    let paths = [
        "",
        ".",
        "..",
        "/..",
        "/../../etc",
        "a/../../b",
        "//",
        "/proc/self/fd/7",
        "\u{0}",
        "/a\u{0}b",
        "/dev",
        "/dev/../dev",
    ];
    let words = [
        "rbind",
        "bind",
        "proc",
        "cgroup",
        "sysfs",
        "tmpfs",
        "none",
        "0-4294967295",
        "0-",
        "1,,2",
        "max",
        "\n",
        "SCMP_ACT_NOTIFY",
        "user",
        "a",
        "b",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(paths.to_vec()).prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!("x".repeat(10_000))),
    ]
}

/// Every place in a value.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(list) => {
            for (n, one) in list.iter().enumerate() {
                places(one, &format!("{at}/{n}"), all);
            }
        }
        Value::Object(map) => {
            for (key, one) in map {
                places(
                    one,
                    &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")),
                    all,
                );
            }
        }
        _ => {}
    }
}

#[test]
fn the_full_one_is_understood() {
    let spec: Spec = serde_json::from_str(FULL).unwrap();
    for mode in [CgroupMode::V1, CgroupMode::V2, CgroupMode::Hybrid] {
        let plans = plans(&spec, mode);
        assert_eq!(plans.len(), 2, "{:?}", check(&spec));
        plans.iter().for_each(holds);
    }
}

#[test]
fn one_odd_value_anywhere() {
    let full: Value = serde_json::from_str(FULL).unwrap();
    let mut all = Vec::new();
    places(&full, "", &mut all);
    let odd = [
        json!("a\u{0}b"),
        json!("/../../x"),
        json!(""),
        json!(-1),
        json!(u64::MAX),
        json!([]),
        json!({}),
    ];
    let mut planned = 0;
    for (at, odd) in all
        .iter()
        .flat_map(|at| odd.iter().map(move |odd| (at, odd)))
    {
        let mut value = full.clone();
        *value.pointer_mut(at).unwrap() = odd.clone();
        if let Ok(spec) = serde_json::from_value::<Spec>(value) {
            let made = plans(&spec, CgroupMode::Hybrid);
            made.iter().for_each(holds);
            planned += made.len();
        }
    }
    assert!(planned > 300, "{planned} plans");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_value_in_the_wrong_place(
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd()), 1..4),
        mode in modes(),
    ) {
        let mut value: Value = serde_json::from_str(FULL).unwrap();
        for (index, odd) in changes {
            let mut all = Vec::new();
            places(&value, "", &mut all);
            *value.pointer_mut(index.get::<String>(&all)).unwrap() = odd;
        }
        if let Ok(spec) = serde_json::from_value::<Spec>(value) {
            plans(&spec, mode).iter().for_each(holds);
        }
    }

    #[test]
    fn bytes_changed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        let mut text = FULL.as_bytes().to_vec();
        for (index, byte) in changes {
            let at = index.index(text.len());
            text[at] = byte;
        }
        if cuts {
            text.truncate(cut.index(text.len()));
        }
        if let Ok(spec) = serde_json::from_slice::<Spec>(&text) {
            plans(&spec, CgroupMode::Hybrid).iter().for_each(holds);
        }
    }

    #[test]
    fn any_destination_stays_below_the_root(
        parts in prop::collection::vec(prop_oneof![Just("..".to_owned()), Just(".".to_owned()), Just(String::new()), "[a-z]{1,3}"], 0..12),
        absolute in any::<bool>(),
    ) {
        let path = format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"));
        let mut value: Value = serde_json::from_str(FULL).unwrap();
        value["mounts"][0]["destination"] = json!(path);
        let spec: Spec = serde_json::from_value(value).unwrap();
        plans(&spec, CgroupMode::V2).iter().for_each(holds);
    }
}
