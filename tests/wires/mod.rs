//! Network namespaces for the "host", its guests and the world outside, and wires between them: the
//! machine's own network is never touched, and what a test leaves dies with its thread.

#![allow(dead_code)] // each test file compiles this for itself and uses a part of it

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bulkhead::kernel::netlink::{Netlink, Veth};
use bulkhead::kernel::netlink_routed::{LINK_GATEWAY, answer_for_others, open_ipv6};
use bulkhead::model::{GuestName, Layout, NetOp, NetworkWish};
use bulkhead::network::{Addresses, Kind, Lease, Network, NetworkSettings, NewNetwork, Served};
use nix::sched::{CloneFlags, setns, unshare};

pub const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A network that is to be made, with nothing said of it but its name and kind.
pub fn new_network(name: &str, kind: Kind) -> NewNetwork {
    NewNetwork {
        name: name.parse().unwrap(),
        kind,
        subnet: None,
        prefix6: None,
        bridge: None,
        parent: None,
        nat: None,
        mtu: None,
        isolated_ports: None,
        vxlan: None,
        force: false,
        served: Served::default(),
        addresses: Addresses::default(),
    }
}

/// Runs a test as the "host": a thread in a new network namespace with loopback up.
pub fn as_host(test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    in_new_namespace(|| {
        Netlink::open().unwrap().loopback_up().unwrap();
        test();
    });
}

pub fn in_new_namespace<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        what()
    })
}

pub fn on_thread<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(what).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Another network namespace, alive as long as its descriptor.
pub struct Namespace(pub File);

impl Namespace {
    pub fn new() -> Self {
        Self(in_new_namespace(|| {
            File::open("/proc/thread-self/ns/net").unwrap()
        }))
    }

    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        on_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            what()
        })
    }
}

/// An installation below a folder of its own.
pub struct Installation {
    root: PathBuf,
}

impl Installation {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = format!("bh-root-network-{}-{unique}", std::process::id());
        let root = std::env::temp_dir().join(root);
        fs::create_dir(&root).unwrap();
        Self { root }
    }

    pub fn layout(&self) -> Layout {
        Layout::new(&self.root)
    }

    pub fn network(&self, settings: NetworkSettings) -> Network {
        Network::new(&self.layout(), settings).unwrap()
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.root);
    }
}

pub fn without_nat() -> NetworkSettings {
    NetworkSettings {
        nat: false,
        ..NetworkSettings::default()
    }
}

pub fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}

/// What the launch does with operations.
pub fn carry_out(ops: &[NetOp], guest: &Namespace) {
    let (host, inside) = ops.split_at(1);
    let mut kernel = Netlink::open().unwrap();
    match &host[0] {
        NetOp::Veth {
            host_name,
            guest_name,
            bridge,
            mac,
            mtu,
            isolated,
            ..
        } => {
            let bridge = kernel.link(bridge).unwrap().unwrap().index;
            let veth = Veth {
                host_name,
                bridge: Some(bridge),
                guest_netns: guest.0.as_fd(),
                guest_name,
                mac: *mac,
                mtu: *mtu,
            };
            kernel.create_veth(&veth).unwrap();
            kernel.bind_port(host_name, *mac, *isolated).unwrap();
            kernel.set_up(host_name).unwrap();
        }
        NetOp::Routed {
            host_name,
            guest_name,
            address,
            gateway,
            address6,
            mac,
            mtu,
            group,
            ..
        } => {
            let veth = Veth {
                host_name,
                bridge: None,
                guest_netns: guest.0.as_fd(),
                guest_name,
                mac: *mac,
                mtu: *mtu,
            };
            kernel.create_veth(&veth).unwrap();
            kernel.set_group(host_name, *group).unwrap();
            answer_for_others(host_name).unwrap();
            kernel.lead_to(*address, host_name, *gateway).unwrap();
            if let Some(address) = address6 {
                open_ipv6(host_name).unwrap();
                kernel.add_address6(host_name, LINK_GATEWAY, 64).unwrap();
                kernel.lead_to6((*address, 128), host_name, None).unwrap();
            }
        }
        other => panic!("{other:?} comes first"),
    }
    guest.run(|| {
        let mut kernel = Netlink::open().unwrap();
        for op in inside {
            match op {
                NetOp::Loopback => kernel.loopback_up().unwrap(),
                NetOp::Address {
                    interface,
                    address,
                    prefix,
                } => {
                    kernel.add_address(interface, *address, *prefix).unwrap();
                    kernel.set_up(interface).unwrap();
                }
                NetOp::DefaultRoute { gateway } => kernel.set_default_route(*gateway).unwrap(),
                NetOp::Address6 {
                    interface,
                    address,
                    prefix,
                } => kernel.add_address6(interface, *address, *prefix).unwrap(),
                NetOp::Route6 {
                    interface,
                    to,
                    gateway,
                } => kernel
                    .lead_to6((to.network(), to.length()), interface, Some(*gateway))
                    .unwrap(),
                NetOp::DefaultRoute6 { interface, gateway } => kernel
                    .lead_to6((Ipv6Addr::UNSPECIFIED, 0), interface, Some(*gateway))
                    .unwrap(),
                NetOp::Veth { .. }
                | NetOp::Routed { .. }
                | NetOp::Macvlan { .. }
                | NetOp::Passthrough { .. } => {
                    panic!("two interfaces")
                }
            }
        }
    });
}

/// A started guest on the bridge.
pub fn guest(network: &Network, text: &str) -> (Namespace, Lease) {
    guest_with(network, text, &NetworkWish::default())
}

/// The same with what its definition says.
pub fn guest_with(network: &Network, text: &str, wish: &NetworkWish) -> (Namespace, Lease) {
    let host = network.ensure_host().unwrap();
    let lease = network.lease(&name(text), wish).unwrap();
    let namespace = Namespace::new();
    network.admit(&lease, wish).unwrap();
    carry_out(&network.ops(&lease, host.mtu, wish), &namespace);
    (namespace, lease)
}

/// A namespace that is the world outside, on a wire to the "host".
pub fn world() -> Namespace {
    let world = Namespace::new();
    let mut kernel = Netlink::open().unwrap();
    let wire = Veth {
        host_name: "uplink",
        bridge: None,
        guest_netns: world.0.as_fd(),
        guest_name: "wire",
        mac: [2, 0, 0, 0, 0, 9],
        mtu: 1400,
    };
    kernel.create_veth(&wire).unwrap();
    kernel.add_address("uplink", HOST_OUTSIDE, 24).unwrap();
    world.run(|| {
        let mut kernel = Netlink::open().unwrap();
        kernel.add_address("wire", WORLD, 24).unwrap();
        kernel.set_up("wire").unwrap();
    });
    kernel.set_default_route(WORLD).unwrap();
    world
}

/// The address a server in `server` sees when `client` connects to `address`.
pub fn seen_from(
    client: &Namespace,
    server: &Namespace,
    address: Ipv4Addr,
) -> std::io::Result<IpAddr> {
    connect(client, server, address, Duration::from_secs(5))
}

pub fn connect(
    client: &Namespace,
    server: &Namespace,
    address: Ipv4Addr,
    patience: Duration,
) -> std::io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let mut stream = client.run(|| {
        let target = SocketAddr::from((address, port));
        TcpStream::connect_timeout(&target, patience)
    })?;
    let (mut accepted, from) = listener.accept()?;
    stream.write_all(b"hello")?;
    drop(stream);
    let mut text = String::new();
    accepted.read_to_string(&mut text)?;
    assert_eq!(text, "hello");
    Ok(from.ip())
}

pub fn own_namespace() -> Namespace {
    Namespace(File::open("/proc/thread-self/ns/net").unwrap())
}
