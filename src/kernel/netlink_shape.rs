//! Keeping an interface to a rate, as tc(8) does: a token bucket (tc-tbf(8)) holds back what is sent.
//! What comes in cannot be held back, so it is led over an interface of its own, an "ifb", which sends
//! it on: both ends of the matter stay on the host, where no guest reaches them. Rates that several
//! share are in `netlink_trunk.rs`. Which bucket fits a rate is the network room's matter.

use std::io;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::fault;
use super::netlink::{Netlink, NetlinkError, errno};
use super::netlink_message::named;
use super::netlink_nft::{attribute, nest};
use super::netlink_socket::Refusal;
use super::netlink_trunk::Place;
use crate::model::{Shape, TokenBucket};

/// Numbers of <linux/pkt_sched.h>, <linux/pkt_cls.h> and <linux/tc_act/tc_mirred.h>.
mod number {
    pub(super) const TBF_PARMS: u16 = 1;
    pub(super) const TBF_BURST: u16 = 6;
    pub(super) const LINKLAYER_ETHERNET: u8 = 1;
    pub(super) const U32_SEL: u16 = 5;
    pub(super) const U32_ACT: u16 = 7;
    /// The first, and only, action.
    pub(super) const FIRST: u16 = 1;
    pub(super) const ACT_KIND: u16 = 1;
    pub(super) const ACT_OPTIONS: u16 = 2;
    pub(super) const MIRRED_PARMS: u16 = 2;
    /// The packet is the other interface's from here on.
    pub(super) const STOLEN: u32 = 4;
    pub(super) const EGRESS_REDIRECT: u32 = 1;
    pub(super) const ALL_PROTOCOLS: u16 = 3;
}

/// Handle of the token bucket.
const BUCKET: TcHandle = TcHandle { major: 1, minor: 0 };
/// Handle of what sees packets before any queue.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0,
};
/// Where what comes in by a port passes, and what goes out by it, before any queue.
const FROM_PORT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff2,
};
const TO_PORT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff3,
};

/// Name of the interface over which is led what comes in by `port`: at most 14 bytes of that.
#[must_use]
pub fn shaper_name(port: &str) -> String {
    format!("{port}i")
}

impl Netlink {
    /// Makes a guest's port as fast as `shape` says, in place of what was said before.
    ///
    /// # Errors
    /// When there is no such interface, the kernel lacks a part (modules sch_tbf, ifb, cls_u32,
    /// act_mirred), or it refuses.
    pub fn shape(&mut self, port: &str, shape: &Shape) -> Result<(), NetlinkError> {
        let index = self.index(port)?;
        match &shape.incoming {
            Some(bucket) => self.hold_back(port, index, bucket)?,
            None => self.delete_queue(port, index, TcHandle::ROOT, BUCKET)?,
        }
        pause(port)?;
        let shaper = shaper_name(port);
        let place = |most| Place {
            port,
            index,
            most,
            urgency: shape.urgency,
        };
        let to_guest = match &shape.trunk_in {
            Some(trunk) => Some(self.join(trunk, &place(shape.incoming.as_ref()))?),
            None => None,
        };
        let own = shape.outgoing.as_ref();
        let from_guest = match (&shape.trunk_out, own) {
            // An own rate is kept there as well.
            (Some(trunk), own) => Some(self.join(trunk, &place(own))?),
            (None, Some(bucket)) => Some(self.through_shaper(&shaper, bucket)?),
            (None, None) => None,
        };
        // A second filter beside the first would be one too many.
        self.delete_queue(port, index, TcHandle::INGRESS, INGRESS)?;
        pause(port)?;
        if to_guest.is_some() || from_guest.is_some() {
            self.divert(port, index, [(FROM_PORT, from_guest), (TO_PORT, to_guest)])?;
        }
        match shape.trunk_out.is_none() && own.is_some() {
            true => Ok(()),
            false => self.delete_link(&shaper).map(drop),
        }
    }

    /// Makes what holds back what comes from a guest that shares its rate with nobody.
    fn through_shaper(&mut self, name: &str, bucket: &TokenBucket) -> Result<u32, NetlinkError> {
        self.create_shaper(name)?;
        pause(name)?;
        let over = self.index(name)?;
        self.hold_back(name, over, bucket)?;
        pause(name)?;
        Ok(over)
    }

    /// Leads what passes a port over other interfaces, by their numbers.
    fn divert(
        &mut self,
        port: &str,
        index: u32,
        ways: [(TcHandle, Option<u32>); 2],
    ) -> Result<(), NetlinkError> {
        let mut both = about(index, TcHandle::INGRESS, "clsact", Vec::new());
        both.header.handle = INGRESS;
        self.traffic(
            port,
            RouteNetlinkMessage::NewQueueDiscipline(both),
            NLM_F_CREATE | NLM_F_EXCL,
        )?;
        for (way, over) in ways {
            let Some(over) = over else {
                continue;
            };
            pause(port)?;
            let mut filter = about(index, way, "u32", lead_over(over));
            // Filters of one rank in both places the kernel would tell of as if each were in both.
            let rank = if way == FROM_PORT { 1 } else { 2 };
            filter.header.info = rank << 16 | u32::from(number::ALL_PROTOCOLS.to_be());
            self.traffic(
                port,
                RouteNetlinkMessage::NewTrafficFilter(filter),
                NLM_F_CREATE | NLM_F_EXCL,
            )?;
        }
        Ok(())
    }

    fn index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let found = self.link(name)?.map(|link| link.index);
        found.ok_or_else(|| {
            let none = io::Error::from_raw_os_error(libc::ENODEV);
            NetlinkError::new(VERB, name, none.into())
        })
    }

    pub(super) fn create_shaper(&mut self, name: &str) -> Result<(), NetlinkError> {
        let kind = vec![LinkInfo::Kind(InfoKind::Ifb)];
        let mut message = named(name, vec![LinkAttribute::LinkInfo(kind)]);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        let made = self.kernel.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match made {
            Err(e) if errno(&e) != libc::EEXIST => Err(refused(name, e)),
            _ => Ok(()),
        }
    }

    fn hold_back(
        &mut self,
        name: &str,
        index: u32,
        bucket: &TokenBucket,
    ) -> Result<(), NetlinkError> {
        let mut message = about(index, TcHandle::ROOT, "tbf", bucket_options(bucket));
        message.header.handle = BUCKET;
        self.traffic(
            name,
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Deletes what an interface has at `parent`; there may be nothing, or the kernel's own.
    fn delete_queue(
        &mut self,
        name: &str,
        index: u32,
        parent: TcHandle,
        handle: TcHandle,
    ) -> Result<(), NetlinkError> {
        let mut message = about(index, parent, "", Vec::new());
        message.attributes.clear();
        message.header.handle = handle;
        let request = RouteNetlinkMessage::DelQueueDiscipline(message);
        match self.kernel.ask(request, 0) {
            Err(e) if !matches!(errno(&e), libc::ENOENT | libc::EINVAL) => Err(refused(name, e)),
            _ => Ok(()),
        }
    }

    fn traffic(
        &mut self,
        name: &str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let done = self.kernel.ask(request, flags).map(drop);
        done.map_err(|e| refused(name, e))
    }
}

const VERB: &str = "set the rate of the interface";

/// ENOENT is what the kernel says for a kind it does not have.
fn refused(name: &str, mut refusal: Refusal) -> NetlinkError {
    if matches!(errno(&refusal), libc::ENOENT | libc::EOPNOTSUPP) {
        let lacks = "the kernel lacks sch_tbf, ifb, sch_ingress, cls_u32 or act_mirred";
        refusal.detail = Some(lacks.to_owned());
    }
    NetlinkError::new(VERB, name, refusal)
}

fn pause(port: &str) -> Result<(), NetlinkError> {
    fault::point().map_err(|e| {
        let source = io::Error::from_raw_os_error(e.errno.raw_os_error());
        NetlinkError::new(VERB, port, source.into())
    })
}

fn about(index: u32, parent: TcHandle, kind: &str, options: Vec<TcOption>) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Options(options));
    }
    message
}

fn raw(kind: u16, value: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, value))
}

/// struct tc_tbf_qopt: a rate, no peak rate, queue, and two fields that TCA_TBF_BURST stands for.
fn bucket_options(bucket: &TokenBucket) -> Vec<TcOption> {
    let mut parms = [0_u8; 36];
    parms[1] = number::LINKLAYER_ETHERNET;
    parms[8..12].copy_from_slice(&bucket.rate.to_ne_bytes());
    parms[24..28].copy_from_slice(&bucket.queue.to_ne_bytes());
    vec![
        raw(number::TBF_PARMS, parms.to_vec()),
        raw(number::TBF_BURST, bucket.burst.to_ne_bytes().to_vec()),
    ]
}

/// A filter that every packet meets, and what it does with it: struct tc_u32_sel with one key that
/// compares nothing, and struct tc_mirred.
fn lead_over(index: u32) -> Vec<TcOption> {
    let mut selector = [0_u8; 32];
    let (terminal, keys) = (1, 1);
    (selector[0], selector[2]) = (terminal, keys);
    let mirred = [0, 0, number::STOLEN, 0, 0, number::EGRESS_REDIRECT, index];
    let parms: Vec<u8> = mirred.into_iter().flat_map(u32::to_ne_bytes).collect();
    let action = [
        attribute(number::ACT_KIND, b"mirred\0"),
        nest(number::ACT_OPTIONS, attribute(number::MIRRED_PARMS, &parms)),
    ]
    .concat();
    vec![
        raw(number::U32_SEL, selector.to_vec()),
        raw(number::U32_ACT, nest(number::FIRST, action)),
    ]
}
