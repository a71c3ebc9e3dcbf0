//! flannel's configuration ("net-conf") as a `[fleet]` of `netd.toml` that means the same. Pure but for its reading; it changes
//! nothing on the node. The keys are those of flannel's Documentation/configuration.md and backends.md (v0.28), read as
//! flanneld reads them: without regard to case, 0 for what is not said.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use netd_config::NodeConfig;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

/// Why there is no such section.
#[derive(Debug, Error)]
pub enum FlannelError {
    /// Nothing was read.
    #[error(
        "flannel's configuration is empty: does etcd have that key? It is /coreos.com/network/config, or what flanneld's \
         --etcd-prefix says"
    )]
    Empty,
    /// It is no JSON.
    #[error("cannot read flannel's configuration: it is one JSON object")]
    Json(#[from] serde_json::Error),
    /// A value is of another kind, or impossible.
    #[error("flannel's configuration says {}{}: it should be {wanted}", shown(value), of(key))]
    Value {
        /// With the key it lies below; empty: the whole document.
        key: String,
        /// What was read.
        value: String,
        /// What could have been.
        wanted: String,
    },
    /// The range of a family that is enabled is not said.
    #[error("flannel's configuration has no {0}: there is no range to share")]
    NoNetwork(&'static str),
    /// Both families are disabled.
    #[error("flannel's configuration enables neither IPv4 nor IPv6: there is nothing to share")]
    NoFamily,
    /// netd takes no such fleet.
    #[error("netd would not start with what flannel's configuration says: {0}")]
    Refused(String),
    /// netd has no such encapsulation.
    #[error(
        "netd has nothing like flannel's backend {0}: it neither encrypts nor asks a cloud for routes. Put \"vxlan\" there (for \
         host-gw: all hosts on one link) and translate it again; across a network that you do not trust, put the hosts on a VPN \
         and give its addresses in fleet.address"
    )]
    Backend(String),
}

/// No terminal obeys it.
fn shown(value: &str) -> String {
    let one = |letter: char| if letter.is_control() { letter.escape_unicode().to_string() } else { letter.into() };
    value.chars().map(one).collect()
}

fn of(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(" for {key}") }
}

/// The section, and what it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Translation {
    /// `[fleet]`, with the notes as comments.
    pub settings: String,
    /// What the section cannot say.
    pub notes: Vec<String>,
}

/// Keys of one family.
struct Family {
    network: &'static str,
    len: &'static str,
    min: &'static str,
    max: &'static str,
    example: &'static str,
    is_v4: bool,
    /// Prefix length of a node's subnet where none is said and the network is large enough.
    usual: u8,
}

const V4: Family = Family {
    network: "Network",
    len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    example: "10.244.0.0/16",
    is_v4: true,
    usual: 24,
};
const V6: Family = Family {
    network: "IPv6Network",
    len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    example: "fd04::/48",
    is_v4: false,
    usual: 64,
};
/// Those that mean something else than a pool.
const OTHERS: [&str; 4] = ["EnableIPv4", "EnableIPv6", "EnableNFTables", "Backend"];
/// A network holds four subnets at least.
const ROOM: u8 = 2;

/// `etcd`: endpoints for the section; none: a line to complete.
///
/// # Errors
/// It is no such configuration, or says what netd has nothing like.
pub fn translate(text: &str, etcd: &[String]) -> Result<Translation, FlannelError> {
    if text.trim().is_empty() {
        return Err(FlannelError::Empty);
    }
    let said = Said::read(serde_json::from_str(text)?, "")?;
    let families: Vec<&Family> = [(&V4, "EnableIPv4", true), (&V6, "EnableIPv6", false)]
        .into_iter()
        .filter_map(|(family, key, usual)| {
            said.flag(key).map(|is_on| is_on.unwrap_or(usual).then_some(family)).transpose()
        })
        .collect::<Result<_, _>>()?;
    if families.is_empty() {
        return Err(FlannelError::NoFamily);
    }
    let mut notes = Vec::new();
    let encapsulation = encapsulation(&said, &mut notes)?;
    let known = [&V4, &V6].into_iter().flat_map(|family| [family.network, family.len, family.min, family.max]);
    said.unknown(&known.chain(OTHERS).collect::<Vec<_>>(), &mut notes);
    let mut pools = String::new();
    for family in families {
        let mut pool = pool(&said, family)?;
        if !family.is_v4 && encapsulation.contains("ipip") {
            let instead = if encapsulation == "ipip" { "vxlan" } else { "cross-subnet" };
            notes.push(format!("IP in IP carries IPv4 only: {instead} for the IPv6 pool"));
            pool += &format!(", encapsulation = \"{instead}\"");
        }
        pools += &format!("    {{ {pool} }},\n");
    }
    let example = ["http://etcd:2379".to_owned()];
    let whole = settings(&pools, encapsulation, if etcd.is_empty() { &example } else { etcd }, &[]);
    NodeConfig::parse("netd.toml", &whole).map_err(|error| FlannelError::Refused(error.to_string()))?;
    Ok(Translation { settings: settings(&pools, encapsulation, etcd, &notes), notes })
}

fn settings(pools: &str, encapsulation: &str, etcd: &[String], notes: &[String]) -> String {
    let mut text = "# What flannel's configuration says, for /etc/netd/netd.toml: the same on every host.\n".to_owned();
    notes.iter().for_each(|note| text += &format!("# {note}.\n"));
    text += &format!("[fleet]\npools = [\n{pools}]\nencapsulation = \"{encapsulation}\"\n");
    if etcd.is_empty() {
        text += "# To be completed; flannel's etcd will do, since netd's keys lie under /netd:\n# etcd = [\"http://ADDRESS:2379\"]\n";
    } else {
        let etcd: Vec<String> = etcd.iter().map(|endpoint| toml::Value::from(endpoint.as_str()).to_string()).collect();
        text += &format!("etcd = [{}]\n", etcd.join(", "));
    }
    text
}

/// How packets get to other nodes.
fn encapsulation(said: &Said, notes: &mut Vec<String>) -> Result<&'static str, FlannelError> {
    let Some(backend) = said.value("Backend") else {
        notes.push("No Backend is said: its documents take that for vxlan, earlier flanneld for udp".to_owned());
        return Ok(vxlan(&Said::default(), notes)?.0);
    };
    let backend = Said::read(backend.clone(), "Backend.")?;
    let kind = backend.text("Type")?.unwrap_or_default();
    let (encapsulation, known) = match kind.to_ascii_lowercase().as_str() {
        "vxlan" => vxlan(&backend, notes)?,
        "host-gw" => ("direct", &["Type"][..]),
        "ipip" if backend.flag("DirectRouting")? == Some(true) => ("cross-subnet-ipip", &["Type", "DirectRouting"][..]),
        "ipip" => ("ipip", &["Type", "DirectRouting"][..]),
        _ => return Err(FlannelError::Backend(format!("{kind:?}"))),
    };
    backend.unknown(known, notes);
    Ok(encapsulation)
}

fn vxlan(backend: &Said, notes: &mut Vec<String>) -> Result<(&'static str, &'static [&'static str]), FlannelError> {
    // 0 stands for what is not said; 8472 is the kernel's own.
    let number = |key: &str, usual: u64| {
        Ok::<u64, FlannelError>(backend.number(key)?.filter(|said| *said != 0).unwrap_or(usual))
    };
    let (vni, port) = (number("VNI", 1)?, number("Port", 8472)?);
    notes.push(format!(
        "flannel: VNI {vni}, UDP port {port}. netd: a VNI of its own, UDP port 4789; let that pass between the hosts"
    ));
    if backend.flag("GBP")? == Some(true) {
        notes.push("GBP: netd's policies need no marks in packets, and netd sets none".to_owned());
    }
    let mode = if backend.flag("DirectRouting")? == Some(true) { "cross-subnet" } else { "vxlan" };
    // A MacPrefix is for Windows.
    Ok((mode, &["Type", "VNI", "Port", "GBP", "DirectRouting", "MacPrefix"]))
}

/// The keys of a pool's table.
fn pool(said: &Said, family: &Family) -> Result<String, FlannelError> {
    let wrong = |key: &str, value: &dyn ToString, wanted: String| FlannelError::Value {
        key: key.to_owned(),
        value: value.to_string(),
        wanted,
    };
    let text =
        said.text(family.network)?.filter(|text| !text.is_empty()).ok_or(FlannelError::NoNetwork(family.network))?;
    let range = text.parse::<IpNet>().ok().filter(|range| range.addr().is_ipv4() == family.is_v4);
    let range =
        range.ok_or_else(|| wrong(family.network, &text, format!("a range such as {}", family.example)))?.trunc();
    let (prefix, longest) = (range.prefix_len(), range.max_prefix_len() - ROOM);
    if prefix + ROOM > longest {
        return Err(wrong(family.network, &range, format!("a range of /{} or a larger one", longest - ROOM)));
    }
    let usual = family.usual.max(prefix + ROOM);
    let len = said.number(family.len)?.filter(|len| *len != 0);
    let block =
        len.map_or(Some(usual), |len| u8::try_from(len).ok()).filter(|len| (prefix + ROOM..=longest).contains(len));
    let block = block.ok_or_else(|| {
        wrong(family.len, &len.unwrap_or_default(), format!("{} to {longest}, for {range}", prefix + ROOM))
    })?;
    let end = |key: &str| {
        let Some(text) = said.text(key)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        let subnet = text.parse::<IpAddr>().ok().and_then(|address| IpNet::new(address, block).ok());
        let is_one = |subnet: &IpNet| range.contains(subnet) && subnet.trunc().addr() == subnet.addr();
        let wanted = || format!("the first address of a /{block} in {range}");
        subnet.filter(is_one).map(Some).ok_or_else(|| wrong(key, &text, wanted()))
    };
    let (min, max) = (end(family.min)?, end(family.max)?);
    if let (Some(min), Some(max)) = (min, max)
        && min.addr() > max.addr()
    {
        return Err(wrong(family.max, &max.addr(), format!("{} ({}) or a later address", min.addr(), family.min)));
    }
    let before = min.and_then(|min| before(min.network())).map(|last| between(range.network(), last));
    let behind = max.and_then(|max| behind(max.broadcast())).map(|first| between(first, range.broadcast()));
    let reserved: Vec<String> =
        before.into_iter().chain(behind).flatten().map(|range| format!("\"{range}\"")).collect();
    let mut pool = format!("range = \"{range}\", block = {block}");
    if !reserved.is_empty() {
        pool += &format!(", reserved = [{}]", reserved.join(", "));
    }
    Ok(pool)
}

/// As few ranges as there can be from the one address to the other; none where that is not behind it.
fn between(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            IpSubnets::from(Ipv4Subnets::new(first, last, 0)).collect()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            IpSubnets::from(Ipv6Subnets::new(first, last, 0)).collect()
        }
        _ => Vec::new(),
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_sub(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_sub(1)?).into()),
    }
}

fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into()),
        IpAddr::V6(v6) => Some(Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into()),
    }
}

/// An object of the document, its keys in small letters.
#[derive(Debug, Default)]
struct Said {
    place: &'static str,
    values: BTreeMap<String, (String, Value)>,
}

impl Said {
    fn read(value: Value, place: &'static str) -> Result<Self, FlannelError> {
        if let Value::Object(map) = value {
            let values = map.into_iter().filter(|(_, value)| !value.is_null());
            return Ok(Self {
                place,
                values: values.map(|(key, value)| (key.to_ascii_lowercase(), (key, value))).collect(),
            });
        }
        let (key, wanted) = (place.trim_end_matches('.').to_owned(), "an object".to_owned());
        Err(FlannelError::Value { key, value: value.to_string(), wanted })
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(&key.to_ascii_lowercase()).map(|(_, value)| value)
    }

    fn of<T>(&self, key: &str, wanted: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, FlannelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || FlannelError::Value {
            key: format!("{}{key}", self.place),
            value: value.to_string(),
            wanted: wanted.to_owned(),
        };
        read(value).map(Some).ok_or_else(wrong)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, FlannelError> {
        self.of(key, "true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<u64>, FlannelError> {
        self.of(key, "a number", Value::as_u64)
    }

    fn text(&self, key: &str) -> Result<Option<String>, FlannelError> {
        self.of(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn unknown(&self, known: &[&str], notes: &mut Vec<String>) {
        let is_known = |key: &String| known.iter().any(|one| one.eq_ignore_ascii_case(key));
        let unknown = self.values.iter().filter(|(key, _)| !is_known(key));
        notes.extend(
            unknown.map(|(_, (key, _))| {
                format!("{}{} has no meaning here and is left out", self.place, key.escape_debug())
            }),
        );
    }
}

#[cfg(test)]
mod tests;
