//! The sets that objects fill, and those that the skeleton itself fills. Which rules look into them is the neighbours' matter.

use netd_netlink::nft::{Family, Set};

/// `nft`'s numbers of types, for its display. A concatenation shifts by 6 bits.
const NFPROTO: u32 = 2;
const IPV4: u32 = 7;
const IPV6: u32 = 8;
const ETHER: u32 = 9;
const PROTOCOL: u32 = 12;
const SERVICE: u32 = 13;
const MARK: u32 = 19;
const IFNAME: u32 = 41;
const INTEGER: u32 = 4;
/// Length of an interface name in a register (`IFNAMSIZ`).
pub(in crate::linux::ruleset) const NAME: u32 = 16;
/// Length of a MAC address in registers.
const MAC: u32 = 8;

pub(in crate::linux::ruleset) const BRIDGES: &str = "bridges";
pub(in crate::linux::ruleset) const FENCED: &str = "fenced";
pub(in crate::linux::ruleset) const SAME: &str = "same_bridge";
pub(in crate::linux::ruleset) const GUARDED: &str = "guarded";
pub(in crate::linux::ruleset) const MASQ: [&str; 2] = ["masq4", "masq6"];
pub(in crate::linux::ruleset) const HOME: [&str; 2] = ["home4", "home6"];
pub(in crate::linux::ruleset) const PORTS: [&str; 2] = ["ports4", "ports6"];
pub(in crate::linux::ruleset) const HOST_PORTS: [&str; 2] = ["host_ports4", "host_ports6"];

/// Addresses of peers, where encapsulated packets come to, and what is the fleet's.
pub(in crate::linux::ruleset) const PEERS: [&str; 2] = ["peers4", "peers6"];
pub(in crate::linux::ruleset) const ENTRANCES: [&str; 2] = ["entrances4", "entrances6"];
pub(in crate::linux::ruleset) const IPIP_ENTRANCES: &str = "ipip_entrances";
pub(in crate::linux::ruleset) const TUNNEL_PORTS: &str = "tunnel_ports";
pub(in crate::linux::ruleset) const INSIDE: [&str; 2] = ["inside4", "inside6"];

pub(in crate::linux::ruleset) const SILENT: &str = "silent";
pub(in crate::linux::ruleset) const INGRESS: [&str; 2] = ["ingress4", "ingress6"];
pub(in crate::linux::ruleset) const EGRESS: [&str; 2] = ["egress4", "egress6"];
pub(in crate::linux::ruleset) const NODE_INGRESS: [&str; 2] = ["node_ingress4", "node_ingress6"];
pub(in crate::linux::ruleset) const NODE_EGRESS: [&str; 2] = ["node_egress4", "node_egress6"];
pub(in crate::linux::ruleset) const ITSELF: [&str; 2] = ["itself4", "itself6"];
pub(in crate::linux::ruleset) const CLASS: [&str; 2] = ["class4", "class6"];
pub(in crate::linux::ruleset) const BLOCK: [&str; 2] = ["block4", "block6"];
pub(in crate::linux::ruleset) const PROFILES: &str = "profiles";
pub(in crate::linux::ruleset) const PAIRS: [&str; 2] = ["pairs_in", "pairs_out"];
pub(in crate::linux::ruleset) const ANY: [&str; 2] = ["any_in", "any_out"];
pub(in crate::linux::ruleset) const CUT: [&str; 2] = ["cut4", "cut6"];
/// Protocols with ports; of the skeleton.
pub(super) const PORTED: &str = "with_ports";
/// What a decision means; of the skeleton.
pub(super) const DECISIONS: &str = "decisions";

pub(in crate::linux::ruleset) const PORT: &str = "guarded_ports";
pub(in crate::linux::ruleset) const PORT_MAC: &str = "port_macs";
pub(in crate::linux::ruleset) const LEASED: [&str; 2] = ["leased4", "leased6"];
pub(in crate::linux::ruleset) const DEAF: &str = "deaf";
pub(in crate::linux::ruleset) const TRUNKS: &str = "trunks";

/// How long a flow that was cut is told so (seconds).
const CUT_S: u32 = 120;

const PORT_KEY: (u32, u32) = (PROTOCOL << 6 | SERVICE, 8);
const SERVICE4: (u32, u32) = ((IPV4 << 6 | PROTOCOL) << 6 | SERVICE, 12);
const SERVICE6: (u32, u32) = ((IPV6 << 6 | PROTOCOL) << 6 | SERVICE, 24);
const TARGET4: (u32, u32) = (IPV4 << 6 | SERVICE, 8);
const TARGET6: (u32, u32) = (IPV6 << 6 | SERVICE, 20);
const ADDRESS4: (u32, u32) = (IPV4, 4);
const ADDRESS6: (u32, u32) = (IPV6, 16);
const NUMBER: (u32, u32) = (MARK, 4);
const TWO_NUMBERS: (u32, u32) = (MARK << 6 | MARK, 8);
const NAMED: (u32, u32) = (IFNAME, NAME);
const FLOW4: (u32, u32) = ((((PROTOCOL << 6 | IPV4) << 6 | SERVICE) << 6 | IPV4) << 6 | SERVICE, 20);
const FLOW6: (u32, u32) = ((((PROTOCOL << 6 | IPV6) << 6 | SERVICE) << 6 | IPV6) << 6 | SERVICE, 44);

/// All sets that objects fill, in the order in which they are made. Those of one family stand together.
pub(in crate::linux::ruleset) const SETS: [(Family, Set); 52] = [
    (Family::Inet, Set::of(BRIDGES, NAMED)),
    (Family::Inet, Set::of(FENCED, NAMED)),
    (Family::Inet, Set::of(SAME, (IFNAME << 6 | IFNAME, 2 * NAME))),
    (Family::Inet, Set::of(GUARDED, (NFPROTO, 1))),
    (Family::Inet, Set::of(MASQ[0], ADDRESS4)),
    (Family::Inet, Set::of(MASQ[1], ADDRESS6)),
    (Family::Inet, Set::of(HOME[0], (IPV4 << 6 | IFNAME, 4 + NAME))),
    (Family::Inet, Set::of(HOME[1], (IPV6 << 6 | IFNAME, 16 + NAME))),
    (Family::Inet, Set::map(PORTS[0], PORT_KEY, TARGET4)),
    (Family::Inet, Set::map(PORTS[1], PORT_KEY, TARGET6)),
    (Family::Inet, Set::map(HOST_PORTS[0], SERVICE4, TARGET4)),
    (Family::Inet, Set::map(HOST_PORTS[1], SERVICE6, TARGET6)),
    (Family::Inet, Set::of(PEERS[0], ADDRESS4)),
    (Family::Inet, Set::of(PEERS[1], ADDRESS6)),
    (Family::Inet, Set::of(ENTRANCES[0], SERVICE4)),
    (Family::Inet, Set::of(ENTRANCES[1], SERVICE6)),
    (Family::Inet, Set::of(IPIP_ENTRANCES, ADDRESS4)),
    (Family::Inet, Set::of(TUNNEL_PORTS, PORT_KEY)),
    (Family::Inet, Set::of(INSIDE[0], ADDRESS4).of_ranges()),
    (Family::Inet, Set::of(INSIDE[1], ADDRESS6).of_ranges()),
    (Family::Inet, Set::of(SILENT, (NFPROTO, 1))),
    (Family::Inet, Set::of(INGRESS[0], ADDRESS4)),
    (Family::Inet, Set::of(INGRESS[1], ADDRESS6)),
    (Family::Inet, Set::of(EGRESS[0], ADDRESS4)),
    (Family::Inet, Set::of(EGRESS[1], ADDRESS6)),
    (Family::Inet, Set::of(NODE_INGRESS[0], ADDRESS4)),
    (Family::Inet, Set::of(NODE_INGRESS[1], ADDRESS6)),
    (Family::Inet, Set::of(NODE_EGRESS[0], ADDRESS4)),
    (Family::Inet, Set::of(NODE_EGRESS[1], ADDRESS6)),
    (Family::Inet, Set::of(ITSELF[0], (IPV4 << 6 | IPV4, 8))),
    (Family::Inet, Set::of(ITSELF[1], (IPV6 << 6 | IPV6, 32))),
    (Family::Inet, Set::map(CLASS[0], ADDRESS4, TWO_NUMBERS)),
    (Family::Inet, Set::map(CLASS[1], ADDRESS6, TWO_NUMBERS)),
    (Family::Inet, Set::map(BLOCK[0], ADDRESS4, TWO_NUMBERS).of_ranges()),
    (Family::Inet, Set::map(BLOCK[1], ADDRESS6, TWO_NUMBERS).of_ranges()),
    (Family::Inet, Set::map(PROFILES, (INTEGER, 12), TWO_NUMBERS).of_ranges().counted()),
    (Family::Inet, Set::map(PAIRS[0], TWO_NUMBERS, TWO_NUMBERS).counted()),
    (Family::Inet, Set::map(PAIRS[1], TWO_NUMBERS, TWO_NUMBERS).counted()),
    (Family::Inet, Set::map(ANY[0], NUMBER, TWO_NUMBERS).counted()),
    (Family::Inet, Set::map(ANY[1], NUMBER, TWO_NUMBERS).counted()),
    (Family::Inet, Set::of(CUT[0], FLOW4).forgotten_after(CUT_S)),
    (Family::Inet, Set::of(CUT[1], FLOW6).forgotten_after(CUT_S)),
    (Family::Inet, Set::of(PORTED, (PROTOCOL, 1))),
    (Family::Inet, Set::verdicts(DECISIONS, NUMBER)),
    (Family::Bridge, Set::of(PORT, NAMED)),
    (Family::Bridge, Set::of(PORT_MAC, (IFNAME << 6 | ETHER, NAME + MAC))),
    (Family::Bridge, Set::of(LEASED[0], ((IFNAME << 6 | ETHER) << 6 | IPV4, NAME + MAC + 4))),
    (Family::Bridge, Set::of(LEASED[1], ((IFNAME << 6 | ETHER) << 6 | IPV6, NAME + MAC + 16))),
    (Family::Bridge, Set::of(DEAF, NAMED)),
    (Family::Bridge, Set::of(TRUNKS, NAMED)),
    (Family::Bridge, Set::of(TUNNELS, (PROTOCOL, 1))),
    (Family::Inet, Set::of(TUNNELS, (PROTOCOL, 1))),
];

/// Protocols that carry IP in IP; of the skeleton.
pub(super) const TUNNELS: &str = "tunnels";

/// Which table has the set.
pub(in crate::linux::ruleset) fn family(set: &str) -> Family {
    let bridged = [PORT, PORT_MAC, DEAF, TRUNKS].contains(&set) || LEASED.contains(&set);
    if bridged { Family::Bridge } else { Family::Inet }
}

/// Whether objects of policy fill it ([`crate::object::Key::is_of_policy`]).
pub(in crate::linux::ruleset) fn is_of_policy(set: &str) -> bool {
    let both = [INGRESS, EGRESS, NODE_INGRESS, NODE_EGRESS, ITSELF, CLASS, BLOCK, PAIRS, ANY];
    [DEAF, SILENT, PROFILES].contains(&set) || both.as_flattened().contains(&set)
}

pub(in crate::linux::ruleset) fn is_map(set: &str) -> bool {
    SETS.iter().any(|(_, one)| one.name == set && one.is_map())
}
