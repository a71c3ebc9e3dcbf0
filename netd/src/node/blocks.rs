//! Which network of this node uses which of its blocks, and what that means for who asks for an address. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{NetworkName, Range, StaticIpam};

use super::share::{self, BlockUse, Share, ShareError, SharedPool};
use crate::attachment::{AttachmentKey, Lease};
use crate::ipam::{Leases, Reserved};

/// This node's blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    share: Share,
    assigned: BTreeMap<IpNet, NetworkName>,
    /// Nothing is given out of them any more.
    leaving: BTreeSet<IpNet>,
    /// Of these nothing but a part is given out any more.
    narrowed: BTreeMap<IpNet, IpNet>,
}

/// Where an attachment gets its addresses.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// One address from each.
    pub(super) sets: Vec<Vec<Range>>,
    /// Blocks that are its network's from now on.
    pub(super) taken: BTreeSet<IpNet>,
}

/// Who asks, and what is known of the addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) key: &'a AttachmentKey,
    pub(super) leases: &'a Leases,
    pub(super) reserved: &'a Reserved,
    /// Addresses asked for.
    pub(super) requested: &'a [IpAddr],
}

impl Blocks {
    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// What is no longer this node's is not about to be given back either.
    pub(super) fn set(&mut self, share: Share) {
        self.leaving.retain(|block| share.blocks.contains_key(block));
        // What has become so is not to become so any more.
        let is_ahead = |block: &IpNet, keep: &IpNet| *keep != share.part(*block) && share.part(*block).contains(keep);
        self.narrowed.retain(|block, keep| share.blocks.contains_key(block) && is_ahead(block, keep));
        self.share = share;
        self.narrowed.iter().for_each(|(block, keep)| self.share.narrow(*block, *keep));
    }

    /// From now on nothing is given out of the block but this part.
    pub(super) fn narrow(&mut self, block: IpNet, keep: IpNet) {
        self.narrowed.insert(block, keep);
        self.share.narrow(block, keep);
    }

    pub(super) fn assign(&mut self, block: IpNet, network: NetworkName) {
        self.assigned.insert(block, network);
    }

    pub(super) fn unassign(&mut self, block: IpNet) {
        self.assigned.remove(&block);
    }

    pub(super) fn assigned(&self) -> impl Iterator<Item = (IpNet, &NetworkName)> {
        self.assigned.iter().map(|(block, network)| (*block, network))
    }

    /// From now on nothing is given out of the block.
    pub(super) fn leave(&mut self, block: IpNet) {
        self.leaving.insert(block);
    }

    /// It may be any network's.
    pub(super) fn stay(&mut self, block: IpNet) {
        self.leaving.remove(&block);
    }

    /// Blocks that are recorded as a network's, are not this node's any more, and have no holder.
    pub(super) fn forsaken(&self, leases: &Leases) -> Vec<IpNet> {
        let is_gone = |block: &IpNet| !self.share.blocks.contains_key(block) && held(leases, *block) == 0;
        self.assigned.keys().copied().filter(is_gone).collect()
    }

    /// Blocks of this node that are no network's, with the network that has addresses of them from before they were so.
    pub(super) fn settled(&self, leases: &Leases) -> BTreeMap<IpNet, NetworkName> {
        let mut settled = BTreeMap::new();
        for (key, address) in leases.holders() {
            if let Some(block) = self.share.block_at(address).filter(|block| !self.assigned.contains_key(block)) {
                settled.entry(block).or_insert_with(|| key.network.clone());
            }
        }
        settled
    }

    pub(super) fn usage(&self, leases: &Leases) -> Vec<BlockUse> {
        let of = |block: IpNet| {
            let pool = self.share.pool_at(block.addr());
            BlockUse {
                block,
                part: self.share.part(block),
                keep: pool.and_then(|pool| self.half(leases, pool, block)),
                pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
                network: self.assigned.get(&block).cloned(),
                is_leaving: self.leaving.contains(&block),
                size: share::size(&self.share.ranges(block)),
                held: held(leases, self.share.part(block)),
            }
        };
        self.share.blocks.keys().copied().map(of).collect()
    }

    /// The half of what is left of a block that the gateway and all that is held of it lie in; none where this node itself
    /// reserves most of it.
    fn half(&self, leases: &Leases, pool: &SharedPool, block: IpNet) -> Option<IpNet> {
        let part = self.share.part(block);
        let gateway = self.share.ranges(block).first().map(|range| range.gateway)?;
        let halves = part.subnets((part.prefix_len() + 1).min(pool.smallest)).into_iter().flatten();
        let keep = halves.into_iter().find(|half| half.contains(&gateway) && *half != part)?;
        let pieces = self.share.blocks.get(&block)?.iter().filter(|piece| share::meet(**piece, keep));
        let pieces: Vec<IpNet> = pieces.map(|piece| if piece.contains(&keep) { keep } else { *piece }).collect();
        let is_of_use = share::size(&share::ranges(block, &pieces)) * 2 > share::size(&share::ranges(block, &[keep]));
        (is_of_use && held(leases, keep) == held(leases, part)).then_some(keep)
    }

    /// Addresses of a pool come from the network's own blocks only; where those are full, from one more of this node's, of the
    /// pool or of one that continues it.
    pub(super) fn place(&self, asked: Asked<'_>, sets: &[Vec<Range>]) -> Result<Placed, ShareError> {
        let mut placed = Placed::default();
        let mut pools: Vec<&SharedPool> = Vec::new();
        for set in sets {
            let subnets: Vec<IpNet> = set.iter().map(|range| range.subnet).collect();
            let Some(pool) = self.share.pool_of(asked.key, &subnets)? else {
                placed.sets.push(set.clone());
                continue;
            };
            let line = self.share.line(pool);
            if line.iter().any(|pool| pools.contains(pool)) {
                let ranges = sets.iter().flatten().map(|range| range.subnet.to_string()).collect::<Vec<_>>().join(", ");
                return Err(ShareError::Mixed { key: Box::new(asked.key.clone()), pool: pool.name.clone(), ranges });
            }
            let (set, taken) = self.place_in(asked, pool, &line)?;
            pools.extend(line);
            placed.sets.push(set);
            placed.taken.extend(taken);
        }
        Ok(placed)
    }

    /// What the asker had comes first; then the pools in their order.
    fn place_in(
        &self,
        asked: Asked<'_>,
        first: &SharedPool,
        line: &[&SharedPool],
    ) -> Result<(Vec<Range>, Option<IpNet>), ShareError> {
        let own = |pool: &SharedPool| self.of_network(&asked.key.network, pool).into_iter();
        let is_in = |pool: &&SharedPool| asked.requested.iter().copied().find(|address| pool.range.contains(address));
        if let Some((pool, address)) = line.iter().find_map(|pool| Some((pool, is_in(pool)?))) {
            let taken = self.claim(asked.key, pool, address)?;
            return Ok((self.set_of(own(pool).chain(taken)), taken));
        }
        let Asked { key, leases, reserved, .. } = asked;
        let sets: Vec<Vec<Range>> = line.iter().map(|pool| self.set_of(own(pool))).collect();
        let known = sets.iter().find(|set| leases.has_again(key, set, reserved));
        if let Some(set) = known.or_else(|| sets.iter().find(|set| leases.has_for(key, set, reserved))) {
            return Ok((set.clone(), None));
        }
        let spent = line.iter().take_while(|pool| pool.is_spent).count();
        let mut open = line.iter().take(spent + 1);
        match open.find_map(|pool| self.free_for(asked, pool)) {
            Some(block) => Ok((self.set_of([block].into_iter()), Some(block))),
            None => Err(self.none_left(asked, first, line)),
        }
    }

    /// The address must be of a block that is the network's, or nobody's: then it is taken.
    fn claim(&self, key: &AttachmentKey, pool: &SharedPool, address: IpAddr) -> Result<Option<IpNet>, ShareError> {
        let may = |block: &IpNet| self.assigned.get(block).is_none_or(|network| *network == key.network);
        match self.share.block_at(address).filter(|block| !self.leaving.contains(block)).filter(may) {
            // For now nothing is given out of it.
            Some(block) if self.share.ranges(block).is_empty() => {
                let (key, remedy) = (Box::new(key.clone()), pool.remedy.clone());
                Err(ShareError::NoBlock {
                    key,
                    pool: pool.name.clone(),
                    remedy,
                    unforgotten: 0,
                    is_transient: pool.grows,
                })
            }
            Some(block) => Ok(Some(block).filter(|block| !self.assigned.contains_key(block))),
            None => {
                let mut blocks = self.of_network(&key.network, pool);
                blocks.extend(self.unassigned(pool));
                let (pool, blocks) = (pool.name.clone(), self.listed(&blocks));
                Err(ShareError::Beyond { key: Box::new(key.clone()), address, pool, blocks })
            }
        }
    }

    /// A network that names its addresses: of a pool, they must be of its own blocks, and have their prefix and gateway.
    pub(super) fn place_fixed(
        &self,
        key: &AttachmentKey,
        fixed: &StaticIpam,
    ) -> Result<(Vec<Lease>, BTreeSet<IpNet>), ShareError> {
        let (mut leases, mut taken) = (Vec::new(), BTreeSet::new());
        for (address, gateway) in &fixed.addresses {
            let mut lease = Lease { address: *address, gateway: *gateway };
            if let Some(pool) = self.share.pool_at(address.addr()) {
                taken.extend(self.claim(key, pool, address.addr())?);
                if let Some(block) = self.share.block_at(address.addr()) {
                    lease.address = IpNet::new(address.addr(), block.prefix_len()).unwrap_or(*address);
                    lease.gateway = self.share.ranges(block).first().map(|range| range.gateway);
                }
            }
            leases.push(lease);
        }
        Ok((leases, taken))
    }

    fn of_network(&self, network: &NetworkName, pool: &SharedPool) -> BTreeSet<IpNet> {
        let is = |block: &IpNet| {
            pool.range.contains(block) && self.assigned.get(block) == Some(network) && !self.leaving.contains(block)
        };
        self.share.blocks.keys().copied().filter(is).collect()
    }

    fn unassigned<'a>(&'a self, pool: &'a SharedPool) -> impl Iterator<Item = IpNet> + 'a {
        let is = |block: &IpNet| {
            pool.range.contains(block) && !self.assigned.contains_key(block) && !self.leaving.contains(block)
        };
        self.share.blocks.keys().copied().filter(is)
    }

    /// The block that the asker's last address is of; else one that nobody on another network might come back to.
    fn free_for(&self, asked: Asked<'_>, pool: &SharedPool) -> Option<IpNet> {
        let able = |block: &IpNet| asked.leases.has_for(asked.key, &self.share.ranges(*block), asked.reserved);
        let free: Vec<IpNet> = self.unassigned(pool).filter(able).collect();
        let held_by = |block: &IpNet, is: &dyn Fn(&AttachmentKey) -> bool| {
            asked.leases.remembered().any(|(key, addresses)| is(key) && addresses.iter().any(|one| block.contains(one)))
        };
        let own = free.iter().find(|block| held_by(block, &|key| key == asked.key));
        let networks = || free.iter().find(|block| held_by(block, &|key| key.network == asked.key.network));
        let nobodys = || free.iter().find(|block| !held_by(block, &|key| key.network != asked.key.network));
        own.or_else(networks).or_else(nobodys).or_else(|| free.first()).copied()
    }

    fn set_of(&self, blocks: impl Iterator<Item = IpNet>) -> Vec<Range> {
        blocks.flat_map(|block| self.share.ranges(block)).collect()
    }

    /// What of these blocks is this node's, for people.
    fn listed(&self, blocks: &BTreeSet<IpNet>) -> String {
        share::listed(&blocks.iter().map(|block| self.share.part(*block)).collect())
    }

    /// Of the pool that is in use now, where one is; else of the last that may grow.
    fn none_left(&self, asked: Asked<'_>, first: &SharedPool, line: &[&SharedPool]) -> ShareError {
        let in_use = line.iter().find(|pool| !pool.is_spent).or_else(|| line.iter().rfind(|pool| pool.grows));
        let pool = in_use.copied().unwrap_or(first);
        let own: BTreeSet<IpNet> = line.iter().flat_map(|pool| self.of_network(&asked.key.network, pool)).collect();
        let (key, is_transient, remedy) = (Box::new(asked.key.clone()), pool.grows, pool.remedy.clone());
        let unassigned = line.iter().flat_map(|pool| self.unassigned(pool));
        let blocks: BTreeSet<IpNet> = own.iter().copied().chain(unassigned).collect();
        let is_here = |address: &IpAddr| blocks.iter().any(|block| block.contains(address));
        let unforgotten = asked.leases.spoken().filter(is_here).count();
        let pool = pool.name.clone();
        if self.set_of(own.iter().copied()).is_empty() {
            return ShareError::NoBlock { key, pool, remedy, unforgotten, is_transient };
        }
        ShareError::Full { key, pool, blocks: self.listed(&own), remedy, unforgotten, is_transient }
    }
}

fn held(leases: &Leases, block: IpNet) -> u128 {
    leases.holders().filter(|(_, address)| block.contains(address)).count() as u128
        + leases.spoken().filter(|address| block.contains(address)).count() as u128
}

#[cfg(test)]
mod tests;
