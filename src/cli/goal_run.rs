//! `goal run` and `goal log`: goals followed, and what came of that.

use std::time::Duration;

use clap::ArgMatches;

use super::command::required;
use super::context::Context;
use super::fault::Result;
use super::logs::in_words;
use super::render::{self, Cell, Format};
use crate::guest::goal_run::{Decision, Told};
use crate::model::{Event, EventKind, GoalName, clock};

pub(super) fn run(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let every: Duration = required(matches, "interval")?;
    let mut failed = Ok(());
    let mut told = |told: &Told| {
        let text = match (context.format, told) {
            (Format::Table, Told::Decision(decision)) => format!("{}\n", decision_text(decision)),
            (
                Format::Table,
                Told::Metric {
                    guest,
                    goal,
                    no_number,
                },
            ) => {
                let words = in_words(&EventKind::GoalMetric {
                    goal: goal.clone(),
                    why: no_number.clone(),
                });
                format!("guest {guest}, {}\n", render::safe(&words))
            }
            (format, told) => render::streamed(format, told),
        };
        if let Err(error) = context.out(&text) {
            failed = Err(error);
        }
    };
    context
        .manager()?
        .run_goals(matches.get_flag("act"), every, &mut told)?;
    failed?;
    Ok(0)
}

fn decision_text(decision: &Decision) -> String {
    format!(
        "guest {}, goal {}: {} {} {} to {}: {}",
        decision.guest,
        decision.goal,
        decision.resource.limit(),
        if decision.acted {
            "changed from"
        } else {
            "would change from"
        },
        decision.resource.show(decision.from),
        decision.resource.show(decision.to),
        decision.cause
    )
}

pub(super) fn log(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let wanted = matches.get_one::<GoalName>("goal").map(GoalName::as_str);
    let since = matches.get_one::<u64>("since").copied().unwrap_or(0);
    let fits = |event: &Event| match &event.kind {
        EventKind::Goal { goal, .. } | EventKind::GoalMetric { goal, .. } => {
            event.time_ms >= since && wanted.is_none_or(|wanted| wanted == goal)
        }
        _ => false,
    };
    let mut all = Vec::new();
    context.manager()?.events(&fits, false, &mut |event| {
        all.push(event.clone());
        true
    })?;
    context.list(&all, &["TIME", "GUEST", "WHAT"], |event| {
        vec![
            Cell::from(clock::time(event.time_ms)),
            Cell::from(render::safe(&event.guest)),
            Cell::from(render::safe(&in_words(&event.kind))),
        ]
    })?;
    Ok(0)
}
