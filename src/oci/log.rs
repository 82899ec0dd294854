//! Errors and warnings: on standard error, and in the file a client has named, in the form it reads.

use std::io::Write as _;

use super::args::{Cli, LogFormat};
use crate::model::clock;

/// Where they go.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<std::path::PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn of(cli: &Cli) -> Self {
        Self {
            file: cli.log.clone(),
            format: cli.log_format,
            debug: cli.debug,
        }
    }

    /// An error that ends the command.
    pub(super) fn error(&self, text: &str) {
        let text = &harmless(text);
        self.line("error", text);
        // If standard error is closed, the log has it.
        let _closed = writeln!(std::io::stderr(), "bulkhead-oci: {text}");
    }

    /// Something that its client may want to know, and that changes nothing.
    pub(super) fn warn(&self, text: &str) {
        self.line("warning", &harmless(text));
    }

    /// Something for whoever looks for a fault.
    pub(super) fn debug(&self, text: &str) {
        if self.debug {
            self.line("debug", text);
        }
    }

    fn line(&self, level: &str, text: &str) {
        let Some(path) = &self.file else {
            return;
        };
        let time = clock::time(super::create::now_ms());
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({"level": level, "msg": text, "time": time}).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
        };
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        // A log that cannot be written must not change what the command does.
        let _unwritten = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Longest text that is told, characters.
const LONGEST: usize = 4096;

/// Without what would control a terminal, and not longer than anybody reads: it may quote what a
/// hostile image or configuration says.
fn harmless(text: &str) -> String {
    let mut told = String::new();
    for (number, c) in text.chars().enumerate() {
        if number == LONGEST {
            told.push_str(" (and so on)");
            break;
        }
        if c.is_control() && c != '\n' && c != '\t' {
            told.extend(c.escape_default());
        } else {
            told.push(c);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_short_and_controls_nothing() {
        assert_eq!(harmless("a\nb\tc\u{e4}"), "a\nb\tc\u{e4}");
        assert_eq!(harmless("\u{1b}[2J\r"), "\\u{1b}[2J\\r");
        assert!(harmless(&"x".repeat(1 << 20)).len() < LONGEST + 20);
    }
}
