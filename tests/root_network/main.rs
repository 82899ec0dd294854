//! Networks, firewalls, rates and accounts between real guests; needs root.

#[path = "../life/mod.rs"]
mod life;
#[path = "../support/mod.rs"]
mod support;
#[path = "../traces/mod.rs"]
mod traces;
#[path = "../wires/mod.rs"]
mod wires;

mod allowance;
mod announce;
mod bridge;
mod ceiling;
mod firewall;
mod forward;
mod guard;
mod ipv6;
mod kinds;
mod named;
mod nics;
mod passthrough;
mod priority;
mod routed;
mod served;
mod shape;
mod shared;
mod taken;
mod tenant_rates;
mod told;
mod trace;
mod traffic;
mod traffic_class;
mod vxlan;
mod watch;
