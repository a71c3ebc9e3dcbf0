//! The world of the table in namespaces: nodes `n1` and `n2` with bridges, sandboxes on them, a wire between and the outside.
//!
//! ```text
//! n1  br0: shop/web shop/api shop/db   br1: lab/web       n2  br0: shop/bare dns/dns   br1: lab/probe
//!  └──────────────── wire (a bridge in the namespace of far and near) ──────────────────┘
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netd::policies::objects;
use netd_config::LinkName;
use netd_kernel::{
    Bridge, Family, Kernel, Key, LinuxKernel, Object, Objects, Port, Scope, Step, Veth, fixed_ruleset, plan,
};
use netd_policy::{Change, Compiler, Hook, Policy, Profile, ProfileId, World};

use crate::ask::{Heard, ask};
use crate::probes::{End, Probe, probes, world};
use crate::space::Space;

const NODES: [(&str, [&str; 2]); 2] = [("n1", ["10.0.0.1", "fd00:1::1"]), ("n2", ["10.0.0.2", "fd00:1::2"])];
const WIRE: [&str; 2] = ["10.0.0.9", "fd00:1::9"];
/// Sandbox, node and bridge.
const PLACES: [(&str, usize, usize); 7] = [
    ("shop/web", 0, 0),
    ("shop/api", 0, 0),
    ("shop/db", 0, 0),
    ("lab/web", 0, 1),
    ("shop/bare", 1, 0),
    ("dns/dns", 1, 0),
    ("lab/probe", 1, 1),
];
const GATEWAYS: [[&str; 2]; 2] = [["10.6.0.1", "fd00:6::1"], ["10.7.0.1", "fd00:7::1"]];
const TCP: [u16; 6] = [53, 80, 5432, 8080, 9090, 65535];
const UDP: [u16; 2] = [53, 80];

pub(crate) struct Net {
    nodes: Vec<Node>,
    outside: Space,
    sandboxes: BTreeMap<&'static str, Space>,
}

struct Node {
    space: Space,
    kernel: Arc<LinuxKernel>,
    compiler: Compiler,
    /// As they stand in the kernel.
    profiles: BTreeMap<ProfileId, Profile>,
}

impl Net {
    pub(crate) fn new() -> Self {
        let (world, ends) = (world(), ends());
        let outside = space();
        let nodes = NODES.map(|(name, _)| Node::new(name, &world)).into();
        let mut net = Self { nodes, outside, sandboxes: BTreeMap::new() };
        net.wire();
        for (number, (name, node, bridge)) in PLACES.into_iter().enumerate() {
            let sandbox = space();
            net.nodes[node].attach(&sandbox, number, bridge);
            ip(&sandbox, &inside(name, &ends));
            net.sandboxes.insert(name, sandbox);
        }
        net.route(&ends);
        ends.values().for_each(|end| end.addresses.iter().for_each(|address| serve(net.space(end), *address)));
        net.wait();
        net
    }

    pub(crate) fn space(&self, end: &End) -> &Space {
        match NODES.iter().position(|(name, _)| *name == end.name) {
            Some(number) => &self.nodes[number].space,
            None => self.sandboxes.get(end.name).unwrap_or(&self.outside),
        }
    }

    /// The nodes' switch for all bridges.
    pub(crate) fn filter_all_bridges(&self, on: bool) {
        for node in &self.nodes {
            let value = u8::from(on).to_string();
            node.space.run(move || {
                for switch in ["iptables", "ip6tables"] {
                    fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{switch}"), &value).unwrap();
                }
            });
        }
    }

    /// Puts these policies in force on both nodes, by what differs from those before.
    pub(crate) fn enforce(&mut self, policies: &[Policy]) {
        self.nodes.iter_mut().for_each(|node| node.enforce(policies));
    }

    /// What both nodes' kernels would do by their maps.
    pub(crate) fn passes(&self, probe: &Probe) -> bool {
        let hook = |incoming| match (probe.is_own_node(), incoming) {
            (false, _) => Hook::Forward,
            (true, true) => Hook::Output,
            (true, false) => Hook::Input,
        };
        [(&probe.from, false), (&probe.to, true)].into_iter().filter(|(end, _)| !end.is_node).all(|(end, incoming)| {
            let Some(node) = NODES.iter().position(|(name, _)| Some(*name) == end.node) else { return true };
            let answers = self.nodes[node].compiler.compiled().interpret(hook(incoming), probe.flow);
            (if incoming { answers.ingress } else { answers.egress }).is_none_or(|answer| answer.allowed)
        })
    }

    /// The kernels hold what they would hold had they been told all at once.
    pub(crate) fn assert_held(&self) {
        for node in &self.nodes {
            let kernel = Arc::clone(&node.kernel);
            let mut held = node.space.run(move || kernel.observe(Scope::Node)).unwrap();
            held.retain(|key, _| key.is_of_policy() && !matches!(key, Key::Filtered(_)));
            assert_eq!(held, objects::all(node.compiler.compiled()));
        }
    }

    fn wire(&self) {
        let mut lines = "link add w type bridge\nlink set w up\n".to_owned();
        for address in WIRE {
            lines += &address_line(address, if address.contains(':') { 64 } else { 24 }, "w");
        }
        for address in ["203.0.113.9", "198.51.100.7", "2001:db8::9", "2001:db8:1::7"] {
            lines += &address_line(address, whole(address), "lo");
        }
        for (number, node) in self.nodes.iter().enumerate() {
            let fd = node.space.fd();
            let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
            writeln!(lines, "link add w{number} type veth peer name up0").unwrap();
            writeln!(lines, "link set up0 netns {path}\nlink set w{number} master w up").unwrap();
            ip(&self.outside, &std::mem::take(&mut lines));
            let [v4, v6] = NODES[number].1;
            ip(
                &node.space,
                &["link set up0 up\n", &address_line(v4, 24, "up0"), &address_line(v6, 64, "up0")].concat(),
            );
        }
    }

    /// Sandboxes by their nodes, and the outside by the wire.
    fn route(&self, ends: &BTreeMap<&'static str, End>) {
        let (mut outside, mut inside) = (String::new(), [String::new(), String::new()]);
        for (name, node, bridge) in PLACES {
            for (family, address) in ends[name].addresses.iter().enumerate() {
                let by_node = format!("route add {address} via {}\n", NODES[node].1[family]);
                outside += &by_node;
                inside[1 - node] += &by_node;
                writeln!(inside[node], "route add {address} dev br{bridge}").unwrap();
            }
        }
        for (family, address) in ["far", "near"].iter().flat_map(|name| ends[name].addresses.iter().enumerate()) {
            inside.iter_mut().for_each(|lines| writeln!(lines, "route add {address} via {}", WIRE[family]).unwrap());
        }
        ip(&self.outside, &outside);
        self.nodes.iter().zip(&inside).for_each(|(node, lines)| ip(&node.space, lines));
    }

    /// Without policies everybody hears everybody, once carriers and neighbours are there.
    fn wait(&self) {
        let start = Instant::now();
        let probes = probes();
        for probe in probes.iter().filter(|probe| ["tcp/80", "udp/53", "ping"].contains(&probe.traffic)) {
            while ask(self, probe) != Heard::Answer {
                let (from, to) = (probe.from.name, probe.to.name);
                assert!(start.elapsed() < Duration::from_secs(60), "{from} never hears {to} by {}", probe.traffic);
            }
        }
    }
}

impl Node {
    fn new(name: &str, world: &World) -> Self {
        let space = space();
        let kernel = space.run(|| Arc::new(LinuxKernel::new("netd", "nd").unwrap()));
        let mut compiler = Compiler::new(name);
        compiler.load(Vec::new(), world.clone());
        let mut objects = objects::all(compiler.compiled());
        objects.extend([fixed_ruleset()]);
        for family in [Family::V4, Family::V6] {
            objects.insert(Key::Forwarding(family), Object::Forwarding { guarded: true });
        }
        for (number, gateway) in GATEWAYS.iter().enumerate() {
            let addresses = gateway.iter().map(|address| format!("{address}/{}", whole(address)).parse().unwrap());
            let bridge = Bridge { addresses: addresses.collect(), mtu: None, promisc: false, vlan_filtering: false };
            objects.insert(Key::Bridge(bridge_name(number)), Object::Bridge(bridge));
            objects.insert(Key::Admitted(bridge_name(number)), Object::Set);
            objects.insert(Key::Filtered(bridge_name(number)), Object::Set);
        }
        let node = Self { space, kernel, compiler, profiles: BTreeMap::new() };
        node.apply(plan(&objects, &Objects::new()));
        node
    }

    fn attach(&self, sandbox: &Space, number: usize, bridge: usize) {
        let (kernel, fd) = (Arc::clone(&self.kernel), sandbox.fd());
        self.space.run(move || {
            let sandbox = kernel.identify(fd).unwrap();
            let veth = Veth {
                bridge: Some(bridge_name(bridge)),
                peer: (sandbox.id, LinkName::new("eth0").unwrap()),
                peer_mac: None,
                mtu: None,
                hairpin: false,
                isolated: false,
                vlans: None,
                port: Port::Open,
            };
            let name = LinkName::new(format!("nd{number}")).unwrap();
            kernel.apply(&[Step::Create(Key::Veth(name), Object::Veth(veth))], Some(&sandbox)).unwrap();
        });
    }

    fn enforce(&mut self, policies: &[Policy]) {
        let delta = self.compiler.update(Change::Policies(policies.to_vec()));
        let changes = objects::changes(&self.profiles, &delta, self.compiler.compiled());
        self.profiles = self.compiler.compiled().profiles.iter().map(|(id, one)| (*id, one.clone())).collect();
        self.apply(objects::steps(changes));
    }

    fn apply(&self, steps: Vec<Step>) {
        let kernel = Arc::clone(&self.kernel);
        self.space.run(move || kernel.apply(&steps, None)).unwrap();
    }
}

/// The sandboxes, nodes and addresses of the table, by their names.
fn ends() -> BTreeMap<&'static str, End> {
    probes().into_iter().flat_map(|probe| [probe.from, probe.to]).map(|end| (end.name, end)).collect()
}

fn bridge_name(number: usize) -> LinkName {
    LinkName::new(format!("br{number}")).unwrap()
}

fn space() -> Space {
    let space = Space::new();
    space.run(|| {
        // By default six refusals at once and then one a second to each sender, and fifty at once in all.
        let of_all = [("ipv4/icmp_msgs_per_sec", "100000"), ("ipv4/icmp_msgs_burst", "100000")];
        for (limit, value) in [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")].into_iter().chain(of_all) {
            fs::write(format!("/proc/sys/net/{limit}"), value).unwrap();
        }
    });
    ip(&space, "link set lo up\n");
    space
}

/// Its addresses, its neighbours on the bridge, and all others by the gateway.
fn inside(name: &str, ends: &BTreeMap<&'static str, End>) -> String {
    let (_, node, bridge) = PLACES.iter().find(|place| place.0 == name).unwrap();
    let near = PLACES.iter().filter(|place| place.0 != name && (place.1, place.2) == (*node, *bridge));
    let near: Vec<IpAddr> = near.flat_map(|place| ends[place.0].addresses).collect();
    let mut lines = "link set eth0 up\n".to_owned();
    for address in ends[name].addresses {
        lines += &address_line(&address.to_string(), whole(&address.to_string()), "eth0");
    }
    near.iter().for_each(|address| writeln!(lines, "route add {address} dev eth0").unwrap());
    for (gateway, default) in GATEWAYS[*bridge].iter().zip(["0.0.0.0/0", "::/0"]) {
        writeln!(lines, "route add {gateway} dev eth0\nroute add {default} via {gateway}").unwrap();
    }
    lines
}

fn whole(address: &str) -> u8 {
    if address.contains(':') { 128 } else { 32 }
}

fn address_line(address: &str, prefix: u8, link: &str) -> String {
    let quick = if address.contains(':') { " nodad" } else { "" };
    format!("address add {address}/{prefix} dev {link}{quick}\n")
}

fn ip(space: &Space, lines: &str) {
    let lines = lines.to_owned();
    space.run(move || {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success(), "{lines}");
    });
}

/// Greets whoever connects to one of the table's ports, and sends back what comes.
fn serve(space: &Space, address: IpAddr) {
    space.run(move || {
        for port in TCP {
            let listener = TcpListener::bind((address, port)).unwrap();
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    drop(stream.write_all(b"!"));
                }
            });
        }
        for port in UDP {
            let socket = UdpSocket::bind((address, port)).unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 8];
                while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                    drop(socket.send_to(&bytes[..length], peer));
                }
            });
        }
    });
}
