//! Other programs' firewalls, whose drops win over what our own tables accept: found, and where netd is told to, passed by one
//! marked jump each. The one place where netd writes into what is not its own.
//!
//! ```text
//! their chain ── jump, with our comment ─▶ our chain in their table: from our links ─▶ accept
//!                                          to our links, known or to a published port ─▶ accept
//! ```

mod firewall;
mod passage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netd_config::LinkName;
use netd_netlink::nft::{self, Family, ListedRule};
use netd_netlink::{NetlinkError, Socket};

pub use firewall::Firewall;
use firewall::{Anchor, Barrier, Chain};
use passage::{Ours, Table};

/// Where somebody else changes a table while we write, it is looked at again.
const LOOKS: usize = 4;

/// A chain of another program that drops what netd forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// Whose it is.
    pub firewall: Firewall,
    /// Of the table, as `nft` calls it: `ip`, `ip6`, `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// What becomes of packets from and to our links.
    pub passage: Passage,
}

/// What becomes of packets from and to our links at an obstacle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// It drops them, unless its owner was told otherwise.
    Closed,
    /// They pass, by a rule that we put there.
    Open,
    /// They were to pass, and the kernel said no.
    Refused(String),
}

/// Links of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum OurLink {
    /// A bridge.
    Bridge(LinkName),
    /// All whose names begin so.
    Beginning(String),
}

/// The way to other programs' tables, in the namespace that it was opened in.
#[derive(Debug)]
pub struct Coexistence {
    socket: Socket,
    instance: String,
}

impl Coexistence {
    /// Opens it in the calling thread's network namespace. The instance's own tables are nobody else's.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(instance: &str) -> io::Result<Self> {
        Ok(Self { socket: Socket::open_netfilter()?, instance: instance.to_owned() })
    }

    /// Looks for obstacles. What comes from and goes to `links` passes those that netd knows its way through; with `None`, what
    /// netd ever put there is taken away.
    ///
    /// # Errors
    /// The kernel cannot be asked. What it refuses to change is told with the obstacle.
    pub fn settle(&mut self, links: Option<&BTreeSet<OurLink>>) -> Result<Vec<Obstacle>, NetlinkError> {
        let ours = Ours::new(&self.instance, links);
        let (mut barriers, mut refusals) = self.attempt(&ours)?;
        for _ in 1..LOOKS {
            if refusals.is_empty() {
                break;
            }
            (barriers, refusals) = self.attempt(&ours)?;
        }
        Ok(barriers.into_iter().map(|barrier| told(barrier, &refusals, links.is_some())).collect())
    }

    fn attempt(&mut self, ours: &Ours<'_>) -> Result<(Vec<Barrier>, Refusals), NetlinkError> {
        let chains = self.chains()?;
        let barriers = firewall::barriers(&chains, &self.instance);
        let mut refusals = Refusals::new();
        for (family, name) in firewall::tables(&chains, &barriers, ours.chain()) {
            let wanted: Vec<&Anchor> = barriers
                .iter()
                .filter(|barrier| ours.is_wanted() && (barrier.family, &barrier.table) == (family, &name))
                .filter_map(|barrier| barrier.anchor)
                .collect();
            let table = self.table((family, name.clone()), &chains, ours);
            match table.and_then(|table| self.socket.transact(&passage::changes(&table, &wanted, ours))) {
                Ok(()) => {}
                Err(NetlinkError::Refused { source, .. }) => drop(refusals.insert((family, name), source.to_string())),
                Err(error) => return Err(error),
            }
        }
        Ok((barriers, refusals))
    }

    fn chains(&mut self) -> Result<Vec<Chain>, NetlinkError> {
        let mut chains = Vec::new();
        for family in firewall::FAMILIES {
            let bodies = self.socket.read_netfilter(&nft::get_chains(family), false)?;
            chains
                .extend(bodies.iter().filter_map(|body| nft::read_chain(body)).map(|listed| Chain { family, listed }));
        }
        Ok(chains)
    }

    /// What of ours is in a table.
    fn table(&mut self, at: (Family, String), chains: &[Chain], ours: &Ours<'_>) -> Result<Table, NetlinkError> {
        let (family, name) = at;
        let is_there = |chain: &str| {
            chains.iter().any(|one| (one.family, &one.listed.table) == (family, &name) && one.listed.name == chain)
        };
        let rules = if is_there(ours.chain()) { Some(self.rules(family, &name, ours.chain())?.len()) } else { None };
        let mut anchors = Vec::new();
        for anchor in firewall::anchors(family, &name).filter(|anchor| is_there(anchor.chain)) {
            anchors.push((anchor, self.rules(family, &name, anchor.chain)?));
        }
        Ok(Table { family, name, rules, anchors })
    }

    fn rules(&mut self, family: Family, table: &str, chain: &str) -> Result<Vec<ListedRule>, NetlinkError> {
        let bodies = self.socket.read_netfilter(&nft::get_chain_rules(family, table, chain), false)?;
        Ok(bodies.iter().filter_map(|body| nft::read_rule(body)).collect())
    }
}

/// What the kernel did not want changed, by table.
type Refusals = BTreeMap<(Family, String), String>;

fn told(barrier: Barrier, refusals: &Refusals, is_wanted: bool) -> Obstacle {
    let Barrier { firewall, family, table, chain, anchor } = barrier;
    let at = (family, table);
    let passage = match (anchor, refusals.get(&at)) {
        (Some(_), Some(refusal)) => Passage::Refused(refusal.clone()),
        (Some(_), None) if is_wanted => Passage::Open,
        (Some(_), None) | (None, _) => Passage::Closed,
    };
    Obstacle { firewall, family: firewall::name(family), table: at.1, chain, passage }
}
