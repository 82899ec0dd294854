//! A terminal with somebody at it: a pty of the test's own, with a size, into which a client is
//! started as a shell would start it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nix::pty::{Winsize, openpty};

use crate::support::became;

/// Prints the terminal and its size, waits for a word, tells it. Most clients tell the size when the
/// command runs already.
pub const SIZED: &str =
    "tty; until stty size 2>/dev/null | grep 91; do sleep 0.1; done; read x; echo got-$x";

/// A client at a terminal of 37 rows and 91 columns.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts it there.
    pub fn start(client: &Command) -> Self {
        // Makes its input the controlling terminal of a new session.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(client.get_program())
            .args(client.get_args());
        let set = |(name, value): (_, Option<_>)| Some((name, value?));
        command.envs(client.get_envs().filter_map(set));
        let size = Winsize {
            ws_row: 37,
            ws_col: 91,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a pty");
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        command
            .stdin(copy(&pty.slave))
            .stdout(copy(&pty.slave))
            .stderr(copy(&pty.slave));
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        drop(command); // its copies of the slave would keep the pty open
        drop(pty.slave);
        let (keys, screen) = (
            File::from(copy(&pty.master)),
            Arc::<Mutex<Vec<u8>>>::default(),
        );
        let (mut output, shared) = (File::from(pty.master), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading ends with EIO when nobody has the other side open.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                let mut screen = shared.lock().expect("no panic holds it");
                screen.extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            child,
            keys,
            screen,
        }
    }

    /// Types this.
    pub fn types(&mut self, text: &str) {
        self.keys
            .write_all(text.as_bytes())
            .expect("an open terminal");
    }

    /// What has been written on it so far.
    pub fn screen(&self) -> String {
        let bytes = self.screen.lock().expect("no panic holds it");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until this is on the screen.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let mut last = String::new();
        let seen = became(60, || {
            last = self.screen();
            last.contains(text)
        });
        assert!(seen, "{text:?} is not on the screen: {last}");
    }

    /// Waits for the client's end; its status.
    #[track_caller]
    pub fn ends(&mut self) -> i32 {
        let mut code = None;
        let over = became(60, || {
            code = self.child.try_wait().expect("a child of ours");
            code.is_some()
        });
        assert!(
            over,
            "the client is still at the terminal: {}",
            self.screen()
        );
        code.and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Already over in a test that passed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
