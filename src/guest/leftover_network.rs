//! What commands that died have left of guests' networks: interfaces, entries of the firewall, leases,
//! and networks themselves. Everything else is `leftover.rs`, which asks here.

use std::os::fd::AsFd;

use super::error::Result;
use super::leftover::{Leftover, leftover, told};
use super::manager::Manager;
use super::networks::{network, stays};
use super::nics::{is_plugged, keeps, wish_of};
use crate::model::{Guest, GuestName, Level, Status};
use crate::network::{FileError, LeaseError, Network};

impl Manager {
    /// What is left on the host's side of all networks. False when the leases of one are damaged:
    /// without them nothing can be said of interfaces and addresses.
    pub(super) fn of_networks(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<bool> {
        for (path, why) in self.network.damaged().map_err(network)? {
            let mut damaged = leftover("damaged file", path.display().to_string(), None);
            damaged.why = Some(why);
            found.push(damaged);
        }
        for folder in self.network.stray_folders().map_err(network)? {
            let remove = || self.network.remove_stray_folder(&folder).map_err(network);
            let done = told(fix.then(remove));
            found.push(leftover("file", folder.display().to_string(), done));
        }
        for gone in self.network.vanished().map_err(network)? {
            let remove = || self.network.remove_vanished(&gone).map_err(network);
            let done = told(fix.then(remove));
            found.push(leftover("vanished installation", gone.to_string(), done));
        }
        let all = self.networks()?;
        for one in &all {
            if !self.book_is_whole(one, fix, found)? {
                return Ok(false);
            }
        }
        for one in &all {
            // First: whatever else is asked of it is asked by name.
            for renamed in one.renamed().map_err(network)? {
                let again = || one.name_again().map(drop).map_err(network);
                let done = told(fix.then(again));
                found.push(leftover("renamed interface", renamed.to_string(), done));
            }
            self.interfaces(one, fix, found)?;
            if let Some(away) = self.astray(one)? {
                let back = || one.bring_back(&away, None).map(drop).map_err(network);
                let done = told(fix.then(back));
                found.push(leftover("interface", one.bridge().to_owned(), done));
            }
            if one.is_open().map_err(network)? {
                let close = || one.ensure_host().map(drop).map_err(network);
                let bridge = one.bridge().to_owned();
                let done = told(fix.then(close));
                found.push(leftover("bridge without its firewall", bridge, done));
            }
            if !one.announces_right().map_err(network)? {
                let again = || one.announce_again().map_err(network);
                let word = one.word().to_owned();
                found.push(leftover("announcement", word, told(fix.then(again))));
            }
            if let Some(wrong) = one.wrong_bridge().map_err(network)? {
                let again = || one.reload().map(drop).map_err(network);
                let bridge = one.bridge().to_owned();
                found.push(leftover(wrong, bridge, told(fix.then(again))));
            }
            for (guest, lease) in one.unreached().map_err(network)? {
                // One that is just being started, or put away, is another command's.
                let Some(_lock) = self.idle(&guest) else {
                    continue;
                };
                // It may have been so when it was looked at first.
                let still = one.unreached().map_err(network)?;
                if !still.iter().any(|(other, _)| *other == guest) {
                    continue;
                }
                let again = || one.lead_again(&lease).map_err(network);
                found.push(leftover("route", guest.to_string(), told(fix.then(again))));
            }
            self.of_server(one, fix, found)?;
            for entry in one.stale_entries().map_err(network)? {
                let remove = || one.remove_entry(&entry).map_err(network);
                let done = told(fix.then(remove));
                found.push(leftover("firewall entry", entry.to_string(), done));
            }
        }
        for (one, chains) in Network::thinned(&all).map_err(network)? {
            let again = || one.reload().map(drop).map_err(network);
            let text = format!("{}: {}", one.word(), chains.join(", "));
            found.push(leftover(
                "firewall without rules",
                text,
                told(fix.then(again)),
            ));
        }
        for barred in Network::barred(&all).map_err(network)? {
            let open = || barred.open().map_err(network);
            let text = barred.to_string();
            found.push(leftover("shut firewall", text, told(fix.then(open))));
        }
        Ok(true)
    }

    /// What a guest has on its network and should not have. Its lock is held.
    pub(super) fn of_address(
        &self,
        name: &GuestName,
        status: Status,
        fix: bool,
        found: &mut Vec<Leftover>,
    ) -> Result<()> {
        let Ok(all) = self.all_leased(name) else {
            return Ok(());
        };
        if all.is_empty() && status == Status::Stopped {
            return Ok(());
        }
        if self.trashed(name).is_some() {
            if all.is_empty() {
                return Ok(());
            }
            let done = fix.then(|| self.give_up_address(name));
            found.push(leftover("address", name.to_string(), told(done)));
            return Ok(());
        }
        let Ok(guest) = self.guest(name) else {
            return Ok(());
        };
        // It moved to another network, and nobody has freed what it had.
        if status == Status::Stopped && !self.elsewhere(name, &guest.network)?.is_empty() {
            let done = fix.then(|| self.release_others(name, &guest.network));
            found.push(leftover("address", name.to_string(), told(done)));
            return Ok(());
        }
        // A change of its network that was cut short before its definition had it. What its allowance
        // has in force its keeper sees to, and the next start of one that is stopped.
        let guest = self.in_force(name, guest);
        if matches!(status, Status::Running | Status::Paused) && self.nics_astray(name, &guest)? {
            let settle = || {
                self.plug_nics(name, &guest)?;
                self.follow_nics(name, &guest.network)?;
                self.release_nics(name, &guest.network)
            };
            found.push(leftover(
                "interfaces",
                name.to_string(),
                told(fix.then(settle)),
            ));
        }
        let Ok(Some((on, _))) = self.leased(name) else {
            return Ok(());
        };
        let cut = guest.network.clone().at(Level::Cut);
        if let Ok(Some(held)) = on.held(name)
            && stays(&on, &guest.network)
            && (&held.forwards, &held.firewall, held.ceilings)
                != (
                    &guest.network.forwards,
                    &guest.network.firewall,
                    on.part_of_ceilings(&guest.network),
                )
            && !(guest.network.allowance.cut.is_some()
                && held.firewall == cut.firewall
                && held.ceilings == on.part_of_ceilings(&cut))
        {
            let kind = match held.forwards == guest.network.forwards {
                true => "firewall rules",
                false => "ports",
            };
            let follow = || self.follow(name, &guest.network);
            found.push(leftover(kind, name.to_string(), told(fix.then(follow))));
        }
        Ok(())
    }

    /// Further interfaces of a guest that are not as its definition says, if it runs: a command died.
    fn nics_astray(&self, name: &GuestName, guest: &Guest) -> Result<bool> {
        let had = self.nics(name)?;
        if had.is_empty() && guest.network.nics.is_empty() {
            return Ok(false);
        }
        let Some(inside) = self.netns(name)? else {
            return Ok(false);
        };
        let cut = guest.network.clone().at(Level::Cut);
        let mut known = 0;
        for (network, lease) in &had {
            let Some(wish) = wish_of(lease, &guest.network) else {
                return Ok(true);
            };
            let held = network.held(name).map_err(LeaseError::from)?;
            let held = held.unwrap_or_default();
            let cut = wish_of(lease, &cut).is_some_and(|cut| cut.firewall == held.firewall);
            if !keeps(network, lease, &guest.network)
                || !(held.firewall == wish.firewall || cut)
                || held.ceilings != network.part_of_ceilings(&wish)
                || !lease.fits(&wish)
                || !is_plugged(network, lease, inside.as_fd())?
            {
                return Ok(true);
            }
            known += 1;
        }
        Ok(known < guest.network.nics.len())
    }

    /// The book of leases of a network; written anew, with `fix`, from what is known of each guest beside it.
    fn book_is_whole(&self, on: &Network, fix: bool, found: &mut Vec<Leftover>) -> Result<bool> {
        let Err(LeaseError::File(FileError::Damaged { path, .. })) = on.check() else {
            return Ok(true);
        };
        let rebuild = || {
            let mut known = Vec::new();
            for name in self.all_names()? {
                let Ok(guest) = self.guest(&name) else {
                    continue;
                };
                if self.trashed(&name).is_some() {
                    continue;
                }
                let nics = guest.network.nics.iter();
                let mut nics = nics.filter(|nic| nic.network.to_string() == on.word());
                if let Some(nic) = nics.next() {
                    let written = self.written(&name);
                    let written = written.and_then(|w| w.nics.get(nic.name.as_str()).copied());
                    let mut wish = nic.wish_within(&guest.network);
                    wish.address = wish.address.or(written);
                    known.push((name, wish));
                } else if guest.network.kind.to_string() == on.word() {
                    let written = self.written(&name).and_then(|written| written.address);
                    let mut wish = guest.network;
                    wish.address = wish.address.or(written);
                    known.push((name, wish));
                }
            }
            on.rebuild(&known).map_err(network)
        };
        let done = told(fix.then(rebuild));
        let whole = matches!(done, Some(Ok(())));
        found.push(leftover("damaged file", path.display().to_string(), done));
        Ok(whole)
    }

    /// Interfaces of guests that do not run, and of nobody.
    fn interfaces(&self, on: &Network, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        let strays = on.leftovers(&[]).map_err(network)?;
        for stray in strays {
            let mut lock = None;
            if let Some(guest) = &stray.guest {
                lock = self.idle(guest);
                let runs = !matches!(
                    self.status(guest),
                    Ok(Status::Stopped | Status::Creating) | Err(_)
                );
                if lock.is_none() || runs {
                    continue;
                }
            }
            // Of one that has just ended: its keeper, and then the kernel, let go of it in a moment.
            if on.goes_by_itself(&stray).map_err(network)? {
                continue;
            }
            let remove = || on.remove_leftover(&stray).map_err(network);
            let done = told(fix.then(remove));
            found.push(leftover("interface", stray.interface.clone(), done));
            drop(lock);
        }
        Ok(())
    }
}
