//! Whether the running kernel has what netd needs, by the evidence at hand: a trial, its configuration, its modules.

use std::collections::{BTreeMap, BTreeSet};

use super::Finding;

/// One thing that netd needs of the kernel.
#[derive(Debug)]
pub(crate) struct Feature {
    pub(crate) name: &'static str,
    /// Its build option, without `CONFIG_`.
    pub(super) option: &'static str,
    /// The module that brings it, where it is one.
    pub(super) module: &'static str,
    needed_for: &'static str,
}

const fn feature(name: &'static str, option: &'static str, module: &'static str, needed_for: &'static str) -> Feature {
    Feature { name, option, module, needed_for }
}

/// "Every rule": the ruleset has a fixed part, which is one transaction, and without one of these none of it stands.
pub(crate) const FEATURES: [Feature; 12] = [
    feature("veth", "VETH", "veth", "every attachment"),
    feature("bridge", "BRIDGE", "bridge", "every network of type bridge"),
    feature("conntrack", "NF_CONNTRACK", "nf_conntrack", "every rule"),
    feature("nf_tables inet", "NF_TABLES_INET", "nf_tables", "every rule"),
    feature("nft ct", "NFT_CT", "nft_ct", "every rule"),
    feature("nft reject", "NFT_REJECT_INET", "nft_reject_inet", "every rule"),
    feature("nft log", "NFT_LOG", "nft_log", "every rule"),
    feature("nft limit", "NFT_LIMIT", "nft_limit", "every rule"),
    feature("nft nat", "NFT_NAT", "nft_chain_nat", "every rule"),
    feature("nft masquerade", "NFT_MASQ", "nft_masq", "every rule"),
    feature("nft fib", "NFT_FIB_INET", "nft_fib_inet", "every rule"),
    feature("nf_tables bridge", "NF_TABLES_BRIDGE", "nf_tables", "every rule"),
];

/// Tunnels between nodes: who is part of no fleet lacks nothing.
pub(super) const VXLAN: Feature = feature("vxlan", "VXLAN", "vxlan", "tunnels of VXLAN");
pub(super) const IPIP: Feature = feature("ipip", "NET_IPIP", "ipip", "tunnels of IP in IP");

/// What only networks with VLANs need: a node without such networks lacks nothing.
pub(crate) const VLANS: &str = "VLANs of bridges";

/// What is known of the kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    /// As `uname -r`.
    pub(crate) release: String,
    /// Its build configuration.
    pub(crate) config: Option<String>,
    /// Modules that are loaded, built in, or on disk for this release.
    pub(crate) modules: BTreeSet<String>,
    /// What was tried in a namespace of its own, by feature, and whether the kernel did it.
    pub(crate) trials: BTreeMap<&'static str, bool>,
}

/// Whether it has a feature, and what says so.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    Has(&'static str),
    Lacks(&'static str),
    /// Built as a module, which is not on this machine.
    NoModule,
    Unknown,
}

impl Kernel {
    pub(super) fn evidence(&self, feature: &Feature) -> Evidence {
        if let Some(&done) = self.trials.get(feature.name) {
            return if done { Evidence::Has("tried") } else { Evidence::Lacks("tried") };
        }
        let has_module = self.modules.contains(feature.module);
        let line = format!("CONFIG_{}=", feature.option);
        let built = self.config.as_ref().map(|config| config.lines().find_map(|text| text.strip_prefix(&line)));
        match built {
            Some(Some("y")) => Evidence::Has("built in"),
            Some(Some(_)) if has_module => Evidence::Has("module"),
            Some(Some(_)) => Evidence::NoModule,
            Some(None) => Evidence::Lacks("not in its configuration"),
            // `nf_tables` by itself says nothing of the families that were built into it.
            None if has_module && feature.module != "nf_tables" => Evidence::Has("module"),
            None => Evidence::Unknown,
        }
    }

    /// Whether the release is at least this; a text that is no release is.
    fn is_at_least(&self, wanted: (u32, u32)) -> bool {
        let mut numbers = self.release.split(['.', '-', '+']).map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => (major, minor) >= wanted,
            _ => true,
        }
    }
}

pub(crate) fn check(kernel: &Kernel) -> Vec<Finding> {
    let mut findings: Vec<Finding> = FEATURES.iter().map(|feature| judge(kernel, feature)).collect();
    findings.extend(kernel.trials.get(VLANS).map(|can| {
        let lacks = "missing (tried): a network of type bridge with the keys vlan or vlanTrunk cannot be attached here; others \
            lack nothing (CONFIG_BRIDGE_VLAN_FILTERING)";
        Finding::ok(format!("kernel {VLANS}"), if *can { "there (tried)" } else { lacks })
    }));
    let object = format!("kernel {}", kernel.release);
    findings.push(if kernel.is_at_least((5, 14)) {
        Finding::ok(&object, "tells network namespaces apart (SO_NETNS_COOKIE)")
    } else {
        let meaning = "older than 5.14: it cannot tell a namespace from a later one at the same path (SO_NETNS_COOKIE)";
        Finding::problem(&object, meaning, "boot a kernel of 5.14 or newer")
    });
    findings.push(if kernel.is_at_least((6, 9)) {
        Finding::ok(&object, "keeps netd's tables from other programs (nft owner, persist)")
    } else {
        let meaning = "older than 6.9: `nft flush ruleset` by another program takes netd's rules too, for the moment that netd \
            needs to make them again";
        Finding::warning(&object, meaning, "netd's log names the program: let it flush its own tables; or boot 6.9 or newer")
    });
    findings
}

fn judge(kernel: &Kernel, feature: &Feature) -> Finding {
    let object = format!("kernel {}", feature.name);
    let Feature { option, module, needed_for, .. } = feature;
    match kernel.evidence(feature) {
        Evidence::Has(how) => Finding::ok(object, format!("there ({how})")),
        Evidence::Lacks(how) => Finding::problem(
            object,
            format!("missing ({how}); needed for {needed_for}"),
            format!("boot a kernel with CONFIG_{option}, or load module {module} if your distribution has it apart"),
        ),
        Evidence::NoModule => Finding::problem(
            object,
            format!("module {module} is not on this machine for {}; needed for {needed_for}", kernel.release),
            "reboot if the kernel was upgraded, or install your distribution's package of kernel modules",
        ),
        Evidence::Unknown => Finding::warning(
            object,
            format!("cannot tell whether it is there; needed for {needed_for}"),
            "run doctor as root with nft and ip installed, so that it can try",
        ),
    }
}
