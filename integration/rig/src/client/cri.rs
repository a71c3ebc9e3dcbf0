//! The CRI client, as `crictl` is one: pods and their containers. Containers outside of pods are `container`'s.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::SOCKET;
use crate::{BUSYBOX, Node, Place, parts};

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
    /// Its name; its UID is `uid-` and the name.
    pub name: &'text str,
    /// Its CRI namespace; empty for `default`.
    pub namespace: &'text str,
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
        let namespace = if self.namespace.is_empty() { "default" } else { self.namespace };
        let ports = self.ports.iter().map(|(host, pod)| json!({"hostPort": host, "containerPort": pod}));
        json!({
            "metadata": {"name": self.name, "namespace": namespace, "uid": format!("uid-{}", self.name)},
            "labels": map(self.labels),
            "annotations": map(self.annotations),
            "portMappings": ports.collect::<Value>(),
            "linux": {},
        })
    }
}
