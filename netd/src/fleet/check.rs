//! Whether peers are reached over the fabric: echoes of an address that is theirs alone, in packets as large as they may be.

use std::net::IpAddr;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use netd_api::v1::PeerCheck;
use netd_config::LinkName;
use netd_fleet::NodeRecord;
use netd_kernel::{Asker, Echo, Encapsulation, Hop, Key, NextHop, Object, Objects};

use super::report::named;
use super::{Fleet, Inner, measure};

/// What an echo may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// Small packets, for the round trip.
const TRIES: usize = 3;
const SMALL: usize = 84;
/// Every link carries so much (RFC 791, RFC 8200).
pub(super) const LEAST: [u32; 2] = [576, 1_280];
/// Peers that are tried at a time.
pub(super) const AT_A_TIME: usize = 16;

impl Fleet {
    /// Tries the peer of this name, or all. `observed`: what the kernel has. Blocking.
    #[must_use]
    pub fn check(&self, name: &str, observed: &Objects) -> Vec<PeerCheck> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let peers = inner.state().peers.clone();
        let peers: Vec<NodeRecord> =
            peers.into_values().filter(|peer| name.is_empty() || peer.name.as_str() == name).collect();
        let mut checks = Vec::new();
        for some in peers.chunks(AT_A_TIME) {
            thread::scope(|scope| {
                let running: Vec<_> = some.iter().map(|peer| scope.spawn(|| inner.check(peer, observed))).collect();
                checks.extend(running.into_iter().filter_map(|check| check.join().ok()).flatten());
            });
        }
        checks
    }
}

impl Inner {
    /// One block of each family.
    fn check(self: &Arc<Self>, peer: &NodeRecord, observed: &Objects) -> Vec<PeerCheck> {
        let first = |is_v4: bool| peer.blocks.iter().copied().find(|block| block.addr().is_ipv4() == is_v4);
        let blocks: Vec<IpNet> = [true, false].into_iter().filter_map(first).collect();
        if blocks.is_empty() {
            let mut check = PeerCheck { name: peer.name.to_string(), ..PeerCheck::new() };
            check.troubles.push(format!("{} has no block yet: nothing of it can be reached", peer.name));
            return vec![check];
        }
        blocks.into_iter().map(|block| self.check_block(peer, block, observed)).collect()
    }

    fn check_block(&self, peer: &NodeRecord, block: IpNet, observed: &Objects) -> PeerCheck {
        let mut check = PeerCheck { name: peer.name.to_string(), block: block.to_string(), ..PeerCheck::new() };
        let way = {
            let state = self.state();
            let troubles = state.fabric.troubles.iter().filter(|trouble| trouble.peer.as_ref() == Some(&peer.name));
            check.troubles = troubles.map(|trouble| trouble.text.clone()).collect();
            check.troubles.extend(state.refused.get(&Key::Route(block)).cloned());
            state.way(block)
        };
        let Some(lead) = way else {
            if check.troubles.is_empty() {
                check.troubles.push(format!("no way to {block}; `netdctl status` says why"));
            }
            return check;
        };
        let hop = lead.hop;
        let (by, to) = named(hop);
        by.clone_into(&mut check.by);
        check.to = to;
        check.routed = observed.get(&Key::Route(block)) == Some(&Object::NextHop(lead));
        if !check.routed {
            check.troubles.push(format!("the kernel has no such route to {block}; `netdctl resync` puts it there"));
        }
        check.wanted_mtu = self.wanted(lead, observed);
        self.ask(&mut check, hop, block);
        check
    }

    /// Octets of the route, of the tunnel, or of the link.
    fn wanted(&self, lead: NextHop, observed: &Objects) -> u32 {
        if let Some(mtu) = lead.mtu {
            return mtu;
        }
        let hop = lead.hop;
        let tunnel = hop.encapsulation().and_then(|kind| observed.get(&Key::Tunnel(kind)));
        if let Some(Object::Tunnel(tunnel)) = tunnel {
            return tunnel.mtu;
        }
        let state = self.state();
        let link =
            if let Hop::Direct(gateway) = hop { state.here.paths.get(&gateway).map(|path| path.mtu) } else { None };
        link.or(state.here.mtu).unwrap_or_default()
    }

    /// What is sent by the tunnel, and comes back by it, is this peer's: what others send meanwhile does not count.
    fn ask(&self, check: &mut PeerCheck, hop: Hop, block: IpNet) {
        let mut is_by_tunnel = false;
        for address in addresses(hop, block) {
            check.address = address.to_string();
            let tunnel = self.tunnel_to(hop, address);
            // Past the tunnel, one echo says it.
            let tries = if tunnel.is_some() { 1 } else { TRIES };
            let by_tunnel = tunnel.and_then(|tunnel| heard(address, Some(&tunnel), TRIES));
            is_by_tunnel = by_tunnel.is_some();
            let Some((mut asker, least)) = by_tunnel.or_else(|| heard(address, None, tries)) else { continue };
            check.answered = true;
            check.round_trip_us = u64::try_from(least.as_micros()).unwrap_or(u64::MAX);
            check.mtu = largest(&mut asker, address, check.wanted_mtu);
            break;
        }
        if !check.answered {
            check.troubles.push(silence(check, hop, block));
            return;
        }
        let narrow = narrow(check, block);
        if narrow.is_some() {
            self.measure_again();
        }
        check.troubles.extend(narrow);
        let word = if is_by_tunnel { "yes" } else { "no" };
        word.clone_into(&mut check.encapsulated);
        if hop.encapsulation().is_some() && !is_by_tunnel {
            check.troubles.push(format!(
                "the echoes came back past the {} tunnel; see which way {} takes to this node",
                check.by, check.name
            ));
        }
    }

    /// The tunnel's device, where what is sent to the address does go by it.
    fn tunnel_to(&self, hop: Hop, address: IpAddr) -> Option<LinkName> {
        let mut underlay = self.underlay();
        let device = underlay.device(hop.encapsulation()?).clone();
        let path = underlay.path(address).ok()??;
        (path.link == device.as_str()).then_some(device)
    }
}

/// The one that was asked, and how long its echo took at least.
fn heard(address: IpAddr, link: Option<&LinkName>, tries: usize) -> Option<(Asker, Duration)> {
    // Late echoes of the one are none of the other's.
    let identifier = identifier(address) ^ u16::from(link.is_some());
    let mut asker = Asker::open(address, identifier, link).ok()?;
    let heard = (0..tries).filter_map(|_| match asker.ask(SMALL, PATIENCE) {
        Ok(Echo::Heard(took)) => Some(took),
        Ok(Echo::TooLarge | Echo::Silence) | Err(_) => None,
    });
    let least = heard.min()?;
    Some((asker, least))
}

/// The address of the peer's tunnel, and the block's gateway where a network uses it.
fn addresses(hop: Hop, block: IpNet) -> Vec<IpAddr> {
    let first = block.network();
    let gateway = block.hosts().find(|address| *address != first);
    match hop.encapsulation() {
        Some(_) => [first].into_iter().chain(gateway).collect(),
        None => gateway.into_iter().chain([first]).collect(),
    }
}

/// Two runs at a time do not hear each other's echoes.
pub(super) fn identifier(address: IpAddr) -> u16 {
    let seed = match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            v6.octets().iter().fold(7, |sum: u32, octet| sum.wrapping_mul(31).wrapping_add((*octet).into()))
        }
    };
    let mixed = seed.wrapping_mul(0x9e37_79b1) ^ process::id();
    u16::try_from(mixed >> 16).unwrap_or_default() ^ u16::try_from(mixed & 0xffff).unwrap_or_default()
}

/// The largest packet that comes back, at most `wanted`.
fn largest(asker: &mut Asker, address: IpAddr, wanted: u32) -> u32 {
    let mut passes = |size: u32| {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        // One may be lost for other reasons.
        (0..2).any(|_| matches!(asker.ask(size, PATIENCE / 2), Ok(Echo::Heard(_))))
    };
    if passes(wanted) {
        return wanted;
    }
    let low = LEAST[usize::from(address.is_ipv6())].min(wanted);
    if passes(low) { measure::largest(low, wanted, passes) } else { 0 }
}

fn narrow(check: &PeerCheck, block: IpNet) -> Option<String> {
    let others = match check.mtu {
        0 => format!("nor do those of {}", LEAST[usize::from(block.addr().is_ipv6())]),
        least => format!("those of {least} do"),
    };
    (check.mtu < check.wanted_mtu).then(|| {
        format!(
            "packets of {} bytes do not get through, {others}: a link on the way is narrower than both ends say; let ICMP echo pass between the nodes, so that netd finds it out, or lower the MTU of their links",
            check.wanted_mtu
        )
    })
}

fn silence(check: &PeerCheck, hop: Hop, block: IpNet) -> String {
    let name = &check.name;
    match hop.encapsulation() {
        Some(Encapsulation::Vxlan) => format!(
            "nothing comes back by VXLAN from {}: see that netd runs on {name} and has the same encapsulation, and let UDP port 4789 pass between the two nodes",
            check.to
        ),
        Some(Encapsulation::Ipip) => format!(
            "nothing comes back by IP in IP from {}: see that netd runs on {name} and has the same encapsulation, and let IP protocol 4 pass between the two nodes",
            check.to
        ),
        None => format!(
            "nothing comes back directly from {}: no container uses {block} there yet, or a router or filter between the nodes does not let the pool's addresses pass",
            check.to
        ),
    }
}
