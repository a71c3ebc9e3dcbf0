//! This node as one of a fleet: what of the node keeps it and the others apart. What netd itself sees of store, kernel and peers
//! is among its own warnings; whether peers are reached is `netdctl peer check`'s.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{FleetConfig, NodeConfig};
use serde::Deserialize;

use super::containerd::said;
use super::firewall::Firewalls;
use super::kernel::Kernel;
use super::sysctl::{self, Sysctls};
use super::{Finding, Place, tunnels};
use crate::SETTINGS;
use crate::model::Network;

/// Of VXLAN (IANA).
const PORT: u16 = 4_789;
/// Of netd's routes, as `ip` writes it.
const OURS: &str = "110";

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    /// As netd would read its settings now.
    pub(crate) settings: Result<NodeConfig, String>,
    pub(crate) host_name: String,
    /// The node's; empty: they cannot be listed.
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) routes: Vec<Route>,
    /// A program has VXLAN's port, not the kernel.
    pub(crate) is_port_taken: bool,
    /// All rules of nftables, without elements; empty: they cannot be listed.
    pub(crate) rules: String,
    /// Tunnels that have carried something in.
    pub(crate) heard: BTreeSet<String>,
}

/// A route that somebody has made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Route {
    /// A range, an address, or `default`.
    dst: String,
    #[serde(default)]
    gateway: String,
    #[serde(default)]
    dev: String,
    #[serde(default)]
    protocol: String,
}

impl Route {
    /// It stands and goes with an address of its link: without it the host is lost to its neighbours.
    fn is_connected(&self) -> bool {
        self.gateway.is_empty() && matches!(self.protocol.as_str(), "kernel" | "ra")
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            settings: Ok(NodeConfig::default()),
            host_name: String::new(),
            addresses: BTreeSet::new(),
            routes: Vec::new(),
            is_port_taken: false,
            rules: String::new(),
            heard: BTreeSet::new(),
        }
    }
}

pub(super) fn gather(place: &Place) -> Fleet {
    let text = place.text(SETTINGS).unwrap_or_default();
    let settings = NodeConfig::parse(SETTINGS, &text).map_err(|error| error.to_string());
    let mut fleet = Fleet { settings, ..Fleet::default() };
    let Some(on) = fleet.settings.as_ref().ok().filter(|settings| settings.fleet.is_on()) else { return fleet };
    let tunnels = ["vxlan", "ipip"].map(|kind| device(&on.link_prefix, kind));
    let received = |name: &String| place.text(&format!("/sys/class/net/{name}/statistics/rx_packets"));
    let has_heard = |name: &String| received(name).is_some_and(|count| count.trim() != "0");
    fleet.heard = tunnels.into_iter().filter(has_heard).collect();
    fleet.host_name = place.text("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let tables = ["/proc/net/udp", "/proc/net/udp6"].into_iter().filter_map(|file| place.text(file));
    fleet.is_port_taken = tables.into_iter().any(|table| is_taken(&table, PORT));
    if place.is_host() {
        fleet.addresses = addresses(&said("ip", &["-j", "address"]).unwrap_or_default());
        let all = ["-4", "-6"].map(|family| said("ip", &["-j", family, "route"]).unwrap_or_default());
        fleet.routes = all.iter().flat_map(|text| routes(text)).collect();
        fleet.rules = said("nft", &["-t", "list", "ruleset"]).unwrap_or_default();
    }
    fleet
}

fn device(link_prefix: &str, kind: &str) -> String {
    format!("{link_prefix}-{kind}")
}

/// Reads /proc/net/udp: the second field is the local address, with the port in hexadecimal digits, and the tenth the inode,
/// which the kernel's own sockets do not have.
pub(super) fn is_taken(table: &str, port: u16) -> bool {
    let end = format!(":{port:04X}");
    let is_it = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&end)) && fields.get(9).is_some_and(|inode| *inode != "0")
    };
    table.lines().skip(1).any(is_it)
}

/// Reads `ip -j address`.
pub(super) fn addresses(text: &str) -> BTreeSet<IpAddr> {
    #[derive(Deserialize)]
    struct Address {
        local: Option<IpAddr>,
    }
    #[derive(Deserialize)]
    struct Link {
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    let links: Vec<Link> = serde_json::from_str(text).unwrap_or_default();
    links.into_iter().flat_map(|link| link.addr_info).filter_map(|one| one.local).collect()
}

/// Reads `ip -j route`.
pub(super) fn routes(text: &str) -> Vec<Route> {
    serde_json::from_str(text).unwrap_or_default()
}

/// `bridges` are netd's; `None`: it does not answer. `networks` are those that it told.
pub(super) fn check(
    fleet: &Fleet,
    (bridges, networks): (Option<&BTreeSet<String>>, &[Network]),
    (firewalls, sysctls, kernel): (&Firewalls, &Sysctls, &Kernel),
) -> Vec<Finding> {
    let settings = match &fleet.settings {
        Ok(settings) if settings.fleet.is_on() => settings,
        Ok(_) => return Vec::new(),
        Err(error) => {
            let meaning = format!("cannot be used, and netd would not start again: {error}");
            return vec![Finding::problem(
                SETTINGS,
                meaning,
                "correct it; the comments of the netd.toml that netd ships name every key",
            )];
        }
    };
    let config = &settings.fleet;
    let kinds = kinds(config);
    let mut findings: Vec<Finding> = own_addresses(config, fleet).collect();
    findings.extend(outside(config, networks));
    findings.extend(tunnels::check(config, kernel));
    if let Some(bridges) = bridges {
        let of = (bridges, settings.link_prefix.as_str());
        findings.extend(fleet.routes.iter().filter_map(|route| foreign(route, config, of)));
    }
    if kinds.contains("vxlan") {
        findings.extend(fleet.is_port_taken.then(taken));
    }
    let let_in = |kind: &&str| firewall(kind, settings, (fleet, firewalls));
    findings.extend(kinds.iter().filter_map(let_in));
    findings.extend(kinds.iter().filter_map(|kind| sysctl::rp_filter(sysctls, &device(&settings.link_prefix, kind))));
    if findings.is_empty() {
        findings.push(Finding::ok(
            "fleet",
            "nothing of this node keeps it from the others; `netdctl peer check` tries them",
        ));
    }
    findings.push(tunnels::all(kernel));
    findings
}

fn kinds(config: &FleetConfig) -> BTreeSet<&'static str> {
    let tunnels = config.pools.iter().filter_map(|pool| tunnels::of(config.encapsulation_of(pool)));
    tunnels.map(|tunnel| tunnel.name).collect()
}

fn own_addresses<'a>(config: &'a FleetConfig, fleet: &'a Fleet) -> impl Iterator<Item = Finding> + 'a {
    let name = if config.name.is_empty() { &fleet.host_name } else { &config.name };
    let listed = config.nodes.get(name).map(|node| &node.address.0);
    let said = Some(&config.address.0).filter(|said| !said.is_empty()).or(listed);
    let is_absent = |address: &&IpAddr| !fleet.addresses.is_empty() && !fleet.addresses.contains(*address);
    said.into_iter().flatten().filter(is_absent).map(|address| {
        Finding::problem(
            format!("fleet address {address}"),
            "is on no link of this node: others send to it, and no tunnel of this node can send from it",
            format!(
                "give a link that address, or correct it in {SETTINGS} (fleet.address, or fleet.nodes on every node)"
            ),
        )
    })
}

/// One within a pool comes before what leads to the fleet's nodes.
fn foreign(route: &Route, config: &FleetConfig, (bridges, prefix): (&BTreeSet<String>, &str)) -> Option<Finding> {
    let is_ours = route.protocol == OURS || bridges.contains(&route.dev) || route.dev.starts_with(prefix);
    let to: IpNet = route.dst.parse().ok().or_else(|| route.dst.parse::<IpAddr>().ok().map(IpNet::from))?;
    let pool = config.pools.iter().find(|pool| pool.range.contains(&to)).filter(|_| !is_ours)?;
    let lost = format!("lies in pool {}: what other nodes have there is not reached from here", pool.name);
    let dev = &route.dev;
    let (meaning, remedy) = if route.is_connected() {
        let remedy = format!(
            "give fleet.pools in {SETTINGS}, on every node, a range that holds no address of the hosts' networks; only if {dev} is a bridge of containers that nobody needs, remove that"
        );
        (format!("is that of this host's own addresses on link {dev}, and {lost}"), remedy)
    } else {
        let remedy = format!("take it away with its owner (link {dev}), or give the fleet another pool");
        (format!("is not netd's, and {lost}"), remedy)
    };
    Some(Finding::warning(format!("route {to}"), meaning, remedy))
}

/// Nothing else tells of it: such networks are as good as any, on this node alone.
fn outside(config: &FleetConfig, networks: &[Network]) -> Option<Finding> {
    let mut subnets = networks.iter().flat_map(|network| &network.subnets).peekable();
    subnets.peek()?;
    let is_shared = |subnet: IpNet| config.pools.iter().any(|pool| pool.range.contains(&subnet));
    if subnets.filter_map(|subnet| subnet.parse().ok()).any(is_shared) {
        return None;
    }
    let pools: Vec<String> = config.pools.iter().map(|pool| pool.range.to_string()).collect();
    Some(Finding::warning(
        "fleet",
        format!(
            "no network of this node lies in a pool ({}): its containers keep addresses of this node alone",
            pools.join(", ")
        ),
        format!("give fleet.pools in {SETTINGS} a range that holds your network's (`netdctl network ls` shows it)"),
    ))
}

fn taken() -> Finding {
    Finding::problem(
        format!("UDP port {PORT}"),
        "is a program's: the VXLAN tunnel cannot come up",
        format!("find it (`ss -ulnp sport = {PORT}`) and give it another port, or choose another encapsulation"),
    )
}

/// A firewall that drops what is sent to the node, and has no rule for the tunnel, by which nothing has come in yet.
fn firewall(kind: &str, settings: &NodeConfig, (fleet, firewalls): (&Fleet, &Firewalls)) -> Option<Finding> {
    let (what, ufw, firewalld, marks): (_, _, _, &[&str]) = match kind {
        "vxlan" => (
            "UDP port 4789",
            "ufw allow proto udp from NODE to any port 4789",
            "firewall-cmd --permanent --add-port=4789/udp",
            &["4789"],
        ),
        _ => (
            "IP protocol 4",
            "ufw allow proto ipencap from NODE",
            "firewall-cmd --permanent --add-protocol=ipencap",
            &["protocol 4 ", "protocol ipencap ", "protocol ipip ", "l4proto 4 ", "l4proto ipencap ", "l4proto ipip "],
        ),
    };
    let who = firewalls.who_drops_input(&settings.instance)?;
    let is_named = |line: &str| line.contains("accept") && marks.iter().any(|mark| line.contains(mark));
    let is_let_in = of_others(&fleet.rules, &settings.instance).any(is_named);
    if is_let_in || fleet.heard.contains(&device(&settings.link_prefix, kind)) {
        return None;
    }
    Some(Finding::warning(
        who,
        format!("drops what is sent to this node, names {what} in no rule, and nothing has come by the tunnel yet"),
        format!("let {what} in from every node of the fleet: `{ufw}`, `{firewalld}`, or a rule of your own"),
    ))
}

/// Lines of `nft list ruleset` outside of netd's tables.
fn of_others<'a>(rules: &'a str, instance: &'a str) -> impl Iterator<Item = &'a str> {
    let mut is_ours = false;
    rules.lines().filter(move |line| {
        if let Some(table) = line.strip_prefix("table ") {
            is_ours = table.split_whitespace().nth(1) == Some(instance);
        }
        !is_ours
    })
}
