//! What stands on the way between two sandboxes of one node: nothing, netd's rules, or the same as linear iptables rules.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::probe::{Pair, is_refused};
use super::rules;
use super::town::Town;
use crate::network::Writing;

/// On the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The links and ways that netd made, and no table.
    Bare,
    /// netd, and so many rules of policies for the server.
    Netd(usize),
    /// No table of netd's, and so many rules in iptables.
    Linear(usize),
    /// This table in place of netd's.
    Table(&'static str),
}

impl Way {
    /// Rules of policies.
    pub(super) fn rules(self) -> usize {
        match self {
            Self::Bare | Self::Table(_) => 0,
            Self::Netd(rules) | Self::Linear(rules) => rules,
        }
    }
}

/// A pair of sandboxes, measured by turns.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) name: &'static str,
    pub(super) rules: usize,
    pub(super) pair: Pair,
    // Dropped last: the pair is attached there.
    _town: Town,
}

impl Course {
    /// Lays the way; fails where the pair may not talk, or may talk by a port that no rule allows.
    pub(super) fn new(program: &Path, name: &'static str, writing: Writing, way: Way) -> Result<Self> {
        let mut town = Town::new(program, writing)?;
        let (client, server) = (town.attach()?.address, town.attach()?.address);
        for (number, app) in ["client", "server"].iter().enumerate() {
            town.describe(number, "default", app)?;
        }
        let rules = way.rules();
        match way {
            Way::Bare => bare(&mut town)?,
            Way::Netd(0) => {}
            Way::Netd(rules) => {
                let texts = rules::pair(rules);
                town.load(&texts, texts.len())?;
            }
            Way::Linear(rules) => {
                bare(&mut town)?;
                read(&town, RESTORE, &rules::linear(rules, client, server))?;
            }
            Way::Table(text) => {
                bare(&mut town)?;
                read(&town, "nft -f", text)?;
            }
        }
        let [client, opposite] = <[_; 2]>::try_from(std::mem::take(&mut town.people)).ok().context("no pair")?;
        let closed = is_refused(&client.space, &opposite.space, server)?;
        ensure!(
            closed == (rules > 0),
            "{name}: a port that {rules} rules do not name is {}",
            if closed { "closed" } else { "open" }
        );
        let pair = Pair::new(client.space, &opposite.space, server);
        Ok(Self { name, rules, pair: pair.with_context(|| format!("{name}: the pair may not talk"))?, _town: town })
    }
}

/// Ends netd, and takes its tables away.
fn bare(town: &mut Town) -> Result<()> {
    town.end();
    town.node.delete_tables()
}

/// Gives a program rules to make.
fn read(town: &Town, program: &str, text: &str) -> Result<()> {
    let path = town.node.policies_dir().join("rules");
    fs::write(&path, text)?;
    town.node.space.output(&format!("{program} {}", path.display())).map(drop)
}

/// Debian's own: iptables as front of nftables.
pub(super) const RESTORE: &str = "iptables-nft-restore";
