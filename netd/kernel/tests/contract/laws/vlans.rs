//! VLANs of bridges: who is in which, and the links of their gateways. Where the kernel cannot tell VLANs apart, that it says so.

use std::io::Write;

use netd_kernel::{Bridge, GatewayLink, KernelError, Key, NetnsId, Object, Objects, Port, Step, Veth, Vlans, plan};

use crate::bench::Bench;
use crate::objects::{bridge, interface, link, veth, veth_key, veth_of};

fn create((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Create(key, object)]
}

fn replace((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Replace(key, object)]
}

fn filtering() -> (Key, Object) {
    let Object::Bridge(plain) = bridge().1 else { panic!() };
    (bridge().0, Object::Bridge(Bridge { vlan_filtering: true, ..plain }))
}

fn gateway_of(addresses: &[&str]) -> GatewayLink {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    GatewayLink { bridge: Some(link("br0")), vlan: 10, addresses, mtu: Some(1_400) }
}

fn gateway_key() -> Key {
    Key::GatewayLink(link("br0.10"))
}

fn gateway() -> (Key, Object) {
    (gateway_key(), Object::GatewayLink(gateway_of(&["10.5.0.1/24", "fd05::1/64"])))
}

fn port_in(id: NetnsId, vlans: Option<Vlans>) -> (Key, Object) {
    (veth_key(2), Object::Veth(Veth { vlans, ..veth_of(id) }))
}

/// Two VLANs with a gateway, a trunk, and a port that nobody gave a VLAN.
fn everything(id: NetnsId) -> Objects {
    let trunk = Veth { vlans: Vlans::of(10, &[(1, 1)], &[(20, 29), (4_094, 4_094)]), ..veth_of(id) };
    let named = |number: u16, veth: Veth| {
        let peer = (id, link(&format!("eth{number}")));
        (veth_key(number), Object::Veth(Veth { peer, ..veth }))
    };
    let other = GatewayLink { vlan: 1, ..gateway_of(&["10.6.0.1/24"]) };
    Objects::from([
        filtering(),
        gateway(),
        (Key::GatewayLink(link("br0.1")), Object::GatewayLink(other)),
        port_in(id, Vlans::of(10, &[], &[])),
        named(3, trunk),
        named(4, veth_of(id)),
        interface(id, 2),
    ])
}

/// Whether this kernel tells VLANs apart.
fn filters(bench: &dyn Bench) -> bool {
    match bench.apply_on_node(&create(filtering())) {
        Ok(()) => {
            bench.apply_on_node(&[Step::Delete(filtering().0)]).unwrap();
            true
        }
        Err(error) => {
            assert!(matches!(error.source, KernelError::NoVlanFiltering(_)), "{error:?}");
            false
        }
    }
}

/// As [`filters`]; where it does not, it is told that a law was not put to this kernel.
fn can_filter(bench: &dyn Bench) -> bool {
    let can = filters(bench);
    if !can {
        let why = "SKIPPED VLANs (laws): this kernel is built without CONFIG_BRIDGE_VLAN_FILTERING\n";
        std::io::stderr().write_all(why.as_bytes()).unwrap();
    }
    can
}

pub(crate) fn a_bridge_keeps_vlans_apart_or_the_kernel_says_that_it_cannot(bench: &dyn Bench) {
    let cannot = !filters(bench);
    assert!(bench.observe_node().is_empty(), "a bridge that cannot be had is not half made");
    bench.apply_on_node(&create(bridge())).unwrap();
    for step in [create(filtering()), replace(filtering()), create(bridge())] {
        let done = bench.apply_on_node(&step);
        if cannot && step != create(bridge()) {
            let error = done.unwrap_err();
            assert!(matches!(error.source, KernelError::NoVlanFiltering(_)), "{error:?}");
            assert_eq!(bench.observe_node(), Objects::from([bridge()]), "one that was there is as it was");
        } else {
            done.unwrap();
        }
    }
    // It is never switched off.
    let last = if cannot { bridge() } else { filtering() };
    assert_eq!(bench.observe_node(), Objects::from([last]));
}

pub(crate) fn a_port_is_in_its_vlans_and_changes_them_in_place(bench: &dyn Bench) {
    if !can_filter(bench) {
        return;
    }
    let id = bench.sandbox();
    let ten = || Vlans::of(10, &[], &[]);
    bench.apply_on_node(&create(bridge())).unwrap();
    bench.apply(id, &create(port_in(id, ten()))).unwrap();
    let seen = || bench.observe_node()[&veth_key(2)].clone();
    assert_eq!(seen(), port_in(id, None).1, "the bridge does not look at VLANs");
    bench.apply_on_node(&create(filtering())).unwrap();
    assert_eq!(seen(), port_in(id, ten()).1);
    bench.apply(id, &create(interface(id, 2))).unwrap();
    let open = |vlans: fn() -> Option<Vlans>| bench.until("an open port", || seen() == port_in(id, vlans()).1);
    let trunk = || Vlans::of(1, &[], &[(2, 9), (11, 4_094)]);
    let kept = || Vlans::of(4_094, &[(1, 1)], &[]);
    for vlans in [trunk as fn() -> _, kept, ten] {
        bench.apply_on_node(&replace(port_in(id, vlans()))).unwrap();
        open(vlans);
    }
    // What is shut changes nothing else.
    let Object::Veth(shut) = port_in(id, trunk()).1 else { panic!() };
    bench.apply_on_node(&replace((veth_key(2), Object::Veth(Veth { port: Port::Down, ..shut })))).unwrap();
    let Object::Veth(down) = seen() else { panic!() };
    assert_eq!((down.port, down.vlans), (Port::Down, ten()));
}

pub(crate) fn a_gateway_link_needs_its_bridge_and_goes_alone(bench: &dyn Bench) {
    if !can_filter(bench) {
        return;
    }
    for step in [create(gateway()), replace(gateway())] {
        let error = bench.apply_on_node(&step).unwrap_err();
        assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
    }
    bench.apply_on_node(&[Step::Delete(gateway_key())]).unwrap();
    assert!(bench.observe_node().is_empty());
    bench.apply_on_node(&create(filtering())).unwrap();
    bench.apply_on_node(&create(gateway())).unwrap();
    assert_eq!(bench.observe_node(), Objects::from([filtering(), gateway()]));
    assert_eq!(bench.kernel().mac(&link("br0.10")).unwrap().len(), 17);
    for _ in 0..2 {
        bench.apply_on_node(&[Step::Delete(gateway_key())]).unwrap();
    }
    assert!(matches!(bench.kernel().mac(&link("br0.10")), Err(KernelError::NotFound(_))));
    let Some(Object::Bridge(left)) = bench.observe_node().remove(&filtering().0) else { panic!("no bridge") };
    assert!(left.vlan_filtering);
}

pub(crate) fn a_gateway_link_of_ours_is_adopted_with_its_addresses_and_no_other(bench: &dyn Bench) {
    if !can_filter(bench) {
        return;
    }
    let id = bench.sandbox();
    bench.apply_on_node(&create(filtering())).unwrap();
    for address in ["10.5.0.1/24", "fd05::1/64"] {
        let one = Object::GatewayLink(gateway_of(&[address]));
        for _ in 0..2 {
            bench.apply_on_node(&create((gateway_key(), one.clone()))).unwrap();
        }
    }
    assert_eq!(bench.observe_node()[&gateway_key()], gateway().1);
    bench.apply(id, &create(veth(id, 2))).unwrap();
    for name in ["br0", "nd2"] {
        let error = bench.apply_on_node(&create((Key::GatewayLink(link(name)), gateway().1))).unwrap_err();
        assert!(matches!(error.source, KernelError::NotOurGateway(_)), "{error:?}");
        bench.apply_on_node(&[Step::Delete(Key::GatewayLink(link(name)))]).unwrap();
    }
    assert!(bench.has(&veth_key(2)) && bench.has(&filtering().0), "what is not a gateway's link is not deleted as one");
}

pub(crate) fn a_gateway_link_outlives_its_bridge_and_is_put_back(bench: &dyn Bench) {
    if !can_filter(bench) {
        return;
    }
    bench.apply_on_node(&create(filtering())).unwrap();
    bench.apply_on_node(&create(gateway())).unwrap();
    bench.apply_on_node(&[Step::Delete(filtering().0)]).unwrap();
    let Object::GatewayLink(loose) = gateway().1 else { panic!() };
    let loose = Object::GatewayLink(GatewayLink { bridge: None, vlan: 0, ..loose });
    assert_eq!(bench.observe_node(), Objects::from([(gateway_key(), loose)]));
    let desired = Objects::from([filtering(), gateway()]);
    bench.apply_on_node(&plan(&desired, &bench.observe_node())).unwrap();
    assert_eq!(bench.observe_node(), desired);
}

pub(crate) fn a_death_at_any_step_of_a_plan_with_vlans_is_made_good(bench: &dyn Bench) {
    if !can_filter(bench) {
        return;
    }
    let id = bench.sandbox();
    let desired = everything(id);
    let steps = plan(&desired, &Objects::new()).len();
    for death in 0..=steps {
        let clear = bench.observe_node().into_keys().rev().map(Step::Delete).collect::<Vec<_>>();
        bench.apply_on_node(&clear).unwrap();
        let steps = plan(&desired, &bench.observe(id));
        bench.apply(id, &steps[..death.min(steps.len())]).unwrap();
        let rest = plan(&desired, &bench.observe(id));
        bench.apply(id, &rest).unwrap();
        bench.settles(id, &desired, &format!("a death after {death} steps"));
    }
}
