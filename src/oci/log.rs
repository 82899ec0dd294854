//! Errors and warnings: on standard error, and in the file a client has named, in the form it reads.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::args::{Global, LogFormat};
use super::error::{OciError, Result};
use crate::model::clock;

/// Where they go.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    /// Opens the file a client has named: one that looks there for errors has to know at once that
    /// it will find none.
    pub(super) fn open(global: &Global) -> Result<Self> {
        let open = |path: &PathBuf| {
            let file = File::options().append(true).create(true).open(path);
            file.map_err(|error| OciError::File {
                path: format!("--log {}", path.display()),
                why: error.to_string(),
            })
        };
        Ok(Self {
            file: global.log.as_ref().map(open).transpose()?,
            format: global.log_format,
            debug: global.debug,
        })
    }

    /// An error of the command line; whether it is on standard error then.
    pub(super) fn record(&self, text: &str) -> bool {
        self.line("error", &harmless(text));
        self.is_standard_error()
    }

    /// An error that ends the command.
    pub(super) fn error(&self, text: &str) {
        let text = &harmless(text);
        self.line("error", text);
        if !self.is_standard_error() {
            // Clients without a log look for the word.
            say(&format!("error: {text}"));
        }
    }

    /// Something that its client may want to know, and that changes nothing.
    pub(super) fn warn(&self, text: &str) {
        self.tell("warning", &harmless(text));
    }

    /// Something for whoever looks for a fault.
    pub(super) fn debug(&self, text: &str) {
        if self.debug {
            self.tell("debug", text);
        }
    }

    /// Whether who reads standard error wants to have the log there.
    fn is_standard_error(&self) -> bool {
        self.file.is_none() && self.format == LogFormat::Json
    }

    /// In the log, or without one on standard error.
    fn tell(&self, level: &str, text: &str) {
        if self.file.is_some() || self.is_standard_error() {
            self.line(level, text);
        } else {
            say(&format!("level={level} msg={text:?}"));
        }
    }

    fn line(&self, level: &str, text: &str) {
        let time = clock::time(super::create::now_ms());
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({"level": level, "msg": text, "time": time}).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}"),
        };
        let line = format!("{line}\n");
        // A log that is full must not change what the command does.
        let _unwritten = match self.file.as_ref() {
            Some(mut file) => file.write_all(line.as_bytes()),
            None if self.is_standard_error() => std::io::stderr().write_all(line.as_bytes()),
            None => Ok(()),
        };
    }
}

/// On standard error.
pub(super) fn say(text: &str) {
    // If it is closed, the log has it.
    let _closed = writeln!(std::io::stderr(), "bulkhead-oci: {text}");
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
