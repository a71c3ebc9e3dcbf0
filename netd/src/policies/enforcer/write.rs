//! How the kernel is made to hold what the compiler says: by what changed, by comparison, or with a ruleset that is made anew.

use std::mem;

use netd_config::{Denied, LinkName};
use netd_kernel::{ApplyError, Family, Kernel, KernelError, Key, Object, Objects, Step, fixed_ruleset, plan};
use tracing::info;

use super::{Enforcer, Round};
use crate::executor::ExecutorError;
use crate::policies::objects::{self, Changes};

impl<K: Kernel> Enforcer<K> {
    /// Filters come before what needs them, and go after it. Links that could not be put right are none of policies' affair.
    pub(super) fn write(&mut self, round: &mut Round) -> Result<Option<ExecutorError>, ExecutorError> {
        let filtered = self.filters.wanted();
        if round.must_restore && !self.executor.has_ruleset()? {
            let (key, fixed) = fixed_ruleset();
            self.repair(&[Step::Create(key, fixed)], round)?;
        }
        let mut links = None;
        let repairs = mem::take(&mut round.repairs);
        // A bridge that is made again is not filtered yet.
        self.filtered.retain(|bridge| !repairs.iter().any(|step| *step.key() == Key::Bridge(bridge.clone())));
        if !repairs.is_empty() {
            match self.repair(&repairs, round) {
                Err(error) if error.is_of_links() => {
                    // The ruleset may have been made anew before them.
                    self.is_dirty |= repairs.iter().any(makes_ruleset);
                    links = Some(error);
                }
                done => done?,
            }
        }
        if round.must_look {
            let standing = self.executor.observe_filters()?;
            self.filtered.retain(|bridge| standing.contains_key(&Key::Filtered(bridge.clone())));
        }
        for bridge in &filtered {
            self.filter(bridge)?;
        }
        if (self.is_dirty && self.force.is_told) || round.must_compare {
            self.compare(round.observed.take())?;
        } else {
            self.executor.enforce(&objects::steps(mem::take(&mut round.changes)))?;
        }
        let old = self.filtered.difference(&filtered).map(|bridge| Step::Delete(Key::Filtered(bridge.clone())));
        self.executor.enforce(&old.collect::<Vec<_>>())?;
        self.filtered.retain(|bridge| filtered.contains(bridge));
        Ok(links)
    }

    /// A bridge that is not there bridges nothing; the next round tries again.
    fn filter(&mut self, bridge: &LinkName) -> Result<(), ExecutorError> {
        if self.filtered.contains(bridge) {
            return Ok(());
        }
        match self.executor.enforce(&[Step::Create(Key::Filtered(bridge.clone()), Object::Set)]) {
            Err(ExecutorError::Apply(ApplyError { source: KernelError::NotFound(_), .. })) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.filtered.insert(bridge.clone());
                Ok(())
            }
        }
    }

    /// The steps of a resync. A ruleset that is made anew gets the policies in the same transaction.
    fn repair(&mut self, repairs: &[Step], round: &mut Round) -> Result<(), ExecutorError> {
        let Some(at) = repairs.iter().position(makes_ruleset) else { return self.executor.repair(repairs) };
        let all = self.wanted();
        let (before, behind) = repairs.split_at(at + 1);
        let own = all.into_iter().map(|(key, object)| Step::Create(key, object));
        let steps: Vec<Step> = before.iter().cloned().chain(own).chain(behind.iter().cloned()).collect();
        self.executor.repair(&steps)?;
        (round.changes, round.observed) = (Changes::new(), None);
        self.is_written();
        Ok(())
    }

    /// The kernel holds what the compiler says.
    fn is_written(&mut self) {
        self.profiles = self.force.compiler.compiled().profiles.iter().map(|(id, one)| (*id, one.clone())).collect();
        self.is_dirty = false;
    }

    /// Everything of the ruleset that is this thread's.
    fn wanted(&self) -> Objects {
        let mut wanted = objects::all(self.force.compiler.compiled());
        wanted.extend(self.no_flood.all());
        if self.denied == Denied::Dropped {
            wanted.extend([Family::V4, Family::V6].map(|family| (Key::DropSilently(family), Object::Set)));
        }
        wanted
    }

    /// Makes the kernel hold what it is to hold, whatever it holds.
    fn compare(&mut self, observed: Option<Objects>) -> Result<(), ExecutorError> {
        let mut observed = observed.map_or_else(|| self.executor.observe_policies(), Ok)?;
        let (key, fixed) = fixed_ruleset();
        if observed.remove(&key) != Some(fixed) {
            // Whoever makes the ruleset makes it with all this.
            self.is_dirty = true;
            return Ok(());
        }
        let is_filter = |key: &Key| if let Key::Filtered(bridge) = key { Some(bridge.clone()) } else { None };
        self.filtered = observed.keys().filter_map(is_filter).collect();
        for bridge in self.filters.wanted() {
            self.filter(&bridge)?;
        }
        let mut wanted = self.wanted();
        wanted.extend(
            observed.iter().filter(|(key, _)| is_filter(key).is_some()).map(|(key, one)| (key.clone(), one.clone())),
        );
        let steps = plan(&wanted, &observed);
        if !steps.is_empty() {
            info!(steps = steps.len(), "policies written anew");
            self.executor.enforce(&steps)?;
        }
        self.is_written();
        Ok(())
    }
}

pub(super) fn makes_ruleset(step: &Step) -> bool {
    matches!(step, Step::Create(Key::Ruleset, _) | Step::Replace(Key::Ruleset, _))
}
