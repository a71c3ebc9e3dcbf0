//! Golden texts: what people and programs read. `UPDATE_GOLDEN=1` rewrites them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

use super::{Look, json, leases, network, networks, plan, sandbox, sandboxes, status};
use crate::model::{self, Attachment, Firewall, Network, Plan, Port, Sandbox, Status};

const PLAIN: Look = Look { full_ids: false, colour: false };

#[track_caller]
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} differs; UPDATE_GOLDEN=1 rewrites it");
}

fn golden_json(name: &str, value: &impl Serialize) {
    golden(name, &json(value).unwrap());
}

fn a_status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        instance: "netd".to_owned(),
        networks: 2,
        attachments: 12,
        draining: 1,
        leases: 24,
        published_ports: 3,
        journal_bytes: 20_480,
        warnings: vec!["bridge br0: somebody took 10.1.0.1/24 away; `netdctl resync` puts it back".to_owned()],
        firewalls: vec![
            Firewall {
                name: "ufw".to_owned(),
                chain: "ip filter FORWARD".to_owned(),
                passes: false,
                remedy: "`ufw route allow in on br0`".to_owned(),
            },
            Firewall {
                name: String::new(),
                chain: "inet mine forward".to_owned(),
                passes: false,
                remedy: "`nft insert rule inet mine forward iifname \"br0\" accept`".to_owned(),
            },
            Firewall {
                name: "docker".to_owned(),
                chain: "ip6 filter FORWARD".to_owned(),
                passes: true,
                ..Firewall::default()
            },
        ],
    }
}

fn some_networks() -> Vec<Network> {
    let good = Network {
        name: "netd".to_owned(),
        file: "/etc/cni/net.d/00-netd.conflist".to_owned(),
        cni_version: "1.0.0".to_owned(),
        types: vec!["bridge".to_owned(), "portmap".to_owned()],
        mode: "bridge".to_owned(),
        bridge: "netd0".to_owned(),
        subnets: vec!["10.1.0.0/24".to_owned(), "fd00:1::/64".to_owned()],
        attachments: 12,
        unknown_keys: vec!["plugins[0].colour".to_owned()],
        unheeded_keys: vec!["plugins[1].markMasqBit 14: netd masquerades without a mark".to_owned()],
        config: Some(json!({"name": "netd", "plugins": [{"type": "bridge"}]})),
        ..Network::default()
    };
    let broken = Network {
        file: "/etc/cni/net.d/99-x.conflist".to_owned(),
        error: "plugins[0].mtu: \"big\" is not a number; write 1500".to_owned(),
        config: Some(json!("{\"name\": \"x\", ")),
        ..Network::default()
    };
    let others = Network {
        name: "lan".to_owned(),
        file: "/etc/cni/net.d/50-lan.conflist".to_owned(),
        types: vec!["macvlan".to_owned()],
        error: "plugins[0].type: netd does not run \"macvlan\" yet".to_owned(),
        ..Network::default()
    };
    vec![good, broken, others]
}

fn some_sandboxes() -> Vec<Sandbox> {
    let web = Attachment {
        network: "netd".to_owned(),
        interface: "eth0".to_owned(),
        state: "attached".to_owned(),
        addresses: vec!["10.1.0.7/24".to_owned(), "fd00:1::7/64".to_owned()],
        mac: "02:00:0a:01:00:07".to_owned(),
        host_interface: "nd1f".to_owned(),
        mode: "bridge".to_owned(),
        bridge: "netd0".to_owned(),
        ports: vec![
            Port { protocol: "tcp".to_owned(), host_ip: String::new(), host_port: 8080, container_port: 80 },
            Port { protocol: "udp".to_owned(), host_ip: "::1".to_owned(), host_port: 53, container_port: 53 },
        ],
    };
    let data = Attachment {
        network: "data".to_owned(),
        interface: "eth1".to_owned(),
        state: "attached".to_owned(),
        addresses: vec!["10.2.0.3/24".to_owned()],
        ..Attachment::default()
    };
    let leaving = Attachment { state: "draining".to_owned(), addresses: vec!["10.1.0.8/24".to_owned()], ..web.clone() };
    vec![
        Sandbox {
            id: format!("default-{}", "6f3b".repeat(16)),
            name: "web-1".to_owned(),
            namespace: "default".to_owned(),
            netns: "/proc/812/ns/net".to_owned(),
            unmet: "cannot attach it to network \"stroage\"".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())]),
            attachments: vec![web, data],
        },
        Sandbox { id: "batch-job".to_owned(), attachments: vec![leaving], ..Sandbox::default() },
    ]
}

#[test]
fn tables() {
    golden("status.txt", &status(&a_status(), PLAIN));
    golden("networks.txt", &networks(&some_networks()));
    golden("network.txt", &network(&some_networks()[0], PLAIN));
    golden("network-broken.txt", &network(&some_networks()[1], PLAIN));
    golden("network-others.txt", &network(&some_networks()[2], PLAIN));
    golden("sandboxes.txt", &sandboxes(&some_sandboxes(), PLAIN));
    golden("sandbox.txt", &sandbox(&some_sandboxes()[0]));
    golden("leases.txt", &leases(&model::leases(&some_sandboxes()), PLAIN));
    golden("plan.txt", &plan(&a_plan(true)));
}

fn a_plan(dry_run: bool) -> Plan {
    Plan {
        dry_run,
        steps: vec!["release netd/x/eth0: its sandbox is gone".to_owned(), "create bridge netd0".to_owned()],
    }
}

#[test]
fn json_is_a_promise() {
    golden_json("status.json", &a_status());
    golden_json("networks.json", &some_networks());
    golden_json("sandboxes.json", &some_sandboxes());
    golden_json("leases.json", &model::leases(&some_sandboxes()));
    golden_json("plan.json", &a_plan(true));
}

#[test]
fn what_is_empty_says_so() {
    for text in [networks(&[]), sandboxes(&[], PLAIN), leases(&[], PLAIN)] {
        assert!(text.starts_with("No ") && text.ends_with(".\n"), "{text}");
    }
    let done = |dry_run| plan(&Plan { dry_run, steps: Vec::new() });
    assert!(done(true).starts_with("Nothing would be done") && done(false).starts_with("Nothing was done"));
    assert_eq!(json(&Vec::<Network>::new()).unwrap(), "[]\n");
}

#[test]
fn ids_are_whole_on_request_and_colour_is_for_terminals() {
    let whole = sandboxes(&some_sandboxes(), Look { full_ids: true, colour: false });
    assert!(whole.contains(&some_sandboxes()[0].id), "{whole}");
    let coloured = status(&a_status(), Look { full_ids: false, colour: true });
    assert!(coloured.contains("\x1b[33mwarning:\x1b[0m"), "{coloured:?}");
    assert!(!status(&a_status(), PLAIN).contains('\x1b'));
}
