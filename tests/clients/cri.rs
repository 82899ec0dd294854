//! Speaks Kubernetes' container runtime interface as kubelet does: gRPC on a Unix socket. protoc
//! turns the text of a message into its bytes and back (`cri.proto`), curl speaks HTTP/2; what is
//! between them, five bytes before a message, is here. For a handful of calls that is all of gRPC.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::command;

/// Somebody who calls a runtime service.
#[derive(Debug)]
pub struct Kubelet {
    socket: PathBuf,
    folder: PathBuf,
}

impl Kubelet {
    /// One that calls the service on this socket and may write in this folder.
    pub fn new(socket: PathBuf, folder: &Path) -> Self {
        Self {
            socket,
            folder: folder.to_owned(),
        }
    }

    /// Calls a method: the text of its request, named so; its answer as text, or what is wrong.
    pub fn try_call(
        &self,
        method: &str,
        request: (&str, &str),
        answer: &str,
    ) -> Result<String, String> {
        let bytes = translate("--encode", request.0, request.1.as_bytes());
        let length = u32::try_from(bytes.len()).expect("a short message");
        let framed = [&[0][..], &length.to_be_bytes(), &bytes].concat();
        let head = self.folder.join("head");
        let mut curl = command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--unix-socket",
        ]);
        curl.arg(&self.socket).arg("--dump-header").arg(&head);
        curl.args([
            "--header",
            "content-type: application/grpc",
            "--header",
            "te: trailers",
        ]);
        curl.args(["--data-binary", "@-", "--max-time", "200"]);
        curl.arg(format!(
            "http://localhost/runtime.v1.RuntimeService/{method}"
        ));
        let body = fed(curl, &framed);
        let head = std::fs::read_to_string(head).expect("curl wrote it");
        let value = |key: &str| head.lines().rev().find_map(|line| line.strip_prefix(key));
        match value("grpc-status:").map(str::trim) {
            Some("0") => Ok(translated(answer, body.get(5..).unwrap_or_default())),
            _ => Err(value("grpc-message:").unwrap_or(&head).trim().to_owned()),
        }
    }

    /// Calls a method that must succeed.
    #[track_caller]
    pub fn call(&self, method: &str, request: (&str, &str), answer: &str) -> String {
        let told = self.try_call(method, request, answer);
        told.unwrap_or_else(|why| panic!("{method} {}: {why}", request.1))
    }
}

fn translated(message: &str, bytes: &[u8]) -> String {
    String::from_utf8(translate("--decode", message, bytes)).expect("text")
}

fn translate(way: &str, message: &str, input: &[u8]) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let mut protoc = command("protoc");
    protoc
        .arg("--proto_path")
        .arg(&folder)
        .arg(format!("{way}=runtime.v1.{message}"));
    protoc.arg(folder.join("cri.proto"));
    fed(protoc, input)
}

/// Runs a command with this input, which must succeed; what it wrote.
fn fed(mut command: Command, input: &[u8]) -> Vec<u8> {
    let told = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{told}: {e}"));
    let mut wire = child.stdin.take().expect("piped");
    wire.write_all(input)
        .unwrap_or_else(|e| panic!("{told}: {e}"));
    drop(wire);
    let done = child.wait_with_output().expect("a child of ours");
    assert!(
        done.status.success(),
        "{told}: {:?}",
        String::from_utf8_lossy(input)
    );
    done.stdout
}

/// The value of a field in the text of a message, without quotes.
#[track_caller]
pub fn value<'a>(text: &'a str, field: &str) -> &'a str {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(field)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {field}: {text}"))
        .trim_matches('"')
}

/// A command inside a container, by the stream that kubelet opens for `kubectl exec`: a WebSocket
/// whose messages begin with the number of the channel, 0 for input to 3 for the command's end.
#[derive(Debug)]
pub struct Stream {
    wire: TcpStream,
}

impl Stream {
    /// Connects to a URL of `Exec`.
    pub fn open(url: &str) -> Self {
        let rest = url.strip_prefix("http://127.0.0.1:").expect("on loopback");
        let (port, path) = rest.split_once('/').expect("a path");
        let port: u16 = port.parse().expect("a port");
        let mut wire = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        wire.set_read_timeout(Some(Duration::from_secs(100)))
            .expect("a socket");
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nOrigin: http://127.0.0.1\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        wire.write_all(request.as_bytes()).expect("it listens");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            wire.read_exact(&mut byte).expect("an answer");
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self { wire }
    }

    /// Sends input.
    pub fn send(&mut self, text: &str) {
        let payload = [&[0], text.as_bytes()].concat();
        let length = u8::try_from(payload.len()).ok().filter(|n| *n < 126);
        // A client must mask; with zeros the text stays as it is.
        let head = [0x82, 0x80 | length.expect("a short text"), 0, 0, 0, 0];
        self.wire
            .write_all(&[&head, &payload[..]].concat())
            .expect("an open stream");
    }

    /// The next message with something in it: its channel and its text. Nothing at the end.
    pub fn next(&mut self) -> Option<(u8, String)> {
        loop {
            let mut head = [0; 2];
            self.wire.read_exact(&mut head).ok()?;
            let mut length = usize::from(head[1] & 0x7f);
            if length == 126 {
                let mut long = [0; 2];
                self.wire.read_exact(&mut long).ok()?;
                length = u16::from_be_bytes(long).into();
            }
            let mut payload = vec![0; length];
            self.wire.read_exact(&mut payload).ok()?;
            match (head[0] & 0x0f, payload.split_first()) {
                (8, _) => return None,
                (1 | 2, Some((channel, text))) if !text.is_empty() => {
                    return Some((*channel, String::from_utf8_lossy(text).into_owned()));
                }
                _ => {}
            }
        }
    }

    /// All that comes until the end, by channel.
    pub fn rest(&mut self) -> [String; 4] {
        let mut all = [const { String::new() }; 4];
        while let Some((channel, text)) = self.next() {
            all[usize::from(channel)].push_str(&text);
        }
        all
    }
}
