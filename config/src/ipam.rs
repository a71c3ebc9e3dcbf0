//! The `ipam` section: which addresses may be given. Which one is given is netd's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::arguments::Arguments;
use crate::json::Object;
use crate::result::{Dns, dns};

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipam {
    /// No section: layer 2 only.
    None,
    /// `host-local`.
    HostLocal(HostLocal),
    /// `static`.
    Static(StaticIpam),
}

impl Ipam {
    /// Routes that the section lists.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        match self {
            Self::None => &[],
            Self::HostLocal(host_local) => &host_local.routes,
            Self::Static(fixed) => &fixed.routes,
        }
    }

    /// Name servers that the section names.
    #[must_use]
    pub fn dns(&self) -> Dns {
        match self {
            Self::None | Self::HostLocal(_) => Dns::default(),
            Self::Static(fixed) => fixed.dns.clone(),
        }
    }

    /// The file that has the name servers instead.
    #[must_use]
    pub fn resolv_conf(&self) -> Option<&str> {
        match self {
            Self::None | Self::Static(_) => None,
            Self::HostLocal(host_local) => host_local.resolv_conf.as_deref(),
        }
    }

    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        match self {
            Self::None => Vec::new(),
            Self::HostLocal(host_local) => host_local.subnets(),
            Self::Static(fixed) => fixed.subnets(),
        }
    }
}

/// The `host-local` plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLocal {
    /// One address is given from each set.
    pub range_sets: Vec<Vec<Range>>,
    /// Copied to the result.
    pub routes: Vec<Route>,
    /// Where the official plugin keeps its reservations; `None` is `/var/lib/cni/networks`.
    pub data_dir: Option<String>,
    /// Addresses asked for.
    pub requested: Vec<IpAddr>,
    /// The file whose name servers the result tells, as resolv.conf(5) has it.
    pub resolv_conf: Option<String>,
}

impl HostLocal {
    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        self.range_sets.iter().flatten().map(|range| range.subnet).collect()
    }
}

/// The `static` plugin's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticIpam {
    /// Address with prefix, and gateway.
    pub addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Copied to the result.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Dns,
}

impl StaticIpam {
    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        self.addresses.iter().map(|(address, _)| address.trunc()).collect()
    }
}

/// A range of addresses, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The network it lies in.
    pub subnet: IpNet,
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// Never given out.
    pub gateway: IpAddr,
}

impl Range {
    /// Whether `address` lies between start and end.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.start.is_ipv4() && self.start <= address && address <= self.end
    }
}

/// A route of an IPAM section or a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; `None` takes the network's gateway.
    pub gw: Option<IpAddr>,
    /// Octets; only told, as the reference does it.
    pub mtu: Option<u32>,
    /// The largest segment that TCP advertises, in octets; only told, as the reference does it.
    pub advmss: Option<u32>,
    /// The kernel's metric.
    pub priority: Option<u32>,
    /// The routing table.
    pub table: Option<u32>,
    /// rtnetlink's scope.
    pub scope: Option<u32>,
}

impl Route {
    /// To everywhere, by this next hop.
    #[must_use]
    pub fn default_by(gateway: IpAddr) -> Self {
        let dst = if gateway.is_ipv4() { IpNet::V4(Ipv4Net::default()) } else { IpNet::V6(Ipv6Net::default()) };
        Self { dst, gw: Some(gateway), mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// Reads the section of a main plugin, whose routes are netd's to make: all by the interface, in the main table.
pub(crate) fn parse_led(root: &Object<'_>, arguments: &Arguments) -> Ipam {
    let before = root.mistakes.count();
    let ipam = parse(root, arguments);
    if root.mistakes.count() == before {
        root.object("ipam").iter().flat_map(|ipam| ipam.objects("routes")).for_each(|route| plain(&route));
    }
    ipam
}

fn plain(route: &Object<'_>) {
    const MAIN_TABLE: u32 = 254;
    for key in ["priority", "table", "scope"] {
        let named = route.number(key).filter(|number| *number != 0 && !(key == "table" && *number == MAIN_TABLE));
        if named.is_some() {
            let message = format!(
                "netd makes routes of the main table without a {key} of their own; remove the key, or make the route by a \
                 plugin that follows"
            );
            route.mistakes.add(&route.path(key), 2, message);
        }
    }
}

/// Reads the section of a main plugin, or the one at the top of a document for an IPAM plugin.
pub(crate) fn parse(root: &Object<'_>, arguments: &Arguments) -> Ipam {
    let Some(ipam) = root.object("ipam") else { return Ipam::None };
    let Some(kind) = ipam.string("type").filter(|kind| !kind.is_empty()) else {
        if ipam.value("type").is_none() && !ipam.is_empty() {
            ipam.wrong("type", "missing; use \"host-local\" or \"static\"");
        }
        return Ipam::None;
    };
    match kind {
        "host-local" => Ipam::HostLocal(host_local(root, &ipam, arguments)),
        "static" => Ipam::Static(fixed(root, &ipam, arguments)),
        other => {
            ipam.wrong("type", format!("netd does not run IPAM type {other:?} yet; use \"host-local\" or \"static\""));
            Ipam::None
        }
    }
}

fn host_local(root: &Object<'_>, ipam: &Object<'_>, arguments: &Arguments) -> HostLocal {
    let mut range_sets = Vec::new();
    if let Some(capability) = root.object("runtimeConfig") {
        range_sets.extend(sets(&capability, "ipRanges"));
    }
    if ipam.value("subnet").is_some() {
        range_sets.extend(range(ipam).map(|range| vec![range]));
    }
    range_sets.extend(sets(ipam, "ranges"));
    let unreadable = range_sets.is_empty() && (ipam.value("subnet").is_some() || !ipam.list("ranges").is_empty());
    if range_sets.is_empty() && !unreadable {
        ipam.wrong("ranges", "no IP ranges specified; add \"ranges\": [[{\"subnet\": \"10.4.0.0/24\"}]]");
    }
    overlaps(ipam, &range_sets);
    let data_dir = ipam.string("dataDir").filter(|path| !path.is_empty()).map(str::to_owned);
    let resolv_conf = ipam.string("resolvConf").filter(|path| !path.is_empty()).map(str::to_owned);
    HostLocal { range_sets, routes: routes(ipam), data_dir, requested: requested(root, arguments), resolv_conf }
}

/// Sets of ranges; go-cni sends the `ipRanges` capability as a flat list, which is one set.
fn sets(object: &Object<'_>, key: &str) -> Vec<Vec<Range>> {
    let list = object.list(key);
    let path = object.path(key);
    if list.iter().any(serde_json::Value::is_object) {
        return vec![object.elements(&path, list).iter().filter_map(range).collect()];
    }
    let mut sets = Vec::new();
    for (at, inner) in list.iter().enumerate() {
        let Some(inner) = inner.as_array() else {
            object.wrong(&format!("{key}[{at}]"), format!("{inner} is not a list of ranges [{{\"subnet\": ...}}]"));
            continue;
        };
        let set: Vec<Range> = object.elements(&format!("{path}[{at}]"), inner).iter().filter_map(range).collect();
        if set.iter().any(|range| range.start.is_ipv4() != set[0].start.is_ipv4()) {
            object.wrong(&format!("{key}[{at}]"), "mixed address families; give each family a range set of its own");
        }
        if !set.is_empty() {
            sets.push(set);
        }
    }
    sets
}

fn range(object: &Object<'_>) -> Option<Range> {
    let Some(subnet) = object.parsed::<IpNet>("subnet", "a network such as 10.4.0.0/24") else {
        if object.value("subnet").is_none() {
            object.wrong("subnet", "missing; name the network, such as 10.4.0.0/24");
        }
        return None;
    };
    if subnet.addr() != subnet.network() {
        object.wrong("subnet", format!("{subnet} has host bits set; write {}", subnet.trunc()));
        return None;
    }
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        object.wrong("subnet", format!("network {subnet} too small to allocate from; use a larger one"));
        return None;
    }
    let first = offset(subnet.network(), 1);
    let last = if subnet.addr().is_ipv4() { offset(subnet.broadcast(), -1) } else { subnet.broadcast() };
    let inside = |key: &str, default: IpAddr| match object.parsed::<IpAddr>(key, "an address") {
        Some(address) if !subnet.contains(&address) => {
            object.wrong(key, format!("{address} is not in network {subnet}"));
            default
        }
        address => address.unwrap_or(default),
    };
    let (start, end) = (inside("rangeStart", first), inside("rangeEnd", last));
    let gateway = object.parsed("gateway", "an address").unwrap_or(first);
    if !subnet.contains(&gateway) {
        object.wrong("gateway", format!("gateway {gateway} is not in network {subnet}"));
    }
    if start > end {
        object.wrong("rangeEnd", format!("{end} comes before rangeStart {start}; exchange them"));
    }
    Some(Range { subnet, start, end, gateway })
}

fn offset(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(i32::from(by))).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(i128::from(by))).into(),
    }
}

fn overlaps(ipam: &Object<'_>, sets: &[Vec<Range>]) {
    let meet = |a: &Range, b: &Range| a.contains(b.start) || b.contains(a.start);
    for (one, first) in sets.iter().enumerate() {
        for (two, second) in sets.iter().enumerate().skip(one + 1) {
            if first.iter().any(|a| second.iter().any(|b| meet(a, b))) {
                ipam.wrong("ranges", format!("range set {one} overlaps with {two}; make them disjoint"));
            }
        }
    }
}

fn requested(root: &Object<'_>, arguments: &Arguments) -> Vec<IpAddr> {
    let mut texts = arguments.addresses.clone();
    if let Some(cni) = root.object("args").and_then(|args| args.object("cni")) {
        texts.extend(cni.strings("ips"));
    }
    if let Some(capability) = root.object("runtimeConfig") {
        texts.extend(capability.strings("ips"));
    }
    let address = |text: &String| {
        let bare = text.split('/').next().unwrap_or_default();
        bare.parse().map_err(|_| root.wrong("ips", format!("{text:?} is no address to ask for"))).ok()
    };
    // Runtimes ask for one and the same address in several ways at once.
    let mut asked = Vec::new();
    for address in texts.iter().filter_map(address) {
        if !asked.contains(&address) {
            asked.push(address);
        }
    }
    asked
}

/// Addresses of the section and of `CNI_ARGS`, unless a list of the caller's stands in for them all: the capability `ips`,
/// else `args.cni.ips`.
fn fixed(root: &Object<'_>, ipam: &Object<'_>, arguments: &Arguments) -> StaticIpam {
    let capability = root.object("runtimeConfig");
    let cni = root.object("args").and_then(|args| args.object("cni"));
    let instead = [capability, cni].into_iter().flatten().find(|object| !object.list("ips").is_empty());
    let addresses = match instead {
        Some(object) => {
            let texts = object.strings("ips");
            texts.iter().filter_map(|text| Some((cidr(root, &object.path("ips"), text)?, None))).collect()
        }
        None => listed(root, ipam, arguments),
    };
    let dns = ipam.object("dns").map(|object| dns(&object)).unwrap_or_default();
    StaticIpam { addresses, routes: routes(ipam), dns }
}

fn listed(root: &Object<'_>, ipam: &Object<'_>, arguments: &Arguments) -> Vec<(IpNet, Option<IpAddr>)> {
    let entry = |entry: &Object<'_>| {
        let address = cidr(root, &entry.path("address"), entry.string("address").unwrap_or_default())?;
        Some((address, entry.parsed("gateway", "an address")))
    };
    let mut addresses: Vec<(IpNet, Option<IpAddr>)> = ipam.objects("addresses").iter().filter_map(entry).collect();
    addresses.extend(arguments.addresses.iter().filter_map(|text| Some((cidr(root, "CNI_ARGS", text)?, None))));
    for text in &arguments.gateways {
        let Ok(gateway) = text.parse::<IpAddr>() else {
            root.mistakes.add("CNI_ARGS", 4, format!("invalid gateway address: {text}; write it as 10.4.0.1"));
            continue;
        };
        let reached = addresses.iter_mut().filter(|(address, _)| address.contains(&gateway));
        reached.for_each(|(_, known)| *known = Some(gateway));
    }
    addresses
}

fn cidr(root: &Object<'_>, path: &str, text: &str) -> Option<IpNet> {
    let parsed = text.parse::<IpNet>();
    let wrong = || root.mistakes.add(path, 7, format!("{text:?} is not in CIDR notation; write it as 10.4.0.5/24"));
    parsed.map_err(|_| wrong()).ok()
}

pub(crate) fn routes(object: &Object<'_>) -> Vec<Route> {
    let route = |route: &Object<'_>| {
        if route.value("dst").is_none() {
            route.wrong("dst", "missing; name the destination, such as 0.0.0.0/0");
        }
        let dst = route.parsed("dst", "a destination such as 0.0.0.0/0")?;
        let (known, told) =
            (|key: &str| route.number(key), |key: &str| route.number(key).filter(|number| *number != 0));
        Some(Route {
            dst,
            gw: route.parsed("gw", "an address"),
            mtu: told("mtu"),
            advmss: told("advmss"),
            priority: told("priority"),
            table: known("table"),
            scope: known("scope"),
        })
    };
    object.objects("routes").iter().filter_map(route).collect()
}
