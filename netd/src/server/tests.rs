//! The API on the fake kernel: what a request does where the kernel refuses.

use std::path::Path;
use std::sync::Arc;

use netd_api::v1::GcRequest;
use netd_kernel::FakeKernel;

use super::{PolicyDesk, Service, Unmet};
use crate::allowlist::Allowlist;
use crate::executor::Executor;
use crate::journal::Journal;
use crate::lifecycle::Lifecycle;
use crate::networks::Networks;
use crate::node::Node;
use crate::node::tests::wanted;
use crate::owner;
use crate::reservations::Reservations;
use crate::runtime::Runtime;

const WEB: &str = r#"{"cniVersion":"1.1.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,"ipMasq":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

/// A service that has attached nothing, and its kernel.
pub(super) fn service(folder: &Path) -> (Service<FakeKernel>, Arc<FakeKernel>) {
    let (journal, _) = Journal::open(&folder.join("journal"), "boot").unwrap();
    let kernel = Arc::new(FakeKernel::new());
    let executor = Arc::new(Executor::new(Arc::clone(&kernel), std::collections::BTreeSet::new()));
    let service = Service {
        lifecycle: Lifecycle::new(owner::start(Node::new("nd"), journal), executor),
        reservations: Arc::new(Reservations::default()),
        networks: Networks::default(),
        runtime: Runtime::default(),
        desk: PolicyDesk::default(),
        unmet: Unmet::default(),
        sysctls: Allowlist::default(),
        instance: "test".to_owned(),
    };
    (service, kernel)
}

#[tokio::test]
async fn a_collection_takes_nothing_that_is_being_attached_or_was_attached_since() {
    let folder = tempfile::tempdir().unwrap();
    let (service, kernel) = service(folder.path());
    let seen = service.lifecycle.attach(wanted(WEB, "a", 1), kernel.sandbox(1)).await.unwrap();
    service.lifecycle.attach(wanted(WEB, "a", 2), kernel.sandbox(2)).await.unwrap();
    assert!(!service.lifecycle.detach_exactly(seen).await.unwrap());
    service.lifecycle.owner.attach(wanted(WEB, "b", 3)).await.unwrap();
    let mut request = GcRequest::new();
    request.config = r#"{"name":"web","cni.dev/valid-attachments":[]}"#.into();
    assert_eq!(service.collect(&request).await.unwrap().removed, 1);
    let left = service.lifecycle.owner.snapshot().await.unwrap().attachments;
    let left: Vec<String> = left.iter().map(|one| one.key.container.to_string()).collect();
    assert_eq!(left, ["b"]);
}

#[tokio::test]
async fn a_collection_goes_on_after_one_that_the_kernel_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let (service, kernel) = service(folder.path());
    for (container, netns) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        service.lifecycle.attach(wanted(WEB, container, netns), kernel.sandbox(netns)).await.unwrap();
    }
    let mut request = GcRequest::new();
    let listed = r#"{"name":"web","cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}"#;
    request.config = listed.into();
    // The first one's port is shut, and then nothing of the ruleset's is taken away.
    kernel.fail_at(1);
    let collected = service.collect(&request).await.unwrap();
    assert_eq!((collected.removed, collected.failures.len()), (2, 1), "{collected:?}");
    let failure = collected.failure().unwrap();
    assert!(failure.message.contains("fault injected"), "{failure:?}");
    let left = service.lifecycle.owner.snapshot().await.unwrap().attachments;
    let left: Vec<String> = left.iter().map(|one| one.key.container.to_string()).collect();
    assert_eq!(left, ["c"]);
}
