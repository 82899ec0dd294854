//! What elements of nftables' sets have counted, and which making of a table they are in. Adding and
//! deleting elements is next door in `netlink_nft.rs`.

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::NetlinkError;
use super::netlink_nft::{Element, Family, Message, absent, chosen, inside, number, text};
use super::netlink_socket::Conversation;
use crate::model::Volume;

const VERB: &str = "read the counters of the firewall table";
/// NFTA_TABLE_HANDLE.
const TABLE_HANDLE: u16 = 4;
/// NFTA_SET_ELEM_EXPR, NFTA_EXPR_DATA.
const EXPRESSION: u16 = 7;
const DATA: u16 = 2;
/// NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS.
const BYTES: u16 = 1;
const PACKETS: u16 = 2;

/// The counters of a table's elements.
#[derive(Debug)]
pub struct Counting {
    kernel: Conversation,
    family: Family,
    table: String,
    handle: u64,
}

impl Counting {
    /// Looks at a table; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel gives no socket or refuses to tell.
    pub fn open(family: Family, table: &str) -> Result<Option<Self>, NetlinkError> {
        let mut kernel = match Conversation::open(NETLINK_NETFILTER) {
            Ok(kernel) => kernel,
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(None),
            Err(e) => return Err(NetlinkError::new(VERB, table, e.into())),
        };
        let question = Message::new(number::GET_TABLE, family, text(number::TABLE_NAME, table));
        let answers = match kernel.ask(question, 0) {
            Ok(answers) => answers,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(NetlinkError::new(VERB, table, e)),
        };
        let found = answers
            .iter()
            .find_map(|answer| number_in(answer.body(), TABLE_HANDLE));
        Ok(found.map(|handle| Self {
            kernel,
            family,
            table: table.to_owned(),
            handle,
        }))
    }

    /// Number of the table, which no other gets before the next boot: with another one, counters have
    /// begun anew.
    #[must_use]
    pub fn table(&self) -> u64 {
        self.handle
    }

    /// What an element has counted, without headers of frames; `None` if there is none.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn count(&mut self, element: &Element) -> Result<Option<Volume>, NetlinkError> {
        let body = chosen(&self.table, element);
        let question = Message::new(number::GET_ELEMENT, self.family, body);
        let answers = match self.kernel.ask(question, 0) {
            Ok(answers) => answers,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(NetlinkError::new(VERB, &self.table, e)),
        };
        Ok(answers.iter().find_map(|answer| counted(answer.body())))
    }
}

fn counted(answer: &[u8]) -> Option<Volume> {
    let path = [number::ELEMENTS, number::ELEMENT, EXPRESSION, DATA];
    let counter = path
        .iter()
        .try_fold(answer, |at, kind| inside(at, *kind).first().copied())?;
    Some(Volume {
        packets: number_in(counter, PACKETS)?,
        bytes: number_in(counter, BYTES)?,
    })
}

/// A number of 64 bits, in network byte order as nftables has them.
fn number_in(attributes: &[u8], kind: u16) -> Option<u64> {
    let value = *inside(attributes, kind).first()?;
    value.try_into().ok().map(u64::from_be_bytes)
}
