//! Rules of nftables that `nft` has no words for: what lies at an offset of a packet, looked up in a
//! set together with the interface it came from. All other rules `nft` writes.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};

use super::netlink::NetlinkError;
use super::netlink_nft::{Family, Message, NAME_LENGTH, attribute, change, nest, number, text};

const VERB: &str = "add a rule to the firewall table";
/// NFT_MSG_NEWRULE, and of a rule: NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS.
const NEW_RULE: u16 = number::GET_TABLE & 0xff00 | 6;
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const EXPRESSIONS: u16 = 4;
/// NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA.
const EXPRESSION: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
/// NFT_META_IIFNAME, NF_ACCEPT.
const INCOMING: u32 = 6;
const ACCEPT: u32 = 1;
/// NFT_REG32_00: the first of sixteen registers of four bytes.
const FIRST: u32 = 8;
const WORD: u32 = 4;
/// Lengths of hardware addresses and IPv6 addresses.
const HARDWARE: u32 = 6;
const ADDRESS: u32 = 16;

/// From where an offset counts (enum nft_payload_bases).
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// The frame's header.
    Link,
    /// The packet's.
    Network,
    /// What the packet carries.
    Transport,
}

/// What must be so for a rule to fit.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Two bytes there are this number.
    Number((Base, u32), u16),
    /// The set has the incoming interface with the hardware address and the IPv6 address there.
    Known((Base, u32), (Base, u32)),
    /// The set has the incoming interface with the hardware address there.
    Named((Base, u32)),
}

/// Adds a rule at the end of a chain that lets pass what fits all checks.
///
/// # Errors
/// When there is no such table, chain or set, or the kernel refuses.
pub fn accept(
    family: Family,
    table: &str,
    chain: &str,
    set: &str,
    checks: &[Check],
) -> Result<(), NetlinkError> {
    let mut list = Vec::new();
    let second = FIRST + u32::try_from(NAME_LENGTH).unwrap_or(0) / WORD;
    let lookup = || expression("lookup", [text(1, set), word(2, FIRST)].concat());
    for check in checks {
        match check {
            Check::Number(place, value) => list.extend([load(*place, 2, FIRST), equal(*value)]),
            Check::Known(hardware, address) => {
                list.extend([
                    interface(),
                    load(*hardware, HARDWARE, second),
                    load(*address, ADDRESS, second + HARDWARE.div_ceil(WORD)),
                    lookup(),
                ]);
            }
            Check::Named(hardware) => {
                list.extend([interface(), load(*hardware, HARDWARE, second), lookup()]);
            }
        }
    }
    list.push(verdict());
    let body = [
        text(TABLE, table),
        text(CHAIN, chain),
        nest(EXPRESSIONS, list.concat()),
    ]
    .concat();
    let rule = Message::new(NEW_RULE, family, body);
    change(rule, NLM_F_CREATE | NLM_F_APPEND).map_err(|e| NetlinkError::new(VERB, table, e))
}

fn expression(name: &str, data: Vec<u8>) -> Vec<u8> {
    nest(EXPRESSION, [text(NAME, name), nest(DATA, data)].concat())
}

/// A number, in network byte order.
fn word(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

/// NFTA_META_DREG, NFTA_META_KEY.
fn interface() -> Vec<u8> {
    expression("meta", [word(1, FIRST), word(2, INCOMING)].concat())
}

/// NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN.
fn load((base, offset): (Base, u32), length: u32, register: u32) -> Vec<u8> {
    let parts = [
        word(1, register),
        word(2, base as u32),
        word(3, offset),
        word(4, length),
    ];
    expression("payload", parts.concat())
}

/// NFTA_CMP_SREG, _OP (NFT_CMP_EQ), _DATA.
fn equal(value: u16) -> Vec<u8> {
    let value = attribute(number::VALUE, &value.to_be_bytes());
    expression("cmp", [word(1, FIRST), word(2, 0), nest(3, value)].concat())
}

/// NFTA_IMMEDIATE_DREG (NFT_REG_VERDICT), _DATA with NFTA_DATA_VERDICT with NFTA_VERDICT_CODE.
fn verdict() -> Vec<u8> {
    let code = nest(2, word(1, ACCEPT));
    expression("immediate", [word(1, 0), nest(2, code)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink_nft::inside;

    #[test]
    fn an_expression_has_its_name_and_its_parts() {
        let bytes = load((Base::Transport, 26), 6, 12);
        let one = inside(&bytes, EXPRESSION)[0];
        assert_eq!(inside(one, NAME), [b"payload\0"]);
        let data = inside(one, DATA)[0];
        let parts = [1, 2, 3, 4].map(|kind| inside(data, kind)[0][3]);
        assert_eq!(parts, [12, 2, 26, 6]);
    }
}
