//! A rate that several interfaces keep to together: an interface of the host's own ("ifb") over which
//! all of it is led, with a tree of classes (tc-htb(8)). The class on top has the rate; below it each
//! port has one of its own, with the rate of its own if there is one, and may borrow what the others
//! leave; who is more urgent borrows first, equals in turn.
//!
//! Which class is whose is kept nowhere but in the kernel, by the filters that lead to them: each looks
//! for packets that came over one port, and knows that port no more when it is gone. So what is left of
//! a port is found and removed whoever has removed the port.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};

use super::fault;
use super::netlink::{Netlink, NetlinkError, errno};
use super::netlink_nft::{attribute, inside, nest, text};
use super::netlink_socket::Refusal;
use super::netlink_traffic::{Message, OPTIONS};
use crate::model::{TokenBucket, Trunk, Urgency};

/// Numbers of <linux/rtnetlink.h>, <linux/pkt_sched.h> and <linux/pkt_cls.h>.
mod number {
    pub(super) const NEW_QUEUE: u16 = 36;
    pub(super) const NEW_CLASS: u16 = 40;
    pub(super) const DELETE_CLASS: u16 = 41;
    pub(super) const GET_CLASS: u16 = 42;
    pub(super) const NEW_FILTER: u16 = 44;
    pub(super) const DELETE_FILTER: u16 = 45;
    pub(super) const GET_FILTER: u16 = 46;
    pub(super) const KIND: u16 = 1;
    pub(super) const HTB_PARMS: u16 = 1;
    pub(super) const HTB_INIT: u16 = 2;
    pub(super) const HTB_VERSION: u32 = 3;
    pub(super) const LINKLAYER_ETHERNET: u8 = 1;
    pub(super) const U32_CLASS: u16 = 1;
    pub(super) const U32_SELECTOR: u16 = 5;
    pub(super) const U32_CAME_OVER: u16 = 8;
    pub(super) const ALL_PROTOCOLS: u16 = 3;
    pub(super) const ROOT: u32 = 0xffff_ffff;
    /// What comes in by an interface, and what goes out by it.
    pub(super) const FROM_PORT: u32 = 0xffff_fff2;
    pub(super) const TO_PORT: u32 = 0xffff_fff3;
    /// The action of a filter of u32, the first one, its options, those of mirred.
    pub(super) const TO_MIRRED: [u16; 4] = [7, 1, 2, 2];
}

/// The tree.
const TREE: u32 = 1 << 16;
/// The class on top, and the one for what no port's is: no other lets anything by unheld.
const WHOLE: u16 = 1;
const REST: u16 = 2;
/// Classes of ports.
const FIRST: u16 = 16;
/// As many of them as have numbers.
const PLACES: u32 = 0xffff - FIRST as u32;
/// What a port has whatever the others do, bytes a second: next to nothing, for all of it counts beside
/// the rate on top.
const OWN: u32 = 125;
/// A packet of Ethernet.
const PACKET: u32 = 1600;
/// What a port sends before it is the next one's turn, at most.
const TURN: u32 = 64 << 10;
/// Two packets that programs hand over whole.
const SHORTEST_QUEUE: u32 = 2 * 66_000;
/// In how many nanoseconds the kernel counts (PSCHED_SHIFT).
const TICK: u64 = 64;
const VERB: &str = "set the shared rate of the interface";

/// One port on its way over a trunk.
pub(super) struct Place<'a> {
    /// Its name.
    pub(super) port: &'a str,
    /// Its number.
    pub(super) index: u32,
    /// What it has of it at most.
    pub(super) most: Option<&'a TokenBucket>,
    /// Who goes first.
    pub(super) urgency: Urgency,
}

/// Which places of a trunk are led to, and from which port that is there.
type Places = BTreeMap<u16, Option<String>>;

impl Netlink {
    /// Leads what comes over a port through its class of a trunk, which is made if it is not there.
    /// Returns the trunk's number.
    pub(super) fn join(&mut self, trunk: &Trunk, place: &Place<'_>) -> Result<u32, NetlinkError> {
        let over = self.create_trunk(trunk)?;
        let name = &trunk.name;
        let number = self.place_of(name, over, place)?;
        let class = class(over, number, Some((place, &trunk.bucket)));
        self.order(name, class, NLM_F_CREATE)?;
        pause(name)?;
        self.order(name, queue(over, number, place, trunk), NLM_F_CREATE)?;
        pause(name)?;
        // A second filter beside the first would be one too many.
        self.forget(name, filter_of(number::DELETE_FILTER, over, number))?;
        let mut filter = filter_of(number::NEW_FILTER, over, number);
        let class = TREE | u32::from(number);
        let options = [
            attribute(number::U32_CLASS, &class.to_ne_bytes()),
            attribute(number::U32_SELECTOR, &any_packet()),
            text(number::U32_CAME_OVER, place.port),
        ];
        filter.body.extend(nest(OPTIONS, options.concat()));
        self.order(name, filter, NLM_F_CREATE | NLM_F_EXCL)?;
        pause(name)?;
        Ok(over)
    }

    fn create_trunk(&mut self, trunk: &Trunk) -> Result<u32, NetlinkError> {
        let name = &trunk.name;
        self.create_shaper(name)?;
        pause(name)?;
        let link = self.link(name)?;
        let link = link.ok_or_else(|| refused(name, gone()))?;
        match link.alias.as_deref() {
            Some(whose) if whose == trunk.whose => {}
            None | Some("") => self.set_alias(name, &trunk.whose)?,
            Some(_) => return Err(refused(name, taken())),
        }
        let mut tree = Message::about(number::NEW_QUEUE, link.index, number::ROOT);
        tree.handle = TREE;
        let plan = [number::HTB_VERSION, 10, u32::from(REST), 0, 0];
        tree.body = text(number::KIND, "htb");
        let plan = attribute(number::HTB_INIT, &words(&plan));
        tree.body.extend(nest(OPTIONS, plan));
        match self.kernel.ask(tree, NLM_F_CREATE | NLM_F_EXCL) {
            Err(e) if errno(&e) != libc::EEXIST => return Err(refused(name, e)),
            _ => pause(name)?,
        }
        for number in [WHOLE, REST] {
            let mut class = class(link.index, number, None);
            class.body.extend(match number {
                WHOLE => parms(&trunk.bucket, &trunk.bucket, 0),
                _ => parms(&slow(), &trunk.bucket, u32::from(Urgency::LAST)),
            });
            self.order(name, class, NLM_F_CREATE)?;
            pause(name)?;
        }
        Ok(link.index)
    }

    /// The place that a port has, or a free one: that of its number, if no other has it.
    fn place_of(&mut self, name: &str, over: u32, place: &Place<'_>) -> Result<u16, NetlinkError> {
        let places = self.places(name, over)?;
        let own = |holder: &Option<String>| holder.as_deref() == Some(place.port);
        if let Some((number, _)) = places.iter().find(|(_, holder)| own(holder)) {
            return Ok(*number);
        }
        let free = |number: &u16| !matches!(places.get(number), Some(Some(_)));
        let mut all = (0..PLACES).map(|step| usual_place(place.index.wrapping_add(step)));
        all.find(free).ok_or_else(|| refused(name, full()))
    }

    fn places(&mut self, name: &str, over: u32) -> Result<Places, NetlinkError> {
        let question = Message::about(number::GET_FILTER, over, TREE);
        let answers = self.kernel.ask(question, NLM_F_DUMP);
        let mut all = Places::new();
        for answer in answers.map_err(|e| refused(name, e))? {
            let number = u16::try_from(answer.info >> 16).unwrap_or(0);
            let from = inside(answer.options(), number::U32_CAME_OVER);
            let from = from.first().map(|name| {
                let end = name.iter().position(|byte| *byte == 0);
                String::from_utf8_lossy(&name[..end.unwrap_or(name.len())]).into_owned()
            });
            let holder = all.entry(number).or_default();
            *holder = holder.take().or(from);
        }
        Ok(all)
    }

    /// Places of a trunk whose ports are gone, removed if `remove`; none if there is no such trunk.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn left_in_trunk(&mut self, name: &str, remove: bool) -> Result<usize, NetlinkError> {
        let Some(link) = self.link(name)? else {
            return Ok(0);
        };
        let places = self.places(name, link.index)?;
        let question = Message::about(number::GET_CLASS, link.index, 0);
        let classes = self.kernel.ask(question, NLM_F_DUMP);
        let classes = classes.map_err(|e| refused(name, e))?.into_iter();
        let classes = classes.map(|class| low(class.handle));
        let all: BTreeSet<u16> = classes.chain(places.keys().copied()).collect();
        // After the places: whoever takes one is there by then, and its filter may follow yet.
        let links = self.links("bh")?;
        let coming: BTreeSet<u16> = links.iter().map(|link| usual_place(link.index)).collect();
        let is_left = |number: &u16| {
            let led_to = matches!(places.get(number), Some(Some(_)));
            *number >= FIRST && !led_to && !coming.contains(number)
        };
        let left: Vec<u16> = all.into_iter().filter(is_left).collect();
        for number in left.iter().filter(|_| remove) {
            self.forget(name, filter_of(number::DELETE_FILTER, link.index, *number))?;
            let mut class = Message::about(number::DELETE_CLASS, link.index, 0);
            class.handle = TREE | u32::from(*number);
            self.forget(name, class)?;
        }
        Ok(left.len())
    }

    /// Bytes a second that pass a trunk at most; `None` if there is no such trunk, or only part of it.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn trunk_rate(&mut self, name: &str) -> Result<Option<u32>, NetlinkError> {
        let Some(link) = self.link(name)? else {
            return Ok(None);
        };
        // One class by itself the kernel tells to whoever listens, and not to who asks.
        let question = Message::about(number::GET_CLASS, link.index, 0);
        let answers = self.kernel.ask(question, NLM_F_DUMP);
        let answers = answers.map_err(|e| refused(name, e))?;
        let whole = TREE | u32::from(WHOLE);
        let rate = answers
            .iter()
            .filter(|one| one.handle == whole)
            .find_map(|answer| {
                let parms = inside(answer.options(), number::HTB_PARMS);
                // The last field of struct tc_ratespec.
                let rate = parms.first()?.get(8..12)?.try_into().ok()?;
                Some(u32::from_ne_bytes(rate))
            });
        Ok(rate)
    }

    /// The number of the interface over which what comes from a port's guest is led, or what goes `to`
    /// it; `None` if over none.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn led_over(&mut self, port: &str, to: bool) -> Result<Option<u32>, NetlinkError> {
        let Some(link) = self.link(port)? else {
            return Ok(None);
        };
        let way = if to {
            number::TO_PORT
        } else {
            number::FROM_PORT
        };
        let question = Message::about(number::GET_FILTER, link.index, way);
        let answers = match self.kernel.ask(question, NLM_F_DUMP) {
            Err(e) if matches!(errno(&e), libc::ENOENT | libc::EINVAL) => return Ok(None),
            answers => answers.map_err(|e| refused(port, e))?,
        };
        Ok(answers.iter().find_map(|answer| {
            let mut at = answer.options();
            for kind in number::TO_MIRRED {
                at = inside(at, kind).first().copied()?;
            }
            // The last field of struct tc_mirred.
            Some(u32::from_ne_bytes(at.get(24..28)?.try_into().ok()?))
        }))
    }

    fn order(&mut self, name: &str, request: Message, flags: u16) -> Result<(), NetlinkError> {
        let done = self.kernel.ask(request, flags).map(drop);
        done.map_err(|e| refused(name, e))
    }

    /// Deletes what may not be there.
    fn forget(&mut self, name: &str, request: Message) -> Result<(), NetlinkError> {
        match self.kernel.ask(request, 0) {
            Err(e) if !matches!(errno(&e), libc::ENOENT | libc::EINVAL) => Err(refused(name, e)),
            _ => Ok(()),
        }
    }
}

/// The place of an interface by its number: no two have the same one, until the host has made as many
/// as there are places.
fn usual_place(index: u32) -> u16 {
    FIRST + u16::try_from(index % PLACES).unwrap_or(0)
}

fn low(handle: u32) -> u16 {
    u16::try_from(handle & 0xffff).unwrap_or(0)
}

fn words(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// The filter that has the number of a class for its own, so that it is found by it.
fn filter_of(kind: u16, over: u32, number: u16) -> Message {
    let mut filter = Message::about(kind, over, TREE);
    filter.info = u32::from(number) << 16 | u32::from(number::ALL_PROTOCOLS.to_be());
    filter.body = text(number::KIND, "u32");
    filter
}

/// struct tc_u32_sel with one key that compares nothing.
fn any_packet() -> [u8; 32] {
    let mut selector = [0_u8; 32];
    let (terminal, keys) = (1, 1);
    (selector[0], selector[2]) = (terminal, keys);
    selector
}

/// A class: of a port, or to be given its rates.
fn class(over: u32, number: u16, of: Option<(&Place<'_>, &TokenBucket)>) -> Message {
    let parent = match number {
        WHOLE => number::ROOT,
        _ => TREE | u32::from(WHOLE),
    };
    let mut class = Message::about(number::NEW_CLASS, over, parent);
    class.handle = TREE | u32::from(number);
    class.body = text(number::KIND, "htb");
    if let Some((place, whole)) = of {
        let most = place.most.unwrap_or(whole);
        // Without one of its own it is the trunk's that holds it back, whatever that becomes.
        let most = TokenBucket {
            rate: place.most.map_or(u32::MAX, |most| most.rate),
            ..*most
        };
        let urgency = u32::from(place.urgency.place());
        class.body.extend(parms(&slow(), &most, urgency));
    }
    class
}

/// What a port has without borrowing.
fn slow() -> TokenBucket {
    TokenBucket {
        rate: OWN,
        burst: PACKET,
        queue: 0,
    }
}

/// struct tc_htb_opt: a rate, one with what is borrowed, how much of each at once, whose turn when.
fn parms(own: &TokenBucket, most: &TokenBucket, urgency: u32) -> Vec<u8> {
    let rate = |bucket: &TokenBucket| {
        let mut rate = [0_u8; 12];
        rate[1] = number::LINKLAYER_ETHERNET;
        rate[8..].copy_from_slice(&bucket.rate.to_ne_bytes());
        rate
    };
    let time = |bucket: &TokenBucket| {
        let time = u64::from(bucket.burst) * 1_000_000_000 / u64::from(bucket.rate.max(1));
        u32::try_from(time / TICK).unwrap_or(u32::MAX).max(1)
    };
    let turn = most.burst.clamp(PACKET, TURN);
    let mut all = [rate(own), rate(most)].concat();
    all.extend(words(&[time(own), time(most), turn, 0, urgency]));
    nest(OPTIONS, attribute(number::HTB_PARMS, &all))
}

/// What waits in a port's class: struct tc_fifo_qopt.
fn queue(over: u32, number: u16, place: &Place<'_>, trunk: &Trunk) -> Message {
    let most = place.most.unwrap_or(&trunk.bucket).queue;
    let mut queue = Message::about(number::NEW_QUEUE, over, TREE | u32::from(number));
    queue.handle = u32::from(number) << 16;
    queue.body = text(number::KIND, "bfifo");
    let most = most.max(SHORTEST_QUEUE).to_ne_bytes();
    queue.body.extend(attribute(OPTIONS, &most));
    queue
}

fn gone() -> Refusal {
    io::Error::from_raw_os_error(libc::ENODEV).into()
}

fn taken() -> Refusal {
    Refusal {
        source: io::Error::from_raw_os_error(libc::EEXIST),
        detail: Some(
            "another tenant's has that name: give this tenant another name, or no rates".to_owned(),
        ),
    }
}

fn full() -> Refusal {
    Refusal {
        source: io::Error::from_raw_os_error(libc::ENOSPC),
        detail: Some("too many interfaces share it".to_owned()),
    }
}

/// ENOENT is what the kernel says for a kind it does not have.
fn refused(name: &str, mut refusal: Refusal) -> NetlinkError {
    if matches!(errno(&refusal), libc::ENOENT | libc::EOPNOTSUPP) {
        let lacks = "the kernel lacks sch_htb, ifb, sch_ingress, cls_u32 or act_mirred";
        refusal.detail = Some(lacks.to_owned());
    }
    NetlinkError::new(VERB, name, refusal)
}

fn pause(name: &str) -> Result<(), NetlinkError> {
    fault::point().map_err(|e| {
        let source = io::Error::from_raw_os_error(e.errno.raw_os_error());
        NetlinkError::new(VERB, name, source.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_interfaces_are_neither_the_whole_nor_the_rest() {
        for index in [1, 2, PLACES - 1, PLACES, PLACES + 1, u32::MAX] {
            let place = usual_place(index);
            assert!((FIRST..0xffff).contains(&place), "{index}: {place}");
        }
        assert_ne!(usual_place(PLACES), usual_place(PLACES + 1));
    }

    #[test]
    fn a_class_is_written_as_the_kernel_reads_it() {
        let bucket = TokenBucket {
            rate: 12_500_000,
            burst: 125_000,
            queue: 0,
        };
        let place = Place {
            port: "bh0002",
            index: 7,
            most: Some(&bucket),
            urgency: Urgency::High,
        };
        let class = class(3, 23, Some((&place, &bucket)));
        assert_eq!((class.handle, class.parent), (TREE | 23, TREE | 1));
        let parms = inside(class.options(), number::HTB_PARMS)[0];
        assert_eq!(parms.len(), 44);
        let word = |at: usize| u32::from_ne_bytes(parms[at..at + 4].try_into().unwrap());
        assert_eq!((word(8), word(20)), (OWN, 12_500_000));
        // 10 ms of it, in 64 ns.
        assert_eq!(word(28), 156_250);
        assert_eq!((word(32), word(40)), (64 << 10, 0));
    }
}
