//! `traffic`: what guests have sent and received, over all their runs.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::Verb;
use super::context::Context;
use super::fault::Result;
use super::render::Cell;
use super::select;
use crate::guest::account::{By, Period};
use crate::guest::view::bytes_text;
use crate::model::{GuestName, Traffic};

pub(super) const TRAFFIC: Verb = Verb {
    name: "traffic",
    about: "Say how much guests have sent and received",
    build: |command| periods(some(command)),
    run: traffic,
    hidden: false,
};

/// The arguments that choose guests to look at; all without one.
pub(super) fn some(command: Command) -> Command {
    command
        .arg(
            Arg::new("names")
                .value_name("NAME")
                .num_args(0..)
                .value_parser(value_parser!(GuestName))
                .help("Guests, in this order [default: all]"),
        )
        .arg(select::by_label())
        .arg(select::by_tenant())
}

/// `--by`.
pub(super) fn periods(command: Command) -> Command {
    command.arg(
        Arg::new("by")
            .long("by")
            .value_name("PERIOD")
            .value_parser(PossibleValuesParser::new(["day", "month"]))
            .help("A line for each day or month (UTC) instead of one for all time"),
    )
}

/// What `--by` says.
pub(super) fn by(matches: &ArgMatches) -> By {
    let said = |word| {
        let mut words = matches.get_many::<String>("by").into_iter().flatten();
        words.any(|said| said == word)
    };
    match (said("day"), said("month")) {
        (true, _) => By::Day,
        (_, true) => By::Month,
        _ => By::All,
    }
}

/// Sums of both classes, and of those what is IPv6, what is of which class, and what is both.
#[derive(Serialize)]
struct Row {
    name: GuestName,
    period: String,
    sent_bytes: u64,
    sent_packets: u64,
    received_bytes: u64,
    received_packets: u64,
    sent_ipv6_bytes: u64,
    sent_ipv6_packets: u64,
    received_ipv6_bytes: u64,
    received_ipv6_packets: u64,
    sent_internal_bytes: u64,
    sent_internal_packets: u64,
    received_internal_bytes: u64,
    received_internal_packets: u64,
    sent_external_bytes: u64,
    sent_external_packets: u64,
    received_external_bytes: u64,
    received_external_packets: u64,
    sent_internal_ipv6_bytes: u64,
    sent_internal_ipv6_packets: u64,
    received_internal_ipv6_bytes: u64,
    received_internal_ipv6_packets: u64,
}

impl Row {
    fn of(name: &GuestName, period: Period) -> Self {
        let (all, internal) = (period.traffic.total(), period.traffic.internal);
        let external = period.traffic.external;
        Self {
            name: name.clone(),
            period: period.period,
            sent_bytes: all.sent().bytes,
            sent_packets: all.sent().packets,
            received_bytes: all.received().bytes,
            received_packets: all.received().packets,
            sent_ipv6_bytes: all.sent_ipv6.bytes,
            sent_ipv6_packets: all.sent_ipv6.packets,
            received_ipv6_bytes: all.received_ipv6.bytes,
            received_ipv6_packets: all.received_ipv6.packets,
            sent_internal_bytes: internal.sent().bytes,
            sent_internal_packets: internal.sent().packets,
            received_internal_bytes: internal.received().bytes,
            received_internal_packets: internal.received().packets,
            sent_external_bytes: external.sent().bytes,
            sent_external_packets: external.sent().packets,
            received_external_bytes: external.received().bytes,
            received_external_packets: external.received().packets,
            sent_internal_ipv6_bytes: internal.sent_ipv6.bytes,
            sent_internal_ipv6_packets: internal.sent_ipv6.packets,
            received_internal_ipv6_bytes: internal.received_ipv6.bytes,
            received_internal_ipv6_packets: internal.received_ipv6.packets,
        }
    }
}

const HEADINGS: [&str; 10] = [
    "NAME", "PERIOD", "SENT", "PACKETS", "INTERNAL", "EXTERNAL", "RECEIVED", "PACKETS", "INTERNAL",
    "EXTERNAL",
];

fn traffic(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let by = by(matches);
    let mut rows = Vec::new();
    for name in select::chosen(context, matches)? {
        let periods = manager.account(&name, by)?.into_iter();
        let counts = |one: &Period| by == By::All || one.traffic != Traffic::default();
        rows.extend(periods.filter(counts).map(|one| Row::of(&name, one)));
    }
    context.list(&rows, &HEADINGS, |row| {
        vec![
            Cell::from(row.name.as_str()),
            Cell::from(&row.period),
            Cell::from(bytes_text(row.sent_bytes)),
            Cell::from(row.sent_packets.to_string()),
            Cell::from(bytes_text(row.sent_internal_bytes)),
            Cell::from(bytes_text(row.sent_external_bytes)),
            Cell::from(bytes_text(row.received_bytes)),
            Cell::from(row.received_packets.to_string()),
            Cell::from(bytes_text(row.received_internal_bytes)),
            Cell::from(bytes_text(row.received_external_bytes)),
        ]
    })?;
    Ok(0)
}
