//! Which links an isolated address is behind: bridges are to be filtered, ports to be deaf. Kept up by what changes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netd_config::LinkName;

/// Isolated addresses, and the links that they are behind.
#[derive(Debug, Default)]
pub(super) struct Filters {
    at: BTreeMap<IpAddr, LinkName>,
    behind: BTreeMap<LinkName, BTreeSet<IpAddr>>,
}

impl Filters {
    /// An isolated address is behind this link now; `None`: it is not isolated, or behind none. Returns the link that it was
    /// behind.
    pub(super) fn set(&mut self, address: IpAddr, link: Option<&LinkName>) -> Option<LinkName> {
        let old = self.at.remove(&address);
        if let Some(old) = &old
            && let Some(addresses) = self.behind.get_mut(old)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.behind.remove(old);
            }
        }
        if let Some(link) = link {
            self.at.insert(address, link.clone());
            self.behind.entry(link.clone()).or_default().insert(address);
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
            let old = filters.set(address, bridge);
            assert!(old.is_none_or(|old| before.contains(&old)), "{address} {bridge:?}");
            assert!(wanted.iter().all(|link| filters.wants(link)), "{address} {bridge:?}");
            assert_eq!(filters.wanted().iter().collect::<Vec<_>>(), wanted, "{address} {bridge:?}");
        }
    }
}
