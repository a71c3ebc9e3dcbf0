//! Tunnels between nodes, their far ends, and the routes to what is others'.

use netd_kernel::{
    Encapsulation, Entrance, Hop, KernelError, Key, NextHop, Object, Objects, Step, Tunnel, fixed_ruleset, plan,
};

use crate::bench::Bench;
use crate::objects::{bridge, fabric, far_end, hop, inside, route, vxlan, vxlan_of};

fn create((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Create(key, object)]
}

fn replace((key, object): (Key, Object)) -> [Step; 1] {
    [Step::Replace(key, object)]
}

fn make(bench: &dyn Bench, objects: &Objects) {
    bench.apply_on_node(&plan(objects, &bench.observe_node())).unwrap();
}

pub(crate) fn what_leads_by_a_tunnel_needs_it_and_goes_with_it(bench: &dyn Bench) {
    for object in [far_end("192.0.2.2"), route("10.4.1.0/24"), route("fd04:1::/64")] {
        for step in [create(object.clone()), replace(object.clone())] {
            let error = bench.apply_on_node(&step).unwrap_err();
            assert!(matches!(error.source, KernelError::NotFound(_)), "{error:?}");
        }
        bench.apply_on_node(&[Step::Delete(object.0)]).unwrap();
    }
    let all = fabric();
    make(bench, &all);
    assert_eq!(bench.observe_node(), all);
    bench.apply_on_node(&[Step::Delete(vxlan().0)]).unwrap();
    let is_by = |object: &Object| matches!(object, Object::NextHop(NextHop { hop, .. }) if hop.encapsulation() == Some(Encapsulation::Vxlan));
    let goes = |key: &Key, object: &Object| matches!(key, Key::FarEnd(_)) || *key == vxlan().0 || is_by(object);
    let left: Objects = all.clone().into_iter().filter(|(key, object)| !goes(key, object)).collect();
    assert_eq!(bench.observe_node(), left);
    make(bench, &all);
    assert_eq!(bench.observe_node(), all);
}

pub(crate) fn a_tunnel_may_be_made_again_and_changes_in_place(bench: &dyn Bench) {
    make(bench, &fabric());
    let before = bench.observe_node();
    for step in [create(vxlan()), replace(vxlan()), create(far_end("192.0.2.2")), replace(far_end("192.0.2.2"))] {
        bench.apply_on_node(&step).unwrap();
    }
    assert_eq!(bench.observe_node(), before);
    let Object::Tunnel(tunnel) = vxlan().1 else { unreachable!() };
    let entrance = Entrance::Vxlan(tunnel.entrance.address(), 4_790);
    let others = [
        (vxlan().0, Object::Tunnel(Tunnel { entrance, ..tunnel })),
        vxlan_of("192.0.2.1", 1_300, &["10.4.0.0", "fd04::"]),
        vxlan_of("192.0.2.9", 1_400, &["10.4.0.0"]),
        vxlan_of("192.0.2.9", 1_400, &["10.4.0.0", "10.4.7.0", "fd04:7::"]),
        vxlan_of("192.0.2.1", 1_400, &[]),
    ];
    for other in others {
        let error = bench.apply_on_node(&create(other.clone())).unwrap_err();
        assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
        bench.apply_on_node(&replace(other.clone())).unwrap();
        let expected: Objects = before.clone().into_iter().chain([other]).collect();
        assert_eq!(bench.observe_node(), expected);
    }
}

pub(crate) fn a_route_changes_its_hop_in_one_step(bench: &dyn Bench) {
    make(bench, &[bridge()].into_iter().chain(fabric()).collect());
    let before = bench.observe_node();
    let v4 = [Hop::Direct(address("10.4.0.9")), Hop::Vxlan(address("192.0.2.3")), Hop::Nowhere];
    let v6 = [Hop::Direct(address("fd00::9")), Hop::Vxlan(address("192.0.2.3")), Hop::Nowhere];
    for (to, hops) in [("10.4.1.0/24", v4), ("fd04:1::/64", v6)] {
        bench.apply_on_node(&create(route(to))).unwrap();
        for hop in hops {
            let other = (route(to).0, Object::from(hop));
            let error = bench.apply_on_node(&create(other.clone())).unwrap_err();
            assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
            for _ in 0..2 {
                bench.apply_on_node(&replace(other.clone())).unwrap();
            }
            assert_eq!(bench.observe_node().get(&other.0), Some(&other.1));
        }
        bench.apply_on_node(&replace(route(to))).unwrap();
    }
    assert_eq!(bench.observe_node(), before);
    for (to, _) in before.iter().filter(|(key, _)| matches!(key, Key::Route(_))) {
        for _ in 0..2 {
            bench.apply_on_node(&[Step::Delete(to.clone())]).unwrap();
        }
    }
    assert!(bench.observe_node().keys().all(|key| !matches!(key, Key::Route(_))));
}

pub(crate) fn a_route_says_what_size_passes_and_changes_it_in_one_step(bench: &dyn Bench) {
    make(bench, &[bridge()].into_iter().chain(fabric()).collect());
    let before = bench.observe_node();
    let hops = [Hop::Vxlan(address("192.0.2.2")), Hop::Direct(address("10.4.0.9")), Hop::Vxlan(address("192.0.2.2"))];
    let v6 = [Hop::Vxlan(address("192.0.2.2")), Hop::Direct(address("fd00::9")), Hop::Vxlan(address("192.0.2.2"))];
    for (to, hops) in [("10.4.1.0/24", hops), ("fd04:1::/64", v6)] {
        for hop in hops {
            for mtu in [Some(1_350), Some(1_300), None, Some(1_300)] {
                let other = (route(to).0, Object::NextHop(NextHop { hop, mtu }));
                let error = bench.apply_on_node(&create(other.clone())).unwrap_err();
                assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
                for _ in 0..2 {
                    bench.apply_on_node(&replace(other.clone())).unwrap();
                }
                assert_eq!(bench.observe_node().get(&other.0), Some(&other.1));
                assert_eq!(bench.observe_node().len(), before.len());
            }
        }
        // What leads by a tunnel that is made anew is as it was.
        let narrow = bench.observe_node();
        bench.apply_on_node(&replace(vxlan_of("192.0.2.1", 1_300, &["10.4.0.0", "fd04::"]))).unwrap();
        bench.apply_on_node(&replace(vxlan())).unwrap();
        assert_eq!(bench.observe_node(), narrow);
        bench.apply_on_node(&replace(route(to))).unwrap();
        assert_eq!(bench.observe_node(), before);
        bench
            .apply_on_node(&replace((route(to).0, Object::NextHop(NextHop { hop: hops[0], mtu: Some(1_300) }))))
            .unwrap();
        bench.apply_on_node(&[Step::Delete(route(to).0)]).unwrap();
        bench.apply_on_node(&create(route(to))).unwrap();
        assert_eq!(bench.observe_node(), before);
    }
}

pub(crate) fn what_a_hop_or_a_tunnel_cannot_be_is_refused(bench: &dyn Bench) {
    make(bench, &fabric());
    let before = bench.observe_node();
    let ipip = Entrance::Ipip([192, 0, 2, 1].into());
    let tunnel = Tunnel { entrance: ipip, mtu: 1_480, addresses: Vec::new() };
    let wrong = [
        (Key::Tunnel(Encapsulation::Vxlan), Object::Tunnel(tunnel)),
        (Key::Tunnel(Encapsulation::Vxlan), Object::Set),
        hop("fd04:9::/64", Hop::Direct(address("192.0.2.9"))),
        (Key::Route("10.4.9.0/24".parse().unwrap()), Object::Set),
        far_end("2001:db8::2"),
    ];
    for (key, object) in wrong {
        for step in [Step::Create(key.clone(), object.clone()), Step::Replace(key, object)] {
            assert!(bench.apply_on_node(std::slice::from_ref(&step)).is_err(), "{step:?}");
        }
    }
    assert_eq!(bench.observe_node(), before);
}

pub(crate) fn ranges_inside_lie_apart(bench: &dyn Bench) {
    let apart = [inside("10.4.0.0/16"), inside("10.5.0.0/16"), inside("fd04::/48"), inside("255.0.0.0/8")];
    let all: Objects = [fixed_ruleset()].into_iter().chain(apart).collect();
    make(bench, &all);
    for range in ["10.4.7.0/24", "10.4.0.0/15", "fd04::/64", "fd00::/8"] {
        assert!(bench.apply_on_node(&create(inside(range))).is_err(), "{range}");
    }
    assert_eq!(bench.observe_node(), all);
    for range in ["10.4.0.0/16", "fd04::/48"] {
        bench.apply_on_node(&create(inside(range))).unwrap();
        bench.apply_on_node(&[Step::Delete(inside(range).0)]).unwrap();
    }
    let left = Objects::from([fixed_ruleset(), inside("10.5.0.0/16"), inside("255.0.0.0/8")]);
    assert_eq!(bench.observe_node(), left);
    make(bench, &all);
    assert_eq!(bench.observe_node(), all);
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}
