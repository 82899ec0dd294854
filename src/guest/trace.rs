//! `network trace`: why a packet of a guest's does or does not pass. What the network does to it is told
//! by the network room; whether there is a guest to send or take it, here.

use std::os::fd::AsFd;

use super::allowance::level_of;
use super::error::Result;
use super::manager::Manager;
use super::networks::network;
use super::nics::wish_of;
use crate::kernel::namespace;
use crate::model::{GuestName, Level, NetworkKind, NicName, Status};
use crate::network::{Asked, Hop, Lease, LeaseError, Network, Question, Verdict};

impl Manager {
    /// Follows a packet from or to a guest through every place that it comes by, to the one where it
    /// ends; over its first interface, or a further one.
    ///
    /// # Errors
    /// There is no such guest, or the kernel or `nft` does not tell.
    pub fn trace(
        &self,
        name: &GuestName,
        nic: Option<&NicName>,
        question: Question,
    ) -> Result<Vec<Hop>> {
        let status = self.status(name)?;
        let init = self.run_state(name)?.and_then(|state| state.init);
        let (Status::Running | Status::Paused, Some(init)) = (status, init) else {
            let hop = Hop::new(
                "guest",
                Verdict::Stops,
                format!("it does not run ({status})"),
            );
            return Ok(vec![hop.advise(format!("bulkhead start {name}"))]);
        };
        let guest = self.guest(name)?;
        let Some((where_it_is, lease)) = self.leased_over(name, nic)? else {
            return Ok(vec![match nic {
                None => without(&guest.network.kind, name),
                Some(nic) => without_nic(nic, name),
            }]);
        };
        let inside = namespace::open(init.pid, "net")?;
        // Another process may have the number by now.
        if !init.lives() {
            let hop = Hop::new("guest", Verdict::Stops, "it has just ended");
            return Ok(vec![hop]);
        }
        let month = self.month(name, &guest.network.allowance)?;
        let guest = self.in_force(name, guest);
        let further = wish_of(&lease, &guest.network);
        let led = match where_it_is.is_told(question) {
            true => None,
            false => self.led_by(question)?,
        };
        let asked = Asked {
            guest: name,
            lease: &lease,
            wish: further.as_ref().unwrap_or(&guest.network),
            cut: level_of(month.as_ref()) == Level::Cut,
            led: led.as_ref().map(|(guest, port)| (guest, *port)),
            question,
        };
        let mut hops = where_it_is.trace(&asked, inside.as_fd()).map_err(network)?;
        if status == Status::Paused {
            let hop = Hop::new(
                "guest",
                Verdict::Note,
                "it is paused, so it neither asks nor answers",
            );
            hops.insert(0, hop.advise(format!("bulkhead resume {name}")));
        }
        Ok(hops)
    }

    /// The guest, and its port, that the port of the host leads to that is asked for.
    fn led_by(&self, question: Question) -> Result<Option<(GuestName, u16)>> {
        for one in self.networks()? {
            let led = one.led_by(question).map_err(LeaseError::from)?;
            if led.is_some() {
                return Ok(led);
            }
        }
        Ok(None)
    }

    /// Where a guest has its address on its first interface, or a further one.
    fn leased_over(
        &self,
        name: &GuestName,
        nic: Option<&NicName>,
    ) -> Result<Option<(Network, Lease)>> {
        let Some(nic) = nic else {
            return self.leased(name);
        };
        let mut all = self.nics(name)?.into_iter();
        Ok(all.find(|(_, lease)| lease.nic.as_ref() == Some(nic)))
    }
}

/// A guest that has no such interface.
fn without_nic(nic: &NicName, name: &GuestName) -> Hop {
    let why = format!("it has no further interface {nic} that has an address");
    Hop::new("guest", Verdict::Stops, why).advise(format!("bulkhead nic list {name}"))
}

/// A guest that has no address.
fn without(kind: &NetworkKind, name: &GuestName) -> Hop {
    let why = match kind {
        NetworkKind::Host => {
            "its network is the host's own (network.kind is host): what holds for the host holds for it"
        }
        NetworkKind::None => "it has no network but itself (network.kind is none)",
        NetworkKind::Bridge | NetworkKind::Named(_) => "it has no address yet",
    };
    let hop = Hop::new("guest", Verdict::Stops, why);
    match kind {
        NetworkKind::Bridge | NetworkKind::Named(_) => {
            hop.advise(format!("bulkhead restart {name}"))
        }
        _ => hop.advise(format!("bulkhead set {name} --network bridge")),
    }
}
