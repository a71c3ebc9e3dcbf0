//! Which probes of a case are sent: one of each way through the nodes, protocol, and reason to pass or not, at both ends.

use std::collections::BTreeMap;

use netd_policy::oracle::{Ruling, verdict};
use netd_policy::{Policy, World};

use crate::probes::{End, Probe};

/// What has no answer by which it could be known to arrive.
const MUTE: [&str; 3] = ["sctp/80", "unreachable", "gre"];

/// Of probes that are alike, another one each `turn`.
pub(crate) fn chosen<'a>(all: &'a [Probe], world: &World, policies: &[Policy], turn: usize) -> Vec<&'a Probe> {
    let mut alike: BTreeMap<String, Vec<&Probe>> = BTreeMap::new();
    for probe in all.iter().filter(|probe| probe.from != probe.to && !MUTE.contains(&probe.traffic)) {
        let said = verdict(world, policies, probe.flow);
        let protocol = probe.traffic.split('/').next();
        let way = [&probe.from, &probe.to].map(place);
        let key = format!("{way:?} {protocol:?} {} {} {}", probe.v6, reason(&said.egress), reason(&said.ingress));
        alike.entry(key).or_default().push(probe);
    }
    alike.into_values().map(|alike| alike[turn % alike.len()]).collect()
}

fn place(end: &End) -> (Option<&str>, bool) {
    (end.node, end.is_node)
}

fn reason(ruling: &Ruling) -> String {
    format!("{} {:?}", ruling.allowed, ruling.by)
}
