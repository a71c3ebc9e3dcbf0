//! Routed veths: gateway addresses on their host ends, and the ways to their sandboxes.

use netd_kernel::{KernelError, Key, Object, Objects, Step};

use crate::bench::Bench;
use crate::objects::{bridge, gateway, interface_of, link, routed, routed_whole, veth, way};

fn create((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Create(key, object)]
}

fn replace((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Replace(key, object)]
}

fn make(bench: &dyn Bench, id: netd_kernel::NetnsId, objects: &Objects) {
    bench.apply(id, &netd_kernel::plan(objects, &Objects::new())).unwrap();
}

pub(crate) fn gateways_and_ways_need_their_veth_and_go_with_it(bench: &dyn Bench) {
    let id = bench.sandbox();
    for object in [gateway(9, "10.6.0.1"), gateway(9, "fd06::1"), way("10.6.0.9", 9), way("fd06::9", 9)] {
        for step in [create(object.clone()), replace(object.clone())] {
            let error = bench.apply_on_node(&step).unwrap_err();
            assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
        }
        bench.apply_on_node(&[Step::Delete(object.0)]).unwrap();
    }
    let whole = routed_whole(id, 9);
    make(bench, id, &whole);
    assert_eq!(bench.observe_node(), whole);
    bench.apply_on_node(&[Step::Delete(routed(id, 9).0)]).unwrap();
    assert!(bench.observe_node().is_empty());
}

pub(crate) fn gateways_and_ways_go_with_the_sandbox(bench: &dyn Bench) {
    let (id, other) = (bench.sandbox(), bench.sandbox());
    make(bench, id, &routed_whole(id, 8));
    make(bench, other, &routed_whole(other, 9));
    bench.kill(id);
    bench.until("the end of the host end", || !bench.has(&routed(id, 8).0));
    assert_eq!(bench.observe_node(), routed_whole(other, 9));
}

pub(crate) fn a_gateway_may_stand_on_many_links_and_be_made_again(bench: &dyn Bench) {
    let id = bench.sandbox();
    for number in [8, 9] {
        make(bench, id, &routed_whole(id, number));
    }
    for address in ["10.6.0.1", "fd06::1"] {
        bench.apply_on_node(&create(gateway(9, address))).unwrap();
        bench.apply_on_node(&replace(gateway(9, address))).unwrap();
        bench.apply_on_node(&[Step::Delete(gateway(9, address).0)]).unwrap();
        bench.apply_on_node(&[Step::Delete(gateway(9, address).0)]).unwrap();
    }
    let mut left = routed_whole(id, 8);
    // The IPv4 way dies with the link's last IPv4 address.
    left.extend([routed(id, 9), way("fd06::9", 9)]);
    assert_eq!(bench.observe_node(), left);
}

pub(crate) fn to_an_address_there_is_one_way(bench: &dyn Bench) {
    let id = bench.sandbox();
    for number in [8, 9] {
        make(bench, id, &routed_whole(id, number));
    }
    let whole = bench.observe_node();
    for address in ["10.6.0.9", "fd06::9"] {
        bench.apply_on_node(&create(way(address, 9))).unwrap();
        bench.apply_on_node(&replace(way(address, 9))).unwrap();
        for step in [create(way(address, 8)), replace(way(address, 8))] {
            let error = bench.apply_on_node(&step).unwrap_err();
            assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
        }
        // Another link's way is another's.
        bench.apply_on_node(&[Step::Delete(way(address, 8).0)]).unwrap();
    }
    assert_eq!(bench.observe_node(), whole);
    for address in ["10.6.0.9", "fd06::9"] {
        let moved = [&[Step::Delete(way(address, 9).0)], &create(way(address, 8))[..]].concat();
        bench.apply_on_node(&moved).unwrap();
    }
    bench.apply_on_node(&[Step::Delete(routed(id, 9).0)]).unwrap();
    let mut left = routed_whole(id, 8);
    left.extend([way("10.6.0.9", 8), way("fd06::9", 8)]);
    assert_eq!(bench.observe_node(), left);
}

pub(crate) fn facts_are_told_of_a_routed_veth(bench: &dyn Bench) {
    let id = bench.sandbox();
    let facts = || bench.kernel().attached(&link("nd9"), None, &link("eth9"), &bench.enter(id));
    assert!(matches!(facts(), Err(KernelError::NotFound(_))));
    bench.apply_on_node(&create(bridge())).unwrap();
    make(bench, id, &routed_whole(id, 9));
    bench.apply(id, &create((Key::Interface(id, link("eth9")), interface_of(&["10.6.0.9/24"])))).unwrap();
    let told = facts().unwrap();
    assert_eq!((told.mac.len(), told.host_mac.len(), told.bridge_mac.as_str(), told.mtu), (17, 17, "", 1_400));
    bench.apply(id, &create(veth(id, 2))).unwrap();
    let port = bench.kernel().attached(&link("nd2"), None, &link("eth0"), &bench.enter(id));
    assert!(matches!(port, Err(KernelError::NotFound(_))), "{port:?}");
    let error = bench.kernel().attached(&link("nd9"), Some(&link("br0")), &link("eth9"), &bench.enter(id)).unwrap_err();
    assert!(matches!(error, KernelError::NotFound(_)), "{error:?}");
}
