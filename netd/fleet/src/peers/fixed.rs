//! Peers from a list that an operator keeps, the same on every node: who owns which block stands in it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use super::{Discovery, NodeRecord, Peers};
use crate::identity::NodeName;
use crate::span::meet;

/// Why a list is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FixedError {
    /// Two nodes share a name.
    #[error("two nodes are called {0}; give each its own name")]
    Twice(NodeName),
    /// Two nodes share addresses.
    #[error("{one} and {other} both have addresses of {range}; give each its own blocks")]
    Overlap {
        /// A node.
        one: NodeName,
        /// Another.
        other: NodeName,
        /// Addresses of both.
        range: IpNet,
    },
    /// This node is not on it.
    #[error("this node, {0}, is not on the list; add it")]
    Missing(NodeName),
}

/// A node of the list.
pub type FixedNode = NodeRecord;

/// The list.
#[derive(Debug)]
pub struct Fixed {
    name: NodeName,
    peers: watch::Sender<Peers>,
    usable: watch::Sender<Vec<IpNet>>,
}

/// A list that fits together, from one node's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Side {
    peers: Peers,
    own: Vec<IpNet>,
}

impl Fixed {
    /// The list as node `name` sees it.
    ///
    /// # Errors
    /// See [`FixedError`].
    pub fn new(name: NodeName, nodes: Vec<FixedNode>) -> Result<Self, FixedError> {
        let side = side(&name, nodes)?;
        Ok(Self { name, peers: watch::Sender::new(side.peers), usable: watch::Sender::new(side.own) })
    }

    /// Takes a new list; a bad one changes nothing.
    ///
    /// # Errors
    /// See [`FixedError`].
    pub fn reload(&self, nodes: Vec<FixedNode>) -> Result<(), FixedError> {
        let side = side(&self.name, nodes)?;
        publish(&self.usable, side.own);
        publish(&self.peers, side.peers);
        Ok(())
    }
}

impl Discovery for Fixed {
    fn follow(&self) -> watch::Receiver<Peers> {
        self.peers.subscribe()
    }

    fn usable(&self) -> watch::Receiver<Vec<IpNet>> {
        self.usable.subscribe()
    }
}

fn side(name: &NodeName, nodes: Vec<FixedNode>) -> Result<Side, FixedError> {
    let mut peers = Peers::new();
    for node in nodes {
        for other in peers.values() {
            let shared = node.blocks.iter().find(|block| other.blocks.iter().any(|their| meet(**block, *their)));
            if let Some(range) = shared {
                return Err(FixedError::Overlap { one: other.name.clone(), other: node.name, range: *range });
            }
        }
        if let Some(twice) = peers.insert(node.name.clone(), node) {
            return Err(FixedError::Twice(twice.name));
        }
    }
    let own = peers.remove(name).ok_or_else(|| FixedError::Missing(name.clone()))?;
    Ok(Side { peers, own: own.blocks.into_iter().collect() })
}

/// Tells those who follow, if it is news.
pub(crate) fn publish<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|known| {
        let is_news = *known != value;
        *known = value;
        is_news
    });
}

#[cfg(test)]
mod tests {
    use super::{Discovery, Fixed, FixedError, FixedNode, NodeName};

    fn node(name: &str, block: &str) -> FixedNode {
        serde_json::from_value(serde_json::json!({"name": name, "addresses": ["192.0.2.1"], "blocks": [block]}))
            .unwrap()
    }

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    #[test]
    fn the_others_are_peers_and_a_reload_tells_only_news() {
        let list = vec![node("a", "10.0.0.0/24"), node("b", "10.0.1.0/24")];
        let fixed = Fixed::new(name("a"), list.clone()).unwrap();
        let (mut peers, mut usable) = (fixed.follow(), fixed.usable());
        assert_eq!(peers.borrow_and_update().keys().collect::<Vec<_>>(), [&name("b")]);
        assert_eq!(*usable.borrow_and_update(), ["10.0.0.0/24".parse().unwrap()]);
        fixed.reload(list).unwrap();
        assert!(!peers.has_changed().unwrap());
        fixed.reload(vec![node("a", "10.0.0.0/24"), node("c", "fd00::/64")]).unwrap();
        assert_eq!(peers.borrow_and_update().keys().collect::<Vec<_>>(), [&name("c")]);
        assert!(!usable.has_changed().unwrap());
    }

    #[test]
    fn a_list_that_gives_an_address_to_two_is_refused_and_changes_nothing() {
        let fixed = Fixed::new(name("a"), vec![node("a", "10.0.0.0/24")]).unwrap();
        let bad = fixed.reload(vec![node("a", "10.0.0.0/24"), node("b", "10.0.0.128/25")]);
        assert!(matches!(bad, Err(FixedError::Overlap { .. })));
        assert_eq!(fixed.reload(vec![node("b", "10.0.0.0/24")]), Err(FixedError::Missing(name("a"))));
        let twice = vec![node("a", "10.0.0.0/24"), node("a", "10.0.1.0/24")];
        assert_eq!(fixed.reload(twice), Err(FixedError::Twice(name("a"))));
        assert_eq!(*fixed.usable().borrow(), ["10.0.0.0/24".parse().unwrap()]);
    }
}
