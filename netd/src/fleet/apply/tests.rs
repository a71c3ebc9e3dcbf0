//! What a kernel refuses keeps nothing else from standing, and what rests on it is not tried.

use std::collections::BTreeSet;
use std::sync::Arc;

use netd_kernel::{
    Encapsulation, Entrance, FakeKernel, Hop, Key, NextHop, Object, Objects, Step, Tunnel, fixed_ruleset, plan,
};

use super::{UNGUARDED, fleets, has_ground, settle};
use crate::executor::Executor;

fn tunnel(entrance: Entrance) -> Object {
    Object::Tunnel(Tunnel { entrance, mtu: 1_400, addresses: Vec::new() })
}

fn vxlan() -> Entrance {
    Entrance::Vxlan([192, 0, 2, 1].into(), 4_789)
}

fn ipip() -> Entrance {
    Entrance::Ipip([192, 0, 2, 1].into())
}

fn route(to: &str, hop: Hop) -> (Key, Object) {
    (Key::Route(to.parse().unwrap()), Object::from(hop))
}

/// Both tunnels, two peers by each, one directly.
fn wanted() -> Objects {
    let peers: [[u8; 4]; 2] = [[192, 0, 2, 2], [192, 0, 2, 3]];
    let mut objects = Objects::from([
        (Key::Connected, Object::Set),
        (Key::Tunnel(Encapsulation::Vxlan), tunnel(vxlan())),
        (Key::Tunnel(Encapsulation::Ipip), tunnel(ipip())),
        (Key::PeersOnly(vxlan()), Object::Set),
        (Key::PeersOnly(ipip()), Object::Set),
        (Key::Inside("10.4.0.0/16".parse().unwrap()), Object::Set),
        route("10.4.0.0/16", Hop::Nowhere),
        route("10.4.9.0/24", Hop::Direct([192, 0, 2, 9].into())),
    ]);
    for (number, peer) in (2_u8..).zip(peers) {
        objects.insert(Key::Peer(peer.into()), Object::Set);
        objects.insert(Key::FarEnd(peer.into()), Object::Set);
        objects.extend([
            route(&format!("10.4.{number}.0/24"), Hop::Vxlan(peer.into())),
            route(&format!("10.4.1{number}.0/24"), Hop::Ipip(peer.into())),
        ]);
    }
    objects
}

fn executor() -> Executor<FakeKernel> {
    let executor = Executor::new(Arc::new(FakeKernel::new()), BTreeSet::new());
    executor.enforce(&plan(&Objects::from([fixed_ruleset()]), &Objects::new())).unwrap();
    executor
}

fn standing(executor: &Executor<FakeKernel>) -> Objects {
    fleets(&executor.observe().unwrap())
}

#[test]
fn all_of_it_stands_and_goes() {
    let executor = executor();
    assert!(settle(&executor, &wanted(), &standing(&executor)).unwrap().is_empty());
    assert_eq!(standing(&executor), wanted());
    assert!(settle(&executor, &Objects::new(), &standing(&executor)).unwrap().is_empty());
    assert_eq!(standing(&executor), Objects::new());
}

#[test]
fn a_tunnel_that_is_refused_takes_along_what_leads_by_it_and_nothing_else() {
    let executor = executor();
    let mut ill = wanted();
    // No kernel makes one of another kind's entrance.
    ill.insert(Key::Tunnel(Encapsulation::Ipip), tunnel(vxlan()));
    let refused = settle(&executor, &ill, &standing(&executor)).unwrap();
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&Key::Tunnel(Encapsulation::Ipip)]);
    let by = |object: &Object| matches!(object, Object::NextHop(NextHop { hop, .. }) if hop.encapsulation() == Some(Encapsulation::Ipip));
    let mut expected = wanted();
    expected.retain(|key, object| *key != Key::Tunnel(Encapsulation::Ipip) && !by(object));
    assert_eq!(standing(&executor), expected);
    // The kernel has been given the module.
    assert!(settle(&executor, &wanted(), &standing(&executor)).unwrap().is_empty());
    assert_eq!(standing(&executor), wanted());
}

#[test]
fn of_many_routes_those_that_are_refused_are_named() {
    let executor = executor();
    let mut ill = wanted();
    let strange = [
        route("fd04:9::/64", Hop::Direct([192, 0, 2, 9].into())),
        (Key::FarEnd("2001:db8::9".parse().unwrap()), Object::Set),
    ];
    ill.extend(strange.clone());
    let refused = settle(&executor, &ill, &standing(&executor)).unwrap();
    assert_eq!(refused.keys().collect::<BTreeSet<_>>(), strange.iter().map(|(key, _)| key).collect());
    assert_eq!(standing(&executor), wanted());
}

/// Somebody took the rules away: a tunnel would take from everybody what comes encapsulated.
#[test]
fn a_tunnel_whose_guard_is_refused_is_not_made() {
    let executor = Executor::new(Arc::new(FakeKernel::new()), BTreeSet::new());
    let refused = settle(&executor, &wanted(), &Objects::new()).unwrap();
    let by_none = |object: &Object| matches!(object, Object::NextHop(lead) if lead.hop.encapsulation().is_none());
    let expected: Objects = wanted().into_iter().filter(|(_, object)| by_none(object)).collect();
    assert_eq!(standing(&executor), expected);
    let tunnels = [Encapsulation::Ipip, Encapsulation::Vxlan].map(Key::Tunnel);
    assert!(tunnels.iter().all(|key| refused.get(key).is_some_and(|why| why == UNGUARDED)), "{refused:?}");
    assert!(!refused.keys().any(|key| matches!(key, Key::Route(_) | Key::FarEnd(_))), "{refused:?}");
    executor.enforce(&plan(&Objects::from([fixed_ruleset()]), &Objects::new())).unwrap();
    assert!(settle(&executor, &wanted(), &standing(&executor)).unwrap().is_empty());
    assert_eq!(standing(&executor), wanted());
}

/// It goes on taking what comes to where it was.
#[test]
fn a_tunnel_that_does_not_move_keeps_its_guard() {
    let executor = executor();
    assert!(settle(&executor, &wanted(), &standing(&executor)).unwrap().is_empty());
    let mut ill = wanted();
    // No kernel makes one of another kind's entrance.
    ill.insert(Key::Tunnel(Encapsulation::Ipip), tunnel(vxlan()));
    ill.remove(&Key::PeersOnly(ipip()));
    let refused = settle(&executor, &ill, &standing(&executor)).unwrap();
    assert!(refused.contains_key(&Key::Tunnel(Encapsulation::Ipip)), "{refused:?}");
    assert!(standing(&executor).contains_key(&Key::PeersOnly(ipip())));
}

#[test]
fn a_guard_does_not_go_while_its_tunnel_stands() {
    let goes = |guard: Key, stuck: Encapsulation| {
        let mut refused = [(Key::Tunnel(stuck), "busy".to_owned())].into();
        has_ground(&Step::Delete(guard), &mut refused)
    };
    for (stuck, entrance, other) in [(Encapsulation::Ipip, ipip(), vxlan()), (Encapsulation::Vxlan, vxlan(), ipip())] {
        assert!(!goes(Key::Connected, stuck));
        assert!(!goes(Key::PeersOnly(entrance), stuck));
        assert!(goes(Key::PeersOnly(other), stuck));
    }
}

/// One that fails for once is tried again by itself.
#[test]
fn a_fault_at_any_step_leaves_nothing_undone() {
    for step in 0..wanted().len() {
        let kernel = Arc::new(FakeKernel::new());
        let executor = Executor::new(Arc::clone(&kernel), BTreeSet::new());
        executor.enforce(&plan(&Objects::from([fixed_ruleset()]), &Objects::new())).unwrap();
        kernel.fail_at(step);
        assert!(settle(&executor, &wanted(), &Objects::new()).unwrap().is_empty(), "step {step}");
        assert_eq!(standing(&executor), wanted(), "step {step}");
    }
}
