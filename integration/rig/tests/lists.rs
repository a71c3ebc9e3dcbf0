//! What a runtime's list of the living frees, on a real containerd. Needs root. It takes longer than the grace of a minute
//! that a missing pod has.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use netd_rig::{Bed, Cri, Daemon, Plugins, PodWish, Program, Release, parts, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);
/// The grace, two rounds of looking, and some more on a busy machine.
const GRACE: Duration = Duration::from_secs(60);
const AT_MOST: Duration = Duration::from_secs(180);
/// The official bridge, with addresses of netd's: there is no link of netd's whose end would tell it of a dead pod.
const NETWORK: &str = r#"{"cniVersion":"1.0.0","name":"foreign","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
    "ipMasq":false,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.6.0.0/24"}]]}}]}"#;

#[test]
fn addresses_of_a_pod_that_nobody_detached_are_free_once_the_runtime_has_missed_it_for_a_minute() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let plugins = bed.node.outside("/opt/cni/bin");
    point(&plugins.join("bridge"), &parts::cni_plugins().unwrap().join("bridge"));
    bed.node.write("/etc/cni/net.d/00-foreign.conflist", NETWORK).unwrap();
    let cri = Cri::new(&bed.node).unwrap();
    until("containerd to read the network", PATIENCE, || {
        Ok(cri.call("Status", &serde_json::json!({"verbose": true}))?.to_string().contains("foreign").then_some(()))
    })
    .unwrap();
    let mut hook = start_hook(&bed);
    let run = |name| cri.run_pod(&PodWish { name, ..PodWish::default() }).unwrap();
    let (stays, goes) = (run("stays"), run("goes"));
    assert!(stays.addresses[0].starts_with("10.6.0."), "{stays:?}");
    let held = || leases(&bed);
    assert_eq!(held().len(), 2);

    // Nobody says that it goes: neither the hook nor CNI.
    hook.terminate().unwrap();
    point(&plugins.join("host-local"), Path::new("/bin/true"));
    cri.remove_pod(&goes.id).unwrap();
    assert_eq!(held().len(), 2, "netd has not heard of it");
    let begin = Instant::now();
    hook.start_again().unwrap();
    until("the address to be free", AT_MOST, || Ok((held().len() == 1).then_some(()))).unwrap();
    assert!(begin.elapsed() > GRACE, "{:?}: before the grace was over", begin.elapsed());
    assert_eq!(held(), std::slice::from_ref(&stays.id), "who is in the list stays");
}

fn start_hook(bed: &Bed) -> Daemon {
    let program = Program::new("netd-hook", &parts::ours().unwrap().join("netd-hook"), &[]);
    let hook = Daemon::start(&bed.node, program).unwrap();
    until("the hook to be heard", PATIENCE, || Ok(hook.log().contains("synchronized").then_some(()))).unwrap();
    hook
}

fn point(link: &Path, target: &Path) {
    fs::remove_file(link).unwrap();
    symlink(target, link).unwrap();
}

/// Whose addresses netd holds.
fn leases(bed: &Bed) -> Vec<String> {
    let mut netdctl = Command::new(parts::ours().unwrap().join("netdctl"));
    let text = bed.node.output(netdctl.args(["-o", "json", "lease", "ls"])).unwrap();
    let leases: Vec<Value> = serde_json::from_str(&text).unwrap();
    leases.iter().map(|one| one["sandbox"].as_str().unwrap().to_owned()).collect()
}
