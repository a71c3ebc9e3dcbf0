//! Bridges, veths, interfaces.

use std::collections::BTreeMap;

use netd_kernel::{Interface, KernelError, Key, LinkSettings, Object, Objects, Port, Route, Scope, Step, Veth};

use crate::bench::Bench;
use crate::objects::{bridge, bridge_of, interface, interface_key, interface_of, link, veth, veth_key, veth_of};

fn create((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Create(key, object)]
}

fn replace((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Replace(key, object)]
}

pub(crate) fn a_veth_needs_its_bridge(bench: &dyn Bench) {
    let id = bench.sandbox();
    let error = bench.apply(id, &create(veth(id, 2))).unwrap_err();
    assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
    assert!(bench.observe(id).is_empty());
}

pub(crate) fn a_veth_needs_its_sandbox(bench: &dyn Bench) {
    let (id, other) = (bench.sandbox(), bench.sandbox());
    bench.apply_on_node(&create(bridge())).unwrap();
    for error in [bench.apply_on_node(&create(veth(id, 2))), bench.apply(other, &create(veth(id, 2)))] {
        let error = error.unwrap_err();
        assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
    }
    bench.apply(id, &create(veth(id, 2))).unwrap();
}

pub(crate) fn a_taken_name_is_refused(bench: &dyn Bench) {
    let (id, other) = (bench.sandbox(), bench.sandbox());
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    let bridges_name = (Key::Veth(link("br0")), Object::Veth(veth_of(other)));
    for (whose, step) in [(id, veth(id, 3)), (other, veth(other, 2)), (other, bridges_name)] {
        let error = bench.apply(whose, &create(step)).unwrap_err();
        assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
    }
    let names: Vec<Key> = bench.observe_node().into_keys().collect();
    assert_eq!(names, [bridge().0, veth_key(2)]);
}

pub(crate) fn the_sandbox_end_comes_with_the_host_end_and_goes_with_it(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    assert_eq!(bench.observe(id).get(&interface_key(id)), Some(&interface_of(&[])));
    bench.apply(id, &[Step::Delete(interface_key(id))]).unwrap();
    assert!(bench.observe(id).contains_key(&interface_key(id)), "only the host end is deleted");
    bench.apply_on_node(&[Step::Delete(veth_key(2))]).unwrap();
    assert_eq!(bench.observe(id).into_keys().collect::<Vec<_>>(), [bridge().0]);
}

pub(crate) fn a_bridges_mtu_is_that_of_its_ports(bench: &dyn Bench) {
    let id = bench.sandbox();
    let seen = || {
        let Some(Object::Bridge(bridge)) = bench.observe_node().remove(&bridge().0) else { panic!("no bridge") };
        bridge.mtu
    };
    bench.apply_on_node(&create(bridge())).unwrap();
    assert_eq!(seen(), Some(1_400), "as it was made");
    let small = Veth { mtu: Some(1_300), peer: (id, link("eth1")), ..veth_of(id) };
    bench.apply(id, &create(veth(id, 2))).unwrap();
    bench.apply(id, &create((veth_key(3), Object::Veth(small)))).unwrap();
    assert_eq!(seen(), Some(1_300));
    bench.apply_on_node(&[Step::Delete(veth_key(3))]).unwrap();
    assert_eq!(seen(), Some(1_400));
    bench.apply_on_node(&[Step::Delete(veth_key(2))]).unwrap();
    assert_eq!(seen(), Some(1_500), "without ports");
}

pub(crate) fn an_interface_needs_its_veth_and_its_sandbox(bench: &dyn Bench) {
    let (id, other) = (bench.sandbox(), bench.sandbox());
    for steps in [create(interface(id, 2)), replace(interface(id, 2))] {
        let error = bench.apply(id, &steps).unwrap_err();
        assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
    }
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    for error in [bench.apply_on_node(&create(interface(id, 2))), bench.apply(other, &create(interface(id, 2)))] {
        let error = error.unwrap_err();
        assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
    }
}

pub(crate) fn an_interface_is_made_once_and_then_only_added_to(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    bench.apply(id, &create(interface(id, 2))).unwrap();
    assert!(bench.apply(id, &create(interface(id, 2))).is_err(), "it has its addresses");
    bench.apply(id, &replace(interface(id, 2))).unwrap();
    let more = interface_of(&["10.4.0.2/24", "10.4.0.9/24"]);
    bench.apply(id, &replace((interface_key(id), more))).unwrap();
    let all = interface_of(&["10.4.0.2/24", "10.4.0.9/24", "fd00::2/64"]);
    assert_eq!(bench.observe(id).get(&interface_key(id)), Some(&all));
}

pub(crate) fn both_ends_go_with_the_sandbox(bench: &dyn Bench) {
    let (id, other) = (bench.sandbox(), bench.sandbox());
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    bench.apply(other, &create(veth(other, 3))).unwrap();
    bench.kill(id);
    bench.until("the end of the host end", || !bench.has(&veth_key(2)));
    assert_eq!(bench.observe_node(), Objects::from([bridge(), veth(other, 3)]));
}

pub(crate) fn a_bridge_that_is_there_is_adopted_with_all_it_has(bench: &dyn Bench) {
    bench.apply_on_node(&create(bridge_of(&["10.4.0.1/24"]))).unwrap();
    bench.apply_on_node(&create(bridge_of(&["10.4.0.1/24"]))).unwrap();
    bench.apply_on_node(&create(bridge_of(&["fd00::1/64"]))).unwrap();
    assert_eq!(bench.observe_node(), Objects::from([bridge()]));
    bench.apply_on_node(&replace(bridge_of(&["10.5.0.1/24", "fd00::1/64"]))).unwrap();
    assert_eq!(bench.observe_node(), Objects::from([bridge_of(&["10.4.0.1/24", "10.5.0.1/24", "fd00::1/64"])]));
    // A change of one that somebody deleted meanwhile makes it.
    bench.apply_on_node(&[Step::Delete(bridge().0)]).unwrap();
    bench.apply_on_node(&replace(bridge())).unwrap();
    assert_eq!(bench.observe_node(), Objects::from([bridge()]));
}

pub(crate) fn a_link_of_another_kind_is_no_bridge(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    let error = bench.apply_on_node(&create((Key::Bridge(link("nd2")), bridge().1))).unwrap_err();
    assert!(matches!(error.source, KernelError::NotABridge(_)), "{error:?}");
}

pub(crate) fn ports_outlive_their_bridge(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(veth(id, 2))).unwrap();
    bench.apply_on_node(&[Step::Delete(bridge().0)]).unwrap();
    let alone = Veth { bridge: None, hairpin: false, ..veth_of(id) };
    assert_eq!(bench.observe_node(), Objects::from([(veth_key(2), Object::Veth(alone))]));
}

pub(crate) fn a_port_is_shut_and_opened_and_changes_its_flags(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    let error = bench.apply_on_node(&replace(veth(id, 2))).unwrap_err();
    assert!(!bench.has(&veth_key(2)), "a change makes no veth: {error:?}");
    bench.apply(id, &create(veth(id, 2))).unwrap();
    // Up, or it would have no carrier, and a port without carrier shows nothing.
    bench.apply(id, &create(interface(id, 2))).unwrap();
    let port = |port, hairpin, isolated| Object::Veth(Veth { port, hairpin, isolated, ..veth_of(id) });
    let seen = || bench.observe_node()[&veth_key(2)].clone();
    bench.until("an open port", || seen() == port(Port::Open, true, false));
    // What is shut changes nothing else.
    bench.apply_on_node(&replace((veth_key(2), port(Port::Closed, false, true)))).unwrap();
    assert_eq!(seen(), port(Port::Closed, true, false));
    bench.apply_on_node(&replace((veth_key(2), port(Port::Open, false, true)))).unwrap();
    assert_eq!(seen(), port(Port::Open, false, true));
    bench.apply_on_node(&replace((veth_key(2), port(Port::Open, true, false)))).unwrap();
    assert_eq!(seen(), port(Port::Open, true, false));
}

pub(crate) fn a_link_that_is_down_is_made_whole_and_stays_down_until_it_is_raised(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    let port = |port, hairpin, isolated| (veth_key(2), Object::Veth(Veth { port, hairpin, isolated, ..veth_of(id) }));
    let seen = || bench.observe_node()[&veth_key(2)].clone();
    bench.apply(id, &create(port(Port::Down, true, false))).unwrap();
    // The sandbox end goes up with all it has.
    bench.apply(id, &create(interface(id, 2))).unwrap();
    assert_eq!(bench.observe(id).get(&interface_key(id)), Some(&interface(id, 2).1));
    assert_eq!(seen(), port(Port::Down, true, false).1);
    bench.apply_on_node(&replace(port(Port::Open, false, true))).unwrap();
    bench.until("an open port", || seen() == port(Port::Open, false, true).1);
    // What goes down changes nothing else.
    bench.apply_on_node(&replace(port(Port::Down, true, false))).unwrap();
    assert_eq!(seen(), port(Port::Down, false, true).1);
    bench.apply_on_node(&replace(port(Port::Open, true, false))).unwrap();
    bench.until("an open port", || seen() == port(Port::Open, true, false).1);
}

pub(crate) fn a_bridge_takes_1023_ports(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    let port = |number| {
        let veth = Veth { peer: (id, link(&format!("eth{number}"))), ..veth_of(id) };
        Step::Create(veth_key(number), Object::Veth(veth))
    };
    let all: Vec<Step> = (1..=1_023).map(port).collect();
    bench.apply(id, &all).unwrap();
    let error = bench.apply(id, &[port(1_024)]).unwrap_err();
    assert!(matches!(error.source, KernelError::Full(_)), "{error:?}");
    assert!(!bench.has(&veth_key(1_024)));
}

pub(crate) fn facts_are_told_of_what_stands(bench: &dyn Bench) {
    let id = bench.sandbox();
    let facts = || {
        let sandbox = bench.enter(id);
        bench.kernel().attached(&link("nd2"), Some(&link("br0")), &link("eth0"), &sandbox)
    };
    assert!(matches!(facts(), Err(KernelError::NotFound(_))));
    bench.apply_on_node(&create(bridge())).unwrap();
    assert!(matches!(facts(), Err(KernelError::NotFound(_))));
    let asked = Veth { peer_mac: Some([2, 0, 0, 0, 0, 9]), ..veth_of(id) };
    bench.apply(id, &create((veth_key(2), Object::Veth(asked)))).unwrap();
    let told = facts().unwrap();
    assert_eq!((told.mac.as_str(), told.mtu), ("02:00:00:00:00:09", 1_400));
    assert_eq!((told.host_mac.len(), told.bridge_mac.len()), (17, 17));
    let Object::Interface(mut changed) = interface(id, 2).1 else { panic!() };
    changed.settings = LinkSettings { mac: Some([2, 0, 0, 0, 0, 8]), mtu: Some(1_300), ..LinkSettings::default() };
    bench.apply(id, &create((interface_key(id), Object::Interface(changed)))).unwrap();
    let told = facts().unwrap();
    assert_eq!((told.mac.as_str(), told.mtu), ("02:00:00:00:00:08", 1_300));
}

pub(crate) fn what_an_interface_lacks_is_told(bench: &dyn Bench) {
    let id = bench.sandbox();
    bench.apply_on_node(&create(bridge())).unwrap();
    let lacking = |wanted: &Interface| bench.kernel().lacking(&link("eth0"), wanted, &bench.enter(id));
    let route = |destination: &str, gateway: &str| Route {
        destination: destination.parse().unwrap(),
        gateway: gateway.parse().ok(),
        source: None,
    };
    let Object::Interface(mut given) = interface_of(&["10.4.0.2/24", "fd00:4::2/64"]) else { panic!() };
    given.routes = vec![route("0.0.0.0/0", "10.4.0.1"), route("::/0", "fd00:4::1"), route("10.5.0.0/16", "")];
    given.sysctls = BTreeMap::from([("net.ipv4.conf.eth0.arp_notify".to_owned(), "1".to_owned())]);
    assert!(matches!(lacking(&given), Err(KernelError::NotFound(_))));
    bench.apply(id, &create((veth_key(2), Object::Veth(veth_of(id))))).unwrap();
    bench.apply(id, &create((interface_key(id), Object::Interface(given.clone())))).unwrap();
    assert_eq!(lacking(&given).unwrap(), [""; 0]);
    let mut more = given;
    more.addresses.push("10.4.0.9/24".parse().unwrap());
    more.routes.extend([route("0.0.0.0/0", "10.4.0.7"), route("10.6.0.0/16", ""), route("fd00:5::/64", "fd00:4::1")]);
    let told = lacking(&more).unwrap();
    let routes = ["route to 0.0.0.0/0 by 10.4.0.7", "route to 10.6.0.0/16", "route to fd00:5::/64 by fd00:4::1"];
    assert_eq!(told, [&["address 10.4.0.9/24"][..], &routes[..]].concat());
    (more.addresses, more.routes) = (Vec::new(), Vec::new());
    more.sysctls.insert("net.ipv4.conf.eth0.arp_notify".to_owned(), "0".to_owned());
    assert!(lacking(&more).unwrap().concat().starts_with("sysctl net.ipv4.conf.eth0.arp_notify 0"));
    more.sysctls.clear();
    more.settings = LinkSettings { mtu: Some(1_234), ..LinkSettings::default() };
    assert_eq!(lacking(&more).unwrap().len(), 1);
}

pub(crate) fn every_sandbox_has_lo(bench: &dyn Bench) {
    let id = bench.sandbox();
    let lo = (Key::Interface(id, link("lo")), interface_of(&[]));
    let seen = || bench.kernel().observe(Scope::Sandbox(&bench.enter(id), &link("lo"))).unwrap();
    assert_eq!(seen(), Objects::from([lo.clone()]));
    bench.apply(id, &create(lo.clone())).unwrap();
    bench.apply(id, &create(lo.clone())).unwrap();
    assert_eq!(seen(), Objects::from([lo]));
}

pub(crate) fn a_bridge_is_filtered_in_place_and_its_filter_goes_with_it(bench: &dyn Bench) {
    let filtered = || Key::Filtered(link("br0"));
    assert!(bench.apply_on_node(&[Step::Create(filtered(), Object::Set)]).is_err(), "without its bridge");
    let (key, object) = bridge();
    bench.apply_on_node(&[Step::Create(key.clone(), object.clone())]).unwrap();
    assert!(!bench.has(&filtered()));
    for _ in 0..2 {
        bench.apply_on_node(&[Step::Create(filtered(), Object::Set)]).unwrap();
        assert!(bench.has(&filtered()));
        // A bridge that is adopted keeps it.
        bench.apply_on_node(&[Step::Create(key.clone(), object.clone())]).unwrap();
        assert!(bench.has(&filtered()));
    }
    for _ in 0..2 {
        bench.apply_on_node(&[Step::Delete(filtered())]).unwrap();
        assert!(!bench.has(&filtered()) && bench.has(&key));
    }
    bench.apply_on_node(&[Step::Create(filtered(), Object::Set), Step::Delete(key)]).unwrap();
    assert!(!bench.has(&filtered()));
    bench.apply_on_node(&[Step::Delete(filtered())]).unwrap();
}
