//! What netd knows from those who run containers: what a container is, and whether it still lives. How containerd is asked
//! is `containerd`'s; what a list may free is `census`'s.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use netd_kernel::Kernel;
use thiserror::Error;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::attachment::{Attachment, Description, LabelState, State};
use crate::census::{Census, concerns};
use crate::containerd::{CallError, Containerd, Happening, Origin, SOURCE};
use crate::lifecycle::{Lifecycle, LifecycleError};
use crate::owner::OwnerError;
use crate::turns::Gates;

/// An answer that takes longer than this is not worth an attach's time; kernel work goes on meanwhile.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Behind an attach there is more time. A round that has taken as long asks for no more.
const LOOK_UP_BEHIND: Duration = Duration::from_secs(5);
/// Labels that are not known so long after an attach are missed, and `status` says so.
pub const LABELS_DUE: Duration = Duration::from_secs(10);
/// Who says what a pod is where containerd does not have it before its network: netd-hook, or containerd's event.
const ANNOUNCED: &str = "nri";
/// How long to wait for containerd to come back, at first and at most. An absent one costs one `connect` each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The container runtimes of this node; cheap to clone. The default knows of none.
#[derive(Debug, Clone, Default)]
pub struct Runtime {
    containerd: Option<Containerd>,
    /// How long an attach waits for an answer.
    look_up: Duration,
    census: Arc<Census>,
    /// Whose labels were asked for last, of those that are pending.
    asked: Arc<Mutex<String>>,
    /// What is asked later about a container is recorded later.
    gates: Arc<Gates<String>>,
}

/// A question to containerd.
#[derive(Debug)]
pub struct Question {
    containerd: Containerd,
    patience: Duration,
    origin: Origin,
}

impl Runtime {
    /// containerd at `socket`; an empty one: none.
    #[must_use]
    pub fn new(socket: &str) -> Self {
        let containerd = (!socket.is_empty()).then(|| Containerd::new(Path::new(socket)));
        Self { containerd, look_up: LOOK_UP, ..Self::default() }
    }

    /// Whom to ask about a container that is being attached. `None`: nobody knows such containers.
    #[must_use]
    pub fn question(&self, container: &str, cni_args: &str) -> Option<Question> {
        let containerd = self.containerd.clone()?;
        let patience = self.look_up;
        Origin::of(container, cni_args).map(|origin| Question { containerd, patience, origin })
    }

    /// Takes a list of `source`; see [`Census`].
    pub fn hear(&self, source: &str, living: &BTreeSet<String>, attachments: &[Attachment]) {
        self.census.hear(source, living, attachments, Instant::now());
    }

    /// Asks containerd what lives, and frees what has been missing for long enough; and asks what those are whose labels
    /// are pending.
    ///
    /// # Errors
    /// See [`LifecycleError`]; the next time goes on. That containerd says nothing is no error: then nothing is freed.
    pub async fn look_around<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) -> Result<(), LifecycleError> {
        let attachments = lifecycle.owner.snapshot().await?.attachments;
        if let Some(containerd) = &self.containerd {
            self.look_up_pending(containerd, lifecycle).await?;
        }
        self.count(&attachments).await;
        for gone in self.census.overdue(&attachments, Instant::now()) {
            if lifecycle.sandbox_of(&gone).await.is_none() {
                info!(key = %gone.key, "its container is gone");
                lifecycle.bury(gone).await?;
            }
        }
        Ok(())
    }

    async fn count(&self, attachments: &[Attachment]) {
        let Some(containerd) = &self.containerd else { return };
        // A list asks every shim of the node.
        if !attachments.iter().any(|one| concerns(SOURCE, one)) {
            return;
        }
        match containerd.living().await {
            Ok(living) => self.hear(SOURCE, &living, attachments),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "containerd does not say what lives");
                self.hear(SOURCE, &BTreeSet::new(), attachments);
            }
        }
    }

    /// Follows containerd for ever: what it records is looked up, what ends is counted.
    pub async fn follow<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>) {
        let Some(containerd) = &self.containerd else { return };
        let mut wait = BACKOFF.0;
        loop {
            match self.follow_once(containerd, lifecycle, &mut wait).await {
                Ok(()) | Err(FollowError::Owner(OwnerError::Stopping)) => return,
                Err(FollowError::Owner(error)) => {
                    warn!(error = &error as &dyn std::error::Error, "labels not recorded; netd asks containerd again");
                }
                Err(FollowError::Call(error)) => {
                    debug!(error = &error as &dyn std::error::Error, "containerd's events: not now");
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn follow_once<K: Kernel + 'static>(
        &self,
        containerd: &Containerd,
        lifecycle: &Lifecycle<K>,
        wait: &mut Duration,
    ) -> Result<(), FollowError> {
        let mut events = containerd.events().await?;
        info!(socket = %containerd.socket().display(), "following containerd");
        *wait = BACKOFF.0;
        // What happened before is asked for; what happens meanwhile waits in the stream.
        self.look_up_pending(containerd, lifecycle).await?;
        loop {
            match events.next().await? {
                Happening::Recorded(ids) => {
                    for id in ids {
                        // Nobody else's events wait for a record that takes long.
                        if !self.look_up(containerd, lifecycle, &id, LOOK_UP).await? {
                            self.ask_again(lifecycle, &id);
                        }
                    }
                }
                Happening::Ended(ids) => self.recount(lifecycle, &ids).await?,
            }
        }
    }

    /// Asks again about a container whose record could not be had at once, until it is due. After that,
    /// [`Runtime::look_around`] asks from time to time.
    pub fn ask_again<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>, container: &str) {
        let Some(containerd) = self.containerd.clone() else { return };
        let (this, lifecycle, container) = (self.clone(), lifecycle.clone(), container.to_owned());
        tokio::spawn(async move {
            let (begin, mut wait) = (Instant::now(), BACKOFF.0);
            while begin.elapsed() < LABELS_DUE {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF.1);
                match this.look_up(&containerd, &lifecycle, &container, LOOK_UP_BEHIND).await {
                    Ok(true) => {}
                    Ok(false) => continue,
                    Err(_) => return,
                }
                match lifecycle.owner.of(container.clone()).await {
                    Ok(attachments) if attachments.iter().any(Attachment::is_pending) => {}
                    Ok(_) | Err(_) => return,
                }
            }
        });
    }

    /// Whoever it does not come to, because containerd is slow to speak of others, is the first to be asked for the next time.
    async fn look_up_pending<K: Kernel + 'static>(
        &self,
        containerd: &Containerd,
        lifecycle: &Lifecycle<K>,
    ) -> Result<(), OwnerError> {
        let attachments = lifecycle.owner.snapshot().await?.attachments;
        let pending = attachments.iter().filter(|one| one.is_pending());
        let pending: BTreeSet<&str> = pending.map(|one| one.key.container.as_str()).collect();
        let last = self.asked().clone();
        let begin = Instant::now();
        for container in from_behind(&pending, &last) {
            if begin.elapsed() >= LOOK_UP_BEHIND {
                break;
            }
            container.clone_into(&mut self.asked());
            self.look_up(containerd, lifecycle, container, LOOK_UP_BEHIND).await?;
        }
        Ok(())
    }

    fn asked(&self) -> MutexGuard<'_, String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Describes a container of ours by its record, which is new or has changed. Says whether containerd has answered within
    /// its `patience`.
    async fn look_up<K: Kernel + 'static>(
        &self,
        containerd: &Containerd,
        lifecycle: &Lifecycle<K>,
        container: &str,
        patience: Duration,
    ) -> Result<bool, OwnerError> {
        let attachments = lifecycle.owner.of(container.to_owned()).await?;
        // What NRI has said of a pod is more than the record says.
        let Some(state) = attachments.iter().map(|one| &one.label_state).find(|state| is_containerds(state)) else {
            return Ok(true);
        };
        let Some(origin) = Origin::of(container, "") else { return Ok(true) };
        let found = timeout(patience, async {
            let gate = self.gates.enter(&container.to_owned()).await;
            (gate, containerd.find(&origin).await)
        });
        let Ok((_gate, answer)) = found.await else { return Ok(false) };
        let said = match answer {
            Ok(Some(description)) => Some(description),
            // It was asked while containerd was away, and is another's.
            Ok(None)
                if !origin.is_certain() && matches!(state, LabelState::Pending { source, .. } if source == SOURCE) =>
            {
                Some(Description::default())
            }
            Ok(None) | Err(_) => None,
        };
        if let Some(description) = said {
            lifecycle.describe(container.to_owned(), description).await?;
        }
        Ok(true)
    }

    async fn recount<K: Kernel + 'static>(&self, lifecycle: &Lifecycle<K>, ids: &[String]) -> Result<(), OwnerError> {
        let attachments = lifecycle.owner.snapshot().await?.attachments;
        let concerned =
            |one: &Attachment| one.wiring.is_none() && ids.iter().any(|id| id == one.key.container.as_str());
        if attachments.iter().any(concerned) {
            self.count(&attachments).await;
        }
        Ok(())
    }
}

/// All of them, those behind `last` first.
fn from_behind<'a>(all: &BTreeSet<&'a str>, last: &str) -> impl Iterator<Item = &'a str> {
    let behind = all.range::<str, _>((Excluded(last), Unbounded));
    behind.chain(all.range::<str, _>((Unbounded, Included(last)))).copied()
}

#[derive(Debug, Error)]
enum FollowError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

impl Question {
    /// What is recorded while the answer is awaited.
    #[must_use]
    pub fn pending(&self, now: SystemTime) -> LabelState {
        pending(if is_announced(&self.origin) { ANNOUNCED } else { SOURCE }, now)
    }

    /// Asks, and waits no longer than is worth an attach's time.
    pub async fn ask(self) -> Description {
        let answer = timeout(self.patience, self.containerd.find(&self.origin)).await.unwrap_or(Err(CallError::Late));
        if let Err(error) = &answer {
            debug!(origin = ?self.origin, error = error as &dyn std::error::Error, "containerd does not say what it is");
        }
        conclude(&self.origin, answer, SystemTime::now())
    }
}

/// What an answer means. Whose record may still come, or could not be asked for, is pending.
fn conclude(origin: &Origin, answer: Result<Option<Description>, CallError>, now: SystemTime) -> Description {
    let state = match answer {
        Ok(Some(description)) => return description,
        Ok(None) | Err(_) if is_announced(origin) => pending(ANNOUNCED, now),
        // nerdctl's containers have their record before their network.
        Ok(None) if origin.is_certain() => pending(SOURCE, now),
        Ok(None) => LabelState::None,
        // No containerd here: what may be another runtime's is.
        Err(CallError::Connect(_)) if !origin.is_certain() => LabelState::None,
        Err(_) => pending(SOURCE, now),
    };
    Description { state, ..Description::default() }
}

fn is_announced(origin: &Origin) -> bool {
    matches!(origin, Origin::Pod { certain: true, .. })
}

fn is_containerds(state: &LabelState) -> bool {
    match state {
        LabelState::Pending { .. } => true,
        LabelState::Known { source } => source == SOURCE,
        LabelState::None => false,
    }
}

fn pending(source: &str, now: SystemTime) -> LabelState {
    LabelState::Pending { source: source.to_owned(), due: now + LABELS_DUE }
}

/// What `status` says of labels that should be known by `now`.
#[must_use]
pub fn missed(attachments: &[Attachment], now: SystemTime) -> Vec<String> {
    let missed = attachments.iter().filter_map(|one| match &one.label_state {
        LabelState::Pending { source, due } if one.state == State::Attached && *due < now => Some((one, source)),
        LabelState::Pending { .. } | LabelState::Known { .. } | LabelState::None => None,
    });
    let told = missed.map(|(one, source)| {
        let remedy = match source.as_str() {
            ANNOUNCED => "see that netd-hook runs and containerd's NRI is on",
            _ => "see that containerd answers at containerd_socket (netd.toml)",
        };
        let held_back = if one.quarantined { ", and it passes no packet until then" } else { "" };
        format!("the labels of {} are not known{held_back}: {source} has not said them; {remedy}", one.key)
    });
    told.collect()
}

#[cfg(test)]
mod tests;
