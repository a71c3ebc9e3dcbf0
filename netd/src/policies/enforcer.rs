//! The one thread that makes policies hold: it alone writes their objects, in the order in which it is asked. What they mean
//! is `netd_policy`'s; who waits for what is `lifecycle`'s.
//!
//! ```text
//! requests ─▶ all that are queued ─▶ compiler ─▶ one transaction ─▶ answers ─▶ cutter: whose flows may have lost their permission
//! ```

mod contested;
mod refuse;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use netd_config::{Denied, LinkName};
use netd_fleet::Needs;
use netd_kernel::{Flow, Kernel, Objects, Step};
use netd_policy::{Block, Change, Compiler, Policy, Profile, ProfileId, Sandbox, SandboxName};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::Settings;
use super::Troubles;
use super::cutter::Errand;
use super::files::PolicyFiles;
use super::filters::Filters;
use super::members::Members;
use super::no_flood::NoFlood;
use super::objects::{self, Changes};
use super::others;
use super::verdict;
use crate::attachment::{Attachment, AttachmentKey};
use crate::executor::{Executor, ExecutorError};
use refuse::Before;
use write::makes_ruleset;

/// What the thread knows, for those who ask.
#[derive(Debug)]
pub struct Force {
    /// The files, as they are in force.
    pub files: Arc<PolicyFiles>,
    /// Policies, world, and what follows from both.
    pub compiler: Compiler,
    pub(super) members: Members,
    /// Somebody has said which policies there are. Until then what a netd before this one left stays as it is: without it,
    /// all would be open.
    pub(super) is_told: bool,
}

impl Force {
    /// This node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        self.members.node()
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
    /// Sandboxes of other nodes are these now, and at these places may be more.
    Others(BTreeMap<SandboxName, Sandbox>, BTreeSet<Block>, Done),
    /// Steps of a resync; where they make the ruleset anew, it is never without its policies.
    Repair(Vec<Step>, Done),
    /// The ruleset may be gone: makes it again where it is, with its policies and nothing else.
    Restore(Done),
    /// Compares the kernel with what it is to hold.
    Verify(Done),
    /// The same, unless that is known.
    Settle(Done),
    /// Looks which bridges are filtered, and filters those that are to be.
    Filter(Done),
    /// Looks at what is in force.
    Ask(Question),
    /// Flows that may have lost their permission, and who waits until those that did are cut.
    Cut(Vec<Flow>, Vec<Done>),
}

/// The thread's state.
pub(super) struct Enforcer<K> {
    executor: Arc<Executor<K>>,
    force: Force,
    /// As they stand in the kernel.
    profiles: BTreeMap<ProfileId, Profile>,
    filtered: BTreeSet<LinkName>,
    filters: Filters,
    no_flood: NoFlood,
    in_force: Arc<AtomicBool>,
    changes: watch::Sender<()>,
    needs: watch::Sender<Option<Needs>>,
    cutter: Sender<Errand>,
    troubles: Arc<Mutex<Troubles>>,
    /// Addresses that several sandboxes have, and what is told of each.
    contested: BTreeMap<IpAddr, String>,
    node: String,
    denied: Denied,
    /// What the kernel holds may not be what was meant: the next round compares.
    is_dirty: bool,
    /// What rounds that were not written have left to the next that is.
    owed: Owed,
}

/// Who was to be judged by what was not written: nothing tells of them a second time.
#[derive(Default)]
struct Owed {
    judged: BTreeSet<IpAddr>,
    flows: Vec<Flow>,
}

/// Whom the thread tells.
pub(super) struct Told {
    /// Whether any policy is in force.
    pub(super) in_force: Arc<AtomicBool>,
    /// What was allowed may not be any more.
    pub(super) changes: watch::Sender<()>,
    /// What the policies in force ask of others' sandboxes.
    pub(super) needs: watch::Sender<Option<Needs>>,
    /// Whose flows are to be read.
    pub(super) cutter: Sender<Errand>,
    /// What is wrong with the files.
    pub(super) troubles: Arc<Mutex<Troubles>>,
}

/// What one round has gathered.
#[derive(Default)]
struct Round {
    changes: Changes,
    /// What the kernel holds, where that was looked at.
    observed: Option<Objects>,
    /// Answered when it is written.
    waiting: Vec<Done>,
    /// What was in force before the files of this round, where it has any, and who is answered when they hold wholly.
    before: Option<Before>,
    filing: Vec<Done>,
    /// No policy is left.
    is_last_gone: bool,
    /// Who may pass packets once it is written, and not while there is no ruleset to write it to.
    joining: Vec<Done>,
    /// Whose flows may have lost their permission, and who is answered when those are cut, too.
    errand: Errand,
    /// Who may be isolated now, or not any more, or isolated from others than before.
    isolated: BTreeSet<IpAddr>,
    /// Judged by what is in force when the round is written, and who is answered then.
    flows: Vec<Flow>,
    cut: Vec<Done>,
    /// Answered at its end: they are about what holds.
    questions: Vec<Question>,
    repairs: Vec<Step>,
    repairing: Vec<Done>,
    must_compare: bool,
    /// At the bridges that are filtered.
    must_look: bool,
    must_restore: bool,
}

impl<K: Kernel> Enforcer<K> {
    /// Without policies.
    pub(super) fn new(executor: Arc<Executor<K>>, settings: Settings, told: Told) -> Self {
        let Told { in_force, changes, needs, cutter, troubles } = told;
        let Settings { node, namespaces, denied, .. } = settings;
        let compiler = Compiler::new(&node);
        let force = Force { files: Arc::default(), compiler, members: Members::new(&node, namespaces), is_told: false };
        Self {
            executor,
            force,
            profiles: BTreeMap::new(),
            filtered: BTreeSet::new(),
            filters: Filters::default(),
            no_flood: NoFlood::default(),
            in_force,
            changes,
            needs,
            cutter,
            troubles,
            contested: BTreeMap::new(),
            node,
            denied,
            is_dirty: true,
            owed: Owed::default(),
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
            let questions = mem::take(&mut round.questions);
            self.commit(round);
            questions.into_iter().for_each(|question| question(&self.force));
        }
    }

    fn take(&mut self, request: Request, round: &mut Round) {
        match request {
            Request::Join(attachment, done) => {
                let changes = self.force.members.join(&attachment);
                self.update(changes, round);
                round.joining.push(done);
            }
            Request::Part(key) => {
                let changes = self.force.members.part(&key);
                self.update(changes, round);
            }
            Request::Files(files, attachments, done) => {
                self.judge_all(round);
                let before = Before { files: Arc::clone(&self.force.files), is_told: self.force.is_told };
                round.before.get_or_insert(before);
                self.load(files, &attachments, round);
                self.judge_all(round);
                round.filing.push(done);
            }
            Request::Node(addresses) => {
                if addresses != self.own_addresses() {
                    let mut nodes = self.force.compiler.world().nodes.clone();
                    nodes.entry(self.node.clone()).or_default().addresses = addresses;
                    self.update(vec![Change::Nodes(nodes)], round);
                }
            }
            Request::Others(others, strangers, done) => {
                self.meet(others, strangers, round);
                round.errand.waiting.push(done);
            }
            Request::Repair(steps, done) => {
                if steps.iter().any(makes_ruleset) {
                    // Nothing was asked about meanwhile.
                    self.judge_all(round);
                }
                round.repairs.extend(steps);
                round.repairing.push(done);
            }
            Request::Restore(done) => {
                self.judge_all(round);
                round.must_restore = true;
                round.waiting.push(done);
            }
            Request::Verify(done) => {
                round.must_compare = true;
                round.waiting.push(done);
            }
            Request::Filter(done) => {
                round.must_look = true;
                round.waiting.push(done);
            }
            Request::Settle(done) => round.waiting.push(done),
            Request::Ask(question) => round.questions.push(question),
            Request::Cut(flows, done) => {
                round.flows.extend(flows);
                round.cut.extend(done);
            }
        }
    }

    /// Without policies nobody is counted: those who come and go are not told of.
    fn load(&mut self, files: Arc<PolicyFiles>, attachments: &[Attachment], round: &mut Round) {
        let was = self.in_force.load(Ordering::SeqCst);
        self.force.is_told = true;
        let is_same = was && self.force.files.policies().eq(files.policies());
        let policies = self.say(files);
        if is_same {
            return;
        }
        let is = !policies.is_empty();
        if !was && is {
            // Who came as the last policy went may have gone since, without a word.
            let gone = self.force.members.clear();
            self.update(gone, round);
            let joined = attachments.iter().flat_map(|one| self.force.members.join(one)).collect();
            self.update(joined, round);
            self.go_on_from_what_stands(round);
        }
        self.update(vec![Change::Policies(policies)], round);
        round.is_last_gone = was && !is;
        if is {
            self.in_force.store(true, Ordering::SeqCst);
        }
    }

    /// Which files are in force, for those who ask. Returns their policies.
    fn say(&mut self, files: Arc<PolicyFiles>) -> Vec<Policy> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).files =
            files.errors().map(str::to_owned).collect();
        let needs = Some(others::needs(files.policies()));
        self.needs.send_if_modified(|known| {
            let is_news = *known != needs;
            *known = needs;
            is_news
        });
        self.force.files = files;
        self.force.files.policies().cloned().collect()
    }

    /// Those who come and go are told of until the kernel has taken it that there is no policy any more: it may not.
    fn follow_force(&mut self, round: &Round, is_written: bool) {
        if round.is_last_gone && is_written {
            let gone = self.force.members.clear();
            self.update(gone, &mut Round::default());
            self.in_force.store(false, Ordering::SeqCst);
        }
    }

    /// A netd before this one may have left all of it in the kernel. Where that cannot be read now, the comparison says so.
    fn go_on_from_what_stands(&mut self, round: &mut Round) {
        if self.is_dirty
            && let Ok(observed) = self.executor.observe_policies()
        {
            self.force.compiler.go_on_from(objects::read_back(&observed));
            round.observed = Some(observed);
        }
    }

    /// Who is no more, or somebody else now, may have flows that nobody would let begin.
    fn meet(&mut self, others: BTreeMap<SandboxName, Sandbox>, strangers: BTreeSet<Block>, round: &mut Round) {
        let world = self.force.compiler.world();
        let before = world.sandboxes.values().filter(|sandbox| sandbox.known.is_some());
        let changed: Vec<&Sandbox> = before.filter(|sandbox| others.get(&sandbox.name) != Some(*sandbox)).collect();
        let moved = changed.iter().flat_map(|sandbox| sandbox.addresses.keys().copied());
        let judged: BTreeSet<IpAddr> = moved.collect();
        let gone = changed.iter().map(|sandbox| &sandbox.name).filter(|name| !others.contains_key(*name));
        let gone: Vec<Change> = gone.cloned().map(Change::Gone).collect();
        let are_strangers_new = world.strangers != strangers;
        let new = others.into_values().filter(|sandbox| world.sandboxes.get(&sandbox.name) != Some(sandbox));
        let new: Vec<Change> = new.map(Change::Sandbox).collect();
        self.update(gone, round);
        self.update(new, round);
        if are_strangers_new {
            self.update(vec![Change::Strangers(strangers)], round);
        }
        if self.in_force.load(Ordering::SeqCst) {
            round.errand.judged.extend(judged);
            if are_strangers_new {
                self.judge_all(round);
            }
        }
    }

    fn update(&mut self, changes: Vec<Change>, round: &mut Round) {
        let known = self.known(&changes);
        for change in changes {
            if let Change::Sandbox(sandbox) = &change {
                // A new one has no flows yet; one that is something else now may have some too many.
                round.errand.judged.extend(sandbox.addresses.keys().filter(|address| known.contains(address)));
            }
            let delta = self.force.compiler.update(change);
            let sides = [&delta.ingress, &delta.egress];
            round.isolated.extend(sides.iter().flat_map(|side| side.removed.iter().chain(side.set.keys())));
            let compiled = self.force.compiler.compiled();
            round.isolated.extend(self.no_flood.touched(&delta, compiled));
            if self.is_dirty {
                // What changes is found by comparison.
                continue;
            }
            objects::add(&mut round.changes, objects::changes(&self.profiles, &delta, compiled));
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
            Change::Policies(_) | Change::Nodes(_) | Change::Strangers(_) => None,
        });
        before.flat_map(|sandbox| sandbox.addresses.keys().copied()).collect()
    }

    /// The sandboxes that policies are about.
    fn judge_all(&self, round: &mut Round) {
        let compiled = self.force.compiler.compiled();
        round.errand.judged.extend(compiled.ingress.keys().chain(compiled.egress.keys()));
    }

    fn commit(&mut self, mut round: Round) {
        let mut outcome = self.attempt(&mut round);
        let repaired = match &outcome {
            Ok(Some(links)) => Err(Arc::clone(links)),
            Ok(None) => Ok(()),
            Err(error) => Err(Arc::clone(error)),
        };
        answer(mem::take(&mut round.repairing), &repaired);
        if let (Err(error), Some(before)) = (&outcome, round.before.take()) {
            let error = Arc::clone(error);
            let refused = mem::take(&mut round.filing);
            self.take_back(before, &error, &mut round);
            outcome = self.attempt(&mut round);
            self.follow_force(&round, outcome.is_ok());
            answer(refused, &Err(error));
        } else {
            self.follow_force(&round, outcome.is_ok());
        }
        let outcome = outcome.map(drop);
        let stands = if self.is_dirty { Err(Arc::new(ExecutorError::NoRuleset)) } else { Ok(()) };
        answer(round.joining, &outcome.clone().and(stands));
        answer(round.waiting, &outcome);
        round.errand.waiting.append(&mut round.filing);
        self.owed.judged.append(&mut round.errand.judged);
        self.owed.flows.append(&mut round.flows);
        if outcome.is_ok() {
            let owed = mem::take(&mut self.owed);
            round.errand.judged = owed.judged;
            if !owed.flows.is_empty() {
                self.cut(owed.flows);
            }
        }
        answer(round.cut, &outcome);
        if !round.errand.judged.is_empty() {
            self.changes.send_replace(());
            // A thread that is gone drops the errand, and whoever waits hears of that.
            drop(self.cutter.send(round.errand));
        } else {
            answer(round.errand.waiting, &outcome);
        }
    }

    /// Links that could not be put right are none of policies' affair.
    fn attempt(&mut self, round: &mut Round) -> Result<Option<Arc<ExecutorError>>, Arc<ExecutorError>> {
        round.isolated.extend(self.force.members.moved());
        self.follow_isolated(round);
        self.follow_contested(round);
        let written = self.write(round).map(|links| links.map(Arc::new)).map_err(Arc::new);
        if let Err(error) = &written {
            self.is_dirty = true;
            let error = error.as_ref() as &dyn std::error::Error;
            warn!(error, "policies not written; the kernel holds what it held, and the next round tries again");
        }
        written
    }

    fn follow_isolated(&mut self, round: &mut Round) {
        let compiled = self.force.compiler.compiled();
        for address in &round.isolated {
            let is_isolated = compiled.ingress.contains_key(address) || compiled.egress.contains_key(address);
            let ports = || self.force.members.ports(*address);
            let bridges = ports().map(|port| port.bridge.clone()).filter(|_| is_isolated).collect();
            self.filters.set(*address, bridges);
            self.no_flood.set(*address, ports().map(|port| port.link.clone()).collect(), compiled, &mut round.changes);
        }
    }

    /// Cuts those that the policies in force would not let begin. They are ended in a moment, not in this one: a failure is told
    /// and leaves them.
    fn cut(&self, mut flows: Vec<Flow>) {
        let own = self.own_addresses();
        flows.retain(|flow| !verdict::allows(self.force.compiler.compiled(), &own, flow));
        if flows.is_empty() {
            return;
        }
        info!(flows = flows.len(), "cut: not allowed any more");
        if let Err(error) = self.executor.cut(&flows) {
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
