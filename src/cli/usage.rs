//! `usage`: what guests have used over all their runs, and what that costs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use serde::Serialize;

use super::command::Verb;
use super::context::Context;
use super::fault::Result;
use super::render::Cell;
use super::select;
use super::traffic::{by, periods, some};
use crate::define::Rates;
use crate::guest::account::Period;
use crate::guest::closed::ClosedAccount;
use crate::guest::view::bytes_text;
use crate::model::clock::{self, span};
use crate::model::{GuestName, TenantName};

pub(super) const USAGE: Verb = Verb {
    name: "usage",
    about: "Say what guests have used, and what it costs",
    build: |command| {
        periods(some(command))
            .mut_arg("by", |by| {
                by.action(ArgAction::Append)
                    .value_delimiter(',')
                    .value_name("PERIOD|tenant")
                    .value_parser(PossibleValuesParser::new(["day", "month", "tenant"]))
                    .help(
                        "A line for each day or month (UTC), for each tenant with the sum of its \
                         guests, or for both: tenant,month",
                    )
            })
            .arg(
                Arg::new("rates")
                    .long("rates")
                    .value_name("FILE")
                    .value_parser(value_parser!(PathBuf))
                    .help("Rate card in TOML: what is used is priced with it"),
            )
            .arg(
                Arg::new("deleted")
                    .long("deleted")
                    .action(ArgAction::SetTrue)
                    .help("Also of guests that were deleted, for 400 days"),
            )
    },
    run: usage,
    hidden: false,
};

#[derive(Serialize)]
struct Row {
    /// Guest; none in a sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<GuestName>,
    /// The tenant it is of now, or was at its end.
    tenant: Option<TenantName>,
    /// When it was deleted, if it was.
    deleted: Option<String>,
    period: String,
    run_ms: u64,
    cpu_us: u64,
    memory_kib_s: u64,
    swap_kib_s: u64,
    disk_kib_s: u64,
    read_bytes: u64,
    written_bytes: u64,
    reads: u64,
    writes: u64,
    sent_bytes: u64,
    received_bytes: u64,
    sent_internal_bytes: u64,
    sent_external_bytes: u64,
    received_internal_bytes: u64,
    received_external_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
}

impl Row {
    fn of(name: &GuestName, period: Period, rates: Option<&Rates>) -> Self {
        let (used, traffic) = (period.used, period.traffic);
        let total = traffic.total();
        // To a millionth: beyond it is the error of the arithmetic.
        let cost =
            |rates: &Rates| (rates.cost(&used, &traffic, period.disk_kib_s) * 1e6).round() / 1e6;
        Self {
            name: Some(name.clone()),
            tenant: None,
            deleted: None,
            period: period.period,
            run_ms: used.run_ms,
            cpu_us: used.cpu_us,
            memory_kib_s: used.memory_kib_s,
            swap_kib_s: used.swap_kib_s,
            disk_kib_s: period.disk_kib_s,
            read_bytes: used.io_read,
            written_bytes: used.io_written,
            reads: used.reads,
            writes: used.writes,
            sent_bytes: total.sent().bytes,
            received_bytes: total.received().bytes,
            sent_internal_bytes: traffic.internal.sent().bytes,
            sent_external_bytes: traffic.external.sent().bytes,
            received_internal_bytes: traffic.internal.received().bytes,
            received_external_bytes: traffic.external.received().bytes,
            cost: rates.map(cost),
            currency: rates.map(|rates| rates.currency.clone()),
        }
    }

    fn add(&mut self, more: &Self) {
        for (sum, n) in [
            (&mut self.run_ms, more.run_ms),
            (&mut self.cpu_us, more.cpu_us),
            (&mut self.memory_kib_s, more.memory_kib_s),
            (&mut self.swap_kib_s, more.swap_kib_s),
            (&mut self.disk_kib_s, more.disk_kib_s),
            (&mut self.read_bytes, more.read_bytes),
            (&mut self.written_bytes, more.written_bytes),
            (&mut self.reads, more.reads),
            (&mut self.writes, more.writes),
            (&mut self.sent_bytes, more.sent_bytes),
            (&mut self.received_bytes, more.received_bytes),
            (&mut self.sent_internal_bytes, more.sent_internal_bytes),
            (&mut self.sent_external_bytes, more.sent_external_bytes),
            (
                &mut self.received_internal_bytes,
                more.received_internal_bytes,
            ),
            (
                &mut self.received_external_bytes,
                more.received_external_bytes,
            ),
        ] {
            *sum = sum.saturating_add(n);
        }
        if let (Some(sum), Some(cost)) = (&mut self.cost, more.cost) {
            *sum = ((*sum + cost) * 1e6).round() / 1e6;
        }
    }
}

const HEADINGS: [&str; 15] = [
    "NAME",
    "PERIOD",
    "RUN",
    "CPU",
    "MEM GiBh",
    "SWAP GiBh",
    "DISK GiBh",
    "READ",
    "WRITTEN",
    "READS",
    "WRITES",
    "SENT",
    "EXTERNAL",
    "RECEIVED",
    "EXTERNAL",
];

fn usage(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let card = matches.get_one::<PathBuf>("rates");
    let rates = card.map(|path| Rates::load(path)).transpose()?;
    let gone = match matches.get_flag("deleted") {
        true => deleted(context, matches)?,
        false => Vec::new(),
    };
    let mut headings = HEADINGS.to_vec();
    let rows = match sums_tenants(matches) {
        true => {
            headings[0] = "TENANT";
            by_tenant(context, matches, gone, rates.as_ref())?
        }
        false => by_guest(context, matches, gone, rates.as_ref())?,
    };
    let price = rates.map(|rates| format!("COST {}", rates.currency));
    let price = price.as_deref().map(str::trim_end);
    headings.extend(price);
    context.list(&rows, &headings, cells)?;
    Ok(0)
}

fn sums_tenants(matches: &ArgMatches) -> bool {
    let mut words = matches.get_many::<String>("by").into_iter().flatten();
    words.any(|word| word == "tenant")
}

/// What somebody used, as one tenant's where that matters.
struct Part {
    name: GuestName,
    tenant: Option<TenantName>,
    deleted: Option<String>,
    periods: Vec<Period>,
}

fn rows(parts: Vec<Part>, rates: Option<&Rates>) -> Vec<Row> {
    let of = |part: Part| {
        let rows = part.periods.into_iter().map(|period| Row {
            tenant: part.tenant.clone(),
            deleted: part.deleted.clone(),
            ..Row::of(&part.name, period, rates)
        });
        rows.collect::<Vec<_>>()
    };
    parts.into_iter().flat_map(of).collect()
}

fn by_guest(
    context: &Context,
    matches: &ArgMatches,
    gone: Vec<ClosedAccount>,
    rates: Option<&Rates>,
) -> Result<Vec<Row>> {
    let manager = context.manager()?;
    let mut parts = Vec::new();
    let chosen = select::of_tenants(context, matches)?;
    if chosen.is_empty() && gone.is_empty() {
        select::none(context, matches)?;
    }
    for name in those_there(context, chosen, &gone)? {
        parts.push(Part {
            periods: manager.account(&name, by(matches))?,
            tenant: manager.guest(&name).ok().and_then(|guest| guest.tenant),
            deleted: None,
            name,
        });
    }
    parts.extend(gone.into_iter().map(|gone| Part {
        name: gone.name,
        tenant: gone.tenant,
        deleted: Some(clock::time(gone.deleted_ms)),
        periods: gone.periods,
    }));
    Ok(rows(parts, rates))
}

/// What guests used as each tenant's, those that are another's now too.
fn by_tenant(
    context: &Context,
    matches: &ArgMatches,
    gone: Vec<ClosedAccount>,
    rates: Option<&Rates>,
) -> Result<Vec<Row>> {
    let manager = context.manager()?;
    let mut all = Vec::new();
    let whoever = select::of_whatever_tenant(context, matches)?;
    for name in those_there(context, whoever, &gone)? {
        let shares = manager.account_by_tenant(&name, by(matches))?;
        all.push((name, shares));
    }
    all.extend(gone.into_iter().map(|gone| (gone.name, gone.by_tenant)));
    let parts = all.into_iter().flat_map(|(name, shares)| {
        shares.into_iter().map(move |(tenant, periods)| Part {
            name: name.clone(),
            tenant,
            deleted: None,
            periods,
        })
    });
    let meant = |part: &Part| select::of_tenant(matches, part.tenant.as_ref());
    let rows = rows(parts.filter(meant).collect(), rates);
    if rows.is_empty() {
        select::check_tenant(context, matches)?;
    }
    Ok(sums(rows))
}

/// Those chosen, without names of which only deleted guests were meant.
fn those_there(
    context: &Context,
    chosen: Vec<GuestName>,
    gone: &[ClosedAccount],
) -> Result<Vec<GuestName>> {
    let there = context.manager()?.names()?;
    let meant = |name: &GuestName| there.contains(name) || gone.iter().all(|g| g.name != *name);
    Ok(chosen.into_iter().filter(meant).collect())
}

/// One row for each tenant and period; what is of no tenant comes last.
fn sums(rows: Vec<Row>) -> Vec<Row> {
    let mut all: BTreeMap<_, Row> = BTreeMap::new();
    for row in rows {
        let key = (row.tenant.is_none(), row.tenant.clone(), row.period.clone());
        match all.entry(key) {
            Entry::Vacant(place) => {
                place.insert(Row {
                    name: None,
                    deleted: None,
                    ..row
                });
            }
            Entry::Occupied(mut sum) => sum.get_mut().add(&row),
        }
    }
    all.into_values().collect()
}

/// Accounts of deleted guests that are meant.
fn deleted(context: &Context, matches: &ArgMatches) -> Result<Vec<ClosedAccount>> {
    let named: Vec<&GuestName> = matches.get_many("names").into_iter().flatten().collect();
    let wanted = select::selectors(matches)?;
    let mut all = context.manager()?.closed_accounts(by(matches))?;
    all.retain(|gone| {
        (named.is_empty() || named.contains(&&gone.name))
            && select::selected(&wanted, &gone.labels)
            && (sums_tenants(matches) || select::of_tenant(matches, gone.tenant.as_ref()))
    });
    Ok(all)
}

fn cells(row: &Row) -> Vec<Cell> {
    let deleted = row.deleted.as_ref().map_or("", |_| " (deleted)");
    let name = match (&row.name, &row.tenant) {
        (Some(name), _) => format!("{name}{deleted}"),
        (None, Some(tenant)) => tenant.to_string(),
        (None, None) => "-".to_owned(),
    };
    let mut cells = vec![
        Cell::from(name),
        Cell::from(&row.period),
        Cell::from(span(row.run_ms / 1000)),
        Cell::from(seconds(row.cpu_us)),
        Cell::from(gib_hours(row.memory_kib_s)),
        Cell::from(gib_hours(row.swap_kib_s)),
        Cell::from(gib_hours(row.disk_kib_s)),
        Cell::from(bytes_text(row.read_bytes)),
        Cell::from(bytes_text(row.written_bytes)),
        Cell::from(row.reads.to_string()),
        Cell::from(row.writes.to_string()),
        Cell::from(bytes_text(row.sent_bytes)),
        Cell::from(bytes_text(row.sent_external_bytes)),
        Cell::from(bytes_text(row.received_bytes)),
        Cell::from(bytes_text(row.received_external_bytes)),
    ];
    cells.extend(row.cost.map(|cost| Cell::from(format!("{cost:.4}"))));
    cells
}

/// `1234.56s`
fn seconds(us: u64) -> String {
    format!("{}.{:02}s", us / 1_000_000, us / 10_000 % 100)
}

/// With three decimals.
fn gib_hours(kib_s: u64) -> String {
    let thousandths = u128::from(kib_s) * 1000 / (3600 << 20);
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_the_units_of_a_bill() {
        assert_eq!(seconds(1_239_999), "1.23s");
        assert_eq!(gib_hours(3600 << 20), "1.000");
        assert_eq!(gib_hours((3600 << 20) * 5 / 4 - 1), "1.249");
        assert_eq!(gib_hours(u64::MAX), "4886718345.671");
    }
}
