//! Which rule decides about which number: a filter becomes, for each `AUDIT_ARCH_` token, a list of
//! ranges of numbers with the same verdict, covering all 2³² numbers. How they are searched is
//! `emit`'s subject; the order of precedence is said at [`Filter`].

use std::collections::BTreeMap;

use super::names::number;
use crate::model::{Action, Arch, ArgCmp, Filter};

/// Numbers of x32 begin here; x32 shares its token with x86-64.
const X32_BIT: u32 = 0x4000_0000;

/// What happens to the calls of one range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// This, whatever the arguments.
    Plain(u32),
    /// The first whose conditions all hold.
    Checked {
        /// Conditions and return value.
        checks: Vec<(Vec<ArgCmp>, u32)>,
        /// If none holds.
        otherwise: u32,
        /// Width of arguments.
        bits: u32,
    },
}

/// All calls that come with one token.
#[derive(Debug)]
pub(super) struct Group {
    /// `AUDIT_ARCH_` value.
    pub(super) token: u32,
    /// First number and verdict of each range; the first starts at 0, neighbours differ.
    pub(super) ranges: Vec<(u32, Verdict)>,
}

/// Rules for one number of one convention.
#[derive(Default)]
struct Call {
    always: Option<Action>,
    checks: Vec<(Vec<ArgCmp>, u32)>,
}

/// One convention's calls by number.
struct Table {
    calls: BTreeMap<u32, Call>,
    otherwise: u32,
    beyond: u32,
    highest: u32,
    bits: u32,
}

/// The groups in the order of the filter's conventions, and a warning for each name that none knows.
pub(super) fn groups(filter: &Filter) -> (Vec<Group>, Vec<String>) {
    let tables: Vec<(Arch, Table)> = filter
        .arches
        .iter()
        .map(|&arch| (arch, table(filter, arch)))
        .collect();
    let mut groups: Vec<Group> = Vec::new();
    for (arch, _) in &tables {
        let token = arch.audit_token();
        if groups.iter().all(|g| g.token != token) {
            let of = |arch| tables.iter().find(|(a, _)| *a == arch).map(|(_, t)| t);
            let ranges = if matches!(arch, Arch::X86_64 | Arch::X32) {
                x86_64_ranges(of(Arch::X86_64), of(Arch::X32), filter.bad_arch.code())
            } else {
                let mut ranges = Ranges::default();
                if let Some(table) = of(*arch) {
                    ranges.table(0, table);
                }
                ranges.0
            };
            groups.push(Group { token, ranges });
        }
    }
    (groups, unknown(filter))
}

fn unknown(filter: &Filter) -> Vec<String> {
    let known = |name: &str| filter.arches.iter().any(|&a| number(name, a).is_some());
    let anywhere = |name: &str| Arch::ALL.iter().any(|&a| number(name, a).is_some());
    let names = filter.rules.iter().flat_map(|r| &r.names);
    names
        // A call of another machine is no mistake in a list made for all machines.
        .filter(|name| !known(name) && !anywhere(name))
        .map(|name| format!("seccomp: no system call is called {name:?}; its rule has no effect"))
        .collect()
}

fn table(filter: &Filter, arch: Arch) -> Table {
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    let mut highest = 0;
    for rule in &filter.rules {
        for nr in rule.names.iter().filter_map(|name| number(name, arch)) {
            highest = highest.max(nr);
            if rule.action == filter.default {
                continue;
            }
            let call = calls.entry(nr).or_default();
            if rule.args.is_empty() {
                call.always.get_or_insert(rule.action);
            } else {
                let mut args = rule.args.clone();
                if arch.bits() == 32 {
                    for a in &mut args {
                        a.compare = a.compare.narrowed();
                    }
                }
                call.checks.push((args, rule.action.code()));
            }
        }
    }
    Table {
        calls,
        otherwise: filter.default.code(),
        beyond: filter.beyond.unwrap_or(filter.default).code(),
        highest,
        bits: arch.bits(),
    }
}

/// Ranges under construction, in ascending order.
#[derive(Default)]
struct Ranges(Vec<(u32, Verdict)>);

impl Ranges {
    fn push(&mut self, start: u32, verdict: Verdict) {
        if self.0.last().is_some_and(|(s, _)| *s == start) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, last)| *last != verdict) {
            self.0.push((start, verdict));
        }
    }

    /// A table whose numbers begin at `first`.
    fn table(&mut self, first: u32, table: &Table) {
        self.push(first, Verdict::Plain(table.otherwise));
        for (&nr, call) in &table.calls {
            self.push(nr, verdict(call, table));
            if let Some(next) = nr.checked_add(1) {
                self.push(next, Verdict::Plain(table.otherwise));
            }
        }
        if let Some(next) = table.highest.checked_add(1) {
            self.push(next.max(first), Verdict::Plain(table.beyond));
        }
    }
}

fn verdict(call: &Call, table: &Table) -> Verdict {
    match call.always {
        Some(action) => Verdict::Plain(action.code()),
        None => Verdict::Checked {
            checks: call.checks.clone(),
            otherwise: table.otherwise,
            bits: table.bits,
        },
    }
}

/// x86-64 below the x32 bit, x32 above it. The number -1 is how programs ask for no call at all and
/// how a tracer cancels one: it is a call nobody knows, not a foreign convention (as libseccomp).
fn x86_64_ranges(x86_64: Option<&Table>, x32: Option<&Table>, bad: u32) -> Vec<(u32, Verdict)> {
    let mut ranges = Ranges::default();
    match x86_64 {
        Some(table) => ranges.table(0, table),
        None => ranges.push(0, Verdict::Plain(bad)),
    }
    match x32 {
        Some(table) => ranges.table(X32_BIT, table),
        None => ranges.push(X32_BIT, Verdict::Plain(bad)),
    }
    if let Some(table) = x86_64.or(x32) {
        ranges.push(u32::MAX, Verdict::Plain(table.beyond));
    }
    ranges.0
}
