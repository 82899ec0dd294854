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
            file: cli.global.log.clone(),
            format: cli.global.log_format,
            debug: cli.global.debug,
        }
    }

    /// An error that ends the command.
    pub(super) fn error(&self, text: &str) {
        self.line("error", text);
        // If standard error is closed, the log has it.
        let _closed = writeln!(std::io::stderr(), "bulkhead-oci: {text}");
    }

    /// Something that its client may want to know, and that changes nothing.
    pub(super) fn warn(&self, text: &str) {
        self.line("warning", text);
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
