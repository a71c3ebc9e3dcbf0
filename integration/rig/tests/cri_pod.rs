//! Pods by CRI, on each containerd: the pod's address is in its status, it reaches its gateway, a neighbour and the outside,
//! and nothing is left of it. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::net::{IpAddr, SocketAddr};

use netd_rig::{Bed, Cri, Expect, Inventory, OUTSIDE_V4, Plugins, PodWish, Probe, Protocol, Release, Web};

#[test]
fn pods_have_their_network_by_netd_on_containerd_1_7() {
    pods_have_their_network(Release::V1_7, &Plugins::Netd);
}

#[test]
fn pods_have_their_network_by_netd_on_containerd_2_2() {
    pods_have_their_network(Release::V2_2, &Plugins::Netd);
}

#[test]
fn pods_have_their_network_by_netd_on_containerd_2_4() {
    pods_have_their_network(Release::V2_4, &Plugins::Netd);
}

#[test]
fn pods_have_their_network_by_the_official_plugins_on_containerd_1_7() {
    pods_have_their_network(Release::V1_7, &Plugins::Official);
}

#[test]
fn pods_have_their_network_by_the_official_plugins_on_containerd_2_2() {
    pods_have_their_network(Release::V2_2, &Plugins::Official);
}

#[test]
fn pods_have_their_network_by_the_official_plugins_on_containerd_2_4() {
    pods_have_their_network(Release::V2_4, &Plugins::Official);
}

fn pods_have_their_network(release: Release, plugins: &Plugins) {
    let bed = Bed::start(release, plugins).unwrap();
    let cri = Cri::new(&bed.node).unwrap();
    // The first pod brings the network itself: its bridge, and what the firewall says of that.
    let first = cri.run_pod(&PodWish { name: "first", ..PodWish::default() }).unwrap();
    cri.remove_pod(&first.id).unwrap();
    drop(first);
    let before = Inventory::of(&bed.node).unwrap();
    let a = cri.run_pod(&PodWish { name: "a", labels: &[("app", "a")], ..PodWish::default() }).unwrap();
    let b = cri.run_pod(&PodWish { name: "b", ports: &[(8080, 80)], ..PodWish::default() }).unwrap();
    let [at_a, at_b] = [&a, &b].map(|pod| pod.addresses[0].parse::<IpAddr>().unwrap());
    assert_ne!(at_a, at_b);

    let shell = cri.start_container(&a, "shell", &["/bin/sleep", "infinity"]).unwrap();
    let ping = cri.exec(&shell, &["ping", "-c", "1", "-W", "2", "10.4.0.1"]).unwrap();
    assert_eq!(ping.code, 0, "{}{}", ping.stdout, ping.stderr);
    let page = cri.exec(&shell, &["wget", "-q", "-O", "-", &format!("http://{OUTSIDE_V4}/")]).unwrap();
    assert_eq!(page.stdout, format!("outside {}\n", bed.node.v4), "{}", page.stderr);

    let _webs = [("a", &a), ("b", &b)].map(|(name, pod)| Web::start(&pod.place, name, 80).unwrap());
    let at = |ip: IpAddr, port: u16| SocketAddr::from((ip, port));
    let probe = Probe::new()
        .from("a", &a.place)
        .from("b", &b.place)
        .from("node", &bed.node.place)
        .to("a tcp", Protocol::Tcp, at(at_a, 80), Expect::said("a "))
        .to("b udp", Protocol::Udp, at(at_b, 80), Expect::said("b "))
        .to("outside", Protocol::Tcp, at(OUTSIDE_V4.into(), 80), Expect::said(&format!("outside {}", bed.node.v4)))
        .to("published", Protocol::Tcp, at(bed.node.v4.into(), 8080), Expect::said("b "));
    probe.check().unwrap();
    let port = at(bed.node.v4.into(), 8080);
    let from_outside = Probe::new().from("outside", &bed.underlay.place);
    from_outside.to("published", Protocol::Tcp, port, Expect::said("b 192.0.2.1")).check().unwrap();

    cri.remove_pod(&a.id).unwrap();
    cri.remove_pod(&b.id).unwrap();
    let left = Inventory::left(&bed.node, &before).unwrap();
    assert!(!left.has_traces(), "left behind:\n{left}");
}
