//! What netd answered, as values for people and programs. Their JSON form is a promise: keys are added, never renamed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netd_api::blocking as api;
use serde::Serialize;
use serde_json::Value;

/// netd in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) instance: String,
    pub(crate) networks: u64,
    pub(crate) attachments: u64,
    /// Detached, their link not yet deleted.
    pub(crate) draining: u64,
    pub(crate) leases: u64,
    pub(crate) published_ports: u64,
    pub(crate) journal_bytes: u64,
    pub(crate) warnings: Vec<String>,
    pub(crate) firewalls: Vec<Firewall>,
}

/// A chain of another program that drops what is forwarded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Firewall {
    /// Empty: of nobody that netd knows.
    pub(crate) name: String,
    /// Family, table, chain.
    pub(crate) chain: String,
    /// netd put a rule there that lets containers pass.
    pub(crate) passes: bool,
    /// What lets them pass; empty where they do.
    pub(crate) remedy: String,
}

impl Firewall {
    /// Whose, for people.
    pub(crate) fn owner(&self) -> &str {
        if self.name.is_empty() { "another program" } else { &self.name }
    }
}

impl From<api::Firewall> for Firewall {
    fn from(answer: api::Firewall) -> Self {
        Self { name: answer.name, chain: answer.chain, passes: answer.passes, remedy: answer.remedy }
    }
}

impl From<api::StatusResponse> for Status {
    fn from(answer: api::StatusResponse) -> Self {
        Self {
            version: answer.version,
            instance: answer.instance,
            networks: answer.networks,
            attachments: answer.attachments,
            draining: answer.draining,
            leases: answer.leases,
            published_ports: answer.published_ports,
            journal_bytes: answer.journal_bytes,
            warnings: answer.warnings,
            firewalls: answer.firewalls.into_iter().map(Firewall::from).collect(),
        }
    }
}

/// A configuration file that netd watches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Network {
    /// Empty where the file is broken.
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) cni_version: String,
    pub(crate) types: Vec<String>,
    /// "bridge" or "routed"; empty where netd cannot tell, or another plugin made the interface.
    pub(crate) mode: String,
    pub(crate) bridge: String,
    pub(crate) subnets: Vec<String>,
    pub(crate) attachments: u32,
    /// Empty where the file is good.
    pub(crate) error: String,
    pub(crate) unknown_keys: Vec<String>,
    /// Each with its value and what it means that it has no effect.
    pub(crate) unheeded_keys: Vec<String>,
    /// The file: JSON where it is, text where it is broken. Only `inspect` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Value>,
}

impl Network {
    /// Plugin types because of which netd leaves the network to others; none where it is good, or broken for another reason.
    pub(crate) fn others_types(&self) -> Vec<&str> {
        let others = self.types.iter().map(String::as_str).filter(|kind| !netd_config::runs_plugin(kind));
        if self.error.is_empty() { Vec::new() } else { others.collect() }
    }
}

impl From<api::Network> for Network {
    fn from(answer: api::Network) -> Self {
        let text = || Value::String(String::from_utf8_lossy(&answer.config).into_owned());
        let config = serde_json::from_slice(&answer.config).unwrap_or_else(|_| text());
        Self {
            name: answer.name,
            file: answer.file,
            cni_version: answer.cni_version,
            types: answer.types,
            mode: answer.mode,
            bridge: answer.bridge,
            subnets: answer.subnets,
            attachments: answer.attachments,
            error: answer.error,
            unknown_keys: answer.unknown_keys,
            unheeded_keys: answer.unheeded_keys,
            config: Some(config),
        }
    }
}

/// A sandbox with its attachments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) netns: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Why it lacks a network that its annotation names; empty where it lacks none.
    pub(crate) unmet: String,
    pub(crate) attachments: Vec<Attachment>,
}

/// One interface of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Attachment {
    pub(crate) network: String,
    pub(crate) interface: String,
    /// "wiring", "attached", "quarantine" (no packet until its labels are known) or "draining".
    pub(crate) state: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) mac: String,
    pub(crate) host_interface: String,
    /// "bridge" or "routed"; empty where netd cannot tell, or another plugin made the interface.
    pub(crate) mode: String,
    pub(crate) bridge: String,
    pub(crate) ports: Vec<Port>,
}

/// A published port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Port {
    pub(crate) protocol: String,
    /// Empty: every address of the node.
    pub(crate) host_ip: String,
    pub(crate) host_port: u32,
    pub(crate) container_port: u32,
}

/// An address in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lease {
    pub(crate) address: String,
    pub(crate) network: String,
    pub(crate) sandbox: String,
    pub(crate) interface: String,
    pub(crate) name: String,
    pub(crate) state: String,
}

/// What a resync did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Plan {
    pub(crate) dry_run: bool,
    pub(crate) steps: Vec<String>,
}

impl From<api::PublishedPort> for Port {
    fn from(port: api::PublishedPort) -> Self {
        Self {
            protocol: port.protocol,
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_port: port.container_port,
        }
    }
}

/// Groups netd's attachments by container, in the order of their ids.
pub(crate) fn sandboxes(attachments: Vec<api::Attachment>) -> Vec<Sandbox> {
    let mut found: BTreeMap<String, Sandbox> = BTreeMap::new();
    for one in attachments {
        let sandbox = found.entry(one.container_id.clone()).or_default();
        sandbox.id = one.container_id;
        for (known, told) in [
            (&mut sandbox.name, one.name),
            (&mut sandbox.namespace, one.namespace),
            (&mut sandbox.netns, one.netns_path),
            (&mut sandbox.unmet, one.unmet),
        ] {
            if known.is_empty() {
                *known = told;
            }
        }
        sandbox.labels.extend(one.labels);
        let mut ports: Vec<Port> = one.ports.into_iter().map(Port::from).collect();
        ports.sort();
        sandbox.attachments.push(Attachment {
            network: one.network,
            interface: one.interface,
            state: one.state,
            addresses: one.addresses,
            mac: one.mac,
            host_interface: one.host_interface,
            mode: one.mode,
            bridge: one.bridge,
            ports,
        });
    }
    let mut sandboxes: Vec<Sandbox> = found.into_values().collect();
    for sandbox in &mut sandboxes {
        sandbox
            .attachments
            .sort_by(|one, other| (&one.interface, &one.network).cmp(&(&other.interface, &other.network)));
    }
    sandboxes
}

/// All addresses in use, those of draining attachments too: nobody else can have them yet. By network, then by number.
pub(crate) fn leases(sandboxes: &[Sandbox]) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    for sandbox in sandboxes {
        for attachment in &sandbox.attachments {
            leases.extend(attachment.addresses.iter().map(|address| Lease {
                address: address.clone(),
                network: attachment.network.clone(),
                sandbox: sandbox.id.clone(),
                interface: attachment.interface.clone(),
                name: sandbox.name.clone(),
                state: attachment.state.clone(),
            }));
        }
    }
    leases.sort_by_cached_key(|lease| (lease.network.clone(), number(&lease.address), lease.address.clone()));
    leases
}

fn number(address: &str) -> Option<IpAddr> {
    address.split('/').next()?.parse().ok()
}

/// The container's own id. nerdctl and `ctr` call CNI with "namespace-id"; only the id is in their lists.
pub(crate) fn own_id(id: &str) -> &str {
    let tail = id.rsplit_once('-').map_or(id, |(_, tail)| tail);
    if is_hash(tail) { tail } else { id }
}

/// An id as people know it from `nerdctl ps`: 12 digits of a hash; a name that a person chose stays whole.
pub(crate) fn short_id(id: &str) -> &str {
    let own = own_id(id);
    if is_hash(own) { own.get(..12).unwrap_or(own) } else { own }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|octet| matches!(octet, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
