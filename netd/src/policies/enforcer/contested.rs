//! Addresses that several sandboxes have: who must know that no packet of theirs passes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use netd_kernel::Kernel;
use netd_policy::SandboxName;

use super::{Enforcer, Round};
use crate::policies::ends::short;

impl<K: Kernel> Enforcer<K> {
    /// Whose address is another's, too, has flows that nobody would let begin.
    pub(super) fn follow_contested(&mut self, round: &mut Round) {
        if self.force.compiler.policies().is_empty() && self.contested.is_empty() {
            return;
        }
        let told = |(address, names): (IpAddr, _)| (address, contested(address, names));
        let is_any = !self.force.compiler.policies().is_empty();
        let now: BTreeMap<IpAddr, String> = self.force.compiler.contested().filter(|_| is_any).map(told).collect();
        if now != self.contested {
            round.errand.judged.extend(now.keys().filter(|address| !self.contested.contains_key(*address)));
            self.contested = now;
            let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            troubles.addresses = self.contested.values().cloned().collect();
        }
    }
}

fn contested<'a>(address: IpAddr, names: impl Iterator<Item = &'a SandboxName>) -> String {
    let names: Vec<String> = names.map(short).collect();
    format!(
        "{address} is an address of {}, and rules cannot tell them apart: while there are policies no sandbox reaches them by it, nor \
         they others; give their networks other subnets, or them other MACs",
        names.join(" and of ")
    )
}
