//! VLANs of bridge ports, and the links of their gateways. Which sandbox is in which VLAN is not decided here.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_config::LinkName;
use netd_netlink::{Link, NetlinkError, Socket};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags as Flags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::sysctls::{self, Sysctl};
use super::{CREATE, LinuxKernel, existing, index, messages, observe, refused};
use crate::object::{GatewayLink, Mac, Object, VlanRange, Vlans};
use crate::seam::KernelError;

/// As a bridge's; and its addresses are announced when it goes up, for it may be there again, by another MAC.
const SYSCTLS: [Sysctl; 6] = [
    ("ipv4", "route_localnet", "1"),
    ("ipv4", "rp_filter", "2"),
    ("ipv4", "arp_notify", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "ndisc_notify", "1"),
];

/// First octets of the MAC of every gateway link: what goes to one is known by them.
pub(super) const GATEWAY_MACS: [u8; 3] = [0x06, 0x6e, 0x67];
/// What follows the link prefix in the name of a gateway link's other end. No sandbox's host end has it: it is no digit.
pub(super) const PORT_MARK: char = 'g';

/// Puts a port into these VLANs and into no others.
pub(super) fn port(index: u32, vlans: &Vlans) -> Vec<(Message, u16)> {
    let native = vlans.native().map(|vlan| (vlan, vlan));
    let plain = vlans.untagged_but_native();
    let mut wanted = infos(native.as_slice(), Flags::Pvid | Flags::Untagged);
    wanted.extend(infos(&plain, Flags::Untagged));
    wanted.extend(infos(vlans.tagged(), Flags::empty()));
    let others = infos(&vlans.others(), Flags::empty());
    vec![(Message::SetLink(of_bridge(index, wanted)), 0), (Message::DelLink(of_bridge(index, others)), 0)]
}

fn of_bridge(index: u32, infos: Vec<AfSpecBridge>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecBridge(infos)];
    message
}

fn infos(ranges: &[VlanRange], flags: Flags) -> Vec<AfSpecBridge> {
    let info = |vid, more| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags: flags | more, vid });
    let range = |(first, last): &VlanRange| {
        if first == last {
            vec![info(*first, Flags::empty())]
        } else {
            vec![info(*first, Flags::RangeBegin), info(*last, Flags::RangeEnd)]
        }
    };
    ranges.iter().flat_map(range).collect()
}

/// The VLANs of each port, by index; `None`: those of every port.
pub(super) fn ports(socket: &mut Socket) -> Result<BTreeMap<u32, Option<Vlans>>, NetlinkError> {
    let mut ask = LinkMessage::default();
    ask.header.interface_family = AddressFamily::Bridge;
    ask.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed])];
    let told = socket.dump(&Message::GetLink(ask), |object| {
        let Message::NewLink(link) = object else { return None };
        Some((link.header.index, read(&link)?))
    });
    Ok(told?.into_iter().collect())
}

fn read(link: &LinkMessage) -> Option<Option<Vlans>> {
    let infos = link
        .attributes
        .iter()
        .find_map(|one| if let LinkAttribute::AfSpecBridge(infos) = one { Some(infos) } else { None })?;
    let (mut native, mut untagged, mut tagged) = (None, Vec::new(), Vec::new());
    let mut first = None;
    for info in infos {
        let AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid }) = info else { continue };
        if flags.contains(Flags::RangeBegin) {
            first = Some(*vid);
            continue;
        }
        let range = (first.take().unwrap_or(*vid), *vid);
        if flags.contains(Flags::Pvid) {
            native = Some(*vid);
        }
        if flags.contains(Flags::Untagged) { untagged.push(range) } else { tagged.push(range) }
    }
    Some(Vlans::seen(native, &untagged, &tagged))
}

/// A link that carries our mark of gateways, as an object.
pub(super) fn seen(
    link: &LinkMessage,
    links: &[LinkMessage],
    (names, vlans): (&BTreeMap<u32, LinkName>, &BTreeMap<u32, Option<Vlans>>),
    addresses: &[IpNet],
) -> Object {
    let port = observe::other_end(link).and_then(|index| links.iter().find(|other| other.header.index == index));
    let place = port.and_then(|port| {
        let bridge = names.get(&observe::controller(port)?)?.clone();
        Some((bridge, Vlans::alone(vlans.get(&port.header.index)?.as_ref())?))
    });
    let (bridge, vlan) = place.map_or((None, 0), |(bridge, vlan)| (Some(bridge), vlan));
    Object::GatewayLink(GatewayLink { bridge, vlan, addresses: addresses.to_vec(), mtu: Some(observe::mtu_of(link)) })
}

impl LinuxKernel {
    /// Creates the link, or adopts one of ours that is there; adds what is missing, takes nothing away.
    pub(super) fn gateway_link(&self, name: &LinkName, wanted: &GatewayLink) -> Result<(), KernelError> {
        let bridge =
            wanted.bridge.as_ref().ok_or_else(|| KernelError::NotFound(format!("the bridge of link {name}")))?;
        let mut socket = self.socket();
        let controller = existing(&mut socket, bridge)?;
        let port = match socket.fetch(messages::by_name(name)) {
            Ok(Message::NewLink(found)) if observe::is_gateway(&found) => observe::other_end(&found)
                .ok_or_else(|| KernelError::NotFound(format!("the other end of link {name}")))?,
            Ok(_) => return Err(KernelError::NotOurGateway(name.clone())),
            Err(_) => {
                let port = self.new_gateway_link(&mut socket, name, wanted, &controller)?;
                if wanted.addresses.iter().any(|address| address.addr().is_ipv6()) {
                    sysctls::set(name, &sysctls::WITH_IPV6)?;
                }
                port
            }
        };
        let mut batch = vec![(messages::become_port(port, controller.index), 0)];
        batch.extend(self.has_ipv6.then(|| (messages::link_local_generation(port, false), 0)));
        batch.extend(self::port(port, &Vlans::only(wanted.vlan)));
        batch.push((messages::up(port), 0));
        let failed =
            |error| refused(format!("make link {name} the gateway of VLAN {} of {bridge}", wanted.vlan), error);
        socket.execute(batch).map_err(failed)?;
        sysctls::set(name, &SYSCTLS)?;
        let index = index(&mut socket, name)?;
        let addresses = wanted.addresses.iter().map(|address| (messages::address(index, *address), NLM_F_CREATE));
        let batch = addresses.chain([(messages::up(index), 0)]).collect();
        match socket.execute(batch) {
            Err(NetlinkError::Refused { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|error| refused(format!("give link {name} its addresses"), error)),
        }
    }

    /// One send, so that no crash leaves a link without its mark. Says which link is its other end.
    fn new_gateway_link(
        &self,
        socket: &mut Socket,
        name: &LinkName,
        wanted: &GatewayLink,
        controller: &Link,
    ) -> Result<u32, KernelError> {
        let failed = |error| refused(format!("create link {name}"), error);
        let port = port_name(&self.link_prefix, name).ok_or_else(|| KernelError::Exists(format!("link {name}")))?;
        let mac = mac_in(wanted.vlan, &controller.mac);
        let link = messages::gateway_link((name, mac), &port, wanted.mtu, controller.index);
        let made = (link, CREATE);
        let done = socket.execute(vec![made, (messages::mark_gateway(name), 0)]);
        done.map_err(|error| match &error {
            NetlinkError::Refused { source, .. } if source.raw_os_error() == Some(libc::EXFULL) => {
                wanted.bridge.clone().map_or_else(|| KernelError::NotFound(name.to_string()), KernelError::Full)
            }
            NetlinkError::Refused { .. } | NetlinkError::Socket { .. } | NetlinkError::Restless => failed(error),
        })?;
        index(socket, &port)
    }

    /// Only one that is ours.
    pub(super) fn delete_gateway_link(&self, name: &LinkName) -> Result<(), KernelError> {
        let found = self.socket().fetch(messages::by_name(name));
        match found {
            Ok(Message::NewLink(link)) if observe::is_gateway(&link) => self.delete(name),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// The name of a gateway link's other end: as long as a sandbox's host end, and none of them.
fn port_name(link_prefix: &str, link: &LinkName) -> Option<LinkName> {
    let hash = hash(link.as_str().bytes());
    LinkName::new(format!("{link_prefix}{PORT_MARK}{:07x}", hash & 0x0fff_ffff)).ok()
}

/// The MAC of a VLAN's gateway on the bridge that has this one: the same whenever the link is made, and on no other node.
fn mac_in(vlan: u16, bridge: &[u8]) -> Mac {
    let [a, b, c] = GATEWAY_MACS;
    let [_, d, e, f] = hash(bridge.iter().copied().chain(vlan.to_be_bytes())).to_be_bytes();
    [a, b, c, d, e, f]
}

/// FNV-1a.
fn hash(octets: impl Iterator<Item = u8>) -> u32 {
    octets.fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use netd_config::LinkName;
    use netlink_packet_route::RouteNetlinkMessage as Message;

    use super::{port, port_name, read};
    use crate::object::Vlans;

    #[test]
    fn what_is_set_is_what_is_read() {
        for vlans in [Vlans::of(10, &[], &[]), Vlans::of(10, &[(1, 1)], &[(20, 29), (4_094, 4_094)])] {
            let messages = port(7, vlans.as_ref().unwrap());
            let Message::SetLink(link) = &messages[0].0 else { panic!() };
            assert_eq!(read(link).unwrap(), vlans);
        }
    }

    #[test]
    fn a_gateways_port_has_a_name_of_its_own() {
        let name = |bridge: &str| port_name("netd", &LinkName::new(bridge).unwrap()).unwrap().to_string();
        assert!(name("br0.10").starts_with("netdg") && name("br0.10").len() == 12, "{}", name("br0.10"));
        assert_ne!(name("br0.10"), name("br0.11"));
    }
}
