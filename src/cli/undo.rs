//! `undo`: what becomes of what a guest has written since `start --undo`.

use clap::{Arg, ArgMatches};

use super::command::{Verb, dry_run, name, name_of, required};
use super::context::Context;
use super::fault::Result;
use crate::guest::undo::Decision;

pub(super) const UNDO: Verb = Verb {
    name: "undo",
    about: "Keep or drop what a guest has written since `start --undo`",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("decision")
                    .value_name("keep|merge|drop")
                    .required(true)
                    .value_parser(["keep", "merge", "drop"])
                    .hide_possible_values(true)
                    .help(
                        "What becomes of it; keep and merge are the same, to drop it the guest must \
                         be stopped",
                    ),
            )
            .arg(dry_run())
            .after_help(
                "Examples:\n  bulkhead start web --undo=later\n  bulkhead stop web\n  \
                 bulkhead undo web drop\n\nNot decided yet, `bulkhead start web --undo=later` goes \
                 on over what it has written.",
            )
    },
    run: undo,
    hidden: false,
};

fn undo(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let decision = match required::<String>(matches, "decision")?.as_str() {
        "keep" | "merge" => Decision::Keep,
        _ => Decision::Drop,
    };
    let what = match decision {
        Decision::Keep => "what it has written stays",
        Decision::Drop => "its files are as they were before its start",
    };
    if matches.get_flag("dry-run") {
        manager.check_decision(&name, decision)?;
        context.done(&format!("{name}: would be so that {what}"))?;
        return Ok(0);
    }
    manager.decide_undo(&name, decision)?;
    context.done(&format!("{name}: {what}"))?;
    Ok(0)
}
