//! `doctor`: what this host can and cannot do, and what commands that died have left.

use clap::ArgMatches;
use serde::Serialize;

use super::command::{Verb, switch};
use super::context::Context;
use super::fault::{FAILED, Result};
use super::render::{self, Cell, Format, Tone};
use crate::guest::doctor::{Finding, Grade};
use crate::guest::leftover::Leftover;

pub(super) const DOCTOR: Verb = Verb {
    name: "doctor",
    about: "Say what this host can do, find what died commands have left, remove it",
    build: |command| {
        command
            .arg(switch("fix", "Remove what is left over"))
            .after_help("Exit code 0 when nothing is missing and nothing is left over, else 1.")
    },
    run: doctor,
    hidden: false,
};

#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    leftovers: Vec<Leftover>,
}

fn doctor(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let fix = matches.get_flag("fix");
    let leftovers = manager.leftovers(fix)?;
    if fix && manager.names()?.is_empty() {
        manager.remove_shared()?;
    }
    let report = Report {
        findings: manager.findings(),
        leftovers,
    };
    if context.format == Format::Table {
        context.out(&text(&report, context.colour))?;
        if !fix && !report.leftovers.is_empty() {
            context.say("hint: `bulkhead doctor --fix` removes what is left over");
        }
    } else {
        context.out(&render::data(context.format, &report))?;
    }
    let missing = report
        .findings
        .iter()
        .any(|finding| finding.grade == Grade::Bad);
    let left = report.leftovers.iter().any(|leftover| !leftover.removed);
    Ok(if missing || left { FAILED } else { 0 })
}

fn text(report: &Report, colour: bool) -> String {
    let findings: Vec<Vec<Cell>> = report.findings.iter().map(finding).collect();
    let mut text = render::table(&["GRADE", "SUBJECT", "FINDING"], &findings, colour);
    if report.leftovers.is_empty() {
        return text + "\nNothing is left over.\n";
    }
    let rows: Vec<Vec<Cell>> = report.leftovers.iter().map(leftover).collect();
    text.push('\n');
    text + &render::table(&["LEFT OVER", "NAME", "STATE"], &rows, colour)
}

fn finding(finding: &Finding) -> Vec<Cell> {
    let grade = match finding.grade {
        Grade::Good => Cell::new("good", Tone::Good),
        Grade::Partial => Cell::new("partial", Tone::Odd),
        Grade::Bad => Cell::new("missing", Tone::Bad),
    };
    vec![
        grade,
        Cell::from(&finding.subject),
        Cell::from(&finding.text),
    ]
}

fn leftover(leftover: &Leftover) -> Vec<Cell> {
    let state = match (&leftover.why, leftover.removed) {
        (Some(why), _) => Cell::new(&format!("cannot be cleared: {why}"), Tone::Bad),
        (None, true) => Cell::new("cleared", Tone::Good),
        (None, false) => Cell::new("still there", Tone::Odd),
    };
    vec![Cell::from(leftover.kind), Cell::from(&leftover.name), state]
}
