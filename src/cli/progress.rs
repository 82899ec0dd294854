//! How long work is told on standard error: on a terminal one line that is written over, with rate
//! and time left; elsewhere plain lines.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::render::safe;
use crate::guest::view::bytes_text;
use crate::storage::Progress;

/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(100);
/// Most characters of the line.
const WIDTH: usize = 79;

/// A teller of progress.
pub(super) struct Teller {
    terminal: bool,
    quiet: bool,
    phase: String,
    began: Instant,
    written: Option<Instant>,
}

impl Teller {
    /// One that says nothing when `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            quiet,
            phase: String::new(),
            began: Instant::now(),
            written: None,
        }
    }

    /// Tells one step.
    pub(super) fn tell(&mut self, progress: Progress) {
        if self.quiet {
            return;
        }
        match progress {
            Progress::Phase(phase) => {
                self.phase = safe(&phase);
                self.began = Instant::now();
                self.written = None;
                if self.terminal {
                    self.over(&self.phase.clone());
                } else {
                    super::context::note(&self.phase);
                }
            }
            Progress::Line(line) if self.terminal => {
                self.over(&format!("{}: {}", self.phase, safe(&line)));
            }
            Progress::Line(_) => {}
            Progress::Note(note) => {
                if self.terminal {
                    let _closed = write!(std::io::stderr().lock(), "\r\u{1b}[K");
                }
                super::context::note(&safe(&note));
            }
            Progress::Bytes { done, total } if self.terminal => {
                self.over(&format!(
                    "{}: {}",
                    self.phase,
                    amount(done, total, self.began.elapsed())
                ));
            }
            Progress::Bytes { .. } => {}
        }
    }

    /// Writes over the line, not more often than an eye can follow.
    fn over(&mut self, text: &str) {
        if self.written.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.written = Some(Instant::now());
        let text: String = text.chars().take(WIDTH).collect();
        let _closed = write!(std::io::stderr().lock(), "\r{text}\u{1b}[K");
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if self.terminal && !self.phase.is_empty() {
            let _closed = write!(std::io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}

/// `120M of 300M, 40M/s, 4s left`.
fn amount(done: u64, total: Option<u64>, took: Duration) -> String {
    let ms = crate::model::clock::ms(took).max(1);
    let rate = done.saturating_mul(1000) / ms;
    let mut text = bytes_text(done);
    if let Some(total) = total {
        text += &format!(" of {}", bytes_text(total));
    }
    text += &format!(", {}/s", bytes_text(rate));
    if let (Some(total), true) = (total, rate > 0) {
        let left = total.saturating_sub(done) / rate;
        text += &format!(", {} left", crate::model::clock::span(left));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left() {
        let text = amount(120 << 20, Some(300 << 20), Duration::from_secs(3));
        assert_eq!(text, "120M of 300M, 40M/s, 4s left");
        let text = amount(120 << 20, None, Duration::from_secs(3));
        assert_eq!(text, "120M, 40M/s");
    }
}
