//! Lays a definition over its profiles and the defaults, and makes the guest that is meant.
//! Whether that guest is allowed is said next door in `check`.

use std::collections::BTreeSet;

use super::capability::{CAPABILITIES, CapabilityChange};
use super::check::{Problem, check};
use super::default;
use super::definition::{
    AccessPart, AutostartPart, Definition, DiskPart, InitPart, IoPart, MemoryPart, RestartPart,
    SecurityPart, TemplatePart,
};
use super::entry::{BlockLimitEntry, DeviceEntry, MountEntry, TmpfsEntry};
use super::error::{DefineError, Fault};
use super::layer::Layer;
use super::profile::{ProfileError, Profiles};
use super::read::Sheet;
use crate::model::{
    Access, Autostart, BindMount, BlockLimit, Bytes, Device, DiskWish, Guest, GuestName, HostFacts,
    InitCommand, IoLimits, MemoryLimits, Origin, RestartRule, Security, TemplateRef, Tmpfs,
};

/// Microseconds for which a burst is counted: the kernel's usual period.
pub(super) const BURST_PERIOD_US: u64 = 100_000;

/// The guest that a definition means: defaults, below its profiles in order, below its own lines.
///
/// # Errors
/// A profile that there is not, with its line and the nearest name; or the faults of one.
pub fn resolve(name: &GuestName, sheet: &Sheet, profiles: &Profiles) -> Result<Guest, DefineError> {
    let mut merged = Definition::default();
    for profile in sheet.definition.profiles.0.iter().flatten() {
        let profile = profiles.get(profile).map_err(|error| match error {
            ProfileError::Refused(faults) => faults,
            unknown => {
                let message = format!("profiles: {unknown}");
                DefineError::at(&sheet.source, sheet.place("profiles"), message)
            }
        })?;
        merged = over(profile.layer(), merged);
    }
    let own = sheet.definition.clone();
    if own.image.is_some() && own.template != TemplatePart::default() {
        let message = "image: a guest is made from an image or from a template, not from both: \
                       leave one of the two out";
        let place = sheet.place("image");
        return Err(DefineError::at(&sheet.source, place, message));
    }
    Ok(fill(name, over(own, merged)))
}

/// A layer over another. Whichever of image and template the upper one names, it replaces both.
fn over(layer: Definition, mut lower: Definition) -> Definition {
    if layer.image.is_some() {
        lower.template = TemplatePart::default();
    }
    if layer.template.name.is_some() {
        lower.image = None;
    }
    layer.over(lower)
}

/// Reads, resolves and checks: the whole way from a text to a guest that may be started.
///
/// # Errors
/// All faults of the text, or else all problems of the guest, with their lines.
pub fn define(
    name: &GuestName,
    source: &str,
    text: &str,
    profiles: &Profiles,
    facts: &HostFacts,
) -> Result<Guest, DefineError> {
    let sheet = Sheet::parse(source, text)?;
    let guest = resolve(name, &sheet, profiles)?;
    check(&guest, facts).map_err(|problems| locate(&problems, &sheet, profiles))?;
    Ok(guest)
}

/// Problems of a guest with the lines they come from: the definition's own, or else the last
/// profile's that says the key.
#[must_use]
pub fn locate(problems: &[Problem], sheet: &Sheet, profiles: &Profiles) -> DefineError {
    let named = sheet.definition.profiles.0.iter().flatten().rev();
    let below: Vec<Sheet> = named
        .filter_map(|name| profiles.get(name).ok())
        .map(|profile| profile.sheet)
        .collect();
    let faults = problems.iter().map(|problem| {
        let keys = [problem.path(), problem.key.to_owned()];
        let found = keys.iter().find_map(|key| {
            let mut sheets = std::iter::once(sheet).chain(&below);
            sheets.find_map(|sheet| sheet.place(key).map(|place| (sheet, place)))
        });
        Fault {
            source: found
                .map_or(&sheet.source, |(sheet, _)| &sheet.source)
                .clone(),
            line: found.map(|(_, (line, _))| line),
            column: found.map(|(_, (_, column))| column),
            message: problem.to_string(),
        }
    });
    DefineError {
        faults: faults.collect(),
    }
}

/// Every field is taken apart by name here, so that a new one cannot be forgotten.
fn fill(name: &GuestName, merged: Definition) -> Guest {
    let Definition {
        template,
        image,
        profiles,
        description,
        labels,
        tenant,
        protect,
        cpu,
        memory,
        processes,
        io,
        disk,
        rlimits,
        sysctls,
        hostname,
        domain,
        timezone,
        environment,
        init,
        mount,
        tmpfs,
        device,
        security,
        autostart,
        restart,
        snapshots,
        events,
        network,
        access,
        view,
        ptys,
        console_log,
        cgroups,
        why: _,
    } = merged;
    Guest {
        origin: image.map_or_else(|| Origin::Template(template.into()), Origin::Image),
        description: description.unwrap_or_default(),
        labels,
        tenant: tenant.and_then(|tenant| tenant.0),
        protect: protect.unwrap_or(false),
        profiles: profiles.0.unwrap_or_default(),
        cpu: cpu.into(),
        memory: memory.into(),
        processes: processes.unwrap_or(default::PROCESSES),
        io: io.into(),
        disk: disk.into(),
        rlimits: rlimits.over(default::rlimits()),
        sysctls: sysctls.0,
        hostname: hostname.unwrap_or_else(|| name.to_string()),
        domain: domain.unwrap_or_default(),
        timezone: timezone.unwrap_or_else(|| default::TIMEZONE.into()),
        environment,
        init: init.into(),
        mounts: mount.into_iter().map(BindMount::from).collect(),
        tmpfs: tmpfs.into_iter().map(Tmpfs::from).collect(),
        devices: device.into_iter().map(Device::from).collect(),
        security: security.into(),
        autostart: autostart.into(),
        restart: restart.into(),
        snapshots: snapshots.into(),
        events: events.into(),
        network: network.into(),
        access: access.into(),
        view: view.unwrap_or(default::VIEW),
        ptys: ptys.unwrap_or(default::PTYS),
        console_log: console_log.unwrap_or(default::CONSOLE_LOG),
        cgroups: cgroups.unwrap_or(default::CGROUPS),
        name: name.clone(),
    }
}

impl From<TemplatePart> for TemplateRef {
    fn from(TemplatePart { name, options }: TemplatePart) -> Self {
        Self {
            name: name.unwrap_or_else(|| default::TEMPLATE.into()),
            options,
        }
    }
}

impl From<DiskPart> for DiskWish {
    fn from(DiskPart { pool, size, inodes }: DiskPart) -> Self {
        Self {
            pool: pool.unwrap_or_else(|| default::POOL.into()),
            size: size.and_then(|size| size.0),
            inodes: inodes.and_then(|inodes| inodes.0),
        }
    }
}

impl From<MemoryPart> for MemoryLimits {
    fn from(
        MemoryPart {
            resize,
            limit,
            swap,
            high,
            low,
            min,
            oom_group,
        }: MemoryPart,
    ) -> Self {
        Self {
            resize: resize.unwrap_or_default(),
            limit: limit.unwrap_or(default::MEMORY),
            swap: swap.unwrap_or(Bytes(0)),
            high: high.and_then(|high| high.0),
            low: low.unwrap_or(Bytes(0)),
            min: min.unwrap_or(Bytes(0)),
            oom_group: oom_group.unwrap_or(false),
        }
    }
}

impl From<IoPart> for IoLimits {
    fn from(IoPart { weight, device }: IoPart) -> Self {
        Self {
            weight: weight.and_then(|weight| weight.0),
            devices: device.into_iter().map(BlockLimit::from).collect(),
        }
    }
}

impl From<BlockLimitEntry> for BlockLimit {
    fn from(entry: BlockLimitEntry) -> Self {
        let BlockLimitEntry {
            device,
            read,
            write,
            read_iops,
            write_iops,
        } = entry;
        Self {
            device,
            read,
            write,
            read_iops,
            write_iops,
        }
    }
}

impl From<InitPart> for InitCommand {
    fn from(
        InitPart {
            command,
            stop_signal,
            stop_timeout,
        }: InitPart,
    ) -> Self {
        Self {
            command: command.0.unwrap_or_default(),
            stop_signal: stop_signal.and_then(|signal| signal.0),
            stop_timeout: stop_timeout.map_or(default::STOP_TIMEOUT, |pause| pause.0),
        }
    }
}

impl From<MountEntry> for BindMount {
    fn from(
        MountEntry {
            source,
            target,
            read_only,
            idmap,
        }: MountEntry,
    ) -> Self {
        let (read_only, idmap) = (read_only.unwrap_or(false), idmap.unwrap_or(true));
        Self {
            source,
            target,
            read_only,
            idmap,
        }
    }
}

impl From<TmpfsEntry> for Tmpfs {
    fn from(TmpfsEntry { target, size, mode }: TmpfsEntry) -> Self {
        let size = size.unwrap_or(default::TMPFS_SIZE);
        Self {
            target,
            size,
            mode: mode.map_or(default::TMPFS_MODE, |mode| mode.0),
        }
    }
}

impl From<DeviceEntry> for Device {
    fn from(DeviceEntry { path, access }: DeviceEntry) -> Self {
        Self {
            path,
            access: access.unwrap_or_else(|| default::DEVICE_ACCESS.into()),
        }
    }
}

impl From<SecurityPart> for Security {
    fn from(part: SecurityPart) -> Self {
        let SecurityPart {
            capabilities,
            seccomp,
            no_new_privileges,
            nesting,
        } = part;
        Self {
            capabilities: bounding_set(&capabilities),
            seccomp: seccomp.unwrap_or_else(|| default::SECCOMP.into()),
            no_new_privileges: no_new_privileges.unwrap_or(false),
            nesting: nesting.unwrap_or(false),
        }
    }
}

/// The default set with what was dropped and added.
fn bounding_set(change: &CapabilityChange) -> BTreeSet<String> {
    let kept = |(number, name): &(usize, &str)| {
        let usual = default::DEFAULT_CAPABILITIES.contains(name);
        change.add.contains(number) || (usual && !change.drop.contains(number))
    };
    let all = CAPABILITIES.into_iter().enumerate();
    all.filter(kept)
        .map(|(_, name)| format!("CAP_{name}"))
        .collect()
}

impl From<AutostartPart> for Autostart {
    fn from(
        AutostartPart {
            enabled,
            priority,
            after,
        }: AutostartPart,
    ) -> Self {
        Self {
            enabled: enabled.unwrap_or(false),
            priority: priority.unwrap_or(0),
            after: after.0,
        }
    }
}

impl From<RestartPart> for RestartRule {
    fn from(
        RestartPart {
            policy,
            delay,
            delay_max,
            attempts,
        }: RestartPart,
    ) -> Self {
        Self {
            policy: policy.unwrap_or(default::RESTART_POLICY),
            delay: delay.map_or(default::RESTART_DELAY, |pause| pause.0),
            delay_max: delay_max.map_or(default::RESTART_DELAY_MAX, |pause| pause.0),
            attempts: attempts.unwrap_or(default::RESTART_ATTEMPTS),
        }
    }
}

impl From<AccessPart> for Access {
    fn from(
        AccessPart {
            ssh_keys,
            root_password_hash,
        }: AccessPart,
    ) -> Self {
        Self {
            ssh_keys: ssh_keys.0,
            root_password_hash: root_password_hash.and_then(|hash| hash.0),
        }
    }
}
