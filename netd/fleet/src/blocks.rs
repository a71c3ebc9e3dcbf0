//! What IPAM asks: the ranges to give addresses from, and more or fewer of them.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tokio::sync::watch;

use crate::decide::Wish;
use crate::etcd::Status;
use crate::identity::{ClaimId, InstanceId};
use crate::memory::Memory;
use crate::peers::publish;
use crate::plan::Pool;

/// A node's blocks. What is usable is so with or without the store.
#[derive(Debug, Clone)]
pub struct Blocks {
    memory: watch::Receiver<Memory>,
    wish: watch::Sender<Wish>,
    usable: watch::Receiver<Vec<IpNet>>,
}

impl Blocks {
    pub(crate) fn new(
        memory: watch::Receiver<Memory>,
        wish: watch::Sender<Wish>,
        status: watch::Receiver<Status>,
    ) -> Self {
        let usable = follow(memory.clone(), status);
        Self { memory, wish, usable }
    }

    /// Ranges to give addresses from, and every change of them.
    #[must_use]
    pub fn usable(&self) -> watch::Receiver<Vec<IpNet>> {
        self.usable.clone()
    }

    /// All that this node knows of the fleet.
    #[must_use]
    pub fn memory(&self) -> watch::Receiver<Memory> {
        self.memory.clone()
    }

    /// Asks for so many blocks of a pool in all. More are usable once they are confirmed; fewer give nothing up.
    pub fn want(&self, pool: &str, count: usize) {
        self.wish.send_modify(|wish| {
            wish.blocks.insert(pool.to_owned(), count);
        });
    }

    /// Gives a block up by its claim, and wants one of its pool less. No address of it may be in use, or be given out from now
    /// on.
    pub fn give_up(&self, claim: ClaimId) {
        let memory = self.memory.borrow().clone();
        let holding = memory.holdings.get(&claim);
        let plan = memory.charter.as_ref().map(|charter| &charter.plan);
        let pool = holding.and_then(|holding| plan?.pool_of(holding.block)).map(|pool| pool.name.clone());
        self.wish.send_modify(|wish| {
            if wish.give_up.insert(claim)
                && let Some(count) = pool.and_then(|pool| wish.blocks.get_mut(&pool))
            {
                *count = count.saturating_sub(1);
            }
        });
    }

    /// Gives up all of a claim but this part of it. No address of the rest may be in use, or be given out from now on.
    pub fn keep(&self, claim: ClaimId, part: IpNet) {
        self.wish.send_modify(|wish| {
            wish.keep.insert(claim, part);
        });
    }

    /// An operator's word that the fleet has one pool more, for good. One that does not fit beside those that it has is not added.
    pub fn add_pool(&self, pool: Pool) {
        self.wish.send_modify(|wish| {
            wish.add.retain(|known| known.name != pool.name);
            wish.add.push(pool);
        });
    }

    /// An operator's word that a witness is gone with what it remembers, where too few others are left to do without it. If the
    /// store was set back as well, what only the lost ones knew is forgotten, and may be given to two nodes.
    pub fn abandon(&self, witness: InstanceId) {
        self.wish.send_modify(|wish| {
            wish.abandon.insert(witness);
        });
    }

    /// An operator's word that a node is gone for good, with all that ran on it. Its blocks are free then, and the fleet remembers
    /// it: should the node come back, it gives up what it has and gets nothing, until its memory is removed as well.
    pub fn remove(&self, node: InstanceId) {
        self.wish.send_modify(|wish| {
            wish.remove.insert(node);
        });
    }

    /// These nodes are there: what was said of any of them to [`Self::remove`] or [`Self::abandon`] it, and is not done yet, is
    /// forgotten.
    pub fn forget_removals(&self, there: &BTreeSet<InstanceId>) {
        self.wish.send_if_modified(|wish| wish.forget_removals(there));
    }
}

fn follow(mut memory: watch::Receiver<Memory>, mut status: watch::Receiver<Status>) -> watch::Receiver<Vec<IpNet>> {
    let usable = watch::Sender::new(memory.borrow_and_update().usable());
    let followed = usable.subscribe();
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = memory.changed() => changed,
                changed = status.changed() => changed,
            };
            if changed.is_err() {
                break;
            }
            let is_shut = status.borrow_and_update().twin.is_some();
            let now = if is_shut { Vec::new() } else { memory.borrow_and_update().usable() };
            memory.mark_unchanged();
            publish(&usable, now);
        }
    });
    followed
}
