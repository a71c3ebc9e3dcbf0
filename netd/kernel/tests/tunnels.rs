//! Tunnels and routes beside others' on the real kernel: what is in the way is named and stays, what was spoilt is made good.
//! Starts `ip` and `bridge`. Needs root, and fails without. The laws are the contract's; packets are in `packets`.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::process::Command;

use netd_kernel::{
    Encapsulation, Entrance, Hop, Kernel, KernelError, Key, LinuxKernel, Object, Objects, Scope, Step, Tunnel, plan,
};
use nix::sched::{CloneFlags, unshare};

const PORT: u16 = 4_789;

/// Runs `test` as a node: a thread in a namespace that dies with it.
fn on_a_node(test: impl FnOnce(&LinuxKernel) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        node("ip link set lo up");
        test(&LinuxKernel::new("netd", "nd").unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whether the program succeeds in the namespace of this thread, and what it printed.
fn run(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let printed = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
}

fn node(line: &str) -> String {
    let (succeeds, printed) = run(line);
    assert!(succeeds, "{line}: {printed}");
    printed
}

fn vxlan() -> (Key, Object) {
    let entrance = Entrance::Vxlan([192, 0, 2, 1].into(), PORT);
    (Key::Tunnel(Encapsulation::Vxlan), Object::Tunnel(Tunnel { entrance, mtu: 1_400, addresses: Vec::new() }))
}

fn ipip() -> (Key, Object) {
    let entrance = Entrance::Ipip([192, 0, 2, 1].into());
    (Key::Tunnel(Encapsulation::Ipip), Object::Tunnel(Tunnel { entrance, mtu: 1_480, addresses: Vec::new() }))
}

fn route(to: &str, hop: Hop) -> (Key, Object) {
    (Key::Route(to.parse().unwrap()), Object::from(hop))
}

fn far_end(peer: [u8; 4]) -> (Key, Object) {
    (Key::FarEnd(peer.into()), Object::Set)
}

/// What making and replacing it both say.
fn refusal(kernel: &LinuxKernel, (key, object): (Key, Object)) -> KernelError {
    let made = kernel.apply(&[Step::Create(key.clone(), object.clone())], None).unwrap_err().source;
    let replaced = kernel.apply(&[Step::Replace(key, object)], None).unwrap_err().source;
    assert_eq!(made.to_string(), replaced.to_string());
    made
}

#[test]
fn a_link_of_somebody_else_that_has_our_name_is_named_and_stays() {
    on_a_node(|kernel| {
        for ((key, object), theirs) in [
            (vxlan(), "ip link add nd-vxlan type bridge"),
            (ipip(), "ip link add nd-ipip type vxlan id 1 dstport 9999"),
        ] {
            node(theirs);
            // A module that is loaded meanwhile puts a device of its own beside it.
            let theirs = || node(&format!("ip -d link show {}", theirs.split(' ').nth(3).unwrap()));
            let before = theirs();
            let error = refusal(kernel, (key.clone(), object));
            assert!(matches!(error, KernelError::NotOurs(_)), "{error:?}");
            kernel.apply(&[Step::Delete(key)], None).unwrap();
            assert_eq!(theirs(), before);
        }
        let tunnels = |key: &Key| matches!(key, Key::Tunnel(_));
        assert!(!kernel.observe(Scope::Node).unwrap().keys().any(tunnels));
    });
}

#[test]
fn a_tunnel_in_whose_place_another_stands_is_not_left_half_made() {
    on_a_node(|kernel| {
        for theirs in ["external", "id 28260 local 192.0.2.1"] {
            node(&format!("ip link add theirs type vxlan {theirs} dstport {PORT}"));
            node("ip link set theirs up");
            let before = node("ip -d -o link");
            let error = refusal(kernel, vxlan());
            assert!(matches!(error, KernelError::Occupied { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains("theirs") && text.contains("another port"), "{text}");
            assert_eq!(node("ip -d -o link"), before);
            node("ip link del theirs");
        }
        let (key, object) = vxlan();
        kernel.apply(&[Step::Create(key, object)], None).unwrap();
    });
}

/// `ip` says independently whether this kernel can.
#[test]
fn a_kernel_without_the_module_says_which_and_what_it_can_instead() {
    on_a_node(|kernel| {
        let has_ipip = run("ip link add probe type ipip local 192.0.2.99 remote 192.0.2.98").0;
        let before = node("ip -o link");
        let (key, object) = ipip();
        if has_ipip {
            kernel.apply(&[Step::Create(key.clone(), object.clone())], None).unwrap();
            assert_eq!(kernel.observe(Scope::Node).unwrap(), Objects::from([(key.clone(), object)]));
            kernel.apply(&[Step::Delete(key)], None).unwrap();
        } else {
            let text = refusal(kernel, (key, object)).to_string();
            assert!(text.contains("modprobe ipip") && text.contains("choose vxlan"), "{text}");
        }
        assert_eq!(node("ip -o link"), before);
    });
}

#[test]
fn a_route_of_somebody_else_is_named_and_stays() {
    on_a_node(|kernel| {
        node("ip route add 10.4.1.0/24 dev lo");
        node("ip route add fd04:1::/64 dev lo");
        let (key, object) = vxlan();
        kernel.apply(&[Step::Create(key, object)], None).unwrap();
        let routes = || [node("ip -4 route"), node("ip -6 route")];
        let before = routes();
        for to in ["10.4.1.0/24", "fd04:1::/64"] {
            let error = refusal(kernel, route(to, Hop::Vxlan([192, 0, 2, 2].into())));
            assert!(matches!(error, KernelError::Exists(_)), "{error:?}");
            assert!(error.to_string().contains("not netd's"), "{error}");
            kernel.apply(&[Step::Delete(route(to, Hop::Nowhere).0)], None).unwrap();
        }
        // What leads nowhere is behind whatever leads somewhere.
        let (key, object) = route("10.4.1.0/24", Hop::Nowhere);
        kernel.apply(&[Step::Create(key.clone(), object)], None).unwrap();
        assert!(node("ip route get 10.4.1.1").contains("dev lo"));
        kernel.apply(&[Step::Delete(key)], None).unwrap();
        assert_eq!(routes(), before);
    });
}

#[test]
fn directly_by_a_peer_that_is_on_no_link_is_refused_and_said_why() {
    on_a_node(|kernel| {
        for (to, gateway) in
            [("10.4.1.0/24", "198.51.100.2"), ("fd04:1::/64", "2001:db8::2"), ("10.4.1.0/24", "2001:db8::2")]
        {
            let error = refusal(kernel, route(to, Hop::Direct(gateway.parse().unwrap())));
            assert!(matches!(error, KernelError::OffLink { .. }), "{error:?}");
        }
        node("ip link add uplink type bridge");
        node("ip link set uplink up");
        node("ip addr add 198.51.100.1/24 dev uplink");
        node("ip addr add 2001:db8::1/64 dev uplink nodad");
        for (to, gateway) in
            [("10.4.1.0/24", "198.51.100.2"), ("fd04:1::/64", "2001:db8::2"), ("10.4.2.0/24", "2001:db8::2")]
        {
            let (key, object) = route(to, Hop::Direct(gateway.parse().unwrap()));
            kernel.apply(&[Step::Create(key.clone(), object.clone())], None).unwrap();
            assert_eq!(kernel.observe(Scope::Node).unwrap().get(&key), Some(&object));
        }
    });
}

#[test]
fn whatever_somebody_does_to_it_is_seen_and_made_good() {
    on_a_node(|kernel| {
        let peer = [192, 0, 2, 2];
        let mut desired = Objects::from([vxlan(), far_end(peer), route("10.4.0.0/16", Hop::Nowhere)]);
        desired.extend(["10.4.1.0/24", "fd04:1::/64"].map(|to| route(to, Hop::Vxlan(peer.into()))));
        let mend = || {
            let steps = plan(&desired, &kernel.observe(Scope::Node).unwrap());
            kernel.apply(&steps, None).unwrap();
            steps.len()
        };
        assert_eq!(mend(), desired.len());
        assert_eq!(mend(), 0);
        for spoilt in [
            "ip link del nd-vxlan",
            "ip link set nd-vxlan down",
            "ip link set nd-vxlan mtu 1300",
            "ip link set nd-vxlan type vxlan local 192.0.2.77",
            "ip addr add 10.99.0.1/32 dev nd-vxlan",
            "ip link set nd-vxlan alias mine",
            "bridge fdb del 02:6e:c0:00:02:02 dev nd-vxlan",
            "bridge fdb replace 02:6e:c0:00:02:02 dev nd-vxlan dst 192.0.2.3",
            "ip neigh del 192.0.2.2 dev nd-vxlan",
            "ip neigh replace 192.0.2.2 lladdr 02:6e:c0:00:02:03 dev nd-vxlan nud permanent",
            "ip route del 10.4.1.0/24",
            "ip route del unreachable 10.4.0.0/16 metric 4294967295",
            "ip -6 route del fd04:1::/64",
            "ip route replace 10.4.1.0/24 via 192.0.2.9 dev nd-vxlan onlink proto 110",
        ] {
            node(spoilt);
            // Marked by another, it is another's; nobody but people takes that away.
            if spoilt.contains("alias") {
                assert!(matches!(refusal(kernel, vxlan()), KernelError::NotOurs(_)));
                node("ip link del nd-vxlan");
            }
            assert_ne!(mend(), 0, "{spoilt}");
            assert_eq!(kernel.observe(Scope::Node).unwrap(), desired, "{spoilt}");
            assert_eq!(mend(), 0, "{spoilt}");
        }
    });
}

/// A whole fleet's routes, and back.
#[test]
fn a_thousand_peers_are_made_and_taken_away() {
    on_a_node(|kernel| {
        let mut desired = Objects::from([vxlan()]);
        for number in 1..=1_000_u16 {
            let [high, low] = number.to_be_bytes();
            let peer = [192, 1, high, low];
            desired.extend([far_end(peer), route(&format!("10.{high}.{low}.0/26"), Hop::Vxlan(peer.into()))]);
        }
        kernel.apply(&plan(&desired, &Objects::new()), None).unwrap();
        assert_eq!(kernel.observe(Scope::Node).unwrap(), desired);
        kernel.apply(&plan(&Objects::new(), &desired), None).unwrap();
        assert_eq!(kernel.observe(Scope::Node).unwrap(), Objects::new());
    });
}
