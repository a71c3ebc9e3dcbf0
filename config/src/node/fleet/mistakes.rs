//! What is wrong with a `[fleet]` that could be read: all of it, each with its key and what to write instead.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Encapsulation, FleetConfig, ListedNode, PoolConfig};
use crate::error::Mistake;
use crate::node::mistake;

/// Network, gateway, a sandbox and broadcast.
const LEAST_BITS: u8 = 2;

impl FleetConfig {
    pub(in crate::node) fn mistakes(&self) -> Vec<Mistake> {
        if *self == Self::default() {
            return Vec::new();
        }
        let pools = self.pools.iter().enumerate();
        let pools = pools.flat_map(|(at, pool)| self.of_pool(&format!("fleet.pools[{at}]"), pool));
        let listed = self.nodes.iter().flat_map(|(name, node)| self.of_listed(name, node));
        let all = self.of_source().into_iter().chain(self.of_name()).chain(pools).chain(self.overlaps());
        all.chain(listed).chain(self.shared_blocks()).chain(self.of_etcd()).chain(self.inside()).collect()
    }

    /// What is left of a pool is unreachable: a host whose own address lies there would reach no other.
    fn inside(&self) -> Vec<Mistake> {
        let own = self.address.0.iter().map(|address| ("fleet.address".to_owned(), *address));
        let of_nodes = self.nodes.iter().flat_map(|(name, node)| {
            node.address.0.iter().map(move |address| (format!("fleet.nodes.{name}.address"), *address))
        });
        let etcd = self.etcd.addresses().map(|address| ("fleet.etcd.endpoints".to_owned(), address));
        let pool_of = |address: &IpAddr| self.pools.iter().find(|pool| pool.range.contains(address));
        let wrong = |(key, address): (String, IpAddr)| {
            let range = pool_of(&address)?.range;
            Some(mistake(
                &key,
                format!(
                    "{address} lies in pool {range}, whose addresses are containers': no host would reach it; give fleet.pools a range that holds no address of the hosts' own networks"
                ),
            ))
        };
        own.chain(of_nodes).chain(etcd).filter_map(wrong).collect()
    }

    fn of_source(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.pools.is_empty() {
            mistakes.push(mistake(
                "fleet.pools",
                "none; name the range that the nodes share, such as pools = [\"10.4.0.0/16\"]".to_owned(),
            ));
        }
        match (self.etcd.endpoints.is_empty(), self.nodes.is_empty()) {
            (true, true) => mistakes.push(mistake(
                "fleet",
                "nobody says who the nodes are; add etcd = [\"http://ADDRESS:2379\"], or list them in fleet.nodes"
                    .to_owned(),
            )),
            (false, false) => mistakes.push(mistake(
                "fleet.nodes",
                "etcd says who the nodes are, and so does this list; remove one of the two".to_owned(),
            )),
            (true, false) | (false, true) => {}
        }
        mistakes
    }

    fn of_name(&self) -> Option<Mistake> {
        let name = &self.name;
        (!name.is_empty() && !is_node_name(name)).then(|| mistake("fleet.name", no_node_name(name)))
    }

    fn of_pool(&self, path: &str, pool: &PoolConfig) -> Vec<Mistake> {
        let PoolConfig { range, block, .. } = pool;
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message| mistakes.push(mistake(&format!("{path}{key}"), message));
        if range.trunc() != *range {
            wrong("", format!("{range} has bits beyond its prefix; write {}", range.trunc()));
        }
        let longest = range.max_prefix_len() - LEAST_BITS;
        if range.prefix_len() > longest {
            wrong("", format!("{range} is too small to be shared; use /{longest} or a larger one"));
        } else if !(range.prefix_len()..=longest).contains(block) {
            let shortest = range.prefix_len();
            wrong(".block", format!("blocks of /{block} do not fit in {range}; use {shortest} to {longest}"));
        }
        for reserved in pool.reserved.iter().filter(|reserved| !range.contains(*reserved)) {
            wrong(".reserved", format!("{reserved} is not in {range}; remove it or correct it"));
        }
        let is_ipip = matches!(self.encapsulation_of(pool), Encapsulation::Ipip | Encapsulation::CrossSubnetIpip);
        if is_ipip && range.addr().is_ipv6() {
            wrong(
                ".encapsulation",
                format!("IP in IP carries IPv4 only, and {range} is IPv6; use vxlan, direct or cross-subnet"),
            );
        }
        mistakes.extend(self.of_continued(path, pool));
        mistakes
    }

    /// A line of pools has a first one, and its addresses are of one family.
    fn of_continued(&self, path: &str, pool: &PoolConfig) -> Option<Mistake> {
        let named = pool.continues.as_deref()?;
        let wrong = |message| Some(mistake(&format!("{path}.continues"), message));
        let Some(before) = self.pool(named) else {
            let others = self.pools.iter().filter(|other| other.range != pool.range);
            let others: Vec<&str> = others.map(|other| other.name.as_str()).collect();
            let instead = if others.is_empty() { String::new() } else { format!("one of {}, or ", others.join(", ")) };
            return wrong(format!("there is no pool {named}; write {instead}no `continues`"));
        };
        if before.range.addr().is_ipv4() != pool.range.addr().is_ipv4() {
            return wrong(format!(
                "{} and {named} are not of one address family, and a network's addresses stay of its own; name a pool of the same",
                pool.range
            ));
        }
        if before == pool || self.all_before(pool).contains(&pool) {
            return wrong(format!(
                "{} would go on from itself, by way of {named}; remove it from the pool that is to be used first",
                pool.name
            ));
        }
        None
    }

    fn overlaps(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for (at, pool) in self.pools.iter().enumerate() {
            for other in &self.pools[..at] {
                let path = format!("fleet.pools[{at}]");
                if meet(pool.range, other.range) {
                    mistakes.push(mistake(
                        &path,
                        format!("{} and {} share addresses; make them disjoint", pool.range, other.range),
                    ));
                } else if pool.name == other.name {
                    let path = format!("{path}.name");
                    mistakes
                        .push(mistake(&path, format!("two pools are called {}; give each its own name", pool.name)));
                }
            }
        }
        mistakes
    }

    fn of_listed(&self, name: &str, node: &ListedNode) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message| mistakes.push(mistake(&format!("fleet.nodes.{name}{key}"), message));
        if !is_node_name(name) {
            wrong("", no_node_name(name));
        }
        if node.address.0.is_empty() {
            wrong(".address", "none; say where the other nodes reach it".to_owned());
        }
        for block in &node.blocks {
            if block.trunc() != *block {
                wrong(".blocks", format!("{block} has bits beyond its prefix; write {}", block.trunc()));
            } else if block.prefix_len() > block.max_prefix_len() - LEAST_BITS {
                let longest = block.max_prefix_len() - LEAST_BITS;
                wrong(".blocks", format!("{block} is too small; use /{longest} or a larger one"));
            } else if !self.pools.iter().any(|pool| pool.range.contains(block)) {
                wrong(".blocks", format!("{block} lies in no pool; correct it, or add its range to fleet.pools"));
            }
        }
        mistakes
    }

    /// Two nodes with one address are found out before either of them uses it.
    fn shared_blocks(&self) -> Vec<Mistake> {
        let blocks = || self.nodes.iter().flat_map(|(name, node)| node.blocks.iter().map(move |block| (name, *block)));
        let mut mistakes = Vec::new();
        for (at, (name, block)) in blocks().enumerate() {
            for (other, their) in blocks().take(at).filter(|(_, their)| meet(block, *their)) {
                let message = format!("{block} and {their} of {other} share addresses; give each node its own");
                mistakes.push(mistake(&format!("fleet.nodes.{name}.blocks"), message));
            }
        }
        mistakes
    }

    fn of_etcd(&self) -> Vec<Mistake> {
        let etcd = &self.etcd;
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, message: &str| {
            mistakes.push(mistake(&format!("fleet.etcd.{key}"), message.to_owned()));
        };
        if etcd.certificate.is_empty() != etcd.key.is_empty() {
            wrong("certificate", "a certificate and its key go together; name both files, or none");
        }
        if etcd.user.is_empty() != etcd.password_file.is_empty() {
            wrong("user", "a user and its password go together; name both user and password_file, or none");
        }
        if etcd.authority.is_empty() && etcd.endpoints.iter().any(|one| one.starts_with("https:")) {
            wrong("authority", "https needs it; name the PEM file of who certifies etcd");
        }
        if !etcd.prefix.starts_with('/') {
            wrong("prefix", "start it with /, as in \"/netd\"");
        }
        if etcd.lease_seconds < 2 {
            wrong("lease_seconds", "too short for a busy machine; use 2 or more");
        }
        mistakes
    }
}

fn is_node_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
}

fn no_node_name(name: &str) -> String {
    format!("{name:?} is no node name; use 1 to 63 letters, digits, '-' or '.', and a letter or digit first")
}

fn meet(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}
