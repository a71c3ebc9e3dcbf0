//! `[fleet]` of `netd.toml`: ranges of addresses that nodes share, and how the nodes know each other. Which node owns which
//! block is netd-fleet's; what is wrong with a text is `mistakes`'.

mod mistakes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The fleet that this node is part of; without a pool, of none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Ranges that the nodes share. All nodes have the same.
    pub pools: Vec<PoolConfig>,
    /// The nodes find each other, and their blocks, on etcd.
    #[serde(deserialize_with = "etcd")]
    pub etcd: EtcdConfig,
    /// Or they are named here, on every node the same.
    pub nodes: BTreeMap<String, ListedNode>,
    /// What this node is called; empty: its host name.
    pub name: String,
    /// Where other nodes reach this one; empty: the address that it has towards them.
    pub address: Addresses,
    /// How packets get to other nodes, for pools that do not say it.
    pub encapsulation: Encapsulation,
    /// Of this node; pools choose by them.
    pub labels: BTreeMap<String, String>,
}

/// A range that nodes take blocks from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolConfig {
    /// What it is called; its range, where nothing else is said.
    pub name: String,
    /// All of its addresses.
    pub range: IpNet,
    /// Prefix length of a block.
    pub block: u8,
    /// How its packets get to other nodes; `None`: as the fleet's.
    pub encapsulation: Option<Encapsulation>,
    /// Addresses that are never given out.
    pub reserved: BTreeSet<IpNet>,
    /// Labels of the nodes that may use it; none: every node may.
    pub nodes: BTreeMap<String, String>,
    /// Name or range of the pool whose networks get addresses of this one where that one has none left.
    pub continues: Option<String>,
}

/// How packets get to other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// In VXLAN.
    #[default]
    Vxlan,
    /// In IP, protocol 4.
    Ipip,
    /// As they are: all nodes share a link, or its router knows the way.
    Direct,
    /// As they are to nodes on a link with this one, in VXLAN to others.
    CrossSubnet,
    /// As they are to nodes on a link with this one, in IP to others.
    CrossSubnetIpip,
}

/// Where etcd is, and how it lets us in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Its members; none: there is no etcd.
    pub endpoints: Vec<String>,
    /// Under this lies all that is the fleet's.
    pub prefix: String,
    /// PEM file of who certifies etcd; empty: no TLS.
    pub authority: String,
    /// PEM file of this node's certificate, where etcd wants one.
    pub certificate: String,
    /// PEM file of its key.
    pub key: String,
    /// A name, where etcd wants one.
    pub user: String,
    /// File of its password.
    pub password_file: String,
    /// A node that is silent for so long is no peer any more. Its blocks stay its own.
    pub lease_seconds: u64,
}

/// A node of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListedNode {
    /// Where it is reached.
    pub address: Addresses,
    /// Its blocks.
    #[serde(default)]
    pub blocks: BTreeSet<IpNet>,
}

/// One address, or a list of them: one of each family where pools of both are carried directly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Addresses(pub BTreeSet<IpAddr>);

impl FleetConfig {
    /// Whether this node is part of a fleet.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.pools.is_empty()
    }

    /// How packets of the pool get to other nodes.
    #[must_use]
    pub fn encapsulation_of(&self, pool: &PoolConfig) -> Encapsulation {
        pool.encapsulation.unwrap_or(self.encapsulation)
    }

    /// The pool of this name, or of this range.
    #[must_use]
    pub fn pool(&self, named: &str) -> Option<&PoolConfig> {
        let by_name = self.pools.iter().find(|pool| pool.name == named);
        by_name.or_else(|| self.pools.iter().find(|pool| pool.range.to_string() == named))
    }

    /// The pool that this one goes on from, if any.
    #[must_use]
    pub fn before(&self, pool: &PoolConfig) -> Option<&PoolConfig> {
        self.pool(pool.continues.as_deref()?)
    }

    /// The pools that this one goes on from, the nearest first. Each once, whatever the settings say.
    #[must_use]
    pub fn all_before<'a>(&'a self, pool: &'a PoolConfig) -> Vec<&'a PoolConfig> {
        let mut all = Vec::new();
        let mut next = self.before(pool);
        while let Some(before) = next.filter(|before| !all.contains(before)) {
            all.push(before);
            next = self.before(before);
        }
        all
    }
}

impl EtcdConfig {
    /// Where its members are, as far as their endpoints do not name them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().filter_map(|endpoint| literal(endpoint))
    }
}

/// The address in an endpoint, which may have a port.
fn literal(endpoint: &str) -> Option<IpAddr> {
    let host = endpoint.split_once("://")?.1.split('/').next()?;
    let with_port = host.parse::<SocketAddr>().ok().map(|address| address.ip());
    with_port.or_else(|| host.trim_start_matches('[').trim_end_matches(']').parse().ok())
}

impl Default for EtcdConfig {
    fn default() -> Self {
        let [authority, certificate, key, user, password_file] = Default::default();
        let (endpoints, prefix, lease_seconds) = (Vec::new(), "/netd".to_owned(), 10);
        Self { endpoints, prefix, authority, certificate, key, user, password_file, lease_seconds }
    }
}

/// A pool as a table. Its block's length depends on its range.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolTable {
    range: IpNet,
    name: Option<String>,
    block: Option<u8>,
    encapsulation: Option<Encapsulation>,
    #[serde(default)]
    reserved: BTreeSet<IpNet>,
    #[serde(default)]
    nodes: BTreeMap<String, String>,
    continues: Option<String>,
}

impl From<PoolTable> for PoolConfig {
    fn from(table: PoolTable) -> Self {
        let PoolTable { range, name, block, encapsulation, reserved, nodes, continues } = table;
        let usual = if range.addr().is_ipv4() { 26 } else { 122 };
        let name = name.unwrap_or_else(|| range.to_string());
        Self { name, range, block: block.unwrap_or(usual), encapsulation, reserved, nodes, continues }
    }
}

impl From<IpNet> for PoolConfig {
    fn from(range: IpNet) -> Self {
        let (name, block, encapsulation, reserved, nodes, continues) = Default::default();
        PoolTable { range, name, block, encapsulation, reserved, nodes, continues }.into()
    }
}

impl<'de> Deserialize<'de> for PoolConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pool;
        impl<'de> Visitor<'de> for Pool {
            type Value = PoolConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a range such as \"10.4.0.0/16\", or a table with one")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<PoolConfig, E> {
                let range = text.parse::<IpNet>();
                range.map(PoolConfig::from).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PoolConfig, A::Error> {
                PoolTable::deserialize(MapAccessDeserializer::new(map)).map(PoolConfig::from)
            }
        }
        deserializer.deserialize_any(Pool)
    }
}

/// A list of endpoints says it all where etcd lets everybody in.
fn etcd<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EtcdConfig, D::Error> {
    struct Etcd;
    impl<'de> Visitor<'de> for Etcd {
        type Value = EtcdConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of endpoints such as [\"http://192.0.2.1:2379\"], or a table with one")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EtcdConfig, A::Error> {
            let mut endpoints = Vec::new();
            while let Some(endpoint) = list.next_element()? {
                endpoints.push(endpoint);
            }
            Ok(EtcdConfig { endpoints, ..EtcdConfig::default() })
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EtcdConfig, A::Error> {
            EtcdConfig::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Etcd)
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Addresses;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"192.0.2.1\", or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Str(text), &self);
                let address: Option<IpAddr> =
                    Some(text).filter(|text| !text.is_empty()).map(str::parse).transpose().map_err(wrong)?;
                Ok(Addresses(address.into_iter().collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut addresses = BTreeSet::new();
                while let Some(address) = list.next_element()? {
                    addresses.insert(address);
                }
                Ok(Addresses(addresses))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

#[cfg(test)]
mod tests;
