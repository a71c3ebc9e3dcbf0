//! Which addresses were whose last. Pure; a wish, never a hold: who holds what is `ipam`'s.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use netd_config::NetworkName;

use super::add;
use crate::attachment::AttachmentKey;

/// Keys whose last addresses are remembered; the oldest is forgotten first.
pub(super) const MOST: usize = 4_096;

/// The last addresses of those who hold none.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    of: BTreeMap<AttachmentKey, Vec<IpAddr>>,
    order: VecDeque<AttachmentKey>,
    wanted: BTreeMap<NetworkName, BTreeMap<IpAddr, usize>>,
}

impl Sticky {
    /// `key` held `address` last.
    pub(super) fn remember(&mut self, key: &AttachmentKey, address: IpAddr) {
        if !self.of.contains_key(key) {
            self.order.push_back(key.clone());
        }
        if add(self.of.entry(key.clone()).or_default(), address) {
            *self.wanted.entry(key.network.clone()).or_default().entry(address).or_default() += 1;
        }
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.take(&oldest);
        }
    }

    /// `key` holds addresses again.
    pub(super) fn forget(&mut self, key: &AttachmentKey) {
        if self.take(key) {
            self.order.retain(|remembered| remembered != key);
        }
    }

    /// The last addresses of `key`.
    pub(super) fn of(&self, key: &AttachmentKey) -> impl Iterator<Item = IpAddr> {
        self.of.get(key).into_iter().flatten().copied()
    }

    /// Whether anybody might come back for the address.
    pub(super) fn is_wanted(&self, network: &NetworkName, address: IpAddr) -> bool {
        self.wanted.get(network).is_some_and(|wanted| wanted.contains_key(&address))
    }

    /// Whose addresses are remembered, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&AttachmentKey, &[IpAddr])> {
        self.order.iter().filter_map(|key| Some((key, self.of.get(key)?.as_slice())))
    }

    fn take(&mut self, key: &AttachmentKey) -> bool {
        let Some(addresses) = self.of.remove(key) else { return false };
        let Some(wanted) = self.wanted.get_mut(&key.network) else { return true };
        for address in addresses {
            if let Some(count) = wanted.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    wanted.remove(&address);
                }
            }
        }
        if wanted.is_empty() {
            self.wanted.remove(&key.network);
        }
        true
    }
}
