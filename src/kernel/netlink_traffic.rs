//! Messages of rtnetlink(7) about queues, their classes and filters, as bytes: where an answer is read, only
//! what is looked for has to be as it is known.

use std::convert::Infallible;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

use super::netlink_nft::inside;

/// TCA_OPTIONS of <linux/rtnetlink.h>.
pub(super) const OPTIONS: u16 = 2;

/// A message about queues, classes or filters: struct tcmsg and what follows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) index: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) info: u32,
    pub(super) body: Vec<u8>,
}

/// Bytes of struct tcmsg.
const HEAD: usize = 20;

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }
    fn buffer_len(&self) -> usize {
        HEAD + self.body.len()
    }
    fn serialize(&self, buffer: &mut [u8]) {
        let (head, body) = buffer.split_at_mut(HEAD);
        let words = [0, self.index, self.handle, self.parent, self.info];
        for (at, word) in head.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        body.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        let (head, body) = payload.split_at(HEAD.min(payload.len()));
        let mut words = head
            .chunks_exact(4)
            .map(|word| word.try_into().map_or(0, u32::from_ne_bytes))
            .skip(1);
        let mut next = || words.next().unwrap_or(0);
        Ok(Self {
            kind: header.message_type,
            index: next(),
            handle: next(),
            parent: next(),
            info: next(),
            body: body.to_vec(),
        })
    }
}

impl Message {
    pub(super) fn about(kind: u16, index: u32, parent: u32) -> Self {
        Self {
            kind,
            index,
            parent,
            ..Self::default()
        }
    }

    pub(super) fn options(&self) -> &[u8] {
        let all = inside(&self.body, OPTIONS);
        all.first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_however_short() {
        let sent = Message {
            handle: 1 << 16,
            info: 5,
            body: super::super::netlink_nft::attribute(OPTIONS, b"abcd"),
            ..Message::about(40, 7, 9)
        };
        let mut bytes = vec![0; sent.buffer_len()];
        sent.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = sent.message_type();
        let heard = Message::deserialize(&header, &bytes).unwrap();
        assert_eq!((heard.kind, heard.index, heard.parent), (40, 7, 9));
        assert_eq!((heard.handle, heard.info), (1 << 16, 5));
        assert_eq!(heard.options(), b"abcd");
        let cut = Message::deserialize(&header, &bytes[..9]).unwrap();
        assert_eq!((cut.index, cut.parent), (7, 0));
        assert!(cut.options().is_empty());
    }
}
