//! What becomes of policies that the kernel refuses: those that were in force before stay in force, and who comes meanwhile is judged
//! by them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use netd_kernel::Kernel;
use netd_policy::{Compiled, Compiler, Policy};

use super::{Enforcer, Round};
use crate::executor::ExecutorError;
use crate::policies::files::PolicyFiles;
use crate::policies::objects;
use crate::reply::chain;

/// What was in force.
pub(super) struct Before {
    pub(super) files: Arc<PolicyFiles>,
    /// Somebody had said it.
    pub(super) is_told: bool,
}

impl<K: Kernel> Enforcer<K> {
    /// Goes back, to the numbers that the kernel holds. Where nobody had said before which policies there are, nobody has now: what a
    /// netd before this one left in the kernel stays, and is not taken for nothing.
    pub(super) fn take_back(&mut self, before: Before, error: &ExecutorError, round: &mut Round) {
        let Before { files, is_told } = before;
        let why = chain(error);
        let refused = if is_told { files.refusing(&self.force.files, |_| &why) } else { PolicyFiles::default() };
        self.judge_all(round);
        round.isolated.extend(isolated(self.force.compiler.compiled()));
        let policies = self.say(Arc::new(refused));
        round.is_last_gone = policies.is_empty() && self.in_force.load(Ordering::SeqCst);
        self.force.is_told = is_told;
        self.compile_anew(policies, round);
        self.judge_all(round);
        round.isolated.extend(isolated(self.force.compiler.compiled()));
    }

    fn compile_anew(&mut self, policies: Vec<Policy>, round: &mut Round) {
        let mut compiler = Compiler::new(&self.node);
        round.observed = self.executor.observe_policies().ok();
        if let Some(observed) = &round.observed {
            compiler.go_on_from(objects::read_back(observed));
        }
        let all = compiler.load(policies, self.force.compiler.world().clone());
        self.force.compiler = compiler;
        // What changes is found by comparison.
        round.changes.clear();
        self.no_flood.forget();
        round.isolated.extend(self.no_flood.touched(&all, self.force.compiler.compiled()));
    }
}

fn isolated(compiled: &Compiled) -> impl Iterator<Item = IpAddr> {
    compiled.ingress.keys().chain(compiled.egress.keys()).copied()
}
