//! What only the real kernel has: packets, and links of others. Needs root, and fails without.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netd_config::LinkName;
use netd_kernel::{
    Bridge, Interface, Kernel, KernelError, Key, LinkSettings, LinuxKernel, NetnsId, Object, Objects, Port, Route,
    Sandbox, Scope, Step, Veth, plan,
};
use netd_netlink::Socket;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use nix::sched::{CloneFlags, unshare};

const LONG: Duration = Duration::from_secs(30);

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
}

/// Runs `test` as a node: a thread in a namespace that dies with it.
fn on_a_node(test: impl FnOnce(&LinuxKernel) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        enter_new_namespace();
        test(&LinuxKernel::new("netd", "nd").unwrap());
    });
    thread.join().unwrap();
}

/// A sandbox: a namespace held by a thread, which sends and receives for it.
struct Room {
    orders: mpsc::Sender<Box<dyn FnOnce() + Send>>,
    fd: OwnedFd,
}

impl Room {
    fn new() -> Self {
        let (orders, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (opened, fd) = mpsc::channel();
        std::thread::spawn(move || {
            enter_new_namespace();
            opened.send(OwnedFd::from(File::open("/proc/thread-self/ns/net").unwrap())).unwrap();
            inbox.into_iter().for_each(|order| order());
        });
        Self { orders, fd: fd.recv().unwrap() }
    }

    fn sandbox(&self, kernel: &LinuxKernel) -> Sandbox {
        kernel.identify(self.fd.try_clone().unwrap()).unwrap()
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        self.orders.send(Box::new(move || drop(done.send(work())))).unwrap();
        answer.recv().unwrap()
    }
}

fn bridge() -> (Key, Object) {
    let addresses = vec!["10.4.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
    (
        Key::Bridge(link("br0")),
        Object::Bridge(Bridge { addresses, mtu: Some(1_400), promisc: false, vlan_filtering: false }),
    )
}

fn veth(id: NetnsId, number: u8, port: Port) -> (Key, Object) {
    let veth = Veth {
        bridge: Some(link("br0")),
        peer: (id, link("eth0")),
        peer_mac: None,
        mtu: Some(1_400),
        hairpin: true,
        isolated: false,
        vlans: None,
        port,
    };
    (Key::Veth(link(&format!("nd{number}"))), Object::Veth(veth))
}

fn attachment(id: NetnsId, number: u8) -> Objects {
    let addresses = vec![format!("10.4.0.{number}/24").parse().unwrap(), format!("fd00::{number}/64").parse().unwrap()];
    let default =
        Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: Some("10.4.0.1".parse().unwrap()), source: None };
    let sysctls = BTreeMap::from([("net.ipv4.conf.eth0.arp_notify".to_owned(), "1".to_owned())]);
    let interface = Object::Interface(Interface {
        addresses,
        routes: vec![default],
        sysctls,
        settings: LinkSettings::default(),
        quick_link_local: false,
    });
    Objects::from([bridge(), veth(id, number, Port::Open), (Key::Interface(id, link("eth0")), interface)])
}

fn attach(kernel: &LinuxKernel, room: &Room, number: u8) -> Sandbox {
    let sandbox = room.sandbox(kernel);
    kernel.apply(&plan(&attachment(sandbox.id, number), &Objects::new()), Some(&sandbox)).unwrap();
    sandbox
}

/// Whether a datagram from `from` reaches `address` in `to` within `patience`: the kernel opens a new port when one of its
/// workers has heard of the carrier, and a machine under load lets that wait.
fn reaches(from: &Room, to: &Room, address: &'static str, patience: Duration) -> bool {
    let any = if address.contains(':') { "[::]:7777" } else { "0.0.0.0:7777" };
    let receiver = to.run(move || UdpSocket::bind(any).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let sender = from.run(move || UdpSocket::bind(any.replace("7777", "0")).unwrap());
    let start = Instant::now();
    while start.elapsed() < patience {
        // A refusal here is an answer too: nothing arrives.
        drop(sender.send_to(b"hello", format!("{address}:7777")));
        if receiver.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn packets_pass_until_the_port_is_closed() {
    on_a_node(|kernel| {
        let (one, two) = (Room::new(), Room::new());
        attach(kernel, &one, 2);
        let sandbox = attach(kernel, &two, 3);
        assert!(reaches(&one, &two, "10.4.0.3", LONG));
        assert!(reaches(&one, &two, "[fd00::3]", LONG));
        let (key, object) = veth(sandbox.id, 3, Port::Closed);
        kernel.apply(&[Step::Replace(key.clone(), object.clone())], None).unwrap();
        assert_eq!(kernel.observe(Scope::Node).unwrap().get(&key), Some(&object));
        assert!(!reaches(&one, &two, "10.4.0.3", Duration::from_secs(1)));
    });
}

/// A port that is only shut is opened by the kernel when its carrier comes back.
#[test]
fn a_link_that_is_down_passes_nothing_though_its_sandbox_switches_its_end_off_and_on() {
    on_a_node(|kernel| {
        let (one, two) = (Room::new(), Room::new());
        attach(kernel, &one, 2);
        let sandbox = attach(kernel, &two, 3);
        let (key, object) = veth(sandbox.id, 3, Port::Down);
        kernel.apply(&[Step::Replace(key.clone(), object.clone())], None).unwrap();
        two.run(|| {
            let mut socket = Socket::open().unwrap();
            for is_up in [false, true] {
                let mut eth0 = LinkMessage::default();
                eth0.attributes.push(LinkAttribute::IfName("eth0".to_owned()));
                eth0.header.change_mask = LinkFlags::Up;
                eth0.header.flags = if is_up { LinkFlags::Up } else { LinkFlags::empty() };
                socket.execute(vec![(RouteNetlinkMessage::SetLink(eth0), 0)]).unwrap();
            }
        });
        assert!(!reaches(&one, &two, "10.4.0.3", Duration::from_secs(2)));
        assert_eq!(kernel.observe(Scope::Node).unwrap().get(&key), Some(&object));
        let (key, object) = veth(sandbox.id, 3, Port::Open);
        kernel.apply(&[Step::Replace(key, object)], None).unwrap();
        assert!(reaches(&one, &two, "10.4.0.3", LONG));
    });
}

/// As `net.ipv6.conf.all.disable_ipv6 = 1` in `/etc/sysctl.conf` leaves a node.
#[test]
fn a_bridge_and_a_routed_link_have_their_ipv6_gateway_where_the_node_switched_ipv6_off() {
    on_a_node(|kernel| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        let room = Room::new();
        let sandbox = attach(kernel, &room, 1);
        let Object::Bridge(wanted) = bridge().1 else { panic!() };
        let Some(Object::Bridge(found)) = kernel.observe(Scope::Node).unwrap().remove(&bridge().0) else { panic!() };
        assert_eq!(found.addresses, wanted.addresses);
        let (routed, gateway) =
            (veth(sandbox.id, 2, Port::Open), Key::Gateway(link("nd2"), "fd01::1".parse().unwrap()));
        let Object::Veth(end) = routed.1 else { panic!() };
        let end = Object::Veth(Veth { bridge: None, hairpin: false, peer: (sandbox.id, link("eth1")), ..end });
        let steps = [Step::Create(routed.0, end), Step::Create(gateway.clone(), Object::Set)];
        kernel.apply(&steps, Some(&sandbox)).unwrap();
        assert!(kernel.observe(Scope::Node).unwrap().contains_key(&gateway));
        let made = |name: &str, flags: LinkFlags| {
            let mut made = LinkMessage::default();
            (made.header.flags, made.header.change_mask) = (flags, flags);
            made.attributes.push(LinkAttribute::IfName(name.to_owned()));
            made.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
            let made = (RouteNetlinkMessage::NewLink(made), NLM_F_CREATE | NLM_F_EXCL);
            Socket::open().unwrap().execute(vec![made]).unwrap();
        };
        let create = |name: &str| Step::Create(Key::Bridge(link(name)), bridge().1);
        // A netd that ended behind its creation has left it so.
        made("br1", LinkFlags::empty());
        let [Object::Bridge(object)] = [bridge().1] else { panic!() };
        let other = Object::Bridge(Bridge {
            addresses: ["10.5.0.1/24", "fd05::1/64"].map(|one| one.parse().unwrap()).into(),
            ..object
        });
        kernel.apply(&[Step::Create(Key::Bridge(link("br1")), other)], None).unwrap();
        // On a bridge that somebody else runs it stays as it is.
        made("br2", LinkFlags::Up);
        let error = kernel.apply(&[create("br2")], None).unwrap_err();
        assert!(matches!(error.source, KernelError::Ipv6Off(_)), "{error:?}");
    });
}

/// No program is started here: a child would hold the other test's sockets until it runs.
#[test]
fn a_link_of_somebody_else_that_has_our_name_gets_no_mark() {
    on_a_node(|kernel| {
        let mut socket = Socket::open().unwrap();
        let mut theirs = LinkMessage::default();
        theirs.attributes.push(LinkAttribute::IfName("nd2".to_owned()));
        let by_name = RouteNetlinkMessage::GetLink(theirs.clone());
        theirs.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]));
        socket.execute(vec![(RouteNetlinkMessage::NewLink(theirs), NLM_F_CREATE | NLM_F_EXCL)]).unwrap();
        let mut marks = || {
            let RouteNetlinkMessage::NewLink(link) = socket.fetch(by_name.clone()).unwrap() else { panic!("no link") };
            let has_alias = link.attributes.iter().any(|one| matches!(one, LinkAttribute::IfAlias(_)));
            (link.header.flags, has_alias)
        };
        let before = marks();
        let room = Room::new();
        let sandbox = room.sandbox(kernel);
        let steps = plan(&attachment(sandbox.id, 2), &Objects::new());
        let error = kernel.apply(&steps, Some(&sandbox)).unwrap_err();
        assert!(matches!(error.source, KernelError::Exists(_)), "{error:?}");
        assert_eq!(marks(), before);
        assert!(!before.1);
    });
}
