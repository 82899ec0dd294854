//! `rescue`: a guest with a userspace of the host's for its root, and its own root below that.

use clap::{Arg, ArgMatches};

use super::command::{Verb, dry_run, name, name_of, required, switch};
use super::context::Context;
use super::fault::{Fault, Result};
use super::progress::Teller;
use crate::kernel::interrupt;

pub(super) const RESCUE: Verb = Verb {
    name: "rescue",
    about: "Start a stopped guest with a rescue userspace, its own root at /mnt/guest",
    build: |command| {
        command
            .arg(name())
            .arg(
                Arg::new("image")
                    .long("image")
                    .value_name("TEMPLATE_OR_IMAGE")
                    .default_value("busybox")
                    .hide_default_value(true)
                    .help("What the rescue userspace is made from [default: busybox]"),
            )
            .arg(switch(
                "force",
                "Start even if the host has no room for what it is guaranteed",
            ))
            .arg(dry_run())
            .after_help(
                "Address, limits and name are the guest's; no program of its own root is started. \
                 What is written below /mnt/guest stays, all else is gone at the next stop, and \
                 `bulkhead start` brings the guest back as it was.\n\n\
                 Examples:\n  bulkhead rescue web\n  bulkhead shell web\n  \
                 bulkhead stop web && bulkhead start web",
            )
    },
    run: rescue,
    hidden: false,
};

fn rescue(context: &Context, matches: &ArgMatches) -> Result<u8> {
    let (name, manager) = (name_of(matches)?, context.manager()?);
    let from: String = required(matches, "image")?;
    if matches.get_flag("dry-run") {
        manager.check_rescue(&name, &from)?;
        context.done(&format!("{name}: would be started in rescue with {from}"))?;
        return Ok(0);
    }
    interrupt::catch()?;
    let mut teller = Teller::new(context.quiet);
    let force = matches.get_flag("force");
    let started = manager.rescue(&name, &from, force, &mut |step| teller.tell(step));
    drop(teller);
    let started = started.map_err(|error| Fault::from(error).or_interrupted())?;
    context.done(&format!(
        "{name}: in rescue, process {}; its own root is at /mnt/guest, `bulkhead stop {name}` ends it",
        started.pid
    ))?;
    Ok(0)
}
