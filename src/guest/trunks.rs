//! What a tenant's guests receive and send together. It is led over interfaces of the host's that are
//! made with the first of them that needs it; here they go with the last one, or with the rate, and
//! what a killed command has left of them is found.

use super::error::{GuestError, Result};
use super::leftover::{Leftover, leftover, told};
use super::manager::Manager;
use super::networks::network;
use crate::kernel::fault;
use crate::model::{Guest, GuestName, Status, TenantCaps, TenantName};

impl Manager {
    /// Refuses rates that guests of a tenant would not be held to.
    pub(super) fn check_rates(
        &self,
        tenant: &TenantName,
        caps: &TenantCaps,
        guests: &[GuestName],
    ) -> Result<()> {
        if caps.rates(tenant).is_none() {
            return Ok(());
        }
        for name in guests {
            let all = self.all_leased(name)?;
            if let Some((on, _)) = all.iter().find(|(on, _)| !on.holds_back()) {
                return Err(GuestError::Tenant {
                    name: tenant.clone(),
                    why: format!(
                        "no rate can be kept for guest {name} on the network {}, where nothing of the host's is between a guest and the wire: take it from that network first",
                        on.word()
                    ),
                });
            }
        }
        Ok(())
    }

    /// Gives a guest that starts what its tenant has now. Whoever changes that from here on finds the guest
    /// among the tenant's, and waits for it.
    pub(super) fn share_rates(&self, guest: &mut Guest) -> Result<()> {
        let Some(tenant) = guest.tenant.clone() else {
            return Ok(());
        };
        let caps = self.tenant_caps(&tenant)?;
        caps.hold(guest);
        guest.network.tenant = caps.rates(&tenant);
        Ok(())
    }

    /// Takes away what its guests, which have been brought to it, do not share any more.
    pub(super) fn settle_trunks(&self, tenant: &TenantName) -> Result<()> {
        fault::point()?;
        // Another may have given it rates, and guests what they share, since they were brought to it.
        let _held = self.lock_tenant(tenant)?;
        let rates = self.tenant_caps(tenant)?.rates(tenant);
        let done = self.network.remove_trunks(tenant, rates.as_ref());
        done.map_err(network)
    }

    /// Takes away what a guest that has ended leaves, all of it if that was the last one. The tenant's
    /// lock is held.
    pub(super) fn leave_trunks(&self, tenant: &TenantName) -> Result<()> {
        let done = match self.members(tenant)?.is_empty() {
            true => self.network.remove_trunks(tenant, None),
            false => self.network.tidy_trunks(tenant),
        };
        done.map_err(network)
    }

    /// Takes away what interfaces leave that a running guest has no more.
    pub(super) fn tidy_shared(&self, guest: &Guest) -> Result<()> {
        let Some(rates) = &guest.network.tenant else {
            return Ok(());
        };
        fault::point()?;
        self.network.tidy_trunks(&rates.tenant).map_err(network)
    }

    /// Whether a tenant's rates are in force for one of its guests, if it runs and nobody is at work on it.
    pub(super) fn keeps_to_rates(
        &self,
        name: &GuestName,
        tenant: &TenantName,
        caps: &TenantCaps,
    ) -> Result<bool> {
        let Some(_lock) = self.idle(name) else {
            return Ok(true);
        };
        if !matches!(self.status(name), Ok(Status::Running | Status::Paused)) {
            return Ok(true);
        }
        let rates = caps.rates(tenant);
        for (on, lease) in self.all_leased(name)? {
            let fits = on.shares(&lease, tenant, rates.as_ref());
            if !fits.map_err(network)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What tenants share of whom no guest runs, and what is left there of interfaces that are gone.
    pub(super) fn of_trunks(&self, fix: bool, found: &mut Vec<Leftover>) -> Result<()> {
        // Of one whose record somebody has removed as well.
        let mut tenants = self.network.tenants_with_trunks().map_err(network)?;
        tenants.extend(self.tenants()?);
        for tenant in tenants {
            let standing = self.network.standing_trunks(&tenant);
            if standing.map_err(network)?.is_empty() {
                continue;
            }
            // Whoever has ended is put away under it.
            let _held = self.lock_tenant(&tenant)?;
            let left = match self.members(&tenant)?.is_empty() {
                true => self.network.standing_trunks(&tenant),
                false => self.network.untidy_trunks(&tenant),
            };
            if !left.map_err(network)?.is_empty() {
                let done = told(fix.then(|| self.leave_trunks(&tenant)));
                found.push(leftover("tenant rates", tenant.to_string(), done));
            }
        }
        Ok(())
    }
}
