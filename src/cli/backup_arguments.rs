//! The verbs and flags of `backup`; what they do is in `backup` and `backup_restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgGroup, Command, value_parser};

use super::command::{dry_run, switch};
use super::select;
use super::settings;
use crate::model::GuestName;

/// The verbs of `backup` with their flags.
pub(super) fn verbs() -> Vec<Command> {
    let place = Arg::new("repo")
        .value_name("REPO")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("Folder of the repository; it is made, or is empty");
    let guests = Arg::new("names")
        .value_name("GUEST")
        .num_args(0..)
        .value_parser(value_parser!(GuestName))
        .help("Guests, in this order");
    let which = ArgGroup::new("which").args(["names", "all", "select"]);
    let all = switch("all", "All guests").conflicts_with("names");
    vec![
        Command::new("init")
            .about("Make a repository, and the key file if there is none")
            .arg(place)
            .args(keys())
            .arg(dry_run()),
        with_repo(Command::new("create").about("Back guests up; they may run"))
            .args([guests, all, select::by_label()])
            .group(which.required(true).multiple(true))
            .arg(switch(
                "freeze",
                "Freeze each for a moment at the end, so that all its files are of one moment",
            ))
            .arg(dry_run()),
        with_repo(Command::new("list").about("List snapshots, oldest first")),
        with_repo(Command::new("info").alias("show").about("Show a snapshot")).arg(snapshot()),
        with_repo(Command::new("ls").about("List the files of a snapshot"))
            .arg(snapshot())
            .args(list_arguments()),
        with_repo(Command::new("restore").about("Bring back files, or a guest"))
            .arg(snapshot())
            .args(restore_arguments())
            .arg(dry_run())
            .args(settings::flags_of_rooted().map(|flag| flag.requires("guest").conflicts_with("to")))
            .after_help(
                "With --guest, flags of settings change its definition, as with `create`.\n\nExamples:\n  \
                 bulkhead backup restore web /etc/nginx --to /root/old\n  \
                 bulkhead backup restore web --guest web\n  \
                 bulkhead backup restore 5f2a --guest web2 --pool fast --disk 20G",
            ),
        with_repo(Command::new("diff").about("Show what differs between two snapshots"))
            .args(diff_arguments()),
        with_repo(Command::new("verify").about("Look whether all is there, or read all of it"))
            .arg(switch(
                "read-data",
                "Read every byte, which finds every flipped bit",
            )),
        with_repo(Command::new("delete").about("Delete snapshots, and what only they need"))
            .arg(snapshot().num_args(1..))
            .arg(dry_run()),
        with_repo(Command::new("prune").about("Delete snapshots by age, and what nothing needs"))
            .args(retention())
            .arg(dry_run()),
        with_repo(Command::new("reindex").about("Make a damaged index anew from the packs"))
            .arg(dry_run()),
    ]
}

/// The argument that names a snapshot.
fn snapshot() -> Arg {
    Arg::new("snapshot")
        .value_name("SNAPSHOT")
        .required(true)
        .help("A snapshot by its name or the beginning of it, or a guest for its newest")
}

fn retention() -> [Arg; 4] {
    [
        ("keep-last", "Keep the newest N of each guest"),
        (
            "keep-daily",
            "Keep the newest of each of the last N days that have any",
        ),
        ("keep-weekly", "Keep the newest of each of the last N weeks"),
        (
            "keep-monthly",
            "Keep the newest of each of the last N months",
        ),
    ]
    .map(|(name, help)| {
        Arg::new(name)
            .long(name)
            .value_name("N")
            .value_parser(value_parser!(u32).range(1..))
            .help(help)
    })
}

fn keys() -> [Arg; 2] {
    [
        Arg::new("key-file")
            .long("key-file")
            .value_name("FILE")
            .env("BULKHEAD_BACKUP_KEY_FILE")
            .hide_env(true)
            .value_parser(value_parser!(PathBuf))
            .help("File with the repository's key [default: $BULKHEAD_BACKUP_KEY_FILE, or etc/bulkhead/backup.key]"),
        switch("no-encryption", "The repository is not encrypted").conflicts_with("key-file"),
    ]
}

fn with_repo(command: Command) -> Command {
    let repo = Arg::new("repo")
        .long("repo")
        .value_name("REPO")
        .required(true)
        .env("BULKHEAD_BACKUP_REPO")
        .hide_env(true)
        .value_parser(value_parser!(PathBuf))
        .help("Folder of the repository [default: $BULKHEAD_BACKUP_REPO]");
    command.arg(repo).args(keys())
}

/// Arguments of `restore` beyond the snapshot.
fn restore_arguments() -> [Arg; 5] {
    [
        Arg::new("paths")
            .value_name("PATH")
            .num_args(0..)
            .value_parser(value_parser!(OsString))
            .conflicts_with("guest")
            .help("Paths inside the guest [default: everything]"),
        Arg::new("to")
            .long("to")
            .value_name("DIR")
            .value_parser(value_parser!(PathBuf))
            .conflicts_with("guest")
            .help("New folder for the files, for its owner only"),
        Arg::new("guest")
            .long("guest")
            .value_name("NAME")
            .value_parser(value_parser!(GuestName))
            .help("New guest to make of the snapshot"),
        switch(
            "trust",
            "Take a definition that reaches beyond the guest from a repository that is not encrypted",
        )
        .requires("guest"),
        own().conflicts_with("guest"),
    ]
}

/// Arguments of `ls` beyond the snapshot.
fn list_arguments() -> [Arg; 3] {
    [
        Arg::new("path")
            .value_name("PATH")
            .value_parser(value_parser!(OsString))
            .help("Folder inside the guest, or one file [default: /]"),
        switch("recursive", "All that is below it").short('r'),
        own(),
    ]
}

/// Arguments of `diff`.
fn diff_arguments() -> [Arg; 3] {
    let snapshot = |id, help| {
        Arg::new(id)
            .value_name("SNAPSHOT")
            .required(true)
            .help(help)
    };
    [
        snapshot("old", "The earlier one, named as for `info`"),
        snapshot("new", "The later one"),
        own(),
    ]
}

fn own() -> Arg {
    switch(
        "own",
        "Only the guest's own layer, with the marks of what it hides",
    )
}
