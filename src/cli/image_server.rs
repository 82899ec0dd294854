//! `image pull --server`: taking an image in from a server of the simplestreams form.

use clap::{Arg, ArgMatches};

use super::command::required;
use super::context::Context;
use super::fault::{Fault, Result};
use super::image_transfer::taken;
use super::progress::Teller;
use crate::guest::view::bytes_text;
use crate::kernel::interrupt;
use crate::model::ImageName;
use crate::storage::{self, ServerImage, Trust};

/// The flag that names a server.
pub(super) fn flag() -> Arg {
    Arg::new("server")
        .long("server")
        .value_name("URL")
        .conflicts_with("auth-file")
        .help(
            "Image server that has it (simplestreams), such as https://images.linuxcontainers.org",
        )
}

/// The image of a server that is asked for; none where a registry is to be asked.
pub(super) fn wanted(matches: &ArgMatches) -> Result<Option<ServerImage>> {
    let Some(server) = matches.get_one::<String>("server") else {
        return match matches.contains_id("keyring") {
            true => Err(Fault::usage(
                "--keyring is for image servers: name one with --server",
            )),
            false => Ok(None),
        };
    };
    let name: String = required(matches, "image")?;
    ServerImage::new(server, &name)
        .map(Some)
        .map_err(Fault::usage)
}

/// Takes it in.
pub(super) fn pull(
    context: &Context,
    matches: &ArgMatches,
    wanted: &ServerImage,
    trust: &Trust,
) -> Result<u8> {
    let layout = &context.manager()?.layout;
    interrupt::catch()?;
    if matches.get_flag("dry-run") {
        let fetch = storage::look_at_server_image(layout, wanted, trust)?;
        let size = bytes_text(fetch.bytes);
        context.done(&format!("would take in {}: {size}", fetch.image))?;
        return Ok(0);
    }
    let name = matches.get_one::<ImageName>("tag");
    let mut teller = Teller::new(context.quiet);
    let done = storage::pull_server_image(layout, wanted, name, None, trust, &mut |step| {
        teller.tell(step)
    });
    drop(teller);
    taken(context, done)
}
