//! The enforcer on the fake kernel: what is written, and what a failure leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use netd_config::Denied;
use netd_kernel::{Class, FakeKernel, Family, Flow, Kernel, Key, Object, Objects, Scope, Step, fixed_ruleset};

use netd_fleet::{NodeName, SandboxRecord};
use netd_policy::{Change, Compiler, Node, Sandbox, SandboxName};

use super::enforcer::{Force, Request};
use super::files::{PolicyFiles, Source};
use super::others::sandbox;
use super::{Policies, Settings, heard, objects};
use crate::attachment::{Attachment, State};
use crate::desired::shared;
use crate::executor::Executor;
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node as OwnNode};
use crate::ports::tests::attachment;

const CLOSED: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\n\
                      spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, \
                      ingress: [{action: Deny, from: [{netd/networks: [192.0.2.0/24]}]}]}\n";

fn files(text: &str) -> Arc<PolicyFiles> {
    Arc::new(PolicyFiles::default().next(&[Source { file: "a.yaml".to_owned(), text: Ok(text.to_owned()) }]))
}

fn keys(kernel: &FakeKernel) -> BTreeSet<Key> {
    kernel.observe(Scope::Node).unwrap().into_keys().collect()
}

fn policies(kernel: &Arc<FakeKernel>, denied: Denied) -> Policies {
    let (key, object) = fixed_ruleset();
    kernel.apply(&[Step::Create(key, object)], None).unwrap();
    let executor = Arc::new(Executor::new(Arc::clone(kernel), BTreeSet::new()));
    Policies::start(executor, Settings { node: "here".to_owned(), denied, ..Settings::default() }).unwrap()
}

#[tokio::test]
async fn what_is_denied_is_answered_or_dropped_as_the_node_says() {
    for (denied, is_silent) in [(Denied::Answered, false), (Denied::Dropped, true)] {
        let kernel = Arc::new(FakeKernel::new());
        policies(&kernel, denied).verify().await.unwrap();
        for family in [Family::V4, Family::V6] {
            assert_eq!(keys(&kernel).contains(&Key::DropSilently(family)), is_silent, "{denied:?} {family:?}");
        }
    }
}

#[tokio::test]
async fn a_failure_is_told_and_who_tries_again_writes_all() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    policies.verify().await.unwrap();
    let before = keys(&kernel);
    kernel.fail_at(0);
    assert!(policies.enforce(files(CLOSED), Vec::new()).await.is_err());
    assert_eq!(keys(&kernel), before);
    assert!(!policies.is_any_in_force());
    policies.verify().await.unwrap();
    assert_eq!(keys(&kernel), before);
    policies.enforce(files(CLOSED), Vec::new()).await.unwrap();
    let block = |key: &Key| matches!(key, Key::Block(..));
    assert!(keys(&kernel).iter().any(block), "{kernel}");
    // Without policies nothing is left.
    policies.enforce(files(""), Vec::new()).await.unwrap();
    assert_eq!(keys(&kernel), before);
    assert!(!policies.is_any_in_force());
}

fn sandbox_named(name: &str, address: &str) -> Attachment {
    let mut own = attachment(name, &[]);
    (own.namespace, own.foreign) = ("default".to_owned(), vec![address.parse().unwrap()]);
    own
}

#[test]
fn a_container_is_found_by_its_own_id_whatever_its_namespace_is_called() {
    let mut members = super::members::Members::new("here", netd_config::Namespaces::default());
    for (namespace, id) in [("default", "ab12"), ("my-team", "cd34"), ("default", "ctr-one"), ("", "ef56")] {
        let prefix = if namespace.is_empty() { "gone" } else { namespace };
        let mut own = attachment(&format!("{prefix}-{id}"), &[]);
        (own.namespace, own.name) = (namespace.to_owned(), format!("name-of-{id}"));
        members.join(&own);
    }
    let names = |text: &str| members.of_container(text).iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    for (text, id) in [("ab", "ab12"), ("cd3", "cd34"), ("my-team-cd", "cd34"), ("ctr-o", "ctr-one"), ("ef", "ef56")] {
        assert_eq!(names(text), [format!("name-of-{id}")], "{text}");
    }
    assert_eq!(names("team"), Vec::<String>::new());
}

async fn in_force(policies: &Policies) -> Vec<String> {
    policies.ask(|force| force.compiler.policies().iter().map(|one| one.name.name.clone()).collect()).await.unwrap()
}

/// At whatever step.
#[tokio::test]
async fn what_the_kernel_refuses_leaves_what_was_in_force_as_it_was() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let own = sandbox_named("web", "10.4.0.2");
    policies.enforce(files(FROM_FAR), vec![own.clone()]).await.unwrap();
    let before = kernel.observe(Scope::Node).unwrap();
    for (text, names) in [(both(), vec!["c", "from-far"]), (String::new(), vec![])] {
        for step in 0.. {
            kernel.fail_at(step);
            let refused = policies.enforce(files(&text), vec![own.clone()]).await;
            kernel.heal();
            if refused.is_ok() {
                assert!(step > 1, "nothing was refused");
                break;
            }
            assert_eq!(in_force(&policies).await, ["from-far"], "step {step}");
            assert_eq!(kernel.observe(Scope::Node).unwrap(), before, "step {step}");
            let troubles = policies.troubles();
            let is_told = troubles.iter().any(|one| {
                one.starts_with("a.yaml: the kernel refuses it: ")
                    && one.ends_with("; its last good text stays in force")
            });
            assert!(is_told, "{troubles:?}");
        }
        assert_eq!(in_force(&policies).await, names);
        assert_eq!(policies.troubles(), Vec::<String>::new());
        policies.enforce(files(FROM_FAR), vec![own.clone()]).await.unwrap();
    }
}

/// The thread stands still until what is returned is dropped: what comes meanwhile is one round.
fn halted(policies: &Policies) -> Sender<()> {
    let ((release, held), (halts, is_halted)) = (channel::<()>(), channel());
    let wait = move |_: &Force| {
        halts.send(()).unwrap();
        held.recv().unwrap_or_default();
    };
    drop(policies.requests.as_ref().unwrap().send(Request::Ask(Box::new(wait))));
    is_halted.recv().unwrap();
    release
}

#[tokio::test]
async fn who_asks_is_told_what_holds_and_not_what_is_being_written() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let own = sandbox_named("web", "10.4.0.2");
    policies.enforce(files(FROM_FAR), vec![own.clone()]).await.unwrap();
    let release = halted(&policies);
    let filed = policies.send(|done| Request::Files(files(&both()), vec![own], done)).unwrap();
    let asked = tokio::spawn({
        let policies = policies.clone();
        async move { in_force(&policies).await }
    });
    tokio::task::yield_now().await;
    kernel.fail_at(0);
    drop(release);
    assert!(heard(filed).await.is_err());
    assert_eq!(asked.await.unwrap(), ["from-far"]);
}

/// And is told of when the last policy was to go, and did not.
#[tokio::test]
async fn who_is_attached_while_policies_are_refused_is_judged_by_those_in_force() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let own = sandbox_named("web", "10.4.0.2");
    policies.enforce(files(FROM_FAR), vec![own.clone()]).await.unwrap();
    let stands = kernel.observe(Scope::Node).unwrap();
    let elsewhere = Arc::new(FakeKernel::new());
    self::policies(&elsewhere, Denied::Answered).enforce(files(&both()), vec![own.clone()]).await.unwrap();
    let new = keys(&elsewhere).into_iter().find(|key| matches!(key, Key::Block(..))).unwrap();
    let old = stands.into_keys().find(|key| matches!(key, Key::Isolated(..))).unwrap();
    for (text, refused) in [(both(), new), (String::new(), old)] {
        kernel.refuse(refused);
        for number in 3..6 {
            let address = format!("10.4.0.{number}");
            // One round, as it may be.
            let release = halted(&policies);
            let filed = policies.send(|done| Request::Files(files(&text), vec![own.clone()], done)).unwrap();
            let late = Box::new(sandbox_named(&format!("late{number}"), &address));
            let joined = policies.send(|done| Request::Join(late, done)).unwrap();
            drop(release);
            assert!(heard(filed).await.is_err());
            heard(joined).await.unwrap();
            assert!(policies.is_any_in_force());
            let is_isolated = |key: &Key| matches!(key, Key::Isolated(.., at) if at.to_string() == address);
            assert!(keys(&kernel).iter().any(is_isolated), "{address}: nobody asks about it");
        }
        kernel.heal();
    }
    policies.enforce(files(&both()), Vec::new()).await.unwrap();
    assert_eq!(in_force(&policies).await, ["c", "from-far"]);
}

/// Nobody has said before which there are: what another netd has left is not taken for nothing.
#[tokio::test]
async fn policies_that_are_refused_at_the_start_take_nothing_away() {
    let kernel = Arc::new(FakeKernel::new());
    let own = sandbox_named("web", "10.4.0.2");
    policies(&kernel, Denied::Answered).enforce(files(FROM_FAR), vec![own.clone()]).await.unwrap();
    let before = kernel.observe(Scope::Node).unwrap();
    let executor = Arc::new(Executor::new(Arc::clone(&kernel), BTreeSet::new()));
    let again = Policies::start(executor, Settings { node: "here".to_owned(), ..Settings::default() }).unwrap();
    kernel.fail_at(0);
    assert!(again.enforce(files(&both()), vec![own.clone()]).await.is_err());
    again.settle().await.unwrap();
    assert_eq!(kernel.observe(Scope::Node).unwrap(), before);
    let kept = files(FROM_FAR).refusing(&files(&both()), |_| "no");
    again.enforce(Arc::new(kept), vec![own]).await.unwrap();
    assert_eq!(kernel.observe(Scope::Node).unwrap(), before);
    assert_eq!(again.troubles().len(), 1);
}

/// Two networks with one subnet, on two bridges: rules ask by the address, which is not enough.
#[tokio::test]
async fn an_address_that_two_sandboxes_have_is_closed_on_both_bridges_and_told_of() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let on = |container: &str, netns, bridge: &str| {
        let config = WEB.replace("br0", bridge).replace("\"web\"", &format!("\"{bridge}\""));
        let Attached::New { attachment, .. } = OwnNode::new("nd").attach(wanted(&config, container, netns)).unwrap()
        else {
            panic!()
        };
        Attachment { namespace: container.to_owned(), state: State::Attached, ..*attachment }
    };
    let (mut one, other) = (on("default", 1, "br0"), on("elsewhere", 2, "br1"));
    one.name = "one".to_owned();
    for own in [&one, &other] {
        let bridges = shared(own, &BTreeSet::new()).into_iter().filter(|(key, _)| matches!(key, Key::Bridge(_)));
        kernel.apply(&bridges.map(|(key, object)| Step::Create(key, object)).collect::<Vec<_>>(), None).unwrap();
    }
    let address = one.leases[0].address.addr();
    assert_eq!(address, other.leases[0].address.addr());
    policies.enforce(files(FROM_FAR), vec![one.clone()]).await.unwrap();
    let of = |key: &Key| matches!(key, Key::Isolated(_, _, at) if *at == address);
    let isolated = || keys(&kernel).into_iter().filter(of).count();
    let filtered = || keys(&kernel).iter().filter(|key| matches!(key, Key::Filtered(_))).count();
    let classed = || keys(&kernel).contains(&Key::Class(address));
    assert_eq!((isolated(), filtered(), classed()), (1, 1, true));
    let mine = Flow { opener: (address, 40_000), ..flow("192.0.2.9") };
    kernel.open(mine);
    policies.admit(&other).await.unwrap();
    assert_eq!((isolated(), filtered(), classed()), (2, 2, false), "both ways, on both bridges, as nobody");
    policies.verify().await.unwrap();
    assert_eq!((isolated(), filtered(), classed()), (2, 2, false));
    let is_cut = || kernel.flows(&BTreeSet::from([address])).unwrap().is_empty();
    for _ in 0..6_000 {
        if is_cut() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(is_cut(), "a flow goes on that may be anybody's");
    let troubles = policies.troubles().join("\n");
    assert!(
        troubles.contains("is an address of default/one and of elsewhere/elsewhere, and rules cannot"),
        "{troubles}"
    );
    policies.forget(other.key.clone());
    policies.settle().await.unwrap();
    assert_eq!((isolated(), filtered(), classed()), (1, 1, true));
    assert_eq!(policies.troubles(), Vec::<String>::new());
}

/// With the numbers of one that had other policies before.
#[tokio::test]
async fn a_netd_that_starts_again_writes_nothing_that_stands() {
    let kernel = Arc::new(FakeKernel::new());
    let mut own = attachment("web", &[]);
    own.namespace = "default".to_owned();
    let policies = policies(&kernel, Denied::Answered);
    for text in [CLOSED, "", FROM_FAR, CLOSED, &both()] {
        policies.enforce(files(text), vec![own.clone()]).await.unwrap();
    }
    let before = kernel.observe(Scope::Node).unwrap();
    drop(policies);
    let start = || {
        let executor = Arc::new(Executor::new(Arc::clone(&kernel), BTreeSet::new()));
        Policies::start(executor, Settings { node: "here".to_owned(), ..Settings::default() }).unwrap()
    };
    let again = start();
    // Nobody has said yet which policies there are.
    again.live_at(["192.0.2.1".parse().unwrap()].into());
    again.meet(BTreeMap::new(), BTreeSet::new()).await.unwrap();
    again.settle().await.unwrap();
    assert_eq!(kernel.observe(Scope::Node).unwrap(), before);
    kernel.die_at(0);
    again.enforce(files(&both()), vec![own.clone()]).await.unwrap();
    again.settle().await.unwrap();
    again.verify().await.unwrap();
    assert_eq!(kernel.observe(Scope::Node).unwrap(), before);
    kernel.heal();
    // What is new comes beside it.
    let other = start();
    other.enforce(files(&[&both(), MORE].join("---\n")), vec![own]).await.unwrap();
    let after = kernel.observe(Scope::Node).unwrap();
    let is_class = |key: &&Key| matches!(key, Key::Class(_) | Key::Block(..) | Key::Isolated(..));
    let gone = before.keys().filter(is_class).find(|key| after.get(*key) != before.get(*key));
    assert_eq!(gone, None);
    other.verify().await.unwrap();
    assert_eq!(kernel.observe(Scope::Node).unwrap(), after);
}

/// Nobody tells of it, and no table of netd's keeps others from it.
#[tokio::test]
async fn a_bridge_that_is_not_filtered_any_more_or_is_made_again_is_filtered_again() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let Attached::New { attachment, .. } = OwnNode::new("nd").attach(wanted(WEB, "a", 1)).unwrap() else { panic!() };
    let own = Attachment { namespace: "default".to_owned(), state: State::Attached, ..*attachment };
    let bridge = |key: &Key| matches!(key, Key::Bridge(_));
    let (key, object) = shared(&own, &BTreeSet::new()).into_iter().find(|(key, _)| bridge(key)).unwrap();
    let filtered = Key::Filtered(netd_config::LinkName::new("br0").unwrap());
    kernel.apply(&[Step::Create(key.clone(), object.clone())], None).unwrap();
    policies.enforce(files(FROM_FAR), vec![own]).await.unwrap();
    assert!(keys(&kernel).contains(&filtered), "{kernel}");
    kernel.apply(&[Step::Delete(filtered.clone())], None).unwrap();
    policies.filter_again().await.unwrap();
    assert!(keys(&kernel).contains(&filtered), "{kernel}");
    kernel.apply(&[Step::Delete(key.clone())], None).unwrap();
    policies.repair(vec![Step::Create(key, object)]).await.unwrap();
    assert!(keys(&kernel).contains(&filtered), "{kernel}");
}

fn both() -> String {
    [CLOSED, FROM_FAR].join("---\n")
}

const MORE: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: more, namespace: default}\n\
                    spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{port: 80}]}]}\n";

#[test]
fn what_was_made_for_a_kernel_is_read_back() {
    let text = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
                metadata: {name: all, annotations: {netd/log: 'true'}}\n\
                spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, \
                ingress: [{action: Accept, from: [{netd/nodes: {}}, {netd/networks: [192.0.2.0/24]}], protocols: \
                [{tcp: {destinationPort: {number: 80}}}, {sctp: {destinationPort: {number: 80}}}]}, \
                {action: Deny, from: [{netd/nodes: {}}]}], egress: [{action: Deny, to: [{namespaces: {}}]}]}\n";
    let audit = FROM_FAR.replace("name: from-far", "name: audit, annotations: {netd/audit: 'true'}");
    let mut compiler = Compiler::new("here");
    let (_, one) = far("far", "10.4.9.2");
    let name = SandboxName { namespace: "default".to_owned(), name: "web".to_owned() };
    let own = Sandbox { name, node: "here".to_owned(), known: None, ..one };
    let (_, other) = far("near", "10.4.9.3");
    for change in [Change::Sandbox(own), Change::Sandbox(other)] {
        compiler.update(change);
    }
    let node = Node { addresses: ["192.0.2.1".parse().unwrap()].into(), ..Node::default() };
    compiler.update(Change::Nodes([("here".to_owned(), node)].into()));
    let files = files(&[text, &audit, FROM_FAR].join("---\n"));
    assert_eq!(files.files[0].error, None);
    compiler.update(Change::Policies(files.policies().cloned().collect()));
    let made = objects::all(compiler.compiled());
    let is_read = |key: &Key| !matches!(key, Key::Isolated(..) | Key::Hairpin(..));
    let read: Objects = made.into_iter().filter(|(key, _)| is_read(key)).collect();
    for kind in [
        |key: &Key| matches!(key, Key::Class(_)),
        |key: &Key| matches!(key, Key::Block(..)),
        |key: &Key| matches!(key, Key::Pair(_, _, Some(Class::NODE))),
    ] {
        assert!(read.keys().any(kind), "{read:?}");
    }
    assert_eq!(objects::all(&objects::read_back(&read)), read);
}

#[test]
fn two_changes_of_one_object_are_one() {
    use objects::Fate::{Gone, New, Set};
    let [one, other] = [Object::Class(Class(1)), Object::Class(Class(2))];
    for (first, then, all) in [
        (New(one.clone()), Set(other.clone()), New(other.clone())),
        (New(one.clone()), Gone, Gone),
        (Set(one.clone()), Set(other.clone()), Set(other.clone())),
        (Set(one), Gone, Gone),
        (Gone, New(other.clone()), Set(other)),
    ] {
        assert_eq!(first.clone().then(then.clone()), all, "{first:?} {then:?}");
    }
}

fn flow(from: &str) -> Flow {
    let [opener, answerer] = [(from, 40_000), ("10.4.0.2", 80)].map(|(address, port)| (address.parse().unwrap(), port));
    Flow { protocol: 6, opener, answerer, asked: answerer }
}

/// Reading conntrack takes its time: others do not wait for it, and what is allowed again by then is not cut.
#[tokio::test]
async fn what_is_cut_is_decided_when_it_is_cut_and_nobody_else_waits() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let (denied, allowed) = (flow("192.0.2.9"), flow("198.51.100.9"));
    kernel.open(denied);
    kernel.open(allowed);
    let enforced = |text: &'static str| {
        let policies = policies.clone();
        tokio::spawn(async move { policies.enforce(files(text), vec![attachment("web", &[])]).await })
    };
    let held = kernel.hold_readers();
    let closed = enforced(CLOSED);
    tokio::task::yield_now().await;
    policies.verify().await.unwrap();
    let open = enforced("");
    tokio::task::yield_now().await;
    policies.verify().await.unwrap();
    assert!(!policies.is_any_in_force());
    assert!(!closed.is_finished() && !open.is_finished(), "told before it was looked what to cut");
    drop(held);
    closed.await.unwrap().unwrap();
    open.await.unwrap().unwrap();
    let all = BTreeSet::from([denied.opener.0, allowed.opener.0]);
    assert_eq!(kernel.flows(&all).unwrap(), [denied, allowed]);
    enforced(CLOSED).await.unwrap().unwrap();
    assert_eq!(kernel.flows(&all).unwrap(), [allowed]);
}

/// The one who was to be judged is not told of again, nor are the flows that were read.
#[tokio::test]
async fn what_a_failed_round_was_to_cut_the_next_one_cuts() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let mut own = attachment("web", &[]);
    own.namespace = "default".to_owned();
    policies.enforce(files(FROM_FAR), vec![own]).await.unwrap();
    let address = "10.4.9.2";
    let (mine, ends) = (flow(address), BTreeSet::from([address.parse().unwrap()]));
    let meet = |app: &str| policies.meet([far(app, address)].into(), BTreeSet::new());
    meet("far").await.unwrap();
    kernel.open(mine);
    kernel.fail_at(0);
    assert!(meet("near").await.is_err());
    assert_eq!(kernel.flows(&ends).unwrap(), [mine]);
    meet("near").await.unwrap();
    assert_eq!(kernel.flows(&ends).unwrap(), [], "goes on, and nobody is told");
}

#[tokio::test]
async fn who_waits_for_a_cut_hears_that_its_round_failed_and_the_next_one_cuts() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let mut own = attachment("web", &[]);
    own.namespace = "default".to_owned();
    policies.enforce(files(FROM_FAR), vec![own]).await.unwrap();
    let (stray, ends) = (flow("10.4.9.9"), BTreeSet::from(["10.4.9.9".parse().unwrap()]));
    kernel.open(stray);
    // What comes meanwhile is one round.
    let release = halted(&policies);
    let changed =
        policies.send(|done| Request::Others([far("far", "10.4.9.2")].into(), BTreeSet::new(), done)).unwrap();
    let cut = policies.send(|done| Request::Cut(vec![stray], vec![done])).unwrap();
    kernel.fail_at(0);
    drop(release);
    assert!(heard(changed).await.is_err());
    assert!(heard(cut).await.is_err(), "answered, and nothing cut");
    assert_eq!(kernel.flows(&ends).unwrap(), [stray]);
    policies.verify().await.unwrap();
    policies.ask(|_| ()).await.unwrap();
    assert_eq!(kernel.flows(&ends).unwrap(), []);
}

const FROM_FAR: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: from-far, namespace: default}\n\
                        spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: far}}}]}]}\n";

fn far(app: &str, address: &str) -> (SandboxName, Sandbox) {
    let record = SandboxRecord {
        namespace: "default".to_owned(),
        name: "far".to_owned(),
        addresses: [(address.parse().unwrap(), None)].into(),
        labels: [("app".to_owned(), Some(app.to_owned()))].into(),
        ..SandboxRecord::default()
    };
    let sandbox = sandbox(&NodeName::new("n2").unwrap(), &record);
    (sandbox.name.clone(), sandbox)
}

/// It is a peer, never a subject; what lost its permission with its label, its node or its address is cut, and nothing else.
#[tokio::test]
async fn sandboxes_of_other_nodes_come_change_and_go_by_elements() {
    let kernel = Arc::new(FakeKernel::new());
    let policies = policies(&kernel, Denied::Answered);
    let mut own = attachment("web", &[]);
    own.namespace = "default".to_owned();
    policies.enforce(files(FROM_FAR), vec![own]).await.unwrap();
    let needed = policies.needs().unwrap().borrow().clone().unwrap();
    assert!(needed.sandboxes && needed.labels.contains("app"));
    let before = keys(&kernel);
    let meet = async |all: &[(SandboxName, Sandbox)]| {
        policies.meet(all.iter().cloned().collect(), BTreeSet::new()).await.unwrap();
        // Told by changes, the kernel holds what it would from the start.
        let told = keys(&kernel);
        policies.verify().await.unwrap();
        assert_eq!(keys(&kernel), told);
        told
    };
    let (one, other) = ("10.4.9.2", "10.4.9.3");
    let with = meet(&[far("far", one)]).await;
    let new: Vec<&Key> = with.difference(&before).collect();
    assert!(new.iter().any(|key| matches!(key, Key::Class(at) if at.to_string() == one)), "{new:?}");
    assert!(!new.iter().any(|key| matches!(key, Key::Isolated(..))), "{new:?}");
    let (mine, theirs) = (flow(one), flow(other));
    let at_ends = BTreeSet::from([mine.opener.0, theirs.opener.0]);
    for (next, kept) in
        [(vec![far("near", one)], vec![]), (vec![far("far", other)], vec![theirs]), (Vec::new(), vec![])]
    {
        if kernel.flows(&at_ends).unwrap().is_empty() {
            kernel.open(mine);
            kernel.open(theirs);
        }
        meet(&next).await;
        let left: Vec<_> = kernel.flows(&BTreeSet::from([mine.opener.0])).unwrap();
        assert!(left.is_empty(), "{next:?}: goes on: {left:?}");
        let left = kernel.flows(&BTreeSet::from([theirs.opener.0])).unwrap();
        assert!(kept.iter().all(|flow| left.contains(flow)), "{next:?}: cut: {left:?}");
    }
    assert_eq!(keys(&kernel), before);
    assert_eq!(kernel.flows(&at_ends).unwrap(), []);
}
