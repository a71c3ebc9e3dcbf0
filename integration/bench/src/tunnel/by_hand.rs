//! The same node by `ip`, as a person would make it: links, addresses and routes that do the same, and no table.

use anyhow::Result;

use super::course::{Site, Way, inside, underlay};
use crate::space::Space;

pub(super) const PORT: u16 = 4_789;
const NETWORK: u32 = 42;

/// Whether this kernel has such tunnels.
pub(super) fn is_there(way: Way) -> Result<bool> {
    let kind = match way {
        Way::Direct => return Ok(true),
        Way::Vxlan => format!("vxlan id {NETWORK} dstport {PORT} local {}", underlay(1)),
        Way::Ipip => format!("ipip local {} remote {}", underlay(1), underlay(2)),
    };
    Ok(Space::fresh()?.output(&format!("ip link add probe type {kind}")).is_ok())
}

pub(super) fn make(site: &Site, way: Way) -> Result<()> {
    let (number, mtu) = (site.number, way.mtu());
    let (node, sandbox) = (&site.node.space, &site.sandbox.space);
    let path = sandbox.path();
    node.run(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
    let gateway = inside(number, 1);
    for line in [
        "link add br0 type bridge".to_owned(),
        format!("address add {gateway}/24 dev br0"),
        "link set br0 up".to_owned(),
        format!("link add port mtu {mtu} type veth peer name eth0 mtu {mtu} netns {path}"),
        "link set port master br0 up".to_owned(),
    ] {
        node.output(&format!("ip {line}"))?;
    }
    for line in [
        format!("address add {}/24 dev eth0", inside(number, 2)),
        "link set eth0 up".to_owned(),
        format!("route add default via {gateway}"),
    ] {
        sandbox.output(&format!("ip {line}"))?;
    }
    connect(site, way)
}

fn connect(site: &Site, way: Way) -> Result<()> {
    let (local, peer, mtu) = (underlay(site.number), underlay(site.peer()), way.mtu());
    let [own_mac, mac] = [site.number, site.peer()].map(|number| format!("02:00:00:00:00:{number:02}"));
    let block = format!("{}/24", inside(site.peer(), 0));
    let device = |kind: String| {
        [
            format!("ip link add tunnel mtu {mtu} {kind}"),
            format!("ip address add {}/32 dev tunnel", inside(site.number, 0)),
            "ip link set tunnel up".to_owned(),
            format!("ip route add {block} via {peer} dev tunnel onlink"),
        ]
    };
    let lines = match way {
        Way::Direct => vec![format!("ip route add {block} via {peer}")],
        Way::Ipip => device(format!("type ipip local {local} nopmtudisc")).into(),
        Way::Vxlan => {
            let kind = format!("address {own_mac} type vxlan id {NETWORK} dstport {PORT} local {local} nolearning");
            let mut lines = Vec::from(device(kind));
            lines.push(format!("bridge fdb add {mac} dev tunnel dst {peer} self permanent"));
            lines.push(format!("ip neighbour add {peer} lladdr {mac} dev tunnel nud permanent"));
            lines
        }
    };
    lines.iter().try_for_each(|line| site.node.space.output(line).map(drop))
}
