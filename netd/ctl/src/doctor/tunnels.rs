//! What the fleet's encapsulations need of the kernel, and which can take their place. Judged by files alone: to try one loads
//! its module. The rules of tunnels need no part of nftables but those in `kernel`.

use netd_config::{Encapsulation, FleetConfig, PoolConfig};

use super::Finding;
use super::kernel::{Evidence, Feature, IPIP, Kernel, VXLAN};
use crate::SETTINGS;

pub(super) fn check(config: &FleetConfig, kernel: &Kernel) -> Vec<Finding> {
    config.pools.iter().filter_map(|pool| judge(pool, config.encapsulation_of(pool), kernel)).collect()
}

/// What this kernel has, for who thinks of another encapsulation.
pub(super) fn all(kernel: &Kernel) -> Finding {
    let said = [VXLAN, IPIP].map(|feature| match kernel.evidence(&feature) {
        Evidence::Has(how) => format!("{} there ({how})", feature.name),
        Evidence::Lacks(how) => format!("{} missing ({how})", feature.name),
        Evidence::NoModule => format!("{} missing (its module is not on this machine)", feature.name),
        Evidence::Unknown => format!("{}: cannot tell", feature.name),
    });
    Finding::ok("kernel tunnels", said.join(", "))
}

/// What carries it.
pub(super) fn of(mode: Encapsulation) -> Option<Feature> {
    match mode {
        Encapsulation::Vxlan | Encapsulation::CrossSubnet => Some(VXLAN),
        Encapsulation::Ipip | Encapsulation::CrossSubnetIpip => Some(IPIP),
        Encapsulation::Direct => None,
    }
}

fn judge(pool: &PoolConfig, mode: Encapsulation, kernel: &Kernel) -> Option<Finding> {
    let feature = of(mode)?;
    let Feature { name, option, module, .. } = feature;
    let (object, release) = (format!("fleet pool {}", pool.name), &kernel.release);
    let (why, remedy) = match kernel.evidence(&feature) {
        Evidence::Has(_) => return None,
        Evidence::Lacks(how) => {
            (format!("which this kernel lacks ({how})"), format!("boot a kernel with CONFIG_{option}"))
        }
        Evidence::NoModule => (
            format!("and its module {module} is not on this machine for {release}"),
            "reboot if the kernel was upgraded, or install your distribution's package of kernel modules".to_owned(),
        ),
        Evidence::Unknown => {
            let meaning = format!("needs {name}, and nothing tells whether this kernel has it");
            let remedy = format!("ask `modprobe --dry-run {module}`, which loads nothing");
            return Some(Finding::warning(object, meaning, remedy));
        }
    };
    let lost = match mode {
        Encapsulation::CrossSubnet | Encapsulation::CrossSubnetIpip => {
            "nodes that share no link with this one are not reached"
        }
        Encapsulation::Vxlan | Encapsulation::Ipip | Encapsulation::Direct => "no other node is reached",
    };
    let remedy = format!("{}; or {remedy}", instead(pool, mode, kernel));
    Some(Finding::problem(object, format!("needs {name}, {why}: {lost} there"), remedy))
}

/// An encapsulation that this kernel can do. IP in IP carries IPv4 only.
fn instead(pool: &PoolConfig, mode: Encapsulation, kernel: &Kernel) -> String {
    let has = |feature: &Feature| matches!(kernel.evidence(feature), Evidence::Has(_));
    let by_ipip = has(&IPIP) && pool.range.addr().is_ipv4();
    let (other, is_there) = match mode {
        Encapsulation::Ipip => ("vxlan", has(&VXLAN)),
        Encapsulation::CrossSubnetIpip => ("cross-subnet", has(&VXLAN)),
        Encapsulation::Vxlan => ("ipip", by_ipip),
        Encapsulation::CrossSubnet => ("cross-subnet-ipip", by_ipip),
        Encapsulation::Direct => ("direct", true),
    };
    if is_there {
        return format!("give it encapsulation = \"{other}\", which works here, in {SETTINGS} on every node");
    }
    let remedy =
        "give it encapsulation = \"direct\", if all nodes share a link or their router knows the way to each block";
    format!("{remedy} ({SETTINGS} on every node)")
}
