//! Other programs' firewalls on this node: looked at when they change, told in the status, and passed where the settings say
//! so. What is written is netd-kernel's; here is when, and for which links.

mod remedy;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netd_api::v1;
use netd_config::{self as config, LinkName};
use netd_kernel::{Coexistence, Firewall, NetlinkError, Obstacle, OurLink, Passage};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::attachment::{Attachment, Wiring};
use crate::blocking::blocking;

/// A firewall is loaded by many transactions: it is looked at when it has come to rest.
const REST: Duration = Duration::from_millis(20);
/// When to look again where the kernel could not be asked.
const AGAIN: Duration = Duration::from_secs(10);

/// The way to it; cheap to clone. The default looks at nothing.
#[derive(Debug, Clone, Default)]
pub struct Coexist(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    setting: config::Coexist,
    link_prefix: String,
    kernel: Mutex<Coexistence>,
    seen: Mutex<Seen>,
    stirred: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// Those that sandboxes were ever attached to.
    bridges: BTreeSet<LinkName>,
    obstacles: Vec<Obstacle>,
}

impl Coexist {
    /// Links that begin with `link_prefix`, and every bridge that is admitted, are ours.
    #[must_use]
    pub fn new(kernel: Coexistence, setting: config::Coexist, link_prefix: &str) -> Self {
        let (seen, stirred) = (Mutex::default(), Notify::new());
        let link_prefix = link_prefix.to_owned();
        Self(Some(Arc::new(Inner { setting, link_prefix, kernel: Mutex::new(kernel), seen, stirred })))
    }

    /// Somebody changed a table that is not ours.
    pub fn stir(&self) {
        if let Some(inner) = &self.0 {
            inner.stirred.notify_one();
        }
    }

    /// What the attachment sends and gets passes when this returns, as far as it can; at once for a bridge that is known.
    pub async fn admit(&self, attachment: &Attachment) {
        let bridge = attachment.wiring.as_ref().and_then(Wiring::shared_home);
        let (Some(inner), Some(bridge)) = (&self.0, bridge) else { return };
        let is_new = inner.seen().bridges.insert(bridge.clone());
        if is_new && inner.setting == config::Coexist::Insert && !self.settle().await {
            self.stir();
        }
    }

    /// Looks, and makes it so, with these bridges beside those that were admitted.
    pub async fn begin(&self, attachments: &[Attachment]) {
        let Some(inner) = &self.0 else { return };
        let bridges = attachments.iter().filter_map(|one| one.wiring.as_ref()?.shared_home().cloned());
        inner.seen().bridges.extend(bridges);
        if !self.settle().await {
            self.stir();
        }
    }

    /// Looks whenever somebody else changed something, and again where a look failed; for ever.
    pub async fn follow(&self) {
        let Some(inner) = &self.0 else { return std::future::pending().await };
        keep_looking(&inner.stirred, AGAIN, || self.settle()).await;
    }

    /// Says whether the kernel could be asked.
    async fn settle(&self) -> bool {
        let Some(inner) = self.0.clone() else { return true };
        match blocking(move || inner.settle()).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => unseen(&error),
            Err(error) => unseen(&error),
        }
        false
    }

    /// What was found, for people. Those of `bridges` that no sandbox was attached to yet are named too.
    #[must_use]
    pub fn firewalls(&self, bridges: BTreeSet<LinkName>) -> Vec<v1::Firewall> {
        let Some(inner) = &self.0 else { return Vec::new() };
        let seen = inner.seen();
        let links = inner.links(seen.bridges.iter().cloned().chain(bridges));
        seen.obstacles.iter().map(|obstacle| listed(obstacle, &links)).collect()
    }
}

impl Inner {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self, bridges: impl Iterator<Item = LinkName>) -> BTreeSet<OurLink> {
        bridges.map(OurLink::Bridge).chain([OurLink::Beginning(self.link_prefix.clone())]).collect()
    }

    fn settle(&self) -> Result<(), NetlinkError> {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        // Only now: whoever waited for the kernel has added his bridge.
        let links = self.links(self.seen().bridges.iter().cloned());
        let obstacles = kernel.settle((self.setting == config::Coexist::Insert).then_some(&links))?;
        let before = std::mem::replace(&mut self.seen().obstacles, obstacles.clone());
        for obstacle in obstacles.iter().filter(|obstacle| !before.contains(obstacle)) {
            report(obstacle, &links);
        }
        Ok(())
    }
}

async fn keep_looking<Look: Future<Output = bool>>(stirred: &Notify, again: Duration, mut look: impl FnMut() -> Look) {
    let mut has_looked = true;
    loop {
        if has_looked {
            stirred.notified().await;
        } else {
            drop(timeout(again, stirred.notified()).await);
        }
        sleep(REST).await;
        has_looked = look().await;
    }
}

fn unseen(error: &(dyn std::error::Error + 'static)) {
    warn!(error, "other firewalls not looked at; netd looks again soon");
}

fn report(obstacle: &Obstacle, links: &BTreeSet<OurLink>) {
    let v1::Firewall { name, chain, remedy, .. } = listed(obstacle, links);
    match obstacle.passage {
        Passage::Open => info!(name, chain, "another firewall drops by default; netd's rule lets containers pass"),
        Passage::Closed | Passage::Refused(_) => {
            warn!(name, chain, remedy, "another firewall drops what containers send")
        }
    }
}

fn listed(obstacle: &Obstacle, links: &BTreeSet<OurLink>) -> v1::Firewall {
    let name = match obstacle.firewall {
        Firewall::Docker => "docker",
        Firewall::Ufw => "ufw",
        Firewall::Firewalld => "firewalld",
        Firewall::Other => "",
    };
    v1::Firewall {
        name: name.to_owned(),
        chain: format!("{} {} {}", obstacle.family, obstacle.table, obstacle.chain),
        passes: obstacle.passage == Passage::Open,
        remedy: remedy::of(obstacle, links),
        ..v1::Firewall::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::keep_looking;

    /// Looks that fail until the third, with one reason to look.
    async fn looks(again: Duration, patience: Duration) -> u32 {
        let (stirred, count) = (Notify::new(), Cell::new(0));
        stirred.notify_one();
        let look = || {
            count.set(count.get() + 1);
            std::future::ready(count.get() >= 3)
        };
        drop(timeout(patience, keep_looking(&stirred, again, look)).await);
        count.get()
    }

    #[tokio::test]
    async fn a_look_that_failed_is_repeated_until_one_succeeds_and_then_no_more() {
        assert_eq!(looks(Duration::ZERO, Duration::from_secs(1)).await, 3);
        assert_eq!(looks(Duration::from_secs(60), Duration::from_millis(300)).await, 1, "it waits in between");
    }
}
