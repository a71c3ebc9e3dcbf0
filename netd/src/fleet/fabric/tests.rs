//! Which hops lead to which blocks, by pool, family and what peers say of themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_config::{FleetConfig, NodeConfig};
use netd_fleet::{NodeName, NodeRecord, Peers};
use netd_kernel::{Encapsulation, Entrance, Hop, Key, NextHop, Object, Path};

use super::{Here, fabric, mtu_of};

fn config(encapsulation: &str) -> FleetConfig {
    let text = format!(
        "[fleet]\netcd = ['http://192.0.2.9:2379']\npools = ['10.4.0.0/16', 'fd04::/48']\nencapsulation = '{encapsulation}'\n"
    );
    NodeConfig::parse("netd.toml", &text).unwrap().fleet
}

fn path(mtu: u32, router: Option<&str>) -> Path {
    let router = router.map(|router| router.parse().unwrap());
    Path { link: "up0".to_owned(), mtu, narrow: None, source: None, router }
}

fn here(addresses: &[&str]) -> Here {
    let paths = [("192.0.2.2", None), ("2001:db8::2", None), ("198.51.100.3", Some("192.0.2.254"))];
    Here {
        addresses: addresses.iter().map(|one| one.parse().unwrap()).collect(),
        blocks: ["10.4.1.0/24".parse().unwrap(), "fd04:0:0:1::/64".parse().unwrap()].into(),
        paths: paths.into_iter().map(|(to, router)| (to.parse().unwrap(), path(1_500, router))).collect(),
        mtu: Some(1_500),
        ..Here::default()
    }
}

fn peer(name: &str, addresses: &[&str], blocks: &[&str]) -> NodeRecord {
    serde_json::from_value(serde_json::json!({"name": name, "addresses": addresses, "blocks": blocks})).unwrap()
}

fn peers(all: Vec<NodeRecord>) -> Peers {
    all.into_iter().map(|peer| (peer.name.clone(), peer)).collect()
}

/// On the link, with two families; and beyond a router, with one.
fn two() -> Peers {
    peers(vec![
        peer("n2", &["192.0.2.2", "2001:db8::2"], &["10.4.2.0/24", "fd04:0:0:2::/64"]),
        peer("n3", &["198.51.100.3"], &["10.4.3.0/24", "fd04:0:0:3::/64"]),
    ])
}

fn hops(encapsulation: &str, here: &Here, peers: &Peers) -> (BTreeMap<String, String>, Vec<String>) {
    let fabric = fabric(&config(encapsulation), here, peers);
    let hop = |(key, object): (&Key, &Object)| match (key, object) {
        (Key::Route(to), Object::NextHop(NextHop { hop, .. })) => Some((to.to_string(), format!("{hop:?}"))),
        _ => None,
    };
    (fabric.objects.iter().filter_map(hop).collect(), fabric.troubles.into_iter().map(|one| one.text).collect())
}

const BOTH: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

#[test]
fn each_pool_goes_as_it_says() {
    let nowhere = [("10.4.0.0/16", "Nowhere"), ("fd04::/48", "Nowhere")];
    let table: [(&str, [&str; 4]); 3] = [
        ("vxlan", ["Vxlan(192.0.2.2)", "Vxlan(192.0.2.2)", "Vxlan(198.51.100.3)", "Vxlan(198.51.100.3)"]),
        ("cross-subnet", ["Direct(192.0.2.2)", "Direct(2001:db8::2)", "Vxlan(198.51.100.3)", "Vxlan(198.51.100.3)"]),
        ("direct", ["Direct(192.0.2.2)", "Direct(2001:db8::2)", "Direct(192.0.2.254)", ""]),
    ];
    for (encapsulation, wanted) in table {
        let (found, troubles) = hops(encapsulation, &here(&BOTH), &two());
        let to = ["10.4.2.0/24", "fd04:0:0:2::/64", "10.4.3.0/24", "fd04:0:0:3::/64"];
        let wanted = to.into_iter().zip(wanted).filter(|(_, hop)| !hop.is_empty()).chain(nowhere);
        let wanted: BTreeMap<String, String> = wanted.map(|(to, hop)| (to.to_owned(), hop.to_owned())).collect();
        assert_eq!(found, wanted, "{encapsulation}");
        assert_eq!(troubles.len(), usize::from(encapsulation == "direct"), "{encapsulation}: {troubles:?}");
    }
}

#[test]
fn a_tunnel_is_whole_and_its_size_that_of_the_link() {
    let objects = fabric(&config("vxlan"), &here(&BOTH), &two()).objects;
    let entrance = Entrance::Vxlan("192.0.2.1".parse().unwrap(), 4_789);
    let Some(Object::Tunnel(tunnel)) = objects.get(&Key::Tunnel(Encapsulation::Vxlan)) else { panic!("{objects:?}") };
    assert_eq!((tunnel.entrance, tunnel.mtu), (entrance, 1_450));
    let own: Vec<IpAddr> = ["10.4.1.0", "fd04:0:0:1::"].iter().map(|one| one.parse().unwrap()).collect();
    assert_eq!(tunnel.addresses, own);
    let with: Vec<Key> = ["192.0.2.2", "198.51.100.3"]
        .iter()
        .flat_map(|peer| [Key::FarEnd(peer.parse().unwrap()), Key::Peer(peer.parse().unwrap())])
        .chain([Key::Connected, Key::PeersOnly(entrance), Key::Inside("fd04::/48".parse().unwrap())])
        .collect();
    assert!(with.iter().all(|key| objects.get(key) == Some(&Object::Set)), "{objects:?}");
    let sizes = ["vxlan", "cross-subnet", "direct"].map(|mode| mtu_of(config(mode).encapsulation, &here(&BOTH)));
    assert_eq!(sizes, [1_450, 1_450, 1_500]);
    let over_ipv6 = here(&["2001:db8::1"]);
    assert_eq!(mtu_of(config("vxlan").encapsulation, &over_ipv6), 1_430);
    let (found, _) = hops("vxlan", &over_ipv6, &two());
    assert_eq!(found.get("10.4.2.0/24").map(String::as_str), Some("Vxlan(2001:db8::2)"));
}

/// Where a peer's link is narrower, as it says, or one on the way, as somebody has found.
#[test]
fn a_route_says_where_less_passes_than_by_others() {
    let mut peers = two();
    let mut here = here(&BOTH);
    let sizes = |encapsulation: &str, here: &Here, peers: &Peers| {
        let fabric = fabric(&config(encapsulation), here, peers);
        let size = |(key, object): (&Key, &Object)| match (key, object) {
            (Key::Route(to), Object::NextHop(NextHop { mtu: Some(mtu), .. })) => Some(format!("{to} {mtu}")),
            _ => None,
        };
        let troubles = fabric.troubles.iter().filter(|one| one.text.contains("packets of IPv6")).count();
        (fabric.objects.iter().filter_map(size).collect::<Vec<_>>(), troubles)
    };
    assert_eq!(sizes("vxlan", &here, &peers), (vec![], 0));
    peers.values_mut().next().unwrap().mtu = Some(1_400);
    let both = |size: u32| vec![format!("10.4.2.0/24 {size}"), format!("fd04:0:0:2::/64 {size}")];
    assert_eq!(sizes("vxlan", &here, &peers), (both(1_350), 0));
    assert_eq!(sizes("cross-subnet", &here, &peers), (both(1_400), 0));
    assert_eq!(sizes("direct", &here, &peers), (both(1_400), 0));
    peers.values_mut().next().unwrap().mtu = Some(9_000);
    assert_eq!(sizes("vxlan", &here, &peers), (vec![], 0), "this node's own link is no wider");
    here.paths.values_mut().for_each(|path| path.narrow = Some(1_300));
    let with = |sizes: [u32; 2], mut others: Vec<String>| {
        others.extend([format!("10.4.3.0/24 {}", sizes[0]), format!("fd04:0:0:3::/64 {}", sizes[1])]);
        others.sort();
        others
    };
    let v6 = |sizes: [u32; 2]| vec![format!("10.4.2.0/24 {}", sizes[0]), format!("fd04:0:0:2::/64 {}", sizes[1])];
    assert_eq!(sizes("vxlan", &here, &peers), (with([1_250, 1_280], v6([1_250, 1_280])), 2));
    assert_eq!(sizes("cross-subnet", &here, &peers), (with([1_250, 1_280], both(1_300)), 1));
    // One link of this node is wider than the other: a tunnel by both is as narrow as the narrower.
    here.paths.values_mut().for_each(|path| (path.mtu, path.narrow) = (9_000, Some(1_300)));
    here.mtu = Some(9_000);
    assert_eq!(sizes("direct", &here, &two()).0, ["10.4.2.0/24 1300", "10.4.3.0/24 1300", "fd04:0:0:2::/64 1300"]);
}

#[test]
fn a_tunnel_stands_where_a_pool_wants_it_or_others_still_send_by_it() {
    let kinds = |encapsulation: &str, retiring: &[Encapsulation]| {
        let here = Here { retiring: retiring.iter().copied().collect(), ..here(&BOTH) };
        let objects = fabric(&config(encapsulation), &here, &Peers::new()).objects;
        objects.keys().filter(|key| matches!(key, Key::Tunnel(_) | Key::PeersOnly(_))).count()
    };
    assert_eq!(kinds("vxlan", &[]), 2);
    assert_eq!(kinds("direct", &[]), 0);
    assert_eq!(kinds("cross-subnet", &[]), 0);
    assert_eq!(kinds("direct", &[Encapsulation::Vxlan]), 2);
}

#[test]
fn what_cannot_be_reached_is_said_and_keeps_nobody_else_from_it() {
    let mut ill = two();
    let other =
        |name: &str, addresses: &[&str], blocks: &[&str]| (NodeName::new(name).unwrap(), peer(name, addresses, blocks));
    ill.extend([
        other("elsewhere", &["192.0.2.4"], &["10.9.0.0/24"]),
        other("mine", &["192.0.2.5"], &["10.4.1.128/25"]),
        other("silent", &[], &["10.4.6.0/24"]),
        other("only6", &["2001:db8::7"], &["10.4.7.0/24"]),
    ]);
    let mut old = peer("old", &["192.0.2.8"], &["10.4.8.0/24"]);
    old.encapsulations = [netd_fleet::Encapsulation::Direct].into();
    ill.insert(old.name.clone(), old);
    let (found, troubles) = hops("vxlan", &here(&BOTH), &ill);
    assert_eq!(found.len(), 6, "{found:?}");
    for words in
        ["is of no pool", "and so has this node", "does not say where", "has no IPv4 address", "cannot unpack vxlan"]
    {
        assert_eq!(troubles.iter().filter(|text| text.contains(words)).count(), 1, "{words}: {troubles:?}");
    }
    let (found, troubles) = hops("vxlan", &Here { addresses: [].into(), ..here(&[]) }, &two());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(troubles.iter().any(|text| text.contains("set fleet.address")), "{troubles:?}");
    let (found, troubles) = hops("direct", &Here { paths: BTreeMap::new(), ..here(&BOTH) }, &two());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(troubles.iter().any(|text| text.contains("no route of this node leads to 192.0.2.2")), "{troubles:?}");
}

/// A NAT link has the same address on every host.
#[test]
fn nothing_is_sent_where_an_address_does_not_lead_to_its_peer_alone() {
    let mut here = here(&BOTH);
    here.own = ["10.0.2.15".parse().unwrap()].into();
    let said = |addresses: [&str; 2]| {
        let mut all = two();
        let more = addresses.into_iter().zip(4..).map(|(address, number)| {
            let name = format!("n{number}");
            (NodeName::new(name.as_str()).unwrap(), peer(&name, &[address], &[&format!("10.4.{number}.0/24")]))
        });
        all.extend(more);
        all
    };
    let whose = |all: &Peers| {
        let fabric = fabric(&config("vxlan"), &here, all);
        let led = fabric.objects.keys().filter(|key| matches!(key, Key::Peer(_) | Key::FarEnd(_))).count();
        let texts: Vec<String> = fabric.troubles.iter().map(|one| one.text.clone()).collect();
        (
            ["10.4.2.0/24", "10.4.4.0/24", "10.4.5.0/24"]
                .map(|to| fabric.objects.contains_key(&Key::Route(to.parse().unwrap()))),
            led,
            texts,
        )
    };
    let (routed, well, texts) = whose(&said(["192.0.2.4", "192.0.2.5"]));
    assert_eq!((routed, texts), ([true; 3], Vec::<String>::new()));
    for (addresses, routed, words) in [
        (
            ["10.0.2.15", "192.0.2.5"],
            [true, false, true],
            "n4 says that it is reached at 10.0.2.15, and that is this node's own",
        ),
        (
            ["192.0.2.1", "192.0.2.5"],
            [true, false, true],
            "n4 says that it is reached at 192.0.2.1, and that is this node's own",
        ),
        (["192.0.2.4", "192.0.2.2"], [false, true, false], "n5 says that it is reached at 192.0.2.2, and so does n2"),
        (
            ["192.0.2.4", "10.4.9.9"],
            [true, true, false],
            "n5 says that it is reached at 10.4.9.9, and that lies in pool 10.4.0.0/16",
        ),
    ] {
        let (found, led, texts) = whose(&said(addresses));
        assert_eq!(found, routed, "{addresses:?}");
        assert!(texts.iter().any(|text| text.starts_with(words)), "{texts:?}");
        assert!(led < well, "{addresses:?}: a peer's packets would be taken for another's");
    }
    // Under another name since it was started again.
    let mut again = said(["192.0.2.4", "192.0.2.4"]);
    let instance = serde_json::from_str("\"00000000000000000000000000000007\"").unwrap();
    again.values_mut().skip(2).for_each(|peer| peer.instance = Some(instance));
    assert_eq!(whose(&again).0, [true; 3]);
}

#[test]
fn what_of_a_pool_no_node_has_is_left_open_where_a_hosts_own_network_lies_in_it() {
    let mut here = here(&BOTH);
    here.inside = [("10.4.0.0/16".parse().unwrap(), "10.4.200.7 (link up0)".to_owned())].into();
    let (found, troubles) = hops("vxlan", &here, &two());
    assert_eq!((found.contains_key("10.4.0.0/16"), found.contains_key("fd04::/48")), (false, true));
    assert!(troubles.len() == 1 && troubles[0].contains("10.4.200.7 (link up0)"), "{troubles:?}");
}

#[test]
fn a_block_as_large_as_its_pool_is_reached_or_is_here() {
    let mut whole = here(&BOTH);
    whole.blocks = ["10.4.0.0/16".parse().unwrap()].into();
    let (found, _) = hops("vxlan", &whole, &Peers::new());
    assert_eq!(found.keys().collect::<Vec<_>>(), ["fd04::/48"]);
    let all = peers(vec![peer("n2", &["192.0.2.2"], &["10.4.0.0/16"])]);
    let found = fabric(&config("vxlan"), &Here { blocks: [].into(), ..here(&BOTH) }, &all).objects;
    let hop = Object::from(Hop::Vxlan("192.0.2.2".parse().unwrap()));
    assert_eq!(found.get(&Key::Route("10.4.0.0/16".parse().unwrap())), Some(&hop));
}

#[test]
fn a_link_that_is_down_changes_neither_address_nor_size() {
    let before = here(&BOTH);
    let down = Here { blocks: before.blocks.clone(), ..Here::default() }.or_as(&before);
    assert_eq!((&down.addresses, down.mtu), (&before.addresses, before.mtu));
    let moved = Here { addresses: ["192.0.2.11".parse().unwrap()].into(), mtu: Some(9_000), ..Here::default() };
    let addresses: Vec<String> = moved.or_as(&before).addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.11", "2001:db8::1"]);
}

#[test]
fn whoever_changes_first_goes_on_as_before() {
    use netd_fleet::Encapsulation as Unpacked;
    let hop = |accepts: &[Unpacked], retiring: &[Encapsulation]| {
        let mut all = two();
        all.values_mut().for_each(|peer| peer.accepts = accepts.iter().copied().collect());
        let here = Here { retiring: retiring.iter().copied().collect(), ..here(&BOTH) };
        let (found, troubles) = hops("vxlan", &here, &all);
        (found["10.4.2.0/24"].clone(), found["10.4.3.0/24"].clone(), troubles.len())
    };
    let both = |one: &str, other: &str, troubles| (one.to_owned(), other.to_owned(), troubles);
    let by_tunnel = |troubles| both("Vxlan(192.0.2.2)", "Vxlan(198.51.100.3)", troubles);
    assert_eq!(hop(&[], &[]), by_tunnel(0));
    assert_eq!(hop(&[Unpacked::Direct, Unpacked::Vxlan], &[]), by_tunnel(0));
    assert_eq!(hop(&[Unpacked::Direct], &[]), both("Direct(192.0.2.2)", "Vxlan(198.51.100.3)", 1));
    let before = both("Ipip(192.0.2.2)", "Ipip(198.51.100.3)", 2 + 2);
    let (one, other, _) = hop(&[Unpacked::Direct, Unpacked::Ipip], &[Encapsulation::Ipip]);
    assert_eq!((one, other), (before.0, before.1));
}
