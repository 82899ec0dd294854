//! `network reload` and `network watch`: what others have taken away of networks, put back, once or always.

use clap::Command;

use super::context::Context;
use super::fault::Result;
use super::render::{self, Format, safe};
use crate::guest::network_watch::Tended;

pub(super) fn commands() -> [Command; 2] {
    [
        Command::new("reload")
            .about("Write the firewall of all networks anew, after the host's was flushed"),
        Command::new("watch")
            .about("Put back what others take away of networks, until it is ended")
            .after_help(
                "One at a time, in the foreground; bulkhead-network.service runs it. It sleeps until \
                 the kernel tells that somebody has changed the host's firewall, interfaces, addresses \
                 or routes.",
            ),
    ]
}

pub(super) fn reload(context: &Context) -> Result<u8> {
    let done = context.manager()?.reload_networks()?;
    context.done(&match done.is_empty() {
        true => "no network is set up: the next start of a guest does it".to_owned(),
        false => format!("the firewall of {} is written anew", done.join(", ")),
    })?;
    Ok(0)
}

pub(super) fn watch(context: &Context) -> Result<u8> {
    let mut failed = Ok(());
    let mut told = |tended: &Tended| {
        let text = match context.format {
            Format::Table => format!("{}\n", safe(&text(tended))),
            format => render::streamed(format, tended),
        };
        if let Err(error) = context.out(&text) {
            failed = Err(error);
        }
    };
    context.manager()?.watch_networks(&mut told)?;
    failed?;
    Ok(0)
}

fn text(tended: &Tended) -> String {
    let network = match tended.network.as_str() {
        "" => "networks".to_owned(),
        name => format!("network {name}"),
    };
    match &tended.failed {
        None => format!("{network}: {}: put right", tended.what),
        Some(why) => format!("{network}: {}: {why}; tried again in 10 s", tended.what),
    }
}
