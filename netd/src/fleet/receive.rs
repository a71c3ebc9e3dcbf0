//! What other nodes tell of their sandboxes is made to hold here: in the kernel, and in a note for the next netd. Who is believed
//! what is `verify`'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use netd_fleet::{Discovery, Heard, Peers};
use netd_kernel::Kernel;
use netd_policy::{Sandbox, SandboxName};
use tokio::time::sleep;
use tracing::{info, warn};

use super::Inner;
use super::announce::{AGAIN, TOGETHER};
use super::verify::{Believed, believe, strangers};
use crate::blocking::blocking;
use crate::lifecycle::Lifecycle;
use crate::policies::PolicyError;
use crate::reply::chain;
use crate::whole_file::write_whole;

impl Inner {
    pub(super) async fn hear_others<K: Kernel + 'static>(&self, fleet: &netd_fleet::Fleet, lifecycle: &Lifecycle<K>) {
        let (mut heard, mut peers, mut usable) = (fleet.heard(), fleet.follow(), fleet.usable());
        let mut last: Option<Arc<Believed>> = None;
        loop {
            let (now, there) = (heard.borrow_and_update().clone(), peers.borrow_and_update().clone());
            usable.mark_unchanged();
            // Before the store is heard, what was recalled holds.
            if now.is_known {
                let held = self.hold(lifecycle, there, now.clone(), last.as_ref()).await;
                self.tell_unmet(held.as_ref().err());
                let Ok(believed) = held else {
                    sleep(AGAIN).await;
                    continue;
                };
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

    /// It holds when this returns, and the next netd believes nothing older. The text is why not. All that a fleet tells may be
    /// much: it is gone through where nobody else waits.
    async fn hold<K: Kernel + 'static>(
        &self,
        lifecycle: &Lifecycle<K>,
        peers: Peers,
        heard: Heard,
        before: Option<&Arc<Believed>>,
    ) -> Result<Arc<Believed>, String> {
        let told = blocking(move || {
            let believed = believe(&peers, &heard);
            (believed.sandboxes(), Arc::new(believed))
        });
        let (sandboxes, believed) = told.await.map_err(|error| chain(&error))?;
        self.meet(lifecycle, sandboxes).await.map_err(|error| chain(&error))?;
        if before != Some(&believed) {
            self.tell_disbelieved(&believed.refused);
            let (path, kept) = (self.heard_file(), Arc::clone(&believed));
            let done = blocking(move || keep(&path, &kept)).await.map_err(|error| chain(&error))?;
            done.map_err(|error| format!("cannot write {}: {error}", self.heard_file().display()))?;
        }
        Ok(believed)
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
        sandboxes: BTreeMap<SandboxName, Sandbox>,
    ) -> Result<(), PolicyError> {
        let strangers = strangers(&self.config.borrow(), &self.source.blocks());
        lifecycle.policies.meet(sandboxes, strangers).await
    }

    fn tell_disbelieved(&self, refused: &[String]) {
        let mut state = self.state();
        for text in refused.iter().filter(|text| !state.disbelieved.contains(text)) {
            warn!(text, "fleet");
        }
        state.disbelieved = refused.to_vec();
    }
}

/// For the next netd of this boot; an error where something older may be left there.
fn keep(path: &Path, believed: &Believed) -> io::Result<()> {
    let written = serde_json::to_vec(believed).map_err(io::Error::other);
    let Err(error) = written.and_then(|text| write_whole(path, &text)) else { return Ok(()) };
    warn!(%error, path = %path.display(), "cannot write it: other nodes' sandboxes are nobody for a moment when netd starts again");
    let gone = fs::remove_file(path);
    gone.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}
