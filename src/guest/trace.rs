//! `network trace`: why a packet of a guest's does or does not pass. What the network does to it is told
//! by the network room; whether there is a guest to send or take it, here.

use std::os::fd::AsFd;

use super::allowance::level_of;
use super::error::Result;
use super::manager::Manager;
use super::networks::network;
use crate::kernel::namespace;
use crate::model::{GuestName, Level, NetworkKind, Status};
use crate::network::{Asked, Hop, Question, Verdict};

impl Manager {
    /// Follows a packet from or to a guest through every place that it comes by, to the one where it
    /// ends.
    ///
    /// # Errors
    /// There is no such guest, or the kernel or `nft` does not tell.
    pub fn trace(&self, name: &GuestName, question: Question) -> Result<Vec<Hop>> {
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
        let Some((where_it_is, lease)) = self.leased(name)? else {
            return Ok(vec![without(&guest.network.kind, name)]);
        };
        let inside = namespace::open(init.pid, "net")?;
        // Another process may have the number by now.
        if !init.lives() {
            let hop = Hop::new("guest", Verdict::Stops, "it has just ended");
            return Ok(vec![hop]);
        }
        let month = self.month(name, &guest.network.allowance)?;
        let guest = self.in_force(name, guest);
        let asked = Asked {
            guest: name,
            lease: &lease,
            wish: &guest.network,
            cut: level_of(month.as_ref()) == Level::Cut,
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
