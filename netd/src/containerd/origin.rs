//! From a CNI container id to where containerd may have its record. Pure.

/// The containerd namespace of CRI.
pub(super) const CRI: &str = "k8s.io";
/// What `containerd`'s and nerdctl's generated ids look like.
const ID_LENGTH: usize = 64;

/// Where the record of a CNI container id would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A pod of CRI's; podman's container ids look the same. `certain` where the caller gave what only CRI gives.
    Pod {
        /// The sandbox's id.
        id: String,
        /// It is no other's.
        certain: bool,
    },
    /// A container of nerdctl's, which writes `<namespace>-<id>`. Both may contain `-`, but not the generated id.
    Container {
        /// containerd's namespace.
        namespace: String,
        /// containerd's id.
        id: String,
    },
    /// It may be `<namespace>-<id>` with an id that somebody chose (`ctr run --cni`), or another runtime's.
    Either(String),
}

impl Origin {
    /// Where to look for `container`, attached with `CNI_ARGS`. `None`: no record of containerd's has such an id.
    #[must_use]
    pub fn of(container: &str, cni_args: &str) -> Option<Self> {
        if is_generated(container) {
            // Only CRI gives a pod's UID (containerd, `cniNamespaceOpts`); podman gives the other `K8S_POD` arguments too.
            let certain = cni_args.split(';').any(|pair| pair.starts_with("K8S_POD_UID="));
            return Some(Self::Pod { id: container.to_owned(), certain });
        }
        let (namespace, id) = container.rsplit_once('-')?;
        if is_generated(id) && !namespace.is_empty() {
            return Some(Self::Container { namespace: namespace.to_owned(), id: id.to_owned() });
        }
        Some(Self::Either(container.to_owned()))
    }

    /// It is containerd's, and nobody else's.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Pod { certain, .. } => *certain,
            Self::Container { .. } => true,
            Self::Either(_) => false,
        }
    }
}

/// The CNI container ids that a record of containerd's may have been attached by.
pub(super) fn container_ids(namespace: &str, id: &str) -> Vec<String> {
    let mut ids = vec![format!("{namespace}-{id}")];
    if namespace == CRI {
        ids.push(id.to_owned());
    }
    ids
}

fn is_generated(id: &str) -> bool {
    id.len() == ID_LENGTH && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::Origin;

    #[test]
    fn each_runtimes_ids_are_looked_for_where_they_may_be() {
        let hex = "0123456789abcdef".repeat(4);
        let cri = "IgnoreUnknown=1;K8S_POD_NAME=a;K8S_POD_UID=b";
        let podman = "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=a;K8S_POD_INFRA_CONTAINER_ID=b";
        let pod = |certain| Some(Origin::Pod { id: hex.clone(), certain });
        let container = |namespace: &str| Some(Origin::Container { namespace: namespace.to_owned(), id: hex.clone() });
        let either = |id: &str| Some(Origin::Either(id.to_owned()));
        let table = [
            ("CRI", hex.clone(), cri, pod(true)),
            ("podman", hex.clone(), podman, pod(false)),
            ("nerdctl", format!("default-{hex}"), "", container("default")),
            ("nerdctl in a namespace with -", format!("a-b-{hex}"), "", container("a-b")),
            ("ctr", "default-web-1".to_owned(), "", either("default-web-1")),
            ("Nomad", "1f1e-2a".to_owned(), "", either("1f1e-2a")),
            ("BuildKit", "4y0tm1".to_owned(), "", None),
            ("no namespace", format!("-{hex}"), "", either(&format!("-{hex}"))),
        ];
        for (who, id, args, expected) in table {
            assert_eq!(Origin::of(&id, args), expected, "{who}");
        }
    }
}
