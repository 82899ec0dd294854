//! The house rules that a compiler does not check, read from the text of `src`: which room may use
//! which (the table is the one in `src/lib.rs`), where crates and `unsafe` have their place, how
//! long a file may be. How text becomes paths is in `tests/reader/mod.rs`.

mod reader;

use reader::Source;

/// Crates that have a home, and the rooms that are it. Others may be used anywhere.
const HOMES: &[(&str, &[&str])] = &[
    ("libc", &["kernel"]),
    ("caps", &["kernel"]),
    ("cgroups_rs", &["kernel"]),
    ("libseccomp", &["kernel"]),
    ("netlink_packet_core", &["kernel"]),
    ("netlink_packet_route", &["kernel"]),
    ("netlink_sys", &["kernel"]),
    ("zbus", &["kernel"]),
    // Its safe calls on descriptors are also how storage works on files.
    ("nix", &["kernel", "storage"]),
    // Safe calls on owned descriptors: everywhere but in the rooms that do no I/O.
    (
        "rustix",
        &[
            "kernel", "define", "storage", "network", "launch", "guest", "cli", "oci",
        ],
    ),
    ("tar", &["storage"]),
    ("ureq", &["storage"]),
    ("clap", &["cli", "oci"]),
    ("clap_complete", &["cli", "oci"]),
    ("clap_mangen", &["cli", "oci"]),
    ("comfy_table", &["cli"]),
];

/// Lines a file may have before its tests.
const LONGEST: usize = 450;

/// File names that say nothing about what is in them.
const DRAWERS: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

/// The rooms and their layers, from the table in the crate's documentation.
fn rooms(lib: &str) -> Vec<(String, u32)> {
    lib.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("//! | L")?.split(" | ");
            let layer = cells.next()?.trim().parse().ok()?;
            let room = cells
                .next()?
                .trim()
                .strip_prefix("[`")?
                .strip_suffix("`]")?;
            Some((room.to_owned(), layer))
        })
        .collect()
}

/// Why `from` may not use room `to`, or nothing if it may.
fn objection(rooms: &[(String, u32)], from: &str, to: &str) -> Option<String> {
    let layer = |room: &str| rooms.iter().find(|(name, _)| name == room).map(|r| r.1);
    let (there, here) = (layer(to)?, layer(from));
    match here {
        _ if from == to => None,
        // A program in src/bin: front doors, the life of a guest, nouns.
        None if there >= 3 || there == 0 => None,
        None => Some(format!("a program may not use {to} (L{there}) itself")),
        Some(here) if there < here => None,
        Some(here) if there == here => Some(format!("{from} and {to} are neighbours (L{here})")),
        Some(here) => Some(format!("{from} (L{here}) reaches up to {to} (L{there})")),
    }
}

/// All objections to the arrows of one file.
fn bad_arrows(rooms: &[(String, u32)], source: &Source) -> Vec<String> {
    source
        .rooms_used(rooms)
        .into_iter()
        .filter_map(|(line, to)| {
            let why = objection(rooms, &source.room, &to)?;
            Some(format!("{}:{line}: {why}", source.path))
        })
        .collect()
}

/// All uses, in one file, of crates that have their home elsewhere.
fn crates_abroad(source: &Source) -> Vec<String> {
    HOMES
        .iter()
        .filter(|(_, homes)| !homes.contains(&source.room.as_str()))
        .flat_map(|(name, homes)| {
            source.crate_used(name).into_iter().map(move |line| {
                let homes = homes.join(", ");
                format!("{}:{line}: crate {name} belongs in {homes}", source.path)
            })
        })
        .collect()
}

/// All lines with the word `unsafe` in one file outside the kernel room.
fn unsafe_abroad(source: &Source) -> Vec<String> {
    if source.room == "kernel" {
        return Vec::new();
    }
    let lines = source.lines_with_word("unsafe");
    let say = |line| format!("{}:{line}: unsafe belongs in src/kernel", source.path);
    lines.into_iter().map(say).collect()
}

/// What is wrong with the shape of one file: its first line, its length, its name.
fn bad_shape(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.starts_with("//!") {
        found.push(format!(
            "{}:1: does not say why it exists (//!)",
            source.path
        ));
    }
    // A file that is all tests has no lines before them.
    let length = match source.path.ends_with("_tests.rs") {
        true => 0,
        false => source.lines_before_tests(),
    };
    if length > LONGEST {
        found.push(format!(
            "{}: {length} lines, more than {LONGEST}",
            source.path
        ));
    }
    let stem = source
        .path
        .rsplit('/')
        .next()
        .unwrap_or("")
        .trim_end_matches(".rs");
    if DRAWERS.contains(&stem) || stem == source.room && source.path.matches('/').count() > 1 {
        found.push(format!("{}: a name that says nothing new", source.path));
    }
    found
}

fn check(rule: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<String> = reader::sources().iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn table() -> Vec<(String, u32)> {
    let lib = reader::sources()
        .into_iter()
        .find(|s| s.path == "src/lib.rs");
    rooms(&lib.expect("src/lib.rs").text)
}

#[test]
fn every_room_is_in_the_table() {
    let table = table();
    for source in reader::sources() {
        let known = ["", "bin"].contains(&source.room.as_str())
            || table.iter().any(|(room, _)| *room == source.room);
        assert!(
            known,
            "{}: room {} is not in src/lib.rs",
            source.path, source.room
        );
    }
}

#[test]
fn rooms_use_only_lower_layers() {
    let table = table();
    // lib.rs declares the rooms; links in its documentation are no arrows.
    check(|source| match source.path.as_str() {
        "src/lib.rs" => Vec::new(),
        _ => bad_arrows(&table, source),
    });
}

#[test]
fn crates_stay_in_their_homes() {
    check(crates_abroad);
}

#[test]
fn unsafe_stays_in_kernel() {
    check(unsafe_abroad);
}

#[test]
fn files_say_why_they_exist_and_are_short() {
    check(bad_shape);
}

// What follows shows that the rules above can fail.

const LIB: &str = "//! | layer | room | what |\n//! |---|---|---|\n\
    //! | L0 | [`model`] | nouns |\n//! | L1 | [`kernel`] | calls |\n\
    //! | L1 | [`plan`] | pure |\n//! | L2 | [`storage`] | roots |\n\
    //! | L2 | [`launch`] | acts |\n//! | L3 | [`guest`] | life |\n//! | L4 | [`cli`] | door |\n";

fn arrows(path: &str, text: &str) -> Vec<String> {
    bad_arrows(&rooms(LIB), &Source::new(path, text))
}

#[test]
fn planted_bad_arrows_are_caught() {
    for (path, text) in [
        ("src/plan/steps.rs", "use crate::guest::Life;"),
        ("src/plan/steps.rs", "use crate::kernel::mount;"),
        (
            "src/plan/steps.rs",
            "use crate::{model::Guest, storage::{Pool, Root}};",
        ),
        (
            "src/plan/steps.rs",
            "use crate::{\n    model::Guest,\n    storage as s,\n};",
        ),
        ("src/plan/steps.rs", "fn f() { crate::cli::say(\"it's\") }"),
        ("src/plan/steps.rs", "use super::super::kernel;"),
        ("src/plan/mod.rs", "use super::{kernel::mount};"),
        (
            "src/launch/init.rs",
            "/* a \" quote */ use crate :: storage::Root;",
        ),
        (
            "src/model/name.rs",
            "fn f<'a>(x: &'a crate::plan::Plan) -> char { '\"' }",
        ),
        (
            "src/bin/bulkhead.rs",
            "fn main() { bulkhead::kernel::mount(); }",
        ),
    ] {
        assert_eq!(arrows(path, text).len(), 1, "{path}: {text}");
    }
    assert_eq!(
        arrows("src/storage/pool.rs", "\n\nuse crate::launch::undo;"),
        ["src/storage/pool.rs:3: storage and launch are neighbours (L2)"]
    );
}

#[test]
fn good_arrows_pass() {
    for (path, text) in [
        (
            "src/plan/steps.rs",
            "use crate::model::Guest; use crate::plan::check; use super::spec;",
        ),
        (
            "src/plan/steps.rs",
            "// crate::guest\n/// [`crate::cli`]\nconst A: &str = \"crate::cli\";",
        ),
        (
            "src/plan/steps.rs",
            "const A: &str = r#\"a \"quoted\" crate::cli::x\"#;",
        ),
        (
            "src/plan/steps.rs",
            "use super::guest; use self::storage::x; use other::crate_::guest;",
        ),
        (
            "src/launch/init.rs",
            "pub(crate) use crate::kernel::{mount, idmap as guest};",
        ),
        (
            "src/bin/bulkhead.rs",
            "use bulkhead::{cli, guest, model::GuestName};",
        ),
    ] {
        assert_eq!(arrows(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn planted_bad_crates_are_caught() {
    let abroad = |path: &str, text: &str| crates_abroad(&Source::new(path, text)).len();
    assert_eq!(abroad("src/plan/a.rs", "use nix::sched;"), 1);
    assert_eq!(
        abroad("src/plan/a.rs", "fn f() { let x = ::libc::SIGHUP; }"),
        1
    );
    assert_eq!(
        abroad("src/plan/a.rs", "use {std::fs, rustix::fs as r};"),
        1
    );
    assert_eq!(abroad("src/guest/a.rs", "use tar;"), 1);
    assert_eq!(
        abroad("src/storage/a.rs", "use rustix::fs; use tar::Archive;"),
        0
    );
    assert_eq!(
        abroad(
            "src/launch/a.rs",
            "use crate::kernel::caps; fn f() { caps::drop() }"
        ),
        0
    );
    assert_eq!(
        abroad(
            "src/launch/a.rs",
            "use crate::kernel::{a, caps}; fn f() { caps::g() }"
        ),
        0
    );
    assert_eq!(
        abroad(
            "src/launch/a.rs",
            "fn f() { crate::kernel::caps::drop(); my_caps::x() }"
        ),
        0
    );
}

#[test]
fn planted_bad_files_are_caught() {
    let shape = |path: &str, text: &str| bad_shape(&Source::new(path, text)).len();
    assert_eq!(shape("src/plan/steps.rs", "//! Why.\nfn f() {}\n"), 0);
    assert_eq!(shape("src/plan/steps.rs", "fn f() {}\n"), 1);
    assert_eq!(shape("src/plan/utils.rs", "//! Why.\n"), 1);
    assert_eq!(shape("src/plan/plan.rs", "//! Why.\n"), 1);
    let long = "//! Why.\n".repeat(LONGEST + 1);
    assert_eq!(shape("src/plan/steps.rs", &long), 1);
    let tested = format!("//! Why.\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(shape("src/plan/steps.rs", &tested), 0);
    let unsafe_ = |path: &str, text: &str| unsafe_abroad(&Source::new(path, text)).len();
    assert_eq!(
        unsafe_("src/plan/a.rs", "#![deny(unsafe_code)] // unsafe\n"),
        0
    );
    assert_eq!(unsafe_("src/plan/a.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(unsafe_("src/kernel/a.rs", "fn f() { unsafe { g() } }"), 0);
}
