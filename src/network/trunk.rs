//! What all guests of a tenant receive and send together, over all of their interfaces on whatever
//! networks: one interface of the host's for each direction, over which it is led. It is made with the
//! first port that needs it (`kernel::netlink_trunk`) and goes with the tenant's last guest; both are
//! known by the tenant's name alone.

use std::collections::BTreeSet;

use super::host::HostError;
use super::shape::bucket;
use super::{Lease, Network};
use crate::kernel::netlink::{Link, Netlink};
use crate::model::{Rate, TenantName, TenantRates, Trunk};

/// How what is said of one begins, before the tenant's name.
const WHOSE: &str = "bulkhead tenant=";

impl Network {
    /// One direction of what a tenant's guests share, if that has a rate.
    pub(super) fn trunk(&self, rates: &TenantRates, incoming: bool) -> Option<Trunk> {
        let rate = match incoming {
            true => rates.rate_in,
            false => rates.rate_out,
        };
        let tenant = &rates.tenant;
        Some(Trunk {
            name: self.layout.tenant_trunk(tenant, incoming),
            whose: self.whose(tenant),
            bucket: bucket(rate?, None),
        })
    }

    fn whose(&self, tenant: &TenantName) -> String {
        format!("{WHOSE}{tenant}{}", self.root_note(60))
    }

    /// Whether there is one of that name which is not another tenant's: one that was cut short says of
    /// nobody.
    fn own_trunk(
        &self,
        kernel: &mut Netlink,
        tenant: &TenantName,
        name: &str,
    ) -> Result<bool, HostError> {
        let link = kernel.link(name)?;
        Ok(link.is_some_and(|link| {
            let said = link.alias.unwrap_or_default();
            said.is_empty() || said == self.whose(tenant)
        }))
    }

    fn trunks(&self, tenant: &TenantName) -> [String; 2] {
        [true, false].map(|incoming| self.layout.tenant_trunk(tenant, incoming))
    }

    /// Tenants of whom there are such interfaces, whether anything else is known of them or not.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn tenants_with_trunks(&self) -> Result<BTreeSet<TenantName>, HostError> {
        let links = Netlink::open()?.links("")?;
        let whose = |link: &Link| {
            let said = link.alias.as_deref()?.strip_prefix(WHOSE)?;
            let tenant: TenantName = said.split(' ').next()?.parse().ok()?;
            // It may be another installation's.
            self.trunks(&tenant).contains(&link.name).then_some(tenant)
        };
        Ok(links.iter().filter_map(whose).collect())
    }

    /// Removes what is left there of interfaces that are gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tidy_trunks(&self, tenant: &TenantName) -> Result<(), HostError> {
        let mut kernel = Netlink::open()?;
        for name in self.trunks(tenant) {
            kernel.left_in_trunk(&name, true)?;
        }
        Ok(())
    }

    /// Removes what a tenant's guests share, in the directions that have no rate. No running guest may be
    /// led over it any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_trunks(
        &self,
        tenant: &TenantName,
        rates: Option<&TenantRates>,
    ) -> Result<(), HostError> {
        let mut kernel = Netlink::open()?;
        for incoming in [true, false] {
            let name = self.layout.tenant_trunk(tenant, incoming);
            if rate_of(rates, incoming).is_none() && self.own_trunk(&mut kernel, tenant, &name)? {
                kernel.delete_link(&name)?;
            }
        }
        Ok(())
    }

    /// Those that are there.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn standing_trunks(&self, tenant: &TenantName) -> Result<Vec<String>, HostError> {
        let mut kernel = Netlink::open()?;
        let mut there = Vec::new();
        for name in self.trunks(tenant) {
            if self.own_trunk(&mut kernel, tenant, &name)? {
                there.push(name);
            }
        }
        Ok(there)
    }

    /// Those in which something is left of interfaces that are gone.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn untidy_trunks(&self, tenant: &TenantName) -> Result<Vec<String>, HostError> {
        let mut kernel = Netlink::open()?;
        let mut all = Vec::new();
        for name in self.trunks(tenant) {
            if kernel.left_in_trunk(&name, false)? > 0 {
                all.push(name);
            }
        }
        Ok(all)
    }

    /// Whether a tenant's rates are in force for the interface of one of its guests that run; true where
    /// the host has no end of it.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn shares(
        &self,
        lease: &Lease,
        tenant: &TenantName,
        rates: Option<&TenantRates>,
    ) -> Result<bool, HostError> {
        let mut kernel = Netlink::open()?;
        let port = &lease.host_interface;
        if !self.holds_back() || kernel.link(port)?.is_none() {
            return Ok(true);
        }
        for incoming in [true, false] {
            let wanted = rate_of(rates, incoming).map(|rate| bucket(rate, None).rate);
            let name = self.layout.tenant_trunk(tenant, incoming);
            let trunk = match self.own_trunk(&mut kernel, tenant, &name)? {
                true => kernel.link(&name)?.map(|link| link.index),
                false => None,
            };
            let rate = trunk.map(|_| kernel.trunk_rate(&name)).transpose()?;
            let over = kernel.led_over(port, incoming)?;
            // What is led over one that is gone gets nowhere, and the kernel tells no number.
            let led = trunk.map_or(over != Some(0), |_| over == trunk);
            if rate.flatten() != wanted || !led {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn rate_of(rates: Option<&TenantRates>, incoming: bool) -> Option<Rate> {
    let rates = rates?;
    match incoming {
        true => rates.rate_in,
        false => rates.rate_out,
    }
}
