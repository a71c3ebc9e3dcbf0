//! Owner, executor and resync together on the fake kernel: whatever fails wherever, record and kernel agree afterwards.

mod crash;
mod faults;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netd_config::{LinkName, PortMapping, Protocol};
use netd_kernel::{
    Entrance, FakeKernel, Hop, Kernel, Key, NetnsId, Object, Objects, Scope, Step, Tunnel, fixed_ruleset,
};

use super::{Exclusivity, bury, compare, run};
use crate::attachment::{Attachment, State};
use crate::executor::Executor;
use crate::journal::Journal;
use crate::lifecycle::{Lifecycle, LifecycleError};
use crate::node::tests::wanted;
use crate::node::{Attached, Extension, Follower, Node};
use crate::owner::{self, Snapshot};
use crate::tombstones::Tombstones;

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

const ROUTED: &str = r#"{"cniVersion":"1.0.0","name":"routed","type":"ptp","ipMasq":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.6.0.0/24"}]]}}"#;

const VLAN: &str = r#"{"cniVersion":"1.0.0","name":"vlan","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,"vlan":10,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.5.0.0/24"}]]}}"#;

struct Rig {
    kernel: Arc<FakeKernel>,
    lifecycle: Lifecycle<FakeKernel>,
}

/// netd as it starts after a crash: the journal is all it knows.
fn start(folder: &Path, kernel: &Arc<FakeKernel>) -> Rig {
    let (journal, records) = Journal::open(&folder.join("journal"), "boot").unwrap();
    let node = Node::replay("nd", records);
    let executor = Arc::new(Executor::new(Arc::clone(kernel), node.guarded().clone()));
    Rig { kernel: Arc::clone(kernel), lifecycle: Lifecycle::new(owner::start(node, journal), executor) }
}

async fn restarted(folder: &Path, kernel: &Arc<FakeKernel>) -> Rig {
    let rig = start(folder, kernel);
    run(&rig.lifecycle, Exclusivity::Exclusive, false).await.unwrap();
    rig
}

impl Rig {
    async fn attach(&self, container: &str, netns: u64) -> Result<Attachment, LifecycleError> {
        self.lifecycle.attach(wanted(WEB, container, netns), self.kernel.sandbox(netns)).await
    }

    /// Ports of the kernel's own choosing are not asked for: the suite runs beside others. Port 0 reserves any.
    async fn publish(&self, container: &str, netns: u64, host: u16) -> Result<Attachment, LifecycleError> {
        let key = wanted(WEB, container, netns).key;
        let follower = Follower { key, netns: NetnsId(netns), netns_path: String::new(), addresses: Vec::new() };
        // SCTP, so that no socket of this machine is opened.
        let port = PortMapping { host, container: 80, protocol: Protocol::Sctp, host_ip: None };
        self.lifecycle.extend(follower, Extension::Ports(vec![port]), self.kernel.sandbox(netns)).await
    }

    fn count(&self, is: impl Fn(&Key) -> bool) -> usize {
        self.kernel.observe(Scope::Node).unwrap().keys().filter(|key| is(key)).count()
    }

    async fn agrees(&self, attachments: usize, published: usize) {
        let snapshot = self.lifecycle.owner.snapshot().await.unwrap();
        assert_eq!(snapshot.attachments.len(), attachments);
        assert!(snapshot.attachments.iter().all(|attachment| attachment.state == State::Attached));
        assert!(snapshot.draining.is_empty());
        assert_eq!(snapshot.leases, attachments);
        assert_eq!(self.count(|key| matches!(key, Key::Veth(_))), attachments, "{}", self.kernel);
        assert_eq!(self.count(|key| matches!(key, Key::Masquerade(..))), attachments, "{}", self.kernel);
        assert_eq!(self.count(|key| matches!(key, Key::Published(_))), published, "{}", self.kernel);
        for watch in [Exclusivity::Shared, Exclusivity::Exclusive] {
            let again = run(&self.lifecycle, watch, false).await.unwrap();
            assert!(again.is_empty(), "a second resync has work: {again:?}");
        }
    }
}

/// Steps of an attach on the fake kernel: ruleset, forwarding and bridge stand, so masquerade, veth, interface; more are
/// tried, so that a step that is added is tried too.
const STEPS: usize = 8;

#[tokio::test]
async fn a_fault_at_every_step_of_an_attach_leaves_nothing() {
    for fault in 0..STEPS {
        let folder = tempfile::tempdir().unwrap();
        let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
        rig.attach("stays", 1).await.unwrap();
        rig.kernel.fail_at(fault);
        let attached = rig.attach("fails", 2).await;
        rig.kernel.heal();
        rig.agrees(if attached.is_ok() { 2 } else { 1 }, 0).await;
    }
}

#[tokio::test]
async fn a_fault_at_every_step_of_a_routed_attach_leaves_nothing() {
    for fault in 0..STEPS {
        let folder = tempfile::tempdir().unwrap();
        let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
        let attach = async |container, netns| {
            rig.lifecycle.attach(wanted(ROUTED, container, netns), rig.kernel.sandbox(netns)).await
        };
        attach("stays", 1).await.unwrap();
        rig.kernel.fail_at(fault);
        let attached = attach("fails", 2).await;
        rig.kernel.heal();
        let count = if attached.is_ok() { 2 } else { 1 };
        rig.agrees(count, 0).await;
        assert_eq!(rig.count(|key| matches!(key, Key::SandboxRoute(..))), count, "{}", rig.kernel);
    }
}

#[tokio::test]
async fn a_vlans_gateway_is_there_as_long_as_somebody_is_in_the_vlan() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Arc::new(FakeKernel::new());
    let rig = restarted(folder.path(), &kernel).await;
    let gateway = || Key::GatewayLink(LinkName::new("br0.10").unwrap());
    let has = |key: &Key| rig.kernel.observe(Scope::Node).unwrap().contains_key(key);
    let attach =
        async |container, netns| rig.lifecycle.attach(wanted(VLAN, container, netns), rig.kernel.sandbox(netns)).await;
    let detach = async |container| rig.lifecycle.detach(wanted(VLAN, container, 0).key, true).await.unwrap();
    let first = attach("a", 1).await.unwrap();
    assert_eq!(first.facts.gateway_mac.len(), 17);
    attach("b", 2).await.unwrap();
    let before = rig.kernel.observe(Scope::Node).unwrap();
    detach("a").await;
    assert!(has(&gateway()));
    detach("b").await;
    assert!(!has(&gateway()) && !has(&Key::Admitted(LinkName::new("br0.10").unwrap())), "{}", rig.kernel);
    // One that a netd left behind goes at the next start; one that is needed and gone comes back.
    attach("a", 1).await.unwrap();
    attach("b", 2).await.unwrap();
    rig.kernel.apply(&[Step::Delete(gateway())], None).unwrap();
    let Object::GatewayLink(link) = before[&gateway()].clone() else { panic!() };
    let stray = Key::GatewayLink(LinkName::new("br0.20").unwrap());
    rig.kernel.apply(&[Step::Create(stray.clone(), Object::GatewayLink(link))], None).unwrap();
    assert_eq!(run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap().len(), 2);
    assert!(has(&gateway()) && !has(&stray), "{}", rig.kernel);
}

#[tokio::test]
async fn where_the_kernel_cannot_keep_vlans_apart_nothing_is_left_of_an_attach() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::without_vlan_filtering())).await;
    let error = rig.lifecycle.attach(wanted(VLAN, "a", 1), rig.kernel.sandbox(1)).await.unwrap_err();
    let told = crate::reply::lifecycle_failure(&error).message;
    assert!(told.contains("br0") && told.contains("CONFIG_BRIDGE_VLAN_FILTERING"), "{told}");
    rig.agrees(0, 0).await;
}

#[tokio::test]
async fn ways_that_somebody_took_away_come_back_and_strange_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    let attached = rig.lifecycle.attach(wanted(ROUTED, "a", 1), rig.kernel.sandbox(1)).await.unwrap();
    let before = rig.kernel.observe(Scope::Node).unwrap();
    let link = attached.wiring.unwrap().host_link;
    let address = |text: &str| text.parse().unwrap();
    let way = |text| Key::SandboxRoute(link.clone(), address(text));
    let gateway = Key::Gateway(link.clone(), address("10.6.0.1"));
    assert!(before.contains_key(&way("10.6.0.2")) && before.contains_key(&gateway));
    let strange = Step::Create(way("10.6.0.77"), Object::Set);
    rig.kernel.apply(&[Step::Delete(way("10.6.0.2")), Step::Delete(gateway), strange], None).unwrap();
    assert_eq!(
        run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap().len(),
        2,
        "what stands is not judged while others work"
    );
    assert_eq!(rig.kernel.observe(Scope::Node).unwrap(), before);
}

#[tokio::test]
async fn a_routed_link_that_was_put_into_a_bridge_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    rig.attach("b", 2).await.unwrap();
    let routed = rig.lifecycle.attach(wanted(ROUTED, "a", 1), rig.kernel.sandbox(1)).await.unwrap();
    assert!(!rig.lifecycle.mend(routed.key.clone(), rig.kernel.sandbox(1)).await.unwrap(), "it is whole");
    let link = Key::Veth(routed.wiring.clone().unwrap().host_link);
    let Some(Object::Veth(mut veth)) = rig.kernel.observe(Scope::Node).unwrap().remove(&link) else { panic!() };
    veth.bridge = Some(LinkName::new("br0").unwrap());
    rig.kernel
        .apply(&[Step::Delete(link.clone()), Step::Create(link, Object::Veth(veth))], Some(&rig.kernel.sandbox(1)))
        .unwrap();
    assert!(rig.lifecycle.mend(routed.key.clone(), rig.kernel.sandbox(1)).await.unwrap());
    let anew = rig.lifecycle.owner.one(routed.key).await.unwrap().unwrap();
    assert_eq!((anew.leases, anew.facts.mac), (routed.leases, routed.facts.mac));
    assert_ne!(anew.wiring.unwrap().host_link, routed.wiring.unwrap().host_link);
}

#[tokio::test]
async fn a_fault_at_every_step_of_an_extension_is_taken_back() {
    for fault in 0..STEPS {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::new());
        let rig = restarted(folder.path(), &kernel).await;
        rig.attach("a", 1).await.unwrap();
        kernel.fail_at(fault);
        let extended = rig.publish("a", 1, 8080).await;
        kernel.heal();
        rig.agrees(1, usize::from(extended.is_ok())).await;
        restarted(folder.path(), &kernel).await.agrees(1, usize::from(extended.is_ok())).await;
    }
}

#[tokio::test]
async fn a_sandbox_that_died_without_a_detach_gives_its_address_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    rig.attach("a", 1).await.unwrap();
    rig.publish("a", 1, 8080).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    rig.kernel.kill_sandbox(NetnsId(1));
    let told = run(&rig.lifecycle, Exclusivity::Shared, true).await.unwrap();
    assert_eq!(told, ["release a/eth0 on network web: its sandbox is gone"]);
    assert_eq!(rig.lifecycle.owner.snapshot().await.unwrap().leases, 2, "a dry run changes nothing");
    run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap();
    rig.agrees(1, 0).await;
}

#[tokio::test]
async fn an_attach_under_way_survives_a_resync() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    let Attached::New { attachment, .. } = rig.lifecycle.owner.attach(wanted(WEB, "a", 1)).await.unwrap() else {
        panic!()
    };
    assert!(run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap().is_empty());
    let facts = rig.lifecycle.executor.wire(&attachment, &rig.kernel.sandbox(1)).unwrap();
    assert!(run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap().is_empty());
    rig.lifecycle.owner.wired(attachment.key, facts, None).await.unwrap();
    rig.agrees(1, 0).await;
}

#[tokio::test]
async fn rules_that_somebody_took_away_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    rig.attach("a", 1).await.unwrap();
    rig.publish("a", 1, 8080).await.unwrap();
    rig.kernel.apply(&[Step::Replace(Key::Ruleset, Object::Ruleset(0))], None).unwrap();
    assert_eq!(rig.count(|key| matches!(key, Key::Published(_))), 0);
    run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap();
    rig.agrees(1, 1).await;
}

/// Their guards went with the ruleset, and nobody has said yet who the peers are.
#[test]
fn a_ruleset_that_is_made_again_guards_the_tunnels_that_stand() {
    let entrances = [Entrance::Ipip([192, 0, 2, 1].into()), Entrance::Vxlan([192, 0, 2, 1].into(), 4_789)];
    let tunnels = entrances.map(|entrance| {
        let tunnel = Tunnel { entrance, mtu: 1_400, addresses: Vec::new() };
        (Key::Tunnel(entrance.encapsulation()), Object::Tunnel(tunnel))
    });
    let mut observed: Objects = tunnels.into();
    observed.insert(Key::FarEnd([192, 0, 2, 2].into()), Object::Set);
    observed.insert(Key::Route("10.4.3.0/24".parse().unwrap()), Object::from(Hop::Ipip([192, 0, 2, 3].into())));
    let nothing = Objects::new();
    let made = |observed: &Objects, fleet: Option<&Objects>| -> BTreeSet<Key> {
        let nobody = Snapshot::default();
        let steps = compare(&nobody, &nobody, observed, Exclusivity::Exclusive, fleet).steps;
        steps.iter().filter(|step| !matches!(step, Step::Delete(_))).map(|step| step.key().clone()).collect()
    };
    let peers = [2, 3].map(|number| Key::Peer([192, 0, 2, number].into()));
    let guards = peers.into_iter().chain([Key::Connected]).chain(entrances.map(Key::PeersOnly));
    let anew: BTreeSet<Key> = guards.chain([Key::Ruleset]).collect();
    assert_eq!(made(&observed, Some(&nothing)), anew);
    observed.insert(Key::Ruleset, Object::Ruleset(0));
    assert_eq!(made(&observed, Some(&nothing)), anew, "another netd's");
    assert_eq!(made(&observed, None), [Key::Ruleset].into(), "no fleet");
    observed.extend([fixed_ruleset()]);
    assert_eq!(made(&observed, Some(&nothing)), [].into(), "the fleet sees to it");
}

#[tokio::test]
async fn many_at_once_get_many_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Arc::new(restarted(folder.path(), &Arc::new(FakeKernel::new())).await);
    let attaching: Vec<_> = (1..=64_u64)
        .map(|number| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.attach(&format!("c{number}"), number).await })
        })
        .collect();
    for attach in attaching {
        attach.await.unwrap().unwrap();
    }
    rig.agrees(64, 0).await;
}

#[tokio::test]
async fn the_same_request_many_times_at_once_is_one_attachment() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Arc::new(restarted(folder.path(), &Arc::new(FakeKernel::new())).await);
    let attaching: Vec<_> = (1..=16)
        .map(|_| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.attach("a", 1).await.unwrap().leases })
        })
        .collect();
    for attach in attaching {
        assert_eq!(attach.await.unwrap()[0].address.to_string(), "10.4.0.2/24");
    }
    rig.agrees(1, 0).await;
}

#[tokio::test]
async fn the_same_key_in_another_sandbox_takes_address_and_port_along() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    rig.attach("a", 1).await.unwrap();
    rig.publish("a", 1, 8080).await.unwrap();
    let moved = rig.attach("a", 2).await.unwrap();
    assert_eq!(moved.leases[0].address.to_string(), "10.4.0.2/24");
    rig.publish("a", 2, 8080).await.unwrap();
    // The old link is deleted behind the answer.
    while !rig.lifecycle.owner.snapshot().await.unwrap().draining.is_empty() {
        tokio::task::yield_now().await;
    }
    rig.agrees(1, 1).await;
}

#[tokio::test]
async fn tombstones_are_carried_out_once_and_broken_ones_are_left_to_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (rig, stones) = with_tombstone(folder.path()).await;
    std::fs::write(stones.join("b.json"), "{").unwrap();
    bury(&rig.lifecycle).await.unwrap();
    assert!(!stones.join(OWN).exists());
    assert!(stones.join("b.json").exists());
    rig.agrees(0, 0).await;
}

const OWN: &str = "web:a:eth0.json";

/// An attachment, and the detach of it that nobody could tell netd of.
async fn with_tombstone(folder: &Path) -> (Rig, PathBuf) {
    let mut rig = restarted(folder, &Arc::new(FakeKernel::new())).await;
    let stones = folder.join("tombstones");
    rig.lifecycle = rig.lifecycle.with_tombstones(Tombstones::new(stones.clone()));
    rig.attach("a", 1).await.unwrap();
    std::fs::create_dir(&stones).unwrap();
    std::fs::write(stones.join(OWN), r#"{"network":"web","container_id":"a","interface":"eth0"}"#).unwrap();
    (rig, stones)
}

#[tokio::test]
async fn an_attach_after_a_tombstone_is_not_taken_away_by_it() {
    for netns in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let (rig, stones) = with_tombstone(folder.path()).await;
        let before = rig.lifecycle.owner.snapshot().await.unwrap().attachments.remove(0);
        let stale = rig.lifecycle.tombstones.all().remove(0);
        let anew = rig.attach("a", netns).await.unwrap();
        assert_ne!(anew.wiring, before.wiring, "the old one was asked to go");
        assert_eq!(anew.leases, before.leases);
        assert!(!stones.join(OWN).exists());
        // One who has read the directory before comes too late.
        assert!(!rig.lifecycle.carry_out(anew.key, stale).await.unwrap());
        bury(&rig.lifecycle).await.unwrap();
        while !rig.lifecycle.owner.snapshot().await.unwrap().draining.is_empty() {
            tokio::task::yield_now().await;
        }
        rig.agrees(1, 0).await;
    }
}

#[tokio::test]
async fn a_detach_may_be_repeated_and_finished_twice() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    let attachment = rig.attach("a", 1).await.unwrap();
    let gone = rig.lifecycle.owner.drain(attachment.key.clone()).await.unwrap().unwrap();
    rig.lifecycle.finish(gone.clone()).await.unwrap();
    rig.lifecycle.finish(gone).await.unwrap();
    assert!(!rig.lifecycle.detach(attachment.key, false).await.unwrap());
    rig.agrees(0, 0).await;
}

/// Somebody takes the link of an attachment away.
fn take_link(rig: &Rig, attachment: &Attachment) {
    let link = attachment.wiring.as_ref().unwrap().host_link.clone();
    rig.kernel.apply(&[Step::Delete(Key::Veth(link))], None).unwrap();
}

#[tokio::test]
async fn a_damaged_attachment_is_made_again_by_a_new_link_and_a_whole_one_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let rig = restarted(folder.path(), &Arc::new(FakeKernel::new())).await;
    let before = rig.attach("a", 1).await.unwrap();
    rig.publish("a", 1, 8080).await.unwrap();
    let key = before.key.clone();
    assert!(!rig.lifecycle.mend(key.clone(), rig.kernel.sandbox(1)).await.unwrap());
    take_link(&rig, &before);
    assert!(!rig.lifecycle.mend(key.clone(), rig.kernel.sandbox(2)).await.unwrap(), "another sandbox");
    assert!(rig.lifecycle.mend(key.clone(), rig.kernel.sandbox(1)).await.unwrap());
    let after = rig.lifecycle.owner.one(key).await.unwrap().unwrap();
    assert_eq!((&after.leases, after.ports.len(), after.netns), (&before.leases, 1, before.netns));
    assert_ne!(after.wiring.unwrap().host_link, before.wiring.unwrap().host_link);
    while !rig.lifecycle.owner.snapshot().await.unwrap().draining.is_empty() {
        tokio::task::yield_now().await;
    }
    rig.agrees(1, 1).await;
}

#[tokio::test]
async fn a_fault_at_every_step_of_a_mending_leaves_nothing_half() {
    for fault in 0..STEPS {
        for is_crash in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let kernel = Arc::new(FakeKernel::new());
            let mut rig = restarted(folder.path(), &kernel).await;
            rig.attach("stays", 1).await.unwrap();
            let damaged = rig.attach("a", 2).await.unwrap();
            take_link(&rig, &damaged);
            if is_crash {
                kernel.die_at(fault)
            } else {
                kernel.fail_at(fault)
            }
            let mended = rig.lifecycle.mend(damaged.key, kernel.sandbox(2)).await;
            kernel.heal();
            if is_crash {
                drop(rig);
                rig = restarted(folder.path(), &kernel).await;
            } else {
                run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap();
            }
            let left = rig.lifecycle.owner.snapshot().await.unwrap().attachments.len();
            assert!(left == 2 || mended.is_err(), "fault {fault}: {mended:?}");
            rig.agrees(left, 0).await;
        }
    }
}
