//! What becomes of an attachment once it is asked for: decided by the owner, made by the executor, each attachment's
//! requests one after another. What is begun is finished, though its caller goes away.
//!
//! ```text
//! attach   (own tombstone carried out ─▶) reserve ─▶ record ─▶ sockets of ports ─▶ rules ─▶ links ─▶ record ─▶ answer
//! detach   record ─▶ port shut, rules away ─▶ sockets away ─▶ answer ─▶ (link away ─▶ addresses free)
//! ```

mod extend;
mod leave;
mod quarantine;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netd_kernel::{Kernel, Sandbox};
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::attachment::{Attachment, AttachmentKey, Description, Facts, State};
use crate::blocking::{blocking, to_its_end};
use crate::coexist::Coexist;
use crate::executor::{Executor, ExecutorError};
use crate::fleet::Fleet;
use crate::ipam::LeaseError;
use crate::node::{AttachError, Attached, Wanted};
use crate::owner::{OwnerError, OwnerHandle, Renewed};
use crate::policies::{Policies, PolicyError};
use crate::ports::{PortError, Ports};
use crate::reaper::{Reaper, ReaperError};
use crate::reply::CUT;
use crate::tombstones::Tombstones;
use crate::turns::{Turn, Turns};

/// How long an attach waits for other nodes to forget who had the address that it asks for.
const UNTIL_FORGOTTEN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why a request was not carried out. What it had begun was taken back.
#[derive(Debug, Error)]
pub enum LifecycleError {
    /// The owner said no.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A port is taken.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The kernel said no.
    #[error("cannot attach {key}")]
    Kernel {
        /// Whose.
        key: Box<AttachmentKey>,
        /// Why.
        source: ExecutorError,
    },
    /// The kernel could not be read or changed.
    #[error("cannot work on the kernel")]
    Executor(#[from] ExecutorError),
    /// A tombstone would later take away what is attached now.
    #[error("cannot remove tombstone {path}, whose detach is carried out; make its directory writable, or remove it")]
    Tombstone {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Who it may speak with could not be made to hold.
    #[error("cannot put the policies of {key} in force")]
    Policy {
        /// Whose.
        key: Box<AttachmentKey>,
        /// Why.
        source: PolicyError,
    },
    /// The worker died.
    #[error("{CUT}")]
    Cut(#[from] JoinError),
}

impl From<ReaperError> for LifecycleError {
    fn from(error: ReaperError) -> Self {
        match error {
            ReaperError::Owner(error) => error.into(),
            ReaperError::Executor(error) => error.into(),
            ReaperError::Cut(error) => error.into(),
        }
    }
}

type Done<T> = Result<T, LifecycleError>;

/// Everything that works on attachments.
#[derive(Debug)]
pub struct Lifecycle<K> {
    /// The owner of Node.
    pub owner: OwnerHandle,
    /// Kernel work.
    pub executor: Arc<Executor<K>>,
    /// Sockets of published ports.
    pub ports: Arc<Ports>,
    /// Who works on what.
    pub turns: Arc<Turns>,
    /// Where links go that nobody waits for.
    pub reaper: Reaper,
    /// Detaches left for netd on disk.
    pub tombstones: Tombstones,
    /// Who may speak with whom.
    pub policies: Policies,
    /// Other programs' firewalls.
    pub coexist: Coexist,
    /// Other nodes.
    pub fleet: Fleet,
    /// What is gone from the record, has no link that would drain, and still has something in the ruleset.
    unclosed: Arc<Mutex<BTreeMap<AttachmentKey, Attachment>>>,
}

impl<K> Clone for Lifecycle<K> {
    fn clone(&self) -> Self {
        Self {
            owner: self.owner.clone(),
            executor: Arc::clone(&self.executor),
            ports: Arc::clone(&self.ports),
            turns: Arc::clone(&self.turns),
            reaper: self.reaper.clone(),
            tombstones: self.tombstones.clone(),
            policies: self.policies.clone(),
            coexist: self.coexist.clone(),
            fleet: self.fleet.clone(),
            unclosed: Arc::clone(&self.unclosed),
        }
    }
}

impl<K: Kernel + 'static> Lifecycle<K> {
    /// All of them around one owner and one executor.
    #[must_use]
    pub fn new(owner: OwnerHandle, executor: Arc<Executor<K>>) -> Self {
        let reaper = Reaper::start(owner.clone(), Arc::clone(&executor));
        let (ports, turns, tombstones) = (Arc::default(), Arc::default(), Tombstones::default());
        let (policies, coexist, fleet) = (Policies::default(), Coexist::default(), Fleet::default());
        let unclosed = Arc::default();
        Self { owner, executor, ports, turns, tombstones, reaper, policies, coexist, fleet, unclosed }
    }

    /// The same, with tombstones to mind.
    #[must_use]
    pub fn with_tombstones(self, tombstones: Tombstones) -> Self {
        Self { tombstones, ..self }
    }

    /// The same, with ports of the caller's making.
    #[must_use]
    pub fn with_ports(self, ports: Ports) -> Self {
        Self { ports: Arc::new(ports), ..self }
    }

    /// The same, with policies to obey.
    #[must_use]
    pub fn with_policies(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    /// The same, with other programs' firewalls to mind.
    #[must_use]
    pub fn with_coexist(self, coexist: Coexist) -> Self {
        Self { coexist, ..self }
    }

    /// The same, among other nodes.
    #[must_use]
    pub fn with_fleet(self, fleet: Fleet) -> Self {
        Self { fleet, ..self }
    }

    /// Attaches, or answers from the record.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn attach(&self, wanted: Wanted, sandbox: Sandbox) -> Done<Attachment> {
        self.attach_asking(wanted, sandbox, std::future::ready(None)).await
    }

    /// The same; `asked` says what the container is. It is waited for once the attachment is wired, before the answer.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn attach_asking<Asked>(&self, wanted: Wanted, sandbox: Sandbox, asked: Asked) -> Done<Attachment>
    where
        Asked: Future<Output = Option<Description>> + Send + 'static,
    {
        let this = self.clone();
        to_its_end(async move {
            let (_turn, attached) = this.reserve(wanted).await?;
            match attached {
                Attached::Already(attachment) => Ok(*attachment),
                Attached::New { attachment, replaces, is_reused, taken: _ } => {
                    if let Err(error) = this.displace(replaces).await {
                        this.give_up(&attachment).await;
                        return Err(error);
                    }
                    if is_reused && let Err(error) = this.forget_flows(&attachment).await {
                        this.give_up(&attachment).await;
                        return Err(error);
                    }
                    this.make(*attachment, sandbox, asked).await
                }
            }
        })
        .await?
    }

    /// Decides, with the key's turn in hand. A network that lacks a block of the fleet's waits for one, out of everybody's way.
    async fn reserve(&self, wanted: Wanted) -> Done<(Turn, Attached)> {
        let since = Instant::now();
        let again = self.fleet.is_on().then(|| wanted.clone());
        let mut next = Some(wanted);
        loop {
            let Some(wanted) = next.take().or_else(|| again.clone()) else { return Err(OwnerError::Stopping.into()) };
            let (network, seen) = (wanted.key.network.clone(), self.fleet.share());
            let turn = self.turns.take(&wanted.key).await;
            // It keeps its addresses until the new one has chosen.
            let buried = self.bury_own(&wanted.key).await?;
            let attached = self.owner.attach(wanted).await;
            buried.into_iter().for_each(|gone| self.reaper.take(gone));
            match attached {
                Err(OwnerError::Attach(AttachError::Lease(LeaseError::SpokenFor { .. }))) if self.waits(since) => {
                    drop(turn);
                    sleep(LOOK_AGAIN).await;
                }
                Err(OwnerError::Attach(AttachError::Share(error))) => {
                    drop(turn);
                    if error.unforgotten() > 0 && self.waits(since) {
                        let more = self.fleet.more(&network, &error, (seen, since));
                        tokio::select! {
                            true = more => {}
                            () = sleep(LOOK_AGAIN) => {}
                        }
                        continue;
                    }
                    if !self.fleet.more(&network, &error, (seen, since)).await {
                        return Err(OwnerError::from(AttachError::from(error)).into());
                    }
                }
                attached => return Ok((turn, attached?)),
            }
        }
    }

    /// Others forget an address in a moment, as a rule.
    fn waits(&self, since: Instant) -> bool {
        self.fleet.is_on() && since.elapsed() < UNTIL_FORGOTTEN
    }

    async fn make(
        &self,
        attachment: Attachment,
        sandbox: Sandbox,
        asked: impl Future<Output = Option<Description>> + Send,
    ) -> Done<Attachment> {
        match self.make_whole(&attachment, sandbox, asked).await {
            Ok(attachment) => {
                self.fleet.stir();
                self.fleet.labels_changed();
                info!(key = %attachment.key, leases = ?attachment.leases, "attached");
                Ok(attachment)
            }
            Err(error) => {
                self.give_up(&attachment).await;
                Err(error)
            }
        }
    }

    async fn make_whole(
        &self,
        attachment: &Attachment,
        sandbox: Sandbox,
        asked: impl Future<Output = Option<Description>> + Send,
    ) -> Done<Attachment> {
        self.prepare(attachment).await?;
        let facts = self.wire(attachment, sandbox).await?;
        let made = self.owner.wired(attachment.key.clone(), facts, asked.await).await?;
        self.admit(&made).await?;
        if made.quarantined != attachment.quarantined {
            self.set_port(&made).await?;
        }
        Ok(made)
    }

    /// Its addresses were its own before, in another sandbox: what connections that one had, this one does not get. Whoever
    /// forgets them behind an answer has either done so by now, or sees that they are in use again.
    async fn forget_flows(&self, attachment: &Attachment) -> Done<()> {
        let _alone = self.reaper.rest().await;
        let (executor, reused) = (Arc::clone(&self.executor), attachment.clone());
        Ok(blocking(move || executor.forget_flows(&reused, &[])).await??)
    }

    /// What is not wired yet would wait for somebody to wire it.
    async fn give_up(&self, attachment: &Attachment) {
        let done = match self.owner.drain(attachment.key.clone()).await {
            Ok(None) => Ok(()),
            Ok(Some(gone)) => match self.close(&gone).await {
                Ok(()) => self.reap(gone).await,
                failed => failed,
            },
            // Its record stays, with its addresses, until a detach; nothing passes, all the same.
            Err(error) => self.clear_beside(attachment, None).await.and(Err(error.into())),
        };
        if let Err(error) = done {
            warn!(key = %attachment.key, error = &error as &dyn std::error::Error, "not wholly taken back");
        }
    }

    /// What policies say of it is in the kernel when this returns. Without its labels it is nobody yet, and held back.
    async fn admit(&self, attachment: &Attachment) -> Done<()> {
        let failed = |source| LifecycleError::Policy { key: Box::new(attachment.key.clone()), source };
        self.policies.admit(attachment).await.map_err(failed)
    }

    /// What has to be so before the first kernel step.
    async fn prepare(&self, attachment: &Attachment) -> Done<()> {
        if !self.executor.forwards(attachment) {
            self.switch_forwarding(attachment).await?;
        }
        if self.policies.is_any_in_force() {
            // What is bridged is told to meet the rules before there is anything to bridge.
            let (executor, wanted) = (Arc::clone(&self.executor), attachment.clone());
            blocking(move || executor.make_shared(&wanted)).await??;
            self.admit(attachment).await?;
        }
        self.coexist.admit(attachment).await;
        Ok(self.ports.hold(attachment).await?)
    }

    async fn switch_forwarding(&self, attachment: &Attachment) -> Done<()> {
        let (executor, wanted) = (Arc::clone(&self.executor), attachment.clone());
        for family in blocking(move || executor.unswitched(&wanted)).await?? {
            self.owner.guard(family).await?;
            self.executor.guard(family);
            info!(?family, "switching forwarding on, for what comes from or goes to a sandbox only");
        }
        Ok(())
    }

    async fn wire(&self, attachment: &Attachment, sandbox: Sandbox) -> Done<Facts> {
        let (executor, wanted) = (Arc::clone(&self.executor), attachment.clone());
        let wired = blocking(move || executor.wire(&wanted, &sandbox)).await?;
        wired.map_err(|source| LifecycleError::Kernel { key: Box::new(attachment.key.clone()), source })
    }

    /// What a reserver of nerdctl's held becomes ours when it has died; while it lives, nothing changes.
    pub async fn take_over_ports(&self) {
        let ports = Arc::clone(&self.ports);
        for key in tokio::task::spawn_blocking(move || ports.left_behind()).await.unwrap_or_default() {
            let _turn = self.turns.take(&key).await;
            if let Ok(Some(attachment)) = self.owner.one(key).await
                && let Err(error) = self.ports.hold(&attachment).await
            {
                warn!(%error, "port not reserved; packets still go to the sandbox");
            }
        }
    }

    /// Makes an attachment again if it is damaged: the same addresses and the same MAC, by a new link. Its rules are said
    /// again in any case. Says whether it was damaged.
    ///
    /// # Errors
    /// See [`LifecycleError`]. One that cannot be made again is detached.
    pub async fn mend(&self, key: AttachmentKey, sandbox: Sandbox) -> Done<bool> {
        let this = self.clone();
        to_its_end(async move {
            let _turn = this.turns.take(&key).await;
            let found = this.owner.one(key).await?;
            let attached = |found: &Attachment| found.state == State::Attached && found.netns == sandbox.id;
            let Some(attachment) = found.filter(attached) else { return Ok(false) };
            // Its ways are said again.
            this.admit(&attachment).await?;
            let (executor, seen) = (Arc::clone(&this.executor), attachment.clone());
            let (sandbox, is_damaged) = blocking(move || {
                executor.restate(&seen)?;
                let is_damaged = executor.is_damaged(&seen, &sandbox)?;
                Ok::<_, ExecutorError>((sandbox, is_damaged))
            })
            .await??;
            if !is_damaged {
                return Ok(false);
            }
            let Some(renewed) = this.owner.renew(attachment.key).await? else { return Ok(false) };
            warn!(key = %renewed.after.key, "damaged: made again");
            this.exchange(renewed, sandbox).await?;
            Ok(true)
        })
        .await?
    }

    async fn exchange(&self, renewed: Renewed, sandbox: Sandbox) -> Done<Attachment> {
        if let Err(error) = self.clear(&renewed.before).await {
            self.give_up(&renewed.after).await;
            return Err(error);
        }
        self.reaper.take(*renewed.before);
        self.make(*renewed.after, sandbox, std::future::ready(None)).await
    }

    /// The link of an attachment is gone and nobody has detached it: with its sandbox, as a rule, and then all of it goes.
    /// Where the sandbox lives, somebody took the link away, and it is made again.
    ///
    /// # Errors
    /// See [`LifecycleError`].
    pub async fn settle(&self, lost: Attachment) -> Done<()> {
        match self.sandbox_of(&lost).await {
            Some(sandbox) => self.mend(lost.key, sandbox).await.map(drop),
            None => self.bury(lost).await,
        }
    }

    /// The attachment's sandbox, if its namespace is still at its path. `None` where netd cannot see the path.
    pub async fn sandbox_of(&self, attachment: &Attachment) -> Option<Sandbox> {
        let (executor, path, id) = (Arc::clone(&self.executor), attachment.netns_path.clone(), attachment.netns);
        let look = blocking(move || {
            let sandbox = executor.identify(open_namespace(&path).ok()?.into()).ok()?;
            (sandbox.id == id).then_some(sandbox)
        });
        look.await.ok().flatten()
    }
}

/// Opens what is to be a namespace. Blocks while its file system does, and is not for the async workers; nothing else at the
/// path is waited for.
///
/// # Errors
/// The file system's.
pub fn open_namespace(path: &str) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}
