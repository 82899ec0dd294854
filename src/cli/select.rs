//! Which guests a verb on many is for: by name, `--all`, `--select`; and names as patterns.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};

use super::context::Context;
use super::fault::{Fault, Result};
use crate::model::{GuestName, TenantName};

/// The arguments of a verb on many guests that changes them.
pub(super) fn many(command: Command) -> Command {
    which(command)
        .arg(
            Arg::new("jobs")
                .short('j')
                .long("jobs")
                .value_name("N")
                .value_parser(value_parser!(u16).range(1..=256))
                .default_value("1")
                .help("How many to work on at the same time"),
        )
        .arg(super::command::dry_run())
}

/// The arguments of a verb on many guests.
pub(super) fn which(command: Command) -> Command {
    command
        .arg(
            Arg::new("names")
                .value_name("NAME")
                .num_args(0..)
                .value_parser(value_parser!(GuestName))
                .help("Guests, in this order"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with("names")
                .help("All guests"),
        )
        .arg(by_label())
        .arg(by_tenant())
        .group(
            ArgGroup::new("which")
                .args(["names", "all", "select", "tenant"])
                .required(true)
                .multiple(true),
        )
}

/// `--select`.
pub(super) fn by_label() -> Arg {
    Arg::new("select")
        .long("select")
        .value_name("LABEL[=VALUE]")
        .action(ArgAction::Append)
        .help("Only guests with this label; several must all be there")
}

/// `--tenant`.
pub(super) fn by_tenant() -> Arg {
    Arg::new("tenant")
        .long("tenant")
        .value_name("NAME")
        .value_parser(value_parser!(TenantName))
        .help("Only guests of this tenant")
}

/// Whether a guest is of the tenant that `--tenant` names, if it names one.
pub(super) fn of_tenant(matches: &ArgMatches, tenant: Option<&TenantName>) -> bool {
    let wanted = matches.try_get_one::<TenantName>("tenant").ok().flatten();
    wanted.is_none_or(|wanted| tenant == Some(wanted))
}

/// Refuses a tenant that is not there; one without guests is none to complain of.
pub(super) fn check_tenant(context: &Context, matches: &ArgMatches) -> Result<()> {
    let wanted = matches.try_get_one::<TenantName>("tenant").ok().flatten();
    if let Some(wanted) = wanted {
        context.manager()?.tenant_caps(wanted)?;
    }
    Ok(())
}

/// The guests chosen, each once. Names asked for need not be there: the verb says so.
pub(super) fn chosen(context: &Context, matches: &ArgMatches) -> Result<Vec<GuestName>> {
    let all = of_tenants(context, matches)?;
    if all.is_empty() {
        none(context, matches)?;
    }
    Ok(all)
}

/// Says that no guest is chosen, and refuses a tenant that is not there.
pub(super) fn none(context: &Context, matches: &ArgMatches) -> Result<()> {
    check_tenant(context, matches)?;
    context.say("no guest is chosen");
    Ok(())
}

/// The guests chosen, if there are any, of a tenant that need not be there.
pub(super) fn of_tenants(context: &Context, matches: &ArgMatches) -> Result<Vec<GuestName>> {
    let manager = context.manager()?;
    let mut all = of_whatever_tenant(context, matches)?;
    if let Some(wanted) = matches.try_get_one::<TenantName>("tenant").ok().flatten() {
        let tenant = |name: &GuestName| manager.guest(name).ok().and_then(|guest| guest.tenant);
        all.retain(|name| tenant(name).as_ref() == Some(wanted));
    }
    Ok(all)
}

/// The same as if `--tenant` had not been said.
pub(super) fn of_whatever_tenant(
    context: &Context,
    matches: &ArgMatches,
) -> Result<Vec<GuestName>> {
    let manager = context.manager()?;
    let named: Vec<GuestName> = matches
        .get_many("names")
        .map(|names| names.cloned().collect())
        .unwrap_or_default();
    let mut all = Vec::new();
    for name in if named.is_empty() {
        manager.names()?
    } else {
        named
    } {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    let wanted = selectors(matches)?;
    if !wanted.is_empty() {
        let labels = |name: &GuestName| manager.guest(name).map(|guest| guest.labels);
        all.retain(|name| labels(name).is_ok_and(|labels| selected(&wanted, &labels)));
    }
    Ok(all)
}

/// A label, and its value if that matters.
pub(super) type Selector = (String, Option<String>);

/// What `--select` asks for.
pub(super) fn selectors(matches: &ArgMatches) -> Result<Vec<Selector>> {
    let texts = matches.get_many::<String>("select").into_iter().flatten();
    texts
        .map(|text| {
            let (label, value) = match text.split_once('=') {
                Some((label, value)) => (label, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            if label.is_empty() {
                return Err(Fault::usage(format!(
                    "--select {text:?}: write LABEL or LABEL=VALUE"
                )));
            }
            Ok((label.to_owned(), value))
        })
        .collect()
}

/// Whether all selectors fit.
pub(super) fn selected(wanted: &[Selector], labels: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(label, value)| {
        let found = labels.get(label);
        found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
    })
}

/// Whether a name fits a pattern, in which `*` is any text and `?` any character.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: the last star, and what it has swallowed so far.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, swallowed)) = star else {
                    return false;
                };
                star = Some((at, swallowed + 1));
                (p, n) = (at + 1, swallowed + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fit) in [
            ("web", "web", true),
            ("web", "web1", false),
            ("web*", "web", true),
            ("*-1", "web-1-1", true),
            ("w?b", "web", true),
            ("w?b", "wb", false),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn labels() {
        let labels = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        let with = |label: &str, value: Option<&str>| (label.to_owned(), value.map(str::to_owned));
        assert!(selected(&[with("team", None)], &labels));
        assert!(selected(&[with("team", Some("shop"))], &labels));
        assert!(!selected(&[with("team", Some("x"))], &labels));
        assert!(!selected(&[with("team", None), with("x", None)], &labels));
    }
}
