//! Interfaces as rtnetlink(7) tells of them, attribute by attribute. Names, aliases and further names
//! may be any bytes and many: a guest's root chooses them, and a card that comes back to the host has
//! them still. So no answer is refused for what they are.

use std::convert::Infallible;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};

use super::netlink_message::Link;
use super::netlink_nft::{attribute, inside};

/// Numbers of <linux/rtnetlink.h> and <linux/if_link.h>.
pub(super) mod number {
    pub(in crate::kernel) const NEW_LINK: u16 = 16;
    pub(in crate::kernel) const GET_LINK: u16 = 18;
    pub(in crate::kernel) const SET_LINK: u16 = 19;
    pub(in crate::kernel) const NEW_NAMES: u16 = 108;
    pub(in crate::kernel) const DELETE_NAMES: u16 = 109;

    pub(in crate::kernel) const ADDRESS: u16 = 1;
    pub(in crate::kernel) const BROADCAST: u16 = 2;
    pub(in crate::kernel) const NAME: u16 = 3;
    pub(in crate::kernel) const MTU: u16 = 4;
    /// The interface that one stands on, or the other end of a pair.
    pub(in crate::kernel) const BELOW: u16 = 5;
    pub(in crate::kernel) const MASTER: u16 = 10;
    pub(in crate::kernel) const QUEUE: u16 = 13;
    pub(in crate::kernel) const MODE: u16 = 17;
    pub(in crate::kernel) const INFO: u16 = 18;
    /// In that.
    pub(in crate::kernel) const KIND: u16 = 1;
    pub(in crate::kernel) const ALIAS: u16 = 20;
    pub(in crate::kernel) const GROUP: u16 = 27;
    pub(in crate::kernel) const EXTENT: u16 = 29;
    /// There if what it stands on is in another namespace.
    pub(in crate::kernel) const ELSEWHERE: u16 = 37;
    pub(in crate::kernel) const GSO_SEGMENTS: u16 = 40;
    pub(in crate::kernel) const GSO_SIZE: u16 = 41;
    pub(in crate::kernel) const NAMES: u16 = 52;
    /// In that: each further name.
    pub(in crate::kernel) const FURTHER_NAME: u16 = 53;
    pub(in crate::kernel) const PERMANENT: u16 = 54;
    pub(in crate::kernel) const PARENT: u16 = 56;
    pub(in crate::kernel) const PARENT_BUS: u16 = 57;
    pub(in crate::kernel) const GRO_SIZE: u16 = 58;
    pub(in crate::kernel) const GSO_SIZE4: u16 = 63;
    pub(in crate::kernel) const GRO_SIZE4: u16 = 64;

    /// Leaves counters out of an answer.
    pub(in crate::kernel) const WITHOUT_COUNTERS: u32 = 1 << 3;
}

/// IFF_UP of netdevice(7).
pub(super) const UP: u32 = 1;

/// Bytes of struct ifinfomsg.
const HEAD: usize = 16;

/// One message about an interface, sent or heard.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u16,
    pub(super) index: u32,
    pub(super) flags: u32,
    /// Of those, which are to be changed.
    pub(super) change: u32,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// A question for interfaces, by these attributes.
    pub(super) fn question(index: u32, mut body: Vec<u8>) -> Self {
        body.extend(attribute(
            number::EXTENT,
            &number::WITHOUT_COUNTERS.to_ne_bytes(),
        ));
        Self {
            kind: number::GET_LINK,
            index,
            body,
            ..Self::default()
        }
    }

    /// A change of the interface of a number.
    pub(super) fn change(index: u32, body: Vec<u8>) -> Self {
        Self {
            kind: number::SET_LINK,
            index,
            body,
            ..Self::default()
        }
    }

    /// The contents of its first attribute of a number.
    pub(super) fn first(&self, kind: u16) -> Option<&[u8]> {
        inside(&self.body, kind).first().copied()
    }

    /// A number of 32 bits.
    pub(super) fn number(&self, kind: u16) -> Option<u32> {
        let bytes = self.first(kind)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    }

    /// A text, with marks where it is none.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        self.first(kind).map(text)
    }
}

/// The bytes before the zero that ends them.
pub(super) fn ended(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(ended(bytes)).into_owned()
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }
    fn buffer_len(&self) -> usize {
        HEAD + self.body.len()
    }
    fn serialize(&self, buffer: &mut [u8]) {
        let (head, body) = buffer.split_at_mut(HEAD);
        let words = [0, self.index, self.flags, self.change];
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
            .map(|word| word.try_into().map_or(0, u32::from_ne_bytes));
        let _kind_of_hardware = words.next();
        let (index, flags) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        Ok(Self {
            kind: header.message_type,
            index,
            flags,
            change: 0,
            body: body.to_vec(),
        })
    }
}

/// The interface that an answer tells of.
pub(super) fn link_of(answer: &Message) -> Option<Link> {
    if answer.kind != number::NEW_LINK {
        return None;
    }
    let info = answer.first(number::INFO).unwrap_or_default();
    let kind = inside(info, number::KIND);
    Some(Link {
        index: answer.index,
        name: answer.text(number::NAME).unwrap_or_default(),
        alias: answer.text(number::ALIAS),
        kind: kind.first().map(|kind| text(kind)),
        master: answer.number(number::MASTER),
        mac: answer
            .first(number::ADDRESS)
            .and_then(|mac| mac.try_into().ok()),
        mtu: answer.number(number::MTU).unwrap_or(0),
        up: answer.flags & UP != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::super::netlink_nft::nest;
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_no_interface() {
        let body = [
            attribute(number::NAME, b"\xff\xfex\0"),
            attribute(number::ALIAS, b"\xc3"),
            attribute(number::MTU, &1400_u32.to_ne_bytes()),
            nest(number::INFO, attribute(number::KIND, b"veth\0")),
            attribute(number::ADDRESS, &[2, 0, 0, 0, 0, 9]),
        ]
        .concat();
        let sent = Message {
            kind: number::NEW_LINK,
            index: 7,
            flags: UP,
            change: 0,
            body,
        };
        let mut bytes = vec![0; sent.buffer_len()];
        sent.serialize(&mut bytes);
        let mut header = NetlinkHeader::default();
        header.message_type = sent.message_type();
        let heard = Message::deserialize(&header, &bytes).unwrap();
        let link = link_of(&heard).unwrap();
        assert_eq!((link.index, link.mtu, link.up), (7, 1400, true));
        assert_eq!(link.name, "\u{fffd}\u{fffd}x");
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 9]));
        header.message_type = number::SET_LINK;
        assert!(link_of(&Message::deserialize(&header, &bytes[..9]).unwrap()).is_none());
    }
}
