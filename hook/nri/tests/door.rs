//! The program between a runtime and a netd, both played: handshake, both dialects, and everything late, away or broken.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::time::Duration;

use netd_api::v1::FailureCode;
use netd_hook::wire::nri;

use rig::hook::Hook;
use rig::netd::{Netd, Told};
use rig::runtime::{Dialect, GoReader, Runtime};
use rig::until;

/// What netd-hook waits for a netd that is late: half of the runtime's 2 s.
const BUDGET: Duration = Duration::from_secs(1);
/// How long a netd takes that hangs.
const LONG: Duration = Duration::from_secs(10);

fn pod(id: &str, netns: Option<&str>) -> nri::PodSandbox {
    let mut pod = nri::PodSandbox { id: id.to_owned(), name: format!("{id}-name"), ..nri::PodSandbox::default() };
    pod.namespace = "shop".to_owned();
    pod.labels.insert("tier".to_owned(), "front".to_owned());
    pod.annotations.insert("note".to_owned(), "here".to_owned());
    if let Some(path) = netns {
        let mut namespace = nri::LinuxNamespace { type_: "network".to_owned(), ..nri::LinuxNamespace::default() };
        namespace.path = path.to_owned();
        pod.linux.mut_or_insert_default().namespaces.push(namespace);
    }
    pod
}

/// A pod whose namespace can be opened; whose it is does not matter here.
fn attached(id: &str) -> nri::PodSandbox {
    pod(id, Some("/proc/self/ns/net"))
}

fn ids(told: &[Told]) -> Vec<String> {
    told.iter()
        .map(|told| match told {
            Told::Describe(request, _) => format!("describe {}", request.container_id),
            Told::Release(id) => format!("release {id}"),
            Told::Resync(living) => format!("resync {}", living.join(" ")),
        })
        .collect()
}

/// What netd was told, a pod's description last, by the time of an answer that took so long. One that took longer than netd-hook
/// waits, on a busy machine, may have come before.
fn told_within(netd: &Netd, taken: Duration) -> Vec<Told> {
    if taken < BUDGET { netd.told() } else { netd.hears(2) }
}

/// Whether it takes less than netd-hook waits for a netd that is late; a busy machine may let something else be slow once.
fn is_at_once(mut work: impl FnMut() -> Duration) -> bool {
    (0..5).any(|_| work() < BUDGET)
}

fn a_pods_life(dialect: Dialect) {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), dialect).register();
    netd.hears(1);
    // The answer came after netd had heard: no container of the pod starts earlier.
    let taken = plugin.run(&attached("a"));
    let told = told_within(&netd, taken);
    let Told::Describe(request, netns) = &told[1] else { panic!("{told:?}") };
    assert_eq!((request.container_id.as_str(), request.name.as_str()), ("a", "a-name"));
    assert_eq!((request.namespace.as_str(), request.source.as_str()), ("shop", "nri"));
    assert_eq!((&*request.labels["tier"], &*request.annotations["note"]), ("front", "here"));
    assert_eq!(request.netns_path, "/proc/self/ns/net");
    assert!(netns.as_deref().unwrap().starts_with("net:["), "{netns:?}");
    plugin.stop(&attached("a"));
    plugin.remove(&pod("a", None));
    assert_eq!(ids(&netd.hears(3)), ["resync ", "describe a", "release a"]);
}

#[test]
fn a_pods_life_by_state_changes() {
    a_pods_life(Dialect::StateChange);
}

#[test]
fn a_pods_life_by_dedicated_calls() {
    a_pods_life(Dialect::Dedicated);
}

#[test]
fn systemd_hears_when_it_is_registered_and_with_which_name() {
    let hook = Hook::start();
    assert_eq!(hook.notified(), "STATUS=waiting for containerd's NRI\n");
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).accept();
    let registration = plugin.registered();
    assert_eq!((registration.plugin_name.as_str(), registration.plugin_idx.as_str()), ("netd", "42"));
    assert!(registration.nri_version.starts_with('v'));
    assert_eq!(plugin.configure(0).events, 0x7);
    assert_eq!(hook.notified(), "READY=1\nSTATUS=registered with NRI\n");
}

#[test]
fn a_pod_on_the_nodes_network_is_never_touched() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    plugin.run(&pod("host", None));
    plugin.run(&attached("a"));
    assert_eq!(ids(&netd.hears(2)).iter().filter(|told| told.starts_with("describe")).count(), 1);
}

#[test]
fn a_list_in_pieces_is_described_and_then_resynced() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let runtime = Runtime::listen(&hook.nri(), Dialect::Dedicated);
    let mut plugin = runtime.accept();
    plugin.registered();
    plugin.configure(2_000);
    let pods: Vec<nri::PodSandbox> = (0..90).map(|number| attached(&format!("p{number:02}"))).collect();
    for piece in pods.chunks(40) {
        plugin.synchronize(piece.to_vec(), true);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(netd.told(), [], "a part of a list says nothing");
    plugin.synchronize(vec![pod("host", None)], false);
    let told = ids(&netd.hears(91));
    let mut described = told[..90].to_vec();
    described.sort_unstable();
    let expected: Vec<String> = (0..90).map(|number| format!("describe p{number:02}")).collect();
    assert_eq!(described, expected);
    let living: Vec<String> = (0..90).map(|number| format!("p{number:02}")).collect();
    assert_eq!(told[90], format!("resync host {}", living.join(" ")));
}

#[test]
fn a_list_is_answered_at_once_while_netd_hangs() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    *netd.book.delay.lock().unwrap() = LONG;
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    let pods: Vec<_> = (0..50).map(|number| attached(&format!("p{number}"))).collect();
    assert!(is_at_once(|| {
        let start = std::time::Instant::now();
        plugin.synchronize(pods.clone(), false);
        start.elapsed()
    }));
}

#[test]
fn without_netd_a_pod_starts_at_once_and_is_described_when_netd_comes() {
    let hook = Hook::start();
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    assert!(is_at_once(|| plugin.run(&attached("a"))));
    let netd = Netd::start(&hook.netd());
    assert_eq!(ids(&netd.hears(2)), ["describe a", "resync a"]);
}

#[test]
fn a_late_netd_holds_a_pod_up_for_the_budget_only_and_hears_of_it_once() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    netd.hears(1);
    *netd.book.delay.lock().unwrap() = LONG;
    let taken = plugin.run(&attached("a"));
    assert!((BUDGET..LONG).contains(&taken), "{taken:?}");
    assert!(is_at_once(|| plugin.stop(&attached("other"))));
    netd.hears(2);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ids(&netd.told()), ["resync ", "describe a"]);
}

#[test]
fn a_refused_description_is_repeated_and_a_hopeless_one_is_not() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    netd.hears(1);
    *netd.book.refusals.lock().unwrap() = vec![FailureCode::EXHAUSTED, FailureCode::TRY_AGAIN];
    plugin.run(&attached("a"));
    assert_eq!(ids(&netd.hears(4))[1..], ["describe a", "describe a", "describe a"]);
    *netd.book.refusals.lock().unwrap() = vec![FailureCode::INVALID_CONFIG];
    plugin.run(&attached("b"));
    netd.hears(5);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(ids(&netd.told())[4..], ["describe b"]);
}

#[test]
fn what_netd_cannot_read_is_not_taken_for_a_netd_that_is_away() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    netd.hears(1);
    *netd.book.is_broken.lock().unwrap() = true;
    plugin.run(&attached("a"));
    netd.hears(2);
    std::thread::sleep(Duration::from_millis(500));
    plugin.run(&attached("b"));
    assert_eq!(ids(&netd.hears(3))[1..], ["describe a", "describe b"]);
}

#[test]
fn a_namespace_that_cannot_be_opened_does_not_keep_the_labels_from_netd() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    netd.hears(1);
    let taken = plugin.run(&pod("a", Some("/nonexistent/netns")));
    let told = told_within(&netd, taken);
    let Told::Describe(request, netns) = &told[1] else { panic!("{told:?}") };
    assert_eq!((request.netns_path.as_str(), netns), ("", &None));
    assert_eq!(&*request.labels["tier"], "front");
}

#[test]
fn each_connection_is_a_handshake_and_who_lives_is_told_anew() {
    let mut hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    for round in 0..3_usize {
        let runtime = Runtime::listen(&hook.nri(), Dialect::Dedicated);
        let mut plugin = runtime.register();
        assert_eq!(ids(&netd.hears(2 * round + 1))[2 * round], "resync ");
        plugin.run(&attached(&format!("p{round}")));
        netd.hears(2 * round + 2);
        // containerd restarts, perhaps amid a message.
        plugin.send(1, &[0, 0, 1]);
    }
    assert!(hook.lives());
}

#[test]
fn a_runtime_that_refuses_or_babbles_is_tried_again() {
    let mut hook = Hook::start();
    let runtime = Runtime::listen(&hook.nri(), Dialect::Dedicated);
    runtime.accept().refused("no external plugins");
    let mut babbling = runtime.accept();
    babbling.send(1, &[0xff; 300]);
    runtime.register();
    assert!(hook.lives());
}

#[test]
fn unknown_methods_are_unimplemented_and_irrelevant_ones_are_well() {
    let hook = Hook::start();
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    let nothing = nri::PodSandboxRequest::new();
    assert_eq!(plugin.call("PreSetupNetwork", &nothing).0, 12);
    for method in ["CreateContainer", "UpdatePodSandbox", "ValidateContainerAdjustment", "Shutdown"] {
        assert_eq!(plugin.call(method, &nothing), (0, Vec::new()), "{method}");
    }
}

#[test]
fn long_messages_pass_both_ways_however_they_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let name = "n".repeat(70_000);
    let hook = Hook::start_in(folder, &name);
    let netd = Netd::start(&hook.netd());
    let runtime = Runtime::listen(&hook.nri(), Dialect::StateChange);
    let mut plugin = runtime.accept();
    assert_eq!(plugin.registered().plugin_name, name);
    plugin.configure(2_000);
    plugin.synchronize(Vec::new(), false);
    netd.hears(1);
    for (number, (cut, length)) in (2..).zip([(usize::MAX, 5_000), (usize::MAX, 300_000), (1_000, 70_000), (7, 5_000)])
    {
        plugin.cut = cut;
        let mut pod = attached(&format!("p{cut}-{length}"));
        pod.labels.insert("long".to_owned(), "x".repeat(length));
        plugin.run(&pod);
        let told = netd.hears(number);
        let Told::Describe(request, _) = told.last().unwrap() else { panic!("{told:?}") };
        assert_eq!((&request.container_id, request.labels["long"].len()), (&pod.id, length));
    }
}

#[test]
#[should_panic(expected = "ENOMEM: a frame of 4097 bytes where Go reads 4096")]
fn the_played_runtime_is_as_strict_as_go() {
    GoReader::default().frame(vec![0; 4_097]);
}

#[test]
fn a_thousand_pods_leave_no_descriptor_and_no_thread_behind() {
    let hook = Hook::start();
    let netd = Netd::start(&hook.netd());
    let mut plugin = Runtime::listen(&hook.nri(), Dialect::Dedicated).register();
    netd.hears(1);
    plugin.run(&attached("first"));
    let before = until("rest", || Some((hook.descriptors(), hook.threads())).filter(|(_, threads)| *threads <= 5));
    for number in 0..1_000 {
        let pod = attached(&format!("p{number}"));
        plugin.run(&pod);
        plugin.remove(&pod);
    }
    // Of a pod that went before a busy netd heard of it, nobody need tell.
    until("the last word to netd", || netd.told().contains(&Told::Release("p999".to_owned())).then_some(()));
    until("descriptors to be closed", || (hook.descriptors() <= before.0).then_some(()));
    until("threads to end", || (hook.threads() == before.1).then_some(()));
}
