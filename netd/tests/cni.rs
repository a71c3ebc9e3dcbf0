//! What the official plugins do with a stanza, netd does: their arguments, their results, what they refuse and check. Needs root.

mod rig;

use rig::{Node, Space};

const PLAIN: &str = r#"{"type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

#[test]
fn a_sysctl_that_the_nodes_list_does_not_have_is_not_set() {
    let node = Node::new();
    let web = Space::new();
    let list = node.folder.path().join("allowlist.conf");
    std::fs::write(&list, "^net.core.somaxconn$\n").unwrap();
    let tuning = |name: &str| format!(r#"{{"type":"tuning","sysctl":{{"{name}":"300"}}}}"#);
    node.attach(&web, "web", &[PLAIN, &tuning("net.core.somaxconn")]).unwrap();
    assert_eq!(web.command("cat /proc/sys/net/core/somaxconn").trim(), "300");
    let denied = node.attach(&web, "web", &[PLAIN, &tuning("net.ipv4.tcp_max_syn_backlog")]).unwrap_err();
    let expected = "cannot tune web/eth0 on network web: sysctl net.ipv4.tcp_max_syn_backlog is not allowed";
    assert!(denied.starts_with(expected), "{denied}");
    assert_ne!(web.command("cat /proc/sys/net/ipv4/tcp_max_syn_backlog").trim(), "300");
    std::fs::remove_file(list).unwrap();
    node.attach(&web, "web", &[PLAIN, &tuning("net.ipv4.tcp_max_syn_backlog")]).unwrap();
}
