//! Making a guest. Its folder is made first and `guest.toml` written last: whatever is cut short in
//! between is a folder without a definition, which any later command can name and remove.

use std::net::IpAddr;

use super::error::{GuestError, Result};
use super::manager::{Manager, now_ms};
use super::store::{Machine, Written};
use super::ways::Ways;
use crate::kernel::{KernelError, fault, file, random};
use crate::model::{EventKind, Guest, GuestName, Origin, Status};
use crate::network::{FileError, Lease, Network};
use crate::storage::{self, BootNic, FirstBoot, Image, Pool, Progress, Quota};

/// A guest that was made.
#[derive(Clone, Debug)]
pub struct Created {
    /// As it is meant.
    pub guest: Guest,
    /// Its image.
    pub image: Image,
}

impl Manager {
    /// Checks a definition and everything that creating it would need, and changes nothing.
    ///
    /// # Errors
    /// As [`Manager::create`].
    pub fn check_new(&self, name: &GuestName, text: &str) -> Result<Guest> {
        let guest = self.check_wanted(name, text)?;
        self.check_origin(&guest)?;
        Ok(guest)
    }

    /// Whether there is what a guest is made from, as far as it can be seen without making it.
    pub(super) fn check_origin(&self, guest: &Guest) -> Result<()> {
        match &guest.origin {
            Origin::Image(name) => {
                storage::check_sound(&storage::find_image(&self.layout, name)?)?;
            }
            Origin::Template(template) => {
                let templates = self.templates()?;
                templates
                    .resolve(template)
                    .map_err(storage::ImageError::from)?;
            }
        }
        Ok(())
    }

    /// As [`Manager::check_new`], but for what it is made from.
    pub(super) fn check_wanted(&self, name: &GuestName, text: &str) -> Result<Guest> {
        if self.layout.guest(name).is_dir() && self.status(name)? != Status::Creating {
            return Err(GuestError::Exists(name.clone()));
        }
        let guest = self.define(name, text)?;
        crate::plan::spec::supported(&guest, &self.facts)?;
        self.check_host_side(&guest)?;
        self.pool_of(&guest)?
            .driver_for(&self.layout, quota(&guest))?;
        drop(self.sell_disk(&guest, 0)?);
        if let Some(network) = self.network_of(&guest.network)? {
            self.check_ports(name, &guest.network)?;
            network.preview(name, &guest.network)?;
        }
        Ok(guest)
    }

    /// Makes a guest from its definition's text. What fails leaves nothing.
    ///
    /// # Errors
    /// The name is taken, the definition is wrong, its template cannot be built, its address is not
    /// to be had, the disk is full.
    pub fn create(
        &self,
        name: &GuestName,
        text: &str,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Created> {
        let _lock = self.lock(name, "create")?;
        let guest = self.check_new(name, text)?;
        self.discard(name)?;
        let done = self.make(name, text, &guest, progress).and_then(|image| {
            self.record(name, EventKind::Created)?;
            Ok(Created { guest, image })
        });
        self.made(name, done)
    }

    /// The end of whatever makes a guest: what failed is cleared away. Its lock is held.
    pub(super) fn made<T>(&self, name: &GuestName, done: Result<T>) -> Result<T> {
        if done.is_err() {
            // The error that matters is this one; what is left, `doctor` names.
            let _none = std::fs::remove_file(self.definition_path(name));
            let _left = self.discard(name);
        } else {
            self.tell_neighbours(name);
        }
        done
    }

    fn make(
        &self,
        name: &GuestName,
        text: &str,
        guest: &Guest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image> {
        let image = self.image_of(guest, progress)?;
        self.furnish(name, text, guest, &image, || self.make_root(guest, &image))?;
        Ok(image)
    }

    /// Everything of a new guest from its ids to its definition; `root` makes its root.
    pub(super) fn furnish(
        &self,
        name: &GuestName,
        text: &str,
        guest: &Guest,
        image: &Image,
        root: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let machine = self.enroll(name, image, random::hex(16)?)?;
        root()?;
        let lease = self.lease(name, guest)?;
        let boot = self.first_boot_data(guest, &machine, lease.as_ref())?;
        fault::point()?;
        self.write_first_boot(name, image, &boot)?;
        self.complete(name, text, &Written::of(guest, lease.as_ref()))
    }

    /// Makes a new root this guest's own.
    pub(super) fn write_first_boot(
        &self,
        name: &GuestName,
        image: &Image,
        boot: &FirstBoot,
    ) -> Result<()> {
        let write = || storage::first_boot(&self.layout, name, image, boot);
        let written = match write() {
            // A copy of one that was full.
            Err(storage::FirstBootError::File(error)) if error.is_disk_full() => {
                let _room = storage::spare_room(&self.layout, name, None);
                write()
            }
            written => written,
        };
        written.map_err(|error| GuestError::Root {
            name: name.clone(),
            source: error.into(),
        })
    }

    /// The first there is of a new guest: its folder, with its block of ids.
    pub(super) fn enroll(
        &self,
        name: &GuestName,
        image: &Image,
        machine_id: String,
    ) -> Result<Machine> {
        self.with_free_ids(|ids| {
            file::make_private_dir(&self.layout.guest(name))?;
            fault::point()?;
            let machine = Machine {
                ids,
                image: image.digest.clone(),
                created_ms: now_ms(),
                machine_id,
                renaming: None,
                trashed: None,
                snapshot: None,
            };
            self.write_machine(name, &machine)?;
            Ok(machine)
        })
    }

    /// The last: its definition, from which on it is there.
    pub(super) fn complete(&self, name: &GuestName, text: &str, written: &Written) -> Result<()> {
        self.write_written(name, written)?;
        let _sold = match self.settings.room.disk_ratio {
            Some(_) => self.sell_disk(&self.define(name, text)?, 0)?,
            None => None,
        };
        file::write_whole(&self.definition_path(name), text.as_bytes(), 0o600)?;
        // From now on it has its room on disks.
        if self
            .guest(name)
            .is_ok_and(|guest| guest.disk.size.is_some())
        {
            self.keep_account(name, None);
        }
        Ok(())
    }

    /// The guest's own, empty layer, in the pool its definition names.
    pub(super) fn make_root(&self, guest: &Guest, image: &Image) -> Result<()> {
        let pool = self.pool_of(guest)?;
        let made = storage::create_root(&self.layout, &guest.name, image, (&pool, quota(guest)));
        made.map_err(|error| self.root_error(&guest.name, error))
    }

    /// The pool a definition names.
    pub(super) fn pool_of(&self, guest: &Guest) -> Result<Pool> {
        Ok(Pool::load(&self.layout, &guest.disk.pool)?)
    }

    /// The image that a new guest is made from: the one it names, or that of its template.
    pub(super) fn image_of(
        &self,
        guest: &Guest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image> {
        let image = match &guest.origin {
            Origin::Template(template) => {
                storage::ensure_image(&self.layout, &self.templates()?, template, progress)?
            }
            Origin::Image(name) => storage::find_image(&self.layout, name)?,
        };
        storage::check_sound(&image)?;
        Ok(image)
    }

    /// The guest's network and its address there, taken if it has none yet. Its lock is held.
    pub(super) fn lease(
        &self,
        name: &GuestName,
        guest: &Guest,
    ) -> Result<Option<(Network, Lease)>> {
        let Some(network) = self.network_of(&guest.network)? else {
            self.lease_nics(name, guest)?;
            return Ok(None);
        };
        self.check_ports(name, &guest.network)?;
        let lease = network.lease(name, &guest.network)?;
        self.lease_nics(name, guest)?;
        Ok(Some((network, lease)))
    }

    /// What the host writes into the guest's files.
    pub(super) fn first_boot_data(
        &self,
        guest: &Guest,
        machine: &Machine,
        leased: Option<&(Network, Lease)>,
    ) -> Result<FirstBoot> {
        let (mut hosts, mut hosts6) = (Vec::new(), Vec::new());
        let refused = |error: FileError| GuestError::Network(error.into());
        if let Some((network, _)) = leased {
            hosts = network.hosts().map_err(refused)?;
            hosts6 = network.hosts6().map_err(refused)?;
        }
        let mut nics = Vec::new();
        if !guest.network.nics.is_empty() {
            let ways = leased.map(|(network, lease)| Ways::of(network, lease));
            nics = self.boot_nics(guest, ways.unwrap_or_default())?;
            for (network, _) in self.nics(&guest.name)? {
                hosts.extend(network.hosts().map_err(refused)?);
                hosts6.extend(network.hosts6().map_err(refused)?);
            }
        }
        let lease = leased.map(|(_, lease)| lease);
        let own = lease.map(|lease| lease.address);
        let ipv6 = lease.and_then(|lease| lease.ipv6.as_ref());
        let own6 = ipv6.map(|ipv6| ipv6.address);
        Ok(FirstBoot {
            hostname: guest.hostname.clone(),
            domain: guest.domain.clone(),
            address: lease.map(|lease| (lease.address, lease.prefix)),
            gateway: leased.and_then(|(network, lease)| network.gateway(lease)),
            address6: ipv6.map(|ipv6| (ipv6.address, ipv6.length)),
            gateway6: ipv6.and_then(|ipv6| ipv6.gateway),
            dns: match leased {
                Some((network, _)) => network.dns(&guest.network.dns),
                None => guest.network.dns.clone(),
            },
            hosts: hosts
                .into_iter()
                .filter(|(address, _)| {
                    Some(*address) != own && !nics.iter().any(|nic| nic.address.0 == *address)
                })
                .map(|(address, name)| (IpAddr::V4(address), name))
                .chain(
                    hosts6
                        .into_iter()
                        .filter(|(address, _)| {
                            let is =
                                |nic: &BootNic| nic.address6.is_some_and(|own| own.0 == *address);
                            Some(*address) != own6 && !nics.iter().any(is)
                        })
                        .map(|(address, name)| (IpAddr::V6(address), name)),
                )
                .collect(),
            nics,
            ssh_keys: guest.access.ssh_keys.clone(),
            root_password_hash: guest.access.root_password_hash.clone(),
            machine_id: machine.machine_id.clone(),
            timezone: guest.timezone.clone(),
        })
    }

    /// Removes what a creation that was cut short has left of a guest. Its lock is held.
    pub(super) fn discard(&self, name: &GuestName) -> Result<()> {
        if self.definition_path(name).exists() {
            return Ok(());
        }
        self.remove_files(name)?;
        self.release(name)
    }

    /// Whether what the definition names on the host is there and of the right kind.
    pub(super) fn check_host_side(&self, guest: &Guest) -> Result<()> {
        for mount in &guest.mounts {
            std::fs::metadata(&mount.source).map_err(|error| GuestError::Host {
                key: "mount.source",
                what: mount.source.display().to_string(),
                why: error.to_string(),
            })?;
        }
        self.device_numbers(guest)?;
        self.block_numbers(guest)?;
        if let Some(pool) = &guest.cpu.pool {
            self.check_cpu_pool(pool)?;
        }
        self.check_tenant(guest)
    }

    /// Kind and numbers of the devices a guest asks for.
    pub(super) fn device_numbers(&self, guest: &Guest) -> Result<Vec<(char, u64, u64)>> {
        guest
            .devices
            .iter()
            .map(|device| numbers("device.path", &device.path))
            .collect()
    }

    /// Numbers of the block devices its I/O limits name.
    pub(super) fn block_numbers(&self, guest: &Guest) -> Result<Vec<(u64, u64)>> {
        guest
            .io
            .devices
            .iter()
            .map(|limit| match numbers("io.device.device", &limit.device)? {
                ('b', major, minor) => Ok((major, minor)),
                _ => Err(GuestError::Host {
                    key: "io.device.device",
                    what: limit.device.display().to_string(),
                    why: "it is no block device".into(),
                }),
            })
            .collect()
    }
}

/// What a definition lets the guest write.
pub(super) fn quota(guest: &Guest) -> Quota {
    Quota {
        size: guest.disk.size.map(|size| size.0),
        inodes: guest.disk.inodes,
    }
}

fn numbers(key: &'static str, path: &std::path::Path) -> Result<(char, u64, u64)> {
    let wrong = |why: String| GuestError::Host {
        key,
        what: path.display().to_string(),
        why,
    };
    let stat = rustix::fs::stat(path)
        .map_err(|errno| wrong(KernelError::new("look at", path.display(), errno).to_string()))?;
    let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::CharacterDevice => 'c',
        rustix::fs::FileType::BlockDevice => 'b',
        _ => return Err(wrong("it is no device".into())),
    };
    Ok((
        kind,
        rustix::fs::major(stat.st_rdev).into(),
        rustix::fs::minor(stat.st_rdev).into(),
    ))
}
