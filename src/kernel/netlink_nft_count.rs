//! What elements of nftables' sets have counted, and which making of a table they are in. Adding and
//! deleting elements is next door in `netlink_nft.rs`.

use netlink_packet_core::NLM_F_DUMP;
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

/// NFT_MSG_GETRULE, and of a rule: NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
/// NFTA_LIST_ELEM, NFTA_EXPR_NAME.
const GET_RULE: u16 = number::GET_TABLE & 0xff00 | 7;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_EXPRESSION: u16 = 1;
const EXPRESSION_NAME: u16 = 1;

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

    /// What elements of one set have counted, without headers of frames; `None` if one is not there.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn count<const N: usize>(
        &mut self,
        elements: &[Element; N],
    ) -> Result<Option<[Volume; N]>, NetlinkError> {
        let body = chosen(&self.table, elements);
        let question = Message::new(number::GET_ELEMENT, self.family, body);
        let answers = match self.kernel.ask(question, 0) {
            Ok(answers) => answers,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(NetlinkError::new(VERB, &self.table, e)),
        };
        // One for each, in the order in which they were asked for.
        let counted: Option<Vec<Volume>> = answers.iter().map(|one| counted(one.body())).collect();
        Ok(counted.and_then(|all| all.try_into().ok()))
    }
}

/// Packets that each rule of a chain counted which drops what goes beyond a rate, in order; empty if
/// there is no such chain, or no such rule.
///
/// # Errors
/// When the kernel gives no socket or refuses to tell.
pub fn beyond_rates(family: Family, table: &str, chain: &str) -> Result<Vec<u64>, NetlinkError> {
    let mut kernel = match Conversation::open(NETLINK_NETFILTER) {
        Ok(kernel) => kernel,
        Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(Vec::new()),
        Err(e) => return Err(NetlinkError::new(VERB, table, e.into())),
    };
    let body = [text(RULE_TABLE, table), text(RULE_CHAIN, chain)].concat();
    let answers = match kernel.ask(Message::new(GET_RULE, family, body), NLM_F_DUMP) {
        Ok(answers) => answers,
        Err(e) if absent(&e) => return Ok(Vec::new()),
        Err(e) => return Err(NetlinkError::new(VERB, table, e)),
    };
    let of_chain = |rule: &&Message| {
        let name = inside(rule.body(), RULE_CHAIN).first().copied();
        // Kernels before 4.20 tell all chains.
        name.is_some_and(|name| name.strip_suffix(&[0]) == Some(chain.as_bytes()))
    };
    let rules = answers.iter().filter(of_chain);
    Ok(rules.filter_map(|rule| beyond_rate(rule.body())).collect())
}

/// Packets that a rule counted, if it looks at a rate first.
fn beyond_rate(rule: &[u8]) -> Option<u64> {
    let list = *inside(rule, RULE_EXPRESSIONS).first()?;
    let mut expressions = inside(list, RULE_EXPRESSION).into_iter().map(|one| {
        let name = inside(one, EXPRESSION_NAME).first().copied();
        (name, inside(one, DATA).first().copied())
    });
    expressions.find(|(name, _)| *name == Some(b"limit\0"))?;
    let (_, counter) = expressions.find(|(name, _)| *name == Some(b"counter\0"))?;
    number_in(counter?, PACKETS)
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

#[cfg(test)]
mod tests {
    use super::super::netlink_nft::{attribute, nest};
    use super::*;

    #[test]
    fn only_what_lies_beyond_a_rate_is_counted() {
        let expression = |name: &str, data: Vec<u8>| {
            let inner = [text(EXPRESSION_NAME, name), nest(DATA, data)].concat();
            nest(RULE_EXPRESSION, inner)
        };
        let counter = expression("counter", attribute(PACKETS, &7_u64.to_be_bytes()));
        let rule = |list: &[&Vec<u8>]| {
            let list = list.iter().copied().flatten().copied().collect();
            nest(RULE_EXPRESSIONS, list)
        };
        let limit = expression("limit", Vec::new());
        assert_eq!(beyond_rate(&rule(&[&limit, &counter])), Some(7));
        assert_eq!(beyond_rate(&rule(&[&counter])), None);
        assert_eq!(beyond_rate(&rule(&[&limit])), None);
        assert_eq!(beyond_rate(&[1, 2, 3]), None);
    }
}
