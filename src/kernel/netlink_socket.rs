//! One question and its answer on a netlink socket, without an async runtime: a launch asks the
//! kernel four things in a row, and waiting is all it could do meanwhile. What is asked belongs next
//! door: links, addresses and routes in `netlink.rs`, firewall tables in `netlink_nft.rs`.

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel fills at most 32 KiB for one read of a dump, or with what it tells of one interface: at
/// most 64 KiB of names that somebody has given that, and little else.
const RECEIVE: usize = 96 << 10;
/// Bytes of the request's header that a capped answer repeats (struct nlmsghdr).
const HEADER: usize = 16;
/// NLMSGERR_ATTR_MSG: the kernel's own words on what was wrong.
const ERROR_TEXT: u16 = 1;
/// Times a dump that changed while it was read is read again.
const DUMP_TRIES: u32 = 4;

/// What the kernel answered instead of doing it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) source: io::Error,
    pub(super) detail: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self {
            source,
            detail: None,
        }
    }
}

/// A netlink(7) socket that speaks with the kernel only. It belongs for good to the network
/// namespace its maker was in.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: Socket,
    sequence: u32,
    receive: Vec<u8>,
}

impl Conversation {
    /// Opens a socket of a netlink protocol, such as NETLINK_ROUTE.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Linux 4.12 and 4.3. Without them errors are a bare number, which is no reason to fail.
        let _worse_errors = socket.set_ext_ack(true).and(socket.set_cap_ack(true));
        Ok(Self {
            socket,
            sequence: 0,
            receive: Vec::with_capacity(RECEIVE),
        })
    }

    /// Sends one request and reads up to its acknowledgement; the answers that came before it.
    pub(super) fn ask<M>(&mut self, message: M, flags: u16) -> Result<Vec<M>, Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut tries = DUMP_TRIES;
        loop {
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            let mut bytes = vec![0; message.buffer_len()];
            message.serialize(&mut bytes);
            retry(|| self.socket.send(&bytes, 0))?;
            let (answers, interrupted) = self.answers()?;
            tries -= 1;
            if !interrupted || flags & NLM_F_DUMP != NLM_F_DUMP || tries == 0 {
                return Ok(answers);
            }
        }
    }

    /// Sends several requests at once, of which the last that has NLM_F_ACK is acknowledged, and
    /// waits for that or for the first refusal. All have the one number, so that either ends it.
    pub(super) fn ask_all<M>(&mut self, messages: Vec<(M, u16)>) -> Result<(), Refusal>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            let payload = NetlinkPayload::InnerMessage(message);
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            message.header.flags = NLM_F_REQUEST | flags;
            message.header.sequence_number = self.sequence;
            message.finalize();
            let at = bytes.len();
            bytes.resize(at + message.buffer_len(), 0);
            message.serialize(&mut bytes[at..]);
        }
        retry(|| self.socket.send(&bytes, 0))?;
        self.answers::<M>().map(drop)
    }

    /// Reads until the request is acknowledged; also whether a dump was interrupted by a change.
    fn answers<M: NetlinkDeserializable>(&mut self) -> Result<(Vec<M>, bool), Refusal> {
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            self.receive.clear();
            let read = retry(|| self.socket.recv(&mut self.receive, libc::MSG_TRUNC))?;
            if read > self.receive.len() {
                return Err(io::Error::other("an answer longer than 96 KiB").into());
            }
            let mut rest = &self.receive[..];
            while !rest.is_empty() {
                let length = NetlinkBuffer::new_checked(&rest)
                    .map_err(malformed)?
                    .length() as usize;
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(malformed)?;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                let header = message.header;
                if header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((answers, interrupted));
                    }
                    NetlinkPayload::Error(error) => return Err(refusal(&header, &error)),
                    NetlinkPayload::Done(done) if done.code == 0 => {
                        return Ok((answers, interrupted));
                    }
                    NetlinkPayload::Done(done) => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_abs()).into());
                    }
                    _ => {}
                }
            }
        }
    }
}

fn refusal(header: &NetlinkHeader, error: &ErrorMessage) -> Refusal {
    let told = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    let detail = (header.flags & told == told)
        .then(|| error.header.get(HEADER..))
        .flatten()
        .and_then(|attributes| {
            NlasIterator::new(attributes)
                .flatten()
                .find(|a| a.kind() == ERROR_TEXT)
                .map(|a| {
                    String::from_utf8_lossy(a.value())
                        .trim_end_matches('\0')
                        .to_owned()
                })
        });
    Refusal {
        source: error.to_io(),
        detail,
    }
}

fn malformed(error: netlink_packet_core::DecodeError) -> Refusal {
    io::Error::new(io::ErrorKind::InvalidData, error).into()
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
