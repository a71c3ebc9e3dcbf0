//! What an attach learns from containerd, and what is learnt behind it; on the fake kernel and a fake containerd.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use netd_kernel::{FakeKernel, LinuxKernel};
use nix::sched::{CloneFlags, unshare};

mod quarantine;

use super::{LABELS_DUE, LOOK_UP, LOOK_UP_BEHIND, Runtime, missed};
use crate::attachment::{Attachment, LabelState};
use crate::census::GRACE;
use crate::containerd::fake::{A_WHILE, Fake};
use crate::containerd::tests::POD;
use crate::executor::Executor;
use crate::journal::Journal;
use crate::lifecycle::Lifecycle;
use crate::node::tests::{WEB, wanted};
use crate::node::{Node, What};
use crate::owner;

const CRI: &str = "IgnoreUnknown=1;K8S_POD_UID=u";
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    folder: tempfile::TempDir,
    kernel: Arc<FakeKernel>,
    lifecycle: Lifecycle<FakeKernel>,
    runtime: Runtime,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut runtime = Runtime::new(folder.path().join("c.sock").to_str().unwrap());
        // A busy machine may take longer for an answer than an attach waits.
        runtime.look_up = PATIENCE;
        let kernel = Arc::new(FakeKernel::new());
        let lifecycle = lifecycle(folder.path(), Arc::clone(&kernel));
        Self { folder, kernel, lifecycle, runtime }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }

    /// As the server does it.
    async fn attach(&self, container: &str, cni_args: &str) -> Attachment {
        self.attach_in(container, cni_args, 1).await
    }

    async fn attach_in(&self, container: &str, cni_args: &str, netns: u64) -> Attachment {
        let mut wanted = wanted(WEB, container, netns);
        let question = self.runtime.question(container, cni_args).unwrap();
        wanted.label_state = question.pending(SystemTime::now());
        let asked = tokio::spawn(question.ask());
        let answer = async { asked.await.ok() };
        self.lifecycle.attach_asking(wanted, self.kernel.sandbox(netns), answer).await.unwrap()
    }

    async fn attachments(&self) -> Vec<Attachment> {
        self.lifecycle.owner.snapshot().await.unwrap().attachments
    }

    async fn until(&self, is: impl Fn(&Attachment) -> bool) -> Attachment {
        let begin = Instant::now();
        loop {
            let found = self.attachments().await.into_iter().find(&is);
            if let Some(found) = found {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "{:?}", self.attachments().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn lifecycle(folder: &Path, kernel: Arc<FakeKernel>) -> Lifecycle<FakeKernel> {
    let (journal, records) = Journal::open(&folder.join("journal"), "boot").unwrap();
    let node = Node::replay("nd", records);
    Lifecycle::new(owner::start(node, journal), Arc::new(Executor::new(kernel, std::collections::BTreeSet::new())))
}

fn known(source: &str) -> LabelState {
    LabelState::Known { source: source.to_owned() }
}

fn is_pending(attachment: &Attachment, by: &str) -> bool {
    matches!(&attachment.label_state, LabelState::Pending { source, .. } if source == by)
}

#[tokio::test]
async fn an_attach_knows_a_pod_and_a_restart_forgets_nothing() {
    let rig = Rig::new();
    let fake = Fake::start(&rig.socket());
    let pod = "ab".repeat(32);
    fake.sandbox(&pod, POD);
    let attachment = rig.attach(&pod, CRI).await;
    assert_eq!((attachment.name.as_str(), attachment.namespace.as_str()), ("web", "shop"));
    assert_eq!(attachment.labels["app"], "web");
    assert_eq!(attachment.label_state, known("containerd"));
    let again = lifecycle(rig.folder.path(), Arc::clone(&rig.kernel));
    assert_eq!(again.owner.snapshot().await.unwrap().attachments, [attachment]);
}

#[tokio::test]
async fn each_state_of_labels_has_its_reason() {
    let (hex, cri, none) = ("ab".repeat(32), CRI, "");
    // container, arguments, containerd is there, what is recorded: `Ok` nobody has any, `Err` somebody is still to say.
    let table: [(String, &str, bool, Result<(), &str>); 7] = [
        (hex.clone(), cri, true, Err("nri")),
        (hex.clone(), cri, false, Err("nri")),
        (hex.clone(), none, true, Ok(())),
        (hex.clone(), none, false, Ok(())),
        (format!("default-{hex}"), none, false, Err("containerd")),
        (format!("default-{hex}"), none, true, Err("containerd")),
        ("default-web".to_owned(), none, false, Ok(())),
    ];
    for (container, args, is_there, expected) in table {
        let rig = Rig::new();
        let fake = is_there.then(|| Fake::start(&rig.socket()));
        let attachment = rig.attach(&container, args).await;
        match expected {
            Ok(()) => assert_eq!(attachment.label_state, LabelState::None, "{container} {args} {is_there}"),
            Err(source) => assert!(is_pending(&attachment, source), "{container} {args} {is_there}: {attachment:?}"),
        }
        drop(fake);
    }
    assert!(Runtime::new("").question("default-web", "").is_none(), "no containerd, no question");
}

#[tokio::test]
async fn a_slow_containerd_does_not_hold_an_attach_up_and_is_heard_later() {
    let mut rig = Rig::new();
    rig.runtime.look_up = LOOK_UP;
    let fake = Fake::start(&rig.socket());
    let container = format!("default-{}", "ab".repeat(32));
    fake.container("default", &"ab".repeat(32), &[("app", "web")]);
    fake.records.lock().unwrap().delay = 4 * LOOK_UP_BEHIND;
    let begin = Instant::now();
    let attachment = rig.attach(&container, "").await;
    assert!(begin.elapsed() < LOOK_UP_BEHIND, "{:?}", begin.elapsed());
    assert!(is_pending(&attachment, "containerd"));
    let now = SystemTime::now();
    assert!(missed(&rig.attachments().await, now).is_empty(), "not missed before it is due");
    let told = missed(&rig.attachments().await, now + LABELS_DUE + Duration::from_secs(1));
    assert!(told[0].contains("containerd has not said them") && told[0].contains(&container), "{told:?}");
    fake.records.lock().unwrap().delay = Duration::ZERO;
    let (runtime, lifecycle) = (rig.runtime.clone(), rig.lifecycle.clone());
    let following = tokio::spawn(async move { runtime.follow(&lifecycle).await });
    let known = rig.until(|one| one.label_state == known("containerd")).await;
    assert_eq!(known.labels["app"], "web");
    following.abort();
}

#[tokio::test]
async fn a_record_that_comes_after_the_network_is_heard_of_even_by_a_new_containerd() {
    let rig = Rig::new();
    let pod = "ab".repeat(32);
    let fake = Fake::start(&rig.socket());
    fake.records.lock().unwrap().has_no_sandboxes = true;
    let attachment = rig.attach(&pod, CRI).await;
    assert!(is_pending(&attachment, "nri"));
    let (runtime, lifecycle) = (rig.runtime.clone(), rig.lifecycle.clone());
    let following = tokio::spawn(async move { runtime.follow(&lifecycle).await });
    fake.say("k8s.io", "/containers/update", "of another").await;
    let records = Arc::clone(&fake.records);
    drop(fake);
    let fake = Fake::with(&rig.socket(), records);
    fake.say("k8s.io", "/containers/update", "of another").await;
    fake.container("k8s.io", &pod, &[("app", "web")]);
    fake.say("k8s.io", "/containers/create", &pod).await;
    rig.until(|one| one.label_state == known("containerd") && one.labels["app"] == "web").await;
    // What changes is heard, unless a door has said more.
    fake.container("k8s.io", &pod, &[("app", "shop")]);
    fake.say("k8s.io", "/containers/update", &pod).await;
    rig.until(|one| one.labels["app"] == "shop").await;
    following.abort();
}

/// A container of nerdctl's by its number, as the CNI has it and as containerd has it.
fn numbered(number: u8) -> (String, String) {
    let hex = format!("{number:02x}").repeat(32);
    (format!("default-{hex}"), hex)
}

#[tokio::test]
async fn one_that_containerd_is_silent_about_keeps_no_other_from_being_asked_for() {
    let rig = Rig::new();
    let containers = [1, 2].map(numbered);
    for (container, netns) in containers.iter().map(|(container, _)| container).zip(1..) {
        rig.attach_in(container, "", netns).await;
    }
    let fake = Fake::start(&rig.socket());
    for (_, hex) in &containers {
        fake.container("default", hex, &[("app", "web")]);
    }
    fake.records.lock().unwrap().stuck.insert(containers[0].1.clone());
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    let (runtime, lifecycle) = (rig.runtime.clone(), rig.lifecycle.clone());
    let again = tokio::spawn(async move { runtime.look_around(&lifecycle).await });
    let known = rig.until(|one| one.label_state == known("containerd")).await;
    assert_eq!(known.key.container.as_str(), containers[1].0);
    again.abort();
}

#[tokio::test]
async fn records_that_take_long_to_read_hold_up_none_that_is_heard_of_behind_them() {
    let rig = Rig::new();
    let fake = Fake::start(&rig.socket());
    let containers = [1, 2, 3, 4].map(numbered);
    for ((container, hex), netns) in containers.iter().zip(1..) {
        fake.container("default", hex, &[("app", "web")]);
        assert_eq!(rig.attach_in(container, "", netns).await.label_state, known("containerd"));
    }
    let (runtime, lifecycle) = (rig.runtime.clone(), rig.lifecycle.clone());
    let following = tokio::spawn(async move { runtime.follow(&lifecycle).await });
    // Three times as long as one is waited for is longer than this test has patience.
    let slow = &containers[..3];
    fake.records.lock().unwrap().stuck.extend(slow.iter().map(|(_, hex)| hex.clone()));
    for (_, hex) in &containers {
        fake.container("default", hex, &[("app", "shop")]);
        fake.say("default", "/containers/update", hex).await;
    }
    rig.until(|one| one.key.container.as_str() == containers[3].0 && one.labels["app"] == "shop").await;
    following.abort();
}

#[tokio::test]
async fn an_answer_that_comes_late_takes_the_place_of_no_newer_one() {
    let rig = Rig::new();
    let fake = Fake::start(&rig.socket());
    let (container, hex) = numbered(1);
    let update = async |app| {
        fake.container("default", &hex, &[("app", app)]);
        fake.say("default", "/containers/update", &hex).await;
    };
    fake.container("default", &hex, &[("app", "web")]);
    rig.attach(&container, "").await;
    let (runtime, lifecycle) = (rig.runtime.clone(), rig.lifecycle.clone());
    let following = tokio::spawn(async move { runtime.follow(&lifecycle).await });
    fake.records.lock().unwrap().late.insert(hex.clone());
    update("older").await;
    // It was asked for at once, and is asked for again behind that.
    tokio::time::sleep(A_WHILE / 2).await;
    fake.records.lock().unwrap().late.clear();
    update("newer").await;
    rig.until(|one| one.labels["app"] == "newer").await;
    tokio::time::sleep(A_WHILE * 2).await;
    assert_eq!(rig.attachments().await[0].labels["app"], "newer");
    following.abort();
}

#[tokio::test]
async fn addresses_without_a_link_are_freed_when_their_container_is_gone() {
    let rig = Rig::new();
    let fake = Fake::start(&rig.socket());
    let hex = "ab".repeat(32);
    fake.container("default", &hex, &[]);
    fake.tasks("default", &[&hex]);
    let container = format!("default-{hex}");
    let mut wanted = wanted(WEB, &container, 1);
    let What::Bridge(bridge) = wanted.what else { panic!() };
    wanted.what = What::Addresses(bridge.ipam.clone());
    wanted.label_state = LabelState::Known { source: "containerd".to_owned() };
    rig.lifecycle.attach(wanted, rig.kernel.sandbox(1)).await.unwrap();
    let left = async || rig.attachments().await.len();
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    assert_eq!(left().await, 1, "it lives");
    fake.tasks("default", &["other"]);
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    assert_eq!(left().await, 1, "it has just gone");
    // The grace is over; but a list that fails is none.
    rig.runtime.census.missing_since(Instant::now().checked_sub(GRACE).unwrap());
    fake.records.lock().unwrap().lists_fail = true;
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    assert_eq!(left().await, 1, "nobody says that it is gone");
    fake.records.lock().unwrap().lists_fail = false;
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    rig.runtime.census.missing_since(Instant::now().checked_sub(GRACE).unwrap());
    rig.runtime.look_around(&rig.lifecycle).await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(rig.lifecycle.owner.snapshot().await.unwrap().leases, 0);
}

/// Needs root.
#[test]
fn a_namespace_that_is_at_its_path_lives() {
    let tested = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let (journal, _) = Journal::open(&folder.path().join("journal"), "boot").unwrap();
            let kernel = Arc::new(LinuxKernel::new("netd", "nd").unwrap());
            let executor = Executor::new(kernel, std::collections::BTreeSet::new());
            let own = File::open("/proc/thread-self/ns/net").unwrap();
            let id = executor.identify(own.try_clone().unwrap().into()).unwrap().id;
            let lifecycle = Lifecycle::new(owner::start(Node::new("nd"), journal), Arc::new(executor));
            let rig = Rig::new();
            let attachment = rig.attach(&"ab".repeat(32), CRI).await;
            let at = |path: String| Attachment { netns: id, netns_path: path, ..attachment.clone() };
            let path = format!("/proc/{}/fd/{}", std::process::id(), own.as_raw_fd());
            assert!(lifecycle.sandbox_of(&at(path)).await.is_some());
            assert!(lifecycle.sandbox_of(&at("/nonexistent".to_owned())).await.is_none());
            let another = at(format!("/proc/{}/ns/net", std::process::id()));
            assert!(lifecycle.sandbox_of(&another).await.is_none());
        });
    });
    tested.join().unwrap();
}
