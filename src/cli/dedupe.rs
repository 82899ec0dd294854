//! `dedupe`: equal files in guests' layers take their room once.

use clap::{Arg, ArgMatches};

use super::command::{Verb, dry_run, required};
use super::context::Context;
use super::fault::{Fault, Result};
use crate::guest::GuestError;
use crate::guest::dedupe::{DedupeError, Spared};
use crate::guest::view::bytes_text;
use crate::kernel::{credentials, interrupt};
use crate::storage::{self, DEFAULT_POOL, Pool, RootError};

pub(super) const DEDUPE: Verb = Verb {
    name: "dedupe",
    about: "Let equal files in guests take their room once",
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
    let manager = context.manager()?;
    let pool = Pool::load(&manager.layout, &required::<String>(matches, "pool")?)
        .map_err(GuestError::from)?;
    let would = matches.get_flag("dry-run");
    interrupt::catch()?;
    // A folder of each guest is open while they are looked through. Where that is not more it may do.
    if let Ok((_, hard)) = credentials::get_rlimit("nofile") {
        let _same = credentials::set_rlimit("nofile", hard, hard);
    }
    let done = manager.dedupe(&pool, would).map_err(|error| match error {
        DedupeError::Guest(error) => Fault::from(error),
        DedupeError::Root(RootError::Pool(error)) => Fault::from(GuestError::from(error)),
        DedupeError::Root(RootError::File(error)) => {
            Fault::from(storage::ImageError::from(error)).or_interrupted()
        }
        DedupeError::Root(error) => Fault::new(super::fault::FAILED, error.to_string()),
    })?;
    context.one(&done, |_| in_words(&done, would))?;
    for error in &done.failed {
        context.say(error);
    }
    Ok(if done.failed.is_empty() {
        0
    } else {
        super::fault::FAILED
    })
}

fn in_words(done: &Spared, would: bool) -> String {
    let own = &done.returned;
    let verb = if would { "would be" } else { "are" };
    let mut text = format!(
        "{} files of stopped guests {verb} seen through to their base now, {} given back on disk and \
         as much in memory; {} guests that run or are at work passed over, {} folders left out\n",
        own.base_files,
        bytes_text(own.base_bytes),
        own.base_running,
        own.base_left_out
    );
    let common = &done.common;
    text += &format!(
        "{} files that several stopped guests have alike {verb} in {} layers that they share now, {} \
         given back on disk and {} in memory; {} left out\n",
        common.common_files,
        common.common_layers,
        bytes_text(common.common_bytes),
        bytes_text(common.common_memory),
        common.common_left_out
    );
    let linked = &done.linked;
    text += &format!(
        "{} files that images of stopped guests have alike {verb} kept once now, {} given back on disk \
         and {} in memory; {} images in use passed over, {} files left out\n",
        linked.image_files,
        bytes_text(linked.image_bytes),
        bytes_text(linked.image_memory),
        linked.image_running,
        linked.image_left_out
    );
    let verb = if would { "would share" } else { "share" };
    text += &match &done.shared {
        None => {
            "files cannot share blocks on this pool's filesystem; btrfs can, and xfs with reflink\n"
                .to_owned()
        }
        Some(done) => format!(
            "{} files looked at: {} {verb} the blocks of an equal one now, {} given back; {} did \
             already, {} changed meanwhile, {} left out\n",
            done.files,
            done.shared,
            bytes_text(done.bytes),
            done.already,
            done.changed,
            done.left_out
        ),
    };
    text
}
