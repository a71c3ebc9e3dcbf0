//! Which part of a block this node gives up for another that lacks one. Pure; whose the part is then, the fleet's protocol says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netd_fleet::{NodeName, NodeRecord, Peers, without};

use crate::node::BlockUse;

/// What all say is heard by all within this, and what was given up is claimed.
const HEARD_WITHIN: Duration = Duration::from_millis(700);
/// A part that was given up and that nobody takes: another is given up only after this.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);
/// Of what is kept, so much stays free: one of so many addresses, or more, before.
const PLENTY: u128 = 4;

/// A half of a block that could go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) block: IpNet,
    /// The other half.
    pub(super) keep: IpNet,
}

/// How it stands between those that lack blocks and those that have more than they use.
#[derive(Debug, Default)]
pub(super) struct Lending {
    /// Since when halves are unused.
    pub(super) idle_since: BTreeMap<IpNet, Instant>,
    /// What this node says that it could give up.
    pub(super) offers: BTreeMap<String, u8>,
    /// When to look again.
    pub(super) next: Option<Instant>,
    said: BTreeMap<String, (Said, Instant)>,
    gave: BTreeMap<String, Instant>,
}

/// Who lacks a block of a pool, and who could give up how much.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Said {
    lacking: BTreeSet<NodeName>,
    offers: BTreeSet<(u8, NodeName)>,
}

/// Halves that this node could do without.
pub(super) fn unused(usage: &[BlockUse]) -> BTreeSet<IpNet> {
    usage.iter().filter_map(spare).map(|(gone, _)| gone).collect()
}

fn spare(one: &BlockUse) -> Option<(IpNet, Offer)> {
    let keep = one.keep.filter(|_| !one.is_leaving && one.held.saturating_mul(PLENTY) <= one.size)?;
    let gone = without(one.part, &BTreeSet::from([keep])).first().copied()?;
    Some((gone, Offer { block: one.block, keep }))
}

/// Of each pool that a peer lacks a block of, the largest half that has been idle for long enough. None while there is a netd that
/// cannot read of it.
pub(super) fn offers(usage: &[BlockUse], idle: &[IpNet], peers: &Peers) -> BTreeMap<String, Offer> {
    let mut offers: BTreeMap<String, Offer> = BTreeMap::new();
    if peers.values().any(|peer| peer.lending.is_none()) {
        return offers;
    }
    for one in usage.iter().filter(|one| peers.values().any(|peer| is_lacking(peer, &one.pool))) {
        let Some((_, offer)) = spare(one).filter(|(gone, _)| idle.contains(gone)) else { continue };
        let best = offers.entry(one.pool.clone()).or_insert(offer);
        if offer.keep.prefix_len() < best.keep.prefix_len() {
            *best = offer;
        }
    }
    offers
}

impl Lending {
    /// What is to be given up now: by whoever offers most, the first by name, when nothing new was said for a while.
    pub(super) fn gifts(
        &mut self,
        me: &NodeName,
        offers: BTreeMap<String, Offer>,
        peers: &Peers,
        now: Instant,
    ) -> Vec<Offer> {
        self.said.retain(|pool, _| offers.contains_key(pool));
        self.gave.retain(|_, when| now.duration_since(*when) < TAKEN_WITHIN);
        self.next = None;
        let mut gifts = Vec::new();
        for (pool, offer) in offers {
            let said = said(&pool, peers, (offer.keep.prefix_len(), me.clone()));
            let is_best = said.offers.first().is_some_and(|(_, name)| name == me);
            let known = self.said.entry(pool.clone()).or_insert_with(|| (said.clone(), now));
            if known.0 != said {
                *known = (said, now);
            }
            let ripe = known.1 + HEARD_WITHIN;
            let ripe = self.gave.get(&pool).map_or(ripe, |when| ripe.max(*when + TAKEN_WITHIN));
            if is_best && ripe <= now {
                self.gave.insert(pool, now);
                gifts.push(offer);
            } else if is_best {
                self.next = Some(self.next.map_or(ripe, |next| next.min(ripe)));
            }
        }
        gifts
    }
}

fn said(pool: &str, peers: &Peers, own: (u8, NodeName)) -> Said {
    let lacking = peers.values().filter(|peer| is_lacking(peer, pool)).map(|peer| peer.name.clone());
    let offer = |peer: &NodeRecord| Some((*peer.lending.as_ref()?.offers.get(pool)?, peer.name.clone()));
    Said { lacking: lacking.collect(), offers: peers.values().filter_map(offer).chain([own]).collect() }
}

fn is_lacking(peer: &NodeRecord, pool: &str) -> bool {
    peer.lending.as_ref().is_some_and(|lending| lending.lacks.contains(pool))
}

#[cfg(test)]
mod tests;
