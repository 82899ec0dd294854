//! A guest from an archive: its files and what it is inside come along, its ids and its address are
//! of this host. The definition in an archive is a wish: it is checked as a new one is, and what
//! would reach beyond the guest is taken only if whoever imports says so.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::error::{GuestError, Result};
use super::export::archive;
use super::manager::Manager;
use super::store::Written;
use crate::define::{self, Change, DEFAULT_CAPABILITIES, KeyPath};
use crate::kernel::{fault, random};
use crate::model::{EventKind, Guest, GuestName, NetworkKind, Nic};
use crate::storage::{
    self, Far, FarMachine, Machine, Opened, PackError, Progress, ReceivedImage, Unpacker,
};

/// How a guest is to be imported.
#[derive(Clone, Debug, Default)]
pub struct ImportWish {
    /// Its name here; the one in the archive without.
    pub name: Option<GuestName>,
    /// Whether it gets a machine id and SSH host keys of its own: it is a copy, not a move.
    pub fresh: bool,
    /// Whether its definition may reach beyond it.
    pub trust: bool,
    /// What its definition is to say here.
    pub changes: Vec<(KeyPath, Change)>,
    /// What is imported, for messages.
    pub shown: String,
}

/// Where a guest is imported from.
pub enum Source {
    /// An archive that is read once.
    Stream(Box<dyn Read + Send>),
    /// An archive in a file, and a configuration that lies beside it.
    Archive(File, Option<PathBuf>),
    /// The disk of a machine, and its path for messages.
    Disk(File, PathBuf),
    /// The root of a machine, in a folder of this host, and a configuration that lies beside it.
    Folder(PathBuf, Option<PathBuf>),
    /// A machine elsewhere.
    Far(Far),
}

/// A guest that was imported, or would be.
#[derive(Clone, Debug)]
pub struct Imported {
    /// As it is meant here.
    pub guest: Guest,
    /// The text of its definition here.
    pub definition: String,
    /// Digest of its image.
    pub image: String,
    /// Whether the image came with it.
    pub new_image: bool,
    /// What is not as it was.
    pub notes: Vec<String>,
}

impl Manager {
    /// Looks at the beginning of an archive and says what importing it would make. Changes nothing.
    ///
    /// # Errors
    /// As [`Manager::import`], but for what only reading all of it shows.
    pub fn check_import(
        &self,
        source: Source,
        wish: &ImportWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported> {
        let unpacker = match self.open_source(source, wish, progress)? {
            Opened::Guest(unpacker) => *unpacker,
            Opened::Newcomer(newcomer) => return self.plan_adoption(&*newcomer, wish),
        };
        let name = name_of(&unpacker, wish)?;
        self.plan_import(&unpacker, &name, wish)
    }

    /// Makes a guest from an archive. What fails leaves nothing.
    ///
    /// # Errors
    /// The archive is damaged, cut off or of another kind; the name is taken; its definition is not
    /// taken; its image is not to be had; the disk is full.
    pub fn import(
        &self,
        source: Source,
        wish: &ImportWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Imported> {
        let mut unpacker = match self.open_source(source, wish, progress)? {
            Opened::Guest(unpacker) => *unpacker,
            Opened::Newcomer(newcomer) => return self.adopt(newcomer, wish, progress),
        };
        let name = name_of(&unpacker, wish)?;
        let _lock = self.lock(&name, "import")?;
        let mut planned = self.plan_import(&unpacker, &name, wish)?;
        self.discard(&name)?;
        let failed = |source: PackError| archive(format!("import {}", wish.shown), source);
        let done = storage::receive_image(&self.layout, &mut unpacker, progress)
            .map_err(failed)
            .and_then(|image| {
                planned.new_image = image.is_new();
                self.take_in(&name, &mut planned, unpacker, image, wish, progress)?;
                self.record(&name, EventKind::Created)?;
                Ok(planned)
            });
        self.made(&name, done)
    }

    fn open_source(
        &self,
        source: Source,
        wish: &ImportWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Opened> {
        let newcomer = |machine: Machine| Opened::Newcomer(Box::new(machine));
        let opened = match source {
            Source::Stream(input) => storage::open_archive(input),
            Source::Archive(file, config) => {
                let config = config.map(|path| storage::config_file(&path)).transpose();
                config.and_then(|config| storage::open_archive_file(file, config))
            }
            Source::Disk(file, path) => {
                Machine::on_disk(&self.layout, file, &path, progress).map(newcomer)
            }
            Source::Far(far) => {
                FarMachine::ask(far).map(|machine| Opened::Newcomer(Box::new(machine)))
            }
            Source::Folder(path, config) => {
                Machine::in_folder(&self.layout, &path, config.as_deref(), progress).map(newcomer)
            }
        };
        opened.map_err(|source| archive(format!("import {}", wish.shown), source))
    }

    /// What would be made, checked as far as it can be.
    fn plan_import(
        &self,
        unpacker: &Unpacker,
        name: &GuestName,
        wish: &ImportWish,
    ) -> Result<Imported> {
        let manifest = &unpacker.manifest;
        let mut notes = Vec::new();
        let mut changes = wish.changes.clone();
        let sets = |path: &str| wish.changes.iter().any(|(key, _)| key.key.path == path);
        let address = KeyPath::parse("network.address")?;
        let before = self.define(name, &manifest.guest.definition)?;
        if !wish.trust {
            refuse_reach(name, &before)?;
        }
        if let Some(was) = before.network.address
            && !sets("network.address")
        {
            changes.insert(0, (address, Change::Unset));
            notes.push(format!(
                "its address {was} was of another host; it has one of this host"
            ));
        }
        let one = |nic: &Nic| nic.address.is_some() || nic.mac.is_some() || nic.address6.is_some();
        let first = &before.network;
        if first.nics.iter().any(one) || first.mac.is_some() || first.address6.is_some() {
            // Its first address is told of above.
            let own = define::without_addresses(&manifest.guest.definition)?.into_iter();
            let own =
                own.filter(|(path, _)| path.key.path != "network.address" && !sets(path.key.path));
            changes.splice(0..0, own);
            notes.push(
                "hardware and IPv6 addresses, and addresses of further interfaces, were of another host: it has others here".to_owned(),
            );
        }
        let forwards = &before.network.forwards;
        if !forwards.is_empty() && !sets("network.forward") {
            changes.insert(0, (KeyPath::parse("network.forward")?, Change::Unset));
            let ports: Vec<String> = forwards.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "ports of another host led to it ({}); of this host none do: bulkhead set {name} \
                 --forward HOST:GUEST",
                ports.join(", ")
            ));
        }
        let definition = define::edit(&manifest.guest.definition, &changes)?;
        let guest = self.check_wanted(name, &definition)?;
        storage::check_image(&self.layout, manifest)
            .map_err(|source| archive(format!("import {}", wish.shown), source))?;
        if let Some(other) = self.same_machine(&manifest.guest.machine_id)?
            && !wish.fresh
        {
            notes.push(format!(
                "guest {other} here has the same machine id: this one gets an identity of its own"
            ));
        }
        Ok(Imported {
            guest,
            definition,
            image: manifest.image.digest.clone(),
            new_image: manifest.has_image(),
            notes,
        })
    }

    /// A guest of this host with this machine id.
    pub(super) fn same_machine(&self, id: &str) -> Result<Option<GuestName>> {
        let same = |name: &GuestName| {
            let machine = self.machine_if_there(name).ok().flatten();
            machine.is_some_and(|machine| machine.machine_id == id)
        };
        Ok(self.names()?.into_iter().find(same))
    }

    fn take_in(
        &self,
        name: &GuestName,
        planned: &mut Imported,
        mut unpacker: Unpacker,
        image: ReceivedImage,
        wish: &ImportWish,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let failed = |source: PackError| archive(format!("import {}", wish.shown), source);
        let packed = unpacker.manifest.guest.clone();
        let is_id = packed.machine_id.len() == 32
            && packed
                .machine_id
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let fresh = wish.fresh || !is_id || self.same_machine(&packed.machine_id)?.is_some();
        let machine_id = match fresh {
            true => random::hex(16)?,
            false => packed.machine_id,
        };
        let machine = self.enroll(name, &image.image, machine_id)?;
        self.make_root(&planned.guest, &image.image)?;
        let sealed = storage::receive_sealed(&self.layout, name, &mut unpacker);
        let mut left_out = sealed.map_err(failed)?;
        let manifest = unpacker.manifest.clone();
        let kept = self.plan_snapshots(name, planned, (&manifest, &image), wish)?;
        left_out += kept.receive(&mut unpacker, progress).map_err(failed)?;
        let own = storage::receive_own(&self.layout, name, &mut unpacker, progress);
        left_out += own.map_err(failed)?;
        unpacker.finish().map_err(failed)?;
        if left_out > 0 {
            let what = "extended attributes that mean something to a host only were left out";
            planned.notes.push(format!("{left_out} {what}"));
        }
        let lease = self.lease(name, &planned.guest)?;
        let mut written = Written::of(&planned.guest, lease.as_ref());
        if fresh {
            let boot = self.first_boot_data(&planned.guest, &machine, lease.as_ref())?;
            self.write_first_boot(name, &image.image, &boot)?;
            let kept = (&kept, &mut planned.notes);
            self.settle_snapshots(name, kept, (&manifest, &image), &boot)?;
        } else if let Ok(mut there) = serde_json::from_value::<Written>(packed.written) {
            there.address = written.address;
            written = there;
        }
        fault::point()?;
        // Of the snapshots that are left: one whose files were not to be had is forgotten by now.
        let records = self.snapshot_records(name)?;
        let used = |digest: &str| records.iter().any(|one| one.image == digest);
        image.keep(&self.layout, &used).map_err(failed)?;
        self.complete(name, &planned.definition, &written)
    }
}

fn name_of(unpacker: &Unpacker, wish: &ImportWish) -> Result<GuestName> {
    if let Some(name) = &wish.name {
        return Ok(name.clone());
    }
    let name = &unpacker.manifest.guest.name;
    name.parse().map_err(|_| {
        let why = format!("its name {name:.80?} is no name of a guest: give it one with --name");
        archive(format!("import {}", wish.shown), PackError::Format(why))
    })
}

/// Refuses what gives a guest more of the host than a guest has.
pub(super) fn refuse_reach(name: &GuestName, guest: &Guest) -> Result<()> {
    let security = &guest.security;
    let usual = |capability: &String| {
        let short = capability.trim_start_matches("CAP_");
        DEFAULT_CAPABILITIES
            .iter()
            .any(|c| c.trim_start_matches("CAP_") == short)
    };
    let reach = [
        ("mount", !guest.mounts.is_empty()),
        ("device", !guest.devices.is_empty()),
        (
            "network.kind",
            matches!(
                guest.network.kind,
                NetworkKind::Host | NetworkKind::Named(_)
            ),
        ),
        (
            "network.nic",
            guest
                .network
                .nics
                .iter()
                .any(|nic| matches!(nic.network, NetworkKind::Named(_))),
        ),
        ("security.nesting", security.nesting),
        (
            "security.seccomp",
            !matches!(security.seccomp.as_str(), "default" | "hardened"),
        ),
        ("security.add", !security.capabilities.iter().all(usual)),
    ];
    let keys: Vec<&'static str> = reach.iter().filter(|r| r.1).map(|r| r.0).collect();
    match keys.is_empty() {
        true => Ok(()),
        false => Err(GuestError::Reaches {
            name: name.clone(),
            keys: keys.join(", "),
        }),
    }
}
