//! The NRI door on each containerd, in both dialects: netd knows what a pod is before its first container can start, and
//! after a crash of anybody too. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::{Duration, Instant};

use netd_rig::{Bed, Cri, Daemon, Plugins, Pod, PodWish, Program, Release, parts, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// containerd allows a plugin 2 s; netd-hook takes no more than half of them for itself.
const BUDGET: Duration = Duration::from_secs(1);

#[test]
fn netd_knows_what_a_pod_is_on_containerd_1_7() {
    netd_knows_what_a_pod_is(Release::V1_7);
}

#[test]
fn netd_knows_what_a_pod_is_on_containerd_2_2() {
    netd_knows_what_a_pod_is(Release::V2_2);
}

#[test]
fn netd_knows_what_a_pod_is_on_containerd_2_4() {
    netd_knows_what_a_pod_is(Release::V2_4);
}

fn netd_knows_what_a_pod_is(release: Release) {
    let mut bed = Bed::start(release, &Plugins::Netd).unwrap();
    only_by_nri(&mut bed);
    let mut hook = hook(&bed, &[]);
    registered(&hook, 1);
    // Each value as long as containerd takes it; all of them make a message of 70,000 bytes.
    let long = "x".repeat(3_000);
    let keys: Vec<String> = (0..24).map(|number| format!("long-{number}")).collect();
    let mut labels: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), long.as_str())).collect();
    labels.push(("app", "shop"));
    let first = run(&bed, "first", &labels);
    let known = sandbox(&bed, &first).unwrap();
    assert_eq!((&known["name"], &known["labels"]["app"]), (&json!("first"), &json!("shop")));
    assert_eq!(known["labels"]["long-23"], json!(long));

    bed.containerd.restart(&bed.node, true).unwrap();
    registered(&hook, 2);
    let second = run(&bed, "second", &[("app", "shop")]);
    assert_eq!(sandbox(&bed, &second).unwrap()["labels"]["app"], "shop");

    bed.netd.as_mut().unwrap().crash(&bed.node).unwrap();
    let third = run(&bed, "third", &[("app", "shop")]);
    for pod in [&first, &second, &third] {
        assert_eq!(sandbox(&bed, pod).unwrap()["labels"]["app"], "shop");
    }

    let cri = Cri::new(&bed.node).unwrap();
    for pod in [&first, &second, &third] {
        cri.remove_pod(&pod.id).unwrap();
    }
    // The link goes behind the answer; until then the sandbox is shown.
    until("the sandboxes to be gone", PATIENCE, || Ok(sandboxes(&bed).is_empty().then_some(()))).unwrap();
    assert!(hook.is_running().unwrap());
}

#[test]
fn a_hook_whose_netd_is_away_holds_up_no_pod_and_tells_it_later() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let hook = hook(&bed, &["--netd-socket", "/run/later.sock"]);
    registered(&hook, 1);
    let mut pods = Vec::new();
    // A busy machine may let something else be slow once.
    let is_at_once = (0..5).any(|number| {
        let start = Instant::now();
        pods.push(run(&bed, &format!("early-{number}"), &[("app", "shop")]));
        start.elapsed() < 5 * BUDGET
    });
    assert!(is_at_once, "each of {} pods was held up", pods.len());
    // netd has the labels from containerd by then; the door's word is in its log.
    let told = |log: String| log.matches("described").count();
    assert_eq!(told(hook.log()), 0, "{}", hook.log());
    std::os::unix::fs::symlink("/run/netd/netd.sock", bed.node.outside("/run/later.sock")).unwrap();
    until("netd to hear of the pod", PATIENCE, || Ok((told(hook.log()) > 0).then_some(()))).unwrap();
    for pod in &pods {
        assert_eq!(sandbox(&bed, pod).unwrap()["labels"]["app"], "shop");
    }
}

#[test]
fn a_netd_that_never_answers_does_not_have_the_hook_thrown_out() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let _silent = UnixListener::bind(bed.node.outside("/run/silent.sock")).unwrap();
    let hook = hook(&bed, &["--netd-socket", "/run/silent.sock"]);
    registered(&hook, 1);
    for name in ["a", "b"] {
        run(&bed, name, &[]);
    }
    until("both to be told", PATIENCE, || Ok((hook.log().matches("netd is late").count() == 2).then_some(()))).unwrap();
    assert_eq!(hook.log().matches("registered").count(), 1);
}

/// The runtime reads our long messages too: the plugin's name is in the first one.
#[test]
fn containerd_reads_a_message_of_many_frames() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let hook = hook(&bed, &["--name", &"n".repeat(70_000)]);
    registered(&hook, 1);
}

/// netd does not find containerd from now on: what it knows of a pod it has from the hook.
fn only_by_nri(bed: &mut Bed) {
    let netd = bed.netd.as_mut().unwrap();
    bed.node.write("/etc/netd/netd.toml", "containerd_socket = '/run/nobody.sock'\n").unwrap();
    netd.daemon.terminate().unwrap();
    netd.daemon.start_again().unwrap();
    netd.wait(&bed.node).unwrap();
}

fn hook(bed: &Bed, arguments: &[&str]) -> Daemon {
    let program = Program::new("netd-hook", &parts::ours().unwrap().join("netd-hook"), arguments);
    Daemon::start(&bed.node, program).unwrap()
}

/// Waits until netd-hook has registered and heard of all pods for the `times`th time.
fn registered(hook: &Daemon, times: usize) {
    let heard = || (hook.log().matches("synchronized").count() >= times).then_some(());
    until(&format!("registration {times}"), PATIENCE, || Ok(heard()))
        .unwrap_or_else(|error| panic!("{error:#}\n{}", hook.log()));
}

fn run(bed: &Bed, name: &str, labels: &[(&str, &str)]) -> Pod {
    Cri::new(&bed.node).unwrap().run_pod(&PodWish { name, labels, ..PodWish::default() }).unwrap()
}

/// What netd knows of the pod.
fn sandbox(bed: &Bed, pod: &Pod) -> Option<Value> {
    sandboxes(bed).into_iter().find(|known| known["id"] == json!(pod.id))
}

fn sandboxes(bed: &Bed) -> Vec<Value> {
    let mut netdctl = Command::new(parts::ours().unwrap().join("netdctl"));
    let text = bed.node.output(netdctl.args(["-o", "json", "sandbox", "ls"])).unwrap();
    serde_json::from_str(&text).unwrap()
}
