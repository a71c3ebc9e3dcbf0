//! How large packets may be: a sandbox's, a tunnel's, and those to one peer. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::Encapsulation as Mode;
use netd_kernel::{Encapsulation, Family, Hop};

use super::{Here, tunnel_of};

/// Of a link that nobody knows.
const USUAL_MTU: u32 = 1_500;
/// Every link carries so much of IPv6 (RFC 8200, 5).
const LEAST_OF_IPV6: u32 = 1_280;

/// Octets of the largest packet that leaves a sandbox, for pools of this mode. Routes say where less passes.
#[must_use]
pub fn mtu_of(mode: Mode, here: &Here) -> u32 {
    let link = here.link_mtu();
    match tunnel_of(mode) {
        Some(kind) => link.saturating_sub(here.overhead(kind)),
        None => link,
    }
}

impl Here {
    /// The least of this node's links to the peers.
    fn link_mtu(&self) -> u32 {
        self.paths.values().map(|path| path.mtu).chain(self.mtu).min().unwrap_or(USUAL_MTU)
    }

    /// Octets of the largest packet that goes into the tunnel.
    pub(super) fn tunnel_mtu(&self, kind: Encapsulation) -> u32 {
        self.link_mtu().saturating_sub(self.overhead(kind))
    }

    fn overhead(&self, kind: Encapsulation) -> u32 {
        let family = self.entrance(kind).map_or(Family::V4, |entrance| Family::of(entrance.address()));
        kind.overhead(family)
    }

    /// Octets of the largest packet to a peer's `end`, where that is less than by the hop goes elsewhere. `theirs`: of the
    /// peer's link, as it says.
    pub(super) fn narrow(&self, hop: Hop, end: IpAddr, theirs: Option<u32>) -> Option<u32> {
        let path = self.paths.get(&end);
        let link = path.map_or_else(|| self.link_mtu(), |path| path.mtu);
        let whole = if hop.encapsulation().is_some() { self.link_mtu() } else { link };
        let least = path.and_then(|path| path.narrow).into_iter().chain(theirs).chain([link]).min()?;
        let overhead = hop.encapsulation().map_or(0, |kind| self.overhead(kind));
        (least < whole).then(|| least.saturating_sub(overhead))
    }
}

/// What a route may say: the kernel sends packets of IPv6 that every link carries.
pub(super) fn said(mtu: Option<u32>, block: IpNet) -> Option<u32> {
    let least = if block.addr().is_ipv4() { 0 } else { LEAST_OF_IPV6 };
    mtu.map(|mtu| mtu.max(least))
}

/// Whether some packets get lost on a way of this size, though nobody may make them smaller.
pub(super) fn is_too_narrow(mtu: Option<u32>, block: IpNet) -> bool {
    mtu.is_some_and(|mtu| said(Some(mtu), block) != Some(mtu))
}
