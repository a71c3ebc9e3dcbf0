//! The plan by itself: its order, and that it leads from any state to any other. What its steps do is the contract's.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeMap;

use netd_config::LinkName;
use netd_kernel::{
    Bridge, Encapsulation, Entrance, Hop, Interface, Key, LinkSettings, NetnsId, Object, Objects, Port, Step, Tunnel,
    Veth, fixed_ruleset, plan,
};
use proptest::prelude::*;

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn bridge(name: &str) -> (Key, Object) {
    let bridge =
        Bridge { addresses: vec!["10.4.0.1/24".parse().unwrap()], mtu: None, promisc: false, vlan_filtering: false };
    (Key::Bridge(link(name)), Object::Bridge(bridge))
}

fn veth(number: u64, port: Port) -> (Key, Object) {
    let veth = Veth {
        bridge: Some(link("br0")),
        peer: (NetnsId(number), link("eth0")),
        peer_mac: None,
        mtu: None,
        hairpin: false,
        isolated: false,
        vlans: None,
        port,
    };
    (Key::Veth(link(&format!("nd{number}"))), Object::Veth(veth))
}

fn interface(number: u64) -> (Key, Object) {
    let addresses = vec![format!("10.4.0.{}/24", number + 1).parse().unwrap()];
    let interface = Interface {
        addresses,
        routes: Vec::new(),
        sysctls: BTreeMap::new(),
        settings: LinkSettings::default(),
        quick_link_local: false,
    };
    (Key::Interface(NetnsId(number), link("eth0")), Object::Interface(interface))
}

fn attachment(number: u64) -> Objects {
    Objects::from([bridge("br0"), veth(number, Port::Open), interface(number)])
}

#[test]
fn ports_shut_before_anything_is_deleted_and_interfaces_come_last() {
    let mut observed = attachment(1);
    observed.extend(attachment(2));
    let mut desired = Objects::from([bridge("br0"), veth(1, Port::Closed)]);
    desired.extend(attachment(3));
    let steps = plan(&desired, &observed);
    let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    let shut = at(&|step| matches!(step, Step::Replace(Key::Veth(_), _)));
    let gone = at(&|step| matches!(step, Step::Delete(Key::Veth(_))));
    let up = at(&|step| matches!(step, Step::Create(Key::Interface(..), _)));
    assert!(shut < gone && gone < up, "{steps:#?}");
    assert_eq!(up, steps.len() - 1);
}

#[test]
fn a_route_that_changes_its_tunnel_is_never_away_and_a_tunnel_never_unguarded() {
    let node = |encapsulation, entrance, hop| {
        let tunnel = Tunnel { entrance, mtu: 1_400, addresses: Vec::new() };
        Objects::from([
            fixed_ruleset(),
            (Key::Connected, Object::Set),
            (Key::Peer([192, 0, 2, 2].into()), Object::Set),
            (Key::PeersOnly(entrance), Object::Set),
            (Key::Tunnel(encapsulation), Object::Tunnel(tunnel)),
            (Key::Route("10.4.1.0/24".parse().unwrap()), Object::from(hop)),
        ])
    };
    let (here, peer) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
    let ipip = node(Encapsulation::Ipip, Entrance::Ipip(here), Hop::Ipip(peer));
    let vxlan = node(Encapsulation::Vxlan, Entrance::Vxlan(here.into(), 4_789), Hop::Vxlan(peer.into()));
    let kinds = |steps: Vec<Step>| {
        let kind = |step: &Step| match step {
            Step::Create(key, _) => format!("+ {key:?}"),
            Step::Replace(key, _) => format!("= {key:?}"),
            Step::Delete(key) => format!("- {key:?}"),
        };
        steps.iter().map(kind).map(|line| line.split('(').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let change = kinds(plan(&vxlan, &ipip));
    assert_eq!(change, ["+ PeersOnly", "+ Tunnel", "= Route", "- Tunnel", "- PeersOnly"]);
    let begin = kinds(plan(&vxlan, &Objects::from([fixed_ruleset()])));
    assert_eq!(begin, ["+ Connected", "+ Peer", "+ PeersOnly", "+ Tunnel", "+ Route"]);
    let end = kinds(plan(&Objects::new(), &vxlan));
    assert_eq!(end, ["- Route", "- Peer", "- Tunnel", "- PeersOnly", "- Connected", "- Ruleset"]);
}

fn any_state() -> impl Strategy<Value = Objects> {
    prop::collection::btree_map(1_u64..6, prop::bool::ANY, 0..5).prop_map(|ports| {
        let mut objects = Objects::new();
        for (number, open) in ports {
            objects.extend(attachment(number));
            objects.extend([veth(number, if open { Port::Open } else { Port::Closed })]);
        }
        objects
    })
}

proptest! {
    #[test]
    fn planning_from_any_state_to_any_other_ends_there(from in any_state(), to in any_state()) {
        let mut state = from.clone();
        for step in plan(&to, &from) {
            match step {
                Step::Create(key, object) => prop_assert!(state.insert(key, object).is_none()),
                Step::Replace(key, object) => prop_assert!(state.insert(key, object).is_some()),
                Step::Delete(key) => prop_assert!(state.remove(&key).is_some()),
            }
        }
        prop_assert_eq!(&state, &to);
        prop_assert!(plan(&to, &state).is_empty());
    }
}
