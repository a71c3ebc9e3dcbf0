//! A whole request: client, descriptors, API, owner, journal, real kernel. In a namespace of its own; needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, mpsc};

use netd::executor::Executor;
use netd::journal::Journal;
use netd::networks::Networks;
use netd::node::Node;
use netd::owner;
use netd::reservations::Reservations;
use netd::server::Service;
use netd_api::{Client, Tag, blocking};
use netd_kernel::LinuxKernel;
use nix::sched::{CloneFlags, unshare};

const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]],
    "routes":[{"dst":"0.0.0.0/0"}]}}"#;

fn call(config: &str, container: &str, netns_path: &str) -> blocking::Call {
    let mut call = blocking::Call::new();
    call.container_id = container.to_owned();
    call.interface = "eth0".to_owned();
    call.netns_path = netns_path.to_owned();
    call.plugin = "bridge".to_owned();
    call.config = config.as_bytes().to_vec();
    call
}

fn attach(socket: &Path, sandbox: &File, call: blocking::Call) -> blocking::AttachResponse {
    let client = Client::connect(socket, &[(Tag::SandboxNetns, sandbox.as_fd())]).unwrap();
    let mut request = blocking::AttachRequest::new();
    request.call = Some(call).into();
    client.attach(&request).unwrap()
}

fn detach(socket: &Path, call: blocking::Call) {
    let mut request = blocking::DetachRequest::new();
    request.call = Some(call).into();
    let response = Client::connect(socket, &[]).unwrap().detach(&request).unwrap();
    assert!(response.failure.is_none(), "{response:?}");
}

/// A namespace that lives as long as the descriptor.
fn new_sandbox() -> File {
    let (opened, fd) = mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        opened.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
    });
    fd.recv().unwrap()
}

/// Serves a node in a new namespace (the runtime's threads inherit it) while `test` runs outside.
fn with_netd(test: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let conf_dir = folder.path().join("net.d");
    let (journal_path, listening) = (folder.path().join("journal"), socket.clone());
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = mpsc::channel::<()>();
    let node = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut server = runtime.block_on(async {
            let (journal, _) = Journal::open(&journal_path, "boot").unwrap();
            let service = Service {
                owner: owner::start(Node::new("nd"), journal),
                executor: Arc::new(Executor::new(Arc::new(LinuxKernel::new().unwrap()))),
                reservations: Arc::new(Reservations::default()),
                networks: Networks::watch(vec![conf_dir]).unwrap(),
                tombstones: journal_path.with_file_name("tombstones"),
                instance: "test".to_owned(),
            };
            let mut server = netd_api::listen(&listening, Arc::new(service)).unwrap();
            server.start().await.unwrap();
            server
        });
        ready.send(()).unwrap();
        assert!(stopped.recv().is_ok());
        runtime.block_on(server.shutdown()).unwrap();
    });
    is_ready.recv().unwrap();
    test(&socket);
    stop.send(()).unwrap();
    node.join().unwrap();
}

#[test]
fn an_attach_is_answered_twice_alike_and_a_detach_frees_the_address_for_its_own() {
    with_netd(|socket| {
        let sandbox = new_sandbox();
        let first = attach(socket, &sandbox, call(WEB, "a", "/run/netns/a"));
        assert!(first.failure.is_none(), "{first:?}");
        let result: serde_json::Value = serde_json::from_slice(&first.result).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.4.0.2/24");
        assert_eq!(result["ips"][0]["interface"], 2);
        assert_eq!(result["interfaces"][0]["name"], "br0");
        assert_eq!(result["interfaces"][2]["sandbox"], "/run/netns/a");
        let again = attach(socket, &sandbox, call(WEB, "a", "/run/netns/a"));
        assert_eq!(again.result, first.result);
        // As nerdctl does it: a detach without a namespace, then the same container anew.
        detach(socket, call(WEB, "a", ""));
        detach(socket, call(WEB, "a", ""));
        let fresh = new_sandbox();
        let anew = attach(socket, &fresh, call(WEB, "a", "/run/netns/a2"));
        let result: serde_json::Value = serde_json::from_slice(&anew.result).unwrap();
        assert_eq!(result["ips"][0]["address"], "10.4.0.2/24", "{anew:?}");
    });
}

#[test]
fn what_is_not_enforced_is_refused_and_leaves_nothing() {
    with_netd(|socket| {
        let masquerading = WEB.replace("\"isGateway\"", "\"ipMasq\":true,\"isGateway\"");
        let refused = attach(socket, &new_sandbox(), call(&masquerading, "a", "/run/netns/a"));
        assert!(refused.failure.message.contains("ipMasq is not enforced by this netd yet"), "{refused:?}");
        let status = Client::connect(socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap();
        assert_eq!((status.attachments, status.leases), (0, 0));
    });
}

#[test]
fn a_file_that_is_no_namespace_is_refused_by_name() {
    with_netd(|socket| {
        let file = tempfile::tempfile().unwrap();
        let refused = attach(socket, &file, call(WEB, "a", "/run/netns/a"));
        assert!(refused.failure.message.starts_with("cannot use network namespace \"/run/netns/a\""), "{refused:?}");
    });
}

#[test]
fn networks_of_the_watched_directory_are_listed_with_their_attachments_and_mistakes() {
    with_netd(|socket| {
        let folder = socket.with_file_name("net.d");
        std::fs::create_dir(&folder).unwrap();
        let plugin = WEB.replace("\"cniVersion\":\"1.0.0\",\"name\":\"web\",", "");
        let list = format!(r#"{{"cniVersion":"1.0.0","name":"web","plugins":[{plugin}],"colour":1}}"#);
        std::fs::write(folder.join("10-web.conflist"), &list).unwrap();
        std::fs::write(folder.join("20-bad.conflist"), "{").unwrap();
        let sandbox = new_sandbox();
        let attached = attach(socket, &sandbox, call(WEB, "a", "/run/netns/a"));
        assert!(attached.failure.is_none(), "{attached:?}");
        let networks = listed(socket, 2).networks;
        let web = &networks[0];
        assert_eq!((web.name.as_str(), web.cni_version.as_str(), web.bridge.as_str()), ("web", "1.0.0", "br0"));
        assert_eq!(
            (web.types.join(" "), web.subnets.join(" "), web.attachments),
            ("bridge".into(), "10.4.0.0/24".into(), 1)
        );
        assert_eq!(
            (web.unknown_keys.join(" "), web.config.as_slice(), web.error.as_str()),
            ("colour".into(), list.as_bytes(), "")
        );
        let bad = &networks[1];
        assert!(bad.error.contains("20-bad.conflist: not JSON: ") && bad.name.is_empty(), "{bad:?}");
        let status = Client::connect(socket, &[]).unwrap().status(&blocking::StatusRequest::new()).unwrap();
        assert_eq!(status.networks, 1);
    });
}

/// The networks once there are `count` files.
fn listed(socket: &Path, count: usize) -> blocking::NetworksResponse {
    let client = Client::connect(socket, &[]).unwrap();
    let start = std::time::Instant::now();
    loop {
        let response = client.networks(&blocking::NetworksRequest::new()).unwrap();
        if response.networks.len() == count {
            return response;
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{response:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
