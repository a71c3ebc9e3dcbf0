//! Requests for one attachment take turns; a repair of the whole node waits for all of them and keeps all of them waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as Gate, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::attachment::AttachmentKey;

/// Forgotten gates are swept out when there are more than this.
const SWEEP: usize = 64;

/// Who may work on what. Waiting is in the order of asking.
#[derive(Debug, Default)]
pub struct Turns {
    node: Arc<RwLock<()>>,
    gates: Gates<AttachmentKey>,
}

/// One at a time about each of many; waiting is in the order of asking.
#[derive(Debug)]
pub(crate) struct Gates<K>(Mutex<BTreeMap<K, Weak<Gate<()>>>>);

impl<K> Default for Gates<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The turn of one request; dropping it ends it.
#[derive(Debug)]
pub struct Turn {
    _attachment: OwnedMutexGuard<()>,
    _node: OwnedRwLockReadGuard<()>,
}

/// The turn of a repair of the whole node.
#[derive(Debug)]
pub struct WholeNode(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockWriteGuard<()>);

impl Turns {
    /// Waits until nobody else works on the attachment.
    pub async fn take(&self, key: &AttachmentKey) -> Turn {
        let attachment = self.gates.enter(key).await;
        Turn { _attachment: attachment, _node: Arc::clone(&self.node).read_owned().await }
    }

    /// Waits until nobody works on any attachment.
    pub async fn whole_node(&self) -> WholeNode {
        WholeNode(Arc::clone(&self.node).write_owned().await)
    }
}

impl<K: Ord + Clone> Gates<K> {
    /// Waits until nobody else is at this one; dropping what is returned lets the next in.
    pub(crate) async fn enter(&self, key: &K) -> OwnedMutexGuard<()> {
        self.gate(key).lock_owned().await
    }

    fn gate(&self, key: &K) -> Arc<Gate<()>> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(key).and_then(Weak::upgrade) {
            return gate;
        }
        if gates.len() > SWEEP {
            gates.retain(|_, gate| gate.strong_count() > 0);
        }
        let gate = Arc::new(Gate::new(()));
        gates.insert(key.clone(), Arc::downgrade(&gate));
        gate
    }
}
