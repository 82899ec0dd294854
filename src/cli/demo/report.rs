//! What the demonstration says: plain lines while it works, on standard error, and the table at the
//! end, on standard output. What is in the lines is up to the parts.

use std::io::Write;
use std::time::Instant;

use crate::guest::view;

/// One line of the table.
#[derive(Debug)]
struct Line {
    subject: String,
    asked: String,
    measured: String,
    holds: bool,
}

/// Everything said so far.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
    colour: bool,
    lines: Vec<Line>,
}

impl Report {
    pub(super) fn new(colour: bool) -> Self {
        Self {
            began: Instant::now(),
            colour,
            lines: Vec::new(),
        }
    }

    /// A line of progress. One that cannot be written is lost: the work goes on.
    pub(super) fn say(&mut self, text: &str) {
        let text = view::printable(text.as_bytes());
        let seconds = self.began.elapsed().as_secs_f64();
        let _closed = writeln!(std::io::stderr().lock(), "{seconds:6.1} s  {text}");
    }

    /// A line of the table.
    pub(super) fn line(&mut self, subject: &str, asked: &str, measured: &str, holds: bool) {
        let text = |text: &str| view::printable(text.as_bytes()).replace(['\n', '\t'], " ");
        self.lines.push(Line {
            subject: text(subject),
            asked: text(asked),
            measured: text(measured),
            holds,
        });
    }

    /// Whether all lines hold, and there are any.
    pub(super) fn holds(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.holds)
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        let _closed = write!(std::io::stdout().lock(), "\n{}\n", self.table());
    }

    /// Columns as wide as their widest cell, and the verdict.
    fn table(&self) -> String {
        let width = |heading: &str, cell: fn(&Line) -> &str| {
            let cells = self.lines.iter().map(|line| cell(line).chars().count());
            cells.fold(heading.len(), usize::max)
        };
        let (a, b, c) = (
            width("WHAT", |line| &line.subject),
            width("ASKED", |line| &line.asked),
            width("MEASURED", |line| &line.measured),
        );
        let mut text = format!(
            "{:a$}  {:b$}  {:c$}  VERDICT\n",
            "WHAT", "ASKED", "MEASURED"
        );
        for line in &self.lines {
            text += &format!(
                "{:a$}  {:b$}  {:c$}  {}\n",
                line.subject,
                line.asked,
                line.measured,
                self.verdict(line.holds)
            );
        }
        let failed = self.lines.iter().filter(|line| !line.holds).count();
        text += &match failed {
            0 => format!("all {} lines hold\n", self.lines.len()),
            n => format!("{n} of {} lines FAILED\n", self.lines.len()),
        };
        text
    }

    fn verdict(&self, holds: bool) -> &'static str {
        match (holds, self.colour) {
            (true, false) => "ok",
            (false, false) => "FAILED",
            (true, true) => "\u{1b}[32mok\u{1b}[0m",
            (false, true) => "\u{1b}[31mFAILED\u{1b}[0m",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_line_fails_the_whole() {
        let mut report = Report::new(false);
        assert!(!report.holds());
        report.line("cpu of a", "10 %", "10.1 %", true);
        assert!(report.holds());
        report.line("b\n", "1", "\u{1b}[2J2", false);
        assert!(!report.holds());
        assert_eq!(
            report.table(),
            "WHAT      ASKED  MEASURED  VERDICT\n\
             cpu of a  10 %   10.1 %    ok\n\
             b         1      2         FAILED\n\
             1 of 2 lines FAILED\n"
        );
    }

    #[test]
    fn colour_is_only_in_verdicts() {
        let mut report = Report::new(true);
        report.line("a", "b", "c", false);
        assert!(report.table().contains("  \u{1b}[31mFAILED\u{1b}[0m\n"));
    }
}
