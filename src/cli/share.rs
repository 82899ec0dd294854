//! `addrset` and `secgroup`: what guests' firewalls share.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use super::render::Cell;
use crate::guest::shared::{GroupChange, GroupView, SetChange, SetView};
use crate::model::{AddressBlock, FirewallLine, ShareName};

pub(super) const ADDRSET: Verb = Verb {
    name: "addrset",
    about: "Sets of addresses that rules of guests' firewalls name",
    build: |command| {
        let change = |verb: &'static str, about: &'static str, least: usize| {
            Command::new(verb)
                .about(about)
                .arg(name("Name of the set, which rules write as @NAME"))
                .arg(blocks(least))
                .arg(dry_run())
        };
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List sets of addresses"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a set, what is in it and who names it")
                    .arg(name("Name of the set")),
            )
            .subcommand(change("create", "Make a set", 0))
            .subcommand(change(
                "add",
                "Put addresses into a set, at once for all guests",
                1,
            ))
            .subcommand(change(
                "remove",
                "Take addresses out of a set, at once for all guests",
                1,
            ))
            .subcommand(
                Command::new("delete")
                    .about("Delete a set that no rule names")
                    .arg(name("Name of the set"))
                    .arg(dry_run()),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => {
            let view = context
                .manager()?
                .address_set(&required(matches, "name")?)?;
            context.one(&view, |_| set_text(&view))?;
            Ok(0)
        }
        Some(("create", matches)) => change_set(context, matches, "made", SetChange::Create),
        Some(("add", matches)) => change_set(context, matches, "changed", SetChange::Add),
        Some(("remove", matches)) => change_set(context, matches, "changed", SetChange::Remove),
        Some(("delete", matches)) => change_set(context, matches, "deleted", |_| SetChange::Delete),
        _ => {
            let all = context.manager()?.address_sets()?;
            context.list(&all, &["NAME", "ADDRESSES", "GUESTS", "GROUPS"], |view| {
                vec![
                    Cell::from(view.name.as_str()),
                    Cell::from(view.addresses.len().to_string()),
                    Cell::from(view.guests.len().to_string()),
                    Cell::from(view.groups.len().to_string()),
                ]
            })?;
            Ok(0)
        }
    },
    hidden: false,
};

pub(super) const SECGROUP: Verb = Verb {
    name: "secgroup",
    about: "Groups of firewall rules that guests share",
    build: |command| {
        let change = |verb: &'static str, about: &'static str| {
            Command::new(verb)
                .about(about)
                .arg(name("Name of the group, which guests name by the rule \"group NAME\""))
                .arg(
                    Arg::new("rule")
                        .long("rule")
                        .value_name("RULE")
                        .action(ArgAction::Append)
                        .help("Rule, in order, as --firewall takes it, such as \"in accept tcp 80,443\""),
                )
                .arg(dry_run())
        };
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List groups of rules"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show a group, its rules and its guests")
                    .arg(name("Name of the group")),
            )
            .subcommand(change("create", "Make a group"))
            .subcommand(change(
                "set",
                "Give a group other rules, at once for all guests that name it",
            ))
            .subcommand(
                Command::new("delete")
                    .about("Delete a group that no guest names")
                    .arg(name("Name of the group"))
                    .arg(dry_run()),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => {
            let view = context.manager()?.rule_group(&required(matches, "name")?)?;
            context.one(&view, |_| group_text(&view))?;
            Ok(0)
        }
        Some(("create", matches)) => change_group(context, matches, "made", GroupChange::Create),
        Some(("set", matches)) => {
            if !matches.contains_id("rule") {
                return Err(Fault::usage("nothing to set: say all rules with --rule"));
            }
            change_group(context, matches, "changed", GroupChange::Set)
        }
        Some(("delete", matches)) => {
            change_group(context, matches, "deleted", |_| GroupChange::Delete)
        }
        _ => {
            let all = context.manager()?.rule_groups()?;
            context.list(&all, &["NAME", "RULES", "GUESTS"], |view| {
                vec![
                    Cell::from(view.name.as_str()),
                    Cell::from(view.rules.len().to_string()),
                    Cell::from(view.guests.len().to_string()),
                ]
            })?;
            Ok(0)
        }
    },
    hidden: false,
};

fn name(help: &'static str) -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .value_parser(value_parser!(ShareName))
        .help(help)
}

fn blocks(least: usize) -> Arg {
    Arg::new("addresses")
        .value_name("ADDRESS[/BITS]")
        .num_args(least..)
        .required(least > 0)
        .value_delimiter(',')
        .value_parser(value_parser!(AddressBlock))
        .help("Addresses of IPv4 and IPv6, such as 198.51.100.0/24,2001:db8::/32")
}

fn change_set(
    context: &Context,
    matches: &ArgMatches,
    done: &str,
    change: impl Fn(Vec<AddressBlock>) -> SetChange,
) -> Result<u8> {
    let name: ShareName = required(matches, "name")?;
    let blocks = matches.try_get_many::<AddressBlock>("addresses");
    let blocks = blocks.ok().flatten().into_iter().flatten().copied();
    let dry_run = matches.get_flag("dry-run");
    let manager = context.manager()?;
    manager.change_address_set(&name, &change(blocks.collect()), dry_run)?;
    told(context, "address set", &name, done, dry_run)
}

fn change_group(
    context: &Context,
    matches: &ArgMatches,
    done: &str,
    change: impl Fn(Vec<FirewallLine>) -> GroupChange,
) -> Result<u8> {
    let name: ShareName = required(matches, "name")?;
    let texts = matches.try_get_many::<String>("rule").ok().flatten();
    let mut lines = Vec::new();
    for (at, text) in texts.into_iter().flatten().enumerate() {
        let line = text.parse::<FirewallLine>();
        lines.push(line.map_err(|error| Fault::usage(format!("--rule {}: {error}", at + 1)))?);
    }
    let dry_run = matches.get_flag("dry-run");
    let manager = context.manager()?;
    manager.change_rule_group(&name, &change(lines), dry_run)?;
    told(context, "security group", &name, done, dry_run)
}

fn told(context: &Context, what: &str, name: &ShareName, done: &str, dry: bool) -> Result<u8> {
    let verb = if dry { "would be" } else { "is" };
    context.done(&format!("{what} {name} {verb} {done}"))?;
    Ok(0)
}

fn lines(name: &ShareName, all: &[(&str, Vec<String>)]) -> String {
    let mut text = format!("{name}\n");
    for (key, values) in all {
        for value in values {
            text += &format!("  {key:<11}{value}\n");
        }
    }
    text
}

fn texts<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

fn set_text(view: &SetView) -> String {
    let addresses = ("address", texts(&view.addresses));
    let groups = ("group", texts(&view.groups));
    lines(
        &view.name,
        &[addresses, groups, ("guest", texts(&view.guests))],
    )
}

fn group_text(view: &GroupView) -> String {
    let rules = ("rule", texts(&view.rules));
    lines(&view.name, &[rules, ("guest", texts(&view.guests))])
}
