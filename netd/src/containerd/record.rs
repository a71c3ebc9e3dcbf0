//! What a record of containerd's says of a container. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::api::{Any, Container, Sandbox};
use crate::attachment::{Description, LabelState};

/// Who it is that says this.
pub const SOURCE: &str = "containerd";
/// Where CRI keeps a pod's configuration: in the sandbox's record since 2.0, in the container's record before.
const SANDBOX_METADATA: &str = "metadata";
const CONTAINER_METADATA: &str = "io.cri-containerd.sandbox.metadata";
/// The name that nerdctl gives.
const NERDCTL_NAME: &str = "nerdctl/name";

/// CRI's `sandboxstore.Metadata`, version v1: Go's names, then those of `PodSandboxConfig`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    metadata: Pod,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pod {
    config: Config,
}

#[derive(Debug, Deserialize)]
struct Config {
    metadata: PodName,
    // Go writes an empty map as null.
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct PodName {
    name: String,
    #[serde(default)]
    namespace: String,
}

/// A container of any client's; for a pod's record, what CRI put there.
pub(super) fn of_container(namespace: &str, container: Container) -> Description {
    if let Some(pod) = container.extensions.get(CONTAINER_METADATA).and_then(of_pod) {
        return pod;
    }
    let name = container.labels.get(NERDCTL_NAME).filter(|name| !name.is_empty()).unwrap_or(&container.id).clone();
    let labels = container.labels.into_iter().collect();
    Description { name, namespace: namespace.to_owned(), labels, image: container.image, state: known() }
}

/// `None`: the record does not say it yet, or in words that netd does not know.
pub(super) fn of_sandbox(sandbox: &Sandbox) -> Option<Description> {
    sandbox.extensions.get(SANDBOX_METADATA).and_then(of_pod)
}

fn of_pod(extension: &Any) -> Option<Description> {
    let metadata: Metadata = serde_json::from_slice(&extension.value).ok()?;
    let Config { metadata: pod, labels } = metadata.metadata.config;
    let (labels, image) = (labels.unwrap_or_default(), String::new());
    Some(Description { name: pod.name, namespace: pod.namespace, labels, image, state: known() })
}

fn known() -> LabelState {
    LabelState::Known { source: SOURCE.to_owned() }
}
