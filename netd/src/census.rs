//! Which attachments have outlived their containers, by what those say who run containers. Pure; times are arguments.
//!
//! A link dies with its sandbox, and netd hears of it from the kernel: nobody's list is needed, and none is heard. A list
//! frees only what has no link in the kernel (addresses for a foreign main plugin, ports alone), and only if
//! - whoever makes the list has described the attachment's container: it speaks of its own containers only;
//! - the container stayed out of every list for [`GRACE`], and none of them was empty or failed (a runtime that has just
//!   started knows nobody);
//! - and its namespace is not at its path any more, which the caller sees to: the namespace is the truth about a sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netd_kernel::NetnsId;

use crate::attachment::{Attachment, AttachmentKey, LabelState, State};

/// How long a container has to be missing. An attach comes before its container's task is in any list.
pub const GRACE: Duration = Duration::from_secs(60);

type Missing = BTreeMap<(AttachmentKey, NetnsId), Instant>;

/// Who is missing from whose list, and since when.
#[derive(Debug, Default)]
pub struct Census {
    missing: Mutex<BTreeMap<String, Missing>>,
}

impl Census {
    /// Takes the list of `source` at `now`: `living` are the CNI container ids that it knows to live. An empty list says
    /// nothing about any, not even what the one before said.
    pub fn hear(&self, source: &str, living: &BTreeSet<String>, attachments: &[Attachment], now: Instant) {
        let mut all = self.lock();
        let before = all.remove(source).unwrap_or_default();
        if living.is_empty() {
            return;
        }
        let unseen =
            attachments.iter().filter(|one| concerns(source, one) && !living.contains(one.key.container.as_str()));
        let unseen = unseen.map(|one| (one.key.clone(), one.netns));
        let missing = unseen.map(|id| (id.clone(), before.get(&id).copied().unwrap_or(now))).collect();
        all.insert(source.to_owned(), missing);
    }

    /// Those who have been missing long enough at `now`.
    #[must_use]
    pub fn overdue(&self, attachments: &[Attachment], now: Instant) -> Vec<Attachment> {
        let all = self.lock();
        let is_overdue = |one: &&Attachment| {
            let LabelState::Known { source } = &one.label_state else { return false };
            let since = all.get(source).and_then(|missing| missing.get(&(one.key.clone(), one.netns)));
            concerns(source, one) && since.is_some_and(|since| now.saturating_duration_since(*since) >= GRACE)
        };
        attachments.iter().filter(is_overdue).cloned().collect()
    }

    /// As if all who are missing had been so since `then`.
    #[cfg(test)]
    pub(crate) fn missing_since(&self, then: Instant) {
        self.lock().values_mut().flat_map(BTreeMap::values_mut).for_each(|since| *since = then);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Missing>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a list of `source` can free the attachment.
#[must_use]
pub fn concerns(source: &str, attachment: &Attachment) -> bool {
    let described = matches!(&attachment.label_state, LabelState::Known { source: by } if by == source);
    described && attachment.wiring.is_none() && attachment.state == State::Attached
}

#[cfg(test)]
mod tests;
