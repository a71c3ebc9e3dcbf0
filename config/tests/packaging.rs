//! What is shipped is what netd reads: the conflist as libcni sends it, and `netd.toml` with its defaults.

use netd_config::{Document, IngressPolicy, Ipam, NodeConfig, Stanza};
use serde_json::{Map, Value, json};

const CONFLIST: &str = include_str!("../../packaging/cni/00-netd.conflist");
const SETTINGS: &str = include_str!("../../packaging/netd.toml");

/// libcni's part: name and version from the list, and of the runtime's arguments those that the stanza declares.
fn sent(list: &Value, stanza: &Value, arguments: &Map<String, Value>) -> String {
    let mut sent = stanza.clone();
    sent["cniVersion"] = list["cniVersion"].clone();
    sent["name"] = list["name"].clone();
    let declared = |name: &str| stanza["capabilities"][name] == true;
    let given: Map<String, Value> = arguments
        .iter()
        .filter(|(name, _)| declared(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sent["runtimeConfig"] = given.into();
    sent.to_string()
}

#[test]
fn the_default_network_takes_what_it_declares() {
    let list: Value = serde_json::from_str(CONFLIST).unwrap();
    let arguments = json!({
        "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "ips": ["10.167.1.5", "fd6e:6574:6400::15"],
        "mac": "02:42:ac:11:00:02",
        "bandwidth": {"ingressRate": 1},
    });
    let stanzas = list["plugins"].as_array().unwrap();
    assert_eq!(stanzas.len(), 1, "one stanza: one process a container");
    let text = sent(&list, &stanzas[0], arguments.as_object().unwrap());
    assert!(!text.contains("bandwidth"), "netd does not run bandwidth yet; do not declare it");
    let document = Document::parse(text.as_bytes(), "", "bridge").unwrap();
    let Stanza::Bridge(bridge) = document.stanza else { panic!("no bridge: {:?}", document.stanza) };
    assert_eq!(
        (bridge.bridge.as_str(), bridge.is_gateway, bridge.ip_masq, bridge.hairpin_mode),
        ("netd0", true, true, true)
    );
    assert_eq!(
        (bridge.ports.len(), bridge.mac, bridge.ingress_policy),
        (1, Some([2, 0x42, 0xac, 0x11, 0, 2]), IngressPolicy::SameBridge)
    );
    let Ipam::HostLocal(ipam) = bridge.ipam else { panic!("no host-local") };
    assert_eq!((ipam.range_sets.len(), ipam.requested.len(), ipam.routes.len()), (2, 2, 2));
}

#[test]
fn every_declared_capability_is_one_that_is_run() {
    let list: Value = serde_json::from_str(CONFLIST).unwrap();
    let declared: Vec<&String> = list["plugins"][0]["capabilities"].as_object().unwrap().keys().collect();
    assert_eq!(declared, ["portMappings", "ips", "mac"]);
}

#[test]
fn nerdctl_knows_the_default_network() {
    let list: Value = serde_json::from_str(CONFLIST).unwrap();
    assert_eq!(list["nerdctlLabels"]["nerdctl/default-network"], "true");
    // A container without `--network` asks for the name `bridge`; the label alone keeps nerdctl from making one of that name.
    // The id is sha256("bridge"), as nerdctl makes it from the name.
    assert_eq!((list["name"].as_str(), list["nerdctlID"].as_str()), (Some("bridge"), Some(SHA256_OF_BRIDGE)));
}

const SHA256_OF_BRIDGE: &str = "17f29b073143d8cd97b5bbe492bdeffec1c5fee55cc1fe2112c8b9335f8b6121";

/// The lines that open with `#` and no space are settings.
fn settings() -> String {
    SETTINGS
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn whoever_installs_is_told_every_name_of_the_plugin() {
    let table = include_str!("../../packaging/README.md");
    let names: Vec<&str> = include_str!("../../hook/cni/plugins.txt").lines().collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(table.contains(&format!("`{name}`")), "packaging/README.md lacks {name}");
    }
}

#[test]
fn every_setting_is_shown_with_its_default() {
    assert_eq!(NodeConfig::parse("netd.toml", SETTINGS).unwrap(), NodeConfig::default(), "as shipped, nothing is set");
    assert_eq!(NodeConfig::parse("netd.toml", &settings()).unwrap(), NodeConfig::default());
    // `NodeConfig`'s Debug form names its fields; one that is not shown would be missing here.
    let fields = format!("{:#?}", NodeConfig::default());
    let fields = fields.lines().filter(|line| line.starts_with("    ") && !line.starts_with("     "));
    let names: Vec<&str> = fields.filter_map(|line| line.trim().split_once(':').map(|(name, _)| name)).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        assert!(
            settings().lines().any(|line| line.starts_with(&format!("{name} ="))),
            "packaging/netd.toml lacks {name}"
        );
    }
}
