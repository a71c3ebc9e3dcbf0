//! Sandboxes of one node, as policies of others select them: this node's are told, others' are heard, and an address is not
//! given to somebody else while anybody may take it for the one who had it. What is heard is made to hold in `receive`.
//!
//! ```text
//! owner: attachments ─┐                        ┌─▶ disk, owner: not for others ─▶ store
//! peers: their needs ─┴▶ records (pure) ───────┘
//! store, peers ─▶ believe (pure) ─▶ policies: in the kernel, flows cut ─▶ store: forgotten what was before
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use netd_config::ContainerId;
use netd_fleet::{Discovery, InstanceId, Needs, Peers, SandboxRecord, Told};
use netd_kernel::Kernel;
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use tracing::warn;

use super::source::Source;
use super::verify::Believed;
use super::{Fleet, Inner};
use crate::lifecycle::Lifecycle;
use crate::owner::{OwnerError, OwnerHandle};
use crate::policies::others::records;
use crate::whole_file::write_whole;

/// What comes within this is told, or heard, at once.
pub(super) const TOGETHER: Duration = Duration::from_millis(20);
/// What did not succeed is tried again after this.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// What a node needs is told for so long after it was heard of last: it comes back, as a rule, and nothing of its is cut then.
const NEEDED_FOR: Duration = Duration::from_mins(10);

/// Addresses that others were told of, each with the container and the telling that it was last in.
type Spoken = BTreeMap<IpAddr, (ContainerId, u64)>;

impl Fleet {
    /// What was known before netd's last end holds again, as far as it is not known better: ahead of policies and attaches.
    pub async fn recall<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) {
        let Some(inner) = &self.0 else { return };
        let Source::Store { .. } = &inner.source else { return };
        let believed: Believed = recalled(&inner.heard_file());
        let spoken: BTreeMap<IpAddr, ContainerId> = recalled(&inner.spoken_file());
        if let Err(error) = lifecycle.owner.spoken_for(spoken).await {
            warn!(error = &error as &dyn std::error::Error, "addresses that others know may be given to somebody else");
        }
        if let Err(error) = inner.meet(lifecycle, believed.sandboxes()).await {
            warn!(
                error = &error as &dyn std::error::Error,
                "other nodes' sandboxes are nobody until the store is heard"
            );
        }
    }

    /// What this node's sandboxes are may have changed.
    pub fn labels_changed(&self) {
        if let Some(inner) = &self.0 {
            inner.labels_changed.notify_one();
        }
    }

    /// Tells and hears for ever.
    pub async fn acquaint<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) {
        let Some(inner) = &self.0 else { return };
        match &inner.source {
            Source::List(_) => inner.say_what_a_list_lacks(lifecycle).await,
            Source::Store { fleet, .. } => {
                tokio::join!(
                    inner.tell_others(fleet, lifecycle),
                    inner.hear_others(fleet, lifecycle),
                    need(fleet, lifecycle)
                );
            }
        }
    }
}

async fn need<K: Kernel + 'static>(fleet: &netd_fleet::Fleet, lifecycle: &Lifecycle<K>) {
    let Some(mut needs) = lifecycle.policies.needs() else { return };
    loop {
        if let Some(needs) = needs.borrow_and_update().clone() {
            fleet.need(needs);
        }
        if needs.changed().await.is_err() {
            return;
        }
    }
}

/// What others need of this node.
#[derive(Default)]
struct Asked(BTreeMap<InstanceId, (Needs, Instant)>);

impl Asked {
    fn of(&mut self, peers: &Peers, now: Instant) -> Needs {
        let present = peers.values().filter_map(|peer| Some((peer.instance?, (peer.needs.clone()?, now))));
        self.0.extend(present);
        self.0.retain(|_, (_, seen)| now.duration_since(*seen) < NEEDED_FOR);
        self.0.values().fold(Needs::default(), |all, (needs, _)| all.and(needs))
    }
}

impl Inner {
    pub(super) fn heard_file(&self) -> PathBuf {
        self.run_dir.join("others.json")
    }

    /// In `state_dir`: others may believe it still when this host has been booted.
    fn spoken_file(&self) -> PathBuf {
        self.state_dir.join("spoken.json")
    }

    async fn say_what_a_list_lacks<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) {
        let Some(mut needs) = lifecycle.policies.needs() else { return };
        loop {
            self.state().is_unheard = needs.borrow_and_update().as_ref().is_some_and(|needs| needs.sandboxes);
            if needs.changed().await.is_err() {
                return;
            }
        }
    }

    async fn tell_others<K: Kernel + 'static>(&self, fleet: &netd_fleet::Fleet, lifecycle: &Lifecycle<K>) {
        let (mut told, mut peers, mut share) = (fleet.told(), fleet.follow(), self.share.subscribe());
        // Before the store is heard nobody knows who needs what: what it has of this node's is not to go for a moment.
        if fleet.heard().wait_for(|heard| heard.is_known).await.is_err() {
            return;
        }
        let mut suspects: BTreeMap<IpAddr, ContainerId> = recalled(&self.spoken_file());
        let mut spoken: Spoken = suspects.iter().map(|(at, container)| (*at, (container.clone(), 0))).collect();
        let (mut asked, mut last, mut number) = (Asked::default(), None, 0);
        loop {
            let needs = asked.of(&peers.borrow_and_update(), Instant::now());
            share.mark_unchanged();
            let now = told.borrow_and_update().clone();
            self.state().silent = now.as_ref().map(|told| told.silent.clone()).unwrap_or_default();
            match self.own(lifecycle, &needs).await {
                Ok(mut records) => {
                    number += u64::from(last.as_ref() != Some(&records));
                    let next = spoken_with(&spoken, (&records, number), now.as_ref());
                    let Some(anothers) = speak(&lifecycle.owner, &self.spoken_file(), &mut spoken, next).await else {
                        number -= u64::from(last.as_ref() != Some(&records));
                        sleep(AGAIN).await;
                        continue;
                    };
                    leave_out(&mut records, &anothers);
                    let by_text = records.iter().map(|(container, record)| (container.to_string(), record.clone()));
                    fleet.tell(number, by_text.collect(), std::mem::take(&mut suspects).into_keys().collect());
                    last = Some(records);
                }
                // netd is going down.
                Err(_) => return,
            }
            let ended = tokio::select! {
                () = self.labels_changed.notified() => false,
                done = told.changed() => done.is_err(),
                done = peers.changed() => done.is_err(),
                done = share.changed() => done.is_err(),
            };
            if ended {
                return;
            }
            sleep(TOGETHER).await;
        }
    }

    async fn own<K: Kernel + 'static>(
        &self,
        lifecycle: &Lifecycle<K>,
        needs: &Needs,
    ) -> Result<BTreeMap<ContainerId, SandboxRecord>, OwnerError> {
        if !needs.sandboxes {
            return Ok(BTreeMap::new());
        }
        let attachments = lifecycle.owner.snapshot().await?.attachments;
        let blocks = self.source.blocks();
        let is_own = |address| blocks.iter().any(|block| block.contains(&address));
        Ok(records(&attachments, &self.namespaces, (needs, is_own)))
    }
}

/// The addresses that others may know once they are told these records, of whom `told` says how far they are.
fn spoken_with(
    spoken: &Spoken,
    (records, number): (&BTreeMap<ContainerId, SandboxRecord>, u64),
    told: Option<&Told>,
) -> Spoken {
    let mut next = spoken.clone();
    for (container, record) in records {
        next.extend(record.addresses.keys().map(|address| (*address, (container.clone(), number))));
    }
    if let Some(told) = told {
        next.retain(|address, (_, last)| told.number <= *last || told.believed.contains(address));
    }
    next
}

/// Nobody else gets these addresses from before the first is told to when all have forgotten it, but who has one already:
/// those are returned. `None`: that cannot be made sure of, nothing may be told, and `spoken` is what it was.
async fn speak(owner: &OwnerHandle, path: &Path, spoken: &mut Spoken, next: Spoken) -> Option<BTreeSet<IpAddr>> {
    let (now, mut anothers) = (holders(&next), BTreeSet::new());
    if now != holders(spoken) {
        let (file, kept) = (path.to_owned(), now.clone());
        let written = tokio::task::spawn_blocking(move || write_whole(&file, &serde_json::to_vec(&kept)?)).await;
        if let Err(error) = written.map_err(io::Error::other).and_then(|done| done) {
            warn!(%error, path = %path.display(), "cannot write it: other nodes are told nothing new of this node's sandboxes; make it writable (state_dir in netd.toml)");
            return None;
        }
        anothers = owner.spoken_for(now).await.ok()?;
    }
    *spoken = next;
    Some(anothers)
}

/// Since the records were made, these addresses were given to somebody else.
fn leave_out(records: &mut BTreeMap<ContainerId, SandboxRecord>, anothers: &BTreeSet<IpAddr>) {
    for record in records.values_mut() {
        record.addresses.retain(|address, _| !anothers.contains(address));
    }
    records.retain(|_, record| !record.addresses.is_empty());
}

fn holders(spoken: &Spoken) -> BTreeMap<IpAddr, ContainerId> {
    spoken.iter().map(|(address, (container, _))| (*address, container.clone())).collect()
}

/// Nothing where there is nothing, or nothing that can be read.
fn recalled<T: DeserializeOwned + Default>(path: &Path) -> T {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => {
            warn!(path = %path.display(), %error, "cannot read it");
            return T::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        warn!(path = %path.display(), %error, "damaged, and left out");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::net::IpAddr;
    use std::path::Path;
    use std::time::Instant;

    use netd_config::ContainerId;
    use netd_fleet::{InstanceId, Needs, NodeName, NodeRecord, Peers, SandboxRecord};

    use super::{Asked, NEEDED_FOR, Spoken, holders, leave_out, recalled, speak};
    use crate::journal::Journal;
    use crate::node::tests::{WEB, wanted};
    use crate::node::{Attached, Node};
    use crate::owner::{self, OwnerHandle};

    fn owner(folder: &Path) -> OwnerHandle {
        let (journal, _) = Journal::open(&folder.join("journal"), "boot").unwrap();
        owner::start(Node::new("nd"), journal)
    }

    fn spoken(of: &[(&str, &str)]) -> Spoken {
        let one = |(at, of): &(&str, &str)| (at.parse().unwrap(), (ContainerId::new(*of).unwrap(), 1));
        of.iter().map(one).collect()
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_before_anything_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, path) = (owner(folder.path()), folder.path().join("spoken.json"));
        let written = || recalled::<BTreeMap<IpAddr, ContainerId>>(&path);
        let mut known = Spoken::new();
        for next in [spoken(&[("10.4.0.2", "a"), ("10.4.0.3", "b")]), spoken(&[("10.4.0.3", "b")])] {
            // Nothing takes the place of a directory.
            drop(fs::remove_file(&path));
            fs::create_dir(&path).unwrap();
            for _ in 0..2 {
                assert!(speak(&owner, &path, &mut known, next.clone()).await.is_none(), "told, with nothing on disk");
            }
            fs::remove_dir(&path).unwrap();
            assert_eq!(speak(&owner, &path, &mut known, next.clone()).await, Some(BTreeSet::new()));
            assert_eq!((written(), &known), (holders(&next), &next));
        }
    }

    /// What was gathered may be old when it is told.
    #[tokio::test]
    async fn an_address_that_another_has_by_now_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let (owner, path) = (owner(folder.path()), folder.path().join("spoken.json"));
        let heir = wanted(WEB, "heir", 1);
        let Attached::New { attachment, .. } = owner.attach(heir.clone()).await.unwrap() else {
            panic!("already there")
        };
        let address = attachment.leases[0].address.addr();
        let (text, free) = (address.to_string(), "10.4.0.77".parse().unwrap());
        let (mut known, mut records) = (Spoken::new(), BTreeMap::new());
        for (container, addresses) in [("old", vec![address]), ("other", vec![address, free])] {
            let addresses = addresses.into_iter().map(|address| (address, None)).collect();
            let record = SandboxRecord { addresses, ..SandboxRecord::default() };
            records.insert(ContainerId::new(container).unwrap(), record);
        }
        let old = spoken(&[(&text, "old")]);
        let anothers = speak(&owner, &path, &mut known, old.clone()).await.unwrap();
        leave_out(&mut records, &anothers);
        let left: Vec<_> =
            records.iter().map(|(of, record)| (of.as_str(), record.addresses.keys().collect())).collect();
        assert_eq!(left, [("other", vec![&free])]);
        assert_eq!(speak(&owner, &path, &mut known, spoken(&[(&text, "heir")])).await, Some(BTreeSet::new()));
        // Neither while it is about to be deleted.
        owner.drain(heir.key).await.unwrap();
        assert_eq!(speak(&owner, &path, &mut known, old).await, Some(BTreeSet::from([address])));
    }

    fn peer(name: &str, instance: u128, label: Option<&str>) -> (NodeName, NodeRecord) {
        let needs = label.map(|label| Needs { sandboxes: true, labels: keys(&[label]), ..Needs::default() });
        let text = serde_json::json!({
            "instance": InstanceId::new(instance), "name": name, "addresses": ["192.0.2.1"], "needs": needs,
        });
        (NodeName::new(name).unwrap(), serde_json::from_value(text).unwrap())
    }

    fn keys(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn told_is_what_any_node_asks_for_and_for_a_while_what_one_did_that_is_silent() {
        let (mut asked, begin) = (Asked::default(), Instant::now());
        let (a, b, old) = (peer("a", 1, Some("app")), peer("b", 2, Some("tier")), peer("c", 3, None));
        let both = Peers::from([a.clone(), b, old.clone()]);
        assert_eq!(asked.of(&Peers::from([old]), begin), Needs::default());
        assert_eq!(asked.of(&both, begin).labels, keys(&["app", "tier"]));
        let without = Peers::from([a]);
        assert_eq!(asked.of(&without, begin + NEEDED_FOR / 2).labels, keys(&["app", "tier"]));
        assert_eq!(asked.of(&without, begin + NEEDED_FOR).labels, keys(&["app"]));
        // Who is there and asks for nothing more is told nothing more.
        let changed = Peers::from([peer("a", 1, Some("team"))]);
        assert_eq!(asked.of(&changed, begin + NEEDED_FOR).labels, keys(&["team"]));
    }
}
