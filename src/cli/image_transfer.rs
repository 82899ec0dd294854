//! `image pull` and `image import`: taking images in.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::{dry_run, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::progress::Teller;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::ImageName;
use crate::storage::{self, Image, ImageError, Import, Trust};

/// `image import`.
pub(super) fn import_command() -> Command {
    Command::new("import")
        .about("Take an image in from a file or folder")
        .arg(
            Arg::new("source")
                .value_name("SOURCE")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help(
                    "OCI layout (folder, or archive), archive of `docker save` or `podman save`, or \
                     of a root; plain or compressed with gzip, xz or zstd",
                ),
        )
        .arg(
            Arg::new("ref")
                .long("ref")
                .value_name("NAME")
                .help("Which of several images in it"),
        )
        .arg(tag())
        .arg(dry_run())
}

/// `image pull`.
pub(super) fn pull_command() -> Command {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    Command::new("pull")
        .about("Take an image in from a registry")
        .arg(
            Arg::new("image")
                .value_name("IMAGE")
                .required(true)
                .value_parser(value_parser!(ImageName))
                .help("Its name there, such as alpine:3.20, registry.example/team/app@sha256:…"),
        )
        .arg(tag())
        .arg(file(
            "auth-file",
            "User and password, in the form of Docker's config.json",
        ))
        .arg(file(
            "ca",
            "Certificates to trust instead of the host's, PEM",
        ))
        .arg(switch(
            "insecure",
            "Plain HTTP also where the registry is not this machine itself",
        ))
        .arg(dry_run())
}

/// Takes an image in from a registry.
pub(super) fn pull(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let wanted: ImageName = required(matches, "image")?;
    let trust = Trust {
        insecure: matches.get_flag("insecure"),
        authority: matches.get_one::<PathBuf>("ca").cloned(),
        credentials: matches.get_one::<PathBuf>("auth-file").cloned(),
    };
    if matches.get_flag("dry-run") {
        let fetch = storage::look_at_image(&wanted, &trust)?;
        let (layers, size) = (fetch.layers, bytes_text(fetch.bytes));
        context.done(&format!(
            "would take in {}: {layers} layers, {size} as stored there",
            wanted.full()
        ))?;
        return Ok(0);
    }
    let name = matches.get_one::<ImageName>("tag");
    let layout = &context.manager()?.layout;
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let done = storage::pull_image(layout, &wanted, name, &trust, &mut |step| teller.tell(step));
    drop(teller);
    taken(context, done)
}

/// The name of what is taken in.
fn tag() -> Arg {
    Arg::new("tag")
        .long("tag")
        .value_name("NAME")
        .value_parser(value_parser!(ImageName))
        .help("Its name here [default: those it has there]")
}

/// An image that was taken in.
#[derive(Serialize)]
struct Taken {
    image: String,
    names: Vec<String>,
    size: u64,
    files: u64,
    layers: usize,
}

/// Takes an image in from a file or folder.
pub(super) fn import(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let wanted = Import {
        source: required(matches, "source")?,
        reference: matches.get_one::<String>("ref").cloned(),
        name: matches.get_one::<ImageName>("tag").cloned(),
    };
    let manager = context.manager()?;
    if matches.get_flag("dry-run") {
        let shown = wanted.source.display();
        std::fs::metadata(&wanted.source)
            .map_err(|e| Fault::usage(format!("cannot look at {shown}: {e}")))?;
        context.done(&format!("would take in {shown}"))?;
        return Ok(0);
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let done = storage::import_image(&manager.layout, &wanted, &mut |step| teller.tell(step));
    drop(teller);
    taken(context, done)
}

/// Tells of an image that was taken in.
fn taken(
    context: &Context,
    done: std::result::Result<(Image, Vec<ImageName>), ImageError>,
) -> Result<u8> {
    let (image, names) = done.map_err(|error| Fault::from(error).or_interrupted())?;
    let taken = Taken {
        names: names.iter().map(ToString::to_string).collect(),
        size: image.size,
        files: image.files,
        layers: image.layers.len(),
        image: image.digest,
    };
    context.one(&taken, |_| {
        let name = taken.names.first().map_or("image", String::as_str);
        let size = bytes_text(taken.size);
        format!(
            "{name}: image {}, {size} in {} files\n",
            taken.image, taken.files
        )
    })?;
    Ok(0)
}
