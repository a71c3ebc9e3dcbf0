//! Whether another node lives with this node's memory: a disk that was copied, and both copies started. Each would take the
//! other's record for its own, and both would give addresses of the same blocks.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// What an earlier netd of this node wrote, perhaps under another name, is gone with its lease. etcd may be late by half a
/// second, and keeps leases for their whole time again when it has a new leader.
const LEASES: u32 = 2;

/// What speaks for a twin, and for how long it has done so while this node had the store.
#[derive(Debug, Default)]
pub(super) struct Twin {
    /// Those that this process was granted.
    leases: BTreeSet<i64>,
    is_registered: bool,
    since: Option<Instant>,
    spent: Duration,
}

impl Twin {
    pub(super) fn granted(&mut self, lease: i64) {
        self.leases.insert(lease);
    }

    /// This node's name stands in the store, under a lease of this process.
    pub(super) fn registered(&mut self) {
        self.is_registered = true;
    }

    /// Whether a record with this node's instance is none of this process's. What stands under its own name when it starts is
    /// an earlier netd's.
    pub(super) fn wrote(&self, is_own_name: bool, lease: i64) -> bool {
        lease != 0 && !self.leases.contains(&lease) && (!is_own_name || self.is_registered)
    }

    /// The store has a record that a twin wrote, or none.
    pub(super) fn see(&mut self, is_there: bool, now: Instant) {
        match (is_there, self.since) {
            (true, None) => self.since = Some(now),
            (true, Some(_)) => {}
            (false, _) => (self.since, self.spent) = (None, Duration::ZERO),
        }
    }

    /// The session ended: for how long the store said so counts.
    pub(super) fn end(&mut self, now: Instant) {
        self.spent += self.since.take().map(|since| now.duration_since(since)).unwrap_or_default();
    }

    /// There may be one. Nothing is claimed or returned meanwhile: each would return what the other claims.
    pub(super) fn is_suspected(&self) -> bool {
        self.since.is_some()
    }

    /// There is one.
    pub(super) fn is_certain(&self, lease: Duration, now: Instant) -> bool {
        self.since.is_some_and(|since| self.spent + now.duration_since(since) > lease * LEASES)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Twin;

    const LEASE: Duration = Duration::from_secs(10);

    #[test]
    fn a_rename_and_a_restart_make_no_twin() {
        let mut twin = Twin::default();
        twin.granted(7);
        assert!(!twin.wrote(true, 3), "an earlier netd");
        assert!(twin.wrote(false, 3), "perhaps an earlier netd under another name");
        assert!(!twin.wrote(false, 0), "no node writes so");
        twin.registered();
        assert!(twin.wrote(true, 3) && !twin.wrote(true, 7));
        let begin = Instant::now();
        twin.see(true, begin);
        assert!(twin.is_suspected() && !twin.is_certain(LEASE, begin + LEASE * 2));
        twin.see(false, begin + LEASE);
        assert!(!twin.is_suspected() && !twin.is_certain(LEASE, begin + LEASE * 9));
    }

    #[test]
    fn only_time_with_the_store_counts_and_all_of_it() {
        let (mut twin, begin) = (Twin::default(), Instant::now());
        for session in [0, 10, 20] {
            assert!(!twin.is_certain(LEASE, begin + LEASE * session));
            twin.see(true, begin + LEASE * session);
            twin.see(true, begin + LEASE * session);
            twin.end(begin + LEASE * session + LEASE / 2);
        }
        let again = begin + LEASE * 30;
        assert!(!twin.is_certain(LEASE, again));
        twin.see(true, again);
        assert!(!twin.is_certain(LEASE, again + LEASE / 2) && twin.is_certain(LEASE, again + LEASE * 6 / 10));
    }
}
