//! `completions` and `man`: the clap tree, told to a shell and to man(1).

use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::command::{Verb, required, shown_tree};
use super::context::Context;
use super::fault::{FAILED, Fault, Result};

pub(super) const COMPLETIONS: Verb = Verb {
    name: "completions",
    about: "Print completions for a shell",
    build: |command| {
        command.arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(["bash", "zsh", "fish"])
                .help("The shell"),
        )
    },
    run: completions,
    hidden: false,
};

pub(super) const MAN: Verb = Verb {
    name: "man",
    about: "Write the man pages, one a command, into a folder",
    build: |command| {
        command.arg(
            Arg::new("dir")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("The folder"),
        )
    },
    run: |context, matches| man(context, &required::<PathBuf>(matches, "dir")?),
    hidden: true,
};

fn completions(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let shell = match required::<String>(matches, "shell")?.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut shown(true), "bulkhead", &mut script);
    context.out(&for_both(shell, &String::from_utf8_lossy(&script)))?;
    Ok(0)
}

/// The script for `bulkhead`, which then serves `bh` as well: a shell loads one file for both.
fn for_both(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Fish => format!("{script}complete -c bh -w bulkhead\n"),
        Shell::Zsh => script
            .replace("#compdef bulkhead\n", "#compdef bulkhead bh\n")
            .replace(
                "compdef _bulkhead bulkhead\n",
                "compdef _bulkhead bulkhead bh\n",
            ),
        _ => script.replace(" default bulkhead\n", " default bulkhead bh\n"),
    }
}

/// The tree without what people are not shown, with or without the verb `help`.
fn shown(help: bool) -> Command {
    let mut command = shown_tree("bulkhead");
    if !help {
        command = command.disable_help_subcommand(true);
    }
    command.build();
    command
}

fn man(context: &Context, folder: &Path) -> Result<u8> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Fault::new(FAILED, format!("cannot write {path}: {error}"))
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for (name, command) in pages(&shown(false), "bulkhead") {
        let path = folder.join(format!("{name}.1"));
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .title(name.to_ascii_uppercase())
            .render(&mut page)
            .map_err(failed(&path))?;
        std::fs::write(&path, page).map_err(failed(&path))?;
        context.say(&path.display().to_string());
    }
    Ok(0)
}

/// Every command that people are shown, by the name of its page. `help` is the program's own man(1)
/// and has none.
fn pages(command: &Command, name: &str) -> Vec<(String, Command)> {
    let mut all = vec![(name.to_owned(), command.clone())];
    for sub in command.get_subcommands() {
        all.extend(pages(sub, &format!("{name}-{}", sub.get_name())));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let names: Vec<String> = pages(&shown(false), "bulkhead")
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for page in ["bulkhead", "bulkhead-create", "bulkhead-template-build"] {
            assert!(names.iter().any(|name| name == page), "{page}");
        }
        assert!(!names.iter().any(|name| name.contains("keeper")));
    }
}
