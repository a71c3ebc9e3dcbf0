//! The binary: against a real netd, against one that answers everything, and against none. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd_api::{Client, blocking, v1};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use ttrpc::asynchronous::TtrpcContext;

fn netdctl(socket: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netdctl")).arg("--socket").arg(socket).args(arguments).output().unwrap()
}

/// Standard output of a run that succeeds.
#[track_caller]
fn said(socket: &Path, arguments: &[&str]) -> String {
    let output = netdctl(socket, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Exit status and standard error of a run.
fn failed(socket: &Path, arguments: &[&str]) -> (i32, String) {
    let output = netdctl(socket, arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A process of this test, which ends with it.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A netd in a network namespace of its own. Cargo builds it first: a test only has the binaries of its own package. A run of all
/// tests has it already, with these arguments: with others it would have other features, and be built anew.
fn real_netd(folder: &Path) -> (Process, PathBuf) {
    let binary = Path::new(env!("CARGO_BIN_EXE_netdctl")).with_file_name("netd");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--workspace", "--bins", "--examples"]);
    if binary.components().any(|part| part.as_os_str() == "release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "netd does not build");
    let (run_dir, config) = (folder.join("run"), folder.join("netd.toml"));
    let socket = run_dir.join("netd.sock");
    std::fs::write(&config, format!("run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\n")).unwrap();
    let child = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        Command::new(binary).arg("--config").arg(config).spawn().unwrap()
    });
    let netd = Process(child.join().unwrap());
    let start = Instant::now();
    let answers = || Client::connect(&socket, &[]).ok()?.status(&blocking::StatusRequest::new()).ok();
    while answers().is_none() {
        assert!(start.elapsed() < Duration::from_secs(60), "netd does not answer");
        std::thread::sleep(Duration::from_millis(20));
    }
    (netd, socket)
}

#[test]
fn a_real_netd_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (netd, socket) = real_netd(folder.path());
    assert!(said(&socket, &["status"]).contains("instance         netd\n"));
    let status: Value = serde_json::from_str(&said(&socket, &["status", "-o", "json"])).unwrap();
    assert_eq!((&status["version"], &status["attachments"]), (&env!("CARGO_PKG_VERSION").into(), &0.into()));
    assert_eq!(said(&socket, &["sandbox", "ls"]), "No sandboxes: nothing is attached.\n");
    assert_eq!(said(&socket, &["lease", "ls", "-o", "json"]), "[]\n");
    assert!(said(&socket, &["node", "ls"]).contains("part of no fleet"));
    assert_eq!(said(&socket, &["block", "ls", "-o", "json"]), "[]\n");
    let (status, text) = failed(&socket, &["peer", "check"]);
    assert!(status == 3 && text.contains("name one in [fleet] of netd.toml"), "{text}");
    assert!(said(&socket, &["resync", "--dry-run"]).starts_with("Nothing would be done"));
    assert!(said(&socket, &["resync"]).starts_with("Nothing was done"));
    drop(netd);
    // The socket's file is still there.
    let (status, text) = failed(&socket, &["status"]);
    assert_eq!(status, 1);
    assert!(text.contains("netd has died") && text.contains("systemctl restart netd"), "{text}");
}

/// A process in a network namespace of its own, to be attached.
fn sandbox() -> Process {
    let child = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("sleep").arg("600").spawn().unwrap()
    });
    Process(child.join().unwrap())
}

#[test]
fn an_attachment_is_seen_until_it_is_gone() {
    const NETWORK: &str = r#"{"cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "br0",
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}"#;
    let folder = tempfile::tempdir().unwrap();
    let ((_netd, socket), sandbox) = (real_netd(folder.path()), sandbox());
    let call = blocking::Call {
        container_id: format!("default-{}", "ab".repeat(32)),
        interface: "eth0".to_owned(),
        netns_path: format!("/proc/{}/ns/net", sandbox.0.id()),
        plugin: "bridge".to_owned(),
        config: NETWORK.as_bytes().to_vec(),
        ..blocking::Call::new()
    };
    let client = Client::connect(&socket, &[]).unwrap();
    let attach = blocking::AttachRequest { call: Some(call.clone()).into(), ..blocking::AttachRequest::new() };
    assert_eq!(client.attach(&attach).unwrap().failure.into_option(), None);
    let listed = said(&socket, &["sandbox", "ls"]);
    let row = listed.lines().nth(1).unwrap();
    assert!(row.starts_with("abababababab  ") && row.contains("  web  ") && row.ends_with("  attached"), "{listed}");
    assert!(said(&socket, &["lease", "ls"]).contains("10.9.0.2/24  web      abababababab  eth0 "));
    assert!(said(&socket, &["status"]).contains("attachments      1\n"));
    let detach = blocking::DetachRequest { call: Some(call).into(), ..blocking::DetachRequest::new() };
    assert_eq!(client.detach(&detach).unwrap().failure.into_option(), None);
    // The link goes behind the answer; until then the address is nobody else's, and is shown.
    let start = Instant::now();
    while said(&socket, &["sandbox", "ls"]) != "No sandboxes: nothing is attached.\n" {
        assert!(start.elapsed() < Duration::from_secs(30), "{}", said(&socket, &["sandbox", "ls"]));
    }
}

#[test]
fn no_netd_says_what_to_do() {
    let (status, text) = failed(Path::new("/nowhere/netd.sock"), &["network", "ls"]);
    assert_eq!(status, 1);
    assert!(text.contains("there is no socket /nowhere/netd.sock") && text.contains("systemctl start netd"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    // 1 would say no.
    for judging in
        [&["policy", "test", "a", "b:80"][..], &["policy", "validate", "/nowhere/a.yaml"], &["peer", "check"]]
    {
        assert_eq!(failed(Path::new("/nowhere/netd.sock"), judging).0, 3, "{judging:?}");
    }
    let output = netdctl(Path::new("/nowhere/netd.sock"), &["doctor", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "netd absent is a problem");
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let netd = findings.as_array().unwrap().iter().find(|finding| finding["object"] == "netd").unwrap();
    assert_eq!(netd["level"], "problem");
}

#[test]
fn wrong_usage_is_two() {
    for wrong in [&["statsu"][..], &["network", "inspect"], &["status", "-o", "yaml"], &[]] {
        assert_eq!(failed(Path::new("/x"), wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn shells_and_manuals_are_served_without_netd() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(Path::new("/x"), &["completion", shell]).contains("netdctl"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    said(Path::new("/x"), &["man", folder.path().to_str().unwrap()]);
    assert!(std::fs::read_to_string(folder.path().join("netdctl.1")).unwrap().contains("resync"));
    assert!(folder.path().join("netdctl-network-inspect.1").exists());
}

#[test]
fn flannels_configuration_is_translated_without_netd() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net-conf.json");
    std::fs::write(&file, r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}"#).unwrap();
    let nowhere = Path::new("/nowhere/netd.sock");
    let arguments = ["translate", "flannel", file.to_str().unwrap(), "--etcd", "http://192.0.2.1:2379"];
    let settings = said(nowhere, &arguments);
    assert!(
        settings.contains("[fleet]\n") && settings.ends_with("\netcd = [\"http://192.0.2.1:2379\"]\n"),
        "{settings}"
    );
    let told: Value = serde_json::from_str(&said(nowhere, &[&arguments[..3], &["-o", "json"]].concat())).unwrap();
    assert_eq!(
        (told["notes"].as_array().map(Vec::len), told["settings"].as_str().unwrap().lines().last()),
        (Some(0), Some("# etcd = [\"http://ADDRESS:2379\"]"),)
    );
    // As `etcdctl get` writes what is not there.
    let output =
        Command::new(env!("CARGO_BIN_EXE_netdctl")).args(["translate", "flannel", "-"]).stdin(Stdio::null()).output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("does etcd have that key"), "{text}");
}

/// A netd with every field filled.
struct Talkative;

#[async_trait::async_trait]
impl netd_api::server::Netd for Talkative {
    async fn list(&self, _: &TtrpcContext, request: v1::ListRequest) -> ttrpc::Result<v1::ListResponse> {
        let attachment = |container: &str, interface: &str| v1::Attachment {
            network: "web".to_owned(),
            container_id: container.to_owned(),
            interface: interface.to_owned(),
            host_interface: "nd1".to_owned(),
            mode: "bridge".to_owned(),
            bridge: "br0".to_owned(),
            addresses: vec!["10.9.0.2/24".to_owned()],
            mac: "02:00:00:00:00:01".to_owned(),
            netns_path: "/run/netns/x".to_owned(),
            state: "attached".to_owned(),
            name: "shop".to_owned(),
            labels: [("app".to_owned(), "shop".to_owned())].into(),
            namespace: "default".to_owned(),
            ports: vec![v1::PublishedPort {
                protocol: "tcp".to_owned(),
                host_port: 8080,
                container_port: 80,
                ..v1::PublishedPort::default()
            }],
            ..v1::Attachment::default()
        };
        let hash = "ab".repeat(32);
        // Each in a message of its own.
        let (container, next) = match request.from.as_str() {
            "" => (format!("default-{hash}"), "web:abacus"),
            _ => ("abacus".to_owned(), ""),
        };
        let (attachments, next) = (vec![attachment(&container, "eth0")], next.to_owned());
        Ok(v1::ListResponse { attachments, next, ..v1::ListResponse::default() })
    }

    async fn networks(&self, _: &TtrpcContext, _: v1::NetworksRequest) -> ttrpc::Result<v1::NetworksResponse> {
        let network = v1::Network {
            name: "web".to_owned(),
            file: "/etc/cni/net.d/web.conflist".to_owned(),
            config: b"{\"name\": \"web\"}".to_vec(),
            ..v1::Network::default()
        };
        Ok(v1::NetworksResponse { networks: vec![network], ..v1::NetworksResponse::default() })
    }

    async fn remove_node(
        &self,
        _: &TtrpcContext,
        request: v1::RemoveNodeRequest,
    ) -> ttrpc::Result<v1::RemoveNodeResponse> {
        let mut answer = v1::RemoveNodeResponse {
            name: request.name,
            instance: request.instance.repeat(16),
            blocks: vec!["10.4.2.0/24".to_owned()],
            done: true,
            ..v1::RemoveNodeResponse::default()
        };
        if request.lost {
            let failure = v1::Failure { message: "n2 is not waited for".to_owned(), ..v1::Failure::default() };
            answer.failure = Some(failure).into();
        }
        Ok(answer)
    }

    async fn add_pool(&self, _: &TtrpcContext, request: v1::AddPoolRequest) -> ttrpc::Result<v1::AddPoolResponse> {
        let (name, range) = (request.pool.clone(), request.pool.clone());
        let mut answer = v1::AddPoolResponse { name, range, done: true, ..v1::AddPoolResponse::default() };
        if request.pool == "10.6.0.0/16" {
            let failure = v1::Failure { message: "write it to fleet.pools first".to_owned(), ..v1::Failure::default() };
            answer.failure = Some(failure).into();
        }
        Ok(answer)
    }

    async fn resync(&self, _: &TtrpcContext, request: v1::ResyncRequest) -> ttrpc::Result<v1::ResyncResponse> {
        let mut answer =
            v1::ResyncResponse { steps: vec!["delete veth nd9".to_owned()], ..v1::ResyncResponse::default() };
        if !request.dry_run {
            let failure = v1::Failure { message: "the kernel is busy; try again".to_owned(), ..v1::Failure::default() };
            answer.failure = Some(failure).into();
        }
        Ok(answer)
    }
}

#[test]
fn files_are_examined_without_netd_for_programs_too() {
    let folder = tempfile::tempdir().unwrap();
    let [good, wrong] = ["good.yaml", "wrong.yaml"].map(|name| folder.path().join(name).display().to_string());
    let policy =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {}}\n";
    std::fs::write(&good, policy).unwrap();
    std::fs::write(&wrong, "kind: 7\n").unwrap();
    let nowhere = Path::new("/nowhere/netd.sock");
    assert_eq!(said(nowhere, &["policy", "validate", &good]), format!("{good}: good, 1 policies\n"));
    let output = netdctl(nowhere, &["policy", "validate", &good, &wrong, "-o", "json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&all[0]["policies"], &all[0]["errors"]), (&1.into(), &serde_json::json!([])));
    assert!(all[1]["errors"][0].as_str().unwrap().starts_with(&wrong), "{all}");
}

#[test]
fn every_answer_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(async { netd_api::bind(&socket).unwrap().serve(Arc::new(Talkative)) }).unwrap();

    let row = "abababababab  shop  default    web       10.9.0.2   8080->80/tcp  attached\n";
    assert!(said(&socket, &["sandbox", "ls"]).contains(row));
    assert!(said(&socket, &["sandbox", "ls", "--no-trunc"]).contains(&"ab".repeat(32)));
    assert!(said(&socket, &["sandbox", "inspect", "abab"]).contains("/run/netns/x"));
    let inspected: Value = serde_json::from_str(&said(&socket, &["sandbox", "inspect", "abac", "-o", "json"])).unwrap();
    assert_eq!((&inspected["id"], &inspected["labels"]["app"]), (&"abacus".into(), &"shop".into()));
    let (status, text) = failed(&socket, &["sandbox", "inspect", "aba"]);
    assert!(status == 1 && text.contains("say which by its id") && text.contains("abacus"), "{text}");
    assert!(said(&socket, &["lease", "ls"]).contains("10.9.0.2/24"));

    assert!(said(&socket, &["network", "ls"]).contains("/etc/cni/net.d/web.conflist"));
    assert!(!said(&socket, &["network", "ls", "-o", "json"]).contains("config"));
    let inspected: Value = serde_json::from_str(&said(&socket, &["network", "inspect", "web", "-o", "json"])).unwrap();
    assert_eq!(inspected["config"]["name"], "web");
    assert_eq!(failed(&socket, &["network", "inspect", "x"]).0, 1);

    let removed = said(&socket, &["node", "rm", "n2", "--instance", "3f"]);
    let instance = "3f".repeat(16);
    assert_eq!(
        removed,
        format!("n2 ({instance}) is removed from the fleet.\nOthers may take its blocks: 10.4.2.0/24.\n")
    );
    let removed: Value = serde_json::from_str(&said(&socket, &["node", "rm", "n2", "-o", "json"])).unwrap();
    assert_eq!((&removed["done"], &removed["blocks"][0]), (&true.into(), &"10.4.2.0/24".into()));
    let (status, text) = failed(&socket, &["node", "rm", "n2", "--lost"]);
    assert_eq!((status, text.as_str()), (1, "netdctl: n2 is not waited for\n"));

    assert!(said(&socket, &["pool", "add", "10.5.0.0/16"]).starts_with("Pool 10.5.0.0/16 is the fleet's.\n"));
    let (status, text) = failed(&socket, &["pool", "add", "10.6.0.0/16"]);
    assert_eq!((status, text.as_str()), (1, "netdctl: write it to fleet.pools first\n"));

    assert!(said(&socket, &["resync", "--dry-run"]).contains("delete veth nd9"));
    let (status, text) = failed(&socket, &["resync"]);
    assert_eq!((status, text.as_str()), (1, "netdctl: the kernel is busy; try again\n"));
    // This one does not have Status, as an older netd lacks what is new.
    let (status, text) = failed(&socket, &["status"]);
    assert!(status == 1 && text.contains("older than this netdctl"), "{text}");
    drop(server);
}
