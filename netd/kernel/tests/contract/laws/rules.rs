//! The ruleset, its elements, and forwarding with its guards.

use netd_kernel::{
    Decision, Direction, Family, Key, Object, Objects, Profile, Scope, Service, Step, fixed_ruleset, plan, profile,
};

use crate::bench::Bench;
use crate::objects::{block, class, guarded, link, masquerade, pair, profile_of_web, published, rules, target};

fn make(bench: &dyn Bench, objects: &Objects) {
    bench.apply_on_node(&plan(objects, &Objects::new())).unwrap();
}

fn unguarded() -> [(Key, Object); 2] {
    [Family::V4, Family::V6].map(|family| (Key::Forwarding(family), Object::Forwarding { guarded: false }))
}

pub(crate) fn elements_and_guards_need_the_ruleset(bench: &dyn Bench) {
    for (key, object) in rules().into_iter().filter(|(key, _)| *key != Key::Ruleset) {
        assert!(bench.apply_on_node(&[Step::Create(key.clone(), object.clone())]).is_err(), "{key:?}");
        assert!(bench.apply_on_node(&[Step::Replace(key.clone(), object)]).is_err(), "{key:?}");
    }
    assert!(bench.observe_node().is_empty());
    // Without a guard, forwarding is a switch of the node's.
    let forwarding = Objects::from(unguarded());
    make(bench, &forwarding);
    assert_eq!(bench.observe_node(), forwarding);
}

pub(crate) fn an_element_may_be_made_again_but_not_with_another_target(bench: &dyn Bench) {
    make(bench, &rules());
    make(bench, &rules());
    let other = Step::Create(published("0.0.0.0", 8080), target("10.4.0.3:80"));
    assert!(bench.apply_on_node(&[other]).is_err());
    assert_eq!(bench.observe_node(), rules());
}

pub(crate) fn a_target_is_replaced_in_one_step(bench: &dyn Bench) {
    make(bench, &rules());
    let mut changed = rules();
    changed.insert(published("::", 8080), target("[fd00::3]:80"));
    // One that is not there is made.
    changed.insert(published("0.0.0.0", 9090), target("10.4.0.3:80"));
    let steps = changed.iter().filter(|(key, _)| matches!(key, Key::Published(_)));
    let steps: Vec<Step> = steps.map(|(key, object)| Step::Replace(key.clone(), object.clone())).collect();
    bench.apply_on_node(&steps).unwrap();
    assert_eq!(bench.observe_node(), changed);
}

pub(crate) fn steps_of_the_ruleset_that_stand_together_all_take_hold_or_none(bench: &dyn Bench) {
    make(bench, &rules());
    let good = Step::Create(published("0.0.0.0", 9090), target("10.4.0.3:80"));
    let refused = Step::Create(published("0.0.0.0", 8080), target("10.4.0.3:80"));
    for steps in [[good.clone(), refused.clone()], [refused, good]] {
        let error = bench.apply_on_node(&[&[Step::Delete(masquerade("10.4.0.2"))], &steps[..]].concat()).unwrap_err();
        assert_eq!(error.number, 0, "the first of those that failed together");
        assert_eq!(bench.observe_node(), rules());
    }
}

pub(crate) fn made_again_the_ruleset_keeps_its_elements(bench: &dyn Bench) {
    make(bench, &rules());
    make(bench, &Objects::from([fixed_ruleset()]));
    assert_eq!(bench.observe_node(), rules());
}

pub(crate) fn a_replaced_ruleset_drops_elements_and_guards(bench: &dyn Bench) {
    make(bench, &rules());
    let (key, object) = fixed_ruleset();
    bench.apply_on_node(&[Step::Replace(key, object)]).unwrap();
    let left: Objects = unguarded().into_iter().chain([fixed_ruleset()]).collect();
    assert_eq!(bench.observe_node(), left);
    bench.apply_on_node(&plan(&rules(), &left)).unwrap();
    assert_eq!(bench.observe_node(), rules());
}

pub(crate) fn a_deleted_ruleset_takes_its_elements_along(bench: &dyn Bench) {
    make(bench, &rules());
    bench.apply_on_node(&[Step::Delete(Key::Ruleset)]).unwrap();
    assert_eq!(bench.observe_node(), Objects::from(unguarded()));
    // A change of one that somebody deleted meanwhile makes it.
    let (key, object) = fixed_ruleset();
    let admitted = Step::Create(Key::Admitted(link("br0")), Object::Set);
    bench.apply_on_node(&[Step::Replace(key, object), admitted]).unwrap();
    assert!(bench.has(&Key::Admitted(link("br0"))));
}

pub(crate) fn forwarding_is_never_switched_off_and_a_guard_stays(bench: &dyn Bench) {
    make(bench, &unguarded().into_iter().chain([fixed_ruleset()]).collect());
    let (key, guard) = guarded(Family::V4);
    let seen = || bench.observe_node().get(&key).cloned();
    bench.apply_on_node(&[Step::Delete(key.clone())]).unwrap();
    assert_eq!(seen(), Some(Object::Forwarding { guarded: false }));
    bench.apply_on_node(&[Step::Replace(key.clone(), guard.clone())]).unwrap();
    assert_eq!(seen(), Some(guard.clone()));
    bench.apply_on_node(&[Step::Replace(key.clone(), Object::Forwarding { guarded: false })]).unwrap();
    assert_eq!(seen(), Some(guard.clone()));
    bench.apply_on_node(&[Step::Delete(key.clone())]).unwrap();
    assert_eq!(seen(), Some(guard));
}

pub(crate) fn a_policy_becomes_another_in_one_step(bench: &dyn Bench) {
    let one = rules();
    let mut other = one.clone();
    other.retain(|key, _| !matches!(key, Key::Span(_) | Key::Pair(..) | Key::Block(..)));
    // The same ranges with other decisions and in other places, and an address that is somebody else.
    other.extend(profile_of_web(7, Decision::AllowLogged));
    other.extend(profile_of_web(9, Decision::Allow));
    other.extend([
        block("0.0.0.0", "10.127.255.255", 3),
        block("10.128.0.0", "255.255.255.255", 4),
        class("10.4.0.2", 5),
        pair(Direction::Ingress, Some(0), 9),
        pair(Direction::Egress, None, 7),
    ]);
    make(bench, &one);
    for (from, to) in [(&one, &other), (&other, &one), (&one, &other)] {
        bench.apply_on_node(&plan(to, from)).unwrap();
        assert_eq!(bench.observe_node(), *to);
    }
}

/// As after a start with other policies under old numbers: no part of the new may stand while one of the old does.
pub(crate) fn the_parts_of_a_profile_may_lie_otherwise(bench: &dyn Bench) {
    let part = |port| (Service { protocol: 6, port }, Service { protocol: 6, port: port + 9 }, Decision::Allow);
    let of = |list: &[_]| {
        let mut objects = rules();
        objects.retain(|key, _| !matches!(key, Key::Span(_)));
        objects.extend(profile(Profile(7), list, Decision::Deny));
        objects.extend(profile_of_web(8, Decision::Audit));
        objects
    };
    let (one, other, whole) = (of(&[part(80)]), of(&[part(85), part(8_080)]), of(&[]));
    make(bench, &one);
    for (from, to) in [(&one, &other), (&other, &whole), (&whole, &one), (&one, &whole), (&whole, &other)] {
        bench.apply_on_node(&plan(to, from)).unwrap();
        assert_eq!(bench.observe_node(), *to);
    }
}

pub(crate) fn what_policies_have_is_seen_apart(bench: &dyn Bench) {
    make(bench, &rules());
    let all = bench.observe_node();
    let seen = |scope| bench.kernel().observe(scope).unwrap();
    let (policies, others): (Objects, Objects) = all.into_iter().partition(|(key, _)| key.is_of_policy());
    assert!(policies.len() > 10 && others.len() > 5);
    assert_eq!(seen(Scope::Wiring), others);
    assert_eq!(seen(Scope::Policies), policies.into_iter().chain([fixed_ruleset()]).collect::<Objects>());
}

pub(crate) fn a_class_may_be_made_again_but_not_another(bench: &dyn Bench) {
    make(bench, &rules());
    let others = [class("10.4.0.2", 9), pair(Direction::Ingress, Some(0), 9), block("10.0.0.0", "10.255.255.255", 9)];
    for (key, object) in others {
        assert!(bench.apply_on_node(&[Step::Create(key, object)]).is_err());
    }
    assert_eq!(bench.observe_node(), rules());
}

pub(crate) fn all_pairs_and_spans_are_counted(bench: &dyn Bench) {
    make(bench, &rules());
    let counted = |key: &&Key| matches!(key, Key::Pair(..) | Key::Span(_));
    let counts = bench.kernel().counts().unwrap();
    assert_eq!(counts.keys().collect::<Vec<_>>(), rules().keys().filter(counted).collect::<Vec<_>>());
    assert!(counts.values().all(|count| *count == 0));
}
