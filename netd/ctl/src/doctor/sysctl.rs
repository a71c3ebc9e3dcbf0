//! Sysctls that decide whether packets pass.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Place};
use crate::model::Network;

/// What is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sysctls {
    pub(crate) ip_forward: Option<u32>,
    pub(crate) ipv6_forwarding: Option<u32>,
    /// By interface, `all` and `default` among them.
    pub(crate) rp_filter: BTreeMap<String, u32>,
    pub(crate) accept_ra: BTreeMap<String, u32>,
    /// Interfaces whose default route the kernel made from a router advertisement.
    pub(crate) ra_uplinks: BTreeSet<String>,
    /// `disable_ipv6`, by interface, `all` and `default` among them; `None`: this kernel has no IPv6.
    pub(crate) ipv6_off: Option<BTreeMap<String, u32>>,
    /// `bridge-nf-call-iptables`; `None`: br_netfilter is not loaded.
    pub(crate) bridge_nf: Option<u32>,
}

pub(super) fn gather(place: &Place) -> Sysctls {
    let number = |path: &str| place.text(path)?.trim().parse().ok();
    let each = |family: &str, key: &str| -> BTreeMap<String, u32> {
        let folder = format!("/proc/sys/net/{family}/conf");
        let names = place.names(&folder).into_iter();
        names.filter_map(|name| Some((name.clone(), number(&format!("{folder}/{name}/{key}"))?))).collect()
    };
    Sysctls {
        ip_forward: number("/proc/sys/net/ipv4/ip_forward"),
        ipv6_forwarding: number("/proc/sys/net/ipv6/conf/all/forwarding"),
        rp_filter: each("ipv4", "rp_filter"),
        accept_ra: each("ipv6", "accept_ra"),
        ipv6_off: place.at("/proc/sys/net/ipv6").exists().then(|| each("ipv6", "disable_ipv6")),
        ra_uplinks: ra_uplinks(&place.text("/proc/net/ipv6_route").unwrap_or_default()),
        bridge_nf: number("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    }
}

/// Reads /proc/net/ipv6_route: destination, its length, source, its length, next hop, metric, two counts, flags, name.
pub(super) fn ra_uplinks(table: &str) -> BTreeSet<String> {
    // RTF_DEFAULT | RTF_ADDRCONF (linux/ipv6_route.h): a default route that came by a router advertisement.
    const FROM_RA: u32 = 0x0001_0000 | 0x0004_0000;
    let uplink = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        (flags & FROM_RA == FROM_RA).then(|| fields.get(9).map(|&name| name.to_owned()))?
    };
    table.lines().filter_map(uplink).collect()
}

/// `bridges` are netd's; `attachments` is how many it holds.
pub(super) fn check(sysctls: &Sysctls, bridges: &BTreeSet<String>, attachments: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match sysctls.ip_forward {
        Some(0) if attachments > 0 => Finding::problem(
            "net.ipv4.ip_forward",
            "0: no packet leaves or reaches a container through this node",
            "run `netdctl resync`; then find who set it (`grep -r ip_forward /etc/sysctl.*`)",
        ),
        Some(0) => Finding::ok("net.ipv4.ip_forward", "0; netd switches it on with the first network that needs it"),
        Some(_) => Finding::ok("net.ipv4.ip_forward", "on"),
        None => Finding::problem("net.ipv4.ip_forward", "cannot be read", "mount /proc"),
    });
    findings.extend(sysctls.ra_uplinks.iter().map(|uplink| accept_ra(sysctls, uplink)));
    findings.extend(bridges.iter().filter_map(|bridge| rp_filter(sysctls, bridge)));
    findings.extend(bridges.first().map(|_| bridged_policies(sysctls)));
    findings
}

/// Whether networks with an IPv6 range can have it.
pub(super) fn ipv6(sysctls: &Sysctls, networks: &[Network]) -> Vec<Finding> {
    let with_range = networks
        .iter()
        .filter_map(|network| Some((network, network.subnets.iter().find(|subnet| subnet.contains(':'))?)));
    let Some(off) = &sysctls.ipv6_off else {
        return with_range.map(|(network, subnet)| without_ipv6(network, subnet)).collect();
    };
    let is_off = |name: &str| off.get(name).is_some_and(|off| *off != 0);
    let mut findings: Vec<Finding> = Vec::new();
    for (network, subnet) in with_range {
        let bridge = &network.bridge;
        if is_off(bridge) {
            let Network { name, file, .. } = network;
            let meaning = format!("1: containers of network {name} have addresses of {subnet}, and no gateway there");
            let remedy = format!(
                "`sysctl -w net.ipv6.conf.{bridge}.disable_ipv6=0 && netdctl resync`, or take {subnet} out of {file}"
            );
            findings.push(Finding::problem(format!("net.ipv6.conf.{bridge}.disable_ipv6"), meaning, remedy));
        }
    }
    if is_off("all") || is_off("default") {
        let meaning =
            "IPv6 is switched off on new links; netd switches it on on the bridges that it makes for IPv6 ranges";
        findings.push(Finding::ok("net.ipv6.conf.all.disable_ipv6", meaning));
    }
    findings
}

fn without_ipv6(network: &Network, subnet: &str) -> Finding {
    let meaning = format!(
        "has the range {subnet}, and this kernel has no IPv6 (ipv6.disable=1, or built without): no container can be attached"
    );
    let remedy =
        format!("take {subnet} and the routes of IPv6 out of {}, or boot without ipv6.disable=1", network.file);
    Finding::problem(format!("network {}", network.name), meaning, remedy)
}

/// Policies between two containers of one bridge.
fn bridged_policies(sysctls: &Sysctls) -> Finding {
    match sysctls.bridge_nf {
        None => Finding::warning(
            "br_netfilter",
            "not loaded: a policy about a container on a bridge is refused",
            "run `modprobe br_netfilter`, and write br_netfilter to /etc/modules-load.d/netd.conf; it filters the node's \
             other bridges too, unless net.bridge.bridge-nf-call-iptables, -ip6tables and -arptables are 0",
        ),
        Some(_) => Finding::ok("br_netfilter", "loaded: policies hold between containers of one bridge"),
    }
}

fn accept_ra(sysctls: &Sysctls, uplink: &str) -> Finding {
    let object = format!("net.ipv6.conf.{uplink}.accept_ra");
    let value = sysctls.accept_ra.get(uplink).copied().unwrap_or(1);
    let remedy = format!("set net.ipv6.conf.{uplink}.accept_ra=2 (now by `sysctl -w`, for good in /etc/sysctl.d)");
    match (value, sysctls.ipv6_forwarding.unwrap_or(0)) {
        (2, _) => Finding::ok(object, "2: the IPv6 default route survives forwarding"),
        (_, 0) => {
            let meaning = format!("{value}: the IPv6 default route goes when netd switches IPv6 forwarding on");
            Finding::warning(object, meaning, remedy)
        }
        _ => {
            let meaning = format!("{value} with forwarding on: the IPv6 default route goes when its lifetime ends");
            Finding::problem(object, meaning, remedy)
        }
    }
}

/// The kernel takes the larger of `all` and the interface's own.
pub(super) fn rp_filter(sysctls: &Sysctls, bridge: &str) -> Option<Finding> {
    let own = *sysctls.rp_filter.get(bridge)?;
    let all = sysctls.rp_filter.get("all").copied().unwrap_or(0);
    let object = format!("net.ipv4.conf.{bridge}.rp_filter");
    Some(match own.max(all) {
        1 => Finding::warning(
            object,
            format!("strict (all {all}, {bridge} {own}): replies that come another way are dropped"),
            format!("set net.ipv4.conf.{bridge}.rp_filter=2: the larger value holds, and 2 is loose"),
        ),
        loose => Finding::ok(object, format!("{loose} in effect (all {all}, {bridge} {own})")),
    })
}
