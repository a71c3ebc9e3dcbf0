//! What people type: `nerdctl compose` and `crictl`, which are in no registry and run where somebody has put them on `PATH`.
//! Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use netd_rig::{
    BUSYBOX, Bed, Container, Crictl, Expect, Inventory, Nerdctl, Place, Plugins, Probe, Protocol, Release, Web, parts,
    until,
};
use serde_json::json;

const POLICY: &str = "/etc/netd/policies/shop.yaml";

/// Of the services of one project only `front` reaches `back`.
const FRONT_ONLY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: front-only, namespace: default}
spec:
  podSelector: {matchLabels: {com.docker.compose.service: back}}
  ingress:
  - from:
    - podSelector: {matchLabels: {com.docker.compose.service: front}}
";

#[test]
fn a_compose_project_by_the_real_nerdctl() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    match Nerdctl::real(&bed.node) {
        Some(nerdctl) => compose(&bed, &nerdctl),
        None => skipped("nerdctl compose: nerdctl is not on PATH"),
    }
}

fn compose(bed: &Bed, nerdctl: &Nerdctl<'_>) {
    // The first container brings what stays on a node.
    let first = nerdctl.run(&[], &["sleep", "infinity"]).unwrap();
    nerdctl.remove(&first.id).unwrap();
    drop(first);
    let before = Inventory::of(&bed.node).unwrap();
    let file = bed.node.outside("/shop.yaml");
    fs::write(&file, project()).unwrap();
    let file = file.to_str().unwrap();
    nerdctl.call(&["compose", "--file", file, "--project-name", "shop", "up", "--detach"]).unwrap();
    let [front, back, cart] = ["front", "back", "cart"].map(|name| nerdctl.find(&format!("shop-{name}-1")).unwrap());
    let webs = [("front", &front), ("back", &back), ("cart", &cart)].map(|(name, at)| web(name, at, 80));
    let back_at = SocketAddr::from((address(&back.place), 80));
    let published = SocketAddr::from((IpAddr::from(bed.node.v4), 8080));
    let all = |from_cart| {
        Probe::new()
            .from("front", &front.place)
            .to("back", Protocol::Tcp, back_at, Expect::said("back "))
            .check()
            .unwrap();
        Probe::new().from("cart", &cart.place).to("back", Protocol::Tcp, back_at, from_cart).check().unwrap();
        let outside = Probe::new().from("outside", &bed.underlay.place);
        outside.to("published", Protocol::Tcp, published, Expect::said("front ")).check().unwrap();
    };
    all(Expect::said("back "));

    // A service is found by its name, as compose promises.
    let named = ["exec", "shop-front-1", "wget", "-q", "-O", "-", "http://back:81/hostname"];
    let httpd = ["exec", "--detach", "shop-back-1", "httpd", "-f", "-p", "81", "-h", "/etc"];
    nerdctl.call(&httpd).unwrap();
    until("the service's page", Duration::from_secs(30), || Ok(nerdctl.call(&named).ok())).unwrap();

    bed.node.write(POLICY, FRONT_ONLY).unwrap();
    let denied = || {
        let probe = Probe::new().from("cart", &cart.place).to("back", Protocol::Tcp, back_at, Expect::Refused);
        Ok(probe.check().ok())
    };
    until("the policy", Duration::from_secs(30), denied).unwrap();
    all(Expect::Refused);

    // A service that is started again keeps what the policy says of it.
    nerdctl.call(&["compose", "--file", file, "--project-name", "shop", "restart", "cart"]).unwrap();
    let cart = nerdctl.find("shop-cart-1").unwrap();
    let probe = Probe::new().from("cart", &cart.place).to("back", Protocol::Tcp, back_at, Expect::Refused);
    probe.check().unwrap();

    fs::remove_file(bed.node.outside(POLICY)).unwrap();
    nerdctl.call(&["compose", "--file", file, "--project-name", "shop", "down"]).unwrap();
    drop((webs, front, back, cart, probe));
    let left = Inventory::left(&bed.node, &before).unwrap();
    assert!(!left.has_traces(), "left behind:\n{left}");
}

/// Three services on a network that compose makes itself.
fn project() -> String {
    let service = |ports: &[&str]| json!({"image": BUSYBOX, "pull_policy": "never", "command": ["sleep", "infinity"], "ports": ports});
    json!({"services": {"front": service(&["8080:80"]), "back": service(&[]), "cart": service(&[])}}).to_string()
}

#[test]
fn a_pod_by_the_real_crictl() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    match Crictl::real(&bed.node) {
        Some(crictl) => pod(&bed, &crictl),
        None => skipped("crictl: it is not on PATH"),
    }
}

fn pod(bed: &Bed, crictl: &Crictl<'_>) {
    let [config, container] = [("pod", pod_config()), ("container", container_config())].map(|(name, text)| {
        let path = format!("/{name}.json");
        bed.node.write(&path, &text).unwrap();
        bed.node.outside(&path).to_str().unwrap().to_owned()
    });
    let first = crictl.call(&["runp", &config]).unwrap();
    remove(crictl, &first);
    let before = Inventory::of(&bed.node).unwrap();

    let id = crictl.call(&["runp", &config]).unwrap();
    let shell = crictl.call(&["create", &id, &container, &config]).unwrap();
    crictl.call(&["start", &shell]).unwrap();
    let (address, place) = crictl.find(&id).unwrap();
    let inside = crictl.call(&["exec", &shell, "ip", "-4", "-oneline", "addr", "show", "eth0"]).unwrap();
    assert!(inside.contains(&format!("{address}/24")), "{inside}");
    let web = Web::start(&place, "pod", 80).unwrap();
    let probe = Probe::new()
        .from("node", &bed.node.place)
        .to("pod", Protocol::Tcp, SocketAddr::new(address.parse().unwrap(), 80), Expect::said("pod "))
        .to("published", Protocol::Tcp, SocketAddr::new(bed.node.v4.into(), 8080), Expect::said("pod "));
    probe.check().unwrap();
    let netdctl = parts::ours().unwrap().join("netdctl");
    let listed = bed.node.output(Command::new(netdctl).args(["sandbox", "ls"])).unwrap();
    assert!(listed.contains(&address), "{listed}");

    remove(crictl, &id);
    drop((web, probe, place));
    let left = Inventory::left(&bed.node, &before).unwrap();
    assert!(!left.has_traces(), "left behind:\n{left}");
}

fn remove(crictl: &Crictl<'_>, pod: &str) {
    crictl.call(&["stopp", pod]).unwrap();
    crictl.call(&["rmp", pod]).unwrap();
}

fn pod_config() -> String {
    let ports = json!([{"container_port": 80, "host_port": 8080}]);
    let metadata = json!({"name": "typed", "namespace": "default", "uid": "uid-typed", "attempt": 1});
    json!({"metadata": metadata, "labels": {"app": "typed"}, "port_mappings": ports, "linux": {}}).to_string()
}

fn container_config() -> String {
    json!({"metadata": {"name": "shell"}, "image": {"image": BUSYBOX}, "command": ["/bin/sleep", "infinity"], "linux": {}})
        .to_string()
}

fn web(name: &str, at: &Container, port: u16) -> Web {
    Web::start(&at.place, name, port).unwrap()
}

fn address(place: &Place) -> IpAddr {
    let text = place.output(Command::new("ip").args(["-4", "-oneline", "addr", "show", "eth0"]), "").unwrap();
    let word = text.split_whitespace().nth(3).unwrap();
    word.split_once('/').unwrap().0.parse().unwrap()
}

/// Past the harness, which keeps what tests print.
fn skipped(what: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED {what}").unwrap();
}
