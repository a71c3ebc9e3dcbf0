//! Where work is done that blocks, or that is not to be cut off. On a caller's own thread it is done at once: nobody else
//! waits for that thread, and to have another woken, twice, takes longer than most of the work. What the work is, is its
//! asker's business.

use netd_api::is_on_a_callers_thread;
use tokio::task::{JoinError, spawn, spawn_blocking};

/// Does what blocks, off the threads that drive everybody's tasks.
///
/// # Errors
/// The worker died.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    if is_on_a_callers_thread() { Ok(work()) } else { spawn_blocking(work).await }
}

/// Finishes what is begun, though whoever waits for it goes away; from a caller's own thread nobody takes it. Of those who
/// wait, each has the work in memory once.
///
/// # Errors
/// The worker died.
pub(crate) fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> {
    let work = Box::pin(work);
    async { if is_on_a_callers_thread() { Ok(work.await) } else { spawn(work).await } }
}
