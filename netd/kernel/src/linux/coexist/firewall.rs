//! Which chains of others would drop what netd forwards, whose they are, and where a rule of ours would let it pass. Pure.

use std::collections::BTreeSet;

use netd_netlink::nft::{Family, Hook, ListedChain};

/// Families in which somebody else may drop a forwarded packet.
pub(super) const FAMILIES: [Family; 3] = [Family::Inet, Family::Ipv4, Family::Ipv6];

/// Who makes chains that drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firewall {
    /// dockerd, by iptables.
    Docker,
    /// ufw.
    Ufw,
    /// firewalld, by nf_tables.
    Firewalld,
    /// Anybody else.
    Other,
}

/// How rules are written, so that those who made the table still can read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// What `iptables` and `iptables-save` can show; they misread anything else.
    Iptables,
    /// nf_tables' own.
    Native,
}

/// Where in the anchor's chain our rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// Behind what its owner and people put there: their drops win.
    Behind,
    /// Ahead of all: what follows drops.
    Ahead,
}

/// A chain of a known firewall through which a packet goes before it is dropped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) firewall: Firewall,
    pub(super) family: Family,
    pub(super) table: &'static str,
    pub(super) chain: &'static str,
    pub(super) spot: Spot,
    pub(super) dialect: Dialect,
}

const FIREWALLD: (&str, &str) = ("firewalld", "filter_FORWARD");

static ANCHORS: [Anchor; 5] = [
    by_iptables(Firewall::Docker, Family::Ipv4, "DOCKER-USER"),
    by_iptables(Firewall::Docker, Family::Ipv6, "DOCKER-USER"),
    by_iptables(Firewall::Ufw, Family::Ipv4, "ufw-before-forward"),
    by_iptables(Firewall::Ufw, Family::Ipv6, "ufw6-before-forward"),
    Anchor {
        firewall: Firewall::Firewalld,
        family: Family::Inet,
        table: FIREWALLD.0,
        chain: FIREWALLD.1,
        spot: Spot::Ahead,
        dialect: Dialect::Native,
    },
];

const fn by_iptables(firewall: Firewall, family: Family, chain: &'static str) -> Anchor {
    Anchor { firewall, family, table: "filter", chain, spot: Spot::Behind, dialect: Dialect::Iptables }
}

/// A chain, and the family that it was listed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: Family,
    pub(super) listed: ListedChain,
}

/// A base chain that drops, and how it could be passed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Barrier {
    pub(super) firewall: Firewall,
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) chain: String,
    /// `None`: netd does not know.
    pub(super) anchor: Option<&'static Anchor>,
}

/// As `nft` calls it.
pub(super) const fn name(family: Family) -> &'static str {
    match family {
        Family::Inet => "inet",
        Family::Ipv4 => "ip",
        Family::Bridge => "bridge",
        Family::Ipv6 => "ip6",
    }
}

/// Those of `instance` are its own. A chain that two firewalls share is told for each.
pub(super) fn barriers(chains: &[Chain], instance: &str) -> Vec<Barrier> {
    let mut barriers = Vec::new();
    for chain in chains.iter().filter(|chain| chain.listed.table != instance && drops(chain)) {
        let barrier = |firewall, anchor| Barrier {
            firewall,
            family: chain.family,
            table: chain.listed.table.clone(),
            chain: chain.listed.name.clone(),
            anchor,
        };
        let there = anchors(chain.family, &chain.listed.table).filter(|anchor| stands(anchor, chains));
        let before = barriers.len();
        barriers.extend(there.map(|anchor| barrier(anchor.firewall, Some(anchor))));
        if barriers.len() == before {
            barriers.push(barrier(Firewall::Other, None));
        }
    }
    barriers
}

/// By policy; firewalld's ends with a rule that does.
fn drops(chain: &Chain) -> bool {
    let ListedChain { table, name, base } = &chain.listed;
    let is_firewalld = chain.family == Family::Inet && (table.as_str(), name.as_str()) == FIREWALLD;
    base.is_some_and(|base| base.hook == Hook::Forward as u32 && (base.drops || is_firewalld))
}

fn stands(anchor: &Anchor, chains: &[Chain]) -> bool {
    let is_it = |chain: &Chain| {
        (chain.family, chain.listed.table.as_str(), chain.listed.name.as_str())
            == (anchor.family, anchor.table, anchor.chain)
    };
    chains.iter().any(is_it)
}

/// What may hold rules of ours in a table.
pub(super) fn anchors(family: Family, table: &str) -> impl Iterator<Item = &'static Anchor> {
    ANCHORS.iter().filter(move |anchor| anchor.family == family && anchor.table == table)
}

/// The tables that have something to change: a barrier to pass, or a chain of ours.
pub(super) fn tables(chains: &[Chain], barriers: &[Barrier], ours: &str) -> BTreeSet<(Family, String)> {
    let passable = barriers.iter().filter(|barrier| barrier.anchor.is_some());
    let passable = passable.map(|barrier| (barrier.family, barrier.table.clone()));
    let left = chains.iter().filter(|chain| chain.listed.name == ours);
    passable.chain(left.map(|chain| (chain.family, chain.listed.table.clone()))).collect()
}

#[cfg(test)]
mod tests;
