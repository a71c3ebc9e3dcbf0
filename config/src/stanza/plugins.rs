//! The names of plugins that netd answers for.

const EXECUTED: [&str; 10] =
    ["bridge", "netd", "ptp", "loopback", "host-local", "static", "portmap", "firewall", "isolation", "tuning"];

/// Official types, and two that netd is to run itself although they are not.
pub(super) const NOT_YET: [&str; 12] = [
    "macvlan",
    "ipvlan",
    "vlan",
    "host-device",
    "dummy",
    "tap",
    "dhcp",
    "bandwidth",
    "sbr",
    "vrf",
    "flannel",
    "dnsname",
];

/// The types that netd runs, and those that it means to.
pub(crate) const ALL: [&[&str]; 2] = [&EXECUTED, &NOT_YET];

/// Whether netd runs this plugin type itself.
#[must_use]
pub fn runs_plugin(kind: &str) -> bool {
    EXECUTED.contains(&kind)
}

/// Whether netd runs this plugin type, or means to and leaves it to the official plugin of that name meanwhile.
#[must_use]
pub fn knows_plugin(kind: &str) -> bool {
    ALL.iter().any(|kinds| kinds.contains(&kind))
}
