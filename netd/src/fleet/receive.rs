//! What other nodes tell of their sandboxes is made to hold here: in the kernel, and in a note for the next netd. Who is believed
//! what is `verify`'s.

use std::fs;
use std::io;

use netd_fleet::Discovery;
use netd_kernel::Kernel;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Inner;
use super::announce::{AGAIN, TOGETHER};
use super::verify::{Believed, believe, strangers};
use crate::lifecycle::Lifecycle;
use crate::policies::PolicyError;
use crate::reply::chain;
use crate::whole_file::write_whole;

impl Inner {
    pub(super) async fn hear_others<K: Kernel + 'static>(&self, fleet: &netd_fleet::Fleet, lifecycle: &Lifecycle<K>) {
        let (mut heard, mut peers, mut usable) = (fleet.heard(), fleet.follow(), fleet.usable());
        let mut last: Option<Believed> = None;
        loop {
            let (now, there) = (heard.borrow_and_update().clone(), peers.borrow_and_update().clone());
            usable.mark_unchanged();
            // Before the store is heard, what was recalled holds.
            if now.is_known {
                let believed = believe(&there, &now);
                let held = self.hold(lifecycle, &believed, last.as_ref()).await;
                self.tell_unmet(held.as_ref().err());
                if held.is_err() {
                    sleep(AGAIN).await;
                    continue;
                }
                fleet.applied(&now);
                last = Some(believed);
            }
            let ended = tokio::select! {
                done = heard.changed() => done.is_err(),
                done = peers.changed() => done.is_err(),
                done = usable.changed() => done.is_err(),
            };
            if ended {
                return;
            }
            sleep(TOGETHER).await;
        }
    }

    /// It holds when this returns, and the next netd believes nothing older. The text is why not.
    async fn hold<K: Kernel + 'static>(
        &self,
        lifecycle: &Lifecycle<K>,
        believed: &Believed,
        before: Option<&Believed>,
    ) -> Result<(), String> {
        self.meet(lifecycle, believed).await.map_err(|error| chain(&error))?;
        let path = self.heard_file();
        self.keep(believed, before).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    fn tell_unmet(&self, why: Option<&String>) {
        let mut state = self.state();
        if state.unmet.as_ref() != why {
            match why {
                Some(why) => warn!(why, "what other nodes tell of their sandboxes does not hold; netd tries again"),
                None => info!("what other nodes tell of their sandboxes holds again"),
            }
        }
        state.unmet = why.cloned();
    }

    /// It holds when this returns, and what lost its permission is cut.
    pub(super) async fn meet<K: Kernel + 'static>(
        &self,
        lifecycle: &Lifecycle<K>,
        believed: &Believed,
    ) -> Result<(), PolicyError> {
        let strangers = strangers(&self.config.borrow(), &self.source.blocks());
        lifecycle.policies.meet(believed.sandboxes(), strangers).await
    }

    /// For the next netd of this boot; an error where something older may be left there.
    fn keep(&self, believed: &Believed, before: Option<&Believed>) -> io::Result<()> {
        if before == Some(believed) {
            return Ok(());
        }
        self.tell_disbelieved(&believed.refused);
        let path = self.heard_file();
        let written = serde_json::to_vec(believed).map_err(io::Error::other);
        let Err(error) = written.and_then(|text| write_whole(&path, &text)) else { return Ok(()) };
        warn!(%error, path = %path.display(), "cannot write it: other nodes' sandboxes are nobody for a moment when netd starts again");
        let gone = fs::remove_file(&path);
        gone.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
    }

    fn tell_disbelieved(&self, refused: &[String]) {
        let mut state = self.state();
        for text in refused.iter().filter(|text| !state.disbelieved.contains(text)) {
            warn!(text, "fleet");
        }
        state.disbelieved = refused.to_vec();
    }
}
