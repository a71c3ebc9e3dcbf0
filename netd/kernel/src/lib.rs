//! The seam to the kernel: objects, the steps between two states, and two kernels that take them.
//!
//! ```text
//! desired ─┐
//!          ├─▶ plan (pure) ─▶ steps ─▶ Kernel::apply ─▶ LinuxKernel | FakeKernel
//! observed ┘◀──────────────────────── Kernel::observe
//! ```
//!
//! Not here: who wants which object (netd). Netlink, setns, sysctl and `unsafe` are in `linux` and netd-netlink only.

#[cfg(any(test, feature = "fake"))]
mod fake;
mod linux;
mod object;
mod plan;
mod seam;

#[cfg(any(test, feature = "fake"))]
pub use fake::FakeKernel;
pub use linux::underlay::{Own, Path, Underlay};
pub use linux::{
    Asker, Coexistence, Echo, Firewall, LOG_GROUP, LOGGED_ALLOW, LOGGED_AUDIT, LOGGED_DENY, LinuxKernel, Obstacle,
    OurLink, Passage, fixed_ruleset, read_elements,
};
pub use netd_netlink::nft::{Change, Changes, Others};
pub use netd_netlink::{LoggedPacket, NetlinkError, Notice, Notices, PacketLog};
pub use object::{
    Bridge, Class, DEFAULT_VLAN, Decision, Direction, Encapsulation, Entrance, Family, Flow, GatewayLink, Hop,
    Interface, Key, LAST_VLAN, LinkSettings, Mac, NetnsId, NextHop, Object, Objects, Part, Port, Profile, Publication,
    Reach, Route, Service, Span, Step, Tunnel, VXLAN_PORT, Veth, VlanRange, Vlans, link_local_of, mac_of_end, profile,
};
pub use plan::plan;
pub use seam::{ApplyError, Kernel, KernelError, LinkFacts, Sandbox, Scope};
