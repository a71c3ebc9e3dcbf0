//! The network that all cases attach to: nerdctl's default conflist with a /16, and one published port an attachment. Routed, the
//! same without the bridge.

use std::path::Path;

use serde_json::{Value, json};

/// Name of the network.
pub const NAME: &str = "bridge";
/// Its bridge.
pub const BRIDGE: &str = "nerdctl0";
/// The bridge's address.
pub const GATEWAY: &str = "10.4.0.1";
/// Interface of every sandbox.
pub const INTERFACE: &str = "eth0";
/// The port inside.
pub const PORT: u16 = 80;
const FIRST_PORT: u32 = 10_000;
const PORTS: u32 = 50_000;

/// The node's port that leads to attachment `number`.
#[must_use]
pub fn host_port(number: u32) -> u16 {
    u16::try_from(FIRST_PORT + number % PORTS).unwrap_or(u16::MAX)
}

/// The container's id.
#[must_use]
pub fn container(number: u32) -> String {
    format!("bench-{number}")
}

/// How the network is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// `bridge`, `portmap`, `firewall`, `tuning`: as nerdctl writes it.
    Chain,
    /// One `bridge` stanza that has the others' capabilities: as netd's packages bring it.
    One,
    /// One `ptp` stanza, likewise.
    Routed,
    /// The same, and no sandbox is fenced off from another.
    Open,
}

/// What `ptp` has not.
const BRIDGE_KEYS: [&str; 3] = ["bridge", "isGateway", "hairpinMode"];

/// The stanzas for attachment `number`, each as libcni gives it to its plugin but for the result before it. `data_dir` is
/// host-local's.
#[must_use]
pub fn stanzas(writing: Writing, data_dir: &Path, number: u32) -> Vec<Value> {
    let ports = json!({"portMappings": [
        {"hostPort": host_port(number), "containerPort": PORT, "protocol": "tcp", "hostIP": ""}
    ]});
    let mut bridge = json!({
        "cniVersion": "1.0.0", "name": NAME, "type": "bridge", "bridge": BRIDGE,
        "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": data_dir, "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "10.4.0.0/16", "gateway": GATEWAY}]],
        },
    });
    if matches!(writing, Writing::Routed | Writing::Open) {
        bridge["type"] = "ptp".into();
        bridge
            .as_object_mut()
            .into_iter()
            .for_each(|stanza| stanza.retain(|key, _| !BRIDGE_KEYS.contains(&key.as_str())));
    }
    if writing != Writing::Chain {
        if writing != Writing::Open {
            bridge["ingressPolicy"] = "same-bridge".into();
        }
        bridge["runtimeConfig"] = ports;
        return vec![bridge];
    }
    let mut stanzas = vec![
        bridge,
        json!({"type": "portmap", "capabilities": {"portMappings": true}, "runtimeConfig": ports}),
        json!({"type": "firewall", "ingressPolicy": "same-bridge"}),
        json!({"type": "tuning"}),
    ];
    for stanza in &mut stanzas {
        stanza["cniVersion"] = "1.0.0".into();
        stanza["name"] = NAME.into();
    }
    stanzas
}
