//! Changing a definition: on a stopped guest in the file, on a running one in force and in the file,
//! or not at all.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::admission::Admission;
use super::allowance::level_of;
use super::create::quota;
use super::error::{GuestError, Result};
use super::manager::Manager;
use super::products;
use super::resize::{self, InForce};
use crate::define::{self, Change, KeyPath};
use crate::kernel::file::Lock;
use crate::kernel::{fault, file};
use crate::model::{EventKind, Guest, GuestName, Status};
use crate::{plan, storage};

/// What a change did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Keys in force at once.
    pub applied: Vec<String>,
    /// Keys that wait for the next start.
    pub waiting: Vec<String>,
}

impl Manager {
    /// Makes changes to a guest's definition. The kernel is asked first: if it refuses a new limit,
    /// the old one stays in force and in the file. With `force` a running guest is guaranteed more than
    /// there is room for, where the host lets anybody go so far.
    ///
    /// # Errors
    /// A value is wrong, or the kernel refuses it; nothing has changed then.
    pub fn change(
        &self,
        name: &GuestName,
        changes: &[(KeyPath, Change)],
        force: bool,
        dry_run: bool,
    ) -> Result<Changed> {
        let _lock = self.lock(name, "set")?;
        self.settle_root(name)?;
        let text = define::edit(&self.definition_text(name)?, changes)?;
        let keys = changes
            .iter()
            .map(|(path, _)| (path.to_string(), path.key.live));
        let admission = match force {
            true => Admission::Forced,
            false => Admission::Asked,
        };
        self.replace(name, &text, keys.collect(), admission, dry_run)
    }

    /// Puts a whole new text in place of a guest's definition (`edit`).
    ///
    /// # Errors
    /// As [`Manager::change`].
    pub fn replace_definition(&self, name: &GuestName, text: &str) -> Result<Changed> {
        let _lock = self.lock(name, "edit")?;
        self.settle_root(name)?;
        let (old, new) = (self.guest(name).ok(), self.define(name, text)?);
        let differs = |key: &&'static define::Key| match &old {
            Some(old) => define::get(old, key.path).ok() != define::get(&new, key.path).ok(),
            None => true,
        };
        let keys = define::KEYS
            .iter()
            .filter(differs)
            .map(|key| (key.path.to_owned(), key.live));
        self.replace(name, text, keys.collect(), Admission::Asked, false)
    }

    fn replace(
        &self,
        name: &GuestName,
        text: &str,
        keys: Vec<(String, bool)>,
        admission: Admission,
        dry_run: bool,
    ) -> Result<Changed> {
        let guest = self.define(name, text)?;
        plan::spec::supported(&guest, &self.facts)?;
        self.check_host_side(&guest)?;
        if let Ok(before) = self.guest(name)
            && before.origin != guest.origin
        {
            return Err(GuestError::Fixed {
                name: name.clone(),
                made_from: before.origin.to_string(),
            });
        }
        let said = keys.iter().any(|(key, _)| key == "disk.size");
        let _sold = self.check_disk(name, &guest, said)?;
        if let Ok(before) = self.guest(name) {
            resize::check(&before, &guest)?;
        }
        let status = self.status(name)?;
        let runs = matches!(status, Status::Running | Status::Paused);
        let kept = self.kept_until_start(name, &guest)?;
        let waits = |key: &str| resize::waits(&guest, key) && kept.differs(&guest, key);
        let (applied, waiting): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|(key, live)| (*live && !waits(key)) || !runs);
        let just_names = |list: Vec<(String, bool)>| list.into_iter().map(|(key, _)| key).collect();
        let changed = Changed {
            applied: just_names(applied),
            waiting: just_names(waiting),
        };
        if let Some(network) = self.network_of(&guest.network)?
            && (guest.network.address.is_some()
                || guest.network.mac.is_some()
                || guest.network.address6.is_some()
                || !guest.network.forwards.is_empty()
                || !network.holds_back())
        {
            self.check_ports(name, &guest.network)?;
            network.preview(name, &guest.network)?;
        }
        self.check_nics(name, &guest, runs)?;
        if dry_run {
            if runs {
                let (guest, _) = self.now_and_later(name, &guest)?;
                self.check_promise(&guest, admission)?;
            }
            return Ok(changed);
        }
        // A change of the allowance may change what is in force of the rest.
        let month = self.month(name, &guest.network.allowance).ok();
        let level = month.as_ref().map(|month| level_of(month.as_ref()));
        let guest = self.in_force(name, guest);
        let old = self.guest(name).ok().map(|old| self.in_force(name, old));
        let promised = |old: &Guest| {
            let product = |guest: &Guest| guest.labels.get(products::LABEL).cloned();
            old.disk == guest.disk
                && old.cpu == guest.cpu
                && old.tenant == guest.tenant
                && product(old) == product(&guest)
        };
        let other_promise = !old.as_ref().is_some_and(promised);
        let mut held = None;
        let done = if runs {
            let (mut now, in_force) = self.now_and_later(name, &guest)?;
            held = self.promise(&mut now, in_force, admission)?;
            self.apply(name, &now)
        } else {
            Ok(())
        };
        let done = done.and_then(|()| {
            if other_promise {
                // Until now it was promised what it had.
                self.keep_account(name, None);
            }
            // Said again it is made so, if something has become of it meanwhile.
            let said = changed.applied.iter().any(|key| key == "disk.size");
            let differs = || {
                let differs = storage::disk_differs(&self.layout, name, quota(&guest));
                !matches!(differs, Ok(None))
            };
            if old.as_ref().is_none_or(|old| old.disk != guest.disk) || said && differs() {
                self.resize(name, &guest)?;
            }
            let same = |old: &Guest| {
                old.network.forwards == guest.network.forwards
                    && old.network.firewall == guest.network.firewall
                    && old.network.ceilings == guest.network.ceilings
                    && old.network.nics == guest.network.nics
            };
            // Nobody may have looked since its allowance was used up, or began anew.
            let stale = level.is_some_and(|level| level != self.told(name));
            if stale || !old.as_ref().is_some_and(same) {
                fault::point()?;
                self.follow(name, &guest.network)?;
            }
            fault::point()?;
            file::write_whole(&self.definition_path(name), text.as_bytes(), 0o600)?;
            // What is in force until its next start may have some still.
            if let Ok(now) = self.as_it_runs(name) {
                self.forget_credits(name, &now);
            }
            Ok(())
        });
        if let Err(error) = done {
            if let Some(old) = &old {
                // All was so a moment ago; the error that matters is the one above.
                let _same = self.follow(name, &old.network);
                if old.disk != guest.disk {
                    let _same = self.resize(name, old);
                }
            }
            if let Some(held) = &held {
                let _same = self.hold_promise(name, held);
            }
            if let (true, Some(old)) = (runs, old) {
                let network = old.network.clone();
                let _same = self.apply_again(name, old);
                let _later = self.release_nics(name, &network);
            }
            return Err(error);
        }
        let elsewhere = |old: Guest| {
            old.network.kind != guest.network.kind || old.network.nics != guest.network.nics
        };
        if runs {
            // The same holds for an address that this leaves.
            let _later = self.release_nics(name, &guest.network);
        } else if old.is_none_or(elsewhere) {
            // What this leaves, `doctor` names, and the next start frees.
            let _later = self.release_others(name, &guest.network);
        }
        if other_promise {
            self.keep_account(name, None);
        }
        let mut keys = changed.applied.clone();
        keys.extend(changed.waiting.clone());
        // It is changed; a full disk must not make that an error.
        let _lost = self.record(name, EventKind::Changed { keys });
        if let (true, Some(month)) = (runs, month) {
            let _lost = self.tell_allowance(name, month.as_ref());
        }
        Ok(changed)
    }

    /// A running guest as it is to be at once, and what of it stays as it was until its next start.
    fn now_and_later(&self, name: &GuestName, new: &Guest) -> Result<(Guest, InForce)> {
        let in_force = self.kept_until_start(name, new)?;
        let mut now = in_force.of(new.clone());
        // What waits is of the definition; what the tenant has now holds for what is in force.
        self.held_by_tenant(name, &mut now);
        now.cpu.held_to = self.held_by_credits(name, &now);
        Ok((now, in_force))
    }

    fn kept_until_start(&self, name: &GuestName, new: &Guest) -> Result<InForce> {
        let before = self.run_state(name)?.map(|state| state.in_force);
        let old = self.guest(name).ok();
        Ok(before.unwrap_or_default().after(old.as_ref(), new))
    }

    /// Brings a running guest back to what its definition says, and its run state.
    fn apply_again(&self, name: &GuestName, guest: Guest) -> Result<()> {
        let state = self.run_state(name)?;
        let mut guest =
            state.map_or_else(|| guest.clone(), |state| state.in_force.of(guest.clone()));
        self.held_by_tenant(name, &mut guest);
        guest.cpu.held_to = self.held_by_credits(name, &guest);
        self.apply(name, &self.seated(guest)?)
    }

    /// What of a disk is chosen once, and whether there is room for a larger one, which nobody else is
    /// sold until what is returned is dropped. `said` is whether its size was.
    fn check_disk(&self, name: &GuestName, guest: &Guest, said: bool) -> Result<Option<Lock>> {
        let Ok(before) = self.guest(name) else {
            return Ok(None);
        };
        let fixed = |key, why: &str| GuestError::Chosen {
            name: name.clone(),
            key,
            why: why.into(),
        };
        if before.disk.pool != guest.disk.pool {
            return Err(fixed(
                "disk.pool",
                "its root lies there: make a copy in the other pool (`bulkhead clone --full --pool POOL`)",
            ));
        }
        if before.disk.inodes != guest.disk.inodes {
            return Err(fixed("disk.inodes", "its filesystem was made so"));
        }
        if before.disk.size != guest.disk.size {
            storage::check_resize(&self.layout, name, quota(guest))
                .map_err(|error| self.root_error(name, error))?;
        }
        self.sell_disk(guest, self.disk_had(&before, said))
    }

    fn resize(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        storage::resize_root(&self.layout, name, quota(guest))
            .map_err(|error| self.root_error(name, error))
    }

    /// An error of a guest's root, as what it means for the guest.
    pub(super) fn root_error(&self, name: &GuestName, error: storage::RootError) -> GuestError {
        match error {
            storage::RootError::Pool(error) => error.into(),
            error => GuestError::Root {
                name: name.clone(),
                source: error.into(),
            },
        }
    }

    /// Brings a running guest to what its definition has in force. Its lock is held.
    pub(super) fn reapply(&self, name: &GuestName) -> Result<()> {
        if !matches!(self.status(name)?, Status::Running | Status::Paused) {
            return Ok(());
        }
        let guest = self.seated(self.as_it_runs(name)?)?;
        self.apply(name, &guest)
    }

    /// Brings the limits of a running guest to what its new definition says, all or none.
    fn apply(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        let Some(mut group) = self.group(name)? else {
            return Ok(());
        };
        let done = group.update(&self.limits_of(guest)?)?;
        self.reweigh_tenant(name)?;
        if let Some(state) = self.run_state(name)? {
            self.settle_portion_of(&state)?;
        }
        let kept =
            |file: &std::path::Path| file.ends_with("memory.min") || file.ends_with("memory.low");
        if done.iter().any(|one| kept(&one.file)) {
            let tenant = self.run_state(name)?.and_then(|state| state.tenant);
            self.hold_memory(tenant.as_ref())?;
        }
        self.change_port(name, guest)?;
        self.plug_nics(name, guest)?;
        self.tidy_shared(guest)?;
        self.write_orders(name, guest)?;
        // It looks anew at what the guest's own files of /proc are to say.
        let _none_yet = self.call_keeper(name);
        Ok(())
    }

    /// Keeps a running guest apart from others, or not, and to its rates.
    pub(super) fn change_port(&self, name: &GuestName, guest: &Guest) -> Result<()> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| GuestError::Network(error);
        fault::point()?;
        self.change_nics(name, guest)?;
        match self.leased(name)? {
            Some((network, lease)) => {
                network
                    .isolate(&lease, guest.network.isolated_ports)
                    .map_err(|e| failed(e.into()))?;
                fault::point()?;
                network
                    .reshape(&lease, &guest.network)
                    .map_err(|e| failed(e.into()))
            }
            None => Ok(()),
        }
    }

    /// Waits until a guest is `running`, `stopped`, has an address (`ip`), or is `ready`: its init
    /// has finished starting (systemd says so; others count as ready when they run).
    ///
    /// # Errors
    /// The time is up, or it can never come to be.
    pub fn wait(&self, name: &GuestName, until: Until, limit: Option<Duration>) -> Result<()> {
        let deadline = limit.map(|limit| Instant::now() + limit);
        // One deleted meanwhile has stopped; a name that was wrong from the start has not.
        self.status(name)?;
        let mut pause = Duration::from_millis(5);
        loop {
            if self.is(name, until)? {
                return Ok(());
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                let status = self.status(name)?;
                return Err(GuestError::TimedOut(format!(
                    "guest {name} is {status}, and the time to wait for it is up"
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn is(&self, name: &GuestName, until: Until) -> Result<bool> {
        let status = match self.status(name) {
            Err(GuestError::Missing { .. }) if until == Until::Stopped => return Ok(true),
            status => status?,
        };
        let runs = status == Status::Running;
        Ok(match until {
            Until::Running => runs,
            // Until its keeper has put it away it may start again, and how it ended is not written.
            Until::Stopped => {
                let put_away = !self.state_path(name).exists() || !self.has_keeper(name);
                status == Status::Stopped && put_away
            }
            Until::Address => runs && self.leased(name)?.is_some(),
            Until::Address6 => {
                runs && self
                    .leased(name)?
                    .is_some_and(|(_, lease)| lease.ipv6.is_some())
            }
            Until::Ready => runs && self.is_ready(name),
        })
    }

    /// systemd makes /run/systemd/system early and answers `systemctl` only when it has started.
    fn is_ready(&self, name: &GuestName) -> bool {
        let systemd = self
            .machine(name)
            .ok()
            .and_then(|machine| crate::storage::load_image(&self.layout, &machine.image).ok())
            .is_some_and(|image| image.init == crate::storage::InitKind::Systemd);
        if !systemd {
            return true;
        }
        let request = super::exec::ExecRequest {
            argv: ["systemctl", "is-system-running", "--quiet"]
                .map(str::to_owned)
                .to_vec(),
            timeout: Some(Duration::from_secs(10)),
            terminal: Some(false),
            quiet: true,
            ..Default::default()
        };
        // "degraded" has started as well: some unit failed, and that is the guest's business.
        matches!(self.exec(name, &request), Ok(0)) || self.is_degraded(name)
    }

    fn is_degraded(&self, name: &GuestName) -> bool {
        let request = super::exec::ExecRequest {
            argv: [
                "sh",
                "-c",
                "test \"$(systemctl is-system-running)\" = degraded",
            ]
            .map(str::to_owned)
            .to_vec(),
            timeout: Some(Duration::from_secs(10)),
            terminal: Some(false),
            quiet: true,
            ..Default::default()
        };
        matches!(self.exec(name, &request), Ok(0))
    }
}

/// What [`Manager::wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It runs.
    Running,
    /// It has started all it starts.
    Ready,
    /// It runs and has an address.
    Address,
    /// It runs and has one of IPv6.
    Address6,
    /// It does not run.
    Stopped,
}
