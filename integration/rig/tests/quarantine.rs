//! A container whose labels nobody has said yet passes no packet, on a real containerd; then it does. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use netd_rig::{
    Answer, Bed, Cri, Daemon, Nerdctl, Place, Plugins, PodWish, Program, Protocol, Release, Web, ask, parts, until,
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 1);
/// netd looks for containerd where nobody listens yet.
const SETTINGS: &str = "quarantine = 'always'\ncontainerd_socket = '/run/later.sock'\n";

#[test]
fn a_container_is_held_back_until_somebody_says_its_labels() {
    let mut bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    start_again(&mut bed);
    let _web = Web::start(&bed.node.place, "node", 81).unwrap();
    let cri = Cri::new(&bed.node).unwrap();
    let pod = cri.run_pod(&PodWish { name: "web", labels: &[("app", "web")], ..PodWish::default() }).unwrap();
    let shell = cri.start_container(&pod, "shell", &["/bin/sleep", "infinity"]).unwrap();
    let reaches_its_gateway = || cri.exec(&shell, &["ping", "-c", "1", "-W", "1", "10.4.0.1"]).unwrap().code == 0;
    let nerdlike = Nerdctl::like(&bed.node).unwrap();
    let container = nerdlike.run(&["--label", "app=shop"], &["/bin/sleep", "infinity"]).unwrap();
    for _ in 0..2 {
        assert_eq!(states(&bed), ["quarantine", "quarantine"]);
        assert!(!reaches_its_gateway() && !hears_the_node(&container.place));
        bed.netd.as_mut().unwrap().crash(&bed.node).unwrap();
    }
    // A container may do with its own end what it likes.
    for state in ["down", "up"] {
        container.place.ip(&format!("link set eth0 {state}")).unwrap();
    }
    assert!(!hears_the_node(&container.place));
    until("the warning of what is late", PATIENCE, || {
        let status = netdctl(&bed, &["status"]);
        let is_said = status.contains("passes no packet until then: nri has not said them; see that netd-hook runs");
        Ok((is_said && status.contains("containerd has not said them")).then_some(()))
    })
    .unwrap();
    assert!(!reaches_its_gateway(), "lateness opens nothing");

    // The pod's word comes by NRI, the container's from containerd.
    let program = Program::new("netd-hook", &parts::ours().unwrap().join("netd-hook"), &[]);
    let _hook = Daemon::start(&bed.node, program).unwrap();
    until("the pod to be let go", PATIENCE, || Ok(reaches_its_gateway().then_some(()))).unwrap();
    assert!(!hears_the_node(&container.place));
    symlink("/run/containerd/containerd.sock", bed.node.outside("/run/later.sock")).unwrap();
    until("the container to be let go", PATIENCE, || Ok(hears_the_node(&container.place).then_some(()))).unwrap();
    until("both to be attached", PATIENCE, || Ok((states(&bed) == ["attached"; 2]).then_some(()))).unwrap();

    // With its record there at once, nobody notices anything; but on a busy machine, on which containerd is late to say it.
    let next = nerdlike.run(&[], &["/bin/sleep", "infinity"]).unwrap();
    until("all to be attached", PATIENCE, || Ok((states(&bed) == ["attached"; 3]).then_some(()))).unwrap();
    until("an open port", PATIENCE, || Ok(hears_the_node(&next.place).then_some(()))).unwrap();
    for id in [&container.id, &next.id] {
        nerdlike.remove(id).unwrap();
    }
    cri.remove_pod(&pod.id).unwrap();
    // The link goes behind the answer; until then the sandbox is shown.
    until("the sandboxes to be gone", PATIENCE, || Ok(states(&bed).is_empty().then_some(()))).unwrap();
}

fn start_again(bed: &mut Bed) {
    let netd = bed.netd.as_mut().unwrap();
    bed.node.write("/etc/netd/netd.toml", SETTINGS).unwrap();
    netd.daemon.terminate().unwrap();
    netd.daemon.start_again().unwrap();
    netd.wait(&bed.node).unwrap();
}

fn hears_the_node(place: &Place) -> bool {
    matches!(ask(place, Protocol::Tcp, (GATEWAY, 81).into()).unwrap(), Answer::Said(_))
}

fn states(bed: &Bed) -> Vec<String> {
    let sandboxes: Vec<Value> = serde_json::from_str(&netdctl(bed, &["-o", "json", "sandbox", "ls"])).unwrap();
    sandboxes.iter().map(|one| one["attachments"][0]["state"].as_str().unwrap().to_owned()).collect()
}

fn netdctl(bed: &Bed, arguments: &[&str]) -> String {
    bed.node.output(Command::new(parts::ours().unwrap().join("netdctl")).args(arguments)).unwrap()
}
