//! The changes of one transaction, in their order: what stands together in one set goes as one request.

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

impl Batch {
    pub(super) fn extend(&mut self, requests: Vec<Request>) {
        self.0.push(Change::Made(requests));
    }

    pub(super) fn add(&mut self, elements: Vec<(&'static str, Element)>) {
        for (set, element) in elements {
            match self.0.last_mut() {
                Some(Change::Added(last, list)) if *last == set => list.push(element),
                Some(Change::Made(_) | Change::Added(..) | Change::Removed(..)) | None => {
                    self.0.push(Change::Added(set, vec![element]));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, elements: Vec<(&'static str, Element)>) {
        for (set, element) in elements {
            match self.0.last_mut() {
                Some(Change::Removed(last, list)) if *last == set => list.push(element),
                Some(Change::Made(_) | Change::Added(..) | Change::Removed(..)) | None => {
                    self.0.push(Change::Removed(set, vec![element]));
                }
            }
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
