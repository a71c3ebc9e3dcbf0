//! How many calls are worked on at a time. What a call is, is not looked at.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The kernel changes links one at a time: of more calls than this the others would only wait for it, each with all that it
/// works with in memory.
const AT_ONCE: usize = 8;
/// Who has waited for so long goes ahead: those before him may wait for something else than the kernel, even for him.
const PATIENCE: Duration = Duration::from_millis(100);

/// Places for calls that are worked on.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Places);

impl Places {
    /// Waits for a place, but not for long.
    pub(super) fn take(&self) -> Place<'_> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(taken, PATIENCE, |taken| *taken >= AT_ONCE);
        let (mut taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *taken += 1;
        Place(self)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::{AT_ONCE, PATIENCE, Places};

    #[test]
    fn so_many_have_a_place_and_who_waits_too_long_goes_ahead() {
        let places = Places::default();
        let mut held: Vec<_> = (0..AT_ONCE).map(|_| places.take()).collect();
        let start = Instant::now();
        thread::scope(|scope| scope.spawn(|| drop(places.take())).join().unwrap());
        assert!(start.elapsed() >= PATIENCE);
        held.pop();
        let _last = places.take();
        assert_eq!(*places.taken.lock().unwrap(), AT_ONCE);
        drop(held);
        assert_eq!(*places.taken.lock().unwrap(), 1);
    }
}
