//! `image update`: the newer image of a name, from where the one there is came from. Guests move on to
//! it with `rebase`.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::dry_run;
use super::context::Context;
use super::fault::{Fault, Result};
use super::image_transfer::{trust, trust_flags};
use super::progress::Teller;
use crate::kernel::interrupt;
use crate::model::{GuestName, ImageName};
use crate::storage::{self, Source, Updated};

/// `image update`.
pub(super) fn command() -> Command {
    Command::new("update")
        .about("Build or pull images again, under the names they have")
        .arg(
            Arg::new("image")
                .value_name("IMAGE")
                .required(true)
                .action(ArgAction::Append)
                .value_parser(value_parser!(ImageName))
                .help("Name of an image, or the beginning of its digest"),
        )
        .args(trust_flags())
        .arg(dry_run())
        .after_help(
            "The image before stays as long as a guest or a snapshot uses it; `bulkhead rebase` \
             moves guests on, `bulkhead image prune` removes what nobody uses.",
        )
}

#[derive(Serialize)]
struct Told {
    name: Option<String>,
    before: String,
    image: String,
    changed: bool,
}

/// Does it, one after the other.
pub(super) fn run(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let names: Vec<&ImageName> = matches.get_many("image").into_iter().flatten().collect();
    let manager = context.manager()?;
    let source = |name: &&ImageName| storage::update_source(&manager.layout, name);
    let sources: Vec<Source> = names
        .iter()
        .map(source)
        .collect::<std::result::Result<_, _>>()?;
    let elsewhere = |source: &Source| !matches!(source, Source::Server(_));
    if matches.contains_id("keyring") && sources.iter().any(elsewhere) {
        return Err(Fault::usage(
            "--keyring is for images of image servers: what registries and templates give is not signed so",
        ));
    }
    if matches.get_flag("dry-run") {
        for (name, source) in names.iter().zip(&sources) {
            let from = match source {
                Source::Template(template) => format!("build template {}", template.name),
                Source::Registry(there) => format!("pull {there}"),
                Source::Server(there) => format!("pull {there}"),
            };
            context.done(&format!("{name}: would {from} again"))?;
        }
        return Ok(0);
    }
    let (trust, templates) = (trust(matches), manager.templates()?);
    interrupt::catch()?;
    for name in names {
        let mut teller = Teller::new(context.quiet);
        let mut tell = |step| teller.tell(step);
        let done = storage::update_image(&manager.layout, &templates, name, &trust, &mut tell);
        drop(teller);
        let done = done.map_err(|error| Fault::from(error).or_interrupted())?;
        tell_of(
            context,
            &name.to_string(),
            &done,
            &manager.guests_over(&done.before)?,
        )?;
    }
    Ok(0)
}

fn tell_of(context: &Context, asked: &str, done: &Updated, behind: &[GuestName]) -> Result<()> {
    let told = Told {
        name: done.name.as_ref().map(ToString::to_string),
        changed: done.before != done.image.digest,
        before: done.before.clone(),
        image: done.image.digest.clone(),
    };
    context.one(&told, |_| {
        let short = done.image.short();
        match told.changed {
            false => format!("{asked}: image {short} is the newest there is\n"),
            true => format!("{asked}: image {short}, before {:.12}\n", told.before),
        }
    })?;
    if told.changed && !behind.is_empty() {
        context.say(&format!(
            "{} lie over the one before: `bulkhead rebase` moves them on",
            behind
                .iter()
                .map(GuestName::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    Ok(())
}
