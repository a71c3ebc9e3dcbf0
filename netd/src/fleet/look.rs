//! What the fleet must know of this node: where others reach it, and which way leads to each of them. Asks the kernel; blocking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netd_config::FleetConfig;
use netd_fleet::{Encapsulation as Unpacked, NodeName, NodeRecord, Peers};
use netd_kernel::{Encapsulation, KernelError, Own, Path, Underlay};

use super::fabric::Here;
use super::source;

/// Somebody beyond the default route: nothing is sent there (RFC 2544, RFC 5180).
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1))];

/// This node as it stands; `member`: where etcd was last heard. What was `known` of ways and of its own addresses the kernel is not asked for.
pub(super) fn here(
    underlay: &mut Underlay,
    config: &FleetConfig,
    name: &NodeName,
    (peers, known): (&Peers, Option<&Here>),
    (blocks, member): (BTreeSet<IpNet>, Option<IpAddr>),
) -> Result<Here, KernelError> {
    let mut paths = BTreeMap::new();
    for address in peers.values().flat_map(|peer| peer.addresses.iter().copied()) {
        let known = known.and_then(|known| known.paths.get(&address));
        let path = known.map_or_else(|| underlay.path(address), |path| Ok(Some(path.clone())))?;
        paths.extend(path.map(|path| (address, path)));
    }
    let mut towards: Vec<Path> = paths.values().cloned().collect();
    // Its endpoint may be a name.
    let member = member.filter(|address| !address.is_loopback());
    for address in source::endpoints(config).chain(member).chain(ELSEWHERE) {
        towards.extend(underlay.path(address)?);
    }
    let mtu = towards.iter().find(|path| path.link != "lo").map(|path| path.mtu);
    let addresses = addresses(config, name, &towards);
    let (own, mut inside) = match known {
        Some(known) => (known.own.clone(), known.inside.clone()),
        None => {
            let own = underlay.own()?;
            let inside = inside(underlay, config, &own, &towards)?;
            (own.into_iter().map(|one| one.address).collect(), inside)
        }
    };
    let pool = |at: &IpAddr| config.pools.iter().find(|pool| pool.range.contains(at)).map(|pool| pool.range);
    inside.extend(member.and_then(|at| Some((pool(&at)?, format!("{at} (etcd)")))));
    Ok(Here { addresses, blocks, paths, mtu, retiring: BTreeSet::new(), own, inside })
}

/// What of the hosts' networks lies in a pool. A bridge is one of sandboxes, unless others are reached by it.
fn inside(
    underlay: &mut Underlay,
    config: &FleetConfig,
    own: &[Own],
    towards: &[Path],
) -> Result<BTreeMap<IpNet, String>, KernelError> {
    let mut inside = BTreeMap::new();
    for Own { address, opposite, link } in own {
        for end in opposite.iter().chain([address]) {
            let Some(pool) = config.pools.iter().find(|pool| pool.range.contains(end)) else { continue };
            let Some((link, is_bridge)) = underlay.outer(*link)? else { continue };
            if !is_bridge || towards.iter().any(|path| path.link == link) {
                inside.insert(pool.range, format!("{end} (link {link})"));
            }
        }
    }
    Ok(inside)
}

/// As the settings say; else the first of each family that the kernel would send from.
fn addresses(config: &FleetConfig, name: &NodeName, towards: &[Path]) -> BTreeSet<IpAddr> {
    let said = Some(&config.address.0).filter(|said| !said.is_empty());
    let listed = || config.nodes.get(name.as_str()).map(|node| &node.address.0);
    if let Some(said) = said.or_else(listed) {
        return said.clone();
    }
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    };
    let outside = |address: &IpAddr| !config.pools.iter().any(|pool| pool.range.contains(address));
    let sources: Vec<IpAddr> =
        towards.iter().filter_map(|path| path.source).filter(|one| usable(one) && outside(one)).collect();
    [true, false].iter().filter_map(|is_v4| sources.iter().copied().find(|one| one.is_ipv4() == *is_v4)).collect()
}

/// What the kernel of this node can unpack. It may have to look for modules.
pub(super) fn able(underlay: &mut Underlay) -> BTreeSet<Unpacked> {
    let kinds = [(Encapsulation::Ipip, Unpacked::Ipip), (Encapsulation::Vxlan, Unpacked::Vxlan)];
    let able = kinds.into_iter().filter(|(kind, _)| underlay.can(*kind)).map(|(_, said)| said);
    able.chain([Unpacked::Direct]).collect()
}

/// What this node says of itself. Its blocks are said for it, and what it accepts when that stands.
pub(super) fn about(config: &FleetConfig, name: &NodeName, here: &Here, able: BTreeSet<Unpacked>) -> NodeRecord {
    NodeRecord {
        instance: None,
        name: name.clone(),
        addresses: here.addresses.clone(),
        blocks: BTreeSet::new(),
        encapsulations: able,
        accepts: BTreeSet::new(),
        mtu: here.mtu,
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        needs: None,
        lending: None,
        reads_added_pools: false,
    }
}
