//! A node with all kinds of object: plans, deaths in between, deletions.

use std::collections::BTreeSet;

use netd_kernel::{Flow, Key, Object, Objects, Port, Step, Veth, plan};

use crate::bench::Bench;
use crate::objects::{bridge, everything, link, published, target, veth, veth_key, veth_of};

pub(crate) fn what_was_planned_is_observed_and_a_second_plan_is_empty(bench: &dyn Bench) {
    let id = bench.sandbox();
    let desired = everything(id);
    bench.apply(id, &plan(&desired, &bench.observe(id))).unwrap();
    bench.settles(id, &desired, "as planned");
    assert!(plan(&desired, &bench.observe(id)).is_empty());
}

/// Whoever takes the steps dies after any number of them; the next one knows only what it observes.
pub(crate) fn a_death_at_any_step_then_a_new_plan_reaches_the_same_state(bench: &dyn Bench) {
    let id = bench.sandbox();
    let desired = everything(id);
    let steps = plan(&desired, &Objects::new()).len();
    for death in 0..=steps {
        bench.apply_on_node(&[veth_key(9), veth_key(2), bridge().0, Key::Ruleset].map(Step::Delete)).unwrap();
        let steps = plan(&desired, &bench.observe(id));
        bench.apply(id, &steps[..death.min(steps.len())]).unwrap();
        let rest = plan(&desired, &bench.observe(id));
        bench.apply(id, &rest).unwrap();
        bench.settles(id, &desired, &format!("a death after {death} steps"));
    }
}

pub(crate) fn a_change_and_the_way_back_are_observed(bench: &dyn Bench) {
    let id = bench.sandbox();
    let one = everything(id);
    let mut other = one.clone();
    other.insert(published("::", 8080), target("[fd00::3]:80"));
    other.insert(published("::", 9090), target("[fd00::3]:80"));
    other.remove(&published("0.0.0.0", 8080));
    other.remove(&Key::Fenced(link("br0")));
    other.insert(veth_key(2), Object::Veth(Veth { port: Port::Closed, ..veth_of(id) }));
    for desired in [&one, &other, &one, &other] {
        bench.apply(id, &plan(desired, &bench.observe(id))).unwrap();
        bench.settles(id, desired, "after a change");
    }
}

pub(crate) fn steps_before_the_one_that_fails_stay_done(bench: &dyn Bench) {
    let id = bench.sandbox();
    let create = |(key, object): (Key, Object)| Step::Create(key, object);
    let again = Step::Create(veth_key(3), Object::Veth(veth_of(id)));
    let after = Step::Create(veth_key(4), Object::Veth(Veth { peer: (id, link("eth4")), ..veth_of(id) }));
    let error = bench.apply(id, &[create(bridge()), create(veth(id, 2)), again, after]).unwrap_err();
    assert_eq!(error.number, 2);
    assert_eq!(bench.observe_node(), Objects::from([bridge(), veth(id, 2)]));
}

pub(crate) fn deleting_what_is_absent_is_success(bench: &dyn Bench) {
    let id = bench.sandbox();
    let all = || everything(id).into_keys().rev().map(Step::Delete);
    bench.apply_on_node(&all().collect::<Vec<_>>()).unwrap();
    all().for_each(|step| bench.apply_on_node(&[step]).unwrap());
    // And where the ruleset stands.
    bench.apply(id, &plan(&everything(id), &Objects::new())).unwrap();
    let but_ruleset = || all().filter(|step| *step != Step::Delete(Key::Ruleset));
    for _ in 0..2 {
        bench.apply_on_node(&but_ruleset().collect::<Vec<_>>()).unwrap();
        but_ruleset().for_each(|step| bench.apply_on_node(&[step]).unwrap());
    }
    assert!(bench.observe_node().keys().all(|key| matches!(key, Key::Ruleset | Key::Forwarding(_))));
}

pub(crate) fn an_object_that_does_not_fit_its_key_is_refused(bench: &dyn Bench) {
    let id = bench.sandbox();
    for key in [bridge().0, veth_key(2)] {
        assert!(bench.apply(id, &[Step::Create(key.clone(), Object::Set)]).is_err(), "{key:?}");
        assert!(bench.apply(id, &[Step::Replace(key.clone(), Object::Set)]).is_err(), "{key:?}");
    }
    assert!(bench.observe(id).is_empty());
}

pub(crate) fn there_may_be_nothing_to_forget(bench: &dyn Bench) {
    for address in ["10.4.0.2", "fd00::2"] {
        bench.kernel().forget(address.parse().unwrap(), None).unwrap();
        bench.kernel().forget(address.parse().unwrap(), Some(&link("br0"))).unwrap();
    }
    bench.kernel().forget_port(8080).unwrap();
    let (key, object) = bridge();
    bench.apply_on_node(&[Step::Create(key, object)]).unwrap();
    bench.kernel().forget("10.4.0.2".parse().unwrap(), Some(&link("br0"))).unwrap();
}

pub(crate) fn there_may_be_no_flows_to_cut(bench: &dyn Bench) {
    let addresses = BTreeSet::from(["10.4.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
    assert_eq!(bench.kernel().flows(&addresses).unwrap(), []);
    let flow = |opener: &str, answerer: &str| Flow {
        protocol: 6,
        opener: (opener.parse().unwrap(), 40_000),
        answerer: (answerer.parse().unwrap(), 80),
        asked: (answerer.parse().unwrap(), 80),
    };
    let flows = [flow("10.4.0.2", "10.4.0.3"), flow("fd00::2", "fd00::3")];
    bench.kernel().cut(&[]).unwrap();
    assert!(bench.kernel().cut(&flows).is_err(), "without the ruleset");
    bench.apply_on_node(&plan(&Objects::from([netd_kernel::fixed_ruleset()]), &Objects::new())).unwrap();
    for _ in 0..2 {
        bench.kernel().cut(&flows).unwrap();
    }
    assert_eq!(bench.observe_node().len(), 1, "what is cut is no object");
}
