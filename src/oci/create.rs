//! `create`: a container with everything but its program running. Everything it makes is undone if
//! a step fails; if it is killed, `delete --force` finds in its folder what to remove.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;

use super::activation;
use super::args::{Cli, Create, Make};
use super::bundle::Bundle;
use super::error::{OciError, Result};
use super::host::{self, HostView};
use super::log::Log;
use super::record::Record;
use super::store::{Folder, Store};
use crate::kernel::cgroup::Cgroups;
use crate::kernel::process_known::Known;
use crate::kernel::socket::{connect_to, send_once};
use crate::kernel::{Errno, KernelError, empty_mounts};
use crate::launch::container::{self, Place, Prepared, RecordError, Recorder, Told};
use crate::model::CgroupPlace;
use crate::plan::container::{OCI_VERSION, Wish, bit, steps};

/// Makes a container and leaves it waiting.
pub(super) fn create(cli: &Cli, store: &Store, args: &Create, log: &Log) -> Result<u8> {
    let made = make(cli, store, &args.make, Until::Made, log)?;
    // Others may have it from here on; the first process has inherited the lock until it closes it.
    made.folder.get()?.unlock()?;
    made.prepared.release(false)?;
    made.folder.done();
    Ok(0)
}

/// How long the command stays with a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Made,
    Started,
    Over,
}

/// A container whose first process waits for the word to go on.
pub(super) struct Made {
    pub(super) prepared: Prepared,
    pub(super) folder: Unfinished,
    pub(super) record: Record,
    pub(super) bundle: Bundle,
    pub(super) host: HostView,
}

/// The files of a container, which go again unless it is made.
pub(super) struct Unfinished {
    folder: Option<Folder>,
    pid_file: RefCell<Option<PathBuf>>,
}

impl Unfinished {
    fn new(folder: Folder) -> Self {
        Self {
            folder: Some(folder),
            pid_file: RefCell::default(),
        }
    }

    /// All of them stay.
    pub(super) fn done(mut self) {
        self.folder = None;
        self.pid_file.take();
    }

    pub(super) fn take(&mut self) -> Result<Folder> {
        let gone = || KernelError::new("use", "the container's folder", Errno::NOENT);
        self.pid_file.take();
        self.folder.take().ok_or_else(|| gone().into())
    }

    pub(super) fn get(&self) -> Result<&Folder> {
        let gone = || KernelError::new("use", "the container's folder", Errno::NOENT);
        self.folder.as_ref().ok_or_else(|| gone().into())
    }

    fn write_pid(&self, path: &Path, pid: u32) -> Result<()> {
        *self.pid_file.borrow_mut() = Some(path.to_owned());
        write_pid(path, pid)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // The error that matters is the one that brought us here.
        if let Some(folder) = self.folder.take() {
            let _left = folder.remove();
        }
        if let Some(path) = self.pid_file.take() {
            let _left = std::fs::remove_file(path);
        }
    }
}

/// Everything up to the word.
pub(super) fn make(cli: &Cli, store: &Store, args: &Make, until: Until, log: &Log) -> Result<Made> {
    let waits = until == Until::Made;
    super::store::check_id(&args.id)?;
    let mut bundle = Bundle::read(&args.bundle, &args.config)?;
    bundle
        .config
        .warnings
        .iter()
        .for_each(|text| log.warn(text));
    let process = bundle.config.spec.process().as_ref();
    let lost = process.map(super::dialect::lost).unwrap_or_default();
    lost.iter().for_each(|text| log.warn(text));
    activation::tell_sockets(&mut bundle.config.spec);
    activation::tell_notify(&mut bundle.config.spec, &store.path(&args.id));
    let host = HostView::look(store.rootless)?;
    let cgroup = bundle.cgroups(&args.id, cli.global.systemd(), &host)?;
    let console = console(
        bundle.config.spec.process().as_ref(),
        args.console_socket.as_deref(),
        until != Until::Over,
    )?;
    let empty_mounts = match host.facts.limited {
        true => None,
        false => empty_mounts::open(&host::cache().join("mounts")),
    };
    let wish = Wish {
        id: &args.id,
        spec: &bundle.config.spec,
        bundle: &bundle.path,
        cgroup: Some(cgroup.clone()),
        filter_known: bundle.config.filter.is_some(),
        facts: host.facts,
        waits,
        no_pivot: args.no_pivot,
        empty_mounts: empty_mounts.is_some(),
        keep_keyring: args.no_new_keyring,
        preserve: args.passed_on(),
    };
    let plan = steps(&wish)?;
    let folder = Unfinished::new(store.reserve(&args.id)?);
    folder.get()?.lock()?;
    activation::make_folder(folder.get()?, &bundle.config.spec)?;
    let mut record = record(&args.id, &bundle, args, waits);
    // Should this be cut short, `delete --force` takes away what is made from here on, and no more.
    record.cgroup = Cgroups::to_be_made(&host.cgroups, &cgroup.place).map(|made| CgroupPlace {
        made,
        ..cgroup.place.clone()
    });
    folder.get()?.begin(&bundle.text, &record)?;
    let (start, complaint) = match waits {
        true => {
            let (start, complaint) = folder.get()?.make_start()?;
            (Some(start), Some(complaint))
        }
        false => (None, None),
    };
    let told = told(&record);
    let record = RefCell::new(record);
    let write = |pid: u32, cgroups: Option<&CgroupPlace>| -> std::result::Result<(), RecordError> {
        let mut record = record.borrow_mut();
        record.process = Known::of(pid);
        record.cgroup = cgroups.cloned();
        folder.get()?.save(&record)?;
        match &args.pid_file {
            Some(path) => Ok(folder.write_pid(path, pid)?),
            None => Ok(()),
        }
    };
    let place = Place {
        host: host.cgroups.clone(),
        cache: host::cache(),
        empty_mounts,
        rules: bundle.config.rules.take(),
        filter: bundle.config.filter.take(),
        console,
        start,
        complaint,
        told,
        record: Recorder(&write),
        entered: None,
    };
    let prepared = container::prepare(&plan, &place)?;
    if let Some(path) = &args.pidfd_socket {
        send_pidfd(path, &prepared)?;
    }
    log.debug(&format!(
        "the container's first process is {}",
        prepared.pid()
    ));
    Ok(Made {
        prepared,
        folder,
        record: record.into_inner(),
        bundle,
        host,
    })
}

/// A terminal needs somebody to hold its other end, and only a terminal does.
pub(super) fn console(
    process: Option<&Process>,
    socket: Option<&Path>,
    alone: bool,
) -> Result<Option<OwnedFd>> {
    let terminal = process.and_then(Process::terminal) == Some(true);
    let wrong = |why: &str| {
        Err(OciError::Usage {
            what: "--console-socket".into(),
            why: why.into(),
        })
    };
    match socket {
        Some(path) if terminal => Ok(Some(connect_to(path)?)),
        Some(_) => wrong("process.terminal is not true, so there is no terminal to send"),
        None if terminal && alone => {
            wrong("missing: a terminal needs it where nobody stays to hold its other end")
        }
        None => Ok(None),
    }
}

/// Tells a client of a process by a descriptor: a number could mean another one later.
pub(super) fn send_pidfd(socket: &Path, prepared: &Prepared) -> Result<()> {
    Ok(send_once(socket, b"pidfd", prepared.pidfd())?)
}

fn record(id: &str, bundle: &Bundle, args: &Make, waits: bool) -> Record {
    let spec = &bundle.config.spec;
    let linux = spec.linux().as_ref();
    let namespaces = linux
        .and_then(|l| l.namespaces().as_deref())
        .unwrap_or_default();
    let some = |list: Option<&Vec<_>>| list.is_some_and(|l| !l.is_empty());
    let hooks = spec.hooks().as_ref();
    let mounts = oci_spec::runtime::LinuxNamespaceType::Mount;
    let rdt = linux.and_then(|l| l.intel_rdt().as_ref());
    Record {
        id: id.to_owned(),
        oci_version: OCI_VERSION.to_owned(),
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs(),
        process: None,
        waits,
        created_ms: now_ms(),
        owner: owner(),
        cgroup: None,
        chrooted: args.no_pivot || namespaces.iter().all(|n| n.typ() != mounts),
        namespaces: namespaces.iter().fold(0, |all, n| all | bit(n.typ())),
        poststart: hooks.is_some_and(|h| some(h.poststart().as_ref())),
        poststop: hooks.is_some_and(|h| some(h.poststop().as_ref())),
        // A group that the client has named is the client's.
        rdt: rdt.filter(|r| r.clos_id().is_none()).map(|_| id.to_owned()),
        annotations: spec
            .annotations()
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

fn owner() -> String {
    match rustix::process::getuid().as_raw() {
        0 => "root".into(),
        uid => uid.to_string(),
    }
}

pub(super) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

/// The state that hooks are told, but for its status.
pub(super) fn told(record: &Record) -> Told {
    let mut all = serde_json::Map::new();
    all.insert("ociVersion".into(), record.oci_version.clone().into());
    all.insert("id".into(), record.id.clone().into());
    all.insert("status".into(), "creating".into());
    all.insert("bundle".into(), record.bundle.display().to_string().into());
    let annotations = serde_json::to_value(&record.annotations).unwrap_or_default();
    all.insert("annotations".into(), annotations);
    Told(all)
}

/// Whole or not at all: a client may be waiting for it.
pub(super) fn write_pid(path: &Path, pid: u32) -> Result<()> {
    Ok(crate::kernel::file::write_runtime(
        path,
        pid.to_string().as_bytes(),
        0o644,
    )?)
}
