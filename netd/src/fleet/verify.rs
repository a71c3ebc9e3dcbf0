//! Who is believed what of sandboxes: a node speaks for the addresses of its own blocks, and for each once. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::FleetConfig;
use netd_fleet::{Heard, NodeName, NodeRecord, Peers, SandboxRecord};
use netd_policy::{Block, Sandbox, SandboxName};
use serde::{Deserialize, Serialize};

use crate::policies::others::sandbox;

/// What is believed of others' sandboxes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Believed {
    pub(super) told: Vec<(NodeName, SandboxRecord)>,
    /// What is not believed, and why, for people.
    #[serde(skip)]
    pub(super) refused: Vec<String>,
}

impl Believed {
    pub(super) fn sandboxes(&self) -> BTreeMap<SandboxName, Sandbox> {
        let all = self.told.iter().map(|(node, record)| sandbox(node, record));
        all.map(|sandbox| (sandbox.name.clone(), sandbox)).collect()
    }
}

/// What the nodes that are there tell. `peers` have those of their blocks that are their own.
pub(super) fn believe(peers: &Peers, heard: &Heard) -> Believed {
    let mut believed = Believed::default();
    for peer in peers.values() {
        let Some(records) = peer.instance.and_then(|instance| heard.records.get(&instance)) else { continue };
        let mut good = Vec::new();
        for (container, record) in records.iter() {
            match record {
                Ok(record) => good.push(record.as_ref()),
                Err(error) => believed.refused.push(format!(
                    "cannot read what node {} tells of container {container} ({error}): it is nobody here; has it a later netd? \
                     Update this one",
                    peer.name
                )),
            }
        }
        let twice = twice(&good);
        for record in good {
            let own = own(peer, record, &twice, &mut believed.refused);
            if !own.addresses.is_empty() {
                believed.told.push((peer.name.clone(), own));
            }
        }
    }
    believed
}

/// Addresses that two sandboxes are said to have.
fn twice(records: &[&SandboxRecord]) -> BTreeSet<IpAddr> {
    let mut seen = BTreeSet::new();
    let all = records.iter().flat_map(|record| record.addresses.keys());
    all.copied().filter(|address| !seen.insert(*address)).collect()
}

/// The record with those addresses that its node may speak for.
fn own(
    peer: &NodeRecord,
    record: &SandboxRecord,
    twice: &BTreeSet<IpAddr>,
    refused: &mut Vec<String>,
) -> SandboxRecord {
    let mut own = record.clone();
    own.addresses.retain(|address, _| {
        let is_of_blocks = peer.blocks.iter().any(|block| block.contains(address));
        let why = match (is_of_blocks, twice.contains(address)) {
            (true, false) => return true,
            (false, _) => "which is not of its blocks (`netdctl block ls`)",
            (true, true) => "and of another sandbox with the same address",
        };
        let (node, namespace, name) = (&peer.name, &record.namespace, &record.name);
        refused
            .push(format!("node {node} tells of {namespace}/{name} at {address}, {why}: that address is nobody here"));
        false
    });
    own
}

/// Where others' sandboxes may be: the pools without this node's blocks.
pub(super) fn strangers(config: &FleetConfig, blocks: &BTreeSet<IpNet>) -> BTreeSet<Block> {
    let outside = |pool: IpNet| Block {
        cidr: pool,
        except: blocks.iter().copied().filter(|block| pool.contains(block)).collect(),
    };
    config.pools.iter().map(|pool| outside(pool.range)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use netd_fleet::{Heard, InstanceId, NodeName, NodeRecord, Peers, Records, SandboxRecord};

    use super::believe;

    fn record(name: &str, addresses: &[&str]) -> SandboxRecord {
        let addresses = addresses.iter().map(|address| (address.parse().unwrap(), None)).collect();
        let (namespace, name) = ("shop".to_owned(), name.to_owned());
        SandboxRecord { namespace, name, addresses, ..SandboxRecord::default() }
    }

    fn peer(name: &str, instance: u128, block: &str) -> (NodeName, NodeRecord) {
        let text = serde_json::json!({
            "instance": InstanceId::new(instance), "name": name, "addresses": ["192.0.2.1"], "blocks": [block],
        });
        (NodeName::new(name).unwrap(), serde_json::from_value(text).unwrap())
    }

    fn heard(of: &[(u128, &[SandboxRecord])]) -> Heard {
        let records = |all: &[SandboxRecord]| -> Records {
            all.iter().enumerate().map(|(at, one)| (format!("c{at}"), Ok(Arc::new(one.clone())))).collect()
        };
        let records = of.iter().map(|(of, all)| (InstanceId::new(*of), Arc::new(records(all)))).collect();
        Heard { is_known: true, records, ..Heard::default() }
    }

    fn names(peers: &Peers, heard: &Heard) -> (Vec<String>, Vec<String>) {
        let believed = believe(peers, heard);
        let addresses =
            |record: &SandboxRecord| record.addresses.keys().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let told = believed.told.iter().map(|(node, one)| format!("{}@{node} {}", one.name, addresses(one)));
        (told.collect(), believed.refused)
    }

    #[test]
    fn a_node_is_believed_what_it_tells_of_its_own_blocks_and_of_each_address_once() {
        let peers: Peers = [peer("n2", 2, "10.4.2.0/24"), peer("n3", 3, "10.4.3.0/24")].into();
        let all = [
            record("login", &["10.4.2.2", "10.4.3.2"]),
            record("thief", &["10.4.1.2"]),
            record("one", &["10.4.2.4", "10.4.2.9"]),
            record("other", &["10.4.2.9"]),
        ];
        // Who is not there tells nothing.
        let (told, refused) = names(&peers, &heard(&[(2, &all), (4, &all)]));
        assert_eq!(told, ["login@n2 10.4.2.2", "one@n2 10.4.2.4"]);
        assert_eq!(refused.len(), 4, "{refused:?}");
        for part in ["shop/login at 10.4.3.2, which is not", "shop/thief at 10.4.1.2", "shop/one at 10.4.2.9, and of"] {
            assert!(refused.iter().any(|text| text.contains(part)), "{part}: {refused:?}");
        }
        assert_eq!(names(&Peers::new(), &heard(&[(2, &all)])), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_read_is_nobody_and_hides_no_other() {
        let peers: Peers = [peer("n2", 2, "10.4.2.0/24")].into();
        let mut heard = heard(&[(2, &[record("login", &["10.4.2.2"])])]);
        let bad = BTreeMap::from([("x".to_owned(), Err("no JSON".to_owned()))]);
        Arc::make_mut(heard.records.get_mut(&InstanceId::new(2)).unwrap()).extend(bad);
        let (told, refused) = names(&peers, &heard);
        assert_eq!(told, ["login@n2 10.4.2.2"]);
        assert!(refused[0].contains("node n2") && refused[0].contains("container x (no JSON)"), "{refused:?}");
    }
}
