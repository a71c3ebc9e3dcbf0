//! Tunnels: who gets in, what comes out, what goes in. The peers are played: they send what no peer would.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use netd_kernel::{
    Direction, Entrance, Family, Key, Mac, Object, Objects, Reach, Step, Tunnel, fixed_ruleset, mac_of_end, plan,
};

use crate::fleet::{MTU, NOBODY, PORT, Path, Wire, addresses, underlay};
use crate::frames::{IPIP, OPTIONS, behind_options, datagram, framed, ip, message, opening, segment_of, vxlan};
use crate::node::{Node, Sandbox, link};
use crate::policy::{filtered, isolated};
use crate::space::{PATIENCE, Space, all_heard, hear, hears_frame};

/// Of netd's VXLAN.
const NETWORK: u32 = 0x6e64;
const IPV6_IN_IP: u8 = 41;
/// For experiments (RFC 3692).
const NOTHING: u8 = 253;

/// Node 1, with peers: 2 and 4 by tunnel, 3 directly. 9 is nobody.
struct Town {
    path: Path,
    /// Of the underlay.
    family: Family,
    node: Node,
    peers: [Space; 3],
    stranger: Space,
    _wire: Wire,
}

impl Town {
    fn new(path: Path) -> Self {
        let wire = Wire::new();
        let [two, three, four, stranger] = [2, 3, 4, 9].map(|number| wire.neighbour(number));
        let node = wire.node(1, path);
        let objects: Objects = [path.peer(2), Path::Direct.peer(3), path.peer(4)].into_iter().flatten().collect();
        node.apply(plan(&objects, &Objects::new()));
        let family = if let Path::Vxlan(family) = path { family } else { Family::V4 };
        Self { path, family, node, peers: [two, three, four], stranger, _wire: wire }
    }

    fn entrance(&self) -> IpAddr {
        underlay(self.family, 1)
    }

    /// As it goes to the entrance of node 1.
    fn wrapped(&self, identifier: u32, packet: &[u8]) -> Vec<u8> {
        let [to, from] = [1, 2].map(|number| mac_of_end(underlay(self.family, number)));
        vxlan(identifier, &framed(to, from, packet))
    }

    /// Sends a packet as by a tunnel, between these addresses of the underlay.
    fn send(&self, from: &Space, under: IpAddr, to: IpAddr, packet: &[u8]) {
        if self.path == Path::Ipip {
            from.send_packet(to, &ip(under, to, IPIP, packet));
        } else {
            from.say_as(Some(under), (to, PORT), &self.wrapped(NETWORK, packet));
        }
    }

    /// No rule of ours is left; forwarding stays on.
    fn open(&self) {
        self.node.apply(vec![Step::Delete(Key::Ruleset)]);
    }
}

/// Makes a packet with a marker in it.
type Making<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// What is sent by whom to where, as by a tunnel, and whether its packet arrives: where netd has its rules, and without.
struct Case<'a> {
    name: String,
    from: &'a Space,
    under: IpAddr,
    to: IpAddr,
    packet: Making<'a>,
    arrives: [bool; 2],
}

const ALWAYS: [bool; 2] = [true, true];
/// Netd's rules drop it, and nobody else does.
const GUARDED: [bool; 2] = [false, true];
/// The kernel drops it by itself.
const NEVER: [bool; 2] = [false, false];

/// What peers send out of their end of the tunnel.
fn from_peers<'a>(town: &'a Town, to: IpAddr) -> Vec<Case<'a>> {
    let version = usize::from(to.is_ipv6());
    let outside = [[198, 51, 100, 7].into(), "2001:db8:9::7".parse().unwrap()][version];
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let own = addresses(2, 7)[version];
    let case = |name: &str, packet: Making<'a>, arrives| Case {
        name: format!("{name} to {to}"),
        from: &town.peers[0],
        under: underlay(town.family, 2),
        to: town.entrance(),
        packet,
        arrives,
    };
    let of = move |from: IpAddr| Box::new(move |marker: &[u8]| message(from, to, marker));
    let inside = move |protocol| Box::new(move |marker: &[u8]| ip(own, to, protocol, marker));
    // Linux looks for a way back of IPv4 by itself, as the tunnel has it (`rp_filter`).
    let nowhere = if to.is_ipv4() { NEVER } else { GUARDED };
    let entrance = town.entrance();
    let again = Box::new(move |marker: &[u8]| {
        let inner = town.wrapped(NETWORK, &message(own, to, marker));
        datagram((underlay(town.family, 2), 9), (entrance, PORT), &inner)
    });
    let mut cases = vec![
        case("of its sandbox", of(own), ALWAYS),
        case("of its own", of(underlay(family, 2)), ALWAYS),
        case("of who is reached directly", of(addresses(3, 7)[version]), ALWAYS),
        case("of a sandbox here", of(addresses(1, 3)[version]), GUARDED),
        case("of nobody of the fleet", of(outside), GUARDED),
        case("of nobody's block", of(addresses(NOBODY, 7)[version]), nowhere),
        case("IPv4 in IP", inside(IPIP), GUARDED),
        case("IPv6 in IP", inside(IPV6_IN_IP), GUARDED),
    ];
    if town.path != Path::Ipip {
        cases.push(Case { packet: again, ..case("VXLAN in VXLAN", of(own), GUARDED) });
    }
    cases
}

/// What others send, and what peers send elsewhere than to the entrance.
fn from_others<'a>(town: &'a Town, sandbox: &'a Sandbox, to: IpAddr) -> Vec<Case<'a>> {
    let own = addresses(2, 7)[usize::from(to.is_ipv6())];
    let [of_v4, of_v6] = addresses(1, 1);
    let elsewhere = if town.family == Family::V4 { of_v4 } else { of_v6 };
    let case = |name: &str, from, under, at| Case {
        name: format!("{name} to {to}"),
        from,
        under,
        to: at,
        packet: Box::new(move |marker: &[u8]| message(own, to, marker)),
        arrives: GUARDED,
    };
    let [peer, stranger] = [2, 9].map(|number| underlay(town.family, number));
    let itself = sandbox.addresses()[usize::from(peer.is_ipv6())];
    let mut cases = vec![
        case("a stranger", &town.stranger, stranger, town.entrance()),
        case("a sandbox", &sandbox.space, itself, town.entrance()),
        case("a sandbox as a peer", &sandbox.space, peer, town.entrance()),
    ];
    // An IP tunnel takes nothing at another address.
    if let Path::Vxlan(family) = town.path {
        cases.push(case("a peer, to another address", &town.peers[0], peer, elsewhere));
        let to_all = || case("a stranger, to all", &town.stranger, stranger, [192, 0, 2, 255].into());
        cases.extend((family == Family::V4).then(to_all));
    }
    cases
}

fn by_tunnel(path: Path) {
    if !path.is_there() {
        return;
    }
    let town = Town::new(path);
    let (receiver, other) = (town.node.sandbox(0, 2), town.node.sandbox(0, 3));
    for line in ["ip addr add 192.0.2.2/32 dev lo", "ip addr add 2001:db8::2/128 dev lo nodad", "ip link set lo up"] {
        other.space.output(line);
    }
    let ears = receiver.space.listen();
    for round in [0, 1] {
        let (mut markers, mut names, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for to in receiver.addresses().into_iter().filter(|to| path.carries(*to)) {
            for case in from_peers(&town, to).into_iter().chain(from_others(&town, &other, to)) {
                let marker = format!("<{round}: {}>", case.name).into_bytes();
                town.send(case.from, case.under, case.to, &(case.packet)(&marker));
                markers.push(marker);
                expected.push((case.name.clone(), case.arrives[round]));
                names.push(case.name);
            }
        }
        let heard: Vec<_> = names.into_iter().zip(all_heard(&ears, &markers)).collect();
        assert_eq!(heard, expected, "{}", ["with netd's rules", "without"][round]);
        town.open();
    }
}

#[test]
fn what_comes_by_vxlan_over_ipv4_is_of_a_peer_and_of_its_sandboxes() {
    by_tunnel(Path::Vxlan(Family::V4));
}

#[test]
fn what_comes_by_vxlan_over_ipv6_is_of_a_peer_and_of_its_sandboxes() {
    by_tunnel(Path::Vxlan(Family::V6));
}

#[test]
fn what_comes_by_ipip_is_of_a_peer_and_of_its_sandboxes() {
    by_tunnel(Path::Ipip);
}

/// Also where the kernel has no such tunnel.
#[test]
fn ip_in_ip_is_taken_from_peers_where_netds_tunnel_ends() {
    let town = Town::new(Path::Direct);
    let (space, entrance) = (&town.node.space, underlay(Family::V4, 1));
    town.node.apply(vec![Step::Create(Key::PeersOnly(Entrance::Ipip([192, 0, 2, 1].into())), Object::Set)]);
    for line in ["ip addr add 192.0.2.11/24 dev eth0", "nft add table ip probe"] {
        space.output(line);
    }
    space.output("nft add chain ip probe taken { type filter hook input priority 10 ; }");
    space.output("nft add rule ip probe taken ip protocol 4 counter");
    space.output("nft add chain ip probe untracked { type filter hook input priority 10 ; }");
    space.output("nft add rule ip probe untracked ip protocol 4 ct state untracked counter");
    let counted = |chain: &str| {
        let text = space.output(&format!("nft list chain ip probe {chain}"));
        text.split_once("packets ").unwrap().1.split_once(' ').unwrap().0.parse::<u32>().unwrap()
    };
    let taken = || counted("taken");
    let sandbox = town.node.sandbox(0, 2);
    let mut before = taken();
    let mut is_taken = |from: &Space, under: u8, to: IpAddr| {
        let under = if under == 0 { sandbox.v4 } else { underlay(Family::V4, under) };
        from.send_packet(to, &ip(under, to, IPIP, b"?"));
        let begin = Instant::now();
        while taken() == before && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let was = std::mem::replace(&mut before, taken());
        before > was
    };
    let [peer, stranger] = [&town.peers[0], &town.stranger];
    assert!(is_taken(peer, 2, entrance), "a peer");
    // It is no answer to what a sandbox has sent.
    assert_eq!(counted("untracked"), 1);
    assert!(!is_taken(stranger, 9, entrance), "a stranger");
    assert!(!is_taken(&sandbox.space, 0, entrance), "a sandbox");
    assert!(!is_taken(&sandbox.space, 2, entrance), "a sandbox as a peer");
    // Where somebody else's tunnel may end.
    assert!(is_taken(stranger, 9, [192, 0, 2, 11].into()), "to another address");
    town.open();
    assert!(is_taken(stranger, 9, entrance), "a stranger, without rules");
}

/// A sandbox asks a peer from the tunnel's own port, and takes the node's address with it: from the port that it asked, the
/// peer sends to the tunnel too.
#[test]
fn a_sandbox_draws_nothing_to_itself_that_is_for_the_tunnel() {
    const ASKED: u16 = 40_000;
    for family in [Family::V4, Family::V6] {
        let town = Town::new(Path::Vxlan(family));
        let (receiver, thief) = (town.node.sandbox(0, 2), town.node.sandbox(1, 3));
        let version = usize::from(family == Family::V6);
        let own = thief.addresses()[version];
        town.node.apply(vec![Step::Create(Key::Masquerade(own, link("br1")), Object::Set)]);
        let (peer, stolen) = (town.peers[0].listen(), thief.space.listen());
        let [under, entrance] = [2, 1].map(|number| underlay(family, number));
        let asks = datagram((own, PORT), (under, ASKED), b"<asks>");
        thief.space.send_frame(&framed(mac(&town.node.space, "br1"), thief.mac, &asks));
        let from = hear(&peer, |frame| frame.windows(6).any(|six| six == b"<asks>").then(|| frame.to_vec())).unwrap();
        let ports = if family == Family::V4 { 14 + 20 } else { 14 + 40 };
        assert_eq!(from[ports..ports + 2], PORT.to_be_bytes(), "masqueraded to another port");
        let ears = receiver.space.listen();
        let inner = message(addresses(2, 7)[0], receiver.v4, b"<carried>");
        let outer = town.wrapped(NETWORK, &inner);
        let sent = move || UdpSocket::bind((under, ASKED)).unwrap().send_to(&outer, (entrance, PORT)).unwrap();
        town.peers[0].run(sent);
        assert!(hears_frame(&ears, b"<carried>"), "{family:?}");
        assert!(!hears_frame(&stolen, b"<carried>"), "{family:?}");
    }
}

/// Another program's tunnel that shares the port takes from whom it likes.
#[test]
fn vxlan_of_another_network_is_not_netds() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let receiver = town.node.sandbox(0, 2);
    let address = underlay(Family::V4, 1);
    town.node.space.output(&format!(
        "ip link add theirs address 02:00:00:00:00:05 type vxlan id 5 dstport {PORT} local {address}"
    ));
    town.node.space.output("ip link set theirs up");
    let packet = message([198, 51, 100, 7].into(), receiver.v4, b"<another>");
    let ears = receiver.space.listen();
    town.stranger.say((address, PORT), &vxlan(5, &framed([2, 0, 0, 0, 0, 5], [2, 0, 0, 0, 0, 6], &packet)));
    assert!(hears_frame(&ears, b"<another>"));
}

/// The MAC of a link, as `ip` prints it.
fn mac(space: &Space, link: &str) -> Mac {
    let line = space.output(&format!("ip -br link show {link}"));
    let octets = line.split_whitespace().nth(2).unwrap().split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap());
    octets.collect::<Vec<_>>().try_into().unwrap()
}

#[test]
fn a_sandbox_sends_nothing_encapsulated_to_a_peer() {
    const PEER: usize = 0;
    const STRANGER: usize = 1;
    let town = Town::new(Path::Vxlan(Family::V4));
    let (bridged, routed) = (town.node.sandbox(0, 2), town.node.routed_sandbox(7));
    let (peer, stranger) = (town.peers[0].listen(), town.stranger.listen());
    let gateways = [mac(&town.node.space, "br0"), mac(&town.node.space, routed.port.as_str())];
    let senders = [(&bridged, gateways[0], "bridged"), (&routed, gateways[1], "routed")];
    for is_open in [false, true] {
        let (mut sent, mut heard, mut expected) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new());
        for (sandbox, gateway, kind) in senders {
            for (from, family) in sandbox.addresses().into_iter().zip([Family::V4, Family::V6]) {
                let to = |number| underlay(family, number);
                let udp = |number, port| {
                    move |marker: &[u8]| datagram((from, 9), (to(number), port), &vxlan(NETWORK, marker))
                };
                let inside = |number, protocol| move |marker: &[u8]| ip(from, to(number), protocol, marker);
                let mut cases: Vec<(&str, bool, usize, Making<'_>)> = vec![
                    ("VXLAN to a peer", false, PEER, Box::new(udp(2, PORT))),
                    ("another port of a peer", true, PEER, Box::new(udp(2, PORT - 1))),
                    ("VXLAN to another", true, STRANGER, Box::new(udp(9, PORT))),
                ];
                // A routed link passes no IP in IP at all.
                if kind == "bridged" {
                    cases.push(("IPv4 in IP to a peer", false, PEER, Box::new(inside(2, IPIP))));
                    cases.push(("IPv6 in IP to a peer", false, PEER, Box::new(inside(2, IPV6_IN_IP))));
                    cases.push(("IPv4 in IP to another", true, STRANGER, Box::new(inside(9, IPIP))));
                    let behind =
                        |protocol| move |marker: &[u8]| ip(from, to(2), OPTIONS, &behind_options(protocol, marker));
                    if family == Family::V6 {
                        cases.push(("IPv4 in IP behind a header", false, PEER, Box::new(behind(IPIP))));
                        cases.push(("another protocol behind a header", true, PEER, Box::new(behind(NOTHING))));
                    }
                }
                for (name, passes, ear, making) in cases {
                    let name = format!("<{is_open} {kind} {from}: {name}>");
                    sandbox.space.send_frame(&framed(gateway, sandbox.mac, &making(name.as_bytes())));
                    sent[ear].push(name.clone().into_bytes());
                    expected.push((name, passes || is_open));
                }
            }
        }
        for (ear, markers) in [&peer, &stranger].into_iter().zip(&sent) {
            let names = markers.iter().map(|marker| String::from_utf8(marker.clone()).unwrap());
            heard.extend(names.zip(all_heard(ear, markers)));
        }
        heard.sort();
        expected.sort();
        assert_eq!(heard, expected, "no rules: {is_open}");
        town.open();
    }
}

/// Each node has the tunnels that lead from it; a peer may have one that this node lacks.
#[test]
fn a_sandbox_of_a_node_without_tunnels_sends_nothing_encapsulated_to_a_peer() {
    let town = Town::new(Path::Direct);
    let sandbox = town.node.sandbox(0, 2);
    let ears = town.peers[0].listen();
    for is_open in [false, true] {
        let mut markers = Vec::new();
        for (from, family) in sandbox.addresses().into_iter().zip([Family::V4, Family::V6]) {
            let marker = format!("<{is_open} {from}>").into_bytes();
            sandbox.space.say((underlay(family, 2), PORT), &vxlan(NETWORK, &marker));
            markers.push(marker);
        }
        assert_eq!(all_heard(&ears, &markers), [is_open; 2], "no rules: {is_open}");
        town.open();
    }
}

/// What comes to an entrance is not tracked, and what is not tracked may go from port to port past all policy.
#[test]
fn a_frame_to_a_neighbour_is_asked_about_though_its_packet_is_for_the_tunnel() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let (sandbox, neighbour) = (town.node.sandbox(0, 2), town.node.sandbox(0, 3));
    let ears = neighbour.space.listen();
    let mut policy = filtered();
    let mut heard = Vec::new();
    for name in ["filtered", "isolated"] {
        town.node.enforce(&policy);
        for port in [PORT, PORT - 1] {
            let marker = format!("<{name} {port}>").into_bytes();
            let packet = datagram((sandbox.v4, 9), (town.entrance(), port), &vxlan(5, &marker));
            sandbox.space.send_frame(&framed(neighbour.mac, sandbox.mac, &packet));
            heard.push(hears_frame(&ears, &marker));
        }
        policy.extend(isolated(Direction::Egress, Reach::Others, &sandbox));
    }
    assert_eq!(heard, [true, true, false, false]);
}

/// The node's address has changed: its entrance is another.
#[test]
fn a_tunnel_that_has_moved_is_guarded_as_before() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let receiver = town.node.sandbox(0, 2);
    let ears = receiver.space.listen();
    let moved: IpAddr = [192, 0, 2, 11].into();
    town.node.space.output("ip addr add 192.0.2.11/24 dev eth0");
    let at = |address| {
        let entrance = Entrance::Vxlan(address, PORT);
        let tunnel = Object::Tunnel(Tunnel { entrance, mtu: MTU, addresses: Vec::new() });
        Objects::from([(Key::PeersOnly(entrance), Object::Set), (Key::Tunnel(entrance.encapsulation()), tunnel)])
    };
    town.node.apply(plan(&at(moved), &at(town.entrance())));
    for is_open in [false, true] {
        let mut markers = Vec::new();
        for (from, number) in [(&town.peers[0], 2), (&town.stranger, 9)] {
            let marker = format!("<{is_open} from {number}>").into_bytes();
            let inner = message(addresses(2, 7)[0], receiver.v4, &marker);
            let ends = [moved, underlay(Family::V4, 2)].map(mac_of_end);
            from.say((moved, PORT), &vxlan(NETWORK, &framed(ends[0], ends[1], &inner)));
            markers.push(marker);
        }
        assert_eq!(all_heard(&ears, &markers), [true, is_open], "no rules: {is_open}");
        town.open();
    }
}

/// One that forwarded before netd came may stand between nodes.
#[test]
fn a_router_passes_what_others_nodes_send_each_other() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let ears = town.peers[0].listen();
    // A guard of forwarding goes with the ruleset only.
    town.open();
    let entrance = Entrance::Vxlan(town.entrance(), PORT);
    let keys = [Key::Connected, Key::PeersOnly(entrance), Key::Peer(underlay(Family::V4, 2))];
    let rules = keys.map(|key| (key, Object::Set)).into_iter().chain([fixed_ruleset()]).collect();
    town.node.apply(plan(&rules, &Objects::new()));
    let [from, to] = [9, 2].map(|number| underlay(Family::V4, number));
    let packet = datagram((from, 9), (to, PORT), &vxlan(NETWORK, b"<passed on>"));
    let [node, own] = [&town.node.space, &town.stranger].map(|space| mac(space, "eth0"));
    town.stranger.send_frame(&framed(node, own, &packet));
    assert!(hears_frame(&ears, b"<passed on>"));
}

#[test]
fn a_node_is_no_router_between_tunnels_nor_to_one() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let sandbox = town.node.sandbox(0, 2);
    let [two, _, four] = &town.peers;
    let ears = [two, four, &town.stranger].map(Space::listen);
    for is_open in [false, true] {
        let (mut heard, mut expected) = (String::new(), String::new());
        for version in [0, 1] {
            let of = |number| addresses(number, 7)[version];
            let stranger = underlay([Family::V4, Family::V6][version], 9);
            let here = sandbox.addresses()[version];
            let by_tunnel = |to| (two, of(2), to);
            let cases = [
                ("tunnel to tunnel", by_tunnel(of(4)), 1, is_open),
                ("tunnel and back", by_tunnel(of(2)), 0, is_open),
                ("tunnel to uplink", by_tunnel(stranger), 2, is_open),
                ("uplink to tunnel", (&town.stranger, stranger, of(2)), 0, is_open),
                ("sandbox to tunnel", (&sandbox.space, here, of(2)), 0, true),
                ("sandbox to uplink", (&sandbox.space, here, stranger), 2, true),
            ];
            for (name, (sender, from, to), ear, passes) in cases {
                let marker = format!("<{is_open} {version} {name}>").into_bytes();
                // What a played peer sends, it must not be taken for having heard.
                let echoes = usize::from(std::ptr::eq(sender, two) && ear == 0);
                if std::ptr::eq(sender, two) {
                    two.say((town.entrance(), PORT), &town.wrapped(NETWORK, &message(from, to, &marker)));
                } else {
                    sender.say((to, 9), &marker);
                }
                let times = (0..=echoes).take_while(|_| hears_frame(&ears[ear], &marker)).count();
                heard.push_str(&format!("{version} {name}: {}\n", times > echoes));
                expected.push_str(&format!("{version} {name}: {passes}\n"));
            }
        }
        assert_eq!(heard, expected, "no rules: {is_open}");
        town.open();
    }
}

/// The segment size that a TCP packet of the port announces, in a frame of Ethernet, or in one that VXLAN over IPv4 carries.
fn announced(ears: &OwnedFd, is_wrapped: bool, port: u16, is_answer: bool) -> Option<u16> {
    const ETHERNET: usize = 14;
    let ahead = if is_wrapped { ETHERNET + 20 + 8 + 8 + ETHERNET } else { ETHERNET };
    hear(ears, |frame| segment_of(frame.get(ahead..)?, port).filter(|found| found.1 == is_answer).map(|found| found.0))
}

#[test]
fn tcp_is_told_how_much_fits_into_a_tunnel_both_ways() {
    let town = Town::new(Path::Vxlan(Family::V4));
    let sandbox = town.node.sandbox(0, 2);
    sandbox.space.serve_tcp(&[80]);
    // Who is not answered says it again: each has a port of his own.
    let mut ports = 7_000..;
    for is_open in [false, true] {
        let mut found = Vec::new();
        for (here, there) in sandbox.addresses().into_iter().zip(addresses(2, 7)) {
            let (peer, inside) = (town.peers[0].listen(), sandbox.space.listen());
            let [asked, asking] = [(); 2].map(|()| ports.next().unwrap());
            sandbox.space.tcp(there, asked);
            let wide = if here.is_ipv4() { 1_460 } else { 1_440 };
            let opening = opening((there, asking), (here, 80), wide);
            town.peers[0].say((town.entrance(), PORT), &town.wrapped(NETWORK, &opening));
            found.push(announced(&peer, true, asked, false));
            found.push(announced(&inside, false, asking, false));
            found.push(announced(&peer, true, asking, true));
        }
        let [v4, v6] = [40, 60].map(|headers| u16::try_from(if is_open { 1_500 } else { MTU }).unwrap() - headers);
        assert_eq!(found, [v4, v4, v4, v6, v6, v6].map(Some), "no rules: {is_open}");
        town.open();
    }
}
