//! Rigs for whole-node tests and the demo: a node with a real containerd in namespaces of its own, clients, and probes.
//!
//! ```text
//!   Underlay (a network namespace)              Node (a network namespace and a mount namespace)
//!   lo 198.51.100.80, 2001:db8:100::80          /run /etc /opt /var/lib are the node's own
//!      └ Web: what lies outside of the node
//!   ul 192.0.2.1, 2001:db8::1 ──── veth ────── eth0 192.0.2.11, 2001:db8::11
//!                                                 Containerd, Netd and other Daemons
//!                                                 clients: Cri, Nerdctl, Ctr
//! ```
//!
//! A [`Guest`] is another kernel than this machine's, for programs that need one.
//!
//! Every guard takes away what it made, after a panic too; what a killed run left, the next one sweeps. Which conflist,
//! which plugins and which netd are under test, the test says. No assertion lives here.

mod bed;
mod client;
mod containerd;
mod daemon;
mod fleet;
mod guest;
mod image;
mod inventory;
mod netd;
mod node;
pub mod parts;
mod place;
mod probe;
pub mod residue;
mod shop;
mod underlay;
mod web;
mod wire;

pub use self::bed::{Bed, Plugins, Programs};
pub use self::client::{Container, Cri, Crictl, Ctr, Nerdctl, Pod, PodWish, Ran};
pub use self::containerd::Containerd;
pub use self::daemon::{Daemon, Program, until};
pub use self::fleet::{Fleet, Host, Meeting, POOL};
pub use self::guest::{Guest, Outcome, Trial};
pub use self::image::{BUSYBOX, PAUSE};
pub use self::inventory::Inventory;
pub use self::netd::Netd;
pub use self::node::Node;
pub use self::parts::Release;
pub use self::place::Place;
pub use self::probe::{Answer, Expect, Probe, Protocol, ask};
pub use self::shop::Shop;
pub use self::underlay::{OUTSIDE_V4, OUTSIDE_V6, Underlay};
pub use self::web::Web;
pub use self::wire::{Seen, Wire, Wrapping};

/// The default network as nerdctl writes it: bridge `nerdctl0`, 10.4.0.0/24, four stanzas.
pub const NERDCTL_DEFAULT: &str = include_str!("../networks/nerdctl-bridge.conflist");

/// Tells a waiting person what takes time.
#[expect(clippy::print_stderr, reason = "the one place where a rig speaks")]
pub(crate) fn say(line: &str) {
    eprintln!("rig: {line}");
}
