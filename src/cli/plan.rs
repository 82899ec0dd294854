//! `plan`: what a start would do, as data. Nothing is done.

use serde::Serialize;
use serde_json::Value;

use super::command::{Verb, name, name_of};
use super::render::{Format, safe};
use crate::plan::{HostStep, InitStep, LaunchPlan, StageStep};

pub(super) const PLAN: Verb = Verb {
    name: "plan",
    about: "Show the steps of a start and the OCI Spec they are made from; do nothing",
    build: |command| {
        command.arg(name()).after_help(
            "The default is the list of steps; --format json or yaml has the OCI Spec too.",
        )
    },
    run: |context, matches| {
        let planned = context.manager()?.plan(&name_of(matches)?)?;
        let printed = Printed {
            spec: &planned.spec,
            plan: &planned.plan,
        };
        context.one(&printed, |_| steps_text(&planned.plan))?;
        if context.format != Format::Table {
            context.say(
                "note: the Spec's seccomp section is ordered, with rules that catch what the rules \
                 before them leave; other runtimes read such rules differently",
            );
        }
        Ok(0)
    },
    hidden: false,
};

#[derive(Serialize)]
struct Printed<'a> {
    spec: &'a oci_spec::runtime::Spec,
    plan: &'a LaunchPlan,
}

/// Most characters of one field.
const LONGEST: usize = 100;

fn steps_text(plan: &LaunchPlan) -> String {
    let mut text = String::new();
    list(
        &mut text,
        "host: the launching process",
        &plan.host,
        HostStep::why,
    );
    list(
        &mut text,
        "stage: between host and guest",
        &plan.stage,
        StageStep::why,
    );
    list(
        &mut text,
        "init: the guest's first process",
        &plan.init,
        InitStep::why,
    );
    text
}

/// The steps of one process: number, name and reason, then what it is done with.
fn list<T: Serialize>(text: &mut String, title: &str, steps: &[T], why: fn(&T) -> &'static str) {
    *text += &format!("{title}\n");
    for (i, step) in steps.iter().enumerate() {
        let value = serde_json::to_value(step).unwrap_or_default();
        let name = value
            .get("step")
            .and_then(Value::as_str)
            .unwrap_or_default();
        *text += &format!("{:>4}. {name}: {}\n", i + 1, why(step));
        for (key, value) in value.as_object().into_iter().flatten() {
            if key != "step" {
                *text += &format!("        {key}: {}\n", short(value));
            }
        }
    }
}

fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => safe(text),
        other => safe(&other.to_string()),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start} …")
}
