//! How large packets between sandboxes of different nodes may be: with the real binary on the real kernel, over links of one
//! size, of several, and over one on the way that is narrower than both ends know. Needs root.
//!
//! A sender here does as any does that finds out what a path carries (RFC 1191, RFC 8201): it sends what it believes to pass,
//! whole, and believes what it is told. Where nobody tells, the path is a black hole.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};

use rig::Space;
use rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};

const PATIENCE: Duration = Duration::from_secs(1);
/// What must come in the end may take long on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// What nobody's link carries whole.
const LARGE: usize = 20_000;
/// Of UDP and of IP.
const HEADERS: [usize; 2] = [28, 48];

const MODES: [&str; 3] = ["vxlan", "direct", "cross-subnet"];

/// `beyond`: those behind the router.
fn list(encapsulation: &str, nodes: &[usize], beyond: &[usize]) -> String {
    let has_v6 = families(encapsulation).len() > 1;
    let pools = if has_v6 { "'10.4.0.0/16', 'fd04::/48'" } else { "'10.4.0.0/16'" };
    let mut text = format!("pools = [{pools}]\nencapsulation = '{encapsulation}'\n[fleet.nodes]\n");
    for number in nodes.iter().chain(beyond) {
        let (v4, v6) = if beyond.contains(number) { ("198.51.100", "2001:db8:1:") } else { ("192.0.2", "2001:db8:") };
        let v6_block = if has_v6 { format!(", 'fd04:0:0:{number}::/64'") } else { String::new() };
        writeln!(
            text,
            "n{number} = {{ address = ['{v4}.{number}', '{v6}:{number}'], blocks = ['10.4.{number}.0/24'{v6_block}] }}"
        )
        .unwrap();
    }
    text
}

/// IPv6 comes by IP in IP nowhere.
fn families(encapsulation: &str) -> &'static [bool] {
    if encapsulation.contains("ipip") { &[true] } else { &[true, false] }
}

fn has_ipip() -> bool {
    let add = ["link", "add", "probe", "type", "ipip", "local", "192.0.2.99", "remote", "192.0.2.98"];
    let has = Space::new().run(move || std::process::Command::new("ip").args(add).output().unwrap().status.success());
    if !has {
        std::io::stderr().write_all(b"SKIPPED ipip (sizes of packets): this kernel has none\n").unwrap();
    }
    has
}

/// What a packet may have on a link of this size.
fn inside(encapsulation: &str, link: u32) -> u32 {
    match encapsulation {
        "vxlan" | "cross-subnet" => link - 50,
        "ipip" => link - 20,
        _ => link,
    }
}

fn set_link(nodes: &Nodes, number: usize, mtu: u32) {
    nodes.underlay.command(&format!("ip link set m{number} mtu {mtu}"));
    nodes.all[number - 1].space.command(&format!("ip link set up0 mtu {mtu}"));
}

/// Sandboxes that say how long what they get is, and give back what they are sent.
fn attach(nodes: &Nodes, container: &str) -> Vec<Sandbox> {
    attach_by("vxlan", nodes, container)
}

fn attach_by(encapsulation: &str, nodes: &Nodes, container: &str) -> Vec<Sandbox> {
    let v6 = r#",[{"subnet":"fd04::/64"}]"#;
    let network = if families(encapsulation).len() > 1 { NETWORK.to_owned() } else { NETWORK.replace(v6, "") };
    nodes
        .all
        .iter()
        .map(|node| {
            let sandbox = node.attach_in_time(&network, container);
            sandbox.space.run(|| {
                let socket = UdpSocket::bind("[::]:7").unwrap();
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 65_535];
                    while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                        drop(socket.send_to(length.to_string().as_bytes(), peer));
                    }
                });
            });
            sandbox.space.echo(80);
            sandbox
        })
        .collect()
}

fn eth0(sandbox: &Sandbox) -> u32 {
    word_behind("mtu", &sandbox.space.command("ip -o link show eth0")).unwrap()
}

fn word_behind(word: &str, line: &str) -> Option<u32> {
    line.split(' ').skip_while(|one| *one != word).nth(1)?.parse().ok()
}

/// As the sandbox's kernel believes by now.
fn believed(from: &Sandbox, to: IpAddr) -> u32 {
    let route = from.space.command(&format!("ip -o route get {to}"));
    word_behind("mtu", &route).unwrap_or_else(|| eth0(from))
}

/// Sends so many octets of UDP, whole where the kernel believes that they pass (`IP_PMTUDISC_WANT`, the default). Says whether
/// they came.
fn sends(from: &Sandbox, to: IpAddr, length: usize) -> bool {
    from.space.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(SocketAddr::new(to, 7)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 64];
        let sent = socket.send(&vec![0x6e; length]);
        let heard = sent.and_then(|_| socket.recv(&mut answer));
        heard.is_ok_and(|heard| answer[..heard] == *length.to_string().as_bytes())
    })
}

/// Octets of the largest whole packet, as a sender finds out; 0: nobody tells it.
fn largest(from: &Sandbox, to: IpAddr) -> u32 {
    let headers = HEADERS[usize::from(to.is_ipv6())];
    let mut silent = 0;
    while silent < 3 {
        let size = believed(from, to);
        if sends(from, to, usize::try_from(size).unwrap() - headers) {
            return size;
        }
        silent += u32::from(believed(from, to) == size);
    }
    0
}

/// A connection that carries a megabyte there and back. The largest segment that it sends.
fn streams(from: &Sandbox, to: IpAddr) -> Result<u32, String> {
    from.space.run(move || {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(to, 80), LONG);
        let mut stream = stream.map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        let mut writing = stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || writing.write_all(&vec![0x6e; 1 << 20]));
        let mut bytes = vec![0; 1 << 20];
        stream.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        writer.join().unwrap().map_err(|error| error.to_string())?;
        Ok(getsockopt(&stream, TcpMaxSeg).unwrap())
    })
}

/// From, to, octets: of nodes' numbers.
type Row = (usize, usize, u32);

/// Each pair, each family: the largest whole packet is that of the table, a connection has segments as large, and what is
/// larger comes in pieces.
#[track_caller]
fn assert_carried(encapsulation: &str, sandboxes: &[Sandbox], table: &[Row]) {
    let (mut wanted, mut found) = (String::new(), String::new());
    for (from, to, octets) in table {
        for is_v4 in families(encapsulation) {
            let (from_it, to_it) = (&sandboxes[from - 1], &sandboxes[to - 1]);
            let address: IpAddr = if *is_v4 { &to_it.v4 } else { &to_it.v6 }.parse().unwrap();
            let whole = largest(from_it, address);
            // Options take 12.
            let segment = streams(from_it, address).map(|segment| {
                let full = *octets - if *is_v4 { 40 } else { 60 };
                if (full - 12..=full).contains(&segment) { "full".to_owned() } else { segment.to_string() }
            });
            let pieces = (0..3).any(|_| sends(from_it, address, LARGE));
            let row = format!("{encapsulation} n{from} to {address}:");
            writeln!(wanted, "{row} {octets} Ok(\"full\") true").unwrap();
            writeln!(found, "{row} {whole} {segment:?} {pieces}").unwrap();
        }
    }
    assert_eq!(found, wanted);
}

fn all_pairs(count: usize, octets: u32) -> Vec<Row> {
    let pair = |from| (1..=count).filter(move |to| *to != from).map(move |to| (from, to, octets));
    (1..=count).flat_map(pair).collect()
}

#[track_caller]
fn nobody_complains(nodes: &Nodes) {
    for node in &nodes.all {
        soon("nobody complains", || node.warnings().is_empty());
        assert_eq!(node.resync(true), Vec::<String>::new());
        let answers = node.check_until("", |all| all.iter().all(|check| check.troubles.is_empty()));
        let bad: Vec<_> = answers.into_iter().filter(|check| !check.troubles.is_empty()).collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

/// The routes of a node say what passes, and that to no others.
#[track_caller]
fn routes_say(nodes: &Nodes, number: usize, sizes: &[(&str, u32)]) {
    let said = || {
        let routes = nodes.all[number - 1].routes();
        let line = |line: &str| Some((line.split(' ').next()?.to_owned(), word_behind("mtu", line)?));
        routes.lines().filter_map(line).collect::<Vec<_>>()
    };
    let mut wanted: Vec<(String, u32)> = sizes.iter().map(|(to, mtu)| ((*to).to_owned(), *mtu)).collect();
    wanted.sort();
    soon("the routes say what passes", || {
        let mut said = said();
        said.sort();
        said == wanted
    });
}

fn of_one_size(encapsulation: &str) {
    for link in [1_500, 9_000] {
        let mut nodes = Nodes::new(2);
        (1..=2).for_each(|number| set_link(&nodes, number, link));
        nodes.start(&list(encapsulation, &[1, 2], &[]));
        let sandboxes = attach_by(encapsulation, &nodes, "web");
        let fits = inside(encapsulation, link);
        for (sandbox, node) in sandboxes.iter().zip(&nodes.all) {
            let bridge = word_behind("mtu", &node.space.command("ip -o link show br0"));
            assert_eq!((eth0(sandbox), bridge), (fits, Some(fits)), "{encapsulation}");
        }
        assert_carried(encapsulation, &sandboxes, &all_pairs(2, fits));
        routes_say(&nodes, 1, &[]);
        nobody_complains(&nodes);
    }
}

#[test]
fn links_of_one_size_carry_their_largest_packet() {
    MODES.into_iter().for_each(of_one_size);
}

#[test]
fn over_ipip_links_of_one_size_carry_their_largest_packet() {
    if has_ipip() {
        of_one_size("ipip");
    }
}

/// Two of three nodes have jumbo frames. Those of a list say nothing of their links: netd finds it out.
fn of_several_sizes(encapsulation: &str) {
    let mut nodes = Nodes::new(3);
    set_link(&nodes, 1, 9_000);
    set_link(&nodes, 2, 9_000);
    nodes.start(&list(encapsulation, &[1, 2, 3], &[]));
    let sandboxes = attach_by(encapsulation, &nodes, "web");
    let [small, large] = [1_500, 9_000].map(|link| inside(encapsulation, link));
    assert_eq!(sandboxes.iter().map(eth0).collect::<Vec<_>>(), [large, large, small]);
    // On one link, `cross-subnet` does not wrap.
    let on_link = if encapsulation == "cross-subnet" { 1_500 } else { small };
    let narrow = [("10.4.3.0/24", on_link), ("fd04:0:0:3::/64", on_link)];
    let narrow = &narrow[..families(encapsulation).len()];
    routes_say(&nodes, 1, narrow);
    routes_say(&nodes, 2, narrow);
    routes_say(&nodes, 3, &[]);
    assert_carried(encapsulation, &sandboxes, &mixed(small, large));
    nobody_complains(&nodes);
}

#[test]
fn links_of_several_sizes_carry_what_both_ends_carry() {
    MODES.into_iter().for_each(of_several_sizes);
}

#[test]
fn over_ipip_links_of_several_sizes_carry_what_both_ends_carry() {
    if has_ipip() {
        of_several_sizes("ipip");
    }
}

/// The first two have jumbo frames, the third has not.
fn mixed(small: u32, large: u32) -> [Row; 6] {
    [(1, 2, large), (2, 1, large), (1, 3, small), (2, 3, small), (3, 1, small), (3, 2, small)]
}

/// The same as [`list`] for the router, where packets come unwrapped.
fn lead_through_the_router(nodes: &Nodes) {
    for (number, v4, v6) in [(1, "192.0.2.1", "2001:db8::1"), (2, "198.51.100.2", "2001:db8:1::2")] {
        nodes.underlay.command(&format!("ip route add 10.4.{number}.0/24 via {v4}"));
        nodes.underlay.command(&format!("ip -6 route add fd04:0:0:{number}::/64 via {v6}"));
    }
}

/// On both sides of a router whose one link carries 1,400 octets. `tells`: it sends those errors that it should (RFC 792).
fn beyond_a_narrow_router(encapsulation: &str, tells: bool) {
    let mut nodes = Nodes::new(1);
    nodes.add(2, 1);
    nodes.underlay.command("ip link set u1 mtu 1400");
    lead_through_the_router(&nodes);
    if !tells {
        for line in [
            "nft add table inet silent",
            "nft add chain inet silent out { type filter hook output priority 0 ; }",
            "nft add rule inet silent out icmp type destination-unreachable drop",
            "nft add rule inet silent out icmpv6 type packet-too-big drop",
        ] {
            nodes.underlay.command(line);
        }
    }
    nodes.start(&list(encapsulation, &[1], &[2]));
    let sandboxes = attach_by(encapsulation, &nodes, "web");
    let [there, back] = [1_400, 1_500].map(|link| inside(encapsulation, link));
    let said = [("10.4.2.0/24", there), ("fd04:0:0:2::/64", there)];
    routes_say(&nodes, 1, &said[..families(encapsulation).len()]);
    // An echo of IPv6 that nobody tells of comes back only if it fits, too.
    let is_mutual = !tells && encapsulation == "direct";
    let said = [("fd04:0:0:1::/64", there)];
    routes_say(&nodes, 2, &said[..usize::from(is_mutual)]);
    // A segment is as large as both ways carry.
    assert_carried(encapsulation, &sandboxes, &[(1, 2, there)]);
    for is_v4 in families(encapsulation) {
        let address = if *is_v4 { &sandboxes[0].v4 } else { &sandboxes[0].v6 };
        let back = if is_mutual && !*is_v4 { there } else { back };
        assert_eq!(largest(&sandboxes[1], address.parse().unwrap()), back, "{encapsulation}");
        streams(&sandboxes[1], address.parse().unwrap()).unwrap();
    }
    nobody_complains(&nodes);
}

#[test]
fn a_narrow_router_that_says_so_is_heeded() {
    MODES.into_iter().for_each(|encapsulation| beyond_a_narrow_router(encapsulation, true));
}

#[test]
fn a_narrow_router_that_says_nothing_is_no_black_hole() {
    MODES.into_iter().for_each(|encapsulation| beyond_a_narrow_router(encapsulation, false));
}

#[test]
fn over_ipip_a_narrow_router_is_no_black_hole() {
    if has_ipip() {
        [true, false].into_iter().for_each(|tells| beyond_a_narrow_router("ipip", tells));
    }
}

/// No echo passes, but nodes tell each other of their links.
#[test]
fn what_nodes_say_of_their_links_is_believed() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    set_link(&nodes, 1, 9_000);
    set_link(&nodes, 2, 9_000);
    for node in &nodes.all {
        node.space.command("nft add table inet deaf");
        node.space.command("nft add chain inet deaf in { type filter hook input priority -300 ; }");
        node.space.command("nft add rule inet deaf in icmp type echo-request ip saddr 192.0.2.0/24 drop");
        node.space.command("nft add rule inet deaf in icmpv6 type echo-request ip6 saddr 2001:db8::/64 drop");
    }
    for encapsulation in ["vxlan", "direct"] {
        let fleet = format!(
            "pools = ['10.4.0.0/16', 'fd04::/48']\netcd = ['{}']\nencapsulation = '{encapsulation}'\n",
            Etcd::ENDPOINT
        );
        nodes.start(&fleet);
        let sandboxes = attach(&nodes, "web");
        let [small, large] = [1_500, 9_000].map(|link| inside(encapsulation, link));
        let narrow =
            |node: &Member| node.routes().lines().filter(|line| line.contains(&format!(" mtu {small}"))).count();
        soon("the routes say what passes", || nodes.all.iter().map(narrow).collect::<Vec<_>>() == [2, 2, 0]);
        soon("all have routes", || nodes.all.iter().all(|node| node.routes().matches(" via ").count() == 4));
        assert_carried(encapsulation, &sandboxes, &mixed(small, large));
        for node in &mut nodes.all {
            node.detach("web");
            node.kill();
        }
    }
}

/// VXLAN in IPv6, which nobody cuts up on the way.
#[test]
fn over_ipv6_a_narrow_way_is_found_too() {
    let mut nodes = Nodes::new(2);
    nodes.add(3, 1);
    set_link(&nodes, 1, 9_000);
    nodes.underlay.command("ip link set u1 mtu 1400");
    let only_v6 = |text: String| text.replace("'192.0.2.", "'x").replace("'198.51.100.", "'x");
    let text = only_v6(list("vxlan", &[1, 2], &[3]));
    nodes.start(&(1..=3).fold(text, |text, number| text.replace(&format!("'x{number}', "), "")));
    let sandboxes = attach(&nodes, "web");
    assert_eq!(sandboxes.iter().map(eth0).collect::<Vec<_>>(), [8_930, 1_430, 1_430]);
    routes_say(
        &nodes,
        1,
        &[("10.4.2.0/24", 1_430), ("fd04:0:0:2::/64", 1_430), ("10.4.3.0/24", 1_330), ("fd04:0:0:3::/64", 1_330)],
    );
    assert_carried("vxlan", &sandboxes, &[(1, 2, 1_430), (2, 1, 1_430), (1, 3, 1_330), (2, 3, 1_330)]);
    nobody_complains(&nodes);
}

/// So narrow that IPv6 in it would get lost: said, and IPv4 passes.
#[test]
fn a_way_that_is_too_narrow_for_ipv6_is_told() {
    let mut nodes = Nodes::new(1);
    nodes.add(2, 1);
    nodes.underlay.command("ip link set u1 mtu 1300");
    nodes.start(&list("vxlan", &[1], &[2]));
    let sandboxes = attach(&nodes, "web");
    soon("it is told", || {
        nodes.all[0].warnings().iter().any(|text| text.contains("1250 bytes pass on the way to 198.51.100.2"))
    });
    assert_eq!(largest(&sandboxes[0], sandboxes[1].v4.parse().unwrap()), 1_250);
    let check = nodes.all[0].check_until("n2", |all| all[0].mtu == 1_250);
    assert_eq!((check[0].mtu, check[0].wanted_mtu), (1_250, 1_250), "{check:?}");
    assert!(check[1].troubles.iter().any(|text| text.contains("any IPv6 packet may have 1280")), "{check:?}");
}

/// Links become smaller and larger while containers run. Those of one bridge keep one size: frames that its neighbour cannot
/// take would get lost without a word.
#[test]
fn links_that_change_while_containers_run_are_followed() {
    for encapsulation in ["vxlan", "direct"] {
        let mut nodes = Nodes::new(2);
        (1..=2).for_each(|number| set_link(&nodes, number, 9_000));
        nodes.start(&list(encapsulation, &[1, 2], &[]));
        let before = attach(&nodes, "before");
        let [small, large] = [1_500, 9_000].map(|link| inside(encapsulation, link));
        assert_carried(encapsulation, &before, &all_pairs(2, large));
        let mut open = before[0].space.run({
            let to = format!("{}:80", before[1].v4);
            move || TcpStream::connect(to).unwrap()
        });
        let mut exchange = || {
            open.set_read_timeout(Some(LONG)).unwrap();
            open.write_all(&vec![0x6e; 1 << 17]).unwrap();
            open.read_exact(&mut vec![0; 1 << 17]).unwrap();
        };
        exchange();
        (1..=2).for_each(|number| set_link(&nodes, number, 1_500));
        let sizes = |nodes: &Nodes| nodes.all.iter().map(|node| node.fleet().nodes[0].mtu).collect::<Vec<_>>();
        soon("the links are looked at", || sizes(&nodes) == [1_500, 1_500]);
        exchange();
        assert_carried(encapsulation, &before, &all_pairs(2, small));
        let after = attach(&nodes, "after");
        assert_carried(encapsulation, &after, &all_pairs(2, small));
        let beside = |one: &Sandbox, other: &Sandbox| {
            for address in [&other.v4, &other.v6] {
                assert_eq!(largest(one, address.parse().unwrap()), large, "{encapsulation} to {address}");
            }
        };
        beside(&before[0], &after[0]);
        beside(&after[0], &before[0]);
        (1..=2).for_each(|number| set_link(&nodes, number, 9_000));
        soon("the links are looked at", || sizes(&nodes) == [9_000, 9_000]);
        let later = attach(&nodes, "later");
        assert_carried(encapsulation, &later, &all_pairs(2, large));
        nobody_complains(&nodes);
    }
}
