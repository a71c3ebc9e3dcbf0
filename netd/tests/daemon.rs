//! The binary: starts, answers, is alone in its folder, starts again after `kill -9`. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking};
use nix::sched::{CloneFlags, unshare};
use rig::daemon::{Daemon, inside, soon, spawn, start, start_with, status};
use rig::{Space, call};

#[test]
fn it_answers_alone_and_comes_back_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = start(folder.path());
    let status = Client::connect(&daemon.socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap();
    assert_eq!((status.instance.as_str(), status.attachments), ("netd", 0));
    let second = spawn(folder.path(), "").wait().unwrap();
    assert_eq!(second.code(), Some(1), "two daemons in one folder");
    let config = folder.path().join("netd.toml");
    let withdraw = format!("{} --config {} --withdraw", env!("CARGO_BIN_EXE_netd"), config.display());
    let refused = String::from_utf8(inside(&daemon, &withdraw).stderr).unwrap();
    assert!(refused.contains("would put its rules back; stop it first"), "{refused}");
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    drop(daemon);
    let again = start(folder.path());
    assert!(Client::connect(&again.socket, &[]).unwrap().status(&blocking::StatusRequest::new()).is_ok());
}

/// Callers come before it is ready, and need not come again.
#[test]
fn who_calls_while_it_starts_is_answered_when_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let policy = |number: usize| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: p{number} }}\n\
             spec: {{ podSelector: {{ matchLabels: {{ app: a{number} }} }}, ingress: [{{ ports: [{{ port: {number} }}] }}] }}\n"
        )
    };
    let policies = folder.path().join("policies");
    std::fs::create_dir_all(&policies).unwrap();
    std::fs::write(policies.join("many.yaml"), (1..=2_000).map(policy).collect::<String>()).unwrap();
    let socket = folder.path().join("run/netd.sock");
    let log = folder.path().join("netd.log");
    let is_ready = || std::fs::read_to_string(&log).unwrap().contains(" ready ");
    // A machine that stands still for a moment may come too late to see it start.
    let was_early = (0..20).any(|_| {
        let mut child = spawn(folder.path(), &format!("policies_dir = {policies:?}\n"));
        soon("its socket", || UnixStream::connect(&socket).is_ok());
        let is_early = !is_ready();
        Client::connect(&socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap();
        assert!(is_ready());
        child.kill().unwrap();
        child.wait().unwrap();
        std::fs::remove_file(&log).unwrap();
        is_early
    });
    assert!(was_early, "nobody could call while it started");
}

/// The service manager does not try again until somebody has corrected it.
#[test]
fn a_mistake_in_the_settings_has_an_exit_code_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for settings in
        ["workers = 0\n", "[fleet]\npools = ['10.4.0.0/16', '10.4.0.0/20']\netcd = ['http://192.0.2.1:2379']\n"]
    {
        assert_eq!(spawn(folder.path(), settings).wait().unwrap().code(), Some(78), "{settings}");
        let said = std::fs::read_to_string(folder.path().join("netd.log")).unwrap();
        assert!(said.lines().last().unwrap().starts_with("netd: "), "{said}");
    }
}

/// A list that this node is not on would leave it without an address to give.
#[test]
fn a_node_that_is_not_on_its_own_list_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("netd.toml");
    let lines = format!(
        "run_dir = {:?}\n[fleet]\nname = 'n2'\npools = ['10.4.0.0/16']\nnodes = {{ n1 = {{ address = '192.0.2.1' }} }}\n",
        folder.path().join("run")
    );
    std::fs::write(&config, lines).unwrap();
    let end = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        Command::new(env!("CARGO_BIN_EXE_netd")).arg("--config").arg(&config).output().unwrap()
    };
    let ended = std::thread::spawn(end).join().unwrap();
    assert!(!ended.status.success());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("this node, n2, is not on the list; add it"), "{said}");
}

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0",
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

fn attach(daemon: &Daemon, space: &Space, container: &str) -> String {
    let mut request = blocking::AttachRequest::new();
    request.call = Some(call(WEB, container, "")).into();
    let client = Client::connect(&daemon.socket, &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
    let response = client.attach(&request).unwrap();
    assert!(response.failure.is_none(), "{response:?}");
    let result: serde_json::Value = serde_json::from_slice(&response.result).unwrap();
    result["ips"][0]["address"].as_str().unwrap().to_owned()
}

/// On a kernel that knows owners of tables nothing happens; elsewhere netd makes its rules again, and names the program.
#[test]
fn rules_that_somebody_flushed_stand_again_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let space = Space::new();
    attach(&daemon, &space, "web");
    let inside = |program: &str| inside(&daemon, program);
    let rules = || String::from_utf8(inside("nft -s list ruleset").stdout).unwrap();
    let before = rules();
    assert!(before.contains("br0"), "{before}");
    for _ in 0..3 {
        let flushed = inside("nft flush ruleset");
        assert!(flushed.status.success(), "{flushed:?}");
        let begin = Instant::now();
        soon("the rules", || rules() == before);
        println!("the rules stood {:?} after the flush", begin.elapsed());
    }
    assert_eq!(status(&daemon).attachments, 1);
}

/// A bridge that nobody was attached to before is let through by the time of the answer; one that is known costs nothing.
#[test]
fn another_firewall_lets_a_bridge_through_before_its_first_attach_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start_with(folder.path(), "coexist = 'insert'\n");
    for line in ["-N DOCKER-USER", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"] {
        assert!(inside(&daemon, &format!("iptables {line}")).status.success(), "{line}");
    }
    let rules = || String::from_utf8(inside(&daemon, "iptables -S").stdout).unwrap();
    soon("the rule", || rules().contains("-A netd-forward -i nd+ -j ACCEPT"));
    soon("the status", || status(&daemon).firewalls.iter().any(|one| one.name == "docker" && one.passes));
    assert!(!rules().contains("br0"));
    let spaces = [Space::new(), Space::new()];
    attach(&daemon, &spaces[0], "first");
    let written = rules();
    assert!(written.contains("-A netd-forward -i br0 -j ACCEPT"), "{written}");
    attach(&daemon, &spaces[1], "second");
    assert_eq!(rules(), written);
}

/// Whoever listens to the kernel is not woken by what netd itself does for an attach; where others can change netd's rules, he
/// hears of each change and of the end of its transaction.
#[test]
fn an_attach_wakes_no_listener() {
    const ATTACHES: u64 = 10;
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let spaces: Vec<Space> = (0..=ATTACHES).map(|_| Space::new()).collect();
    attach(&daemon, &spaces[0], "0");
    let waits = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
        let texts = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("status")).unwrap());
        let watch = texts.filter(|text| text.starts_with("Name:\twatch\n")).last().unwrap();
        let line = watch.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse().unwrap()
    };
    // The making of the bridge and the ruleset has been heard.
    let mut before = waits();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = waits();
        if now == before {
            break;
        }
        before = now;
    }
    for (at, space) in spaces.iter().enumerate().skip(1) {
        attach(&daemon, space, &at.to_string());
    }
    let table = String::from_utf8(inside(&daemon, "nft list table inet netd").stdout).unwrap();
    let heard = if table.contains("flags owner") { 0 } else { 2 * ATTACHES };
    let woken = waits() - before;
    assert!(woken <= heard, "{woken} times for {ATTACHES} attaches");
}

#[test]
fn a_dead_sandbox_and_a_tombstone_are_followed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let (dies, stays) = (Space::new(), Space::new());
    attach(&daemon, &dies, "dies");
    attach(&daemon, &stays, "stays");
    drop(dies);
    soon("a dead sandbox", || status(&daemon).leases == 1);
    let tombstones = folder.path().join("run/tombstones");
    let text = r#"{"network":"web","container_id":"stays","interface":"eth0"}"#;
    std::fs::write(tombstones.join("draft"), text).unwrap();
    std::fs::rename(tombstones.join("draft"), tombstones.join("web:stays:eth0.json")).unwrap();
    soon("a tombstone", || status(&daemon).leases == 0);
    soon("the tombstone goes", || !tombstones.join("web:stays:eth0.json").exists());
}

/// `nerdctl network rm` does so: the bridge is its own, the rules are ours.
#[test]
fn a_network_that_its_owner_took_away_leaves_no_rules() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    attach(&daemon, &Space::new(), "web");
    soon("its sandbox is gone", || status(&daemon).attachments == 0 && status(&daemon).draining == 0);
    let speaks_of_it = || {
        let listed = inside(&daemon, "nft list table inet netd");
        assert!(listed.status.success(), "{listed:?}");
        String::from_utf8(listed.stdout).unwrap().contains("br0")
    };
    assert!(speaks_of_it(), "the bridge stays, and what the rules say of it");
    assert!(inside(&daemon, "ip link del br0").status.success());
    soon("its rules are gone", || !speaks_of_it());
}

#[test]
fn after_a_boot_each_container_has_its_address_again() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path());
    let before: Vec<String> = ["a", "b"].iter().map(|name| attach(&daemon, &Space::new(), name)).collect();
    assert_eq!(before, ["10.4.0.2/24", "10.4.0.3/24"]);
    stop(daemon);
    // All that another boot leaves of this one.
    for name in ["journal", "lock"] {
        std::fs::remove_file(folder.path().join("run").join(name)).unwrap();
    }
    let daemon = start(folder.path());
    let spaces = [Space::new(), Space::new(), Space::new()];
    let after: Vec<String> =
        ["new", "b", "a"].iter().zip(&spaces).map(|(name, at)| attach(&daemon, at, name)).collect();
    assert_eq!(after, ["10.4.0.4/24", "10.4.0.3/24", "10.4.0.2/24"]);
}

fn stop(mut daemon: Daemon) {
    let pid = daemon.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(daemon.child.wait().unwrap().success());
}
