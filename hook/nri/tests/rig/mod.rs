//! What the door's tests play: a runtime, a netd, and the program between them. The runtime's side of the wire is written
//! out here by NRI's rules, not by the door's own code.

pub(crate) mod hook;
pub(crate) mod netd;
pub(crate) mod runtime;

use std::time::{Duration, Instant};

/// Longer than anything here takes, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives something.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
