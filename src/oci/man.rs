//! `man`, which packages and `make install` use: the manual pages, one a command.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};

use super::args::Cli;
use super::error::Result;

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// Folder to write the pages to
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
}

/// Writes them.
pub(super) fn write(folder: &Path) -> Result<u8> {
    std::fs::create_dir_all(folder)?;
    for (name, command) in pages() {
        let mut page = Vec::new();
        clap_mangen::Man::new(command)
            .title(name.to_ascii_uppercase())
            .render(&mut page)?;
        std::fs::write(folder.join(format!("{name}.1")), page)?;
    }
    Ok(0)
}

/// Every command that people are shown, by the name of its page.
fn pages() -> Vec<(String, clap::Command)> {
    let mut whole = Cli::command().disable_help_subcommand(true);
    whole.build();
    let shown = whole.get_subcommands().filter(|one| !one.is_hide_set());
    let commands = shown.map(|one| (format!("bulkhead-oci-{}", one.get_name()), one.clone()));
    std::iter::once(("bulkhead-oci".to_owned(), whole.clone()))
        .chain(commands)
        .collect()
}
