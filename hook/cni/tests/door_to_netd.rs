//! What reaches netd, and what the caller gets for netd's answer; what is left where netd does not answer. netd is played by
//! a service that notes what it sees: whole attaches through the real one are shown in `integration`.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod door;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use door::{BINARY, command, finish, text, variables};
use netd_api::server::Netd;
use netd_api::v1::{self, FailureCode};
use ttrpc::asynchronous::TtrpcContext;

const WEB: &str = r#"{ "cniVersion" : "1.1.0",
 "name":"web", "type":"bridge", "colour":[1,2 ] }"#;

/// A request as it arrived, with the inodes of caller's namespace, sandbox and IPAM directory.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    method: &'static str,
    call: v1::Call,
    inodes: [Option<u64>; 3],
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<Seen>>);

impl Notes {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Notes the request; the container `full` fails.
    fn note(&self, method: &'static str, context: &TtrpcContext, call: v1::Call) -> Option<v1::Failure> {
        let descriptors = netd_api::descriptors(context);
        let inode =
            |fd: &Option<OwnedFd>| Some(File::from(fd.as_ref()?.try_clone().unwrap()).metadata().unwrap().ino());
        let inodes = [&descriptors.caller_netns, &descriptors.sandbox_netns, &descriptors.ipam_dir].map(inode);
        let fails = call.container_id == "full";
        self.0.lock().unwrap().push(Seen { method, call, inodes });
        fails.then(|| v1::Failure {
            code: FailureCode::TRY_AGAIN.into(),
            message: "pool 10.4.0.0/24 is full".to_owned(),
            details: "held by a, b".to_owned(),
            ..v1::Failure::default()
        })
    }
}

struct Service(Arc<Notes>);

type Served<T> = ttrpc::Result<T>;

#[async_trait::async_trait]
impl Netd for Service {
    async fn attach(&self, context: &TtrpcContext, request: v1::AttachRequest) -> Served<v1::AttachResponse> {
        let failure = self.0.note("attach", context, request.call.unwrap_or_default()).into();
        Ok(v1::AttachResponse { result: b"{\"ips\":[]}".to_vec(), failure, ..Default::default() })
    }

    async fn detach(&self, context: &TtrpcContext, request: v1::DetachRequest) -> Served<v1::DetachResponse> {
        let failure = self.0.note("detach", context, request.call.unwrap_or_default()).into();
        Ok(v1::DetachResponse { failure, ..Default::default() })
    }

    async fn check(&self, context: &TtrpcContext, request: v1::CheckRequest) -> Served<v1::CheckResponse> {
        let failure = self.0.note("check", context, request.call.unwrap_or_default()).into();
        Ok(v1::CheckResponse { failure, ..Default::default() })
    }

    async fn gc(&self, context: &TtrpcContext, request: v1::GcRequest) -> Served<v1::GcResponse> {
        let failure = self.0.note("gc", context, v1::Call { config: request.config, ..Default::default() }).into();
        Ok(v1::GcResponse { failure, ..Default::default() })
    }

    async fn status(&self, context: &TtrpcContext, request: v1::StatusRequest) -> Served<v1::StatusResponse> {
        let failure = self.0.note("status", context, v1::Call { config: request.config, ..Default::default() }).into();
        Ok(v1::StatusResponse { failure, ..Default::default() })
    }
}

/// One instance: its folder, and netd in it if it runs.
struct Instance {
    folder: tempfile::TempDir,
    notes: Arc<Notes>,
    _netd: Option<(tokio::runtime::Runtime, netd_api::server::Server)>,
}

impl Instance {
    fn away() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), notes: Arc::default(), _netd: None }
    }

    fn running() -> Self {
        let mut instance = Self::away();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = Service(Arc::clone(&instance.notes));
        let socket = instance.folder.path().join("netd.sock");
        let server = runtime.block_on(async { netd_api::bind(&socket).unwrap().serve(Arc::new(service)) }).unwrap();
        instance._netd = Some((runtime, server));
        instance
    }

    fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, "").unwrap();
        path
    }

    fn run(&self, argv0: &str, changed: &[(&str, &str)], stdin: &str) -> Output {
        let mut variables = changed.to_vec();
        variables.push(("NETD_RUN_DIR", self.folder.path().to_str().unwrap()));
        finish(command(Path::new(BINARY), argv0, &variables), stdin.as_bytes())
    }

    fn tombstones(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("tombstones")).into_iter().flatten();
        entries.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
    }
}

/// A netd that takes one request and dies of it.
fn dying_netd(instance: &Instance) -> JoinHandle<()> {
    let listener = UnixListener::bind(instance.folder.path().join("netd.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        // The preamble and the start of the request, which is longer.
        stream.read_exact(&mut [0; 64]).unwrap();
    })
}

fn inode(path: &Path) -> Option<u64> {
    Some(path.metadata().unwrap().ino())
}

fn own_netns() -> Option<u64> {
    inode(Path::new("/proc/self/ns/net"))
}

#[track_caller]
fn assert_silent(output: &Output) {
    let said = (output.status.code(), text(&output.stdout), text(&output.stderr));
    assert_eq!(said, (Some(0), "", ""));
}

const TOMBSTONE: &str = r#"{"network":"web","container_id":"a","interface":"eth0"}"#;

#[test]
fn an_add_hands_over_the_call_as_it_came_and_gives_the_result_back() {
    let instance = Instance::running();
    let (netns, data_dir) = (instance.file("netns"), instance.folder.path().join("networks"));
    std::fs::create_dir(&data_dir).unwrap();
    let stanza = format!(
        "{{\"Name\":\"web\" ,\"type\":\"bridge\",\"IPAM\":{{\"type\":\"host-local\",\"DataDir\":{data_dir:?}}}}}\n"
    );
    let mut variables = variables("ADD", netns.to_str().unwrap());
    variables.push(("CNI_ARGS", "IP=10.4.0.9"));
    let output = instance.run("/opt/cni/bin/bridge", &variables, &stanza);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "{\"ips\":[]}"));
    let call = v1::Call {
        container_id: "a".to_owned(),
        interface: "eth0".to_owned(),
        netns_path: netns.to_str().unwrap().to_owned(),
        cni_args: "IP=10.4.0.9".to_owned(),
        plugin: "bridge".to_owned(),
        config: stanza.into_bytes(),
        ..v1::Call::default()
    };
    let inodes = [own_netns(), inode(&netns), inode(&data_dir)];
    assert_eq!(instance.notes.take(), [Seen { method: "attach", call, inodes }]);
}

#[test]
fn every_name_is_its_own_plugin_and_netd_cni_the_stanzas() {
    let instance = Instance::running();
    let netns = instance.file("netns");
    let variables = variables("CHECK", netns.to_str().unwrap());
    let names = [
        ("netd", "netd"),
        ("/x/loopback", "loopback"),
        ("/opt/cni/bin/ptp", "ptp"),
        ("host-local", "host-local"),
        ("static", "static"),
        ("portmap", "portmap"),
        ("firewall", "firewall"),
        ("tuning", "tuning"),
        ("isolation", "isolation"),
        ("netd-cni", "bridge"),
    ];
    for (argv0, plugin) in names {
        assert_silent(&instance.run(argv0, &variables, WEB));
        let seen = instance.notes.take();
        assert_eq!((seen.len(), seen[0].method, seen[0].call.plugin.as_str()), (1, "check", plugin), "{argv0}");
    }
}

#[test]
fn a_del_hands_over_a_namespace_only_where_there_is_one() {
    let instance = Instance::running();
    let netns = instance.file("netns");
    for (path, expected) in [(netns.to_str().unwrap(), inode(&netns)), ("", None), ("/proc/gone", None)] {
        assert_silent(&instance.run("bridge", &variables("DEL", path), WEB));
        let seen = instance.notes.take();
        assert_eq!((seen.len(), seen[0].method, seen[0].call.netns_path.as_str()), (1, "detach", path));
        assert_eq!(seen[0].inodes, [own_netns(), expected, None], "{path}");
    }
    assert!(instance.tombstones().is_empty(), "netd was told: there is nothing to note");
}

#[test]
fn gc_and_status_bring_the_stanza() {
    let instance = Instance::running();
    for (command, method) in [("GC", "gc"), ("STATUS", "status")] {
        assert_silent(&instance.run("bridge", &[("CNI_COMMAND", command), ("CNI_PATH", "/bin")], WEB));
        let call = v1::Call { config: WEB.as_bytes().to_vec(), ..v1::Call::default() };
        assert_eq!(instance.notes.take(), [Seen { method, call, inodes: [None, None, None] }]);
    }
}

#[test]
fn netds_failure_is_the_callers() {
    let instance = Instance::running();
    let netns = instance.file("netns");
    for command in ["ADD", "DEL", "CHECK"] {
        let mut variables = variables(command, netns.to_str().unwrap());
        variables.push(("CNI_CONTAINERID", "full"));
        let output = instance.run("bridge", &variables, WEB);
        let expected = "{\n    \"cniVersion\": \"1.1.0\",\n    \"code\": 11,\n    \"msg\": \"pool 10.4.0.0/24 is full\",\n    \
                        \"details\": \"held by a, b\"\n}";
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), expected), "{command}");
    }
    assert!(instance.tombstones().is_empty(), "a detach that netd refused is not left for it again");
}

#[test]
fn a_call_into_its_own_namespace_does_not_reach_netd() {
    let instance = Instance::running();
    for command in ["ADD", "DEL"] {
        let mut variables = variables(command, "/proc/self/ns/net");
        assert_eq!(instance.run("bridge", &variables, WEB).status.code(), Some(1));
        assert_eq!(instance.notes.take(), []);
        variables.push(("CNI_NETNS_OVERRIDE", "true"));
        assert_eq!(instance.run("bridge", &variables, WEB).status.code(), Some(0));
        assert_eq!(instance.notes.take().len(), 1);
    }
}

#[test]
fn a_del_without_netd_succeeds_and_leaves_one_tombstone_for_the_whole_chain() {
    let instance = Instance::away();
    for argv0 in ["tuning", "firewall", "portmap", "bridge"] {
        assert_silent(&instance.run(argv0, &variables("DEL", ""), WEB));
    }
    assert_eq!(instance.tombstones(), [TOMBSTONE]);
}

#[test]
fn a_del_that_netd_does_not_answer_leaves_a_tombstone() {
    let instance = Instance::away();
    let netd = dying_netd(&instance);
    assert_silent(&instance.run("bridge", &variables("DEL", ""), WEB));
    netd.join().unwrap();
    assert_eq!(instance.tombstones(), [TOMBSTONE]);
}

#[test]
fn an_add_that_netd_does_not_answer_fails() {
    let instance = Instance::away();
    let netns = instance.file("netns");
    let netd = dying_netd(&instance);
    let output = instance.run("bridge", &variables("ADD", netns.to_str().unwrap()), WEB);
    netd.join().unwrap();
    let said = text(&output.stdout);
    assert!(output.status.code() == Some(1) && said.contains("\"code\": 11"), "{said}");
    assert!(
        said.contains(
            "netd did not answer Attach; is it stopping? (`systemctl status netd`, `journalctl -u netd -e`): it hung up"
        ),
        "{said}"
    );
    assert!(instance.tombstones().is_empty());
}

#[test]
fn a_file_beside_the_link_names_the_instance() {
    let instance = Instance::running();
    let plugins = instance.folder.path().join("cni");
    std::fs::create_dir(&plugins).unwrap();
    let line = format!("run_dir = {:?}\n", instance.folder.path());
    std::fs::write(plugins.join("netd-cni.conf"), line).unwrap();
    symlink(BINARY, plugins.join("bridge")).unwrap();
    let path = plugins.join("bridge");
    let output = finish(command(&path, path.to_str().unwrap(), &variables("DEL", "")), WEB.as_bytes());
    assert_silent(&output);
    assert_eq!(instance.notes.take().len(), 1);
}
