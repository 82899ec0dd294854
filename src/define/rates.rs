//! A rate card: what a provider charges for what a guest has used. A file of its own, in TOML; what
//! it does not name costs nothing.

use std::path::Path;

use serde::Deserialize;

use super::error::DefineError;
use super::file::read_file;
use crate::model::{Traffic, Used};

/// Prices, each in the card's currency.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// Of what the prices are, such as `EUR`.
    pub currency: String,
    /// An hour of running.
    pub hour: Price,
    /// An hour of one CPU.
    pub cpu_hour: Price,
    /// A GiB of memory for an hour.
    pub memory_gib_hour: Price,
    /// A GiB of swap for an hour.
    pub swap_gib_hour: Price,
    /// A GiB of room on disks (`disk.size`) for an hour.
    pub disk_gib_hour: Price,
    /// A GiB read from disks.
    pub read_gib: Price,
    /// A GiB written to disks.
    pub written_gib: Price,
    /// A million reads from disks.
    pub million_reads: Price,
    /// A million writes to disks.
    pub million_writes: Price,
    /// A GiB sent, of whatever class.
    pub sent_gib: Option<Price>,
    /// A GiB received, of whatever class.
    pub received_gib: Option<Price>,
    /// A GiB sent that is external.
    pub sent_external_gib: Option<Price>,
    /// A GiB sent that is internal.
    pub sent_internal_gib: Option<Price>,
    /// A GiB received that is external.
    pub received_external_gib: Option<Price>,
    /// A GiB received that is internal.
    pub received_internal_gib: Option<Price>,
}

/// Largest price: with it the largest amount there can be still costs a number.
const MOST: f64 = 1e12;
/// Longest name of a currency, in characters.
const LONGEST_CURRENCY: usize = 16;

/// A price: a number that is not negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Price(f64);

impl TryFrom<f64> for Price {
    type Error = &'static str;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        match (0.0..=MOST).contains(&number) {
            true => Ok(Self(number)),
            false => Err("a price is a number from 0 to 1000000000000"),
        }
    }
}

const HOUR_S: f64 = 3600.0;
const GIB: f64 = (1_u64 << 30) as f64;

impl Rates {
    /// The card in a file.
    ///
    /// # Errors
    /// It cannot be read, or is no rate card.
    pub fn load(path: &Path) -> Result<Self, DefineError> {
        // An error of reading has the path in it.
        let text = read_file(path).map_err(|error| DefineError::single("", error.to_string()))?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn parse(shown: &str, text: &str) -> Result<Self, DefineError> {
        let card: Self = toml::from_str(text)
            .map_err(|error| DefineError::single(shown, error.to_string().trim()))?;
        let long = card.currency.chars().count() > LONGEST_CURRENCY;
        if long || card.currency.chars().any(char::is_control) {
            let why = format!(
                "currency {:?}: write a short name such as EUR, of at most {LONGEST_CURRENCY} characters",
                card.currency
            );
            return Err(DefineError::single(shown, why));
        }
        for (way, all, external, internal) in [
            (
                "sent",
                card.sent_gib,
                card.sent_external_gib,
                card.sent_internal_gib,
            ),
            (
                "received",
                card.received_gib,
                card.received_external_gib,
                card.received_internal_gib,
            ),
        ] {
            // Whether it is for the rest then, or on top, nobody could tell.
            if all.is_some() && (external.is_some() || internal.is_some()) {
                let why = format!(
                    "{way}_gib is the price of all that is {way}: name it, or {way}_external_gib and {way}_internal_gib"
                );
                return Err(DefineError::single(shown, why));
            }
        }
        Ok(card)
    }

    /// What it costs; of room on disks it had `disk_kib_s`, KiB times seconds.
    #[must_use]
    pub fn cost(&self, used: &Used, traffic: &Traffic, disk_kib_s: u64) -> f64 {
        let kib_s = |amount: u64| number(amount) * 1024.0 / GIB / HOUR_S;
        let gib = |bytes: u64| number(bytes) / GIB;
        let (external, internal) = (traffic.external, traffic.internal);
        let of = |class: Option<Price>, all: Option<Price>| class.or(all).unwrap_or_default();
        let parts = [
            (self.hour, number(used.run_ms) / 1e3 / HOUR_S),
            (self.cpu_hour, number(used.cpu_us) / 1e6 / HOUR_S),
            (self.memory_gib_hour, kib_s(used.memory_kib_s)),
            (self.swap_gib_hour, kib_s(used.swap_kib_s)),
            (self.disk_gib_hour, kib_s(disk_kib_s)),
            (self.million_reads, number(used.reads) / 1e6),
            (self.million_writes, number(used.writes) / 1e6),
            (self.read_gib, gib(used.io_read)),
            (self.written_gib, gib(used.io_written)),
            (
                of(self.sent_external_gib, self.sent_gib),
                gib(external.sent().bytes),
            ),
            (
                of(self.sent_internal_gib, self.sent_gib),
                gib(internal.sent().bytes),
            ),
            (
                of(self.received_external_gib, self.received_gib),
                gib(external.received().bytes),
            ),
            (
                of(self.received_internal_gib, self.received_gib),
                gib(internal.received().bytes),
            ),
        ];
        parts.iter().map(|(price, amount)| price.0 * amount).sum()
    }
}

/// Amounts above 2^53 lose less than a price is worth.
#[allow(clippy::cast_precision_loss)]
fn number(amount: u64) -> f64 {
    amount as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flows, Volume};

    const CARD: &str = "currency = \"EUR\"\nhour = 0.5\ncpu_hour = 2\nmemory_gib_hour = 4.0\n\
                        sent_gib = 0.25\ndisk_gib_hour = 0.5\nmillion_writes = 8\n";

    #[test]
    fn a_bill_is_the_sum_of_its_parts() {
        let card = Rates::parse("card.toml", CARD).unwrap();
        let used = Used {
            run_ms: 2 * 3_600_000,
            cpu_us: 3_600_000_000 / 2,
            memory_kib_s: (1 << 20) * 3600,
            io_read: 1 << 40,
            reads: 1 << 40,
            writes: 500_000,
            ..Used::default()
        };
        let sent_ipv4 = Volume {
            packets: 1,
            bytes: 8 << 30,
        };
        let traffic = Traffic {
            external: Flows {
                sent_ipv4,
                ..Flows::default()
            },
            ..Traffic::default()
        };
        let cost = card.cost(&used, &traffic, 3 * (1 << 20) * 3600);
        assert!(
            (cost - (1.0 + 1.0 + 4.0 + 2.0 + 1.5 + 4.0)).abs() < 1e-9,
            "{cost}"
        );
    }

    #[test]
    fn classes_of_traffic_have_prices_of_their_own_or_one_for_both() {
        let flows = |sent_gib: u64, received_gib: u64| {
            let of = |gib: u64| Volume {
                packets: 1,
                bytes: gib << 30,
            };
            Flows {
                sent_ipv4: of(sent_gib),
                received_ipv6: of(received_gib),
                ..Flows::default()
            }
        };
        let traffic = Traffic {
            external: flows(1, 10),
            internal: flows(100, 1000),
        };
        for (card, cost) in [
            ("sent_gib = 2", 202.0),
            ("sent_external_gib = 2", 2.0),
            (
                "sent_external_gib = 2\nsent_internal_gib = 0.5\nreceived_gib = 1",
                1062.0,
            ),
            (
                "received_internal_gib = 1\nreceived_external_gib = 3",
                1030.0,
            ),
        ] {
            let card = Rates::parse("card.toml", card).unwrap();
            let found = card.cost(&Used::default(), &traffic, 0);
            assert!((found - cost).abs() < 1e-9, "{found} {card:?}");
        }
        let both = "received_gib = 1\nreceived_internal_gib = 0";
        let error = Rates::parse("card.toml", both).unwrap_err().to_string();
        assert!(error.contains("received_external_gib and"), "{error}");
    }

    #[test]
    fn what_is_no_card_is_refused() {
        let error = Rates::load(Path::new("/")).unwrap_err().to_string();
        assert_eq!(error, "/: is a directory, not a regular file");
        for text in [
            "hours = 1",
            "hour = -1",
            "hour = nan",
            "hour = \"1\"",
            "hour = 1e308",
            "hour",
            "currency = \"E\\u001bUR\"",
            "currency = \"seventeen letters\"",
        ] {
            let error = Rates::parse("card.toml", text).unwrap_err().to_string();
            assert!(error.contains("card.toml"), "{text}: {error}");
        }
    }
}
