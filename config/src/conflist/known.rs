//! The keys that each kind of object may have, as tables: the CNI specification's, the official plugins' and the
//! runtimes' own. What they mean is not here.
//!
//! Keys that are nobody's setting but a runtime's own note, which it reads back, are known and not reported: `nerdctlID`,
//! `nerdctlLabels` and a range's `ipRange` (nerdctl), `args` at the top (podman). `resolveConf`, a misspelling of
//! `resolvConf` that nerdctl and podman write, has no effect anywhere and is reported, as is a capability that no plugin
//! takes, such as kube-router's `snat`.

/// Known keys and the kind of their values.
pub(super) type Table = &'static [(&'static str, Kind)];

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Free, or judged elsewhere.
    Any,
    Flag,
    Number,
    Text,
    Texts,
    Object(Table),
    Objects(Table),
    /// `[[{"subnet": ...}]]`
    RangeSets,
    /// The section `ipam`: its `type` decides.
    Ipam,
}

use Kind::{Any, Flag, Ipam, Number, Object, Objects, RangeSets, Text, Texts};

/// The file as a whole.
pub(super) const TOP: Table = &[
    ("cniVersion", Text),
    ("cniVersions", Texts),
    ("name", Text),
    ("plugins", Any),
    ("disableCheck", Any),
    ("disableGC", Any),
    ("loadOnlyInlinedPlugins", Any),
    ("nerdctlID", Text),
    ("nerdctlLabels", Any),
    ("args", Any),
];

/// Keys that any plugin may have.
pub(super) const EVERY_PLUGIN: Table = &[
    ("cniVersion", Text),
    ("name", Text),
    ("type", Text),
    ("args", Any),
    ("capabilities", Object(CAPABILITIES)),
    ("ipam", Ipam),
    ("dns", Object(DNS)),
    ("prevResult", Any),
    ("runtimeConfig", Object(RUNTIME)),
    ("cni.dev/valid-attachments", Any),
    ("cni.dev/attachments", Any),
];

const DNS: Table = &[("nameservers", Texts), ("domain", Text), ("search", Texts), ("options", Texts)];

const CAPABILITIES: Table = &[
    ("portMappings", Flag),
    ("ipRanges", Flag),
    ("bandwidth", Flag),
    ("dns", Flag),
    ("ips", Flag),
    ("mac", Flag),
    ("infinibandGUID", Flag),
    ("deviceID", Flag),
    ("aliases", Flag),
    ("cgroupPath", Flag),
    ("io.kubernetes.cri.pod-annotations", Flag),
];

const RUNTIME: Table = &[
    ("portMappings", Objects(PORT)),
    ("ipRanges", RangeSets),
    ("bandwidth", Object(BANDWIDTH)),
    ("dns", Object(&[("servers", Texts), ("searches", Texts), ("options", Texts)])),
    ("ips", Texts),
    ("mac", Text),
    ("infinibandGUID", Text),
    ("deviceID", Text),
    ("aliases", Any),
    ("cgroupPath", Text),
    ("io.kubernetes.cri.pod-annotations", Any),
];

const PORT: Table = &[("hostPort", Number), ("containerPort", Number), ("protocol", Text), ("hostIP", Text)];

/// One of a range set.
pub(super) const RANGE: Table =
    &[("subnet", Text), ("rangeStart", Text), ("rangeEnd", Text), ("gateway", Text), ("ipRange", Text)];

const ROUTE: Table = &[
    ("dst", Text),
    ("gw", Text),
    ("mtu", Number),
    ("advmss", Number),
    ("priority", Number),
    ("table", Number),
    ("scope", Number),
];

/// Keys of any official IPAM section.
pub(super) const EVERY_IPAM: Table = &[("type", Text), ("name", Text)];

/// The keys of an official IPAM plugin's section.
pub(super) fn ipam(kind: &str) -> Option<Table> {
    Some(match kind {
        "host-local" => &[
            ("subnet", Text),
            ("rangeStart", Text),
            ("rangeEnd", Text),
            ("gateway", Text),
            ("ipRange", Text),
            ("ranges", RangeSets),
            ("routes", Objects(ROUTE)),
            ("resolvConf", Text),
            ("dataDir", Text),
        ],
        "static" => &[
            ("addresses", Objects(&[("address", Text), ("gateway", Text)])),
            ("routes", Objects(ROUTE)),
            ("dns", Object(DNS)),
        ],
        "dhcp" => &[
            ("daemonSocketPath", Text),
            ("priority", Number),
            ("provide", Objects(&[("option", Text), ("value", Text), ("fromArg", Text)])),
            ("request", Objects(&[("option", Text), ("skipDefault", Flag)])),
        ],
        _ => return None,
    })
}

const BRIDGE: Table = &[
    ("bridge", Text),
    ("isGateway", Flag),
    ("isDefaultGateway", Flag),
    ("forceAddress", Flag),
    ("ipMasq", Flag),
    ("ipMasqBackend", Text),
    ("mtu", Number),
    ("hairpinMode", Flag),
    ("promiscMode", Flag),
    ("vlan", Number),
    ("vlanTrunk", Objects(&[("id", Number), ("minID", Number), ("maxID", Number)])),
    ("preserveDefaultVlan", Flag),
    // netd watches the MAC of every sandbox that it gives an address, unless `spoof_guard` in netd.toml is off and this is too.
    ("macspoofchk", Flag),
    ("enabledad", Flag),
    ("disableContainerInterface", Flag),
    ("portIsolation", Flag),
    // netd's own: in the reference only `firewall` takes it.
    ("ingressPolicy", Text),
];

const PORTMAP: Table = &[
    ("backend", Text),
    ("snat", Flag),
    ("markMasqBit", Number),
    ("externalSetMarkChain", Text),
    ("conditionsV4", Texts),
    ("conditionsV6", Texts),
    ("masqAll", Flag),
];

const BANDWIDTH: Table =
    &[("ingressRate", Number), ("ingressBurst", Number), ("egressRate", Number), ("egressBurst", Number)];

const TUNING: Table = &[
    ("sysctl", Any),
    ("mac", Text),
    ("promisc", Flag),
    ("mtu", Number),
    ("txQLen", Number),
    ("allmulti", Flag),
    ("dataDir", Text),
];

/// The own keys of an official plugin type.
pub(super) fn plugin(kind: &str) -> Option<Table> {
    Some(match kind {
        "bridge" | "netd" => BRIDGE,
        // `ingressPolicy` is netd's own: in the reference only `firewall` takes it.
        "ptp" => &[("ipMasq", Flag), ("ipMasqBackend", Text), ("mtu", Number), ("ingressPolicy", Text)],
        "macvlan" => &[
            ("master", Text),
            ("mode", Text),
            ("mtu", Number),
            ("mac", Text),
            ("linkInContainer", Flag),
            ("bcqueuelen", Number),
        ],
        "ipvlan" => &[("master", Text), ("mode", Text), ("mtu", Number), ("linkInContainer", Flag)],
        "vlan" => &[("master", Text), ("vlanId", Number), ("mtu", Number), ("linkInContainer", Flag)],
        "host-device" => &[("device", Text), ("hwaddr", Text), ("kernelpath", Text), ("pciBusID", Text)],
        "loopback" | "dummy" | "host-local" | "static" | "dhcp" | "isolation" => &[],
        "tap" => &[
            ("multiQueue", Flag),
            ("mtu", Number),
            ("mac", Text),
            ("owner", Number),
            ("group", Number),
            ("selinuxContext", Text),
            ("bridge", Text),
        ],
        "portmap" => PORTMAP,
        "bandwidth" => BANDWIDTH,
        "firewall" => {
            &[("backend", Text), ("iptablesAdminChainName", Text), ("firewalldZone", Text), ("ingressPolicy", Text)]
        }
        "tuning" => TUNING,
        "sbr" => &[("table", Number), ("addSourceHints", Flag)],
        "vrf" => &[("vrfname", Text), ("table", Number)],
        _ => return None,
    })
}
