//! Clients of containerd: a CRI client, a client that works as nerdctl does, and `ctr run --cni`. The networks they get are
//! CNI's; none of them is told which.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{BUSYBOX, Containerd, Node, Place, parts};

const SOCKET: &str = "/run/containerd/containerd.sock";

/// What a command printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// 0 where it succeeded; -1 where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A CRI client on a node.
#[derive(Debug)]
pub struct Cri<'node> {
    node: &'node Node,
    program: PathBuf,
}

/// The pod to run.
#[derive(Debug, Clone, Default)]
pub struct PodWish<'text> {
    /// Its name; its CRI namespace is `default`, its UID `uid-` and the name.
    pub name: &'text str,
    /// Labels.
    pub labels: &'text [(&'text str, &'text str)],
    /// Annotations.
    pub annotations: &'text [(&'text str, &'text str)],
    /// Published TCP ports: of the node, of the pod.
    pub ports: &'text [(u16, u16)],
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its sandbox's id.
    pub id: String,
    /// Its addresses by CRI's status, the first one first.
    pub addresses: Vec<String>,
    /// Its network namespace.
    pub place: Place,
    config: Value,
}

impl<'node> Cri<'node> {
    /// A client of the node's containerd.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn new(node: &'node Node) -> Result<Self> {
        Ok(Self { node, program: parts::clients()?.join("cri") })
    }

    /// Any call of CRI's `RuntimeService`, with messages in JSON.
    ///
    /// # Errors
    /// The call failed; the text is containerd's.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value> {
        let mut command = Command::new(&self.program);
        let text = self.node.place.output(command.args([SOCKET, "call", method]), &request.to_string())?;
        serde_json::from_str(&text).with_context(|| format!("the response of {method} is no JSON: {text:?}"))
    }

    /// Runs a pod and reads its status.
    ///
    /// # Errors
    /// CRI refused it; the text is containerd's.
    pub fn run_pod(&self, wish: &PodWish<'_>) -> Result<Pod> {
        let config = wish.config();
        let made = self.call("RunPodSandbox", &json!({"config": config}))?;
        let id = made["podSandboxId"].as_str().context("RunPodSandbox gave no id")?.to_owned();
        let status = self.call("PodSandboxStatus", &json!({"podSandboxId": id, "verbose": true}))?;
        let info: Value = serde_json::from_str(status["info"]["info"].as_str().unwrap_or("{}"))?;
        let pid = info["pid"].as_u64().context("PodSandboxStatus tells no process id")?;
        let network = &status["status"]["network"];
        let others = network["additionalIps"].as_array().into_iter().flatten().map(|one| &one["ip"]);
        let addresses = [&network["ip"]].into_iter().chain(others).filter_map(Value::as_str);
        let addresses = addresses.map(str::to_owned).collect();
        Ok(Pod { id, addresses, place: Place::of_process(u32::try_from(pid)?)?, config })
    }

    /// Starts a container of the busybox image in a pod; gives its id.
    ///
    /// # Errors
    /// CRI refused it; the text is containerd's.
    pub fn start_container(&self, pod: &Pod, name: &str, command: &[&str]) -> Result<String> {
        let config = json!({"metadata": {"name": name}, "image": {"image": BUSYBOX}, "command": command, "linux": {}});
        let request = json!({"podSandboxId": pod.id, "config": config, "sandboxConfig": pod.config});
        let made = self.call("CreateContainer", &request)?;
        let id = made["containerId"].as_str().context("CreateContainer gave no id")?.to_owned();
        self.call("StartContainer", &json!({"containerId": id}))?;
        Ok(id)
    }

    /// Runs a command in a container.
    ///
    /// # Errors
    /// The client cannot be started. A command that fails is no error.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<Ran> {
        let mut client = Command::new(&self.program);
        let output = self.node.place.outcome(client.args([SOCKET, "exec", container]).args(command), "")?;
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Stops and removes a pod and its containers.
    ///
    /// # Errors
    /// CRI refused it; the text is containerd's.
    pub fn remove_pod(&self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", &json!({"podSandboxId": id}))?;
        self.call("RemovePodSandbox", &json!({"podSandboxId": id}))?;
        Ok(())
    }
}

impl PodWish<'_> {
    fn config(&self) -> Value {
        let map = |pairs: &[(&str, &str)]| -> Value { pairs.iter().map(|&(k, v)| (k.to_owned(), json!(v))).collect() };
        let ports = self.ports.iter().map(|(host, pod)| json!({"hostPort": host, "containerPort": pod}));
        json!({
            "metadata": {"name": self.name, "namespace": "default", "uid": format!("uid-{}", self.name)},
            "labels": map(self.labels),
            "annotations": map(self.annotations),
            "portMappings": ports.collect::<Value>(),
            "linux": {},
        })
    }
}

/// A container that runs.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its network namespace.
    pub place: Place,
}

/// A client that makes containers as nerdctl does, with CNI inside OCI hooks.
#[derive(Debug)]
pub struct Nerdlike<'node> {
    node: &'node Node,
    program: PathBuf,
}

impl<'node> Nerdlike<'node> {
    /// A client of the node's containerd.
    ///
    /// # Errors
    /// The client cannot be built.
    pub fn new(node: &'node Node) -> Result<Self> {
        Ok(Self { node, program: parts::clients()?.join("nerdlike") })
    }

    /// Runs a container of the busybox image. `flags` are nerdctl's own: `-p`, `--net`, `--ip`, `--ip6`, `--mac-address`,
    /// `--label`, `--name`.
    ///
    /// # Errors
    /// It did not start; the text has what the hook and the plugin said.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Result<Container> {
        let id = self.output(&[&["run"], flags, &[BUSYBOX], command].concat())?;
        self.container(id)
    }

    /// Ends a container's process and keeps the container.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn stop(&self, id: &str) -> Result<()> {
        self.output(&["stop", id]).map(drop)
    }

    /// Starts a stopped container.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn start(&self, id: &str) -> Result<Container> {
        self.output(&["start", id])?;
        self.container(id.to_owned())
    }

    /// Removes a container by force.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.output(&["rm", id]).map(drop)
    }

    fn container(&self, id: String) -> Result<Container> {
        let pid = self.output(&["pid", &id])?.parse().context("the client printed no process id")?;
        Ok(Container { id, place: Place::of_process(pid)? })
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.node.output(Command::new(&self.program).args(arguments))?.trim().to_owned())
    }
}

/// `ctr run --cni`: CNI from containerd's own tool, between the creation and the start of the task.
#[derive(Debug)]
pub struct Ctr<'node> {
    node: &'node Node,
    containerd: &'node Containerd,
}

impl<'node> Ctr<'node> {
    /// The tool of that containerd.
    #[must_use]
    pub fn new(node: &'node Node, containerd: &'node Containerd) -> Self {
        Self { node, containerd }
    }

    /// Runs a container of the busybox image.
    ///
    /// # Errors
    /// It did not start; the text has what the plugin said.
    pub fn run(&self, id: &str, command: &[&str]) -> Result<Container> {
        self.output(&[&["run", "--detach", "--cni", BUSYBOX, id], command].concat())?;
        let tasks = self.output(&["task", "list"])?;
        let row = tasks.lines().find(|row| row.split_whitespace().next() == Some(id));
        let pid = row.and_then(|row| row.split_whitespace().nth(1)).context("ctr lists no such task")?;
        Ok(Container { id: id.to_owned(), place: Place::of_process(pid.parse()?)? })
    }

    /// Removes a container by force.
    ///
    /// # Errors
    /// It does not end, or its networks cannot be removed.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.output(&["task", "kill", "--signal", "SIGKILL", id])?;
        self.output(&["task", "delete", "--force", id])?;
        self.output(&["container", "delete", id]).map(drop)
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        self.node.output(self.containerd.ctr("default").args(arguments))
    }
}
