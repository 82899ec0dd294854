//! A registry of Debian's package `docker-registry` on loopback, and what stands between it and a
//! client in tests: a wire that breaks, and a front that wants a token. Ended when dropped.
#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{TestDir, eventually};

/// bcrypt of `secret`.
const SECRET: &str = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A registry at work.
pub struct Registry {
    folder: TestDir,
    port: u16,
    child: Child,
}

impl Registry {
    /// One for everybody.
    pub fn new() -> Self {
        Self::start("")
    }

    /// One for `user` with the password `secret`.
    pub fn locked() -> Self {
        Self::start("auth:\n  htpasswd:\n    realm: test\n    path: FOLDER/passwords\n")
    }

    fn start(more: &str) -> Self {
        let folder = TestDir::new();
        let port = free_port();
        let at = folder.path().display().to_string();
        folder.write("passwords", SECRET);
        let settings = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {at}/data\n\
             http:\n  addr: 127.0.0.1:{port}\n{}",
            more.replace("FOLDER", &at)
        );
        let settings = folder.write("registry.yml", &settings);
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the package docker-registry");
        let registry = Self {
            folder,
            port,
            child,
        };
        eventually("the registry answers", 20, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        registry
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file of a part.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let at = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{digest}/data",
            &digest[..2]
        );
        self.folder.join(&at)
    }

    /// Puts the images of an OCI layout there.
    #[track_caller]
    pub fn push(&self, layout: &std::path::Path, name: &str, flags: &[&str]) {
        skopeo(
            Command::new("skopeo")
                .args([
                    "copy",
                    "--quiet",
                    "--insecure-policy",
                    "--dest-tls-verify=false",
                ])
                .args(flags)
                .arg(format!("oci:{}", layout.display()))
                .arg(format!("docker://{}/{name}", self.host())),
        );
    }
}

/// What skopeo(1) says; it must succeed.
#[track_caller]
pub fn skopeo(command: &mut Command) -> Vec<u8> {
    let done = command.output().expect("the package skopeo");
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{error}");
    done.stdout
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    listener.local_addr().expect("an address").port()
}

/// A wire to a port of this machine that breaks each time so many bytes have come back. Gives its
/// port, and how often it was used.
pub fn breaking_wire(to: u16, after: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    let used = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&used);
    // It ends with the test's process.
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else {
                continue;
            };
            let (mut from, mut into) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut into).ok());
            std::thread::spawn(move || {
                let mut back = (&far).take(after as u64);
                std::io::copy(&mut back, &mut &near).ok();
                near.shutdown(Shutdown::Both).ok();
                far.shutdown(Shutdown::Both).ok();
            });
        }
    });
    (port, used)
}

/// A registry that gives what is in `files` (path of the URL, content) to whoever shows the token
/// that it gives to `user:secret`; it knows no ranges.
pub fn token_front(files: Vec<(String, Vec<u8>)>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut wire in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut byte = [0];
            while !asked.ends_with(b"\r\n\r\n") && wire.read(&mut byte).unwrap_or(0) == 1 {
                asked.push(byte[0]);
            }
            let asked = String::from_utf8_lossy(&asked).into_owned();
            let path = asked.split(' ').nth(1).unwrap_or_default().to_owned();
            let shows = |what: &str| {
                asked
                    .to_ascii_lowercase()
                    .contains(&what.to_ascii_lowercase())
            };
            let answer = if path.starts_with("/token?") {
                let good = shows("authorization: basic dXNlcjpzZWNyZXQ=")
                    && path.contains("scope=repository%3Ateam%2Fbox%3Apull");
                let token = if good {
                    r#"{"token":"open-sesame"}"#
                } else {
                    "{}"
                };
                answer("200 OK", "", token.as_bytes())
            } else if !shows("authorization: bearer open-sesame") {
                let ask = format!(
                    "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",\
                     service=\"front\",scope=\"repository:team/box:pull\"\r\n"
                );
                answer("401 Unauthorized", &ask, b"")
            } else {
                match files.iter().find(|(known, _)| *known == path) {
                    Some((_, data)) => answer("200 OK", "", data),
                    None => answer("404 Not Found", "", b""),
                }
            };
            wire.write_all(&answer).ok();
        }
    });
    port
}

fn answer(status: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
