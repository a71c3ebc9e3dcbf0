//! Which links an isolated address is behind: bridges are to be filtered, ports not to be flooded. Kept up by what changes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::LinkName;

/// Isolated addresses, and the links that they are behind.
#[derive(Debug, Default)]
pub(super) struct Filters {
    at: BTreeMap<IpAddr, BTreeSet<LinkName>>,
    behind: BTreeMap<LinkName, BTreeSet<IpAddr>>,
}

impl Filters {
    /// An isolated address is behind these links now; none: it is not isolated, or behind none. Returns the links that it was
    /// behind.
    pub(super) fn set(&mut self, address: IpAddr, links: BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        let old = self.at.remove(&address).unwrap_or_default();
        for link in &old {
            if let Some(addresses) = self.behind.get_mut(link) {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.behind.remove(link);
                }
            }
        }
        for link in &links {
            self.behind.entry(link.clone()).or_default().insert(address);
        }
        if !links.is_empty() {
            self.at.insert(address, links);
        }
        old
    }

    /// Whether an isolated address is behind the link.
    pub(super) fn wants(&self, link: &LinkName) -> bool {
        self.behind.contains_key(link)
    }

    /// All links that one is behind.
    pub(super) fn wanted(&self) -> BTreeSet<LinkName> {
        self.behind.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netd_config::LinkName;

    use super::Filters;

    #[test]
    fn a_bridge_is_filtered_while_an_isolated_address_is_behind_it() {
        let [one, two] = ["10.4.0.2", "10.4.0.3"].map(|text| text.parse::<IpAddr>().unwrap());
        let [br0, br1] = ["br0", "br1"].map(|name| LinkName::new(name).unwrap());
        let mut filters = Filters::default();
        for (address, bridge, wanted) in [
            (one, None, vec![]),
            (one, Some(&br0), vec![&br0]),
            (two, Some(&br0), vec![&br0]),
            (one, Some(&br1), vec![&br0, &br1]),
            (two, None, vec![&br1]),
            (two, None, vec![&br1]),
            (one, Some(&br1), vec![&br1]),
            (one, None, vec![]),
        ] {
            let before = filters.wanted();
            let old = filters.set(address, bridge.into_iter().cloned().collect());
            assert!(old.is_subset(&before), "{address} {bridge:?}");
            assert!(wanted.iter().all(|link| filters.wants(link)), "{address} {bridge:?}");
            assert_eq!(filters.wanted().iter().collect::<Vec<_>>(), wanted, "{address} {bridge:?}");
        }
        let both = std::collections::BTreeSet::from([br0, br1]);
        filters.set(one, both.clone());
        assert_eq!(filters.wanted(), both, "it is behind two");
        assert_eq!(filters.set(one, [].into()), both);
        assert!(filters.wanted().is_empty());
    }
}
