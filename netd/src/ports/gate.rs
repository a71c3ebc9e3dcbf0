//! Who may pass by netd itself. The sandbox, and the rules, see the node come: whose connection it is they cannot tell.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use netd_config::Protocol;
use tokio::sync::watch;

type Answer = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Says whether a client may reach a sandbox by a published port, before netd opens its own connection there. What it
/// cannot know yet, it waits for: a question that takes too long is denied.
#[derive(Clone)]
pub struct Gate {
    allows: Arc<dyn Fn(SocketAddr, SocketAddr, Protocol) -> Answer + Send + Sync>,
    changes: Option<watch::Receiver<()>>,
}

/// One client's way in: who he is, where he came to, and where he wants to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub(super) client: SocketAddr,
    /// An address of this node.
    pub(super) own: SocketAddr,
    pub(super) target: SocketAddr,
}

impl Default for Gate {
    /// Everybody passes.
    fn default() -> Self {
        Self::new(|_, _, _| std::future::ready(true))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    /// `allows` gets the client, the sandbox's address and port, and the transport. The node's own programs it is never
    /// asked about: between a sandbox and its node, the rules decide.
    pub fn new<F: Future<Output = bool> + Send + 'static>(
        allows: impl Fn(SocketAddr, SocketAddr, Protocol) -> F + Send + Sync + 'static,
    ) -> Self {
        let allows = move |client, target, protocol| -> Answer { Box::pin(allows(client, target, protocol)) };
        Self { allows: Arc::new(allows), changes: None }
    }

    /// The same; whenever `changes` are told, another answer may be given than before.
    #[must_use]
    pub fn changing(self, changes: watch::Receiver<()>) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// The same, whose changes until now do not count.
    pub(super) fn afresh(&self) -> Self {
        let mut gate = self.clone();
        gate.changes.iter_mut().for_each(watch::Receiver::mark_unchanged);
        gate
    }

    /// Whether the visit may go on.
    pub(super) async fn opens(&self, visit: Visit) -> bool {
        // Nobody else has an address of this node, nor sends from loopback.
        let Visit { client, own, target } = visit;
        let is_node = client.ip().is_loopback() || client.ip() == own.ip();
        is_node || (self.allows)(client, target, Protocol::Tcp).await
    }

    /// Until the visit may not go on any more.
    pub(super) async fn shuts(&mut self, visit: Visit) {
        loop {
            let Some(Ok(())) = (match &mut self.changes {
                Some(changes) => Some(changes.changed().await),
                None => None,
            }) else {
                return std::future::pending().await;
            };
            if !self.opens(visit).await {
                return;
            }
        }
    }
}
