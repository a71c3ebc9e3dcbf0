//! Who may pass by netd itself. The sandbox, and the rules, see the node come: whose connection it is they cannot tell.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use netd_config::Protocol;

type Answer = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Says whether a client may reach a sandbox by a published port, before netd opens its own connection there. What it
/// cannot know yet, it waits for: a question that takes too long is denied.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn(SocketAddr, SocketAddr, Protocol) -> Answer + Send + Sync>);

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
        Self(Arc::new(move |client, target, protocol| Box::pin(allows(client, target, protocol))))
    }

    /// Whether what `client` opened to `own`, an address of this node, may go on.
    pub(super) async fn opens(&self, client: SocketAddr, own: SocketAddr, target: SocketAddr) -> bool {
        // Nobody else has an address of this node, nor sends from loopback.
        let is_node = client.ip().is_loopback() || client.ip() == own.ip();
        is_node || (self.0)(client, target, Protocol::Tcp).await
    }
}
