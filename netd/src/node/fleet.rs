//! What the fleet tells the node, and what the node tells it. Blocks come and go by records, like everything that lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::ContainerId;

use super::{BlockUse, Node, Share};
use crate::attachment::AttachmentKey;
use crate::journal::Record;

impl Node {
    /// Takes what this node may give addresses from. What is returned is still to be recorded.
    pub fn share(&mut self, share: Share) -> Vec<Record> {
        self.blocks.set(share);
        let settled = self.blocks.settled(&self.leases).into_iter();
        let forsaken = self.blocks.forsaken(&self.leases).into_iter();
        settled
            .map(|(block, network)| Record::Assigned(block, network))
            .chain(forsaken.map(Record::Unassigned))
            .collect()
    }

    /// How much of each block of this node is used.
    #[must_use]
    pub fn usage(&self) -> Vec<BlockUse> {
        self.blocks.usage(&self.leases)
    }

    /// Gives nothing out of a block any more, if nobody holds an address of it; what is returned is still to be recorded.
    /// `None`: somebody does.
    pub fn retire(&mut self, block: IpNet) -> Option<Vec<Record>> {
        let found = self.usage().into_iter().find(|one| one.block == block).filter(|one| one.held == 0)?;
        self.blocks.leave(block);
        Some(found.network.map(|_| Record::Unassigned(block)).into_iter().collect())
    }

    /// A block that was retired may be any network's.
    pub fn unretire(&mut self, block: IpNet) {
        self.blocks.stay(block);
    }

    /// Gives nothing out of a block any more but this half of what it has of it, if nobody holds an address of the other. Says
    /// whether that is so.
    pub fn narrow(&mut self, block: IpNet, keep: IpNet) -> bool {
        let is_idle = self.usage().iter().any(|one| one.block == block && one.keep == Some(keep) && !one.is_leaving);
        if is_idle {
            self.blocks.narrow(block, keep);
        }
        is_idle
    }

    /// Other nodes may take these addresses for these containers': nobody else gets them until this is said again. What
    /// is returned another container holds or drains: nobody may be told that it is theirs.
    pub fn spoken_for(&mut self, addresses: BTreeMap<IpAddr, ContainerId>) -> BTreeSet<IpAddr> {
        self.leases.speak(addresses)
    }

    /// Attachments with addresses of a pool that are not of this node's blocks: no other node sends there.
    pub fn strays(&self) -> impl Iterator<Item = (&AttachmentKey, IpAddr)> {
        let share = self.blocks.share();
        let leases = self.attachments.values().flat_map(|one| one.leases.iter().map(move |lease| (&one.key, lease)));
        let leases = leases.map(|(key, lease)| (key, lease.address.addr()));
        leases.filter(|(_, address)| share.pool_at(*address).is_some() && share.block_at(*address).is_none())
    }
}
