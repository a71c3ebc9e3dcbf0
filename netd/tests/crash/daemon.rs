//! The real netd in a node's namespace: started, killed, asked. What is right and wrong is `verdict`'s.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking};
use serde_json::Value;

use crate::namespace::{Namespace, Sandbox};

const PATIENCE: Duration = Duration::from_secs(60);

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallFailure {
    /// netd is away, or went away under the call.
    Cut,
    /// netd's words.
    Refused(String),
}

/// A node, and the netd in it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    folder: tempfile::TempDir,
    child: Child,
}

impl Node {
    pub(crate) fn start() -> Self {
        let namespace = Namespace::new();
        namespace.command("ip link set lo up");
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("run");
        let socket = run_dir.join("netd.sock");
        let settings = format!("run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\nconf_dirs = []\n");
        fs::write(folder.path().join("netd.toml"), settings).unwrap();
        let child = spawn(&namespace, folder.path());
        let mut node = Self { namespace, folder, child };
        node.until_it_answers();
        node
    }

    pub(crate) fn door(&self) -> Door {
        Door { socket: self.folder.path().join("run/netd.sock") }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`, and a new netd that may not answer yet.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.namespace, self.folder.path());
    }

    pub(crate) fn until_it_answers(&mut self) {
        let start = Instant::now();
        while self.door().status().is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("netd ended at its start: {status}\n{}", self.log());
            }
            assert!(start.elapsed() < PATIENCE, "netd does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The end of what all daemons of this node said.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(200)..].join("\n")
    }

    /// Links, ports and neighbours as they are.
    pub(crate) fn picture(&self) -> String {
        let look = ["ip -br link", "bridge link", "bridge fdb", "ip neigh", "ip -6 neigh"];
        look.map(|line| self.namespace.command(line)).concat()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(namespace: &Namespace, folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_netd"));
    command
        .arg("--config")
        .arg(folder.join("netd.toml"))
        .env("NETD_LOG", "info")
        .env("NO_COLOR", "1")
        .stderr(log)
        .process_group(0);
    namespace.run(|| command.spawn().unwrap())
}

/// The way to netd, whichever lives at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    socket: PathBuf,
}

impl Door {
    /// One stanza of a chain.
    pub(crate) fn attach(&self, sandbox: &Sandbox, container: &str, config: &Value) -> Result<Value, CallFailure> {
        let netns = sandbox.namespace.0.as_fd();
        let client = Client::connect(&self.socket, &[(Tag::SandboxNetns, netns)]).map_err(|_| CallFailure::Cut)?;
        let mut request = blocking::AttachRequest::new();
        request.call = Some(call(container, &format!("/run/netns/{container}"), config)).into();
        let response = client.attach(&request).map_err(|_| CallFailure::Cut)?;
        match response.failure.as_ref() {
            Some(failure) => Err(CallFailure::Refused(failure.message.clone())),
            None => Ok(serde_json::from_slice(&response.result).unwrap()),
        }
    }

    /// With the sandbox, or as nerdctl does it without.
    pub(crate) fn detach(&self, sandbox: Option<&Sandbox>, container: &str, config: &Value) -> Result<(), CallFailure> {
        let tags: Vec<_> =
            sandbox.map(|sandbox| (Tag::SandboxNetns, sandbox.namespace.0.as_fd())).into_iter().collect();
        let client = Client::connect(&self.socket, &tags).map_err(|_| CallFailure::Cut)?;
        let mut request = blocking::DetachRequest::new();
        request.call = Some(call(container, "", config)).into();
        let response = client.detach(&request).map_err(|_| CallFailure::Cut)?;
        response.failure.as_ref().map_or(Ok(()), |failure| Err(CallFailure::Refused(failure.message.clone())))
    }

    pub(crate) fn status(&self) -> Result<blocking::StatusResponse, CallFailure> {
        let client = Client::connect(&self.socket, &[]).map_err(|_| CallFailure::Cut)?;
        client.status(&blocking::StatusRequest::new()).map_err(|_| CallFailure::Cut)
    }

    pub(crate) fn list(&self) -> blocking::ListResponse {
        Client::connect(&self.socket, &[]).unwrap().list(&blocking::ListRequest::new()).unwrap()
    }

    pub(crate) fn resync(&self) -> Vec<String> {
        let client = Client::connect(&self.socket, &[]).unwrap();
        let response = client.resync(&blocking::ResyncRequest::new()).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
        response.steps
    }
}

fn call(container: &str, netns_path: &str, config: &Value) -> blocking::Call {
    let mut call = blocking::Call::new();
    call.container_id = container.to_owned();
    call.interface = "eth0".to_owned();
    call.netns_path = netns_path.to_owned();
    call.config = config.to_string().into_bytes();
    call
}
