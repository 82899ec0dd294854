//! `exec`: one more program in a running container, under its limits and with no more rights.

use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{LinuxCapabilities, Process, Spec, User};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};

use super::args::Exec;
use super::create::{console, send_pidfd, told, write_pid};
use super::dialect;
use super::error::{OciError, Result};
use super::host::{self, HostView};
use super::log::Log;
use super::relay;
use super::rules::Config;
use super::store::{LARGEST, Status, Store};
use crate::kernel::cgroup::Cgroups;
use crate::kernel::process::timespec;
use crate::kernel::process_known::Known;
use crate::launch::container::{self, Entered, Place, Recorder};
use crate::plan::container::{Entry, capability, check_process, enter};

/// Runs a program in a container.
pub(super) fn exec(store: &Store, args: &Exec, log: &Log) -> Result<u8> {
    let folder = store.find(&args.id)?;
    let record = folder.made()?;
    let host = HostView::look(store.rootless)?;
    let status = folder.status(&record, &host.cgroups);
    match status {
        Status::Running | Status::Created => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => return Err(OciError::Paused),
        other => {
            return Err(OciError::Status {
                verb: "exec in",
                status: other,
            });
        }
    }
    let config = Config::read(&folder.config()?, &host::cache()).map_err(OciError::Config)?;
    let spec = config.spec;
    let process = process(args, &spec, log)?;
    check_process(&process)?;
    let pidfd = record.process.and_then(Known::open);
    let (pidfd, first) = pidfd.zip(record.process).ok_or(OciError::NotRunning)?;
    let cgroups = match &record.cgroup {
        Some(place) => Some(below(Cgroups::open(&host.cgroups, place)?, &args.cgroup)?),
        None => None,
    };
    let plan = enter(&Entry {
        spec: &spec,
        process: &process,
        filter_known: config.filter.is_some(),
        facts: host.facts,
        cgroups: cgroups.is_some(),
        frozen: status == Status::Paused,
        keep_keyring: false,
        preserve: args.preserve_fds,
    })?;
    let console = console(Some(&process), args.console_socket.as_deref(), args.detach)?;
    let place = Place {
        host: host.cgroups.clone(),
        cache: host::cache(),
        empty_mounts: None,
        rules: config.rules,
        filter: config.filter,
        console,
        start: None,
        complaint: None,
        told: told(&record),
        record: Recorder::NONE,
        entered: Some(Entered {
            pidfd,
            pid: first.pid,
            cgroups,
            chrooted: record.chrooted,
            owner: super::bundle::owner(&spec),
        }),
    };
    let mut prepared = container::prepare(&plan, &place).map_err(failed)?;
    if let Some(path) = &args.pid_file {
        write_pid(path, prepared.pid())?;
    }
    if let Some(path) = &args.pidfd_socket {
        send_pidfd(path, &prepared)?;
    }
    let terminal = prepared.terminal();
    relay::get_ready(terminal.as_ref());
    let (_, pidfd) = prepared.release(true).map_err(failed)?;
    if args.detach {
        return Ok(0);
    }
    relay::wait(&pidfd, terminal.as_ref())
}

/// The groups below the container's own that were asked for.
fn below(mut cgroups: Cgroups, wanted: &[String]) -> Result<Cgroups> {
    for text in wanted {
        let (controllers, path) = match text.split_once(':') {
            Some((controllers, path)) => (controllers, path),
            None => ("", text.as_str()),
        };
        let controllers: Vec<&str> = controllers.split(',').filter(|c| !c.is_empty()).collect();
        cgroups.descend(&controllers, Path::new(path))?;
    }
    Ok(cgroups)
}

/// Longest wait for whoever writes into a pipe.
const PATIENCE: Duration = Duration::from_secs(2);

/// Any file of the caller's, also a pipe (`-p <(…)`); a FIFO that nobody writes to is empty.
fn read_any(path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let from = rustix::fs::open(path, flags, Mode::empty())?;
    let mut text = Vec::new();
    let mut part = [0_u8; 16 << 10];
    while (text.len() as u64) <= LARGEST {
        let mut fds = [PollFd::new(&from, PollFlags::IN)];
        if poll(&mut fds, Some(&timespec(PATIENCE)))? == 0 {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        match rustix::io::read(&from, &mut part[..])? {
            0 => return Ok(text),
            n => text.extend_from_slice(&part[..n]),
        }
    }
    Err(std::io::ErrorKind::FileTooLarge.into())
}

fn failed(error: crate::launch::LaunchError) -> OciError {
    OciError::Program(format!("exec failed: {}", OciError::from(error)))
}

/// What is to be run: as a client wrote it, or the container's own with changes.
fn process(args: &Exec, spec: &Spec, log: &Log) -> Result<Process> {
    if let Some(path) = &args.process {
        let file = |why: String| OciError::File {
            path: path.display().to_string(),
            why,
        };
        let text = read_any(path).map_err(|error| file(error.to_string()))?;
        let read = dialect::parse(&text).map_err(|error| file(error.to_string()));
        let (mut process, warnings) = read?;
        inherit(&mut process, spec);
        let warnings = warnings.into_iter().chain(dialect::lost(&process));
        warnings.for_each(|text| log.warn(&text));
        return Ok(process);
    }
    let mut process = spec.process().clone().unwrap_or_default();
    if args.command.is_empty() {
        return Err(OciError::Usage {
            what: "exec".into(),
            why: "say which program, or give it with --process".into(),
        });
    }
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.env.iter().cloned());
    process.set_env(Some(env));
    if args.no_new_privs.is_some() {
        process.set_no_new_privileges(args.no_new_privs);
    }
    if let Some(profile) = &args.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &args.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    user(args, &mut process)?;
    capabilities(args, &mut process, log);
    Ok(process)
}

/// What a client does not say of a program is as with the container's own, as runc has it: above all
/// it must not be less confined.
fn inherit(process: &mut Process, spec: &Spec) {
    let Some(own) = spec.process() else {
        return;
    };
    let missing = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
    if process.capabilities().is_none() {
        process.set_capabilities(own.capabilities().clone());
    }
    if missing(process.apparmor_profile()) {
        process.set_apparmor_profile(own.apparmor_profile().clone());
    }
    if missing(process.selinux_label()) {
        process.set_selinux_label(own.selinux_label().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(own.no_new_privileges());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(own.rlimits().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(own.oom_score_adj());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(own.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*own.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(own.exec_cpu_affinity().clone());
    }
}

fn user(args: &Exec, process: &mut Process) -> Result<()> {
    let mut user: User = process.user().clone();
    if let Some(text) = &args.user {
        let wrong = || OciError::Usage {
            what: format!("--user {text}"),
            why: "write a user id, or UID:GID".into(),
        };
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        match text.split_once(':') {
            Some((uid, gid)) => {
                user.set_uid(number(uid)?);
                user.set_gid(number(gid)?);
            }
            None => drop(user.set_uid(number(text)?)),
        }
    }
    if !args.additional_gids.is_empty() {
        let mut all = user.additional_gids().clone().unwrap_or_default();
        all.extend(&args.additional_gids);
        user.set_additional_gids(Some(all));
    }
    process.set_user(user);
    Ok(())
}

/// Further ones, in the sets that need them to be of use.
fn capabilities(args: &Exec, process: &mut Process, log: &Log) {
    if args.cap.is_empty() {
        return;
    }
    let mut sets: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    let mut bounding = sets.bounding().clone().unwrap_or_default();
    let mut effective = sets.effective().clone().unwrap_or_default();
    let mut permitted = sets.permitted().clone().unwrap_or_default();
    let mut ambient = sets.ambient().clone().unwrap_or_default();
    for name in &args.cap {
        // As in a configuration: the specification wants a warning.
        let Some(capability) = capability(name) else {
            log.warn(&dialect::not_known(name));
            continue;
        };
        bounding.insert(capability);
        effective.insert(capability);
        permitted.insert(capability);
        // What passes to programs that may inherit is to reach this one.
        let inherits = sets.inheritable().as_ref();
        if inherits.is_some_and(|set| set.contains(&capability)) {
            ambient.insert(capability);
        }
    }
    sets.set_bounding(Some(bounding));
    sets.set_effective(Some(effective));
    sets.set_permitted(Some(permitted));
    sets.set_ambient(Some(ambient));
    process.set_capabilities(Some(sets));
}
