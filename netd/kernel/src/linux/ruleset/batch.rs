//! The changes of one transaction, in their order: what is done together to one set goes as one request.

use std::collections::{BTreeMap, BTreeSet};

use netd_netlink::NetlinkError;
use netd_netlink::nft::{self, Element, Request};

use super::skeleton;

#[derive(Debug)]
enum Change {
    Made(Vec<Request>),
    Added(&'static str, Vec<Element>),
    Removed(&'static str, Vec<Element>),
}

/// Changes that take hold together.
#[derive(Debug, Default)]
pub(super) struct Batch(Vec<Change>);

/// Elements, each with its set.
type Elements = Vec<(&'static str, Element)>;

impl Batch {
    pub(super) fn extend(&mut self, requests: Vec<Request>) {
        self.0.push(Change::Made(requests));
    }

    pub(super) fn add(&mut self, elements: impl IntoIterator<Item = Elements>) {
        self.0.extend(by_set(elements).into_iter().map(|(set, list)| Change::Added(set, list)));
    }

    /// Objects may share an element, which goes once: kernels before 6.3 refuse to delete what is not there any more.
    pub(super) fn remove(&mut self, elements: impl IntoIterator<Item = Elements>) {
        for (set, mut list) in by_set(elements) {
            let mut seen = BTreeSet::new();
            list.retain(|element| seen.insert((element.key.clone(), element.is_end)));
            self.0.push(Change::Removed(set, list));
        }
    }

    /// `without`: the requests that take elements of a set away, present or not.
    pub(super) fn requests(
        self,
        table: &str,
        without: impl Fn(&str, &[Element]) -> Result<Vec<Request>, NetlinkError>,
    ) -> Result<Vec<Request>, NetlinkError> {
        let mut requests = Vec::new();
        for change in self.0 {
            requests.extend(match change {
                Change::Made(made) => made,
                Change::Added(set, list) => nft::elements(skeleton::family(set), table, set, &list),
                Change::Removed(set, list) => without(set, &list)?,
            });
        }
        Ok(requests)
    }
}

fn by_set(elements: impl IntoIterator<Item = Elements>) -> BTreeMap<&'static str, Vec<Element>> {
    let mut sets: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (set, element) in elements.into_iter().flatten() {
        sets.entry(set).or_default().push(element);
    }
    sets
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use netd_config::LinkName;

    use super::super::elements;
    use super::Batch;
    use crate::object::{Key, Object};

    #[test]
    fn what_two_objects_share_goes_once() {
        let at = |home: &str| Key::Masquerade("10.4.0.2".parse().unwrap(), LinkName::new(home).unwrap());
        let mut batch = Batch::default();
        batch.remove([at("br0"), at("br0.10")].iter().map(|key| elements::of(key, &Object::Set)));
        let removed = RefCell::new(Vec::new());
        let without = |set: &str, list: &[_]| {
            removed.borrow_mut().push((set.to_owned(), list.len()));
            Ok(Vec::new())
        };
        batch.requests("netd", without).unwrap();
        assert_eq!(removed.into_inner(), [("home4".to_owned(), 2), ("masq4".to_owned(), 1)]);
    }
}
