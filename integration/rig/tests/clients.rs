//! Containers by CNI clients: one that works as nerdctl does, and `ctr run --cni`. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use netd_rig::{
    Bed, Ctr, Expect, Inventory, Nerdctl, OUTSIDE_V4, Place, Plugins, Probe, Protocol, Release, Web, parts,
};

const SLEEP: [&str; 2] = ["/bin/sleep", "infinity"];
const SHIPPED: &str = include_str!("../../../packaging/cni/00-netd.conflist");

#[test]
fn containers_have_their_network_by_the_official_plugins() {
    containers_have_their_network(&Plugins::Official, "plain-official");
}

#[test]
fn containers_have_their_network_by_netd() {
    containers_have_their_network(&Plugins::Netd, "plain-netd");
}

/// nerdctl is in no registry: it is run where somebody has put it.
#[test]
fn containers_have_their_network_by_netd_and_the_real_nerdctl() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    match Nerdctl::real(&bed.node) {
        Some(nerdctl) => network_of_containers(&bed, &nerdctl, "plain-nerdctl"),
        None => writeln!(std::io::stderr(), "SKIPPED nerdctl: not on PATH").unwrap(),
    }
}

fn containers_have_their_network(plugins: &Plugins, plain: &str) {
    let bed = Bed::start(Release::V2_4, plugins).unwrap();
    network_of_containers(&bed, &Nerdctl::like(&bed.node).unwrap(), plain);
}

/// `plain`: the name of the container by `ctr`, and of its control group, which all nodes share.
fn network_of_containers(bed: &Bed, nerdlike: &Nerdctl<'_>, plain: &str) {
    let ctr = Ctr::new(&bed.node, &bed.containerd);
    // The first container brings the network itself: its bridge, and what the firewall says of that.
    nerdctl_once(nerdlike);
    let before = Inventory::of(&bed.node).unwrap();

    let http = ["/bin/httpd", "-f", "-p", "80", "-h", "/etc"];
    let server =
        nerdlike.run(&["-p", "8080:80", "--ip", "10.4.0.77", "--mac-address", "02:00:00:00:00:77"], &http).unwrap();
    let plain = ctr.run(plain, &SLEEP).unwrap();
    assert_eq!(address(&server.place), Ipv4Addr::new(10, 4, 0, 77));
    assert!(ip(&server.place, &["link", "show", "eth0"]).contains("02:00:00:00:00:77"));

    let webs = [Web::start(&server.place, "server", 81).unwrap(), Web::start(&plain.place, "plain", 81).unwrap()];
    let at = |ip: Ipv4Addr, port: u16| SocketAddr::from((IpAddr::from(ip), port));
    let probe = Probe::new()
        .from("server", &server.place)
        .from("plain", &plain.place)
        .from("node", &bed.node.place)
        .to("server", Protocol::Tcp, at(address(&server.place), 81), Expect::said("server "))
        .to("plain", Protocol::Udp, at(address(&plain.place), 81), Expect::said("plain "))
        .to("outside", Protocol::Tcp, at(OUTSIDE_V4, 80), Expect::said(&format!("outside {}", bed.node.v4)))
        // httpd has no page here and says so.
        .to("published", Protocol::Tcp, at(bed.node.v4, 8080), Expect::said("<HTML>"));
    probe.check().unwrap();

    nerdlike.stop(&server.id).unwrap();
    let again = nerdlike.start(&server.id).unwrap();
    assert_eq!(address(&again.place), Ipv4Addr::new(10, 4, 0, 77), "a restart keeps the address that was asked for");
    nerdlike.remove(&again.id).unwrap();
    ctr.remove(&plain.id).unwrap();
    // Both removals are done without the namespace: the links go with it, and it goes with its last holder.
    drop((server, again, plain, probe, webs));
    let left = Inventory::left(&bed.node, &before).unwrap();
    assert!(!left.has_traces(), "left behind:\n{left}");
}

#[test]
fn a_container_that_names_no_network_is_on_the_shipped_one() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    on_the_shipped_network(&bed, &Nerdctl::like(&bed.node).unwrap());
}

/// nerdctl is in no registry: it is run where somebody has put it.
#[test]
fn a_container_of_the_real_nerdctl_that_names_no_network_is_on_the_shipped_one() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    match Nerdctl::real(&bed.node) {
        Some(nerdctl) => on_the_shipped_network(&bed, &nerdctl),
        None => writeln!(std::io::stderr(), "SKIPPED nerdctl: not on PATH").unwrap(),
    }
}

/// The shipped file is all that the node has, and stays so: nerdctl makes no `bridge` of its own.
fn on_the_shipped_network(bed: &Bed, nerdlike: &Nerdctl<'_>) {
    fs::remove_file(bed.node.outside("/etc/cni/net.d/nerdctl-bridge.conflist")).unwrap();
    bed.node.write("/etc/cni/net.d/00-netd.conflist", SHIPPED).unwrap();
    let server = nerdlike.run(&["-p", "8080:81"], &SLEEP).unwrap();
    assert_eq!(address(&server.place).octets()[..2], [10, 167]);
    assert!(ip(&server.place, &["-6", "addr", "show", "eth0"]).contains("fd6e:6574:6400:"));
    let _web = Web::start(&server.place, "server", 81).unwrap();
    let at = |ip: Ipv4Addr, port: u16| SocketAddr::from((IpAddr::from(ip), port));
    let probe = Probe::new()
        .from("node", &bed.node.place)
        .to("published", Protocol::Tcp, at(bed.node.v4, 8080), Expect::said("server "))
        .to("direct", Protocol::Tcp, at(address(&server.place), 81), Expect::said("server "));
    probe.check().unwrap();
    let files = fs::read_dir(bed.node.outside("/etc/cni/net.d")).unwrap().map(|entry| entry.unwrap().file_name());
    let networks: Vec<_> = files.filter(|name| name.to_string_lossy().ends_with(".conflist")).collect();
    assert_eq!(networks, ["00-netd.conflist"]);
    nerdlike.remove(&server.id).unwrap();
}

#[test]
fn a_container_without_a_network_of_its_own_is_nothing_to_netd() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    without_a_network_of_their_own(&bed, &Nerdctl::like(&bed.node).unwrap());
}

/// nerdctl is in no registry: it is run where somebody has put it.
#[test]
fn a_container_of_the_real_nerdctl_without_a_network_of_its_own_is_nothing_to_netd() {
    let bed = Bed::start(Release::V2_4, &Plugins::Netd).unwrap();
    match Nerdctl::real(&bed.node) {
        Some(nerdctl) => without_a_network_of_their_own(&bed, &nerdctl),
        None => writeln!(std::io::stderr(), "SKIPPED nerdctl: not on PATH").unwrap(),
    }
}

fn without_a_network_of_their_own(bed: &Bed, nerdlike: &Nerdctl<'_>) {
    let none = nerdlike.run(&["--net", "none"], &SLEEP).unwrap();
    let links = ip(&none.place, &["-oneline", "link"]);
    assert!(links.lines().all(|line| line.contains(" lo:")), "{links}");
    let host = nerdlike.run(&["--net", "host"], &SLEEP).unwrap();
    assert_eq!(ip(&host.place, &["-oneline", "link"]), ip(&bed.node.place, &["-oneline", "link"]));
    assert_eq!(attached(bed), Vec::<String>::new());

    let server = nerdlike.run(&["-p", "8080:81"], &SLEEP).unwrap();
    let shares = nerdlike.run(&["--net", &format!("container:{}", server.id)], &SLEEP).unwrap();
    assert_eq!(ip(&shares.place, &["-oneline", "addr"]), ip(&server.place, &["-oneline", "addr"]));
    let key = format!("default-{}", server.id);
    assert_eq!(attached(bed), [key.as_str()]);
    let web = Web::start(&shares.place, "shares", 81).unwrap();
    let published = SocketAddr::from((IpAddr::from(bed.node.v4), 8080));
    let reaches =
        || Probe::new().from("node", &bed.node.place).to("it", Protocol::Tcp, published, Expect::said("shares"));
    reaches().check().unwrap();
    // Whoever shared goes, and the network stays.
    for id in [&shares.id, &host.id, &none.id] {
        nerdlike.remove(id).unwrap();
    }
    assert_eq!(attached(bed), [key.as_str()]);
    reaches().check().unwrap();
    drop(web);
    nerdlike.remove(&server.id).unwrap();
    assert_eq!(attached(bed), Vec::<String>::new());
}

/// Ids of the containers that netd has attached.
fn attached(bed: &Bed) -> Vec<String> {
    let mut netdctl = Command::new(parts::ours().unwrap().join("netdctl"));
    let text = bed.node.output(netdctl.args(["-o", "json", "sandbox", "ls"])).unwrap();
    let sandboxes: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let standing = sandboxes.iter().filter(|one| one["attachments"][0]["state"] == "attached");
    standing.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_container_whose_network_fails_does_not_start() {
    for plugins in [Plugins::Netd, Plugins::Official] {
        does_not_start(&plugins);
    }
}

fn does_not_start(plugins: &Plugins) {
    let bed = Bed::start(Release::V2_4, plugins).unwrap();
    let nerdlike = Nerdctl::like(&bed.node).unwrap();
    // The first container brings the network itself: its bridge, and what the firewall says of that.
    nerdctl_once(&nerdlike);
    let before = Inventory::of(&bed.node).unwrap();
    let error = nerdlike.run(&["--ip", "192.168.9.9"], &SLEEP).unwrap_err().to_string();
    assert!(error.contains("192.168.9.9"), "{error}");
    let left = Inventory::left(&bed.node, &before).unwrap();
    assert!(!left.has_traces(), "left behind:\n{left}");
}

fn nerdctl_once(nerdlike: &Nerdctl<'_>) {
    let first = nerdlike.run(&[], &SLEEP).unwrap();
    nerdlike.remove(&first.id).unwrap();
}

/// The IPv4 address of `eth0`.
fn address(place: &Place) -> Ipv4Addr {
    let text = ip(place, &["-4", "-oneline", "addr", "show", "eth0"]);
    let word = text.split_whitespace().nth(3).unwrap();
    word.split_once('/').unwrap().0.parse().unwrap()
}

fn ip(place: &Place, arguments: &[&str]) -> String {
    place.output(Command::new("ip").args(arguments), "").unwrap()
}
