//! `top` on a terminal: measures, draws, does what keys ask for. What is drawn is `top_view`. What
//! changes guests is done by this program executed again, as by a person beside it: a shell needs a
//! sealed program, and a lock that somebody holds is waited for with nothing else in hand.

use std::io::{stdin, stdout};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::context::Context;
use super::fault::{EXEC_FAILED, FAILED, Fault, Result};
use super::top_view::{Line, Look, View, Wish};
use crate::guest::load::Watch;
use crate::kernel::interrupt;
use crate::kernel::screen::{Screen, Typed};
use crate::model::GuestName;

/// The first interval is shorter: somebody waits for it.
const FIRST: Duration = Duration::from_millis(500);
/// How long keys are waited for at a time; then the size is looked at, and whether a signal came
/// between two waits.
const PAUSE: Duration = Duration::from_millis(250);

/// Shows it until somebody quits; `None` when this is no terminal.
pub(super) fn run(context: &Context, watch: &mut Watch<'_>, every: Duration) -> Result<Option<u8>> {
    let failed = |error| Fault::of(FAILED, &error);
    let Some(mut screen) = Screen::on(stdin(), stdout()).map_err(failed)? else {
        return Ok(None);
    };
    interrupt::catch().map_err(failed)?;
    let mut view = View::new(every);
    let mut due = Instant::now() + every.min(FIRST);
    let (mut drawn, mut stale) = ((0, 0), true);
    while interrupt::caught().is_none() {
        if Instant::now() >= due {
            view.measured(watch.look_again()?);
            due = Instant::now() + every;
            stale = true;
        }
        let size = screen.size();
        if stale || size != drawn {
            let text = painted(&view.lines(size.0, size.1));
            if screen.draw(&text).is_err() {
                break;
            }
            drawn = size;
        }
        let pause = due.saturating_duration_since(Instant::now()).min(PAUSE);
        let keys = match screen.typed(pause).map_err(failed)? {
            Typed::Keys(keys) => keys,
            Typed::Gone => break,
        };
        stale = !keys.is_empty();
        for key in keys {
            let wish = view.typed(key, size.0);
            if wish == Wish::Quit {
                return Ok(Some(0));
            }
            if wish != Wish::Nothing {
                fulfil(context, &mut screen, &mut view, wish)?;
                // The next key is about what is so now.
                view.measured(watch.look_meanwhile()?);
            }
        }
    }
    let signal = interrupt::caught().and_then(|signal| u8::try_from(128 + signal).ok());
    Ok(Some(signal.unwrap_or(FAILED)))
}

fn fulfil(context: &Context, screen: &mut Screen, view: &mut View, wish: Wish) -> Result<()> {
    match wish {
        Wish::Nothing | Wish::Quit => {}
        Wish::Pause(name) => freeze(context, view, "pause", &name),
        Wish::Resume(name) => freeze(context, view, "resume", &name),
        Wish::Weigh(name, up) => weigh(context, view, &name, up)?,
        Wish::Shell(name) => {
            let ended = screen.lend(|| shell(context, &name));
            match ended.map_err(|error| Fault::of(FAILED, &error))? {
                Ok(status) if status.code() == Some(i32::from(EXEC_FAILED)) => {
                    view.tell(&format!("no shell in {name}: see bulkhead shell {name}"));
                }
                Ok(_) => {}
                Err(error) => view.tell(&not_again(&error)),
            }
        }
    }
    Ok(())
}

fn not_again(error: &std::io::Error) -> String {
    format!("cannot execute this program again: {error}")
}

/// This program again.
fn again(context: &Context, verb: &str, name: &GuestName) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--root").arg(&context.root);
    command.args(["--quiet", verb, name.as_str()]);
    command
}

fn freeze(context: &Context, view: &mut View, verb: &str, name: &GuestName) {
    tried(view, again(context, verb, name));
}

/// Twice or half the weight that its definition has, and in force at once.
fn weigh(context: &Context, view: &mut View, name: &GuestName, up: bool) -> Result<()> {
    let weight = match context.manager()?.guest(name) {
        Ok(guest) => u64::from(guest.cpu.weight),
        // It has gone, or its definition is being changed.
        Err(error) => {
            view.tell(&error.to_string());
            return Ok(());
        }
    };
    let weight = if up { weight * 2 } else { weight / 2 };
    let set = format!("cpu.weight={}", weight.clamp(1, 10_000));
    let mut command = again(context, "set", name);
    command.arg(&set);
    if tried(view, command) {
        view.tell(&format!("{name}: {set}"));
    }
    Ok(())
}

/// Whether it was done; if not, its last word is for the screen.
fn tried(view: &mut View, mut command: Command) -> bool {
    match command.stdin(Stdio::null()).output() {
        Ok(done) if done.status.success() => return true,
        Ok(done) => {
            let said = String::from_utf8_lossy(&done.stderr);
            view.tell(said.lines().next().unwrap_or("it failed"));
        }
        Err(error) => view.tell(&not_again(&error)),
    }
    false
}

/// Until it ends, or somebody asks this program to.
fn shell(context: &Context, name: &GuestName) -> std::io::Result<ExitStatus> {
    let mut child = again(context, "shell", name).spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if interrupt::caught().is_some() {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(PAUSE / 5);
    }
}

/// Lines as a terminal takes them: each at its place, what was behind it cleared.
fn painted(lines: &[Line]) -> String {
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        let look = match line.look {
            Look::Plain => "",
            Look::Bold => "\u{1b}[1m",
            Look::Reverse => "\u{1b}[7m",
        };
        out += &format!("\u{1b}[{};1H{look}{}\u{1b}[0m\u{1b}[K", at + 1, line.text);
    }
    out + "\u{1b}[J"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_place_and_leaves_nothing_behind_it() {
        let line = |text: &str, look| Line {
            text: text.to_owned(),
            look,
        };
        let text = painted(&[line("a", Look::Reverse), line("b", Look::Plain)]);
        let wanted = "\u{1b}[1;1H\u{1b}[7ma\u{1b}[0m\u{1b}[K\u{1b}[2;1Hb\u{1b}[0m\u{1b}[K\u{1b}[J";
        assert_eq!(text, wanted);
    }
}
