//! CNI results: read in any version, written in any version, with the keys in the order of the official plugins.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::ipam::{Route, routes};
use crate::json::Object;
use crate::version::CniVersion;

/// What an ADD made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Links.
    pub interfaces: Vec<ResultInterface>,
    /// Addresses.
    pub ips: Vec<ResultIp>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Dns,
}

/// One link of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResultInterface {
    /// Its name.
    pub name: String,
    /// Its MAC; may be empty.
    pub mac: String,
    /// Octets.
    pub mtu: Option<u32>,
    /// The namespace's path; empty on the node.
    pub sandbox: String,
    /// The file by which a program in the sandbox sends and gets itself, such as a vhost-user socket; may be empty.
    pub socket_path: String,
    /// The PCI device behind it; may be empty.
    pub pci_id: String,
}

/// One address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultIp {
    /// Index into the result's interfaces.
    pub interface: Option<u32>,
    /// Address with its network's prefix.
    pub address: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
}

/// Name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

impl Dns {
    /// What a file such as `/etc/resolv.conf` says (resolv.conf(5)), as the reference reads it: all lists grow, and the last
    /// domain counts.
    #[must_use]
    pub fn of_resolv_conf(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => dns.nameservers.extend(words.next()),
                Some("domain") => dns.domain = words.next().unwrap_or(dns.domain),
                Some("search") => dns.search.extend(words),
                Some("options") => dns.options.extend(words),
                _ => {}
            }
        }
        dns
    }
}

pub(crate) fn dns(object: &Object<'_>) -> Dns {
    Dns {
        nameservers: object.strings("nameservers"),
        domain: object.string("domain").unwrap_or_default().to_owned(),
        search: object.strings("search"),
        options: object.strings("options"),
    }
}

impl CniResult {
    /// What the `loopback` plugin answers.
    #[must_use]
    pub fn loopback(sandbox: &str) -> Self {
        let lo = ResultInterface {
            name: "lo".to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            mtu: None,
            sandbox: sandbox.to_owned(),
            ..ResultInterface::default()
        };
        let addresses = [([127, 0, 0, 1].into(), 8), (IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), 128)];
        let ips = addresses
            .into_iter()
            .filter_map(|(address, prefix)| IpNet::new(address, prefix).ok())
            .map(|address| ResultIp { interface: Some(0), address, gateway: None })
            .collect();
        Self { interfaces: vec![lo], ips, ..Self::default() }
    }

    pub(crate) fn read(object: &Object<'_>) -> Self {
        let interface = |link: &Object<'_>| ResultInterface {
            name: link.string("name").unwrap_or_default().to_owned(),
            mac: link.string("mac").unwrap_or_default().to_owned(),
            mtu: link.number("mtu").filter(|mtu| *mtu != 0),
            sandbox: link.string("sandbox").unwrap_or_default().to_owned(),
            socket_path: link.string("socketPath").unwrap_or_default().to_owned(),
            pci_id: link.string("pciID").unwrap_or_default().to_owned(),
        };
        let ip = |entry: &Object<'_>| {
            Some(ResultIp {
                interface: entry.number("interface"),
                address: entry.parsed("address", "an address with prefix")?,
                gateway: entry.parsed("gateway", "an address"),
            })
        };
        let mut result = Self {
            interfaces: object.objects("interfaces").iter().map(interface).collect(),
            ips: object.objects("ips").iter().filter_map(ip).collect(),
            routes: routes(object),
            dns: object.object("dns").map(|found| dns(&found)).unwrap_or_default(),
        };
        // 0.1.0 and 0.2.0: one address a family.
        for old in ["ip4", "ip6"].iter().filter_map(|key| object.object(key)) {
            if let Some(address) = old.parsed("ip", "an address with prefix") {
                result.ips.push(ResultIp { interface: None, address, gateway: old.parsed("gateway", "an address") });
                result.routes.extend(routes(&old));
            }
        }
        result
    }

    /// The result in `version`'s shape.
    #[must_use]
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut map = Map::new();
        map.insert("cniVersion".to_owned(), json!(version.as_str()));
        if version < CniVersion::V0_3_0 {
            self.write_old(&mut map);
            return Value::Object(map);
        }
        let interfaces: Vec<Value> = self.interfaces.iter().map(|link| interface(link, version)).collect();
        insert_list(&mut map, "interfaces", interfaces);
        insert_list(&mut map, "ips", self.ips.iter().map(|ip| address(ip, version)).collect());
        insert_list(&mut map, "routes", self.routes.iter().map(route).collect());
        let dns = self.dns.to_json();
        // Below 1.0.0 Go prints structs, empty ones too; from 1.0.0 it makes a map of the result, and prints that by its keys.
        if version < CniVersion::V1_0_0 || dns != json!({}) {
            map.insert("dns".to_owned(), dns);
        }
        let mut result = Value::Object(map);
        if version >= CniVersion::V1_0_0 {
            result.sort_all_objects();
        }
        result
    }

    fn write_old(&self, map: &mut Map<String, Value>) {
        for (key, v4) in [("ip4", true), ("ip6", false)] {
            let Some(ip) = self.ips.iter().find(|ip| ip.address.addr().is_ipv4() == v4) else { continue };
            let mut old = Map::new();
            old.insert("ip".to_owned(), json!(ip.address.to_string()));
            if let Some(gateway) = ip.gateway {
                old.insert("gateway".to_owned(), json!(gateway.to_string()));
            }
            let family = self.routes.iter().filter(|route| route.dst.addr().is_ipv4() == v4);
            insert_list(&mut old, "routes", family.map(route).collect());
            map.insert(key.to_owned(), Value::Object(old));
        }
        map.insert("dns".to_owned(), self.dns.to_json());
    }
}

impl Dns {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        let texts = |list: &[String]| list.iter().map(|text| json!(text)).collect();
        insert_list(&mut map, "nameservers", texts(&self.nameservers));
        if !self.domain.is_empty() {
            map.insert("domain".to_owned(), json!(self.domain));
        }
        insert_list(&mut map, "search", texts(&self.search));
        insert_list(&mut map, "options", texts(&self.options));
        Value::Object(map)
    }
}

fn insert_list(map: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        map.insert(key.to_owned(), Value::Array(list));
    }
}

fn interface(link: &ResultInterface, version: CniVersion) -> Value {
    let mut map = Map::new();
    map.insert("name".to_owned(), json!(link.name));
    if !link.mac.is_empty() {
        map.insert("mac".to_owned(), json!(link.mac));
    }
    if let Some(mtu) = link.mtu.filter(|_| version >= CniVersion::V1_1_0) {
        map.insert("mtu".to_owned(), json!(mtu));
    }
    let late = |text: &String| if version >= CniVersion::V1_0_0 { text.clone() } else { String::new() };
    let texts =
        [("sandbox", link.sandbox.clone()), ("socketPath", late(&link.socket_path)), ("pciID", late(&link.pci_id))];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        map.insert(key.to_owned(), json!(text));
    }
    Value::Object(map)
}

fn address(ip: &ResultIp, version: CniVersion) -> Value {
    let mut map = Map::new();
    if version < CniVersion::V1_0_0 {
        map.insert("version".to_owned(), json!(if ip.address.addr().is_ipv4() { "4" } else { "6" }));
    }
    if let Some(interface) = ip.interface {
        map.insert("interface".to_owned(), json!(interface));
    }
    map.insert("address".to_owned(), json!(ip.address.to_string()));
    if let Some(gateway) = ip.gateway {
        map.insert("gateway".to_owned(), json!(gateway.to_string()));
    }
    Value::Object(map)
}

fn route(route: &Route) -> Value {
    let mut map = Map::new();
    map.insert("dst".to_owned(), json!(route.dst.to_string()));
    if let Some(gateway) = route.gw {
        map.insert("gw".to_owned(), json!(gateway.to_string()));
    }
    let numbers = [
        ("mtu", route.mtu),
        ("advmss", route.advmss),
        ("priority", route.priority),
        ("table", route.table),
        ("scope", route.scope),
    ];
    map.extend(numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), json!(number?)))));
    Value::Object(map)
}
