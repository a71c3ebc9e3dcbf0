//! A node with two bridges and sandboxes on them, made of kernel objects. No daemon.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use netd_config::LinkName;
use netd_kernel::{
    Bridge, Family, Interface, Kernel, Key, LinkSettings, LinuxKernel, Mac, Object, Objects, Port, Route, Step, Veth,
    fixed_ruleset, plan,
};

use crate::space::Space;

pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) struct Node {
    pub(crate) space: Space,
    pub(crate) kernel: Arc<LinuxKernel>,
    site: u8,
    policy: Mutex<Objects>,
}

/// A sandbox on the bridge `br0` or `br1`, with the addresses `10.4.<bridge>.<number>` and `fd00:<bridge>::<number>`; on a node
/// of another site, twice its number is added to that of the bridge.
pub(crate) struct Sandbox {
    pub(crate) space: Space,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    pub(crate) port: LinkName,
    pub(crate) mac: Mac,
}

impl Node {
    /// `filters_all`: the node's switch for all bridges, which a new namespace has on.
    pub(crate) fn new(filters_all: bool) -> Self {
        Self::at(0, filters_all)
    }

    /// Bridges have addresses of their own at each site.
    pub(crate) fn at(site: u8, filters_all: bool) -> Self {
        let space = Space::new();
        let kernel = space.run(move || {
            let value = if filters_all { "1" } else { "0" };
            for switch in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
                fs::write(format!("/proc/sys/net/bridge/{switch}"), value).unwrap();
            }
            // By default six refusals at once and then one a second to each sender, and fifty at once in all.
            let of_all = [("ipv4/icmp_msgs_per_sec", "100000"), ("ipv4/icmp_msgs_burst", "100000")];
            let limits = [("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")].into_iter().chain(of_all);
            for (limit, value) in limits {
                fs::write(format!("/proc/sys/net/{limit}"), value).unwrap();
            }
            Arc::new(LinuxKernel::new("netd", "nd").unwrap())
        });
        let node = Self { space, kernel, site, policy: Mutex::default() };
        let mut objects = Objects::from([fixed_ruleset()]);
        for family in [Family::V4, Family::V6] {
            objects.insert(Key::Forwarding(family), Object::Forwarding { guarded: true });
        }
        for number in 0..2 {
            let subnet = node.subnet(number);
            let addresses = vec![net(&format!("10.4.{subnet}.1/24")), net(&format!("fd00:{subnet}::1/64"))];
            let name = link(&format!("br{number}"));
            objects.insert(
                Key::Bridge(name.clone()),
                Object::Bridge(Bridge { addresses, mtu: None, promisc: false, vlan_filtering: false }),
            );
            objects.insert(Key::Admitted(name), Object::Set);
        }
        node.apply(plan(&objects, &Objects::new()));
        node.raise_loopback();
        node
    }

    /// A reset for the node itself goes by it.
    fn raise_loopback(&self) {
        let (kernel, fd) = (Arc::clone(&self.kernel), self.space.fd());
        self.space.run(move || {
            let itself = kernel.identify(fd).unwrap();
            let lo = interface(Vec::new(), Vec::new());
            kernel.apply(&[Step::Replace(Key::Interface(itself.id, link("lo")), lo)], Some(&itself)).unwrap();
        });
    }

    fn subnet(&self, bridge: u8) -> u8 {
        2 * self.site + bridge
    }

    pub(crate) fn sandbox(&self, bridge: u8, number: u8) -> Sandbox {
        let (space, subnet) = (Space::new(), self.subnet(bridge));
        let (v4, v6) = (format!("10.4.{subnet}.{number}"), format!("fd00:{subnet}::{number}"));
        let (port, mac) = (link(&format!("nd{bridge}-{number}")), [2, 0x6e, 10, 4, subnet, number]);
        let (kernel, fd, name) = (Arc::clone(&self.kernel), space.fd(), port.clone());
        let addresses = vec![net(&format!("{v4}/24")), net(&format!("{v6}/64"))];
        self.space.run(move || {
            let sandbox = kernel.identify(fd).unwrap();
            let veth = Veth {
                bridge: Some(link(&format!("br{bridge}"))),
                peer: (sandbox.id, link("eth0")),
                peer_mac: Some(mac),
                mtu: None,
                hairpin: false,
                isolated: false,
                vlans: None,
                port: Port::Open,
            };
            let route = |to: &str, by: String| Route { destination: net(to), gateway: Some(ip(&by)), source: None };
            let routes =
                vec![route("0.0.0.0/0", format!("10.4.{subnet}.1")), route("::/0", format!("fd00:{subnet}::1"))];
            let interface = (Key::Interface(sandbox.id, link("eth0")), interface(addresses, routes));
            let objects = Objects::from([(Key::Veth(name), Object::Veth(veth)), interface]);
            kernel.apply(&plan(&objects, &Objects::new()), Some(&sandbox)).unwrap();
        });
        let sandbox = Sandbox { space, v4: ip(&v4), v6: ip(&v6), port, mac };
        // A carrier that has just come is looked at once a second.
        for address in [format!("10.4.{subnet}.1"), format!("fd00:{subnet}::1")] {
            while sandbox.space.tcp(ip(&address), 9) != crate::space::Heard::Refusal {}
        }
        sandbox
    }

    /// A sandbox of no bridge, with an address of the subnet of `br0`.
    pub(crate) fn routed_sandbox(&self, number: u8) -> Sandbox {
        let (space, subnet) = (Space::new(), self.subnet(0));
        let (v4, v6) = (format!("10.4.{subnet}.{number}"), format!("fd00:{subnet}::{number}"));
        let (port, mac) = (link(&format!("nd{number}")), [2, 0x6e, 10, 4, subnet, number]);
        let gateways = [format!("10.4.{subnet}.1"), format!("fd00:{subnet}::1")];
        let (kernel, fd, name) = (Arc::clone(&self.kernel), space.fd(), port.clone());
        let addresses = vec![net(&format!("{v4}/32")), net(&format!("{v6}/128"))];
        self.space.run(move || {
            let sandbox = kernel.identify(fd).unwrap();
            let veth = Veth {
                bridge: None,
                peer: (sandbox.id, link("eth0")),
                peer_mac: Some(mac),
                mtu: None,
                hairpin: false,
                isolated: false,
                vlans: None,
                port: Port::Open,
            };
            let to = |to: IpNet, gateway| Route { destination: to, gateway, source: None };
            let near = gateways.each_ref().map(|gateway| to(IpNet::from(ip(gateway)), None));
            let far = ["0.0.0.0/0", "::/0"].into_iter().zip(&gateways).map(|(all, by)| to(net(all), Some(ip(by))));
            let routes = near.into_iter().chain(far).collect();
            let mut objects: Objects = addresses
                .iter()
                .map(|address| (Key::SandboxRoute(name.clone(), address.addr()), Object::Set))
                .collect();
            objects.extend(gateways.iter().map(|gateway| (Key::Gateway(name.clone(), ip(gateway)), Object::Set)));
            objects.insert(Key::Interface(sandbox.id, link("eth0")), interface(addresses, routes));
            objects.insert(Key::Veth(name), Object::Veth(veth));
            kernel.apply(&plan(&objects, &Objects::new()), Some(&sandbox)).unwrap();
        });
        Sandbox { space, v4: ip(&v4), v6: ip(&v6), port, mac }
    }

    /// Makes the difference between the policy in force and this one.
    pub(crate) fn enforce(&self, policy: &Objects) {
        let mut last = self.policy.lock().unwrap();
        self.apply(plan(policy, &last));
        last.clone_from(policy);
    }

    pub(crate) fn apply(&self, steps: Vec<Step>) {
        let kernel = Arc::clone(&self.kernel);
        self.space.run(move || kernel.apply(&steps, None)).unwrap();
    }
}

impl Sandbox {
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [self.v4, self.v6]
    }

    /// The objects of its spoof guard.
    pub(crate) fn guard(&self) -> Objects {
        let leased = self.addresses().map(|address| Key::PortAddress(self.port.clone(), self.mac, address));
        let keys = [Key::Guarded(self.port.clone()), Key::PortMac(self.port.clone(), self.mac)];
        keys.into_iter().chain(leased).map(|key| (key, Object::Set)).collect()
    }
}

fn interface(addresses: Vec<IpNet>, routes: Vec<Route>) -> Object {
    let (sysctls, settings) = (BTreeMap::new(), LinkSettings::default());
    Object::Interface(Interface { addresses, routes, sysctls, settings, quick_link_local: true })
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
