//! `licenses`: how many cores software that is licensed by the core could have used.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, ArgAction, ArgMatches};
use serde::Serialize;

use super::command::Verb;
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::Cell;
use super::traffic::{by, periods};
use crate::guest::account::{By, Period};
use crate::guest::cores::Bounds;
use crate::guest::products::LABEL;
use crate::model::Cpus;

pub(super) const LICENSES: Verb = Verb {
    name: "licenses",
    about: "Say how many cores licensed software could have used, and the peak",
    build: |command| {
        periods(command)
            .arg(
                Arg::new("label")
                    .long("label")
                    .value_name("KEY")
                    .default_value(LABEL)
                    .help("Label of guests that names the product in them"),
            )
            .arg(
                Arg::new("factor")
                    .long("factor")
                    .value_name("[PRODUCT=]FACTOR")
                    .action(ArgAction::Append)
                    .help(
                        "Licenses a core needs, such as 0.5, of one product or of all [default: 1]",
                    ),
            )
    },
    run: licenses,
    hidden: false,
};

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    product: String,
    /// What it is the peak of.
    period: String,
    /// The day, or a month long ago, on which most cores could be used.
    peak: String,
    /// Guests that ran with it then.
    guests: usize,
    cores: u64,
    /// Hundredths of a license that a core needs.
    factor_percent: u32,
    licenses: u64,
}

const HEADINGS: [&str; 7] = [
    "PRODUCT", "PERIOD", "PEAK", "GUESTS", "CORES", "FACTOR", "LICENSES",
];

/// Of each product, of each day: the guests that could use it, and how many cores.
type Days = BTreeMap<String, BTreeMap<String, Together>>;

/// What guests could use on one day.
#[derive(Debug, Default)]
struct Together {
    guests: usize,
    /// Cores of those that were in no pool.
    alone: u64,
    /// Of those in each pool, and how many it has.
    pools: BTreeMap<String, (u64, u64)>,
    /// Cores of the host, as far as it is known.
    host: Option<u64>,
}

impl Together {
    /// A guest more, that could use so many hundredths of a core.
    fn add(&mut self, hundredths: u32, bounds: Option<&Bounds>) {
        // Of each guest whole ones: half a core needs a license like a core.
        let cores = u64::from(hundredths.div_ceil(100));
        self.guests += 1;
        match bounds.and_then(|bounds| bounds.pool.as_ref()) {
            Some((pool, cpus)) => {
                let (sum, most) = self.pools.entry(pool.to_string()).or_default();
                (*sum, *most) = (*sum + cores, u64::from(*cpus).max(*most));
            }
            None => self.alone += cores,
        }
        self.host = self.host.max(bounds.map(|bounds| u64::from(bounds.host)));
    }

    /// No more than the pools and the host have.
    fn cores(&self) -> u64 {
        let pools = self.pools.values().map(|(sum, most)| sum.min(most));
        let all = self.alone + pools.sum::<u64>();
        self.host.map_or(all, |host| all.min(host))
    }
}

fn licenses(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let key = matches
        .get_one::<String>("label")
        .map_or("", String::as_str);
    let factors = factors(matches.get_many("factor").into_iter().flatten())?;
    let mut days = Days::new();
    for name in manager.names()? {
        let now = manager.guest(&name)?.labels.get(key).cloned();
        add(&mut days, key, now, &manager.account(&name, By::Day)?);
    }
    for gone in manager.closed_accounts(By::Day)? {
        let last = gone.labels.get(key).cloned();
        add(&mut days, key, last, &gone.periods);
    }
    let known: BTreeSet<_> = days.keys().cloned().map(Some).chain([None]).collect();
    if let Some(other) = factors.keys().find(|product| !known.contains(*product)) {
        let other = other.clone().unwrap_or_default();
        return Err(Fault::usage(format!(
            "no guest that ran has the label {key}={other}, which --factor names"
        )));
    }
    let rows = rows(&days, by(matches), &factors);
    context.list(&rows, &HEADINGS, |row| {
        vec![
            Cell::from(&row.product),
            Cell::from(&row.period),
            Cell::from(&row.peak),
            Cell::from(row.guests.to_string()),
            Cell::from(row.cores.to_string()),
            Cell::from(format!(
                "{}.{:02}",
                row.factor_percent / 100,
                row.factor_percent % 100
            )),
            Cell::from(row.licenses.to_string()),
        ]
    })?;
    Ok(0)
}

/// `PRODUCT=FACTOR` for one, `FACTOR` for all others.
fn factors<'a>(words: impl Iterator<Item = &'a String>) -> Result<BTreeMap<Option<String>, u32>> {
    let one = |word: &String| {
        let (product, factor) = match word.rsplit_once('=') {
            Some((product, factor)) => (Some(product.to_owned()), factor),
            None => (None, word.as_str()),
        };
        let factor: std::result::Result<Cpus, _> = factor.parse();
        let factor = factor.map_err(|_| {
            Fault::usage(format!(
                "--factor {word:?}: a factor is a number such as 0.5, in steps of 0.01"
            ))
        })?;
        Ok((product, factor.hundredths()))
    };
    words.map(one).collect()
}

/// Adds what a guest could use, for the products that its label named then; where that is not known,
/// for the one that it names now.
fn add(days: &mut Days, key: &str, now: Option<String>, periods: &[Period]) {
    let now: BTreeSet<String> = now.into_iter().collect();
    for period in periods.iter().filter(|period| period.cores > 0) {
        let then = period.products.as_ref().filter(|_| key == LABEL);
        for product in then.unwrap_or(&now) {
            let of_product = days.entry(product.clone()).or_default();
            let day = of_product.entry(period.period.clone()).or_default();
            day.add(period.cores, period.bounds.as_ref());
        }
    }
}

fn rows(days: &Days, by: By, factors: &BTreeMap<Option<String>, u32>) -> Vec<Row> {
    let mut rows = Vec::new();
    for (product, of_product) in days {
        let factor = factors.get(&Some(product.clone())).or(factors.get(&None));
        let factor = factor.copied().unwrap_or(100);
        let mut peaks: BTreeMap<String, (&str, usize, u64)> = BTreeMap::new();
        for (day, together) in of_product {
            let peak = peaks.entry(by.period(day)).or_default();
            if together.cores() > peak.2 {
                *peak = (day, together.guests, together.cores());
            }
        }
        rows.extend(
            peaks
                .into_iter()
                .map(|(period, (peak, guests, cores))| Row {
                    product: product.clone(),
                    period,
                    peak: peak.to_owned(),
                    guests,
                    cores,
                    factor_percent: factor,
                    licenses: (cores * u64::from(factor)).div_ceil(100),
                }),
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(words: &[&str]) -> Result<BTreeMap<Option<String>, u32>> {
        let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
        factors(words.iter())
    }

    #[test]
    fn the_peak_is_the_day_with_most_and_licenses_are_whole() {
        let mut days = Days::new();
        let db = days.entry("db".into()).or_default();
        for (day, cores) in [
            ("2026-03-01", 400),
            ("2026-03-02", 150),
            ("2026-03-02", 201),
            ("2026-04-01", 300),
        ] {
            db.entry(day.to_owned()).or_default().add(cores, None);
        }
        let all = rows(&days, By::All, &factor(&["db=0.5", "2"]).unwrap());
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].peak.as_str(), all[0].guests), ("2026-03-02", 2));
        assert_eq!((all[0].cores, all[0].licenses), (5, 3));
        let months = rows(&days, By::Month, &factor(&["2"]).unwrap());
        let months: Vec<_> = months
            .iter()
            .map(|r| (r.period.as_str(), r.licenses))
            .collect();
        assert_eq!(months, [("2026-03", 10), ("2026-04", 6)]);
        assert_eq!(rows(&days, By::Day, &BTreeMap::new()).len(), 3);
    }

    #[test]
    fn guests_together_could_use_no_more_than_their_pool_and_the_host_have() {
        let bounds = |pool: Option<(&str, u32)>| Bounds {
            host: 8,
            pool: pool.map(|(name, cpus)| (name.parse().unwrap(), cpus)),
        };
        let mut day = Together::default();
        for _ in 0..3 {
            day.add(200, Some(&bounds(Some(("gold", 2)))));
        }
        assert_eq!((day.guests, day.cores()), (3, 2));
        day.add(100, Some(&bounds(Some(("iron", 3)))));
        day.add(300, Some(&bounds(None)));
        assert_eq!(day.cores(), 6);
        day.add(800, Some(&bounds(None)));
        assert_eq!((day.guests, day.cores()), (6, 8));
        // Nothing is known of the host in an account from long ago: then it is the sum.
        let mut old = Together::default();
        old.add(800, None);
        old.add(801, None);
        assert_eq!(old.cores(), 17);
    }

    #[test]
    fn a_guest_counts_for_the_product_that_it_had_then() {
        let period = |day: &str, products: Option<&[&str]>| Period {
            period: day.to_owned(),
            cores: 200,
            products: products.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
            ..Period::default()
        };
        let periods = [
            period("2026-03-01", None),
            period("2026-03-02", Some(&["db", "web"])),
            period("2026-03-03", Some(&[])),
        ];
        let of = |key: &str, now: Option<&str>| {
            let mut days = Days::new();
            add(&mut days, key, now.map(str::to_owned), &periods);
            let all = days.into_iter().map(|(product, days)| {
                let days: Vec<_> = days.into_keys().collect();
                format!("{product}: {}", days.join(" "))
            });
            all.collect::<Vec<_>>()
        };
        assert_eq!(of(LABEL, None), ["db: 2026-03-02", "web: 2026-03-02"]);
        let both = ["db: 2026-03-02", "new: 2026-03-01", "web: 2026-03-02"];
        assert_eq!(of(LABEL, Some("new")), both);
        // Of other labels only what they say now is known.
        let all = ["new: 2026-03-01 2026-03-02 2026-03-03"];
        assert_eq!(of("product", Some("new")), all);
    }

    #[test]
    fn what_is_no_factor_is_refused() {
        for word in ["", "x", "db=", "db=x", "-1", "0", "0.001"] {
            assert!(factor(&[word]).is_err(), "{word}");
        }
    }
}
