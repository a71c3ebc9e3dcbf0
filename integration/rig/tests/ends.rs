//! Endings: containerd or netd restarts under running pods; a node dropped, or left by a killed process, with containers on it leaves
//! nothing on the machine. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use netd_rig::{Bed, Cri, Nerdctl, Node, Plugins, Pod, PodWish, Release, Underlay, residue};
use serde_json::json;

const VICTIM: &str = "NETD_RIG_VICTIM";

#[test]
fn containerd_restarts_under_a_running_pod() {
    let mut bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let (pod, shell) = {
        let cri = Cri::new(&bed.node).unwrap();
        let pod = cri.run_pod(&PodWish { name: "a", ..PodWish::default() }).unwrap();
        let shell = cri.start_container(&pod, "shell", &["/bin/sleep", "infinity"]).unwrap();
        (pod, shell)
    };
    let first = bed.containerd.daemon.pid();
    for crash in [true, false] {
        bed.containerd.restart(&bed.node, crash).unwrap();
        assert_ne!(bed.containerd.daemon.pid(), first);
        let cri = Cri::new(&bed.node).unwrap();
        let status = cri.call("PodSandboxStatus", &json!({"podSandboxId": pod.id})).unwrap();
        assert_eq!(status["status"]["network"]["ip"], pod.addresses[0].as_str());
        assert_eq!(cri.exec(&shell, &["ping", "-c", "1", "-W", "2", "10.4.0.1"]).unwrap().code, 0);
    }
}

#[test]
fn netd_crashes_under_a_running_pod() {
    let mut bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let cri = Cri::new(&bed.node).unwrap();
    let pod = cri.run_pod(&PodWish { name: "a", ..PodWish::default() }).unwrap();
    let shell = cri.start_container(&pod, "shell", &["/bin/sleep", "infinity"]).unwrap();
    let netd = bed.netd.as_mut().unwrap();
    netd.daemon.kill9().unwrap();
    assert_eq!(cri.exec(&shell, &["ping", "-c", "1", "-W", "2", "10.4.0.1"]).unwrap().code, 0);
    let error = cri.run_pod(&PodWish { name: "b", ..PodWish::default() }).unwrap_err().to_string();
    assert!(error.contains("netd"), "{error}");
    netd.daemon.start_again().unwrap();
    netd.wait(&bed.node).unwrap();
    let next = cri.run_pod(&PodWish { name: "c", ..PodWish::default() }).unwrap();
    assert_ne!(next.addresses, pod.addresses);
    cri.remove_pod(&pod.id).unwrap();
}

#[test]
fn a_node_dropped_with_containers_on_it_leaves_nothing() {
    let (bed, pod) = busy_bed();
    let folder = bed.node.folder().to_owned();
    assert_each_kind(&folder, &pod.id);
    drop(bed);
    assert_eq!(traces(&folder, &pod.id), Vec::<String>::new());
}

#[test]
fn what_a_killed_rig_left_is_swept_by_the_next_one() {
    if std::env::var_os(VICTIM).is_some() {
        be_the_victim();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_killed_rig_left_is_swept_by_the_next_one", "--nocapture"])
        .env(VICTIM, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find_map(|line| line.split_once("busy ").map(|(_, rest)| rest.to_owned()));
    victim.kill().unwrap();
    victim.wait().unwrap();
    let (folder, pod) = line.as_deref().and_then(|line| line.split_once(' ')).unwrap();
    let folder = Path::new(folder);
    assert_each_kind(folder, pod);
    let _next = Node::new(&Underlay::new().unwrap(), 1).unwrap();
    assert_eq!(traces(folder, pod), Vec::<String>::new());
}

#[expect(clippy::print_stdout, reason = "the test that started this one reads it")]
fn be_the_victim() -> ! {
    let (bed, pod) = busy_bed();
    println!("busy {} {}", bed.node.folder().display(), pod.id);
    loop {
        std::thread::park();
    }
}

fn busy_bed() -> (Bed, Pod) {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    let pod = Cri::new(&bed.node).unwrap().run_pod(&PodWish { name: "a", ..PodWish::default() }).unwrap();
    Nerdctl::like(&bed.node).unwrap().run(&["-p", "8080:80"], &["/bin/sleep", "infinity"]).unwrap();
    (bed, pod)
}

/// Without something to take away, these tests would prove nothing. Mounts are none: they are in the node's own namespace.
fn assert_each_kind(folder: &Path, pod: &str) {
    let traces = traces(folder, pod);
    for kind in ["process ", "group ", "folder "] {
        assert!(traces.iter().any(|trace| trace.starts_with(kind)), "no {kind}in {traces:?}");
    }
}

/// What the machine still has of the rig in `folder`.
fn traces(folder: &Path, pod: &str) -> Vec<String> {
    let processes = residue::processes(folder).into_iter().map(|pid| format!("process {pid}"));
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts =
        text.lines().filter(|line| line.contains(&*folder.to_string_lossy())).map(|line| format!("mount {line}"));
    let groups = groups(Path::new("/sys/fs/cgroup"), pod).into_iter().map(|path| format!("group {}", path.display()));
    let folders = folder.exists().then(|| format!("folder {}", folder.display()));
    processes.chain(mounts).chain(groups).chain(folders).collect()
}

/// Control groups of `pod`, at any depth.
fn groups(folder: &Path, pod: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let below = |path: PathBuf| {
        let mut found = groups(&path, pod);
        found.extend(path.file_name().is_some_and(|name| name == pod).then_some(path));
        found
    };
    entries.flat_map(below).collect()
}
