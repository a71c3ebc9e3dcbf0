//! The one thread that makes policies hold: it alone writes their objects, in the order in which it is asked. What they mean
//! is `netd_policy`'s; who waits for what is `lifecycle`'s.
//!
//! ```text
//! requests ─▶ all that are queued ─▶ compiler ─▶ one transaction ─▶ answers ─▶ flows that lost their permission are cut
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::Duration;

use netd_config::{Denied, LinkName};
use netd_kernel::{ApplyError, Family, Flow, Kernel, KernelError, Key, Object, Objects, Step, fixed_ruleset, plan};
use netd_policy::{Change, Compiler, Profile, ProfileId};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Settings;
use super::explain::End;
use super::files::PolicyFiles;
use super::members::Members;
use super::objects::{self, Changes};
use super::verdict;
use crate::attachment::{Attachment, AttachmentKey};
use crate::executor::{Executor, ExecutorError};

/// The kernel walks through conntrack for up to 10 ms without letting go of the processor, which those who were answered may
/// need: measured on two, they waited 5 ms.
const ANSWER_FIRST: Duration = Duration::from_micros(500);

/// What the thread knows, for those who ask.
#[derive(Debug)]
pub struct Force {
    /// The files, as they are in force.
    pub files: Arc<PolicyFiles>,
    /// Policies, world, and what follows from both.
    pub compiler: Compiler,
    pub(super) members: Members,
}

impl Force {
    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        self.members.node()
    }

    /// The one sandbox whose container's id begins so.
    #[must_use]
    pub fn by_container(&self, prefix: &str) -> Option<End> {
        match self.members.of_container(prefix).as_slice() {
            [one] => Some(End::Sandbox((*one).clone())),
            _ => None,
        }
    }
}

pub(super) type Done = oneshot::Sender<Result<(), Arc<ExecutorError>>>;
type Question = Box<dyn FnOnce(&Force) + Send>;

pub(super) enum Request {
    /// An attachment as it is now.
    Join(Box<Attachment>, Done),
    /// An attachment is gone.
    Part(AttachmentKey),
    /// These are all files now, and all attachments.
    Files(Arc<PolicyFiles>, Vec<Attachment>, Done),
    /// The node's own addresses are these now.
    Node(BTreeSet<IpAddr>),
    /// Steps of a resync; where they make the ruleset anew, it is never without its policies.
    Repair(Vec<Step>, Done),
    /// Compares the kernel with what it is to hold.
    Verify(Done),
    /// Looks at what is in force.
    Ask(Question),
}

/// The thread's state.
pub(super) struct Enforcer<K> {
    executor: Arc<Executor<K>>,
    force: Force,
    /// As they stand in the kernel.
    profiles: BTreeMap<ProfileId, Profile>,
    filtered: BTreeSet<LinkName>,
    in_force: Arc<AtomicBool>,
    node: String,
    denied: Denied,
    /// What the kernel holds may not be what was meant: the next round compares.
    is_dirty: bool,
}

/// What one round has gathered.
#[derive(Default)]
struct Round {
    changes: Changes,
    /// Answered when it is written.
    waiting: Vec<Done>,
    /// Answered when lost flows are cut, too: who changes policies is told when they hold wholly.
    waiting_longer: Vec<Done>,
    /// Whose flows may have lost their permission.
    judged: BTreeSet<IpAddr>,
    repairs: Vec<Step>,
    must_compare: bool,
}

impl<K: Kernel> Enforcer<K> {
    /// Without policies.
    pub(super) fn new(executor: Arc<Executor<K>>, settings: Settings, in_force: Arc<AtomicBool>) -> Self {
        let Settings { node, namespaces, denied } = settings;
        let compiler = Compiler::new(&node);
        let force = Force { files: Arc::default(), compiler, members: Members::new(&node, namespaces) };
        Self {
            executor,
            force,
            profiles: BTreeMap::new(),
            filtered: BTreeSet::new(),
            in_force,
            node,
            denied,
            is_dirty: true,
        }
    }

    /// Until nobody asks any more.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut round = Round::default();
            self.take(first, &mut round);
            while let Ok(next) = requests.try_recv() {
                self.take(next, &mut round);
            }
            self.commit(round);
        }
    }

    fn take(&mut self, request: Request, round: &mut Round) {
        match request {
            Request::Join(attachment, done) => {
                let changes = self.force.members.join(&attachment);
                self.update(changes, round);
                round.waiting.push(done);
            }
            Request::Part(key) => {
                let changes = self.force.members.part(&key);
                self.update(changes, round);
            }
            Request::Files(files, attachments, done) => {
                self.judge_all(round);
                self.load(files, &attachments, round);
                self.judge_all(round);
                round.waiting_longer.push(done);
            }
            Request::Node(addresses) => {
                if addresses != self.own_addresses() {
                    let mut nodes = self.force.compiler.world().nodes.clone();
                    nodes.entry(self.node.clone()).or_default().addresses = addresses;
                    self.update(vec![Change::Nodes(nodes)], round);
                }
            }
            Request::Repair(steps, done) => {
                round.repairs.extend(steps);
                round.waiting.push(done);
            }
            Request::Verify(done) => {
                round.must_compare = true;
                round.waiting.push(done);
            }
            Request::Ask(question) => question(&self.force),
        }
    }

    /// Without policies nobody is counted: those who come and go are not told of.
    fn load(&mut self, files: Arc<PolicyFiles>, attachments: &[Attachment], round: &mut Round) {
        let policies: Vec<_> = files.policies().cloned().collect();
        let (was, is) = (self.in_force.load(Ordering::SeqCst), !policies.is_empty());
        self.force.files = files;
        if !was && is {
            let joined = attachments.iter().flat_map(|one| self.force.members.join(one)).collect();
            self.update(joined, round);
        }
        self.update(vec![Change::Policies(policies)], round);
        if was && !is {
            let gone = self.force.members.clear();
            self.update(gone, round);
        }
        self.in_force.store(is, Ordering::SeqCst);
    }

    fn update(&mut self, changes: Vec<Change>, round: &mut Round) {
        let known = self.known(&changes);
        for change in changes {
            if let Change::Sandbox(sandbox) = &change {
                // A new one has no flows yet; one that is something else now may have some too many.
                round.judged.extend(sandbox.addresses.keys().filter(|address| known.contains(address)));
            }
            let delta = self.force.compiler.update(change);
            let changed = objects::changes(&self.profiles, &delta, self.force.compiler.compiled());
            round.changes.extend(changed);
            for gone in &delta.profiles.removed {
                self.profiles.remove(gone);
            }
            self.profiles.extend(delta.profiles.set);
        }
    }

    /// The addresses of those who change, so far. Who gets another name is told as one who goes and one who comes.
    fn known(&self, changes: &[Change]) -> BTreeSet<IpAddr> {
        let sandboxes = &self.force.compiler.world().sandboxes;
        let before = changes.iter().filter_map(|change| match change {
            Change::Sandbox(sandbox) => sandboxes.get(&sandbox.name),
            Change::Gone(name) => sandboxes.get(name),
            Change::Policies(_) | Change::Nodes(_) => None,
        });
        before.flat_map(|sandbox| sandbox.addresses.keys().copied()).collect()
    }

    /// The sandboxes that policies are about.
    fn judge_all(&self, round: &mut Round) {
        let compiled = self.force.compiler.compiled();
        round.judged.extend(compiled.ingress.keys().chain(compiled.egress.keys()));
    }

    fn commit(&mut self, round: Round) {
        let outcome = self.write(&round).map_err(Arc::new);
        if let Err(error) = &outcome {
            self.is_dirty = true;
            let error = error.as_ref() as &dyn std::error::Error;
            warn!(error, "policies not written; the kernel holds what it held, and the next round tries again");
        }
        if !round.waiting.is_empty() {
            answer(round.waiting, &outcome);
            sleep(ANSWER_FIRST);
        }
        if outcome.is_ok() && !round.judged.is_empty() {
            self.cut(&round.judged);
        }
        answer(round.waiting_longer, &outcome);
    }

    /// Filters come before what needs them, and go after it.
    fn write(&mut self, round: &Round) -> Result<(), ExecutorError> {
        let filtered = self.wanted_filters();
        if !round.repairs.is_empty() {
            self.repair(&round.repairs)?;
        }
        for bridge in &filtered {
            self.filter(bridge)?;
        }
        if self.is_dirty || round.must_compare {
            self.compare()?;
        } else {
            self.executor.enforce(&steps(&round.changes))?;
        }
        let old = self.filtered.difference(&filtered).map(|bridge| Step::Delete(Key::Filtered(bridge.clone())));
        self.executor.enforce(&old.collect::<Vec<_>>())?;
        self.filtered.retain(|bridge| filtered.contains(bridge));
        Ok(())
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

    /// The bridges of sandboxes that policies are about: what is bridged there has to meet the rules too.
    fn wanted_filters(&self) -> BTreeSet<LinkName> {
        let compiled = self.force.compiler.compiled();
        if compiled.ingress.is_empty() && compiled.egress.is_empty() {
            return BTreeSet::new();
        }
        let bridges = self.force.members.bridges();
        let isolated = compiled.ingress.keys().chain(compiled.egress.keys());
        isolated.filter_map(|address| bridges.get(address)).map(|bridge| (*bridge).clone()).collect()
    }

    /// The steps of a resync. A ruleset that is made anew gets the policies in the same transaction.
    fn repair(&mut self, repairs: &[Step]) -> Result<(), ExecutorError> {
        let is_new = |step: &Step| matches!(step, Step::Create(Key::Ruleset, _) | Step::Replace(Key::Ruleset, _));
        let Some(at) = repairs.iter().position(is_new) else { return self.executor.repair(repairs) };
        let all = self.wanted();
        let (before, behind) = repairs.split_at(at + 1);
        let own = all.into_iter().map(|(key, object)| Step::Create(key, object));
        let steps: Vec<Step> = before.iter().cloned().chain(own).chain(behind.iter().cloned()).collect();
        self.executor.repair(&steps)
    }

    /// Everything of the ruleset that is this thread's.
    fn wanted(&self) -> Objects {
        let mut wanted = objects::all(self.force.compiler.compiled());
        if self.denied == Denied::Dropped {
            wanted.extend([Family::V4, Family::V6].map(|family| (Key::Silent(family), Object::Set)));
        }
        wanted
    }

    /// Makes the kernel hold what it is to hold, whatever it holds.
    fn compare(&mut self) -> Result<(), ExecutorError> {
        let mut observed = self.executor.observe()?;
        let (key, fixed) = fixed_ruleset();
        if observed.get(&key) != Some(&fixed) {
            // Whoever makes the ruleset makes it with all this.
            self.is_dirty = true;
            return Ok(());
        }
        observed.retain(|key, _| objects::is_policy(key));
        let is_filter = |key: &Key| if let Key::Filtered(bridge) = key { Some(bridge.clone()) } else { None };
        self.filtered = observed.keys().filter_map(is_filter).collect();
        for bridge in self.wanted_filters() {
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
        self.profiles = self.force.compiler.compiled().profiles.iter().map(|(id, one)| (*id, one.clone())).collect();
        self.is_dirty = false;
        Ok(())
    }

    /// Flows that the policies in force would not let begin. They are ended in a moment, not in this one: a failure is told and
    /// leaves them.
    fn cut(&self, judged: &BTreeSet<IpAddr>) {
        let cut = self.executor.flows(judged).and_then(|flows| {
            let own = self.own_addresses();
            let denied = |flow: &Flow| !verdict::allows(self.force.compiler.compiled(), &own, flow);
            let denied: Vec<Flow> = flows.into_iter().filter(denied).collect();
            if !denied.is_empty() {
                info!(flows = denied.len(), "cut: not allowed any more");
            }
            self.executor.cut(&denied)
        });
        if let Err(error) = cut {
            let error = &error as &dyn std::error::Error;
            warn!(error, "flows that are not allowed any more may go on until they end");
        }
    }

    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let own = self.force.compiler.world().nodes.get(&self.node);
        own.map(|node| node.addresses.clone()).unwrap_or_default()
    }
}

/// Whoever asked may have gone away.
fn answer(waiting: Vec<Done>, outcome: &Result<(), Arc<ExecutorError>>) {
    for done in waiting {
        drop(done.send(outcome.clone()));
    }
}

/// What goes, then what comes: one transaction, in which the order does not matter.
fn steps(changes: &Changes) -> Vec<Step> {
    let gone = changes.iter().rev().filter(|(_, object)| object.is_none()).map(|(key, _)| Step::Delete(key.clone()));
    let set = changes.iter().filter_map(|(key, object)| Some(Step::Replace(key.clone(), object.clone()?)));
    gone.chain(set).collect()
}
