//! `image pull` and `image import`: taking images in; `image publish`: making one of a guest.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use serde::Serialize;

use super::command::{dry_run, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::image_server;
use super::progress::Teller;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::{GuestName, ImageName, ImageNameError};
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
    Command::new("pull")
        .about("Take an image in from a registry, or from an image server")
        .arg(Arg::new("image").value_name("IMAGE").required(true).help(
            "Its name there, such as alpine:3.20, registry.example/team/app@sha256:…; of a \
                     server ALIAS or ALIAS@VERSION, such as alpine/3.20",
        ))
        .arg(image_server::flag())
        .arg(tag())
        .args(trust_flags())
        .arg(dry_run())
}

/// The flags of whatever speaks with a registry.
pub(super) fn trust_flags() -> [Arg; 4] {
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(help)
    };
    [
        file(
            "auth-file",
            "User and password, in the form of Docker's config.json",
        ),
        file(
            "keyring",
            "OpenPGP keys of which one must have signed what an image server says",
        ),
        file("ca", "Certificates to trust instead of the host's, PEM"),
        switch(
            "insecure",
            "Plain HTTP also where the other side is not this machine itself",
        ),
    ]
}

/// What they say.
pub(super) fn trust(matches: &ArgMatches) -> Trust {
    Trust {
        insecure: matches.get_flag("insecure"),
        authority: matches.get_one::<PathBuf>("ca").cloned(),
        credentials: matches.get_one::<PathBuf>("auth-file").cloned(),
        keyring: matches.get_one::<PathBuf>("keyring").cloned(),
    }
}

/// Takes an image in from a registry, or from a server.
pub(super) fn pull(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let trust = trust(matches);
    if let Some(wanted) = image_server::wanted(matches)? {
        return image_server::pull(context, matches, &wanted, &trust);
    }
    let wanted: String = required(matches, "image")?;
    let wanted: ImageName = wanted
        .parse()
        .map_err(|error: ImageNameError| Fault::usage(error.to_string()))?;
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

/// `image publish`.
pub(super) fn publish_command() -> Command {
    Command::new("publish")
        .about("Make an image of a stopped guest, or of a snapshot, without its keys, names, logs and addresses")
        .arg(
            Arg::new("guest")
                .value_name("GUEST")
                .value_parser(value_parser!(GuestName))
                .required_unless_present("archive")
                .conflicts_with("archive")
                .help("Name of the guest"),
        )
        .arg(
            Arg::new("archive")
                .long("archive")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Archive of a root to make it of instead, as it is"),
        )
        .arg(
            Arg::new("snapshot")
                .long("snapshot")
                .value_name("SNAPSHOT")
                .requires("guest")
                .help("Make it of this snapshot of the guest, which may run"),
        )
        .arg(tag().required(true).help("Name of the image"))
        .arg(dry_run())
}

/// Makes an image of a guest, or of the archive of a root.
pub(super) fn publish(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let manager = context.manager()?;
    let tag: ImageName = required(matches, "tag")?;
    let guest = matches.get_one::<GuestName>("guest");
    let archive = matches.get_one::<PathBuf>("archive");
    let snapshot = matches.get_one::<String>("snapshot").map(String::as_str);
    if matches.get_flag("dry-run") {
        if let Some(guest) = guest {
            manager.check_publish(guest, snapshot)?;
        }
        context.done(&format!("would make the image {tag}"))?;
        return Ok(0);
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let mut tell = |step| teller.tell(step);
    let made = match (guest, archive) {
        (Some(guest), _) => {
            let done = manager.publish(guest, snapshot, &tag, &mut tell);
            done.map_err(Fault::from)
        }
        (None, archive) => {
            let wanted = Import {
                source: archive.cloned().unwrap_or_default(),
                reference: None,
                name: Some(tag.clone()),
            };
            let done = storage::import_image(&manager.layout, &wanted, &mut tell);
            done.map(|(image, _)| image).map_err(Fault::from)
        }
    };
    drop(teller);
    let image = made.map_err(Fault::or_interrupted)?;
    tell_of(context, image, &[tag])
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
pub(super) fn taken(
    context: &Context,
    done: std::result::Result<(Image, Vec<ImageName>), ImageError>,
) -> Result<u8> {
    let (image, names) = done.map_err(|error| Fault::from(error).or_interrupted())?;
    tell_of(context, image, &names)
}

fn tell_of(context: &Context, image: Image, names: &[ImageName]) -> Result<u8> {
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
