//! `dedupe`: equal files in guests' layers share their blocks.

use clap::{Arg, ArgMatches};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use crate::guest::GuestError;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::storage::{self, DEFAULT_POOL, Pool, RootError};

pub(super) const DEDUPE: Verb = Verb {
    name: "dedupe",
    about: "Let equal files in guests share their room on disk",
    build: |command| {
        command
            .arg(
                Arg::new("pool")
                    .long("pool")
                    .value_name("POOL")
                    .default_value(DEFAULT_POOL)
                    .help("Pool whose guests are looked through"),
            )
            .arg(dry_run())
    },
    run: dedupe,
    hidden: false,
};

fn dedupe(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let pool =
        Pool::load(layout, &required::<String>(matches, "pool")?).map_err(GuestError::from)?;
    let would = matches.get_flag("dry-run");
    interrupt::catch()?;
    let done = storage::dedupe(layout, &pool, would).map_err(|error| match error {
        RootError::Pool(error) => Fault::from(GuestError::from(error)),
        RootError::File(error) => Fault::from(storage::ImageError::from(error)).or_interrupted(),
        error => Fault::new(super::fault::FAILED, error.to_string()),
    })?;
    context.one(&done, |_| {
        let verb = if would { "would share" } else { "share" };
        format!(
            "{} files looked at: {} {verb} the blocks of an equal one now, {} given back; {} did \
             already, {} changed meanwhile, {} left out\n",
            done.files,
            done.shared,
            bytes_text(done.bytes),
            done.already,
            done.changed,
            done.left_out
        )
    })?;
    Ok(0)
}
