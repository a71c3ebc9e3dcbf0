//! The service manager's watchdog: pinged only while decisions are made, so that a hung netd is restarted. It measures
//! the owner alone; a slow kernel is no reason to kill netd.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::owner::OwnerHandle;

/// Pings for as long as the owner answers. Does nothing where no watchdog is asked for.
pub fn start(owner: OwnerHandle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let alive = move || {
        let owner = owner.clone();
        async move { owner.tally().await.is_ok() }
    };
    tokio::spawn(watch(limit, alive, || drop(sd_notify::notify(&[NotifyState::Watchdog]))));
}

/// Asks every third of `limit`, so that one late answer does not use it up.
async fn watch<F: Future<Output = bool>>(limit: Duration, alive: impl Fn() -> F, mut ping: impl FnMut()) {
    let every = limit / 3;
    loop {
        if timeout(every, alive()).await.unwrap_or(false) {
            ping();
        } else {
            warn!("the owner of the node does not answer; the service manager restarts netd if that goes on");
        }
        sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::Duration;

    use super::watch;

    #[tokio::test]
    async fn a_ping_needs_an_answer() {
        let (pings, hung) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let alive = {
            let hung = Arc::clone(&hung);
            move || {
                let hung = hung.load(Ordering::SeqCst);
                async move { if hung { std::future::pending().await } else { true } }
            }
        };
        let counted = Arc::clone(&pings);
        let watching = tokio::spawn(watch(Duration::from_millis(30), alive, move || {
            counted.fetch_add(1, Ordering::SeqCst);
        }));
        while pings.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hung.store(true, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let before = pings.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(pings.load(Ordering::SeqCst), before, "pinged without an answer");
        watching.abort();
    }

    #[tokio::test]
    async fn no_ping_after_the_owner_went() {
        let pings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&pings);
        let never = watch(
            Duration::from_millis(15),
            || async { false },
            move || {
                counted.fetch_add(1, Ordering::SeqCst);
            },
        );
        assert!(tokio::time::timeout(Duration::from_millis(60), never).await.is_err());
        assert_eq!(pings.load(Ordering::SeqCst), 0);
    }
}
