//! `plan`: what a start would do, as data. Nothing is done.

use serde::Serialize;
use serde_json::Value;

use super::command::{Verb, name, name_of};
use super::render::{Format, safe};
use crate::plan::LaunchPlan;

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
    let lists = [
        ("host: the launching process", values(&plan.host)),
        ("stage: between host and guest", values(&plan.stage)),
        ("init: the guest's first process", values(&plan.init)),
    ];
    for (title, steps) in lists {
        text += &format!("{title}\n");
        for (i, step) in steps.iter().enumerate() {
            let name = step.get("step").and_then(Value::as_str).unwrap_or_default();
            text += &format!("{:>4}. {name}\n", i + 1);
            for (key, value) in step.as_object().into_iter().flatten() {
                if key != "step" {
                    text += &format!("        {key}: {}\n", short(value));
                }
            }
        }
    }
    text
}

fn values<T: Serialize>(steps: &[T]) -> Vec<Value> {
    let value = |step| serde_json::to_value(step).unwrap_or_default();
    steps.iter().map(value).collect()
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
