//! The walk through README.md, to the letter: its commands are taken out of the text and run in
//! order in one shell, in an installation of the test's own. Shows that a newcomer who types what
//! is written gets there.

use std::path::Path;
use std::process::Command;

use crate::support::{Bulkhead, Need, need, program, run};

const README: &str = include_str!("../../README.md");

/// The part of the walk below one of its headings: the lines of its `sh` blocks.
fn commands(heading: &str) -> Vec<&'static str> {
    let (_, rest) = README
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("README.md has no part {heading:?}"));
    let part = rest.split("\n### ").next().unwrap_or(rest);
    let part = part.split("\n## ").next().unwrap_or(part);
    let blocks = part.split("```sh\n").skip(1);
    blocks
        .flat_map(|block| block.split("```").next().unwrap_or("").lines())
        .collect()
}

/// Runs these lines in one shell, which ends at the first that fails and says which.
#[track_caller]
fn walk(bulkhead: &Bulkhead, lines: &[&str]) -> String {
    let bin = bulkhead.root().join("bin");
    std::fs::create_dir_all(&bin).expect("a folder of ours");
    let program = std::fs::canonicalize(program()).expect("the program");
    std::os::unix::fs::symlink(program, bin.join("bulkhead")).expect("a folder of ours");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut output = String::new();
    // One shell, so that variables and the folder last; told apart by a line before each command.
    let script: String = lines
        .iter()
        .map(|line| format!("echo {MARK}\n{line}\n"))
        .collect();
    let mut shell = Command::new("bash");
    shell.args(["-e", "-c", &format!("exec 2>&1\n{script}")]);
    shell
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("BULKHEAD_ROOT", bulkhead.root())
        .env("NO_COLOR", "1")
        .current_dir(bulkhead.root())
        .stdin(std::process::Stdio::null());
    let outcome = run(shell);
    let mark = format!("{MARK}\n");
    let said = outcome.stdout.split(&mark).skip(1);
    for (line, said) in lines.iter().zip(said) {
        output += &format!("# {line}\n{said}");
    }
    assert_eq!(outcome.code, 0, "the last of these failed:\n{output}");
    println!("{output}");
    output
}

const MARK: &str = "-- next command --";

/// Images of Debian are kept beside the build, as everything that is slow to make.
fn keep_images(bulkhead: &Bulkhead) {
    let etc = bulkhead.root().join("etc/bulkhead");
    std::fs::create_dir_all(&etc).expect("a folder of ours");
    let images = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images");
    let settings = format!("[images]\ndir = {:?}\n", images.display().to_string());
    std::fs::write(etc.join("bulkhead.toml"), settings).expect("a folder of ours");
}

#[test]
fn the_walk_has_all_its_parts() {
    assert_eq!(
        commands("Install"),
        ["make install", "bulkhead template list"]
    );
    for (part, least) in [
        ("A small guest", 12),
        ("A Debian server", 15),
        ("Taking it all away", 4),
    ] {
        assert!(commands(part).len() >= least, "{part}");
    }
}

#[test]
fn a_small_guest() {
    if !need(Need::Root) {
        return;
    }
    let bulkhead = Bulkhead::new();
    let mut lines = vec!["bulkhead template list"];
    lines.extend(commands("A small guest"));
    lines.extend(["bulkhead stop cell", "bulkhead delete cell --yes"]);
    let said = walk(&bulkhead, &lines);
    for words in [
        "created from template busybox",
        "It works",
        "in force: cpu.limit, memory.limit",
        "refused, exit code 5",
        "killed, exit code 137",
        "1 killed for want of it",
    ] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
    assert_eq!(bulkhead.ok(&["list", "--format", "csv"]).lines().count(), 1);
}

#[test]
fn a_debian_server() {
    if !need(Need::Root) || !need(Need::DebianMirror) {
        return;
    }
    let bulkhead = Bulkhead::new();
    keep_images(&bulkhead);
    // Built in a command of its own, in its own time: a first build fetches 150 packages.
    let built = bulkhead.command(&["template", "build", "debian"]).status();
    assert!(built.is_ok_and(|status| status.success()));
    let mut lines = vec!["bulkhead template list"];
    for part in ["A small guest", "A Debian server", "Taking it all away"] {
        lines.extend(commands(part));
    }
    let said = walk(&bulkhead, &lines);
    for words in [
        "\nrunning\n",
        "load average",
        "HTTP/1.1 200 OK",
        "Welcome to nginx",
        "rebooted itself",
        "Nothing is left over",
    ] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 2, "{said}");
}
