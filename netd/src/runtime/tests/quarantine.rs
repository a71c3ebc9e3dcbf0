//! Who passes no packet, until when, and what that outlives; on the fake kernel and a fake containerd.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use netd_kernel::{Direction, Kernel, Key, Object, Port, Reach, Scope, Step, fixed_ruleset};

use super::{CRI, LABELS_DUE, Rig, known, lifecycle, missed};
use crate::attachment::{Attachment, Description, LabelState};
use crate::containerd::fake::Fake;
use crate::node::Wanted;
use crate::node::tests::{WEB, wanted};
use crate::policies::files::{PolicyFiles, Source};
use crate::policies::{Policies, Settings};
use crate::resync::{self, Exclusivity};

fn nerdctl() -> (String, String) {
    let hex = "ab".repeat(32);
    (format!("default-{hex}"), hex)
}

fn said(source: &str) -> Description {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    Description {
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        labels,
        image: String::new(),
        state: known(source),
    }
}

impl Rig {
    fn ports(&self) -> Vec<Port> {
        let objects = self.kernel.observe(Scope::Node).unwrap();
        let port = |object| if let Object::Veth(veth) = object { Some(veth.port) } else { None };
        objects.into_values().filter_map(port).collect()
    }

    async fn resync(&self) -> Vec<String> {
        resync::run(&self.lifecycle, Exclusivity::Shared, false).await.unwrap()
    }

    async fn opens(&self) -> Attachment {
        let open = self.until(|one| !one.quarantined).await;
        while self.ports() != [Port::Open] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        open
    }
}

#[tokio::test]
async fn labels_that_are_known_at_once_hold_nobody_back_and_neither_does_having_none() {
    let (container, hex) = nerdctl();
    for (container, is_known) in [(container.as_str(), true), ("default-web", false), ("1f1e-2a", false)] {
        let rig = Rig::new();
        let fake = Fake::start(&rig.socket());
        fake.container("default", &hex, &[("app", "web")]);
        rig.lifecycle.quarantine(true).await.unwrap();
        let attachment = rig.attach(container, "").await;
        assert_eq!(attachment.label_state == known("containerd"), is_known, "{container}");
        assert_eq!((attachment.quarantined, rig.ports()), (false, vec![Port::Open]), "{container}");
    }
}

#[tokio::test]
async fn without_containerd_its_containers_are_held_back_and_podmans_are_not() {
    for (container, args, is_held_back) in
        [(nerdctl().0, "", true), ("ab".repeat(32), CRI, true), ("ab".repeat(32), "", false)]
    {
        for quarantines in [true, false] {
            let rig = Rig::new();
            rig.lifecycle.quarantine(quarantines).await.unwrap();
            let attachment = rig.attach(&container, args).await;
            let expected = if is_held_back && quarantines { Port::Down } else { Port::Open };
            assert_eq!((attachment.quarantined, rig.ports()), (expected == Port::Down, vec![expected]), "{container}");
        }
    }
}

#[tokio::test]
async fn a_containerd_that_comes_back_or_wakes_up_ends_it() {
    let (container, hex) = nerdctl();
    for is_slow in [true, false] {
        let rig = Rig::new();
        rig.lifecycle.quarantine(true).await.unwrap();
        let slow = is_slow.then(|| Fake::start(&rig.socket()));
        if let Some(fake) = &slow {
            fake.records.lock().unwrap().delay = Duration::from_secs(30);
        }
        let attachment = rig.attach(&container, "").await;
        assert_eq!((attachment.quarantined, rig.ports()), (true, vec![Port::Down]));
        rig.runtime.ask_again(&rig.lifecycle, attachment.key.container.as_str());
        let fake = slow.unwrap_or_else(|| Fake::start(&rig.socket()));
        fake.container("default", &hex, &[("app", "web")]);
        fake.records.lock().unwrap().delay = Duration::ZERO;
        assert_eq!(rig.opens().await.labels["app"], "web");
    }
}

#[tokio::test]
async fn a_door_that_says_the_labels_ends_it() {
    let rig = Rig::new();
    rig.lifecycle.quarantine(true).await.unwrap();
    let pod = "ab".repeat(32);
    rig.attach(&pod, CRI).await;
    assert_eq!(rig.ports(), [Port::Down]);
    let described = rig.lifecycle.describe(pod.clone(), said("nri")).await.unwrap();
    assert_eq!((described[0].quarantined, rig.ports()), (false, vec![Port::Open]));
    // What is known stays known.
    let silence = Description { state: LabelState::None, ..Description::default() };
    rig.lifecycle.describe(pod, silence).await.unwrap();
    assert_eq!(rig.ports(), [Port::Open]);
}

#[tokio::test]
async fn it_outlives_netd_and_every_resync_and_yields_to_a_detach() {
    let rig = Rig::new();
    rig.lifecycle.quarantine(true).await.unwrap();
    let attachment = rig.attach(&nerdctl().0, "").await;
    let rig = Rig { lifecycle: lifecycle(rig.folder.path(), Arc::clone(&rig.kernel)), ..rig };
    // Nobody has said yet whether labels are waited for.
    assert_eq!(rig.resync().await, Vec::<String>::new());
    assert_eq!(rig.ports(), [Port::Down]);
    rig.lifecycle.quarantine(true).await.unwrap();
    // Somebody raises the link.
    let open = Attachment { quarantined: false, ..attachment.clone() };
    rig.lifecycle.executor.set_port(&open).unwrap();
    assert_eq!(rig.resync().await.len(), 1);
    assert_eq!(rig.ports(), [Port::Down]);
    assert_eq!(rig.resync().await, Vec::<String>::new());
    assert!(rig.lifecycle.detach(attachment.key, true).await.unwrap());
    assert_eq!((rig.ports(), rig.attachments().await.len()), (vec![], 0));
}

#[tokio::test]
async fn the_first_policy_holds_back_whose_labels_are_missing_and_the_last_lets_go() {
    let rig = Rig::new();
    rig.attach(&nerdctl().0, "").await;
    for (quarantines, expected) in [(true, Port::Down), (true, Port::Down), (false, Port::Open), (true, Port::Down)] {
        rig.lifecycle.quarantine(quarantines).await.unwrap();
        assert_eq!(rig.ports(), [expected]);
    }
    let due = SystemTime::now() + LABELS_DUE + Duration::from_secs(1);
    let told = missed(&rig.attachments().await, due);
    assert!(told[0].contains("not known, and it passes no packet until then: containerd has not said"), "{told:?}");
    assert!(told[0].contains("see that containerd answers at containerd_socket (netd.toml)"), "{told:?}");
    assert_eq!(rig.ports(), [Port::Down], "it does not end by being late");
}

const CLOSED: &str = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\n\
                      spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, \
                      ingress: [{action: Deny, from: [{netd/networks: [192.0.2.0/24]}]}]}\n";

/// A container without its labels, where a policy is in force for all that have some; and what will hold of it then.
async fn held_back_by_policy(network: &str) -> (Rig, Key) {
    let mut rig = Rig::new();
    let (key, ruleset) = fixed_ruleset();
    rig.kernel.apply(&[Step::Create(key, ruleset)], None).unwrap();
    let executor = Arc::clone(&rig.lifecycle.executor);
    let policies = Policies::start(executor, Settings { node: "here".to_owned(), ..Settings::default() }).unwrap();
    rig.lifecycle = rig.lifecycle.with_policies(policies);
    let source = Source { file: "a.yaml".to_owned(), text: Ok(CLOSED.to_owned()) };
    let files = Arc::new(PolicyFiles::default().next(&[source]));
    rig.lifecycle.policies.enforce(files, Vec::new()).await.unwrap();
    rig.lifecycle.quarantine(true).await.unwrap();
    let label_state = LabelState::Pending { source: "nri".to_owned(), due: SystemTime::now() };
    let pending = Wanted { label_state, ..wanted(network, "a", 1) };
    let pending = rig.lifecycle.attach(pending, rig.kernel.sandbox(1)).await.unwrap();
    let key = Key::Isolated(Direction::Ingress, Reach::Others, pending.leases[0].address.addr());
    assert!(pending.quarantined && !rig.has(&key) && !rig.passes(), "{}", rig.kernel);
    (rig, key)
}

impl Rig {
    fn has(&self, key: &Key) -> bool {
        self.kernel.observe(Scope::Node).unwrap().contains_key(key)
    }

    fn passes(&self) -> bool {
        let has_way =
            || self.kernel.observe(Scope::Node).unwrap().keys().any(|key| matches!(key, Key::SandboxRoute(..)));
        let is_bridged = self.kernel.observe(Scope::Node).unwrap().keys().any(|key| matches!(key, Key::Bridge(_)));
        if is_bridged { self.ports() != [Port::Down] } else { has_way() }
    }
}

const ROUTED: &str = r#"{"cniVersion":"1.0.0","name":"routed","type":"ptp",
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.6.0.0/24"}]]}}"#;

#[tokio::test]
async fn no_resync_lets_go_whom_policies_could_not_be_told_of() {
    for network in [WEB, ROUTED] {
        let (rig, own) = held_back_by_policy(network).await;
        rig.kernel.refuse(own.clone());
        assert!(!rig.lifecycle.describe("a".to_owned(), said("nri")).await.unwrap()[0].quarantined);
        for watch in [Exclusivity::Shared, Exclusivity::Exclusive] {
            assert_eq!(resync::run(&rig.lifecycle, watch, false).await.unwrap().len(), 1);
            assert!(!rig.passes(), "{}", rig.kernel);
        }
        let key = rig.attachments().await.remove(0).key;
        assert!(rig.lifecycle.mend(key, rig.kernel.sandbox(1)).await.is_err());
        assert!(!rig.passes(), "{}", rig.kernel);
        rig.kernel.heal();
        assert_eq!(rig.resync().await.len(), 1);
        assert!(rig.passes() && rig.has(&own), "{}", rig.kernel);
        assert_eq!(rig.resync().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn without_a_ruleset_nobody_is_let_go() {
    let (rig, own) = held_back_by_policy(WEB).await;
    rig.kernel.apply(&[Step::Delete(Key::Ruleset)], None).unwrap();
    for _ in 0..2 {
        // The first finds that what changed cannot be written, the second that there is nothing to compare with.
        rig.lifecycle.describe("a".to_owned(), said("nri")).await.unwrap();
        assert!(!rig.passes(), "{}", rig.kernel);
    }
    rig.resync().await;
    assert!(rig.passes() && rig.has(&own), "{}", rig.kernel);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nobody_described_and_held_back() {
    let (rig, _) = held_back_by_policy(WEB).await;
    let alone = rig.lifecycle.turns.whole_node().await;
    let described = rig.lifecycle.describe("a".to_owned(), said("nri"));
    tokio::time::timeout(Duration::from_millis(50), described).await.unwrap_err();
    drop(alone);
    while !rig.passes() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
