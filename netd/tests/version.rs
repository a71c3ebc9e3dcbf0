//! A netd that is put in the place of a newer one: it does not start, takes nothing away, and says what to do; the newer
//! one then goes on where it was. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking};
use rig::daemon::answers;
use rig::{Space, call};

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

struct Node {
    folder: tempfile::TempDir,
    space: Space,
}

impl Node {
    fn new() -> Self {
        let node = Self { folder: tempfile::tempdir().unwrap(), space: Space::new() };
        let (run_dir, socket) = (node.run_dir(), node.socket());
        let settings = format!(
            "run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\nconf_dirs = []\ncontainerd_socket = ''\n"
        );
        std::fs::write(node.folder.path().join("netd.toml"), settings).unwrap();
        node
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn socket(&self) -> PathBuf {
        self.run_dir().join("netd.sock")
    }

    fn spawn(&self) -> Child {
        let mut netd = Command::new(env!("CARGO_BIN_EXE_netd"));
        netd.arg("--config").arg(self.folder.path().join("netd.toml")).env("RUST_BACKTRACE", "0");
        self.space.run(move || netd.stderr(Stdio::piped()).spawn().unwrap())
    }

    fn start(&self) -> Child {
        let (mut netd, begin) = (self.spawn(), Instant::now());
        while !answers(&self.socket()) {
            assert!(netd.try_wait().unwrap().is_none(), "netd ended at once");
            assert!(begin.elapsed() < Duration::from_secs(60), "netd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        netd
    }

    /// Starts it, and waits until it has ended by itself.
    fn try_to_start(&self) -> Output {
        self.spawn().wait_with_output().unwrap()
    }
}

fn kill(mut netd: Child) {
    netd.kill().unwrap();
    netd.wait().unwrap();
}

fn attach(node: &Node, space: &Space, container: &str) {
    let mut request = blocking::AttachRequest::new();
    request.call = Some(call(WEB, container, "/nonexistent")).into();
    let client = Client::connect(&node.socket(), &[(Tag::SandboxNetns, space.fd.as_fd())]).unwrap();
    let response = client.attach(&request).unwrap();
    assert!(response.failure.is_none(), "{response:?}");
}

fn listed(node: &Node) -> Vec<(String, String)> {
    let list = Client::connect(&node.socket(), &[]).unwrap().list(&blocking::ListRequest::new()).unwrap();
    list.attachments.into_iter().map(|one| (one.container_id, one.addresses.join(" "))).collect()
}

/// The journal's first line with another version.
fn of_version(journal: &Path, from: &str, to: &str) -> Vec<u8> {
    let content = std::fs::read(journal).unwrap();
    let (before, after) = (format!("netd-journal {from} "), format!("netd-journal {to} "));
    [after.as_bytes(), content.strip_prefix(before.as_bytes()).unwrap()].concat()
}

#[test]
fn a_newer_netds_journal_is_refused_and_its_sandboxes_go_on() {
    let node = Node::new();
    let netd = node.start();
    let (one, two) = (Space::new(), Space::new());
    attach(&node, &one, "one");
    attach(&node, &two, "two");
    two.serve(80);
    assert_eq!(one.hears_in_the_end("10.4.0.3:80").as_deref(), Ok("10.4.0.2"));
    let before = listed(&node);
    kill(netd);
    let journal = node.run_dir().join("journal");
    let newer = of_version(&journal, "1", "2");
    std::fs::write(&journal, &newer).unwrap();
    let ruleset = || node.space.command("nft list ruleset");
    let links = || node.space.command("ip -o link");
    let (rules_before, links_before) = (ruleset(), links());
    // A service manager starts it again and again.
    for _ in 0..2 {
        let ended = node.try_to_start();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1));
        assert!(said.contains("has version 2; this netd reads 1"), "{said}");
        assert!(said.contains("start the netd that wrote it, or stop all containers and remove the file"), "{said}");
    }
    assert_eq!((ruleset(), links()), (rules_before, links_before));
    assert_eq!(std::fs::read(&journal).unwrap(), newer, "nothing of it is lost");
    assert!(Client::connect(&node.socket(), &[]).is_err(), "what cannot be recorded is not attached");
    assert_eq!(one.hears("10.4.0.3:80").as_deref(), Ok("10.4.0.2"));

    // The netd that wrote it.
    std::fs::write(&journal, of_version(&journal, "2", "1")).unwrap();
    let netd = node.start();
    assert_eq!(listed(&node), before);
    let mut request = blocking::DetachRequest::new();
    request.call = Some(call(WEB, "one", "")).into();
    let answer = Client::connect(&node.socket(), &[]).unwrap().detach(&request).unwrap();
    assert!(answer.failure.is_none(), "{answer:?}");
    let left: Vec<String> = listed(&node).into_iter().map(|(container, _)| container).collect();
    assert!(left.contains(&"two".to_owned()));
    kill(netd);
}

#[test]
fn after_a_boot_a_newer_netds_journal_is_in_nobodys_way() {
    let node = Node::new();
    std::fs::create_dir_all(node.run_dir()).unwrap();
    let journal = node.run_dir().join("journal");
    std::fs::write(&journal, "netd-journal 2 another-boot\n\0\0").unwrap();
    kill(node.start());
    assert!(std::fs::read(&journal).unwrap().starts_with(b"netd-journal 1 "));
}
