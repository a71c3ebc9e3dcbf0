//! The rig itself: a node has paths of its own, reaches the outside, and takes everything with it. Needs root.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use netd_rig::{Daemon, Expect, Node, OUTSIDE_V4, OUTSIDE_V6, Probe, Program, Protocol, Underlay, until};

#[test]
fn a_node_has_its_own_paths_and_leaves_the_machines_alone() {
    let underlay = Underlay::new().unwrap();
    let node = Node::new(&underlay, 1).unwrap();
    let name = format!("/etc/cni/net.d/{}", std::process::id());
    node.write(&name, "written from outside").unwrap();
    assert_eq!(node.output(Command::new("cat").arg(&name)).unwrap(), "written from outside");
    assert!(!Path::new(&name).exists());
    node.output(Command::new("touch").args(["/run/made-inside", "/etc/netd-rig-made-inside"])).unwrap();
    assert!(node.outside("/run/made-inside").exists());
    assert!(!Path::new("/etc/netd-rig-made-inside").exists());
    assert!(
        node.output(Command::new("cat").arg("/etc/passwd")).unwrap().contains("root"),
        "the machine's files are there"
    );
}

#[test]
fn two_nodes_reach_each_other_and_the_outside() {
    let underlay = Underlay::new().unwrap();
    let nodes = [Node::new(&underlay, 1).unwrap(), Node::new(&underlay, 2).unwrap()];
    let mut probe = Probe::new();
    for (node, name) in nodes.iter().zip(["one", "two"]) {
        probe = probe.from(name, &node.place);
        for (column, to) in [("v4", OUTSIDE_V4.into()), ("v6", OUTSIDE_V6.into())] {
            let said = if column == "v4" { node.v4.to_string() } else { node.v6.to_string() };
            let expect = Expect::said(&format!("outside {said}\n"));
            let column = format!("{column} from {name}");
            let other = if name == "one" { "two" } else { "one" };
            probe = probe.to(&column, Protocol::Tcp, SocketAddr::new(to, 80), expect);
            probe = probe.except(other, &column, Expect::said("outside "));
        }
    }
    probe.check().unwrap();
    let ping =
        |from: &Node, to: &Node| from.output(Command::new("ip").args(["route", "get", &to.v4.to_string()])).unwrap();
    assert!(ping(&nodes[0], &nodes[1]).contains("dev eth0"));
}

#[test]
fn a_node_takes_its_processes_and_its_folder_with_it() {
    let underlay = Underlay::new().unwrap();
    let node = Node::new(&underlay, 1).unwrap();
    let script = "setsid sleep 1000 & echo $! > /run/child; env -i setsid sleep 1000 & echo $! >> /run/child; wait";
    let daemon = Daemon::start(&node, Program::new("parent", Path::new("/bin/sh"), &["-c", script])).unwrap();
    let file = node.outside("/run/child");
    let children = until("the children", Duration::from_secs(30), || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok((text.lines().count() == 2).then_some(text))
    });
    let pids: Vec<String> = children.unwrap().lines().map(str::to_owned).chain([daemon.pid().to_string()]).collect();
    let alive = |pid: &String| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    // One that is about to become another program has no command line for a moment.
    until("all to run", Duration::from_secs(30), || Ok(pids.iter().all(alive).then_some(()))).unwrap();
    let folder = node.folder().to_owned();
    drop(node);
    assert!(!pids.iter().any(alive), "{pids:?}");
    assert!(!folder.exists());
    drop(daemon);
}

#[test]
fn a_daemon_that_ends_tells_its_last_words() {
    let underlay = Underlay::new().unwrap();
    let node = Node::new(&underlay, 1).unwrap();
    let program = Program::new("brief", Path::new("/bin/sh"), &["-c", "echo no such luck; exit 3"]);
    let mut daemon = Daemon::start(&node, program).unwrap();
    let error = format!("{:#}", daemon.wait(Duration::from_secs(30), || Ok(None::<()>)).unwrap_err());
    assert!(error.contains("no such luck") && error.contains("exit status: 3"), "{error}");
    daemon.start_again().unwrap();
    daemon.wait(Duration::from_secs(30), || Ok(None::<()>)).unwrap_err();
    assert_eq!(daemon.log().matches("no such luck").count(), 2);
}
