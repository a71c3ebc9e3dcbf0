//! Halves of blocks go to nodes that lack one, and bridges answer for what went. Which half goes, and when, is `lend`'s.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use netd_config::LinkName;
use netd_kernel::Kernel;
use tracing::info;

use super::Inner;
use super::lend::{Offer, offers, unused};
use super::round::{RoundError, ripe};
use super::source::Source;
use crate::lifecycle::Lifecycle;
use crate::node::BlockUse;

impl Inner {
    /// Gives up a part of a block where another node lacks one, and this node can best do without.
    pub(super) async fn lend<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
        usage: &[BlockUse],
    ) -> Result<(), RoundError> {
        self.answer_for_parts(lifecycle).await?;
        if matches!(self.source, Source::List(_)) {
            return Ok(());
        }
        let (gifts, is_news) = self.gifts(usage, Instant::now());
        if is_news {
            self.say();
        }
        for Offer { block, keep } in gifts {
            if lifecycle.owner.narrow(block, keep).await? && self.source.keep(block, keep) {
                info!(%block, %keep, "gave up the rest for a node that has none");
            }
        }
        Ok(())
    }

    /// What goes now, and whether what this node offers is news.
    fn gifts(&self, usage: &[BlockUse], now: Instant) -> (Vec<Offer>, bool) {
        let state = &mut *self.state();
        let idle = ripe(&mut state.lending.idle_since, unused(usage), now);
        let offers = offers(usage, &idle, &state.peers);
        let said = offers.iter().map(|(pool, one)| (pool.clone(), one.keep.prefix_len())).collect();
        let is_news = state.lending.offers != said;
        state.lending.offers = said;
        (state.lending.gifts(&self.name, offers, &state.peers, now), is_news)
    }

    /// Sandboxes take what was given up of their block for their neighbours': the bridge answers for it.
    async fn answer_for_parts<K: Kernel + 'static>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle<K>,
    ) -> Result<(), RoundError> {
        let parts = self.share.borrow().parts.clone();
        if parts.is_empty() {
            return Ok(());
        }
        let snapshot = lifecycle.owner.snapshot().await?;
        let wirings = snapshot.attachments.iter().filter_map(|one| one.wiring.as_ref());
        let of_parts = wirings.filter(|wiring| wiring.gateways.iter().any(|one| parts.contains_key(&one.trunc())));
        let bridges: BTreeSet<LinkName> =
            of_parts.filter(|wiring| wiring.bridge.is_some()).map(|wiring| wiring.home().clone()).collect();
        let inner = Arc::clone(self);
        let answer = move || bridges.iter().try_for_each(|bridge| inner.underlay().answer_on(bridge));
        Ok(tokio::task::spawn_blocking(answer).await??)
    }
}
