//! The ruleset on the real kernel: read back as it was made, made anew when it was damaged, readable by `nft`. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;

use netd_config::{LinkName, Protocol};
use netd_kernel::{
    Change, Class, Decision, Direction, Entrance, Family, Kernel, Key, LinuxKernel, Object, Objects, Profile,
    Publication, Reach, Scope, Service, Step, fixed_ruleset, plan, profile,
};
use netd_netlink::{Socket, attribute, conntrack};
use nix::sched::{CloneFlags, unshare};

fn on_a_node(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        test();
    });
    thread.join().unwrap();
}

fn kernel() -> LinuxKernel {
    LinuxKernel::new("netd", "nd").unwrap()
}

fn publication(address: &str, port: u16) -> Key {
    Key::Published(Publication { address: address.parse().unwrap(), protocol: Protocol::Tcp, port })
}

fn objects() -> Objects {
    let bridge = || LinkName::new("br0").unwrap();
    let masquerade = |address: &str| (Key::Masquerade(address.parse::<IpAddr>().unwrap(), bridge()), Object::Set);
    let target = |text: &str| Object::Target(text.parse().unwrap());
    let mut objects = policy();
    objects.extend([
        fixed_ruleset(),
        (Key::Forwarding(Family::V4), Object::Forwarding { guarded: true }),
        (Key::Forwarding(Family::V6), Object::Forwarding { guarded: true }),
        (Key::Admitted(bridge()), Object::Set),
        (Key::Fenced(bridge()), Object::Set),
        masquerade("10.4.0.2"),
        masquerade("fd00::2"),
        (publication("0.0.0.0", 8080), target("10.4.0.2:80")),
        (publication("::", 8080), target("[fd00::2]:80")),
        (publication("192.0.2.1", 8081), target("10.4.0.2:81")),
        (publication("2001:db8::1", 8081), target("[fd00::2]:81")),
    ]);
    objects.extend(fabric());
    objects
}

/// One of each kind of the elements of the fabric.
fn fabric() -> Objects {
    let entrances = [
        Entrance::Ipip([192, 0, 2, 1].into()),
        Entrance::Vxlan([192, 0, 2, 1].into(), 4_789),
        Entrance::Vxlan("2001:db8::1".parse().unwrap(), 4_789),
    ];
    let peers = ["192.0.2.2", "2001:db8::2"].map(|address| Key::Peer(address.parse().unwrap()));
    let inside = ["10.4.0.0/16", "fd00::/48"].map(|net| Key::Inside(net.parse().unwrap()));
    let keys = [Key::Connected].into_iter().chain(entrances.map(Key::PeersOnly)).chain(peers).chain(inside);
    keys.map(|key| (key, Object::Set)).collect()
}

/// One of each kind of the elements of policy and guard.
fn policy() -> Objects {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (port, mac) = (LinkName::new("nd1").unwrap(), [2, 0x6e, 10, 4, 0, 2]);
    let number = |text: &str, number| (Key::Class(address(text)), Object::Class(Class(number)));
    let pair = |peer| (Key::Pair(Direction::Ingress, Class(1), peer), Object::Profile(Profile(7)));
    let web = Service { protocol: 6, port: 80 };
    let mut objects = profile(Profile(7), &[(web, web, Decision::Allow)], Decision::Deny);
    objects.extend([
        (Key::DropSilently(Family::V6), Object::Set),
        (Key::Isolated(Direction::Ingress, Reach::Others, address("10.4.0.2")), Object::Set),
        (Key::Hairpin(address("10.4.0.2"), address("10.5.0.2")), Object::Set),
        (Key::Hairpin(address("fd00::2"), address("fd00::2")), Object::Set),
        number("10.4.0.2", 1),
        number("fd00::2", 1),
        (Key::Block(address("10.0.0.0"), address("10.255.255.255")), Object::Class(Class(3))),
        (Key::Block(address("192.0.0.0"), address("255.255.255.255")), Object::Class(Class(4))),
        pair(Some(Class(2))),
        pair(None),
        (Key::Guarded(port.clone()), Object::Set),
        (Key::PortMac(port.clone(), mac), Object::Set),
        (Key::PortAddress(port, mac, address("10.4.0.2")), Object::Set),
    ]);
    objects
}

fn nft(arguments: &str) -> (bool, String) {
    let output = Command::new("nft").args(arguments.split(' ')).output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn it_is_read_back_as_it_was_made_and_goes_wholly() {
    on_a_node(|| {
        let kernel = kernel();
        let wanted = objects();
        kernel.apply(&plan(&wanted, &Objects::new()), None).unwrap();
        let observed = kernel.observe(Scope::Node).unwrap();
        assert_eq!(observed, wanted);
        // Making it again keeps its elements; again is no error; another target for a port is one step.
        let (key, object) = fixed_ruleset();
        kernel.apply(&[Step::Create(key, object)], None).unwrap();
        assert_eq!(kernel.observe(Scope::Node).unwrap(), wanted);
        kernel.apply(&plan(&wanted, &Objects::new()), None).unwrap();
        let mut changed = wanted;
        changed.insert(publication("::", 8080), Object::Target("[fd00::3]:80".parse().unwrap()));
        kernel.apply(&plan(&changed, &observed), None).unwrap();
        assert_eq!(kernel.observe(Scope::Node).unwrap(), changed);
        kernel.apply(&plan(&Objects::from([fixed_ruleset()]), &changed), None).unwrap();
        let left = kernel.observe(Scope::Node).unwrap();
        let forwarding = |key: &Key| matches!(key, Key::Forwarding(_));
        assert!(left.keys().all(|key| *key == Key::Ruleset || forwarding(key)), "{left:?}");
        // What is absent is deleted without an error.
        kernel.apply(&plan(&Objects::from([fixed_ruleset()]), &changed), None).unwrap();
    });
}

#[test]
fn nft_can_show_it() {
    on_a_node(|| {
        let kernel = kernel();
        kernel.apply(&plan(&objects(), &Objects::new()), None).unwrap();
        let (done, text) = nft("list table inet netd");
        assert!(done, "{text}");
        // An older kernel gives back the four octets that it compares one of, and `nft` then shows how many bits count.
        let text = text.replace("oif missing/8", "oif missing");
        for line in [
            "elements = { \"br0\" }",
            "elements = { 10.4.0.2 }",
            "elements = { fd00::2 }",
            "elements = { \"br0\" . \"br0\" }",
            "10.4.0.2 . \"br0\"",
            "elements = { ipv4, ipv6 }",
            "fd00::2 . \"br0\"",
            "tcp . 8080 : 10.4.0.2 . 80",
            "ip saddr @masq4",
            "masquerade",
            "iifname @fenced oifname @fenced iifname . oifname != @same_bridge drop",
            "ct state established accept",
            "ct state related jump errors",
            "iifname \"nd*\" goto by_link",
            "fib saddr . iif oif != missing accept",
            "iifname \"nd-*\" goto by_tunnel",
            "fib saddr oifname \"nd-*\" return",
            "fib saddr oifname != \"nd*\" fib saddr oifname != @bridges return",
            "iifkind \"bridge\" iifname @bridges oifname @bridges",
            "th dport 4789 jump entering",
            "@entrances4 iifname != @bridges notrack",
            "@ipip_entrances iifname != @bridges notrack",
            "@nh,72,8 0x29 jump arriving",
            "@nh,48,8 != 0x3a jump crossing",
            "@nh,72,8 0x6 @th,104,8 & 0x2000000 == 0x2 jump opening",
            "@ipip_entrances goto from_peers",
            "ip6 daddr . meta l4proto . th dport @entrances6 goto from_peers",
            "ip saddr @inside4 ip daddr @inside4 accept",
            "oifname \"nd-*\" tcp option maxseg size set rt mtu",
            "iifname \"nd-*\" jump out_of_tunnel",
            "oifname \"nd*\" oifname != \"nd-*\"",
            "ip daddr @peers4 drop",
            "ip daddr @ingress4 jump to_isolated4",
            "elements = { 10.4.0.2 . 10.5.0.2 }",
            "@itself4 return",
            "@itself6 return",
            "elements = { 10.0.0.0/8 : ",
            "elements = { 0x00000001 counter packets 0 bytes 0 : 0x00000000 . 0x00000007 }",
            "0x00000002 : goto deny",
            "ip daddr set ct original ip daddr tcp dport set ct original proto-dst",
            "reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let (done, text) = nft("list table bridge netd");
        assert!(done && text.contains("\"nd1\" . 02:6e:0a:04:00:02 . 10.4.0.2"), "{text}");
        assert!(nft("list ruleset").0);
    });
}

/// An older kernel has no owners: what happens there, netd hears of.
#[test]
fn nobody_else_flushes_it_or_it_is_told_who_did() {
    on_a_node(|| {
        let wanted = objects();
        let first = kernel();
        first.apply(&plan(&wanted, &Objects::new()), None).unwrap();
        let changes = first.changes().unwrap();
        assert!(nft("flush ruleset").0);
        let Some(mut changes) = changes else {
            assert_eq!(first.observe(Scope::Node).unwrap(), wanted, "flushed");
            assert!(LinuxKernel::new("netd", "nd").is_err(), "two owners");
            return;
        };
        let heard: Vec<Change> = std::iter::from_fn(|| changes.receive().ok()).flatten().collect();
        assert!(matches!(heard.last(), Some(Change::By(_, program)) if program == "nft"), "{heard:?}");
        let observed = first.observe(Scope::Node).unwrap();
        assert_eq!(observed.get(&Key::Ruleset), None);
        first.apply(&plan(&wanted, &observed), None).unwrap();
        assert_eq!(first.observe(Scope::Node).unwrap(), wanted);
    });
}

#[test]
fn the_next_netd_takes_it_over() {
    on_a_node(|| {
        let wanted = objects();
        let first = kernel();
        let is_owned = first.changes().unwrap().is_none();
        first.apply(&plan(&wanted, &Objects::new()), None).unwrap();
        drop(first);
        let second = kernel();
        assert_eq!(second.observe(Scope::Node).unwrap(), wanted, "lost with its owner");
        second.apply(&[Step::Delete(publication("::", 8080))], None).unwrap();
        assert_eq!(nft("delete table inet netd").0, !is_owned);
    });
}

/// UDP connections to ports 53 and 54, as `opener > answerer:port`.
fn connections(socket: &mut Socket) -> BTreeSet<String> {
    let requests = [53, 54].into_iter().flat_map(conntrack::forget_udp_port);
    let bodies: Vec<_> =
        requests.map(|request| socket.read_netfilter(&conntrack::list(&request), false).unwrap()).collect();
    bodies.iter().flatten().map(|body| opened(body).unwrap()).collect()
}

fn opened(body: &[u8]) -> Option<String> {
    let tuple = attribute(body, 1)?;
    let (addresses, ports) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
    let v4 = |kind| attribute(addresses, kind)?.first_chunk().map(|octets: &[u8; 4]| IpAddr::from(*octets));
    let v6 = |kind| attribute(addresses, kind)?.first_chunk().map(|octets: &[u8; 16]| IpAddr::from(*octets));
    let port = u16::from_be_bytes(*attribute(ports, 3)?.first_chunk()?);
    let [from, to] = [(1, 3), (2, 4)].map(|(short, long)| v4(short).or_else(|| v6(long)));
    Some(format!("{} > {}", from?, SocketAddr::new(to?, port)))
}

#[test]
fn connections_of_an_address_and_of_a_port_are_forgotten_and_no_others() {
    on_a_node(|| {
        let kernel = kernel();
        kernel.apply(&plan(&objects(), &Objects::new()), None).unwrap();
        let own = ["10.4.0.2/32", "10.4.0.3/32", "fd00::2/128", "fd00::3/128"];
        let lines = own.map(|address| format!("address add {address} dev lo"));
        for line in ["link set lo up".to_owned()].into_iter().chain(lines) {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success());
        }
        for (gone, stays) in [("10.4.0.2", "10.4.0.3"), ("fd00::2", "fd00::3")] {
            let at = |address: &str, port: u16| SocketAddr::new(address.parse().unwrap(), port);
            for (source, destination) in
                [(gone, at(stays, 53)), (stays, at(gone, 53)), (stays, at(stays, 53)), (stays, at(stays, 54))]
            {
                UdpSocket::bind((source, 0)).unwrap().send_to(b"?", destination).unwrap();
            }
            let mut socket = Socket::open_netfilter().unwrap();
            assert_eq!(connections(&mut socket).len(), 4, "{gone}");
            kernel.forget(gone.parse().unwrap(), None).unwrap();
            let left = [53, 54].map(|port| format!("{stays} > {}", at(stays, port)));
            assert_eq!(connections(&mut socket), left.clone().into());
            kernel.forget_port(53).unwrap();
            assert_eq!(connections(&mut socket), [left[1].clone()].into());
            kernel.forget_port(54).unwrap();
        }
    });
}

#[test]
fn a_damaged_ruleset_is_made_anew_with_its_elements() {
    on_a_node(|| {
        let wanted = objects();
        let first = kernel();
        first.apply(&plan(&wanted, &Objects::new()), None).unwrap();
        drop(first);
        assert!(nft("flush chain inet netd forward").0);
        let second = kernel();
        let observed = second.observe(Scope::Node).unwrap();
        assert_ne!(observed.get(&Key::Ruleset), wanted.get(&Key::Ruleset));
        second.apply(&plan(&wanted, &observed), None).unwrap();
        assert_eq!(second.observe(Scope::Node).unwrap(), wanted);
    });
}

#[test]
fn transactions_that_meet_all_take_hold_though_one_is_refused() {
    on_a_node(|| {
        let kernel = kernel();
        kernel.apply(&plan(&objects(), &Objects::new()), None).unwrap();
        let target = |port| Object::Target(format!("10.4.0.9:{port}").parse().unwrap());
        let outcomes: Vec<bool> = std::thread::scope(|scope| {
            let add = |port: u16| {
                let kernel = &kernel;
                // 8080 leads elsewhere already: adding it is refused.
                scope.spawn(move || {
                    kernel.apply(&[Step::Create(publication("0.0.0.0", port), target(port))], None).is_ok()
                })
            };
            let threads: Vec<_> = (8_050..8_120).map(add).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|done| !**done).count(), 1);
        assert_eq!(outcomes.iter().position(|done| !done), Some(30));
        let observed = kernel.observe(Scope::Node).unwrap();
        assert_eq!(observed.get(&publication("0.0.0.0", 8_119)), Some(&target(8_119)));
        assert_eq!(observed.get(&publication("0.0.0.0", 8_080)), objects().get(&publication("0.0.0.0", 8_080)));
    });
}
