//! Keeps networks as they are to be while others change the host's: its firewall is loaded anew and ours is
//! gone, Docker comes and shuts the way, the uplink gets another name. The kernel tells that something
//! has changed; what, each network is asked.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::error::{GuestError, Result};
use super::manager::Manager;
use super::networks::network;
use super::view::chain;
use crate::kernel::file::Lock;
use crate::kernel::interrupt;
use crate::kernel::netlink_watch::NetworkWatch;
use crate::network::{HostError, Network};

/// How long news go on that belong together: a firewall is loaded in parts.
const SETTLE: Duration = Duration::from_millis(100);
/// When what has failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How names begin that are ours: tables and bridges, guests' interfaces, what tenants' guests share, ports
/// to other hosts.
const OURS: [&str; 4] = ["bulkhead", "bh", "bt", "vx-"];

/// What was put right, or could not be.
#[derive(Debug, Serialize)]
pub struct Tended {
    /// The network.
    pub network: String,
    /// What of it.
    pub what: &'static str,
    /// Why that could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Manager {
    /// Puts right what others change of the networks until a signal asks this program to end, and tells
    /// of it; what fails is told once, and tried again.
    ///
    /// # Errors
    /// Another such process runs, or the kernel does not tell news.
    pub fn watch_networks(&self, told: &mut dyn FnMut(&Tended)) -> Result<()> {
        interrupt::catch()?;
        let path = self.layout.run().join("network-watch.lock");
        let Some(_single) = Lock::take(&path, Duration::ZERO)? else {
            return Err(GuestError::NetworksWatched);
        };
        let news = |error| network(HostError::from(error));
        let mut watch = NetworkWatch::open().map_err(news)?;
        let ours = |name: &str| OURS.iter().any(|one| name.starts_with(one));
        let mut failing = BTreeSet::new();
        while interrupt::caught().is_none() {
            let before = std::mem::take(&mut failing);
            let mut tell = |tended: Tended| {
                let known = tended.failed.as_ref().is_some_and(|why| {
                    let why = (tended.network.clone(), why.clone());
                    let known = before.contains(&why);
                    failing.insert(why);
                    known
                });
                if !known {
                    told(&tended);
                }
            };
            // With the host's settings as they are by now: a network is to be as every other command has it.
            let done = Self::open(self.layout.root()).and_then(|now| now.tend_networks(&mut tell));
            if let Err(error) = done {
                tell(tended("", "settings and records", Some(error)));
            }
            let again = (!failing.is_empty()).then_some(AGAIN);
            if watch.wait(again, &ours).map_err(news)? {
                std::thread::sleep(SETTLE);
            }
        }
        Ok(())
    }

    fn tend_networks(&self, told: &mut dyn FnMut(Tended)) -> Result<()> {
        let all = self.networks()?;
        for one in &all {
            let what = "its firewall, addresses, routes and announcements";
            match one.tend() {
                Ok(false) => {}
                done => told(tended(one.word(), what, done.err().map(network))),
            }
        }
        match Network::barred(&all) {
            // A policy that somebody else chose may be meant for guests as well.
            Ok(barred) => {
                for one in barred.iter().filter(|one| one.is_dockers()) {
                    let failed = one.open().err().map(network);
                    told(tended(one.network(), "Docker's firewall", failed));
                }
            }
            Err(error) => told(tended("", "Docker's firewall", Some(network(error)))),
        }
        Ok(())
    }
}

fn tended(network: &str, what: &'static str, failed: Option<GuestError>) -> Tended {
    Tended {
        network: network.to_owned(),
        what,
        failed: failed.map(|error| chain(&error)),
    }
}
