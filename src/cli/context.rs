//! What every verb gets: the installation it works on, and where and how it prints. Data goes to
//! standard output, messages to standard error; what they look like is decided in `render`.

use std::cell::OnceCell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::ArgMatches;
use serde::Serialize;

use super::fault::{Fault, Result};
use super::render::{self, Cell, Format};
use crate::guest::Manager;

/// One call of the program.
pub(super) struct Context {
    /// Prefix of the installation, absolute.
    pub(super) root: PathBuf,
    /// How data is printed.
    pub(super) format: Format,
    /// Whether messages are left out.
    pub(super) quiet: bool,
    /// Whether standard output takes colour.
    pub(super) colour: bool,
    manager: OnceCell<Manager>,
}

impl Context {
    /// From the flags all verbs have.
    pub(super) fn new(matches: &ArgMatches) -> Result<Self> {
        let root: PathBuf = super::command::required(matches, "root")?;
        let root = std::path::absolute(&root)
            .map_err(|error| Fault::usage(format!("--root {}: {error}", root.display())))?;
        Ok(Self {
            root,
            format: super::command::required(matches, "format")?,
            quiet: matches.get_flag("quiet"),
            colour: std::io::stdout().is_terminal() && wants_colour(),
            manager: OnceCell::new(),
        })
    }

    /// The installation, opened when it is first needed.
    pub(super) fn manager(&self) -> Result<&Manager> {
        if let Some(manager) = self.manager.get() {
            return Ok(manager);
        }
        let manager = Manager::open(&self.root)?;
        Ok(self.manager.get_or_init(|| manager))
    }

    /// Data, as it is. A reader that has closed the pipe ends the program quietly.
    pub(super) fn out(&self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(Fault::output)
    }

    /// A line of what was done: data for a person, nothing for a program.
    pub(super) fn done(&self, text: &str) -> Result<()> {
        if self.quiet {
            return Ok(());
        }
        self.out(&format!("{text}\n"))
    }

    /// A message.
    pub(super) fn say(&self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }

    /// A list: a table with these headings and cells, or the items themselves.
    pub(super) fn list<T: Serialize>(
        &self,
        items: &[T],
        headings: &[&str],
        cells: impl Fn(&T) -> Vec<Cell>,
    ) -> Result<()> {
        self.out(&render::list(
            self.format,
            self.colour,
            items,
            headings,
            cells,
        ))
    }

    /// One thing: text for people, or the thing itself.
    pub(super) fn one<T: Serialize>(
        &self,
        item: &T,
        text: impl FnOnce(bool) -> String,
    ) -> Result<()> {
        match self.format {
            Format::Table => self.out(&text(self.colour)),
            format => self.out(&render::data(format, item)),
        }
    }
}

/// A line on standard error; one that cannot be written is lost, there is no better place.
pub(super) fn note(text: &str) {
    let _closed = writeln!(
        std::io::stderr().lock(),
        "{}",
        crate::guest::view::printable(text.as_bytes())
    );
}

fn wants_colour() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && takes_escapes()
}

/// Whether the person's terminal, if there is one, understands more than text.
pub(super) fn takes_escapes() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
