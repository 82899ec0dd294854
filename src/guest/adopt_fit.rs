//! What of a newcomer only this host can answer: the size of its disk, whether containers may be made in it,
//! its networks and its addresses. Each is tried by itself; what this host cannot give is told with the
//! reason, and keeps nothing else from being taken.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::create::quota;
use super::error::Result;
use super::import::ImportWish;
use super::manager::Manager;
use super::view::chain;
use crate::define::{self, KeyPath};
use crate::model::{Guest, GuestName, Mac, NetworkKind, NetworkWish, NicName};
use crate::network::{LeaseError, Network};
use crate::storage::{Card, Told};

/// Keys that are tried on this host.
pub(super) const TRIED: &[&str] = &["disk.size", "disk.inodes", "security.nesting"];

/// A definition in the making.
pub(super) struct Fit<'a> {
    manager: &'a Manager,
    name: &'a GuestName,
    wish: &'a ImportWish,
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// What of an interface a network gives.
struct Given {
    network: NetworkKind,
    address: Option<Ipv4Addr>,
    address6: Option<Ipv6Addr>,
    mac: Option<Mac>,
}

impl<'a> Fit<'a> {
    pub(super) fn new(
        manager: &'a Manager,
        name: &'a GuestName,
        wish: &'a ImportWish,
        text: String,
        notes: Vec<String>,
    ) -> Self {
        Self {
            manager,
            name,
            wish,
            text,
            notes,
        }
    }

    /// Takes of a newcomer what there is for it here.
    pub(super) fn all(&mut self, told: &Told) -> Result<()> {
        for key in TRIED {
            let value = told.settings.iter().rev().find(|(path, _)| path == key);
            if let Some((_, value)) = value.filter(|_| !self.says(key)) {
                self.tried(key, value);
            }
        }
        let mut cards = told.cards.iter();
        if let Some(card) = cards.next() {
            self.first(card)?;
        }
        cards.try_for_each(|card| self.further(card))
    }

    /// Whether who imports says something of a key.
    fn says(&self, path: &str) -> bool {
        let mut changes = self.wish.changes.iter();
        changes.any(|(key, _)| key.key.path == path)
    }

    fn guest(&self) -> Result<Guest> {
        self.manager.define(self.name, &self.text)
    }

    fn tried(&mut self, path: &str, value: &str) {
        if path == "security.nesting" && !self.wish.trust {
            self.notes.push(
                "nesting (containers inside) is not taken, since it reaches beyond the guest: --trust takes it"
                    .into(),
            );
            return;
        }
        let done = self.set(path, value).and_then(|text| {
            let guest = self.manager.define(self.name, &text)?;
            crate::plan::spec::supported(&guest, &self.manager.facts)?;
            let pool = self.manager.pool_of(&guest)?;
            pool.driver_for(&self.manager.layout, quota(&guest))?;
            Ok(text)
        });
        match done {
            Ok(text) => self.text = text,
            Err(error) => {
                let why = chain(&error);
                self.notes
                    .push(format!("{path} = {value:.40} is not taken: {why}"));
            }
        }
    }

    /// The text with one more setting.
    fn set(&self, path: &str, value: &str) -> Result<String> {
        let key = KeyPath::parse(path)?;
        Ok(define::edit(&self.text, &key.key.changes(&[value])?)?)
    }

    /// Its first interface: on this host's bridge, unless its address is of another network.
    fn first(&mut self, card: &Card) -> Result<()> {
        let wished = self.guest()?.network;
        if !wished.kind.has_address() {
            if card.address.is_some() {
                self.lost(
                    card,
                    &format!("the guest is on the network {}", wished.kind),
                );
            }
            return Ok(());
        }
        let mut card = card.clone();
        for (key, value) in [
            ("network.address", &mut card.address),
            ("network.address6", &mut card.address6),
            ("network.mac", &mut card.mac),
        ] {
            if self.says(key) {
                *value = None;
            }
        }
        let chosen = self.says("network.kind") || wished.kind != NetworkKind::Bridge;
        let networks = match self.manager.network_of(&wished)? {
            Some(one) if chosen => vec![one],
            _ => self.manager.networks()?,
        };
        // Where it is anyway if no network has its address.
        let usual = networks.first().cloned();
        let given = self.given(&card, networks, usual, (&wished, chosen))?;
        let rates = [
            ("network.rate_in", &card.rate_in),
            ("network.rate_out", &card.rate_out),
        ];
        let mut settings: Vec<(&str, String)> = Vec::new();
        for (key, rate) in rates {
            let rate = rate.clone().filter(|_| !self.says(key));
            settings.extend(rate.map(|rate| (key, rate)));
        }
        if let Some(given) = given {
            if given.network != wished.kind {
                settings.push(("network.kind", given.network.to_string()));
            }
            settings.extend(
                given
                    .address
                    .map(|one| ("network.address", one.to_string())),
            );
            settings.extend(
                given
                    .address6
                    .map(|one| ("network.address6", one.to_string())),
            );
            settings.extend(given.mac.map(|one| ("network.mac", one.to_string())));
        }
        for (key, value) in settings {
            self.take(&card, key, &value);
        }
        Ok(())
    }

    /// An interface beyond the first: on a network that has its address, or is called as its own was.
    fn further(&mut self, card: &Card) -> Result<()> {
        let wished = self.guest()?.network;
        if !wished.kind.has_address() {
            self.lost(card, "the guest has no network for its first one");
            return Ok(());
        }
        let taken = |one: &Network| {
            let mut kinds = wished
                .nics
                .iter()
                .map(|nic| &nic.network)
                .chain([&wished.kind]);
            kinds.any(|kind| kind.to_string() == one.word())
        };
        let mut networks = self.manager.networks()?;
        networks.retain(|one| !taken(one));
        let named = card.network.as_deref();
        let usual = networks
            .iter()
            .find(|one| Some(one.word()) == named)
            .cloned();
        let nic = NetworkWish {
            interface: "further".parse().ok(),
            ..NetworkWish::default()
        };
        let Some(given) = self.given(card, networks, usual, (&nic, false))? else {
            return Ok(());
        };
        let free = |name: &NicName| wished.nics.iter().all(|nic| nic.name != *name);
        let own = card
            .name
            .as_ref()
            .and_then(|name| name.parse().ok())
            .filter(free);
        let numbered = || (1..100).find_map(|n| format!("eth{n}").parse().ok().filter(free));
        let Some(name) = own.or_else(numbered) else {
            return Ok(());
        };
        let more = [
            ("address", given.address.map(|one| one.to_string())),
            ("address6", given.address6.map(|one| one.to_string())),
            ("mac", given.mac.map(|one| one.to_string())),
            ("rate_in", card.rate_in.clone()),
            ("rate_out", card.rate_out.clone()),
        ];
        let mut text = format!("{name}={}", given.network);
        for (key, value) in more {
            text += &value.map_or(String::new(), |value| format!(",{key}={value}"));
        }
        self.take(card, "network.nic", &text);
        Ok(())
    }

    /// Sets what was found to be possible.
    fn take(&mut self, card: &Card, key: &str, value: &str) {
        let done = self.set(key, value).and_then(|text| {
            self.manager.define(self.name, &text)?;
            Ok(text)
        });
        match done {
            Ok(text) => self.text = text,
            Err(error) => {
                let label = &card.label;
                self.notes
                    .push(format!("{label}: {key} is not taken: {}", chain(&error)));
            }
        }
    }

    /// Which of these networks an interface is to be on, and with which addresses; `usual` is the one without
    /// any. `None` where it is to be on none.
    fn given(
        &mut self,
        card: &Card,
        networks: Vec<Network>,
        usual: Option<Network>,
        (wish, chosen): (&NetworkWish, bool),
    ) -> Result<Option<Given>> {
        let address = self.parsed::<Ipv4Addr>(card, "address", card.address.as_deref());
        let mut on = None;
        let mut why = match networks.is_empty() {
            true => "there is no other network here".to_owned(),
            false => "no network of this host has it".to_owned(),
        };
        for one in networks.into_iter().filter(|_| address.is_some()) {
            match one.preview(
                self.name,
                &NetworkWish {
                    address,
                    ..wish.clone()
                },
            ) {
                Err(LeaseError::Outside { .. }) => {}
                Err(error) => why = chain(&error),
                Ok(_) if !chosen && !self.may_be_on(&one) => {
                    why = format!(
                        "it is of the network {0}, which a newcomer reaches only if you say so: --trust, or \
                         --network {0}",
                        one.word()
                    );
                }
                Ok(_) => {
                    on = Some(one);
                    break;
                }
            }
        }
        let address = address.filter(|_| on.is_some());
        if address.is_none() && card.address.is_some() {
            self.lost(card, &why);
        }
        let usual = usual.filter(|one| chosen || self.may_be_on(one));
        let Some(one) = on.or(usual) else {
            if card.address.is_none() {
                self.lost(
                    card,
                    "a network for it is not known: `bulkhead network create`, then --nic",
                );
            }
            return Ok(None);
        };
        let network = match one.word().parse() {
            Ok(name) => NetworkKind::Named(name),
            Err(_) => NetworkKind::Bridge,
        };
        let mut wish = NetworkWish {
            address,
            ..wish.clone()
        };
        wish.mac = self.mac(card, &one, &wish);
        wish.address6 = self.address6(card, &one, &wish);
        if let (Ok(lease), Some(gateway)) = (one.preview(self.name, &wish), card.gateway.as_deref())
            && address.is_some()
            && one
                .gateway(&lease)
                .is_none_or(|own| own.to_string() != gateway)
        {
            let own = one
                .gateway(&lease)
                .map_or("none".to_owned(), |own| own.to_string());
            self.notes.push(format!(
                "{}: its gateway was {gateway:.40}, here it is {own}",
                card.label
            ));
        }
        Ok(Some(Given {
            network,
            address: wish.address,
            address6: wish.address6,
            mac: wish.mac,
        }))
    }

    /// Networks that somebody made are reached by those only of whom somebody says so.
    fn may_be_on(&self, one: &Network) -> bool {
        self.wish.trust || one.word() == NetworkKind::Bridge.to_string()
    }

    fn mac(&mut self, card: &Card, one: &Network, wish: &NetworkWish) -> Option<Mac> {
        let text = card.mac.as_deref();
        if self.wish.fresh {
            let fresh = "a copy has another (--fresh)";
            text.inspect(|mac| self.not(card, "hardware address", mac, fresh));
            return None;
        }
        let mac = self.parsed::<Mac>(card, "hardware address", text)?;
        let wish = NetworkWish {
            mac: Some(mac),
            ..wish.clone()
        };
        match one.preview(self.name, &wish) {
            Ok(_) => Some(mac),
            Err(error) => {
                self.not(card, "hardware address", &mac.to_string(), &chain(&error));
                None
            }
        }
    }

    fn address6(&mut self, card: &Card, one: &Network, wish: &NetworkWish) -> Option<Ipv6Addr> {
        let address = self.parsed::<Ipv6Addr>(card, "address", card.address6.as_deref())?;
        let wish = NetworkWish {
            address6: Some(address),
            ..wish.clone()
        };
        match one.preview(self.name, &wish) {
            Ok(_) => Some(address),
            Err(error) => {
                self.not(card, "address", &address.to_string(), &chain(&error));
                None
            }
        }
    }

    fn parsed<T: std::str::FromStr>(
        &mut self,
        card: &Card,
        what: &str,
        text: Option<&str>,
    ) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        let text = text?;
        let parsed = text.parse().map_err(|why: T::Err| why.to_string());
        parsed.map_err(|why| self.not(card, what, text, &why)).ok()
    }

    fn not(&mut self, card: &Card, what: &str, value: &str, why: &str) {
        let label = &card.label;
        self.notes.push(format!(
            "{label}: its {what} {value:.40} is not taken: {why}"
        ));
    }

    fn lost(&mut self, card: &Card, why: &str) {
        match card.address.as_deref() {
            Some(address) if address.parse::<Ipv4Addr>().is_ok() => {
                self.not(card, "address", address, why);
            }
            // It is told already that this is no address.
            Some(_) => {}
            None => {
                let (label, name) = (&card.label, card.name.as_deref().unwrap_or("it"));
                let there = card
                    .network
                    .as_deref()
                    .unwrap_or("no network that it names");
                self.notes.push(format!(
                    "{label}: {name:.40}, on {there:.60} there, is left out: {why}"
                ));
            }
        }
    }
}
