//! The laws of a kernel, put to the fake one, and the plan's properties. `linux.rs` puts them to the real one.

#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeMap;

use netd_config::LinkName;
use netd_kernel::{
    Bridge, FakeKernel, Interface, Kernel, KernelError, Key, LinkSettings, NetnsId, Object, Objects, Port, Sandbox,
    Scope, Step, Veth, plan,
};
use proptest::prelude::*;

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn bridge(name: &str) -> (Key, Object) {
    let bridge = Bridge { addresses: vec!["10.4.0.1/24".parse().unwrap()], mtu: None, promisc: false };
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
        port,
    };
    (Key::Veth(link(&format!("nd{number}"))), Object::Veth(veth))
}

fn interface(number: u64) -> (Key, Object) {
    let addresses = vec![format!("10.4.0.{}/24", number + 1).parse().unwrap()];
    let interface =
        Interface { addresses, routes: Vec::new(), sysctls: BTreeMap::new(), settings: LinkSettings::default() };
    (Key::Interface(NetnsId(number), link("eth0")), Object::Interface(interface))
}

fn attachment(number: u64) -> Objects {
    Objects::from([bridge("br0"), veth(number, Port::Open), interface(number)])
}

fn everything(kernel: &impl Kernel, sandbox: &Sandbox) -> Objects {
    let mut objects = kernel.observe(Scope::Node).unwrap();
    objects.extend(kernel.observe(Scope::Sandbox(sandbox, &link("eth0"))).unwrap());
    objects
}

#[test]
fn what_was_planned_is_observed_and_a_second_plan_is_empty() {
    let kernel = FakeKernel::new();
    let sandbox = kernel.sandbox(1);
    let desired = attachment(1);
    kernel.apply(&plan(&desired, &Objects::new()), Some(&sandbox)).unwrap();
    let observed = everything(&kernel, &sandbox);
    assert_eq!(observed, desired);
    assert!(plan(&desired, &observed).is_empty());
}

#[test]
fn a_veth_needs_its_bridge_and_its_sandbox() {
    let kernel = FakeKernel::new();
    let sandbox = kernel.sandbox(1);
    let (key, object) = veth(1, Port::Open);
    let create = [Step::Create(key, object)];
    let error = kernel.apply(&create, Some(&sandbox)).unwrap_err();
    assert!(matches!(error.source, KernelError::NotFound(ref what) if what == "bridge br0"));
    let (key, object) = bridge("br0");
    kernel.apply(&[Step::Create(key, object)], None).unwrap();
    assert!(kernel.apply(&create, None).is_err(), "no sandbox given");
    assert!(kernel.apply(&create, Some(&kernel.sandbox(2))).is_err(), "another sandbox given");
    kernel.apply(&create, Some(&sandbox)).unwrap();
    let error = kernel.apply(&create, Some(&sandbox)).unwrap_err();
    assert!(matches!(error.source, KernelError::Exists(_)));
}

#[test]
fn an_interface_needs_its_veth() {
    let kernel = FakeKernel::new();
    let (key, object) = interface(1);
    let error = kernel.apply(&[Step::Create(key, object)], Some(&kernel.sandbox(1))).unwrap_err();
    assert_eq!(error.number, 0);
    assert!(matches!(error.source, KernelError::NotFound(_)));
}

#[test]
fn deleting_what_is_absent_is_success() {
    let kernel = FakeKernel::new();
    let keys = attachment(1).into_keys().map(Step::Delete).collect::<Vec<_>>();
    kernel.apply(&keys, None).unwrap();
}

#[test]
fn the_sandbox_end_goes_with_the_host_end_and_both_with_the_sandbox() {
    let kernel = FakeKernel::new();
    for number in [1, 2] {
        let sandbox = kernel.sandbox(number);
        kernel
            .apply(
                &plan(&attachment(number), &kernel.observe(Scope::Node).unwrap())
                    .into_iter()
                    .filter(|step| matches!(step, Step::Create(..)))
                    .collect::<Vec<_>>(),
                Some(&sandbox),
            )
            .unwrap();
    }
    kernel.apply(&[Step::Delete(Key::Veth(link("nd1")))], None).unwrap();
    assert!(!everything(&kernel, &kernel.sandbox(1)).contains_key(&interface(1).0));
    kernel.kill_sandbox(NetnsId(2));
    assert_eq!(everything(&kernel, &kernel.sandbox(2)), Objects::from([bridge("br0")]));
}

#[test]
fn a_bridge_takes_1023_ports() {
    let kernel = FakeKernel::new();
    let (key, object) = bridge("br0");
    kernel.apply(&[Step::Create(key, object)], None).unwrap();
    let add = |number| {
        let (key, object) = veth(number, Port::Open);
        kernel.apply(&[Step::Create(key, object)], Some(&kernel.sandbox(number)))
    };
    (1..=1_023).for_each(|number| add(number).unwrap());
    assert!(matches!(add(1_024).unwrap_err().source, KernelError::Full(_)));
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
fn a_fault_at_any_step_then_a_new_plan_reaches_the_same_state() {
    let desired = attachment(1);
    let count = plan(&desired, &Objects::new()).len();
    for fault in 0..count {
        let kernel = FakeKernel::new();
        let sandbox = kernel.sandbox(1);
        kernel.fail_at(fault);
        let error = kernel.apply(&plan(&desired, &Objects::new()), Some(&sandbox)).unwrap_err();
        assert_eq!(error.number, fault);
        let rest = plan(&desired, &everything(&kernel, &sandbox));
        kernel.apply(&rest, Some(&sandbox)).unwrap();
        assert_eq!(everything(&kernel, &sandbox), desired, "fault at {fault}");
    }
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
