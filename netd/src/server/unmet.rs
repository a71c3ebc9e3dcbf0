//! Which sandboxes run without a network that their annotation names, and why. Known for as long as netd runs: the door describes
//! every sandbox again to the next one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What could not be attached, by container.
#[derive(Debug, Default)]
pub struct Unmet(Mutex<BTreeMap<String, String>>);

impl Unmet {
    /// The last attempt for this container failed with these words, or did not.
    pub(super) fn tell(&self, container: &str, failure: Option<&str>) {
        match failure {
            Some(failure) => drop(self.lock().insert(container.to_owned(), failure.to_owned())),
            None => drop(self.lock().remove(container)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Those of containers that still are, all others are forgotten.
    pub(super) fn of(&self, is_there: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let mut all = self.lock();
        all.retain(|container, _| is_there(container));
        all.clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
