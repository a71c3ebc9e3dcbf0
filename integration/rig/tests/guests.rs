//! Other kernels than this machine's: the one that Debian installs carries netd, and one that has `ipip` carries tunnels.
//! Needs root, and Debian's packages.

use std::time::Duration;

use netd_rig::{Guest, Trial, parts};

/// On a busy machine; a quiet one needs a fifth of it.
const LIMIT: Duration = Duration::from_secs(3_000);

const fn all(folder: &'static str, target: &'static str) -> Trial {
    Trial { folder, target, arguments: &[] }
}

#[test]
fn netd_keeps_its_contract_on_the_kernel_of_debian() {
    let trials = [
        all("netd/netlink", "kernel"),
        all("netd/netlink", "packet_log"),
        Trial { folder: "netd/kernel", target: "contract", arguments: &["linux::"] },
        all("netd/kernel", "ruleset"),
        all("netd/kernel", "linux"),
        all("netd/kernel", "neighbours"),
        all("netd/kernel", "coexist"),
        all("netd/kernel", "tunnels"),
        all("netd/kernel", "packets"),
        all("netd", "policies"),
        all("netd", "flush"),
        all("netd", "packets"),
        Trial {
            folder: "netd",
            target: "vlans",
            // It is about kernels without VLANs, such as the one that this guest runs on may be.
            arguments: &["--skip", "a_kernel_that_cannot_keep_vlans_apart_is_told_and_nothing_is_left"],
        },
        all("netd", "routed"),
        all("netd", "service"),
        all("netd", "daemon"),
        all("netd", "describe"),
        // One node with all of it, when the modules are loaded: that takes an emulator its time.
        Trial {
            folder: "integration/rig",
            target: "cri_pod",
            arguments: &["--exact", "pods_have_their_network_by_netd_on_containerd_2_4"],
        },
    ];
    Guest::Debian.test(&trials, LIMIT).unwrap();
}

/// The three hosts of `nodes`, and how large packets may be, over what this machine's kernel may lack. netd is not kept waiting there until the modules that
/// it needs are loaded.
#[test]
fn three_hosts_are_one_network_over_ipip_on_the_kernel_of_debian() {
    let arguments = &["--exact", "three_hosts_are_one_network_over_ipip"];
    let nodes = Trial { folder: "integration/rig", target: "nodes", arguments };
    let sizes = Trial { folder: "netd", target: "mtu", arguments: &["over_ipip"] };
    let by_ipip = &[
        "--exact",
        "ipip::a_pool_of_its_own_goes_by_ipip",
        "ipip::beyond_a_router_packets_go_by_ipip_and_on_the_link_as_they_are",
    ];
    let pools = Trial { folder: "netd", target: "fleet", arguments: by_ipip };
    Guest::Debian.test(&[all("netd/kernel", "ruleset"), nodes, sizes, pools], LIMIT).unwrap();
}

/// A clock that may be set is the guest's own.
#[test]
fn a_fleet_bears_that_all_its_clocks_jump_on_the_kernel_of_debian() {
    let arguments = &["--ignored", "--exact", "all_clocks_jump"];
    let chaos = Trial { folder: "netd", target: "chaos", arguments };
    // netd is not kept waiting there until the modules that it needs are loaded.
    Guest::Debian.test(&[all("netd/kernel", "ruleset"), chaos], LIMIT).unwrap();
}

/// What bridges, tunnels and encryption may ask for.
#[test]
fn the_kernel_of_debian_has_the_modules_that_this_machines_may_lack() {
    let errand = "set -e
modprobe -a br_netfilter nf_conntrack_bridge vxlan esp4 8021q macvlan ipvlan dummy vrf sch_htb act_mirred
cat /proc/sys/net/bridge/bridge-nf-call-iptables
ip link add t0 type ipip local 192.0.2.1 remote 192.0.2.2
ip link add w0 type wireguard
ip link show t0; ip link show w0";
    let outcome = Guest::Debian.run(errand, Duration::from_secs(600)).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
}

/// Tunnels need more than this machine's kernel may have: protocol 4 between two namespaces, and a packet through it.
#[test]
fn an_ipip_tunnel_carries_packets_in_user_mode_linux() {
    let script = r#"set -e
ip netns add one; ip netns add two
ip link add one0 netns one type veth peer name two0 netns two
for pair in "one 1 2" "two 2 1"; do
    set -- $pair
    ip -n $1 link set lo up
    ip -n $1 address add 192.0.2.$2/24 dev ${1}0
    ip -n $1 link set ${1}0 up
    ip -n $1 link add tunnel type ipip local 192.0.2.$2 remote 192.0.2.$3
    ip -n $1 address add 10.$2.0.1/32 dev tunnel
    ip -n $1 link set tunnel up
    ip -n $1 route add 10.$3.0.0/24 dev tunnel
done
before=$(ip netns exec two cat /sys/class/net/tunnel/statistics/rx_packets)
ip netns exec one busybox ping -c 3 -W 2 -I 10.1.0.1 10.2.0.1
echo received: $(($(ip netns exec two cat /sys/class/net/tunnel/statistics/rx_packets) - before))
"#;
    let outcome = Guest::UserMode.run(script, Duration::from_secs(300)).unwrap();
    assert_eq!(outcome.status, 0, "{}", outcome.output);
    assert!(outcome.output.contains("received: 3\n"), "{}", outcome.output);
}

/// That kernel has nftables for bridges alone.
#[test]
fn a_kernel_that_cannot_carry_netd_is_told_by_netd_and_by_doctor() {
    let ours = parts::ours().unwrap();
    let programs = ours.display();
    let errand = format!("{programs}/netd; {programs}/netdctl doctor; true");
    let outcome = Guest::UserMode.run(&errand, Duration::from_secs(300)).unwrap();
    for text in [
        "`netdctl doctor` says what this kernel lacks",
        "kernel nf_tables inet: missing (tried); needed for every rule",
        "kernel nf_tables bridge: there (tried)",
    ] {
        assert!(outcome.output.contains(text), "{text} is not in\n{}", outcome.output);
    }
}

#[test]
fn an_errand_brings_back_its_output_and_its_status_and_leaves_nothing() {
    let errand = "id -u; uname -r; echo to-errors >&2; touch /etc/netd-guest-was-here; exit 7";
    let outcome = Guest::UserMode.run(errand, Duration::from_secs(300)).unwrap();
    let here = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let lines: Vec<&str> = outcome.output.lines().collect();
    assert_eq!((outcome.status, lines[0], lines[2]), (7, "0", "to-errors"));
    assert_ne!(lines[1], here.trim());
    assert!(!std::path::Path::new("/etc/netd-guest-was-here").exists());
}

#[test]
fn an_errand_without_an_end_is_ended() {
    // A quiet machine has begun within the first of these.
    let end = |limit: &Duration| Guest::UserMode.run("echo begun; sleep 1000", *limit).unwrap_err().to_string();
    let error = [10, 60, 180].map(Duration::from_secs).iter().map(end).find(|error| error.contains("begun")).unwrap();
    assert!(error.contains("was not done within"), "{error}");
}
