//! From who the peers are to which kernel objects lead to them. Pure: what the kernel says of ways and links is an argument.

mod size;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netd_config::{Encapsulation as Mode, FleetConfig, PoolConfig};
use netd_fleet::{NodeName, NodeRecord, Peers};
use netd_kernel::{Encapsulation, Entrance, Hop, Key, NextHop, Object, Objects, Path, Tunnel, VXLAN_PORT};

pub use size::mtu_of;

/// This node, as the fabric begins at it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Here {
    /// Where the others reach it.
    pub addresses: BTreeSet<IpAddr>,
    /// Its blocks.
    pub blocks: BTreeSet<IpNet>,
    /// The way to each peer's address that there is one to.
    pub paths: BTreeMap<IpAddr, Path>,
    /// Octets of its link to the others, as far as it is known without any of them.
    pub mtu: Option<u32>,
    /// Tunnels that others may still send by.
    pub retiring: BTreeSet<Encapsulation>,
    /// All addresses that packets for this node may have.
    pub own: BTreeSet<IpAddr>,
    /// Pools that addresses of the hosts' networks lie in, with such an address.
    pub inside: BTreeMap<IpNet, String>,
}

/// What should be in the kernel, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fabric {
    /// All objects of the fleet.
    pub objects: Objects,
    /// What keeps a peer's block from being reached as it should; without a peer, what keeps the whole.
    pub troubles: BTreeSet<Trouble>,
}

/// Something is not as `netd.toml` wants it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trouble {
    /// The peer that is not reached because of it; `None`: it is about the node.
    pub peer: Option<NodeName>,
    /// What, and what to do.
    pub text: String,
}

/// A tunnel that a pool wants.
fn tunnel_of(mode: Mode) -> Option<Encapsulation> {
    match mode {
        Mode::Vxlan | Mode::CrossSubnet => Some(Encapsulation::Vxlan),
        Mode::Ipip | Mode::CrossSubnetIpip => Some(Encapsulation::Ipip),
        Mode::Direct => None,
    }
}

impl Here {
    /// While a link is down, its address and its size are those that they were: what leads by it must not be made anew.
    #[must_use]
    pub fn or_as(mut self, before: &Self) -> Self {
        let lost = |address: &&IpAddr| !self.addresses.iter().any(|one| one.is_ipv4() == address.is_ipv4());
        let lost: Vec<IpAddr> = before.addresses.iter().filter(lost).copied().collect();
        self.addresses.extend(lost);
        self.mtu = self.mtu.or(before.mtu);
        self
    }

    /// Where a tunnel of this kind ends here. IPv4 is the usual one.
    #[must_use]
    pub fn entrance(&self, kind: Encapsulation) -> Option<Entrance> {
        let v4 = self.addresses.iter().find_map(v4);
        match kind {
            Encapsulation::Ipip => v4.map(Entrance::Ipip),
            Encapsulation::Vxlan => {
                let any = v4.map(IpAddr::V4).or_else(|| self.addresses.first().copied());
                any.map(|address| Entrance::Vxlan(address, VXLAN_PORT))
            }
        }
    }

    fn is_on_link(&self, address: IpAddr) -> bool {
        self.paths.get(&address).is_some_and(|path| path.router.is_none())
    }
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(v4) = address { Some(*v4) } else { None }
}

/// All objects of the fleet, as this node is to have them.
#[must_use]
pub fn fabric(config: &FleetConfig, here: &Here, peers: &Peers) -> Fabric {
    let mut fabric = Fabric { objects: [(Key::Connected, Object::Set)].into(), troubles: BTreeSet::new() };
    for pool in &config.pools {
        fabric.objects.insert(Key::Inside(pool.range), Object::Set);
        if let Some(own) = here.inside.get(&pool.range) {
            fabric.troubles.insert(Trouble { peer: None, text: open(pool, own) });
        } else if !here.blocks.contains(&pool.range) {
            // A block that is as large as its pool is reached, or is here.
            fabric.objects.insert(Key::Route(pool.range), Object::from(Hop::Nowhere));
        }
    }
    let mut kinds: BTreeSet<Encapsulation> = here.retiring.clone();
    let modes = config.pools.iter().map(|pool| config.encapsulation_of(pool));
    kinds.extend(modes.filter(|mode| matches!(mode, Mode::Vxlan | Mode::Ipip)).filter_map(tunnel_of));
    let astray = astray(config, here, peers);
    fabric
        .troubles
        .extend(astray.iter().map(|(name, text)| Trouble { peer: Some((*name).clone()), text: text.clone() }));
    let peers: Vec<&NodeRecord> = peers.values().filter(|peer| !astray.contains_key(&peer.name)).collect();
    for peer in &peers {
        fabric.objects.extend(peer.addresses.iter().map(|address| (Key::Peer(*address), Object::Set)));
        for block in &peer.blocks {
            match lead(config, here, peer, *block) {
                Ok((lead, texts)) => {
                    fabric.troubles.extend(texts.map(|text| Trouble { peer: Some(peer.name.clone()), text }));
                    kinds.extend(lead.hop.encapsulation());
                    fabric.objects.insert(Key::Route(*block), Object::NextHop(lead));
                }
                Err(text) => drop(fabric.troubles.insert(Trouble { peer: Some(peer.name.clone()), text })),
            }
        }
    }
    for kind in kinds {
        fabric.tunnel(kind, here, &peers);
    }
    fabric
}

/// Peers whose addresses do not lead to them alone, each with what is wrong: nothing is sent there.
fn astray<'a>(config: &FleetConfig, here: &Here, peers: &'a Peers) -> BTreeMap<&'a NodeName, String> {
    let mut at: BTreeMap<IpAddr, Vec<&NodeRecord>> = BTreeMap::new();
    for peer in peers.values() {
        peer.addresses.iter().for_each(|address| at.entry(*address).or_default().push(peer));
    }
    let mut astray = BTreeMap::new();
    for (address, named) in at {
        let is_own = here.own.contains(&address) || here.addresses.contains(&address);
        let pool = config.pools.iter().find(|pool| pool.range.contains(&address));
        for peer in &named {
            // One that was given another name is there under both for as long as a lease.
            let is_other = |other: &&&NodeRecord| {
                other.name != peer.name && (other.instance.is_none() || other.instance != peer.instance)
            };
            let what = if is_own {
                "and that is this node's own: each host needs one that is its alone, be it one of a second link"
                    .to_owned()
            } else if let Some(other) = named.iter().find(is_other) {
                format!("and so does {}: each host needs one that is its alone, be it one of a second link", other.name)
            } else if let Some(pool) = pool {
                format!("and that lies in pool {}, whose addresses are containers'", pool.name)
            } else {
                continue;
            };
            let name = &peer.name;
            let text = format!(
                "{name} says that it is reached at {address}, {what}; nothing is sent there. Set fleet.address in its netd.toml"
            );
            astray.insert(name, text);
        }
    }
    astray
}

/// Other hosts may be there too: they are not cut off.
fn open(pool: &PoolConfig, own: &str) -> String {
    format!(
        "pool {} holds an address of the hosts' own networks, {own}: what no node has of the pool goes where the host's other routes lead, and is not unreachable; give fleet.pools a range that holds no address of the hosts' networks, on every node",
        pool.range
    )
}

impl Fabric {
    fn tunnel(&mut self, kind: Encapsulation, here: &Here, peers: &[&NodeRecord]) {
        let Some(entrance) = here.entrance(kind) else {
            self.objects.retain(
                |_, object| !matches!(object, Object::NextHop(NextHop { hop, .. }) if hop.encapsulation() == Some(kind)),
            );
            let wanted = if kind == Encapsulation::Ipip { "an IPv4 address" } else { "an address" };
            let text = format!(
                "no tunnel: this node has no {} towards the others; set fleet.address in netd.toml",
                wanted.trim_start_matches("an ")
            );
            self.troubles.insert(Trouble { peer: None, text });
            return;
        };
        let mtu = here.tunnel_mtu(kind);
        let addresses = addresses(kind, here);
        self.objects.insert(Key::Tunnel(kind), Object::Tunnel(Tunnel { entrance, mtu, addresses }));
        self.objects.insert(Key::PeersOnly(entrance), Object::Set);
        if kind == Encapsulation::Vxlan {
            let ends = peers.iter().filter_map(|peer| same_family(peer, entrance.address()));
            self.objects.extend(ends.map(|end| (Key::FarEnd(end), Object::Set)));
        }
    }
}

/// The first block's own address, of each family that the tunnel carries.
fn addresses(kind: Encapsulation, here: &Here) -> Vec<IpAddr> {
    let first = |is_v4: bool| here.blocks.iter().map(IpNet::network).find(|address| address.is_ipv4() == is_v4);
    let v6 = first(false).filter(|_| kind == Encapsulation::Vxlan);
    first(true).into_iter().chain(v6).collect()
}

fn same_family(peer: &NodeRecord, near: IpAddr) -> Option<IpAddr> {
    peer.addresses.iter().copied().find(|address| address.is_ipv4() == near.is_ipv4())
}

/// How a peer's block is reached, and why not as it should be; or why not at all. Each with what to do.
fn lead(
    config: &FleetConfig,
    here: &Here,
    peer: &NodeRecord,
    block: IpNet,
) -> Result<(NextHop, impl Iterator<Item = String>), String> {
    let name = &peer.name;
    let pool = config.pools.iter().find(|pool| pool.range.contains(&block)).ok_or_else(|| {
        format!("{name} has {block}, which is of no pool of this node; give all nodes the same pools in netd.toml")
    })?;
    if here.blocks.iter().any(|own| own.contains(&block) || block.contains(own)) {
        return Err(format!("{name} has {block}, and so has this node; one of the two lists is wrong"));
    }
    if peer.addresses.is_empty() {
        return Err(format!("{name} does not say where it is reached; set fleet.address in its netd.toml"));
    }
    let mode = config.encapsulation_of(pool);
    let on_link = peer.addresses.iter().any(|address| fits(block, *address) && here.is_on_link(*address));
    let kind = match mode {
        Mode::CrossSubnet | Mode::CrossSubnetIpip if on_link => None,
        Mode::Vxlan | Mode::Ipip | Mode::Direct | Mode::CrossSubnet | Mode::CrossSubnetIpip => tunnel_of(mode),
    };
    let agreed = agreed(kind, here, peer, (block, on_link));
    let still = (agreed != kind).then(|| {
        let [way, wanted] = [agreed, kind].map(|kind| kind.map_or("direct", module));
        format!("{name} does not take {wanted} yet, and is still reached by {way}; its netd.toml must say the same as this node's")
    });
    let (hop, end) = match agreed {
        None => direct(here, peer, block),
        Some(kind) => by_tunnel(kind, here, peer, pool),
    }?;
    let mtu = here.narrow(hop, end, peer.mtu);
    let narrow = size::is_too_narrow(mtu, block).then(|| {
        format!(
            "some packets of IPv6 to {name} get lost: {} bytes pass on the way to {end}, and any IPv6 packet may have 1280; give all links on that way a larger MTU",
            mtu.unwrap_or_default()
        )
    });
    Ok((NextHop { hop, mtu: size::said(mtu, block) }, still.into_iter().chain(narrow)))
}

/// While two nodes change from one encapsulation to another, whoever is first goes on as before.
fn agreed(
    wanted: Option<Encapsulation>,
    here: &Here,
    peer: &NodeRecord,
    (block, on_link): (IpNet, bool),
) -> Option<Encapsulation> {
    let accepts = |kind: Option<Encapsulation>| peer.accepts.is_empty() || peer.accepts.contains(&said(kind));
    let can = peer.encapsulations.is_empty() || peer.encapsulations.contains(&said(wanted));
    if accepts(wanted) || !can {
        return wanted;
    }
    let carries = |kind: &Encapsulation| *kind == Encapsulation::Vxlan || block.addr().is_ipv4();
    let before = here.retiring.iter().copied().find(|kind| accepts(Some(*kind)) && carries(kind));
    if before.is_none() && !on_link { wanted } else { before }
}

fn said(kind: Option<Encapsulation>) -> netd_fleet::Encapsulation {
    match kind {
        None => netd_fleet::Encapsulation::Direct,
        Some(Encapsulation::Ipip) => netd_fleet::Encapsulation::Ipip,
        Some(Encapsulation::Vxlan) => netd_fleet::Encapsulation::Vxlan,
    }
}

/// Also what it is called in `netd.toml`.
fn module(kind: Encapsulation) -> &'static str {
    match kind {
        Encapsulation::Ipip => "ipip",
        Encapsulation::Vxlan => "vxlan",
    }
}

/// IPv4 may go by an IPv6 neighbour, not the other way round.
fn fits(block: IpNet, gateway: IpAddr) -> bool {
    block.addr().is_ipv4() || gateway.is_ipv6()
}

/// And the peer's address at the end of it.
fn direct(here: &Here, peer: &NodeRecord, block: IpNet) -> Result<(Hop, IpAddr), String> {
    let mut may: Vec<IpAddr> = peer.addresses.iter().copied().filter(|address| fits(block, *address)).collect();
    may.sort_by_key(|address| (!here.is_on_link(*address), address.is_ipv4() != block.addr().is_ipv4()));
    let name = &peer.name;
    let Some(address) = may.first().copied() else {
        return Err(format!(
            "{name} has no IPv6 address, and its block {block} is IPv6; add one to fleet.address in its netd.toml, or choose vxlan"
        ));
    };
    match here.paths.get(&address) {
        Some(path) => Ok((Hop::Direct(path.router.unwrap_or(address)), address)),
        None => Err(format!("no route of this node leads to {address} ({name}); see that its link is up")),
    }
}

/// And the peer's address where the tunnel ends.
fn by_tunnel(kind: Encapsulation, here: &Here, peer: &NodeRecord, pool: &PoolConfig) -> Result<(Hop, IpAddr), String> {
    let name = &peer.name;
    if !peer.encapsulations.is_empty() && !peer.encapsulations.contains(&said(Some(kind))) {
        let module = module(kind);
        return Err(format!(
            "{name} cannot unpack {module}, which pool {} wants: load the module there (modprobe {module}), or choose another encapsulation",
            pool.name
        ));
    }
    let Some(entrance) = here.entrance(kind) else {
        return Err(format!("this node has no address that {name} could answer to; set fleet.address in netd.toml"));
    };
    match (kind, same_family(peer, entrance.address())) {
        (Encapsulation::Ipip, Some(IpAddr::V4(address))) => Ok((Hop::Ipip(address), address.into())),
        (Encapsulation::Vxlan, Some(address)) => Ok((Hop::Vxlan(address), address)),
        (Encapsulation::Ipip | Encapsulation::Vxlan, _) => {
            let family = if entrance.address().is_ipv4() { "IPv4" } else { "IPv6" };
            Err(format!(
                "{name} has no {family} address, by which this node sends; add one to fleet.address in its netd.toml"
            ))
        }
    }
}

#[cfg(test)]
mod tests;
