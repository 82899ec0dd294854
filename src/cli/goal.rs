//! `goal`: what guests are to reach by a changing limit, and the controller that follows it.

use std::time::Duration;

use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, required, switch};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};
use super::goal_run;
use super::render::{self, Cell};
use crate::guest::goal::GoalView;
use crate::model::{
    Goal, GoalBound, GoalName, GoalResource, GuestName, Hours, Policy, Subject, TenantName, clock,
    metric_url,
};

pub(super) const GOAL: Verb = Verb {
    name: "goal",
    about: "Let guests' limits follow goals",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List goals"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a goal")
                    .arg(name()),
            )
            .subcommand(
                Command::new("create")
                    .about("Make a goal")
                    .arg(name())
                    .args(subject())
                    .arg(
                        flag(
                            "of",
                            "RESOURCE",
                            "Which limit changes: cpu, memory or io [default: cpu]",
                        )
                        .value_parser(GoalResource::ALL.map(GoalResource::word)),
                    )
                    .args(policy())
                    .args(bounds())
                    .arg(dry_run())
                    .group(ArgGroup::new("whose").args(["guest", "tenant"]))
                    .group(ArgGroup::new("what").args(["own", "use", "wait", "metric"])),
            )
            .subcommand(
                Command::new("set")
                    .about("Change a goal")
                    .arg(name())
                    .args(policy())
                    .args(bounds())
                    .arg(dry_run())
                    .group(ArgGroup::new("what").args(["own", "use", "wait", "metric"])),
            )
            .subcommand(
                Command::new("delete")
                    .about("Delete a goal")
                    .arg(name())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("number")
                    .about("Ask an address for the number that a goal would go by")
                    .arg(
                        Arg::new("url")
                            .value_name("URL")
                            .required(true)
                            .help("https://…, or http://… of this machine"),
                    ),
            )
            .subcommand(
                Command::new("run")
                    .about("Follow all goals until it is ended")
                    .arg(switch(
                        "act",
                        "Change limits for all goals, not only for those in mode act",
                    ))
                    .arg(
                        Arg::new("interval")
                            .long("interval")
                            .value_name("TIME")
                            .default_value("250ms")
                            .value_parser(interval)
                            .help("How often to look, 100ms to 1s"),
                    )
                    .after_help(
                        "One at a time. Without --act, goals in mode advise change nothing: what \
                         would be changed is told and logged. When it ends, in whatever way, \
                         limits are again what definitions say.",
                    ),
            )
            .subcommand(
                Command::new("log")
                    .about("Show what was changed, or advised, and why")
                    .arg(name().required(false).help("Only of this goal"))
                    .arg(
                        Arg::new("since")
                            .long("since")
                            .value_name("TIME")
                            .value_parser(clock::since)
                            .help("Only later ones: how long ago (10m, 2h, 7d) or a time in UTC"),
                    ),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => info(context, matches),
        Some(("create", matches)) => create(context, matches),
        Some(("set", matches)) => set(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        Some(("number", matches)) => number(context, matches),
        Some(("run", matches)) => goal_run::run(context, matches),
        Some(("log", matches)) => goal_run::log(context, matches),
        _ => list(context),
    },
    hidden: false,
};

fn name() -> Arg {
    Arg::new("goal")
        .value_name("GOAL")
        .required(true)
        .value_parser(value_parser!(GoalName))
        .help("Name of the goal")
}

fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn subject() -> [Arg; 2] {
    [
        flag("guest", "NAME", "Whose goal it is").value_parser(value_parser!(GuestName)),
        flag("tenant", "NAME", "The same for each guest of a tenant")
            .value_parser(value_parser!(TenantName)),
    ]
}

fn policy() -> [Arg; 5] {
    [
        switch("own", "It lends what it is entitled to and does not use, and borrows what others lend"),
        flag("use", "LOW-HIGH", "It uses so many percent of its limit, such as 50-80"),
        flag("wait", "PERCENT", "It waits for a CPU, memory or disks, or is held back, in less of the time"),
        flag("metric", "COMMAND", "The number that a command prints, such as '/usr/bin/check web' (words are split at spaces, there is no shell), or a web server says: https://HOST/PATH, or http://127.0.0.1:PORT/PATH")
            .requires("below"),
        flag("below", "NUMBER", "What that number is to stay below")
            .value_parser(value_parser!(f64))
            .requires("metric"),
    ]
}

fn bounds() -> [Arg; 5] {
    [
        flag(
            "priority",
            "N",
            "Who gets more first, 1 to 1000, the larger [default: 100]",
        )
        .value_parser(value_parser!(u32)),
        flag(
            "mode",
            "MODE",
            "advise (say what would be changed) or act [default: advise]",
        )
        .value_parser(["advise", "act"]),
        flag(
            "hours",
            "HOURS",
            "When it counts, UTC: 08:00-18:00/mon-fri, or always [default: always]",
        ),
        flag(
            "min",
            "BOUND",
            "Least limit (CPUs, memory such as 256M, or percent of its I/O limits), or none for what \
             it is guaranteed [default: none]",
        ),
        flag(
            "max",
            "BOUND",
            "Largest limit, or none for what its definition says [default: none]",
        ),
    ]
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let bounds = Duration::from_millis(100)..=Duration::from_secs(1);
    let fits = clock::duration(text)
        .ok()
        .filter(|time| bounds.contains(time));
    fits.ok_or_else(|| "write a time from 100ms to 1s".into())
}

/// A value that the word `none` (or `always`) takes away; as it was if it is not there.
fn read<T: std::str::FromStr>(matches: &ArgMatches, name: &str, was: &mut Option<T>) -> Result<()>
where
    T::Err: std::fmt::Display,
{
    match matches.get_one::<String>(name).map(String::as_str) {
        None => {}
        Some("none" | "always") => *was = None,
        Some(text) => {
            let wrong = |error: T::Err| Fault::usage(format!("--{name}: {error}"));
            *was = Some(text.parse().map_err(wrong)?);
        }
    }
    Ok(())
}

/// The policy that flags name, if they name one.
fn wanted(matches: &ArgMatches) -> Result<Option<Policy>> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let number = |name: &str, text: &str| {
        let wrong = |_| Fault::usage(format!("--{name}: {text:?} is no percentage"));
        text.trim_end_matches('%').parse::<u8>().map_err(wrong)
    };
    if matches.get_flag("own") {
        return Ok(Some(Policy::Own));
    }
    if let Some(text) = text("use") {
        let (low, high) = text
            .split_once('-')
            .ok_or_else(|| Fault::usage("--use: write two percentages, such as 50-80"))?;
        let (low, high) = (number("use", low)?, number("use", high)?);
        return Ok(Some(Policy::Utilisation { low, high }));
    }
    if let Some(text) = text("wait") {
        let below = number("wait", text)?;
        return Ok(Some(Policy::Waiting { below }));
    }
    let (Some(command), Some(below)) = (text("metric"), matches.get_one::<f64>("below")) else {
        return Ok(None);
    };
    Ok(Some(Policy::Metric {
        command: command.split_whitespace().map(str::to_owned).collect(),
        below: *below,
    }))
}

fn apply(matches: &ArgMatches, mut goal: Goal) -> Result<Goal> {
    if let Some(policy) = wanted(matches)? {
        goal.policy = policy;
    }
    if let Some(priority) = matches.get_one("priority") {
        goal.priority = *priority;
    }
    if let Some(mode) = matches.get_one::<String>("mode") {
        goal.act = mode == "act";
    }
    read::<Hours>(matches, "hours", &mut goal.hours)?;
    read::<GoalBound>(matches, "min", &mut goal.min)?;
    read::<GoalBound>(matches, "max", &mut goal.max)?;
    Ok(goal)
}

fn create(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: GoalName = required(matches, "goal")?;
    let subject = match matches.get_one::<GuestName>("guest") {
        Some(guest) => Subject::Guest(guest.clone()),
        None => match matches.get_one::<TenantName>("tenant") {
            Some(tenant) => Subject::Tenant(tenant.clone()),
            None => return Err(Fault::usage("whose goal is it? say --guest or --tenant")),
        },
    };
    if wanted(matches)?.is_none() {
        return Err(Fault::usage(
            "what is to be reached? say --own, --use, --wait, or --metric with --below",
        ));
    }
    let goal = Goal {
        subject,
        resource: GoalResource::ALL
            .into_iter()
            .find(|one| matches.get_one::<String>("of").map(String::as_str) == Some(one.word()))
            .unwrap_or_default(),
        policy: Policy::Own,
        priority: 100,
        act: false,
        hours: None,
        min: None,
        max: None,
    };
    context
        .manager()?
        .write_goal(&name, &apply(matches, goal)?, false)?;
    context.done(&format!("goal {name} is made"))?;
    Ok(0)
}

fn set(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: GoalName = required(matches, "goal")?;
    let manager = context.manager()?;
    let before = manager.goal(&name)?;
    let goal = apply(matches, before.clone())?;
    if goal == before {
        context.done(&format!("goal {name} is so already"))?;
        return Ok(0);
    }
    manager.check_goal(&name, &goal, true)?;
    if matches.get_flag("dry-run") {
        context.done(&format!("would change goal {name}"))?;
        return Ok(0);
    }
    manager.write_goal(&name, &goal, true)?;
    context.done(&format!("goal {name} is changed"))?;
    Ok(0)
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: GoalName = required(matches, "goal")?;
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        manager.goal(&name)?;
        context.done(&format!("would delete goal {name}"))?;
        return Ok(0);
    }
    manager.delete_goal(&name)?;
    context.done(&format!("goal {name} is deleted"))?;
    Ok(0)
}

fn number(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let url: String = required(matches, "url")?;
    let policy = Policy::Metric {
        command: vec![url.clone()],
        below: 1.0,
    };
    if metric_url(std::slice::from_ref(&url)).is_none() {
        return Err(Fault::usage(
            "give an address that begins with https:// or http://",
        ));
    }
    policy.check().map_err(Fault::usage)?;
    let number = crate::storage::number_at(&url)
        .map_err(|why| Fault::new(FAILED, format!("there is no number at {url}: {why}")))?;
    context.out(&format!("{number}\n"))?;
    Ok(0)
}

fn mode(goal: &Goal) -> &'static str {
    if goal.act { "act" } else { "advise" }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn list(context: &Context) -> Result<u8> {
    let all = context.manager()?.goals()?;
    let heads = ["NAME", "OF", "LIMIT", "IS TO", "PRIORITY", "MODE", "HOURS"];
    context.list(&all, &heads, |view| {
        let goal = &view.goal;
        vec![
            Cell::from(view.name.as_str()),
            Cell::from(goal.subject.to_string()),
            Cell::from(goal.resource.word()),
            Cell::from(render::safe(&goal.policy.to_string())),
            Cell::from(goal.priority.to_string()),
            Cell::from(mode(goal)),
            Cell::from(or_dash(goal.hours)),
        ]
    })?;
    Ok(0)
}

fn info(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let name: GoalName = required(matches, "goal")?;
    let goal = context.manager()?.goal(&name)?;
    let view = GoalView { name, goal };
    context.one(&view, |_| {
        let goal = &view.goal;
        let lines = [
            ("of", goal.subject.to_string()),
            ("limit", goal.resource.word().to_owned()),
            ("is to", render::safe(&goal.policy.to_string())),
            ("priority", goal.priority.to_string()),
            ("mode", mode(goal).to_owned()),
            ("hours", or_dash(goal.hours)),
            ("min", or_dash(goal.min)),
            ("max", or_dash(goal.max)),
        ];
        let lines = lines.map(|(what, text)| format!("  {what:<10}{text}\n"));
        format!("{}\n{}", view.name, lines.concat())
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_gives_an_owner_its_share_back_within_a_second() {
        assert_eq!(interval("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["50ms", "2s", "x"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
    }
}
