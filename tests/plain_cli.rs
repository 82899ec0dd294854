//! What people read on a terminal, as golden text in `tests/snapshots`: help, usage errors, the
//! lists of templates and profiles; and that completions, man pages and `make install` have all of
//! it. A changed text is accepted with `INSTA_UPDATE=always cargo nextest run --test plain_cli`, and
//! is then read as a user reads it. Needs no privilege.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bulkhead, TestDir, program, run};

/// Width of the golden texts, whatever the terminal.
const COLUMNS: &str = "100";
/// The heading of the flags that every verb has.
const GLOBAL: &str = "Global options:\n";

/// No installation can be there: what should be refused and is not changes nothing either.
const NOWHERE: &str = "/proc/nowhere";

/// Runs the program with these words and no installation.
fn bulkhead(words: &[&str]) -> support::Outcome {
    called(Path::new(&program()), words)
}

fn called(path: &Path, words: &[&str]) -> support::Outcome {
    let mut command = Command::new(path);
    command.args(words).env("COLUMNS", COLUMNS);
    command.env("BULKHEAD_ROOT", NOWHERE).env("NO_COLOR", "1");
    run(command)
}

#[track_caller]
fn help(words: &[&str]) -> String {
    let asked: Vec<&str> = words.iter().copied().chain(["--help"]).collect();
    let outcome = bulkhead(&asked);
    assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.report());
    assert_eq!(outcome.stderr, "", "{words:?}");
    outcome.stdout
}

/// The names in the list of commands of a help text, without `help` itself.
fn verbs(text: &str) -> Vec<String> {
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = list
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help");
    names.map(str::to_owned).collect()
}

/// Every command that people are shown: its words.
fn commands() -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for verb in verbs(&help(&[])) {
        let below = verbs(&help(&[&verb]));
        all.push(vec![verb.clone()]);
        all.extend(below.into_iter().map(|sub| vec![verb.clone(), sub]));
    }
    assert!(all.len() > 25, "{all:?}");
    all
}

/// The paragraph of the flags that every verb has.
fn global(text: &str) -> &str {
    let at = text.find(GLOBAL).expect("global options in every help");
    let end = text[at..].find("\n\n").map_or(text.len(), |end| at + end);
    text[at..end].trim_end()
}

#[test]
fn help_of_the_program() {
    let text = help(&[]);
    insta::assert_snapshot!("help", text);
    // Without a verb the same, as an error.
    let bare = bulkhead(&[]);
    assert_eq!((bare.code, bare.stdout.as_str()), (2, ""));
    assert_eq!(bare.stderr, text);
}

#[test]
fn help_of_each_verb() {
    let globals = help(&[]);
    let globals = global(&globals).to_owned();
    for words in commands() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let text = help(&words);
        assert_eq!(global(&text), globals, "{words:?}");
        let own = text.replace(&format!("\n{globals}\n"), "");
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert_eq!(text, help_by_word(&words), "{words:?}");
        insta::assert_snapshot!(format!("help-{}", words.join("-")), own);
    }
}

/// `bulkhead help VERB` says what `bulkhead VERB --help` says.
fn help_by_word(words: &[&str]) -> String {
    let asked: Vec<&str> = ["help"].iter().chain(words).copied().collect();
    bulkhead(&asked).stdout
}

#[test]
fn one_letter_means_one_thing() {
    let mut meanings: Vec<(String, String)> = Vec::new();
    for words in commands() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for line in help(&words).lines() {
            let line = line.trim_start();
            let Some((short, rest)) = line.strip_prefix('-').and_then(|l| l.split_once(", --"))
            else {
                continue;
            };
            let long = rest.split(' ').next().unwrap_or_default().to_owned();
            meanings.push((short.to_owned(), long));
        }
    }
    let all: BTreeSet<(String, String)> = meanings.into_iter().collect();
    // What people know from tail(1), head(1) and rm(1), from `docker stop` and `docker exec`.
    let twice = [
        ("f", "follow"),
        ("f", "force"),
        ("n", "count"),
        ("n", "lines"),
        ("t", "timeout"),
        ("t", "tty"),
    ];
    for (short, long) in &all {
        let others = all.iter().filter(|(s, l)| s == short && l != long).count();
        let known = twice.contains(&(short.as_str(), long.as_str()));
        assert!(others == 0 || known, "-{short} is --{long} and another");
    }
}

/// Every `bulkhead …` line of a page's `sh` blocks, as words, without what follows `--`.
fn typed(page: &str) -> Vec<Vec<&str>> {
    let blocks = page.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or("").lines());
    let commands = lines.flat_map(|line| line.split(['|', '&', '(', ';']));
    commands
        .map(|command| command.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|word| *word == "bulkhead"))
        .map(|words| {
            words
                .into_iter()
                .skip(1)
                .take_while(|word| *word != "--")
                .collect()
        })
        .collect()
}

#[test]
fn what_pages_tell_people_to_type_is_there() {
    let mut seen = BTreeSet::new();
    for (page, text) in [
        ("README.md", include_str!("../README.md")),
        ("docs/commands.md", include_str!("../docs/commands.md")),
        ("docs/host.md", include_str!("../docs/host.md")),
        ("docs/images.md", include_str!("../docs/images.md")),
    ] {
        for words in typed(text) {
            let groups =
                ["capacity", "image", "template", "profile", "snapshot"].contains(&words[0]);
            let known = help(&words[..if groups { 2.min(words.len()) } else { 1 }]);
            for flag in words.iter().filter(|word| word.starts_with('-')) {
                // A value may stand behind it, with `=` between.
                let bare = flag.split('=').next().unwrap_or(flag);
                let mut there = known.split([' ', ',', '\n', '[']);
                assert!(there.any(|word| word == bare), "{page}: {words:?}: {flag}");
            }
            if page == "docs/commands.md" {
                seen.insert(words[0].to_owned());
            }
        }
    }
    for verb in verbs(&help(&[])) {
        assert!(
            seen.contains(&verb),
            "docs/commands.md does not show {verb}"
        );
    }
}

#[test]
fn usage_errors() {
    let mut text = String::new();
    for line in [
        "strat web",
        "lst",
        "create",
        "create Web",
        "create web --tempalte debian",
        "create web --cpus 0",
        "create web --memory 5Q",
        "create web --restart sometimes",
        "create web --mount data",
        "start",
        "start web --all",
        "start -j 0 web",
        "stop web --timeout 5y",
        "kill web --signal NOPE",
        "exec web",
        "set web",
        "set web memory=1G",
        "set web memory.limit=lots",
        "wait web redy",
        "events --since yesterday",
        "template",
        "template bild",
        "completions tcsh",
        "list --format jsn",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let outcome = bulkhead(&words);
        assert_eq!(outcome.code, 2, "{line}: {}", outcome.report());
        assert_eq!(outcome.stdout, "", "{line}");
        text += &format!("$ bulkhead {line}\n{}\n", outcome.stderr);
    }
    insta::assert_snapshot!("usage-errors", text);
}

#[test]
fn templates_and_profiles() {
    let bulkhead = Bulkhead::new();
    let mut text = String::new();
    let mut show = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        text += &format!("$ bulkhead {line}\n{}\n", bulkhead.ok(&words));
    };
    show("template list");
    for template in ["busybox", "debian", "host", "tar"] {
        show(&format!("template info {template}"));
    }
    show("profile list");
    show("profile show small");
    show("profile show hardened");
    show("template list --format csv");
    show("profile list --format yaml");
    for (line, code) in [("template info debain", 5), ("profile show harden", 5)] {
        let words: Vec<&str> = line.split(' ').collect();
        text += &format!("$ bulkhead {line}\n{}\n", bulkhead.fails(&words, code));
    }
    insta::assert_snapshot!("templates-and-profiles", text);
}

#[test]
fn bh_is_the_same_program() {
    let folder = TestDir::new();
    let bh = folder.join("bh");
    let program = std::fs::canonicalize(program()).expect("the program");
    symlink(program, &bh).expect("a folder of ours");
    let outcome = called(&bh, &["create", "--help"]);
    assert_eq!(outcome.code, 0, "{}", outcome.report());
    assert_eq!(
        outcome.stdout,
        help(&["create"]).replace("Usage: bulkhead ", "Usage: bh ")
    );
}

#[test]
fn completions_know_every_verb_and_both_names() {
    let shown: Vec<String> = verbs(&help(&[]));
    for (shell, both) in [
        (
            "bash",
            "complete -F _bulkhead -o bashdefault -o default bulkhead bh\n",
        ),
        ("zsh", "#compdef bulkhead bh\n"),
        ("fish", "complete -c bh -w bulkhead\n"),
    ] {
        let script = bulkhead(&["completions", shell]).stdout;
        for verb in &shown {
            assert!(script.contains(verb.as_str()), "{shell}: {verb}");
        }
        for hidden in ["keeper", "demo"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
        assert!(script.contains("--memory-high") || script.contains("-l memory-high"));
        assert!(script.contains(both), "{shell}: {both}");
    }
}

/// What bash offers after these words.
fn offered(script: &Path, words: &[&str]) -> Vec<String> {
    let line = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                _bulkhead \"$1\" \"${!#}\" \"\"; printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", line, "bash"]).arg(script).args(words);
    let outcome = run(bash);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    outcome.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes() {
    let folder = TestDir::new();
    let script = folder.write("script", &bulkhead(&["completions", "bash"]).stdout);
    for name in ["bulkhead", "bh"] {
        assert_eq!(offered(&script, &[name, "crea"]), ["create"]);
        assert_eq!(
            offered(&script, &[name, "create", "--memory-h"]),
            ["--memory-high"]
        );
        assert_eq!(offered(&script, &[name, "template", "bu"]), ["build"]);
        assert_eq!(offered(&script, &[name, "keep"]), [""]);
    }
}

#[test]
fn every_command_has_a_man_page() {
    let folder = TestDir::new();
    let at = folder.join("man");
    let path = at.display().to_string();
    assert_eq!(bulkhead(&["--quiet", "man", &path]).code, 0);
    let mut wanted: BTreeSet<String> = commands()
        .iter()
        .map(|words| format!("bulkhead-{}.1", words.join("-")))
        .collect();
    wanted.insert("bulkhead.1".into());
    assert_eq!(man_pages(&at), wanted);
}

#[test]
fn every_command_of_the_runtime_has_a_man_page() {
    let folder = TestDir::new();
    let at = folder.join("man");
    let oci = |words: &[&str]| called(&support::oci_program(), words);
    assert_eq!(oci(&["man", &at.display().to_string()]).code, 0);
    let mut wanted: BTreeSet<String> = verbs(&oci(&["--help"]).stdout)
        .iter()
        .map(|verb| format!("bulkhead-oci-{verb}.1"))
        .collect();
    assert!(wanted.len() > 12, "{wanted:?}");
    wanted.insert("bulkhead-oci.1".into());
    assert_eq!(man_pages(&at), wanted);
}

/// The pages in a folder, each looked into.
fn man_pages(at: &Path) -> BTreeSet<String> {
    let there: BTreeSet<String> = std::fs::read_dir(at)
        .expect("the folder made")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into())
        .collect();
    for page in &there {
        let text = std::fs::read_to_string(at.join(page)).expect("a page");
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS"] {
            // What is not there yet has none.
            let later = ["bulkhead-oci-checkpoint.1", "bulkhead-oci-restore.1"];
            let without = part.ends_with("OPTIONS") && later.contains(&page.as_str());
            assert_eq!(text.contains(part), !without, "{page}: {part}");
        }
        // Every page it points to is there.
        for other in text.lines().filter_map(|line| line.strip_suffix("(1)")) {
            let other = format!("{}.1", other.replace('\\', ""));
            assert!(there.contains(&other), "{page} points to {other}");
        }
    }
    there
}

#[test]
fn make_installs_and_uninstalls() {
    let folder = TestDir::new();
    // As built: the program under test stands where a release build would be.
    let release = folder.join("release");
    std::fs::create_dir(&release).expect("a folder of ours");
    for (program, name) in [
        (program().into(), "bulkhead"),
        (support::oci_program(), "bulkhead-oci"),
    ] {
        let program = std::fs::canonicalize(program).expect("the program");
        symlink(program, release.join(name)).expect("a folder of ours");
    }
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.args(["--silent", "--assume-old=build", target, "PREFIX=/usr"])
            .arg(format!("DESTDIR={}", folder.join("root").display()))
            .arg(format!("RELEASE={}", release.display()))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("MAKEFLAGS");
        let outcome = run(make);
        assert_eq!(outcome.code, 0, "{}", outcome.report());
    };
    make("install");
    let usr = folder.join("root/usr");
    for file in [
        "bin/bulkhead",
        "bin/bh",
        "bin/bulkhead-oci",
        "lib/systemd/system/bulkhead-autostart.service",
        "lib/systemd/system/bulkhead-snapshots.service",
        "lib/systemd/system/bulkhead-snapshots.timer",
        "share/man/man1/bulkhead.1",
        "share/man/man1/bulkhead-template-build.1",
        "share/man/man1/bulkhead-oci-create.1",
        "share/man/man1/bh.1",
        "share/bash-completion/completions/bulkhead",
        "share/bash-completion/completions/bh",
        "share/zsh/site-functions/_bulkhead",
        "share/fish/vendor_completions.d/bulkhead.fish",
        "share/fish/vendor_completions.d/bh.fish",
    ] {
        let length = std::fs::metadata(usr.join(file)).map(|meta| meta.len());
        assert!(length.is_ok_and(|length| length > 100), "{file}");
    }
    assert_eq!(called(&usr.join("bin/bh"), &["--version"]).code, 0);
    make("uninstall");
    let left = files(&usr);
    assert!(left.is_empty(), "{left:?}");
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// What build.rs asks of the linker: an entry that is not found would only be a warning.
#[test]
#[cfg(target_arch = "x86_64")]
fn the_runtime_begins_with_its_own_code_and_not_the_librarys() {
    let file = std::fs::read(support::oci_program()).unwrap();
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let (entry, headers) = (number(24), usize::try_from(number(32)).unwrap());
    let count = usize::from(u16::from_le_bytes([file[56], file[57]]));
    // elf(5): 56 bytes a program header; offset at 8, address at 16, size in the file at 32.
    let code = (0..count).find_map(|i| {
        let at = headers + 56 * i;
        let (offset, address, size) = (number(at + 8), number(at + 16), number(at + 32));
        let loaded = file[at..at + 4] == [1, 0, 0, 0];
        (loaded && (address..address + size).contains(&entry)).then(|| offset + entry - address)
    });
    let code = usize::try_from(code.unwrap()).unwrap();
    // mov r12, rdx; mov r13, [rsp]
    assert_eq!(
        file[code..code + 7],
        [0x49, 0x89, 0xd4, 0x4c, 0x8b, 0x2c, 0x24]
    );
}
