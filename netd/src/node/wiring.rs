//! From a stanza's settings to what one attachment needs of kernel objects. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{Bridge, BridgeVlans, IngressPolicy, LinkName, Ptp, Route as ConfigRoute, Tuning};
use netd_kernel::{DEFAULT_VLAN, LinkSettings, Route, Vlans};

use crate::attachment::{GatewayOf, Lease, Wiring};

/// What a bridge stanza asks for, with the addresses that were leased. `estranged`: neighbours may know one of them by
/// another MAC than its own.
pub(super) fn of_bridge(
    bridge: &Bridge,
    interface: &LinkName,
    host_link: LinkName,
    leases: &[Lease],
    estranged: bool,
) -> Wiring {
    let own = mac_of(leases);
    let announced = estranged || bridge.mac.is_some_and(|mac| Some(mac) != own);
    let mut wiring = Wiring {
        host_link,
        bridge: Some(bridge.bridge.clone()),
        gateways: if bridge.is_gateway { gateways_of(leases) } else { Vec::new() },
        filters_vlans: bridge.vlans.is_any(),
        vlans: vlans_of(&bridge.vlans),
        gateway_link: gateway_of(&bridge.vlans),
        mtu: bridge.mtu,
        promisc: bridge.promisc_mode,
        hairpin: bridge.hairpin_mode,
        isolated: bridge.port_isolation,
        mac: bridge.mac.or(own),
        routes: bridge_routes(bridge, leases),
        sysctls: if announced { announcing(interface).into() } else { BTreeMap::new() },
        // Addresses that netd alone gives out are nobody else's.
        quick_link_local: !bridge.enabledad && !bridge.disable_container_interface,
        ip_masq: bridge.ip_masq,
        spoof_guarded: true,
        fenced: false,
        tuned: LinkSettings { stays_down: bridge.disable_container_interface, ..LinkSettings::default() },
    };
    restrict(&mut wiring, bridge.ingress_policy);
    wiring
}

/// What a routed stanza asks for. The link is the sandbox's alone: nobody else has to know its MAC.
pub(super) fn of_ptp(ptp: &Ptp, host_link: LinkName, leases: &[Lease]) -> Wiring {
    let alone = |gateway: IpNet| IpNet::from(gateway.addr());
    let mut wiring = Wiring {
        host_link,
        bridge: None,
        gateways: gateways_of(leases).into_iter().map(alone).collect(),
        filters_vlans: false,
        vlans: None,
        gateway_link: None,
        mtu: ptp.mtu,
        promisc: false,
        hairpin: false,
        isolated: false,
        mac: ptp.mac.or_else(|| mac_of(leases)),
        routes: ptp_routes(ptp, leases),
        sysctls: BTreeMap::new(),
        quick_link_local: true,
        ip_masq: ptp.ip_masq,
        spoof_guarded: true,
        fenced: false,
        tuned: LinkSettings::default(),
    };
    restrict(&mut wiring, ptp.ingress_policy);
    wiring
}

/// `ingressPolicy`: fences the bridge or the routed link off, and for `isolated` shuts a bridge's ports off from each other.
pub(super) fn restrict(wiring: &mut Wiring, policy: IngressPolicy) {
    match policy {
        IngressPolicy::Open => {}
        IngressPolicy::SameBridge => wiring.fenced = true,
        IngressPolicy::Isolated => {
            wiring.fenced = true;
            wiring.isolated = wiring.bridge.is_some();
        }
    }
}

/// Adds `tuning`'s settings. `IFNAME` stands for the interface.
pub(super) fn tune(wiring: &mut Wiring, interface: &LinkName, tuning: &Tuning) {
    let named = |name: &String| name.replace("IFNAME", interface.as_str());
    wiring.sysctls.extend(tuning.sysctl.iter().map(|(name, value)| (named(name), value.clone())));
    let settings = settings_of(tuning);
    if settings.mac.is_some() {
        wiring.sysctls.extend(announcing(interface));
    }
    wiring.tuned.mac = settings.mac.or(wiring.tuned.mac);
    wiring.tuned.mtu = settings.mtu.or(wiring.tuned.mtu);
    wiring.tuned.queue_length = settings.queue_length.or(wiring.tuned.queue_length);
    wiring.tuned.promisc |= settings.promisc;
    wiring.tuned.all_multicast |= settings.all_multicast;
}

/// `tuning`'s settings of the link itself.
#[must_use]
pub fn settings_of(tuning: &Tuning) -> LinkSettings {
    LinkSettings {
        mac: tuning.mac,
        mtu: tuning.mtu,
        promisc: tuning.promisc,
        all_multicast: tuning.all_multicast,
        queue_length: tuning.queue_length,
        stays_down: false,
    }
}

/// A trunk without a VLAN of its own has VLAN 1 for it, as the reference has it.
fn vlans_of(vlans: &BridgeVlans) -> Option<Vlans> {
    let kept = vlans.keeps_default.then_some((DEFAULT_VLAN, DEFAULT_VLAN));
    let own = vlans.own.unwrap_or(DEFAULT_VLAN);
    if vlans.is_any() { Vlans::of(own, kept.as_slice(), &vlans.trunk) } else { None }
}

pub(super) fn gateway_of(vlans: &BridgeVlans) -> Option<GatewayOf> {
    Some(GatewayOf { vlan: vlans.own?, link: vlans.gateway_link.clone()? })
}

fn gateways_of(leases: &[Lease]) -> Vec<IpNet> {
    let gateway = |lease: &Lease| IpNet::new(lease.gateway?, lease.address.prefix_len()).ok();
    leases.iter().filter_map(gateway).collect()
}

/// The addresses are announced when the link goes up, to every port of the bridge.
fn announcing(interface: &LinkName) -> [(String, String); 2] {
    let switch = |family: &str, name: &str| (format!("net.{family}.conf.{interface}.{name}"), "1".to_owned());
    [switch("ipv4", "arp_notify"), switch("ipv6", "ndisc_notify")]
}

/// The MAC that belongs to a sandbox's first address. An address that moves to another sandbox keeps its MAC so, and
/// nobody has to be told: an announcement costs the more, the more ports a bridge has. Locally administered, unicast.
#[must_use]
pub fn mac_of(leases: &[Lease]) -> Option<[u8; 6]> {
    let octets = match leases.first()?.address.addr() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            // FNV-1a of the address.
            let hash = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
            v6.octets().into_iter().fold(0x811c_9dc5, hash).to_be_bytes()
        }
    };
    let [a, b, c, d] = octets;
    Some([0x02, 0x6e, a, b, c, d])
}

/// Routes of the IPAM section, by the first gateway of their family where they name none.
fn listed<'a>(routes: &'a [ConfigRoute], leases: &'a [Lease]) -> impl Iterator<Item = Route> + 'a {
    let first_gateway =
        |v4: bool| leases.iter().filter_map(|lease| lease.gateway).find(|gateway| gateway.is_ipv4() == v4);
    routes.iter().map(move |route| {
        let gateway = route.gw.or_else(|| first_gateway(route.dst.addr().is_ipv4()));
        Route { destination: route.dst, gateway, source: None }
    })
}

/// All goes by the gateway, which is reached by the link itself: also what is of the same network.
fn ptp_routes(ptp: &Ptp, leases: &[Lease]) -> Vec<Route> {
    let mut routes = Vec::new();
    for lease in leases {
        let (Some(gateway), source) = (lease.gateway, Some(lease.address.addr())) else { continue };
        let network = Route { destination: lease.address.trunc(), gateway: Some(gateway), source };
        routes.push(Route { destination: IpNet::from(gateway), gateway: None, source });
        routes.extend(Some(network).filter(|_| lease.address.prefix_len() < lease.address.max_prefix_len()));
    }
    routes.extend(listed(ptp.ipam.routes(), leases));
    routes
}

/// Routes of the IPAM section; then, for `isDefaultGateway`, a default route for each family that has none.
fn bridge_routes(bridge: &Bridge, leases: &[Lease]) -> Vec<Route> {
    let mut routes: Vec<Route> = listed(bridge.ipam.routes(), leases).collect();
    if bridge.is_default_gateway {
        for lease in leases {
            let Some(gateway) = lease.gateway else { continue };
            let default = IpNet::from(if gateway.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) });
            let destination = IpNet::new(default.addr(), 0).unwrap_or(default);
            if !routes.iter().any(|route| route.destination == destination) {
                routes.push(Route { destination, gateway: Some(gateway), source: None });
            }
        }
    }
    routes
}
