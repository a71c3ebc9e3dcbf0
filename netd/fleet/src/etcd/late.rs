//! Peers that the store did not tell of when this node came back to it. Where all were away for longer than their leases, the
//! first one to come back finds nobody: the others come, each in its turn, and what leads to them stays meanwhile.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::peers::{NodeRecord, Peers};

pub(super) struct Late {
    peers: Vec<NodeRecord>,
    until: Instant,
}

impl Late {
    /// `known` before this node came back; who has not come `until` then is gone.
    pub(super) fn new(known: &Peers, until: Instant) -> Self {
        Self { peers: known.values().cloned().collect(), until }
    }

    /// Those that may still come. `told`: by the store, by their names; whoever was told of once is known from there alone.
    pub(super) fn awaited(
        &mut self,
        told: &BTreeMap<String, NodeRecord>,
        now: Instant,
    ) -> impl Iterator<Item = &NodeRecord> {
        let is_over = now >= self.until;
        self.peers.retain(|peer| !is_over && !told.contains_key(peer.name.as_str()));
        self.peers.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Late;
    use crate::identity::NodeName;
    use crate::peers::NodeRecord;

    fn node(name: &str) -> NodeRecord {
        NodeRecord {
            instance: None,
            name: NodeName::new(name).unwrap(),
            addresses: BTreeSet::new(),
            blocks: BTreeSet::new(),
            encapsulations: BTreeSet::new(),
            accepts: BTreeSet::new(),
            mtu: None,
            labels: BTreeMap::new(),
            version: String::new(),
            needs: None,
        }
    }

    #[test]
    fn who_was_known_is_awaited_until_it_comes_or_the_time_is_over() {
        let known = ["a", "b"].map(|name| (NodeName::new(name).unwrap(), node(name))).into();
        let now = Instant::now();
        let end = now + Duration::from_secs(10);
        let mut late = Late::new(&known, end);
        let mut names = |told: &[&str], now| -> Vec<String> {
            let told = told.iter().map(|name| ((*name).to_owned(), node(name))).collect();
            late.awaited(&told, now).map(|peer| peer.name.to_string()).collect()
        };
        assert_eq!(names(&[], now), ["a", "b"]);
        assert_eq!(names(&["b", "c"], now), ["a"]);
        // It came and went: that is news of the store.
        assert_eq!(names(&["c"], now), ["a"]);
        assert_eq!(names(&["c"], end), Vec::<String>::new());
    }
}
