//! Ranges that are not to overlap. Linux 6.18 sees to it; 6.1 takes a range about one that stands.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use netd_netlink::nft;

use super::skeleton::INSIDE;
use super::{Ruleset, elements, failed, is_of_the_absent, skeleton};
use crate::object::{Key, Objects, Step};
use crate::seam::KernelError;

impl Ruleset {
    /// Whether the ranges that come overlap none that stands or comes.
    pub(super) fn lie_apart(&self, steps: &[Step]) -> Result<(), KernelError> {
        let comes = |step: &Step| match step {
            Step::Create(Key::Inside(net), _) | Step::Replace(Key::Inside(net), _) => Some(*net),
            Step::Create(..) | Step::Replace(..) | Step::Delete(_) => None,
        };
        let new: BTreeSet<IpNet> = steps.iter().filter_map(comes).collect();
        if new.is_empty() {
            return Ok(());
        }
        let goes = |net: &IpNet| steps.contains(&Step::Delete(Key::Inside(*net)));
        let mut apart: BTreeSet<IpNet> = self.inside()?.into_iter().filter(|net| !goes(net)).collect();
        for net in new {
            let overlaps = |other: &&IpNet| **other != net && (other.contains(&net) || net.contains(*other));
            if let Some(other) = apart.iter().find(overlaps) {
                let source = io::Error::other(format!("{net} overlaps {other}"));
                return Err(KernelError::Refused { action: format!("take {net} for the fleet's"), source });
            }
            apart.insert(net);
        }
        Ok(())
    }

    fn inside(&self) -> Result<Vec<IpNet>, KernelError> {
        let mut objects = Objects::new();
        let mut reader = self.reader();
        for set in INSIDE {
            let request = nft::get_elements(skeleton::family(set), &self.table, set);
            // Without the table there is nothing in it.
            let bodies = match reader.read_netfilter(&request, false) {
                Err(error) if is_of_the_absent(&error) => continue,
                read => read.map_err(|error| failed("read the fleet's ranges", error))?,
            };
            let found: Vec<nft::Element> = bodies.iter().flat_map(|body| nft::read_element(body)).collect();
            elements::read(&mut objects, set, &found);
        }
        Ok(objects.into_keys().filter_map(|key| if let Key::Inside(net) = key { Some(net) } else { None }).collect())
    }
}
