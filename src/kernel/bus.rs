//! A blocking connection to systemd over D-Bus, for a process that must have one thread: one socket,
//! one question at a time. Messages are put together by `zbus`, whose own connections run on threads;
//! their heads are taken apart here, because systemd signs those of its own socket with a name that
//! `zbus` panics at. Which questions are asked belongs to `cgroup::scope`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::message::Message;
use zbus::zvariant::serialized::{Context, Data};
use zbus::zvariant::{DynamicType, Endian, OwnedObjectPath, OwnedValue, Type, Value};

use super::{KernelError, Result};

/// systemd's own socket: root reaches it without a bus in between.
const PRIVATE: &str = "/run/systemd/private";
const SYSTEM: &str = "/run/dbus/system_bus_socket";

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// How long an answer may take: what systemctl(1) gives systemd to read its units again, during which
/// it answers nothing; many mounts and units make that long.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes of the longest message that is read; systemd's answers are far shorter.
const LONGEST: usize = 1 << 20;

/// An answer that says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Name of the error, such as `org.freedesktop.systemd1.UnitExists`.
    pub(super) name: String,
    /// What was said besides.
    pub(super) said: String,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Incoming {
    kind: u8,
    /// Number of the question that it answers.
    answers: Option<u32>,
    member: String,
    error: String,
    body: Data<'static, 'static>,
}

/// Kinds of messages.
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// The head of a message: byte order, kind, flags, version, length of the body, number, fields.
type Head = (u8, u8, u8, u8, u32, u32, Vec<(u8, OwnedValue)>);

impl Incoming {
    /// From the bytes of a whole message whose body begins at `body`.
    fn parse(bytes: Vec<u8>, endian: Endian, body: usize) -> zbus::zvariant::Result<Self> {
        let context = Context::new_dbus(endian, 0);
        let body = Data::new(bytes[body..].to_vec(), context);
        let (head, _): (Head, usize) = Data::new(bytes, context).deserialize()?;
        let field = |code: u8| {
            head.6
                .iter()
                .find(|(c, _)| *c == code)
                .map(|(_, value)| &**value)
        };
        let text = |code| match field(code) {
            Some(Value::Str(text)) => text.as_str().to_owned(),
            _ => String::new(),
        };
        Ok(Self {
            kind: head.1,
            answers: match field(5) {
                Some(Value::U32(n)) => Some(*n),
                _ => None,
            },
            member: text(3),
            error: text(4),
            body,
        })
    }

    /// What it says.
    pub(super) fn read<T: DeserializeOwned + Type>(&self) -> zbus::zvariant::Result<T> {
        self.body.deserialize().map(|(value, _)| value)
    }
}

/// A connection to systemd.
#[derive(Debug)]
pub(super) struct Bus {
    socket: UnixStream,
    address: &'static str,
    until: Instant,
    /// Signals that came while an answer was waited for.
    signals: Vec<Incoming>,
}

impl Bus {
    /// Connects to the system's systemd, directly or over the system bus.
    pub(super) fn systemd() -> Result<Self> {
        let private = UnixStream::connect(PRIVATE).map(|socket| (socket, PRIVATE));
        let (socket, address) = match private {
            Ok(found) => found,
            Err(_) => UnixStream::connect(SYSTEM)
                .map(|socket| (socket, SYSTEM))
                .map_err(KernelError::io("connect to", SYSTEM))?,
        };
        let mut bus = Self {
            socket,
            address,
            until: Instant::now() + PATIENCE,
            signals: Vec::new(),
        };
        bus.authenticate()?;
        if address == SYSTEM {
            bus.register()?;
        }
        Ok(bus)
    }

    /// Says who we are, which the kernel has told the other side already. `BEGIN` goes out with it:
    /// what systemd reads together with that word it looks at no sooner than something else comes,
    /// so a question right behind it would wait for ever when systemd is busy (seen with 252).
    fn authenticate(&mut self) -> Result<()> {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        let hello = format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n");
        self.write(hello.as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.read(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                break;
            }
        }
        if line.starts_with(b"OK ") {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&line).trim().to_owned();
        Err(KernelError::new("authenticate at", self.address, Errno::ACCESS).because(said))
    }

    /// On a bus: get a name, and be told of jobs.
    fn register(&mut self) -> Result<()> {
        const BUS: &str = "org.freedesktop.DBus";
        let path = "/org/freedesktop/DBus";
        let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        let refused =
            |r: Refusal| KernelError::new("register at", SYSTEM, Errno::ACCESS).because(r.said);
        self.ask(BUS, path, BUS, "Hello", &())?.map_err(refused)?;
        self.ask(BUS, path, BUS, "AddMatch", &(rule,))?
            .map_err(refused)?;
        self.manager("Subscribe", &())?.map_err(refused)?;
        Ok(())
    }

    /// Calls a method of systemd's manager.
    pub(super) fn manager<B: Serialize + DynamicType>(
        &mut self,
        method: &str,
        body: &B,
    ) -> Result<std::result::Result<Incoming, Refusal>> {
        self.ask(SYSTEMD, MANAGER, MANAGER_INTERFACE, method, body)
    }

    fn ask<B: Serialize + DynamicType>(
        &mut self,
        to: &str,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<std::result::Result<Incoming, Refusal>> {
        let wrong = |e: zbus::Error| {
            KernelError::new("ask systemd for", method, Errno::INVAL).because(e.to_string())
        };
        let message = Message::method_call(path, method)
            .and_then(|m| m.destination(to))
            .and_then(|m| m.interface(interface))
            .and_then(|m| m.build(body))
            .map_err(wrong)?;
        self.write(message.data())?;
        let serial = message.primary_header().serial_num().get();
        loop {
            let came = self.receive()?;
            let ours = came.answers == Some(serial);
            match came.kind {
                ANSWER if ours => return Ok(Ok(came)),
                ERROR if ours => {
                    return Ok(Err(Refusal {
                        said: came.read().unwrap_or_default(),
                        name: came.error,
                    }));
                }
                SIGNAL => self.signals.push(came),
                _ => {}
            }
        }
    }

    /// Waits for the end of a job of systemd's; what came of it, such as `done`.
    pub(super) fn job_result(&mut self, job: &str) -> Result<String> {
        for signal in std::mem::take(&mut self.signals) {
            if let Some(result) = removed(&signal, job) {
                return Ok(result);
            }
        }
        loop {
            let message = self.receive()?;
            if let Some(result) = removed(&message, job) {
                return Ok(result);
            }
        }
    }

    fn receive(&mut self) -> Result<Incoming> {
        let address = self.address;
        let wrong =
            |said: &str| KernelError::new("read a message at", address, Errno::PROTO).because(said);
        let mut bytes = vec![0_u8; 16];
        self.read(&mut bytes)?;
        let endian = match bytes[0] {
            b'l' => Endian::Little,
            b'B' => Endian::Big,
            _ => return Err(wrong("it is none of D-Bus")),
        };
        let number = |at: usize| -> usize {
            let four = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            let n = match endian {
                Endian::Little => u32::from_le_bytes(four),
                Endian::Big => u32::from_be_bytes(four),
            };
            n as usize
        };
        let (body, fields) = (number(4), number(12));
        if body > LONGEST || fields > LONGEST {
            return Err(wrong("it is too long"));
        }
        let begin = 16 + fields.next_multiple_of(8);
        bytes.resize(begin + body, 0);
        self.read(&mut bytes[16..])?;
        Incoming::parse(bytes, endian, begin).map_err(|e| wrong(&e.to_string()))
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        let failed = |e| KernelError::io("read at", self.address)(e);
        if left.is_zero() {
            return Err(KernelError::new(
                "wait for systemd at",
                self.address,
                Errno::TIMEDOUT,
            ));
        }
        self.socket.set_read_timeout(Some(left)).map_err(failed)?;
        match self.socket.read_exact(bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(KernelError::new(
                "wait for systemd at",
                self.address,
                Errno::TIMEDOUT,
            )),
            done => done.map_err(failed),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.socket
            .write_all(bytes)
            .map_err(KernelError::io("write at", self.address))
    }
}

/// What came of `job`, if this is the signal that says so.
fn removed(signal: &Incoming, job: &str) -> Option<String> {
    if signal.kind != SIGNAL || signal.member != "JobRemoved" {
        return None;
    }
    let (_, path, _, result): (u32, OwnedObjectPath, String, String) = signal.read().ok()?;
    (path.as_str() == job).then_some(result)
}

/// Whether systemd can be reached at all.
pub(super) fn has_systemd() -> bool {
    Path::new(PRIVATE).exists() || Path::new(SYSTEM).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as it comes, of which the first 16 bytes say how long it is.
    fn taken(message: &Message) -> Incoming {
        let bytes = message.data().to_vec();
        let fields = u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
        let begin = 16 + fields.next_multiple_of(8);
        let endian = if bytes[0] == b'l' {
            Endian::Little
        } else {
            Endian::Big
        };
        Incoming::parse(bytes, endian, begin).unwrap()
    }

    #[test]
    fn the_end_of_a_job_is_told_by_its_signal() {
        let job = OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap();
        let signal = Message::signal(MANAGER, MANAGER_INTERFACE, "JobRemoved")
            .unwrap()
            .build(&(7_u32, job, "a.scope", "done"))
            .unwrap();
        let came = taken(&signal);
        let result = removed(&came, "/org/freedesktop/systemd1/job/7");
        assert_eq!(result.as_deref(), Some("done"));
        assert_eq!(removed(&came, "/org/freedesktop/systemd1/job/8"), None);
    }

    #[test]
    fn cut_short_messages_are_errors() {
        let call = Message::method_call(MANAGER, "Subscribe")
            .unwrap()
            .build(&())
            .unwrap();
        let bytes = call.data().to_vec();
        for end in 0..bytes.len().min(60) {
            assert!(
                Incoming::parse(bytes[..end].to_vec(), Endian::Little, end).is_err(),
                "{end}"
            );
        }
    }
}
