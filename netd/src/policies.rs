//! Policies in force: from files and attachments to what the kernel holds, and answers about it.
//!
//! ```text
//! files (watched) ─▶ PolicyFiles ─┐                ┌─▶ objects ─▶ kernel, one transaction
//! attach, describe, detach ───────┴─▶ enforcer ────┤
//! netdctl ─▶ questions ─────────────▶ (one thread) ├─▶ answers
//!                                                  └─▶ cutter: flows that lost their permission; netd's proxy asks again
//! ```
//!
//! An attachment is admitted before its link passes packets. Not here: what a policy means (`netd_policy`), and who passes
//! no packet while his labels are unknown (`lifecycle`).

mod apart;
pub(crate) mod applied;
mod cutter;
pub mod drops;
pub mod ends;
pub mod enforcer;
pub mod explain;
pub mod files;
mod filters;
pub mod follow;
pub(crate) mod ground;
pub(crate) mod matrix;
mod members;
mod no_flood;
pub mod objects;
pub(crate) mod others;
pub(crate) mod pairs;
mod published;
mod verdict;
pub mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, PoisonError};
use std::thread;

use netd_config::{Denied, Namespaces};
use netd_fleet::Needs;
use netd_kernel::{Kernel, Step};
use netd_policy::{Block, Flow, Hook, Protocol, Sandbox, SandboxName, Traffic};
use thiserror::Error;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot, watch};

use crate::attachment::{Attachment, AttachmentKey};
use crate::executor::{Executor, ExecutorError};
use crate::ports::Gate;
use enforcer::{Done, Enforcer, Force, Request, Told};
use files::PolicyFiles;

/// Policies could not be made to hold. The kernel holds what it held before.
#[derive(Debug, Clone, Error)]
pub enum PolicyError {
    /// The kernel said no.
    #[error("cannot make the policies hold")]
    Kernel(#[source] Arc<ExecutorError>),
    /// The thread is gone.
    #[error("netd's policies have stopped; restart netd (`systemctl restart netd`)")]
    Stopped,
}

/// What does not change while netd runs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// This node's name.
    pub node: String,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// What becomes of denied packets.
    pub denied: Denied,
    /// The folder of policies that were applied: what changes below it was asked for at once. Empty: so is all else.
    pub applied: PathBuf,
}

/// The way to the enforcer; cheap to clone. The default has none, and no policy is ever in force.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    requests: Option<Arc<Sender<Request>>>,
    in_force: Arc<AtomicBool>,
    changes: Option<watch::Receiver<()>>,
    needs: Option<watch::Receiver<Option<Needs>>>,
    /// Whose files are being put in force.
    turn: Arc<Mutex<()>>,
    applied: PathBuf,
    troubles: Arc<std::sync::Mutex<Troubles>>,
}

/// What is wrong, for those who do not wait for the thread.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// With policy files.
    pub(crate) files: Vec<String>,
    /// With addresses that several sandboxes have.
    pub(crate) addresses: Vec<String>,
}

impl Policies {
    /// For one who reads the files and puts them in force; others wait.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    pub(crate) fn applied(&self) -> &Path {
        &self.applied
    }

    /// Starts the threads, without policies. They end with the last of this.
    ///
    /// # Errors
    /// No thread is to be had.
    pub fn start<K: Kernel + 'static>(executor: Arc<Executor<K>>, settings: Settings) -> io::Result<Self> {
        let (requests, receiver) = channel();
        let (requests, in_force) = (Arc::new(requests), Arc::new(AtomicBool::new(false)));
        let (told, changes) = watch::channel(());
        let (needing, needs) = watch::channel(None);
        let cutter = cutter::start(Arc::clone(&executor), Arc::downgrade(&requests))?;
        let troubles = Arc::<std::sync::Mutex<Troubles>>::default();
        let told = Told {
            in_force: Arc::clone(&in_force),
            changes: told,
            needs: needing,
            cutter,
            troubles: Arc::clone(&troubles),
        };
        let applied = settings.applied.clone();
        let enforcer = Enforcer::new(executor, settings, told);
        thread::Builder::new().name("policies".to_owned()).spawn(move || enforcer.run(&receiver))?;
        let turn = Arc::default();
        let (changes, needs) = (Some(changes), Some(needs));
        Ok(Self { requests: Some(requests), in_force, changes, needs, turn, applied, troubles })
    }

    /// Policies that are in force, and whose thread has ended.
    #[cfg(test)]
    pub(crate) fn stopped() -> Self {
        let (requests, _) = channel();
        Self { requests: Some(Arc::new(requests)), in_force: Arc::new(AtomicBool::new(true)), ..Self::default() }
    }

    /// What the policies in force ask of other nodes' sandboxes, and every change of it. `None`, within: no files were read yet.
    #[must_use]
    pub fn needs(&self) -> Option<watch::Receiver<Option<Needs>>> {
        self.needs.clone()
    }

    /// These are all sandboxes of other nodes, and who has no name may be any of them at these places. Returns when that holds,
    /// and what lost its permission is cut.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn meet(
        &self,
        others: BTreeMap<SandboxName, Sandbox>,
        strangers: BTreeSet<Block>,
    ) -> Result<(), PolicyError> {
        heard(self.send(|done| Request::Others(others, strangers, done))?).await
    }

    /// What is wrong with the policy files, and with addresses, each with what holds instead. Never waits for the thread.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.files.iter().chain(&troubles.addresses).cloned().collect()
    }

    /// The files as they are in force, for a thread that may wait. `None`: as [`Policies::ask`].
    pub(crate) fn files_and_wait(&self) -> Option<Arc<PolicyFiles>> {
        self.ask_and_wait(|force| Arc::clone(&force.files))
    }

    /// Whether any policy is in force.
    #[must_use]
    pub fn is_any_in_force(&self) -> bool {
        self.in_force.load(Ordering::SeqCst)
    }

    /// The attachment is what it is now. Returns when all that policies say of it is in the kernel; at once where there are
    /// none.
    ///
    /// # Errors
    /// See [`PolicyError`]; no packet of it may pass then.
    pub async fn admit(&self, attachment: &Attachment) -> Result<(), PolicyError> {
        // Whoever puts the first policy in force counts everybody himself, and while he does nobody is attached.
        if !self.is_any_in_force() {
            return Ok(());
        }
        heard(self.send(|done| Request::Join(Box::new(attachment.clone()), done))?).await
    }

    /// The attachment is gone: no packet of it passes any more.
    pub fn forget(&self, key: AttachmentKey) {
        if let Some(requests) = self.requests.as_ref().filter(|_| self.is_any_in_force()) {
            // A thread that is gone has nothing to forget.
            drop(requests.send(Request::Part(key)));
        }
    }

    /// These are all files from now on. Returns when they hold. `attachments` are all there are; nobody is attached or
    /// detached meanwhile if there were no policies before.
    ///
    /// # Errors
    /// See [`PolicyError`]; then the files that were in force are, and whoever is attached meanwhile is by these.
    pub async fn enforce(&self, files: Arc<PolicyFiles>, attachments: Vec<Attachment>) -> Result<(), PolicyError> {
        heard(self.send(|done| Request::Files(files, attachments, done))?).await
    }

    /// The node's own addresses.
    pub fn live_at(&self, addresses: BTreeSet<IpAddr>) {
        if let Some(requests) = &self.requests {
            drop(requests.send(Request::Node(addresses)));
        }
    }

    /// Takes the steps of a resync.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn repair(&self, steps: Vec<Step>) -> Result<(), PolicyError> {
        heard(self.send(|done| Request::Repair(steps, done))?).await
    }

    /// Makes a ruleset that somebody took away again, with its policies alone: what they deny waits for no resync. Where there
    /// are no policies, or the ruleset stands, it is left to that.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn restore(&self) -> Result<(), PolicyError> {
        if !self.is_any_in_force() {
            return Ok(());
        }
        heard(self.send(Request::Restore)?).await
    }

    /// Makes the kernel hold what it is to hold, where that is not known of it.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn settle(&self) -> Result<(), PolicyError> {
        heard(self.send(Request::Settle)?).await
    }

    /// Makes the kernel filter the bridges that are to be filtered: no table of ours keeps others from taking that back.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn filter_again(&self) -> Result<(), PolicyError> {
        heard(self.send(Request::Filter)?).await
    }

    /// Makes the kernel hold what it is to hold, whatever it holds.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub async fn verify(&self) -> Result<(), PolicyError> {
        heard(self.send(Request::Verify)?).await
    }

    /// Asks for whoever comes by netd's own proxy of a published port: the rules only see the node come. Where nobody can be
    /// asked, he does not pass. Who is through is asked about again when something changes that may shut him out.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let policies = self.clone();
        let gate = Gate::new(move |client, target, _| {
            let policies = policies.clone();
            async move { policies.lets_in(client.ip().to_canonical(), target).await }
        });
        match &self.changes {
            Some(changes) => gate.changing(changes.clone()),
            None => gate,
        }
    }

    /// Only TCP is proxied.
    async fn lets_in(&self, client: IpAddr, target: SocketAddr) -> bool {
        if !self.is_any_in_force() {
            return true;
        }
        let flow = Flow { from: client, to: target.ip(), traffic: Traffic::to(Protocol::Tcp, target.port()) };
        // Between a sandbox and its node, the rules decide.
        let is_node = move |force: &Force| {
            let own = force.compiler.world().nodes.get(force.node());
            own.is_some_and(|node| node.addresses.contains(&client))
        };
        let allows = move |force: &Force| force.compiler.compiled().interpret(Hook::Forward, flow).allowed();
        self.ask(move |force| is_node(force) || allows(force)).await.unwrap_or(false)
    }

    /// Asks about what is in force. `None`: nobody knows, since the thread is gone or was never there.
    pub async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Force) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let asked = move |force: &Force| drop(answer.send(question(force)));
        self.requests.as_ref()?.send(Request::Ask(Box::new(asked))).ok()?;
        answered.await.ok()
    }

    /// The same, for a thread that may wait.
    pub fn ask_and_wait<T: Send + 'static>(&self, question: impl FnOnce(&Force) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = channel();
        let asked = move |force: &Force| drop(answer.send(question(force)));
        self.requests.as_ref()?.send(Request::Ask(Box::new(asked))).ok()?;
        answered.recv().ok()
    }

    /// Without a thread there are no policies, and all is done.
    fn send(&self, request: impl FnOnce(Done) -> Request) -> Result<oneshot::Receiver<DoneResult>, PolicyError> {
        let (done, outcome) = oneshot::channel();
        match &self.requests {
            Some(requests) => requests.send(request(done)).map_err(|_| PolicyError::Stopped)?,
            None => drop(done.send(Ok(()))),
        }
        Ok(outcome)
    }
}

type DoneResult = Result<(), Arc<ExecutorError>>;

async fn heard(done: oneshot::Receiver<DoneResult>) -> Result<(), PolicyError> {
    done.await.map_err(|_| PolicyError::Stopped)?.map_err(PolicyError::Kernel)
}

#[cfg(test)]
mod tests;
