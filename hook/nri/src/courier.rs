//! Carries the outbox's words to netd, on threads of its own: netd may be slow or away, the runtime is not kept waiting.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netd_api::blocking::{DescribeRequest, ReleaseRequest, ResyncRequest};
use netd_api::v1::FailureCode;
use netd_api::{CallError, Client, ConnectError, Tag, chain};
use thiserror::Error;

use crate::outbox::{Errand, Outbox, Outcome, Word};
use crate::pod::Pod;

/// Enough to keep netd busy after a start of containerd, few enough to leave it to others too.
const THREADS: usize = 4;
const SOURCE: &str = "nri";
/// Without news, how long a thread sleeps.
const IDLE: Duration = Duration::from_secs(3600);

/// netd has not taken a word.
#[derive(Debug, Error)]
enum CarryError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("netd cannot: {message}")]
    Failure { code: FailureCode, message: String },
}

impl CarryError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Connect(_) | Self::Call(CallError::Unanswered { .. }) => Outcome::Absent,
            // A newer netd may take its place.
            Self::Call(CallError::Refused { is_unknown: true, .. }) => Outcome::Refused,
            Self::Call(CallError::Refused { .. } | CallError::TooLong { .. } | CallError::Undecodable { .. }) => {
                Outcome::Rejected
            }
            Self::Failure { code, .. } if is_final(*code) => Outcome::Rejected,
            Self::Failure { .. } => Outcome::Refused,
        }
    }
}

/// The outbox, and the threads that empty it.
#[derive(Debug, Clone)]
pub struct Courier(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    outbox: Mutex<Outbox>,
    changed: Condvar,
    netd: PathBuf,
    /// Said once, not at every attempt.
    is_away: AtomicBool,
}

impl Courier {
    /// Starts the threads; netd listens on `netd`, or will.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(netd: &Path) -> std::io::Result<Self> {
        let outbox = Mutex::new(Outbox::default());
        let (changed, is_away) = (Condvar::new(), AtomicBool::new(false));
        let shared = Arc::new(Shared { outbox, changed, netd: netd.to_owned(), is_away });
        for number in 0..THREADS {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("courier-{number}")).spawn(move || shared.run())?;
        }
        Ok(Self(shared))
    }

    /// Changes the outbox.
    pub fn write<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let answer = change(&mut self.0.lock());
        self.0.changed.notify_all();
        answer
    }

    /// Tells netd of a pod that has started; the first attempt's end comes by the channel.
    pub fn ran(&self, pod: Pod) -> Receiver<Outcome> {
        let (listener, outcome) = sync_channel(1);
        self.write(|outbox| outbox.ran(pod, Instant::now(), listener));
        outcome
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let errand = self.next();
            let outcome = self.judge(&errand, carry(&self.netd, &errand));
            let left = self.lock().settle(&errand, &outcome, Instant::now());
            tracing::debug!(container = errand.container, ?outcome, left, "errand ended");
            self.changed.notify_all();
        }
    }

    /// What became of an errand, said to the log.
    fn judge(&self, errand: &Errand, carried: Result<(), CarryError>) -> Outcome {
        let sandbox = &errand.container;
        let outcome = carried.as_ref().map_or_else(CarryError::outcome, |()| Outcome::Told);
        let is_away = outcome == Outcome::Absent;
        let was_away = self.is_away.swap(is_away, Ordering::Relaxed);
        match carried {
            Ok(()) => {}
            Err(error) if is_away && was_away => tracing::debug!(sandbox, error = chain(&error), "netd is still away"),
            Err(error) => {
                tracing::warn!(sandbox, error = chain(&error), next = outcome.next(), "netd has not taken this")
            }
        }
        if was_away && !is_away {
            tracing::info!("netd answers again");
        }
        outcome
    }

    fn next(&self) -> Errand {
        let mut outbox = self.lock();
        loop {
            let now = Instant::now();
            if let Some(errand) = outbox.take(now) {
                return errand;
            }
            let wait = outbox.next_due().map_or(IDLE, |due| due.saturating_duration_since(now));
            outbox = self.changed.wait_timeout(outbox, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn carry(netd: &Path, errand: &Errand) -> Result<(), CarryError> {
    match &errand.word {
        Word::Describe(pod) => describe(netd, pod),
        Word::Release => release(netd, &errand.container),
        Word::Resync(living) => resync(netd, living),
    }
}

fn describe(netd: &Path, pod: &Pod) -> Result<(), CarryError> {
    let mut request = DescribeRequest::new();
    request.container_id.clone_from(&pod.id);
    request.name.clone_from(&pod.name);
    request.namespace.clone_from(&pod.namespace);
    request.labels = pod.labels.clone().into_iter().collect();
    request.annotations = pod.annotations.clone().into_iter().collect();
    SOURCE.clone_into(&mut request.source);
    // Opened for each attempt, never kept: an open descriptor would keep a dead sandbox's namespace alive.
    let netns = pod.netns.as_deref().and_then(|path| opened(pod, path).map(|file| (path, file)));
    if let Some((path, _)) = &netns {
        request.netns_path = path.display().to_string();
    }
    let descriptors: Vec<_> = netns.iter().map(|(_, file)| (Tag::SandboxNetns, file.as_fd())).collect();
    let response = Client::connect(netd, &descriptors)?.describe(&request)?;
    accepted(response.failure.code.enum_value(), &response.failure.message)?;
    tracing::info!(
        sandbox = pod.id,
        pod = format!("{}/{}", pod.namespace, pod.name),
        attachments = response.attachments,
        repaired = response.repaired,
        networks = ?response.networks,
        "described"
    );
    Ok(())
}

/// Without the namespace, netd still learns the labels.
fn opened(pod: &Pod, path: &Path) -> Option<File> {
    File::open(path)
        .inspect_err(|error| {
            tracing::warn!(sandbox = pod.id, path = %path.display(), %error, "cannot open the pod's network namespace");
        })
        .ok()
}

fn release(netd: &Path, container: &str) -> Result<(), CarryError> {
    let mut request = ReleaseRequest::new();
    container.clone_into(&mut request.container_id);
    SOURCE.clone_into(&mut request.source);
    let response = Client::connect(netd, &[])?.release(&request)?;
    accepted(response.failure.code.enum_value(), &response.failure.message)?;
    if response.removed > 0 {
        tracing::info!(sandbox = container, removed = response.removed, "released what its removal left attached");
    }
    Ok(())
}

fn resync(netd: &Path, living: &[String]) -> Result<(), CarryError> {
    let mut request = ResyncRequest::new();
    request.sandboxes = living.to_vec();
    SOURCE.clone_into(&mut request.source);
    let response = Client::connect(netd, &[])?.resync(&request)?;
    accepted(response.failure.code.enum_value(), &response.failure.message)?;
    tracing::info!(sandboxes = living.len(), steps = response.steps.len(), "resynced");
    Ok(())
}

/// A response without a failure has code 0.
fn accepted(code: Result<FailureCode, i32>, message: &str) -> Result<(), CarryError> {
    match code {
        Ok(FailureCode::FAILURE_CODE_UNSPECIFIED) if message.is_empty() => Ok(()),
        code => Err(CarryError::Failure { code: code.unwrap_or(FailureCode::INTERNAL), message: message.to_owned() }),
    }
}

/// Whether the same request can only ever get the same answer.
fn is_final(code: FailureCode) -> bool {
    match code {
        FailureCode::INCOMPATIBLE_VERSION
        | FailureCode::UNSUPPORTED_FIELD
        | FailureCode::BAD_ENVIRONMENT
        | FailureCode::UNDECODABLE
        | FailureCode::INVALID_CONFIG => true,
        // A namespace that cannot be used now is opened anew by the next attempt.
        FailureCode::INVALID_NETNS
        | FailureCode::UNKNOWN_SANDBOX
        | FailureCode::FAILURE_CODE_UNSPECIFIED
        | FailureCode::INPUT_OUTPUT
        | FailureCode::TRY_AGAIN
        | FailureCode::EXHAUSTED
        | FailureCode::CONFLICT
        | FailureCode::NOT_AVAILABLE
        | FailureCode::INTERNAL => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use netd_api::CallError;

    use super::CarryError;
    use crate::outbox::Outcome;

    #[test]
    fn only_a_netd_that_does_not_answer_is_away() {
        let (method, message) = ("Describe", String::new());
        let source = io::ErrorKind::UnexpectedEof.into();
        let refused = |is_unknown| CallError::Refused { method, message: message.clone(), is_unknown };
        let table = [
            (CallError::Unanswered { method, source }, Outcome::Absent),
            (refused(true), Outcome::Refused),
            (refused(false), Outcome::Rejected),
            (CallError::TooLong { method, length: 5 << 20 }, Outcome::Rejected),
        ];
        for (error, outcome) in table {
            let told = error.to_string();
            assert_eq!(CarryError::from(error).outcome(), outcome, "{told}");
        }
    }
}
