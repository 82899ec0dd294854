//! Network interfaces, addresses and routes through rtnetlink(7), synchronously and in one process:
//! a guest's interface costs about a millisecond here and fifty through five runs of `ip`.
//! The messages are in `netlink_message.rs`, the conversation in `netlink_socket.rs`; firewall tables in `netlink_nft.rs`;
//! which bridge and which address a guest gets is the network room's matter.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use super::namespace;
pub use super::netlink_address::Address;
use super::netlink_ipv6::settle;
use super::netlink_link::{Message, link_of, number};
pub use super::netlink_message::{Link, Route, Veth};
use super::netlink_message::{named, route_of, veth_message};
use super::netlink_nft::text;
pub use super::netlink_shape::shaper_name;
use super::netlink_socket::{Conversation, Refusal};
pub use super::netlink_way::Way;

/// How long a macvlan may still be there of a guest that has ended: it goes with the network namespace,
/// which the kernel takes apart in its own time, and until then nobody else has its hardware address.
const GOING: Duration = Duration::from_secs(5);

/// A request that the kernel refused: what was tried, on what, and the kernel's reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {object}: {source}{}{}", told(.detail.as_deref()), hint(.source))]
pub struct NetlinkError {
    /// What was tried, such as `create the bridge`.
    pub verb: &'static str,
    /// On what, such as an interface's name.
    pub object: String,
    /// The kernel's own words, where it has some.
    pub detail: Option<String>,
    /// The error number as an error.
    pub source: io::Error,
}

impl NetlinkError {
    /// errno(3), or 0 when the answer could not be understood.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    pub(super) fn new(verb: &'static str, object: &str, refusal: Refusal) -> Self {
        Self {
            verb,
            object: object.to_owned(),
            detail: refusal.detail,
            source: refusal.source,
        }
    }
}

fn told(detail: Option<&str>) -> String {
    detail.map_or_else(String::new, |d| format!(" ({d})"))
}

/// What to do about an error number that says little by itself.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => "; this needs root (CAP_NET_ADMIN)",
        Some(libc::EXFULL) => {
            "; a bridge has at most 1023 ports: give further guests another bridge"
        }
        Some(libc::EOPNOTSUPP) => {
            "; the kernel lacks this kind of interface (modules bridge, veth)"
        }
        _ => "",
    }
}

/// A socket bound to the network namespace the calling thread was in when it was opened; entering
/// another namespace later does not move it.
#[derive(Debug)]
pub struct Netlink {
    pub(super) kernel: Conversation,
}

impl Netlink {
    /// Opens a handle on the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no socket (file descriptors used up).
    pub fn open() -> Result<Self, NetlinkError> {
        Conversation::open(NETLINK_ROUTE)
            .map(|kernel| Self { kernel })
            .map_err(|e| NetlinkError::new("open", "a netlink socket", e.into()))
    }

    /// The interface of that name, or `None`.
    ///
    /// # Errors
    /// Whatever the kernel says but that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let question = Message::question(0, text(number::NAME, name));
        match self.kernel.ask(question, 0) {
            Ok(answers) => Ok(answers.iter().find_map(link_of)),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(NetlinkError::new("look up the interface", name, e)),
        }
    }

    /// All interfaces whose name begins with `prefix`.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn links(&mut self, prefix: &str) -> Result<Vec<Link>, NetlinkError> {
        let answers = self
            .kernel
            .ask(Message::question(0, Vec::new()), NLM_F_DUMP)
            .map_err(|e| NetlinkError::new("list", "the interfaces", e))?;
        Ok(answers
            .iter()
            .filter_map(link_of)
            .filter(|link| link.name.starts_with(prefix))
            .collect())
    }

    /// Makes a bridge with a hardware address of its own, so that ports that come and go do not
    /// change it. A bridge of that name may exist already.
    ///
    /// # Errors
    /// When the kernel refuses, or something that is no bridge has the name.
    pub fn create_bridge(&mut self, name: &str, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let message = named(
            name,
            vec![
                LinkAttribute::Address(mac.to_vec()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
            ],
        );
        let made = self.kernel.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match made {
            Ok(_) => Ok(()),
            Err(e) if errno(&e) == libc::EEXIST && self.is_bridge(name)? => Ok(()),
            Err(e) => Err(NetlinkError::new("create the bridge", name, e)),
        }
    }

    fn is_bridge(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let link = self.link(name)?;
        Ok(link.is_some_and(|l| l.kind.as_deref() == Some("bridge")))
    }

    /// Deletes an interface (a veth with its other end); false when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let request = RouteNetlinkMessage::DelLink(named(name, Vec::new()));
        match self.kernel.ask(request, 0) {
            Ok(_) => Ok(true),
            Err(e) if absent(&e) => Ok(false),
            Err(e) => Err(NetlinkError::new("delete the interface", name, e)),
        }
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// When there is none or the kernel refuses.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.set_up_as(name, "")
    }

    /// The same, and has it say something of itself (`ip link` shows it as alias), if that is not empty.
    ///
    /// # Errors
    /// As [`Netlink::set_up`].
    pub fn set_up_as(&mut self, name: &str, alias: &str) -> Result<(), NetlinkError> {
        let said = (!alias.is_empty()).then(|| LinkAttribute::IfAlias(alias.to_owned()));
        let mut message = named(name, said.into_iter().collect());
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        let until = Instant::now() + GOING;
        loop {
            let done = self.set_link("set up the interface", name, message.clone());
            match done {
                Err(e) if e.errno() == libc::EADDRINUSE && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done => return done,
            }
        }
    }

    /// Sets loopback up, which gives it 127.0.0.1 and ::1.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn loopback_up(&mut self) -> Result<(), NetlinkError> {
        self.set_up("lo")
    }

    /// Sets an interface's alias: free text of at most 255 bytes that `ip link` shows.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn set_alias(&mut self, name: &str, text: &str) -> Result<(), NetlinkError> {
        let message = named(name, vec![LinkAttribute::IfAlias(text.to_owned())]);
        self.set_link("set the alias of", name, message)
    }

    /// Opens a handle on another network namespace: enters it for that, and comes back. The calling
    /// process must have one thread.
    ///
    /// # Errors
    /// The namespace may not be entered.
    pub fn open_in(netns: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        Self::open_settled(netns, &[])
    }

    /// The same, where these interfaces believe no router advertisement any more and have their IPv6
    /// addresses at once.
    ///
    /// # Errors
    /// The namespace may not be entered, or its settings not be written.
    pub fn open_settled(netns: BorrowedFd<'_>, quiet: &[&str]) -> Result<Self, NetlinkError> {
        let refused = |e: super::KernelError| {
            let source = io::Error::from_raw_os_error(e.errno.raw_os_error());
            NetlinkError::new("open", "a netlink socket", source.into())
        };
        let home = namespace::open_own("net").map_err(refused)?;
        namespace::join_one(netns, namespace::kind::NET).map_err(refused)?;
        let opened = settle(quiet).map_err(refused).and_then(|()| Self::open());
        namespace::join_one(home.as_fd(), namespace::kind::NET).map_err(refused)?;
        opened
    }

    /// Moves an interface into another network namespace under a new name.
    ///
    /// # Errors
    /// When there is no such interface, the name is taken over there, or the kernel refuses.
    pub fn move_link(
        &mut self,
        name: &str,
        new_name: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let attributes = vec![
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
            LinkAttribute::IfName(new_name.to_owned()),
        ];
        let index = match self.link(name)? {
            Some(link) => link.index,
            None => {
                let refusal = io::Error::from_raw_os_error(Errno::NODEV.raw_os_error());
                return Err(NetlinkError::new(
                    "move the interface",
                    name,
                    refusal.into(),
                ));
            }
        };
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = attributes;
        self.set_link("move the interface", name, message)
    }

    pub(super) fn set_link(
        &mut self,
        verb: &'static str,
        name: &str,
        message: LinkMessage,
    ) -> Result<(), NetlinkError> {
        self.kernel
            .ask(RouteNetlinkMessage::SetLink(message), 0)
            .map(drop)
            .map_err(|e| NetlinkError::new(verb, name, e))
    }

    /// Makes a veth pair: the host end on its bridge and down, or up without one, the other end in the
    /// guest's namespace with its name and hardware address, down. One request; nothing is ever seen half made.
    ///
    /// An interface that already has the host end's name is deleted first: names belong to one
    /// guest whose lock the caller holds, so it is left over from a namespace the kernel is still
    /// taking down.
    ///
    /// # Errors
    /// When the kernel refuses; nothing is left then.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        const VERB: &str = "create the interface";
        let create = NLM_F_CREATE | NLM_F_EXCL;
        match self.kernel.ask(veth_message(veth), create) {
            Ok(_) => Ok(()),
            Err(e) if errno(&e) == libc::EEXIST && self.delete_link(veth.host_name)? => self
                .kernel
                .ask(veth_message(veth), create)
                .map(drop)
                .map_err(|e| NetlinkError::new(VERB, veth.host_name, e)),
            Err(e) => Err(NetlinkError::new(VERB, veth.host_name, e)),
        }
    }

    /// Gives an interface an IPv4 address and its network's broadcast address. It may have it
    /// already.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub fn add_address(
        &mut self,
        name: &str,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        const VERB: &str = "give an address to";
        let object = format!("{name} ({address}/{prefix})");
        let link = self.link(name)?.ok_or_else(|| {
            let none = io::Error::from_raw_os_error(libc::ENODEV);
            NetlinkError::new(VERB, &object, none.into())
        })?;
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.scope = AddressScope::Universe;
        message.header.index = link.index;
        message.attributes = vec![
            AddressAttribute::Local(IpAddr::V4(address)),
            AddressAttribute::Address(IpAddr::V4(address)),
        ];
        if prefix < 31 {
            let broadcast = Ipv4Addr::from_bits(address.to_bits() | u32::MAX >> prefix);
            message
                .attributes
                .push(AddressAttribute::Broadcast(broadcast));
        }
        self.kernel
            .ask(
                RouteNetlinkMessage::NewAddress(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new(VERB, &object, e))
    }

    /// Sets the IPv4 default route, in place of one that is there.
    ///
    /// # Errors
    /// When the gateway is on no network of an interface that is up, or the kernel refuses.
    pub fn set_default_route(&mut self, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway))];
        self.kernel
            .ask(
                RouteNetlinkMessage::NewRoute(message),
                NLM_F_CREATE | NLM_F_REPLACE,
            )
            .map(drop)
            .map_err(|e| NetlinkError::new("set the default route via", &gateway.to_string(), e))
    }

    /// All IPv4 routes of all tables, the host's own addresses among them.
    ///
    /// # Errors
    /// When the kernel refuses or its answer cannot be understood.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let answers = self
            .kernel
            .ask(RouteNetlinkMessage::GetRoute(request), NLM_F_DUMP)
            .map_err(|e| NetlinkError::new("list", "the routes", e))?;
        Ok(answers.into_iter().filter_map(route_of).collect())
    }
}

pub(super) fn errno(refusal: &Refusal) -> i32 {
    refusal.source.raw_os_error().unwrap_or(0)
}

fn absent(refusal: &Refusal) -> bool {
    errno(refusal) == libc::ENODEV
}
