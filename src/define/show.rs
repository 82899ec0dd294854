//! A guest's settings as text, by key: the same text with which a flag would set them.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::capability::CAPABILITIES;
use super::default::DEFAULT_CAPABILITIES;
use super::events;
use super::flag::{device_text, io_limit_text, mount_text, tmpfs_text};
use super::key::{Key, KeyError, KeyPath};
use super::resolve::BURST_PERIOD_US;
use super::schedule;
use super::word::{ALLOWANCE_CLASSES, Pause, RESTART_POLICIES, VIEWS, rlimit_text};
use crate::model::{Cpus, Guest};

/// The value of a setting such as `memory.limit` or `labels.team`; of one with several items, one
/// line each. The hash of a password is not shown: `set` stands for it.
///
/// # Errors
/// There is no such setting.
pub fn get(guest: &Guest, path: &str) -> Result<String, KeyError> {
    let path = KeyPath::parse(path)?;
    let items = items(guest, path.key);
    Ok(match &path.item {
        None => {
            let lines = items.into_iter().map(|(_, text)| text);
            lines.collect::<Vec<_>>().join("\n")
        }
        Some(item) => {
            let found = items.into_iter().find(|(name, _)| name == item);
            let text = found.map(|(_, text)| text).unwrap_or_default();
            // `labels.team` asks for what is after the `team=`.
            let prefix = format!("{item}=");
            text.strip_prefix(&prefix)
                .map_or(text.clone(), str::to_owned)
        }
    })
}

type Items = Vec<(String, String)>;

fn single(value: impl Display) -> Items {
    vec![(String::new(), value.to_string())]
}

fn optional(value: Option<impl Display>) -> Items {
    value.map_or_else(|| single("none"), single)
}

fn list<T>(values: impl IntoIterator<Item = T>, text: impl Fn(&T) -> String) -> Items {
    values
        .into_iter()
        .map(|value| (text(&value), text(&value)))
        .collect()
}

fn entries<T>(values: &[T], name: impl Fn(&T) -> String, text: impl Fn(&T) -> String) -> Items {
    values
        .iter()
        .map(|value| (name(value), text(value)))
        .collect()
}

fn map<V>(map: &BTreeMap<String, V>, text: impl Fn(&V) -> String) -> Items {
    map.iter()
        .map(|(k, v)| (k.clone(), format!("{k}={}", text(v))))
        .collect()
}

fn word<T: PartialEq>(words: &[(&str, T)], value: &T) -> Items {
    single(
        words
            .iter()
            .find(|(_, v)| v == value)
            .map_or("", |(word, _)| word),
    )
}

fn items(guest: &Guest, key: &Key) -> Items {
    let (group, _) = key.path.split_once('.').unwrap_or((key.path, ""));
    match group {
        "cpu" | "memory" | "io" | "disk" | "processes" => amounts(guest, key.path),
        "security" | "access" => trust(guest, key.path),
        "init" | "autostart" | "restart" => life(guest, key.path),
        "snapshots" => schedule::text(&guest.snapshots, key.path).map_or_else(Items::new, single),
        "events" => events::text(&guest.events, key.path).map_or_else(Items::new, single),
        _ => rest(guest, key.path),
    }
}

fn amounts(guest: &Guest, path: &str) -> Items {
    let (cpu, memory) = (&guest.cpu, &guest.memory);
    match path {
        "cpu.mode" => single(cpu.mode),
        "cpu.dedicated" => optional(cpu.dedicated),
        "cpu.pool" => optional(cpu.pool.as_ref()),
        "cpu.resize" => single(cpu.resize),
        "cpu.limit" => optional(cpu.limit),
        "cpu.entitled" => optional(cpu.entitled),
        "cpu.weight" => single(cpu.weight),
        "cpu.cpuset" => optional(cpu.cpuset.as_ref()),
        "cpu.earn" => optional(cpu.earn),
        "cpu.bank" => optional(cpu.bank.map(Pause)),
        "cpu.core_scheduling" => single(cpu.core_scheduling),
        "cpu.burst" => {
            let hundredths = cpu.burst_us * 100 / BURST_PERIOD_US;
            optional(
                u32::try_from(hundredths)
                    .ok()
                    .and_then(Cpus::from_hundredths),
            )
        }
        "memory.resize" => single(memory.resize),
        "memory.limit" => single(memory.limit),
        "memory.swap" => single(memory.swap),
        "memory.high" => optional(memory.high),
        "memory.low" => single(memory.low),
        "memory.min" => single(memory.min),
        "memory.oom_group" => single(memory.oom_group),
        "processes" => single(guest.processes),
        "io.weight" => optional(guest.io.weight),
        "io.device" => entries(
            &guest.io.devices,
            |limit| limit.device.display().to_string(),
            io_limit_text,
        ),
        "disk.pool" => single(&guest.disk.pool),
        "disk.size" => optional(guest.disk.size),
        "disk.inodes" => optional(guest.disk.inodes),
        _ => Items::new(),
    }
}

fn trust(guest: &Guest, path: &str) -> Items {
    let security = &guest.security;
    let has = |name: &&str| security.capabilities.contains(&format!("CAP_{name}"));
    let usual = |name: &&str| DEFAULT_CAPABILITIES.contains(name);
    let text = |name: &&str| (*name).to_owned();
    match path {
        "security.add" => list(
            CAPABILITIES.into_iter().filter(|n| has(n) && !usual(n)),
            text,
        ),
        "security.drop" => list(
            CAPABILITIES.into_iter().filter(|n| !has(n) && usual(n)),
            text,
        ),
        "security.seccomp" => single(&security.seccomp),
        "security.no_new_privileges" => single(security.no_new_privileges),
        "security.nesting" => single(security.nesting),
        "access.ssh_keys" => list(&guest.access.ssh_keys, |key| (*key).clone()),
        "access.root_password_hash" => {
            optional(guest.access.root_password_hash.as_ref().map(|_| "set"))
        }
        _ => Items::new(),
    }
}

fn life(guest: &Guest, path: &str) -> Items {
    let (init, autostart, restart) = (&guest.init, &guest.autostart, &guest.restart);
    match path {
        "init.command" => single(init.command.join(" ")),
        "init.stop_signal" => optional(init.stop_signal.as_ref()),
        "init.stop_timeout" => single(Pause(init.stop_timeout)),
        "autostart.enabled" => single(autostart.enabled),
        "autostart.priority" => single(autostart.priority),
        "autostart.after" => list(&autostart.after, ToString::to_string),
        "restart.policy" => word(&RESTART_POLICIES, &restart.policy),
        "restart.delay" => single(Pause(restart.delay)),
        "restart.delay_max" => single(Pause(restart.delay_max)),
        "restart.attempts" => single(restart.attempts),
        _ => Items::new(),
    }
}

fn rest(guest: &Guest, path: &str) -> Items {
    match path {
        "template" => optional(guest.origin.template().map(|template| &template.name)),
        "template.options" => {
            let template = guest.origin.template();
            template.map_or_else(Items::new, |t| map(&t.options, Clone::clone))
        }
        "image" => optional(guest.origin.image()),
        "profiles" => list(&guest.profiles, |name| (*name).clone()),
        "description" => single(&guest.description),
        "labels" => map(&guest.labels, Clone::clone),
        "tenant" => optional(guest.tenant.as_ref()),
        "protect" => single(guest.protect),
        "rlimits" => map(&guest.rlimits, |limit| rlimit_text(*limit)),
        "sysctls" => map(&guest.sysctls, Clone::clone),
        "hostname" => single(&guest.hostname),
        "domain" => single(&guest.domain),
        "timezone" => single(&guest.timezone),
        "environment" => map(&guest.environment, Clone::clone),
        "mount" => entries(
            &guest.mounts,
            |m| m.target.display().to_string(),
            mount_text,
        ),
        "tmpfs" => entries(&guest.tmpfs, |t| t.target.display().to_string(), tmpfs_text),
        "device" => entries(
            &guest.devices,
            |d| d.path.display().to_string(),
            device_text,
        ),
        "network.kind" => single(&guest.network.kind),
        "network.address" => optional(guest.network.address),
        "network.mac" => optional(guest.network.mac),
        "network.address6" => optional(guest.network.address6),
        "network.nic" => entries(
            &guest.network.nics,
            |nic| nic.name.to_string(),
            super::nic::text,
        ),
        "network.dns" => list(&guest.network.dns, ToString::to_string),
        "network.isolated_ports" => optional(guest.network.isolated_ports),
        "network.rate_in" => optional(guest.network.rate_in),
        "network.rate_out" => optional(guest.network.rate_out),
        "network.burst_in" => optional(guest.network.burst_in),
        "network.burst_out" => optional(guest.network.burst_out),
        "network.packets" => optional(guest.network.ceilings.packets),
        "network.new_connections" => optional(guest.network.ceilings.new_connections),
        "network.connections" => optional(guest.network.ceilings.connections),
        "network.priority" => single(guest.network.ceilings.urgency),
        "network.allowance" => optional(guest.network.allowance.bytes),
        "network.allowance_class" => word(&ALLOWANCE_CLASSES, &guest.network.allowance.class),
        "network.allowance_day" => single(guest.network.allowance.day),
        "network.allowance_rate" => optional(guest.network.allowance.rate),
        "network.allowance_cut" => optional(guest.network.allowance.cut),
        "network.firewall" => list(&guest.network.firewall, ToString::to_string),
        "network.forward" => list(&guest.network.forwards, ToString::to_string),
        "view" => word(&VIEWS, &guest.view),
        "ptys" => single(guest.ptys),
        "console_log" => single(guest.console_log),
        "cgroups" => single(guest.cgroups),
        _ => Items::new(),
    }
}
