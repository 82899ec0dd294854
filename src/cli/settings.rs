//! The flags of `create` and `set`: one for each row of `define::KEYS`, so that everything a
//! definition can hold can be said on the command line, and `KEY=VALUE` words for the same.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches};

use super::fault::{Fault, Result};
use crate::define::{Change, KEYS, Key, KeyError, KeyPath, Kind};

/// All flags, under headings.
pub(super) fn flags() -> impl Iterator<Item = Arg> {
    KEYS.iter().map(flag)
}

/// Those that say what a guest is made from.
pub(super) fn origin_flags() -> impl Iterator<Item = Arg> {
    KEYS.iter().filter(|key| is_origin(key)).map(flag)
}

/// All others: of a guest that comes with its root.
pub(super) fn flags_of_rooted() -> impl Iterator<Item = Arg> {
    KEYS.iter().filter(|key| !is_origin(key)).map(flag)
}

fn is_origin(key: &Key) -> bool {
    matches!(key.path, "template" | "template.options" | "image")
}

fn flag(key: &'static Key) -> Arg {
    let arg = Arg::new(key.path)
        .long(key.flag)
        .value_name(key.value)
        .help(key.help)
        .help_heading(heading(key.path))
        .allow_hyphen_values(matches!(key.kind, Kind::Number))
        .action(if key.repeats() {
            ArgAction::Append
        } else {
            ArgAction::Set
        });
    if key.kind == Kind::Switch {
        // `--nesting` alone says true.
        arg.num_args(0..=1)
            .default_missing_value("true")
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .hide_possible_values(true)
    } else {
        arg
    }
}

fn heading(path: &str) -> &'static str {
    match path.split('.').next().unwrap_or(path) {
        "template" | "image" | "profiles" | "description" | "labels" | "tenant" | "protect" => {
            "What it is"
        }
        "cpu" | "memory" | "processes" | "io" | "disk" | "rlimits" | "ptys" | "console_log"
        | "cgroups" => "Limits",
        "security" | "device" | "sysctls" => "What it may do",
        "mount" | "tmpfs" => "Files",
        "network" | "hostname" | "domain" => "Network",
        "autostart" | "restart" => "Start and restart",
        "snapshots" => "Snapshots",
        _ => "Inside",
    }
}

/// The changes that the flags ask for.
pub(super) fn changes(matches: &ArgMatches) -> Result<Vec<(KeyPath, Change)>> {
    let mut all = Vec::new();
    for key in KEYS {
        if let Ok(Some(texts)) = matches.try_get_many::<String>(key.path) {
            let texts: Vec<&String> = texts.collect();
            all.extend(key.changes(&texts)?);
        }
    }
    Ok(all)
}

/// The changes that `KEY=VALUE` asks for.
pub(super) fn assignment(word: &str) -> Result<Vec<(KeyPath, Change)>> {
    let Some((path, value)) = word.split_once('=') else {
        return Err(Fault::usage(format!("{word:?}: write KEY=VALUE"))
            .hint("`bulkhead get NAME` shows all keys"));
    };
    let path = KeyPath::parse(path.trim())?;
    let text = match (&path.item, path.key.kind) {
        (None, _) => value.to_owned(),
        (Some(item), Kind::Map) => format!("{item}={value}"),
        (Some(_), _) => {
            let (key, form) = (path.key.path, path.key.value);
            return Err(Fault::usage(format!("{word:?}: write {key}={form}")));
        }
    };
    path.key.changes(&[text]).map_err(|error| match error {
        // What was typed is a key, not a flag.
        KeyError::Value { message, .. } => Fault::usage(format!("{path}: {message}")),
        other => other.into(),
    })
}

/// The change that `--unset KEY` asks for.
pub(super) fn unset(path: &str) -> Result<(KeyPath, Change)> {
    Ok((KeyPath::parse(path)?, Change::Unset))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::define::edit;

    fn text(word: &str) -> String {
        match assignment(word) {
            Ok(changes) => edit("", &changes).unwrap(),
            Err(fault) => fault.text(),
        }
    }

    #[test]
    fn words_become_lines() {
        assert_eq!(text("cpu.limit=1.5"), "[cpu]\nlimit = 1.5\n");
        assert_eq!(text("labels.team=a=b"), "[labels]\nteam = \"a=b\"\n");
        assert_eq!(text("labels=team=x"), "[labels]\nteam = \"x\"\n");
        assert_eq!(text("security.add=BPF"), "[security]\nadd = [\"BPF\"]\n");
    }

    #[test]
    fn wrong_words_are_told_by_their_key() {
        let wrong = text("memory.limit=lots");
        assert!(
            wrong.starts_with("error: memory.limit: \"lots\" is not an amount"),
            "{wrong}"
        );
        assert!(text("memory=1G").contains("there is no setting"));
        assert!(text("mount./data=/x").contains("write mount=SOURCE:TARGET"));
        assert!(text("cpu.limit").contains("write KEY=VALUE"));
    }
}
