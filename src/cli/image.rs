//! `image`: the images there are, where guests' files come from. Taking images in and giving them
//! out is next door in `image_transfer`, one image in full in `image_info`.

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::{Verb, dry_run, required, switch};
use super::context::Context;
use super::fault::{FAILED, Result};
use super::image_info::{Shown, date, history, info};
use super::render::{Cell, Tone};
use super::{image_transfer, image_update, template};
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::{ImageName, Layout};
use crate::storage::{self, Image, ImageError};

pub(super) const IMAGE: Verb = Verb {
    name: "image",
    about: "List images, take some in, renew, show, check, name, delete, build",
    build: |command| {
        command
            .subcommand_required(true)
            .subcommand(Command::new("list").about("List images"))
            .subcommand(
                Command::new("info")
                    .alias("show")
                    .about("Show what an image is, says and is used by")
                    .arg(image()),
            )
            .subcommand(
                Command::new("history")
                    .about("Show how an image came about: its template, or its layers")
                    .arg(image()),
            )
            .subcommand(
                template::building(Command::new("build"))
                    .about("Build a template's image now, so that `create` need not"),
            )
            .subcommand(image_transfer::pull_command())
            .subcommand(image_update::command())
            .subcommand(image_transfer::import_command())
            .subcommand(image_transfer::publish_command())
            .subcommand(
                Command::new("tag")
                    .about("Give an image one more name")
                    .arg(image())
                    .arg(new_name())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("untag")
                    .about("Take a name away; the image stays")
                    .arg(new_name())
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("verify")
                    .about("Read images and compare them with their digests; a damaged one is no longer started")
                    .arg(images_or_all()),
            )
            .subcommand(
                Command::new("delete")
                    .alias("rm")
                    .about("Delete images that no guest uses, with their names")
                    .arg(images_or_all().required(true))
                    .arg(dry_run()),
            )
            .subcommand(
                Command::new("prune")
                    .about("Delete images that no guest uses and nobody has named, and layers that no image uses")
                    .arg(switch("all", "Images that have a name too"))
                    .arg(dry_run()),
            )
    },
    run: |context, matches| match matches.subcommand() {
        Some(("info", matches)) => info(context, matches),
        Some(("history", matches)) => history(context, matches),
        Some(("build", matches)) => template::build(context, matches),
        Some(("pull", matches)) => image_transfer::pull(context, matches),
        Some(("update", matches)) => image_update::run(context, matches),
        Some(("publish", matches)) => image_transfer::publish(context, matches),
        Some(("import", matches)) => image_transfer::import(context, matches),
        Some(("tag", matches)) => tag(context, matches),
        Some(("untag", matches)) => untag(context, matches),
        Some(("verify", matches)) => verify(context, matches),
        Some(("delete", matches)) => delete(context, matches),
        Some(("prune", matches)) => prune(context, matches),
        _ => list(context),
    },
    hidden: false,
};

fn image() -> Arg {
    Arg::new("image")
        .value_name("IMAGE")
        .required(true)
        .value_parser(value_parser!(ImageName))
        .help("Name of the image, or the beginning of its digest (6 digits at least)")
}

fn images_or_all() -> Arg {
    Arg::new("image")
        .value_name("IMAGE")
        .action(ArgAction::Append)
        .value_parser(value_parser!(ImageName))
        .help("Name of an image, or the beginning of its digest")
}

fn new_name() -> Arg {
    Arg::new("name")
        .value_name("NAME")
        .required(true)
        .value_parser(value_parser!(ImageName))
        .help("Name such as mybase, team/app:1.2")
}

fn all(layout: &Layout) -> Result<(Vec<Shown>, Vec<String>)> {
    let tags = storage::tags(layout).map_err(ImageError::from)?;
    let (mut shown, mut broken) = (Vec::new(), Vec::new());
    for image in storage::images(layout).map_err(ImageError::from)? {
        match image {
            Ok(image) => shown.push(Shown::of(layout, &image, &tags)?),
            Err(error) => broken.push(error.to_string()),
        }
    }
    Ok((shown, broken))
}

fn list(context: &Context) -> Result<u8> {
    let (shown, broken) = all(&context.manager()?.layout)?;
    let headings = [
        "NAME", "DIGEST", "SIZE", "FILES", "MADE", "GUESTS", "FROM", "NOTE",
    ];
    context.list(&shown, &headings, |image| {
        let name = match image.names.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            [first, rest @ ..] => format!("{first} +{}", rest.len()),
        };
        let note = image.damaged.as_ref().map_or("", |_| "damaged");
        vec![
            Cell::from(name),
            Cell::from(image.digest.get(..12).unwrap_or_default()),
            Cell::from(bytes_text(image.size)),
            Cell::from(image.files.to_string()),
            Cell::from(date(image.created_ms)),
            Cell::from(image.guests.len().to_string()),
            Cell::from(image.from()),
            Cell::new(note, Tone::Bad),
        ]
    })?;
    for error in &broken {
        context.say(error);
    }
    Ok(if broken.is_empty() { 0 } else { FAILED })
}

fn tag(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let before: ImageName = required(matches, "image")?;
    let image = storage::find_image(layout, &before)?;
    let name: ImageName = required(matches, "name")?;
    let would = matches.get_flag("dry-run");
    if !would {
        let source = storage::source_of_name(layout, &before);
        storage::tag_image(layout, &name, &image.digest, source.as_deref())?;
    }
    let verb = if would { "would lead" } else { "leads" };
    context.done(&format!("{name} {verb} to image {}", image.short()))?;
    Ok(0)
}

fn untag(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let name: ImageName = required(matches, "name")?;
    if matches.get_flag("dry-run") {
        let image = storage::find_image(layout, &name)?;
        context.done(&format!(
            "{name} would no longer lead to image {}",
            image.short()
        ))?;
        return Ok(0);
    }
    storage::untag(layout, &name)?;
    context.done(&format!("{name} leads to no image any more"))?;
    Ok(0)
}

/// The images that are named, each once, or all.
fn wanted(layout: &Layout, matches: &ArgMatches) -> Result<Vec<Image>> {
    let Some(names) = matches.get_many::<ImageName>("image") else {
        let all = storage::images(layout).map_err(ImageError::from)?;
        return Ok(all.into_iter().collect::<std::result::Result<_, _>>()?);
    };
    let mut found: Vec<Image> = Vec::new();
    for name in names {
        let image = storage::find_image(layout, name)?;
        if !found.contains(&image) {
            found.push(image);
        }
    }
    Ok(found)
}

#[derive(Serialize)]
struct Verified {
    digest: String,
    sound: bool,
    faults: Vec<String>,
}

fn verify(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let mut done = Vec::new();
    for image in wanted(layout, matches)? {
        let faults = storage::verify_image(layout, &image).map_err(ImageError::from)?;
        done.push(Verified {
            digest: image.digest,
            sound: faults.is_empty(),
            faults,
        });
    }
    context.list(&done, &["DIGEST", "STATE", "FAULTS"], |image| {
        let (state, tone) = match image.sound {
            true => ("sound", Tone::Good),
            false => ("damaged", Tone::Bad),
        };
        vec![
            Cell::from(image.digest.get(..12).unwrap_or_default()),
            Cell::new(state, tone),
            Cell::from(image.faults.join("; ")),
        ]
    })?;
    Ok(u8::from(done.iter().any(|image| !image.sound)))
}

fn delete(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let images = wanted(layout, matches)?;
    for image in &images {
        let guests = storage::image_users(layout, image).map_err(ImageError::from)?;
        if !guests.is_empty() {
            let digest = image.short().to_owned();
            return Err(ImageError::InUse { digest, guests }.into());
        }
    }
    if matches.get_flag("dry-run") {
        for image in &images {
            context.done(&format!("would delete image {}", image.short()))?;
        }
        return Ok(0);
    }
    interrupt::catch()?;
    for image in &images {
        storage::remove_image(layout, &image.digest)?;
        context.done(&format!("deleted image {}", image.short()))?;
    }
    let layers = storage::remove_layers(layout)?;
    if !layers.is_empty() {
        context.done(&format!(
            "deleted {} layers that no image uses",
            layers.len()
        ))?;
    }
    Ok(0)
}

fn prune(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let layout = &context.manager()?.layout;
    let (named, would) = (matches.get_flag("all"), matches.get_flag("dry-run"));
    let gone = if would {
        storage::unused(layout, named)?
    } else {
        storage::prune(layout, named)?
    };
    context.one(&gone, |_| {
        let verb = if would { "would delete" } else { "deleted" };
        let (images, layers) = (gone.images.len(), gone.layers.len());
        let bytes = bytes_text(gone.bytes);
        format!("{verb} {images} images and {layers} layers, {bytes}\n")
    })?;
    Ok(0)
}
