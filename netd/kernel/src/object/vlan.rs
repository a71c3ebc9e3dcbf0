//! VLANs of a bridge: which of them a port is in, and the link that a VLAN's gateway is on.

use ipnet::IpNet;
use netd_config::LinkName;
use serde::{Deserialize, Serialize};

/// The VLAN of every port of a new bridge (`IFLA_BR_VLAN_DEFAULT_PVID`).
pub const DEFAULT_VLAN: u16 = 1;
/// The last VLAN there can be (IEEE 802.1Q: 0 and 4095 are none).
pub const LAST_VLAN: u16 = 4_094;

/// VLANs from one to another, both in it.
pub type VlanRange = (u16, u16);

/// The VLANs that a bridge port is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlans {
    /// Where frames belong that come in without a tag (PVID); `None`: they are dropped.
    native: Option<u16>,
    /// Frames of these leave without a tag. Ascending and apart, as `tagged`.
    untagged: Vec<VlanRange>,
    /// Frames of these come in and leave with a tag.
    tagged: Vec<VlanRange>,
}

impl Vlans {
    /// A port whose frames without a tag belong to `native`, and leave it so; so leave those of `untagged`. What is in
    /// several of the three is in the first. `None`: it is what a port is in by default.
    #[must_use]
    pub fn of(native: u16, untagged: &[VlanRange], tagged: &[VlanRange]) -> Option<Self> {
        let plain = united([(native, native)].iter().chain(untagged));
        let others = tagged.iter().flat_map(|range| without(*range, &plain));
        let tagged = united(others.collect::<Vec<_>>().iter());
        Self { native: Some(native), untagged: plain, tagged }.told()
    }

    /// A port in this VLAN alone, without a tag.
    pub(crate) fn only(vlan: u16) -> Self {
        Self { native: Some(vlan), untagged: vec![(vlan, vlan)], tagged: Vec::new() }
    }

    /// The VLAN of a port that is in it alone, without a tag; `None` of `vlans` is what a port is in by default.
    pub(crate) fn alone(vlans: Option<&Self>) -> Option<u16> {
        let Some(vlans) = vlans else { return Some(DEFAULT_VLAN) };
        vlans.native.filter(|vlan| *vlans == Self::only(*vlan))
    }

    /// As the kernel tells them.
    pub(crate) fn seen(native: Option<u16>, untagged: &[VlanRange], tagged: &[VlanRange]) -> Option<Self> {
        Self { native, untagged: united(untagged.iter()), tagged: united(tagged.iter()) }.told()
    }

    fn told(self) -> Option<Self> {
        let default = [(DEFAULT_VLAN, DEFAULT_VLAN)];
        let is_default = self.native == Some(DEFAULT_VLAN) && self.untagged == default && self.tagged.is_empty();
        (!is_default).then_some(self)
    }

    /// The VLAN of frames without a tag.
    #[must_use]
    pub fn native(&self) -> Option<u16> {
        self.native
    }

    /// Whether frames with a tag pass.
    #[must_use]
    pub fn is_trunk(&self) -> bool {
        !self.tagged.is_empty()
    }

    pub(crate) fn untagged_but_native(&self) -> Vec<VlanRange> {
        let native = self.native.map(|vlan| (vlan, vlan));
        self.untagged.iter().flat_map(|range| without(*range, native.as_slice())).collect()
    }

    pub(crate) fn tagged(&self) -> &[VlanRange] {
        &self.tagged
    }

    /// All VLANs that the port is not in.
    pub(crate) fn others(&self) -> Vec<VlanRange> {
        without((1, LAST_VLAN), &united(self.untagged.iter().chain(&self.tagged)))
    }
}

/// The link by which sandboxes of one VLAN of a bridge reach the node: one end of a veth pair, whose other end is a port of
/// the bridge, in that VLAN alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLink {
    /// The bridge; `None`: its other end is no port, or in other VLANs.
    pub bridge: Option<LinkName>,
    /// The VLAN; read back as 0 where there is no bridge.
    pub vlan: u16,
    /// Gateway addresses, each with its prefix.
    pub addresses: Vec<IpNet>,
    /// Octets; `None` keeps the kernel's default.
    pub mtu: Option<u32>,
}

/// The same VLANs, ascending and apart.
fn united<'a>(ranges: impl Iterator<Item = &'a VlanRange>) -> Vec<VlanRange> {
    let mut ranges: Vec<VlanRange> = ranges.copied().collect();
    ranges.sort_unstable();
    let mut apart: Vec<VlanRange> = Vec::new();
    for (first, last) in ranges {
        match apart.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            Some(_) | None => apart.push((first, last)),
        }
    }
    apart
}

/// What is left of a range. `holes` are ascending and apart.
fn without((first, last): VlanRange, holes: &[VlanRange]) -> Vec<VlanRange> {
    let mut left = Vec::new();
    let mut next = first;
    for (from, to) in holes.iter().filter(|(from, to)| *to >= first && *from <= last) {
        if *from > next {
            left.push((next, from - 1));
        }
        next = next.max(to + 1);
    }
    if next <= last {
        left.push((next, last));
    }
    left
}

#[cfg(test)]
mod tests {
    use super::{LAST_VLAN, Vlans, united, without};

    #[test]
    fn ranges_are_united_and_taken_apart() {
        assert_eq!(united([(5, 7), (1, 1), (2, 3), (6, 9)].iter()), [(1, 3), (5, 9)]);
        assert_eq!(without((1, 10), &[(1, 1), (4, 5), (10, 12)]), [(2, 3), (6, 9)]);
        assert_eq!(without((3, 4), &[(1, 2), (5, 6)]), [(3, 4)]);
        assert_eq!(without((3, 4), &[(1, 9)]), []);
    }

    #[test]
    fn a_port_is_in_its_native_vlan_without_a_tag_and_the_default_is_nothing_to_tell() {
        assert_eq!(Vlans::of(1, &[], &[]), None);
        assert_eq!(Vlans::of(1, &[(1, 1)], &[(1, 1)]), None);
        let trunk = Vlans::of(10, &[(1, 1)], &[(9, 12), (1, 1), (13, 13)]).unwrap();
        assert_eq!((trunk.native(), trunk.untagged_but_native()), (Some(10), vec![(1, 1)]));
        assert_eq!(trunk.tagged(), [(9, 9), (11, 13)]);
        assert_eq!(trunk.others(), [(2, 8), (14, LAST_VLAN)]);
        assert!(trunk.is_trunk() && !Vlans::of(10, &[], &[]).unwrap().is_trunk());
    }
}
