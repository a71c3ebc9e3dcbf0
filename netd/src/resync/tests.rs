//! Owner, executor and resync together on the fake kernel: whatever fails wherever, record and kernel agree afterwards.

use std::path::Path;
use std::sync::Arc;

use netd_kernel::{FakeKernel, Kernel, Key, NetnsId, Scope};

use super::{bury, reap, run};
use crate::attachment::{Attachment, State};
use crate::executor::Executor;
use crate::journal::Journal;
use crate::node::tests::wanted;
use crate::node::{Attached, Node};
use crate::owner::{self, OwnerHandle};

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

struct Rig {
    kernel: Arc<FakeKernel>,
    executor: Arc<Executor<FakeKernel>>,
    owner: OwnerHandle,
}

/// netd as it starts after a crash: the journal is all it knows.
fn start(folder: &Path, kernel: &Arc<FakeKernel>) -> Rig {
    let (journal, records) = Journal::open(&folder.join("journal"), "boot").unwrap();
    let mut node = Node::new("nd");
    records.into_iter().for_each(|record| node.take(record));
    let executor = Arc::new(Executor::new(Arc::clone(kernel)));
    Rig { kernel: Arc::clone(kernel), executor, owner: owner::start(node, journal) }
}

impl Rig {
    async fn attach(&self, container: &str, netns: u64) -> Result<Attachment, String> {
        let attached = self.owner.attach(wanted(WEB, container, netns)).await.map_err(|error| error.to_string())?;
        let Attached::New { attachment, replaces } = attached else { panic!("already there") };
        assert!(replaces.is_none());
        let facts = self.executor.wire(&attachment, &self.kernel.sandbox(netns)).map_err(|error| error.to_string())?;
        self.owner.wired(attachment.key, facts).await.map_err(|error| error.to_string())
    }

    async fn veths(&self) -> usize {
        let observed = self.kernel.observe(Scope::Node).unwrap();
        observed.keys().filter(|key| matches!(key, Key::Veth(_))).count()
    }

    async fn agrees(&self, attachments: usize) {
        let snapshot = self.owner.snapshot().await.unwrap();
        assert_eq!(snapshot.attachments.len(), attachments);
        assert!(snapshot.attachments.iter().all(|attachment| attachment.state == State::Attached));
        assert!(snapshot.draining.is_empty());
        assert_eq!(snapshot.leases, attachments);
        assert_eq!(self.veths().await, attachments, "{}", self.kernel);
        let again = run(&self.owner, &self.executor, false, false).await.unwrap();
        assert!(again.is_empty(), "a second resync has work: {again:?}");
    }
}

#[tokio::test]
async fn a_crash_at_every_step_of_an_attach_leaves_nothing_after_resync() {
    for fault in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::new());
        let rig = start(folder.path(), &kernel);
        rig.attach("stays", 1).await.unwrap();
        kernel.fail_at(fault);
        let attached = rig.attach("dies", 2).await;
        kernel.heal();
        // The daemon dies here: nobody cleans up, nobody was answered unless the attach was whole.
        let rig = start(folder.path(), &kernel);
        run(&rig.owner, &rig.executor, true, false).await.unwrap();
        rig.agrees(if attached.is_ok() { 2 } else { 1 }).await;
    }
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_detach_finishes_it_after_resync() {
    for steps_done in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::new());
        let rig = start(folder.path(), &kernel);
        rig.attach("stays", 1).await.unwrap();
        let goes = rig.attach("goes", 2).await.unwrap();
        let gone = rig.owner.drain(goes.key.clone()).await.unwrap().unwrap();
        if steps_done >= 1 {
            rig.executor.close(&gone).unwrap();
        }
        if steps_done >= 2 {
            rig.executor.unlink(&gone).unwrap();
        }
        let rig = start(folder.path(), &kernel);
        run(&rig.owner, &rig.executor, true, false).await.unwrap();
        rig.agrees(1).await;
    }
}

#[tokio::test]
async fn a_sandbox_that_died_without_a_detach_gives_its_address_back() {
    let folder = tempfile::tempdir().unwrap();
    let rig = start(folder.path(), &Arc::new(FakeKernel::new()));
    rig.attach("a", 1).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    rig.kernel.kill_sandbox(NetnsId(1));
    let told = run(&rig.owner, &rig.executor, false, true).await.unwrap();
    assert_eq!(told, ["release a/eth0 on network web: its sandbox is gone"]);
    assert_eq!(rig.owner.snapshot().await.unwrap().leases, 2, "a dry run changes nothing");
    run(&rig.owner, &rig.executor, false, false).await.unwrap();
    rig.agrees(1).await;
}

#[tokio::test]
async fn an_attach_under_way_survives_a_resync() {
    let folder = tempfile::tempdir().unwrap();
    let rig = start(folder.path(), &Arc::new(FakeKernel::new()));
    let Attached::New { attachment, .. } = rig.owner.attach(wanted(WEB, "a", 1)).await.unwrap() else { panic!() };
    run(&rig.owner, &rig.executor, false, false).await.unwrap();
    let facts = rig.executor.wire(&attachment, &rig.kernel.sandbox(1)).unwrap();
    run(&rig.owner, &rig.executor, false, false).await.unwrap();
    rig.owner.wired(attachment.key, facts).await.unwrap();
    rig.agrees(1).await;
}

#[tokio::test]
async fn many_at_once_get_many_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Arc::new(start(folder.path(), &Arc::new(FakeKernel::new())));
    let attaching: Vec<_> = (1..=64_u64)
        .map(|number| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move { rig.attach(&format!("c{number}"), number).await })
        })
        .collect();
    for attach in attaching {
        attach.await.unwrap().unwrap();
    }
    rig.agrees(64).await;
}

#[tokio::test]
async fn tombstones_are_carried_out_once_and_broken_ones_are_left_to_be_seen() {
    let folder = tempfile::tempdir().unwrap();
    let rig = start(folder.path(), &Arc::new(FakeKernel::new()));
    rig.attach("a", 1).await.unwrap();
    let stones = folder.path().join("tombstones");
    std::fs::create_dir(&stones).unwrap();
    std::fs::write(stones.join("a.json"), r#"{"network":"web","container_id":"a","interface":"eth0"}"#).unwrap();
    std::fs::write(stones.join("b.json"), "{").unwrap();
    bury(&rig.owner, &rig.executor, &stones).await.unwrap();
    assert!(!stones.join("a.json").exists());
    assert!(stones.join("b.json").exists());
    rig.agrees(0).await;
}

#[tokio::test]
async fn a_link_is_reaped_as_often_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let rig = start(folder.path(), &Arc::new(FakeKernel::new()));
    let attachment = rig.attach("a", 1).await.unwrap();
    let gone = rig.owner.drain(attachment.key.clone()).await.unwrap().unwrap();
    reap(&rig.owner, &rig.executor, gone.clone()).await.unwrap();
    reap(&rig.owner, &rig.executor, gone).await.unwrap();
    assert!(rig.owner.drain(attachment.key).await.unwrap().is_none());
    rig.agrees(0).await;
    let left = rig.kernel.observe(Scope::Node).unwrap();
    assert!(left.keys().all(|key| matches!(key, Key::Bridge(_) | Key::Forwarding(_))), "{left:?}");
}
