//! A pod as netd needs to know it. Reading it off the wire is here; telling netd is `courier`'s work.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::wire::nri::PodSandbox;

/// A pod with a network namespace of its own, or on the node's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// The sandbox's id: the container id of the CNI call that attached it.
    pub id: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Where its network namespace is. `None` on the node's network, and where the namespace is gone.
    pub netns: Option<PathBuf>,
}

impl From<PodSandbox> for Pod {
    fn from(pod: PodSandbox) -> Self {
        let namespaces = &pod.linux.namespaces;
        let netns = namespaces.iter().find(|one| one.type_ == "network" && !one.path.is_empty());
        Self {
            netns: netns.map(|one| PathBuf::from(&one.path)),
            id: pod.id,
            name: pod.name,
            namespace: pod.namespace,
            labels: pod.labels.into_iter().collect(),
            annotations: pod.annotations.into_iter().collect(),
        }
    }
}
