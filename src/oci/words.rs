//! runc's command line in the words of our parser. runc reads its options with Go's `flag`: one dash
//! is as good as two before a long name, a switch may be told true or false, and whatever stands
//! after an option is its value, with a dash in front or empty. Which options there are is asked of
//! the parser; what it is told is `--name` and `--name=VALUE`. Words that it has to judge (`-td`,
//! options that do not exist) stay as they are, and so does everything after `--` and after what
//! a program is called.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use clap::{Arg, ArgAction, Command};

/// The words, of which the first is the program's or the command's own.
pub(super) fn plain(tree: &Command, words: &[OsString]) -> Vec<OsString> {
    let Some((own, mut left)) = words.split_first() else {
        return Vec::new();
    };
    let mut told = vec![own.clone()];
    while let Some((word, rest)) = left.split_first() {
        if word == "--" {
            break;
        }
        left = match option(tree, word) {
            Some((arg, value)) => tell(&mut told, arg, value, rest),
            // Goes on with the options of the command.
            None if !is_dashed(word) && takes_commands(tree) => {
                let below = word.to_str().and_then(|name| tree.find_subcommand(name));
                match below {
                    Some(below) => told.extend(plain(below, left)),
                    None => told.extend_from_slice(left),
                }
                return told;
            }
            // What follows a container's name is its program and that one's options.
            None if !is_dashed(word) && takes_program(tree) => {
                told.push(word.clone());
                if tree.get_positionals().count() > 1 && !rest.is_empty() {
                    told.push("--".into());
                }
                told.extend_from_slice(rest);
                return told;
            }
            None => {
                let these = if waits(tree, word) { 2 } else { 1 };
                let (these, rest) = left.split_at(these.min(left.len()));
                told.extend_from_slice(these);
                rest
            }
        };
    }
    told.extend_from_slice(left);
    told
}

/// An alone dash is a name like another.
fn is_dashed(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes().starts_with(b"-")
}

fn takes_commands(tree: &Command) -> bool {
    tree.has_subcommands() || tree.is_allow_external_subcommands_set()
}

fn takes_program(tree: &Command) -> bool {
    tree.get_positionals().any(Arg::is_trailing_var_arg_set)
}

/// The option that is meant, and its value if that is in the same word.
fn option<'a>(tree: &'a Command, word: &'a OsStr) -> Option<(&'a Arg, Option<&'a OsStr>)> {
    let word = word.as_bytes().strip_prefix(b"-")?;
    let word = word.strip_prefix(b"-").unwrap_or(word);
    let (name, value) = match word.iter().position(|byte| *byte == b'=') {
        Some(at) => (&word[..at], Some(OsStr::from_bytes(&word[at + 1..]))),
        None => (word, None),
    };
    let name = std::str::from_utf8(name).ok()?;
    let is_meant = |arg: &&Arg| {
        let mut letter = [0; 4];
        let letter = arg.get_short().map(|c| &*c.encode_utf8(&mut letter));
        arg.get_long() == Some(name) || letter == Some(name)
    };
    Some((tree.get_arguments().find(is_meant)?, value))
}

/// Whether letters that are written together have their last one's value in the next word.
fn waits(tree: &Command, word: &OsStr) -> bool {
    let letters = word.to_str().and_then(|word| word.strip_prefix('-'));
    let Some(letters) = letters.filter(|letters| !letters.starts_with('-')) else {
        return false;
    };
    let takes = |letter: char| {
        let arg = tree
            .get_arguments()
            .find(|arg| arg.get_short() == Some(letter));
        arg.is_some_and(|arg| !may_be_alone(arg))
    };
    // The first that takes one has all that follows.
    letters
        .find(takes)
        .is_some_and(|at| at + 1 == letters.len())
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn may_be_alone(arg: &Arg) -> bool {
    is_switch(arg) || arg.get_num_args().is_some_and(|n| n.min_values() == 0)
}

/// Tells of one option, whose value may be the first of the words that are left; what is left then.
fn tell<'a>(
    told: &mut Vec<OsString>,
    arg: &Arg,
    value: Option<&OsStr>,
    left: &'a [OsString],
) -> &'a [OsString] {
    let name = format!("--{}", arg.get_long().unwrap_or_default());
    let with = |value: &OsStr| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        word
    };
    // Of an option that is told twice the last word counts.
    let forget = |told: &mut Vec<OsString>| {
        let start = format!("{name}=");
        told.retain(|word| *word != *name && !word.as_bytes().starts_with(start.as_bytes()));
    };
    let next = left.split_first().filter(|_| !may_be_alone(arg));
    let (value, left) = match (value, next) {
        (None, Some((value, rest))) => (Some(value.as_os_str()), rest),
        (value, _) => (value, left),
    };
    match value {
        None => told.push(name.into()),
        Some(value) if is_switch(arg) => match value.to_str().and_then(truth) {
            Some(true) => told.push(name.into()),
            Some(false) => forget(told),
            None => told.push(with(value)),
        },
        // As if it were not there; but whose containers are meant is never guessed.
        Some(value) if value.is_empty() && arg.get_id() != "root" && !is_list(arg) => forget(told),
        Some(value) => told.push(with(value)),
    }
    left
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// What Go takes for true and false.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The same for a switch that is not as before if nothing is said.
pub(super) fn told_truth(text: &str) -> Result<bool, String> {
    truth(text).ok_or_else(|| "write true or false".into())
}

#[cfg(test)]
mod tests {
    use super::super::args::{Cli, Command, Exec};
    use clap::CommandFactory as _;
    use std::ffi::OsString;

    fn words(line: &str) -> Vec<OsString> {
        // A quoted nothing is an empty word.
        let word = |word: &str| OsString::from(word.trim_matches('\''));
        line.split(' ').map(word).collect()
    }

    fn plain(line: &str) -> String {
        let told = super::plain(&Cli::command(), &words(line));
        let told: Vec<_> = told.iter().map(|word| word.to_string_lossy()).collect();
        told.join(" ")
    }

    #[test]
    fn the_forms_that_runc_takes_are_ours() {
        let cases = [
            (
                "p -root /r -debug list -q",
                "p --root=/r --debug list --quiet",
            ),
            ("p -log=/l -systemd-cgroup=f list", "p --log=/l list"),
            ("p -criu /c list", "p --criu=/c list"),
            ("p --debug=T --debug=0 list", "p list"),
            ("p --debug=0 --debug=1 list", "p --debug list"),
            ("p --log /l --log '' list", "p list"),
            ("p -- list -q", "p -- list -q"),
            ("p -version", "p --version"),
            (
                "p list -format=json -quiet=TRUE",
                "p list --format=json --quiet",
            ),
            ("p list --f json --q", "p list --format=json --quiet"),
            (
                "p run c -d=false -b /b -no-pivot",
                "p run c --bundle=/b --no-pivot",
            ),
            ("p run --console-socket -x c", "p run --console-socket=-x c"),
            ("p run --bundle -- c", "p run --bundle=-- c"),
            ("p run --pid-file '' c", "p run c"),
            ("p delete c -force", "p delete c --force"),
            ("p delete -- c -force", "p delete -- c -force"),
            ("p kill c -9 -all", "p kill c -9 --all"),
            ("p update -r - c", "p update --resources=- c"),
            (
                "p update c -memory -1 -cpu-quota ''",
                "p update c --memory=-1",
            ),
            (
                "p events -stats=1 c -interval 1s",
                "p events --stats c --interval=1s",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(plain(line), expected, "{line}");
        }
    }

    #[test]
    fn what_belongs_to_a_program_is_left_to_it() {
        let cases = [
            ("p exec -t=0 c sh -tty -env", "p exec c -- sh -tty -env"),
            (
                "p exec -env A=-b -cap X c -t",
                "p exec --env=A=-b --cap=X c -- -t",
            ),
            ("p exec c -- sh", "p exec c -- -- sh"),
            ("p exec -e '' c", "p exec --env= c"),
            ("p exec -- c -t", "p exec -- c -t"),
            ("p exec -p f c", "p exec --process=f c"),
            (
                "p ps -format json c -format x",
                "p ps --format=json c -format x",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(plain(line), expected, "{line}");
        }
    }

    #[test]
    fn what_has_to_be_judged_stays_as_it_is() {
        for line in [
            "p exec -td c",
            "p exec -it=1 c",
            "p exec -te A=b --detach c",
            "p list -fjson",
            "p list --nosuch=1 -x",
            "p nosuch -debug --debug=1",
            "p list -",
        ] {
            assert_eq!(plain(line), line, "{line}");
        }
        // Wrong, and named by its name.
        assert_eq!(plain("p -debug=x list"), "p --debug=x list");
        assert_eq!(plain("p list -format"), "p list --format");
        assert_eq!(plain("p exec -te"), "p exec -te");
        // Whose containers are meant is not guessed.
        assert_eq!(plain("p --root '' list"), "p --root= list");
    }

    #[test]
    fn both_ways_of_reading_understand_them() {
        let line = "p -root /r exec -tty -no-new-privs=false -g -1 c -d";
        assert!(Cli::understand(&words(line)).is_err(), "no such group");
        let cli = Cli::understand(&words(&line.replace("-1", "7"))).unwrap();
        let Some(Command::Exec(exec)) = cli.command else {
            panic!("another command");
        };
        let Exec {
            tty,
            detach,
            no_new_privs,
            id,
            command,
            ..
        } = exec;
        assert_eq!((tty, detach, no_new_privs), (true, false, Some(false)));
        assert_eq!((id.as_str(), &*command), ("c", &["-d".to_owned()][..]));
        let bare = Cli::understand(&words("p exec --no-new-privs c true")).unwrap();
        assert!(matches!(bare.command, Some(Command::Exec(e)) if e.no_new_privs == Some(true)));
        let spec = Cli::understand(&words("p spec -rootless=true -bundle /b")).unwrap();
        assert!(matches!(spec.command, Some(Command::Spec(s)) if s.rootless));
    }
}
