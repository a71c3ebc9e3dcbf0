//! netd dies at every kernel step, with its journal as it was at that moment; then it starts anew, and the caller repeats
//! its request or gives it up. Deaths of the real daemon on the real kernel are netd/tests/crash.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use netd_config::{IngressPolicy, LinkName, PortMapping, Protocol};
use netd_kernel::{
    ApplyError, FakeKernel, Flow, Interface, Kernel, KernelError, Key, LinkFacts, NetnsId, Object, Objects, Port,
    Sandbox, Scope, Step,
};

use super::super::{Exclusivity, run};
use super::{ROUTED, VLAN, WEB};
use crate::attachment::{Attachment, Description, LabelState, State};
use crate::executor::Executor;
use crate::journal::Journal;
use crate::lifecycle::{Lifecycle, LifecycleError};
use crate::node::tests::wanted;
use crate::node::{Extension, Follower, Node, Wanted};
use crate::owner;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Endless,
    /// Steps until death. `late`: death comes when the step after them is asked for; otherwise at once, before anything of
    /// them is recorded.
    Left {
        steps: usize,
        late: bool,
    },
    Over,
}

/// The kernel as one daemon sees it: once that is dead, nothing more is done for it.
#[derive(Debug)]
struct Mortal {
    kernel: Arc<FakeKernel>,
    life: Mutex<Life>,
    journal: PathBuf,
}

impl Mortal {
    fn alive(&self) -> Result<&FakeKernel, KernelError> {
        if *self.life() == Life::Over { Err(KernelError::Injected(0)) } else { Ok(&self.kernel) }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap()
    }

    /// What is recorded after this does not count.
    fn keep_journal(&self) {
        std::fs::copy(&self.journal, self.journal.with_extension("died")).unwrap();
    }
}

impl Kernel for Mortal {
    fn observe(&self, scope: Scope<'_>) -> Result<Objects, KernelError> {
        self.alive()?.observe(scope)
    }

    fn apply(&self, steps: &[Step], sandbox: Option<&Sandbox>) -> Result<(), ApplyError> {
        let mut life = self.life();
        match *life {
            Life::Endless => return self.kernel.apply(steps, sandbox),
            Life::Left { steps: left, late } if steps.len() < left || (late && steps.len() == left) => {
                *life = Life::Left { steps: left - steps.len(), late };
                return self.kernel.apply(steps, sandbox);
            }
            Life::Left { steps: left, .. } => {
                self.kernel.die_at(left);
                drop(self.kernel.apply(steps, sandbox));
                self.kernel.heal();
                self.keep_journal();
                *life = Life::Over;
            }
            Life::Over => {}
        }
        Err(ApplyError { number: 0, step: "the daemon is dead".to_owned(), source: KernelError::Injected(0) })
    }

    fn forget(&self, address: IpAddr, bridge: Option<&LinkName>) -> Result<(), KernelError> {
        self.alive()?.forget(address, bridge)
    }

    fn forget_port(&self, port: u16) -> Result<(), KernelError> {
        self.alive()?.forget_port(port)
    }

    fn flows(&self, addresses: &BTreeSet<IpAddr>) -> Result<Vec<Flow>, KernelError> {
        self.alive()?.flows(addresses)
    }

    fn cut(&self, flows: &[Flow]) -> Result<(), KernelError> {
        self.alive()?.cut(flows)
    }

    fn counts(&self) -> Result<BTreeMap<Key, u64>, KernelError> {
        self.alive()?.counts()
    }

    fn lacking(&self, interface: &LinkName, wanted: &Interface, sandbox: &Sandbox) -> Result<Vec<String>, KernelError> {
        self.alive()?.lacking(interface, wanted, sandbox)
    }

    fn identify(&self, fd: OwnedFd) -> Result<Sandbox, KernelError> {
        self.alive()?.identify(fd)
    }

    fn attached(
        &self,
        host_link: &LinkName,
        bridge: Option<&LinkName>,
        interface: &LinkName,
        sandbox: &Sandbox,
    ) -> Result<LinkFacts, KernelError> {
        self.alive()?.attached(host_link, bridge, interface, sandbox)
    }

    fn mac(&self, link: &LinkName) -> Result<String, KernelError> {
        self.alive()?.mac(link)
    }
}

/// One daemon.
struct Daemon {
    mortal: Arc<Mortal>,
    lifecycle: Lifecycle<Mortal>,
    network: &'static str,
}

impl Daemon {
    fn start(folder: &Path, kernel: &Arc<FakeKernel>, network: &'static str) -> Self {
        let path = folder.join("journal");
        let (journal, records) = Journal::open(&path, "boot").unwrap();
        let node = Node::replay("nd", records);
        let mortal = Arc::new(Mortal { kernel: Arc::clone(kernel), life: Mutex::new(Life::Endless), journal: path });
        let executor = Arc::new(Executor::new(Arc::clone(&mortal), node.guarded().clone()));
        Self { mortal, lifecycle: Lifecycle::new(owner::start(node, journal), executor), network }
    }

    /// After a death, and after the first resync.
    async fn again(folder: &Path, kernel: &Arc<FakeKernel>, network: &'static str) -> Self {
        bring_back(folder);
        let daemon = Self::start(folder, kernel, network);
        run(&daemon.lifecycle, Exclusivity::Exclusive, false).await.unwrap();
        daemon
    }

    fn will_die(&self, steps: usize, late: bool) {
        *self.mortal.life() = Life::Left { steps, late };
    }

    fn is_dead(&self) -> bool {
        *self.mortal.life() == Life::Over
    }

    /// nerdctl's chain: a bridge, or a link of its own, with masquerade, a port, a fence.
    async fn chain(&self, container: &str, netns: u64, host: u16) -> Result<(), LifecycleError> {
        let wanted = wanted(self.network, container, netns);
        let sandbox = || self.mortal.kernel.sandbox(netns);
        let follower = || Follower {
            key: wanted.key.clone(),
            netns: NetnsId(netns),
            netns_path: String::new(),
            addresses: Vec::new(),
        };
        let port = PortMapping { host, container: 80, protocol: Protocol::Sctp, host_ip: None };
        self.lifecycle.attach(wanted.clone(), sandbox()).await?;
        self.lifecycle.extend(follower(), Extension::Ports(vec![port]), sandbox()).await?;
        let fence = Extension::Ingress(IngressPolicy::SameBridge);
        self.lifecycle.extend(follower(), fence, sandbox()).await.map(drop)
    }

    /// Its labels are somebody's to say.
    async fn attach_unlabelled(&self, container: &str, netns: u64) -> Result<Attachment, LifecycleError> {
        let state = LabelState::Pending { source: "nri".to_owned(), due: SystemTime::UNIX_EPOCH };
        let wanted = Wanted { label_state: state, ..wanted(self.network, container, netns) };
        self.lifecycle.attach(wanted, self.mortal.kernel.sandbox(netns)).await
    }

    /// Of each link, whether packets pass by it: the port of a bridge is its door, and a routed one's way.
    fn passes(&self) -> Vec<bool> {
        let objects = self.mortal.kernel.observe(Scope::Node).unwrap();
        let has_way = |link: &LinkName| objects.keys().any(|key| matches!(key, Key::SandboxRoute(by, _) if by == link));
        let passes = |(key, object): (&Key, &Object)| match (key, object) {
            (Key::Veth(link), Object::Veth(veth)) if veth.bridge.is_none() => Some(has_way(link)),
            (Key::Veth(_), Object::Veth(veth)) => Some(veth.port == Port::Open),
            _ => None,
        };
        objects.iter().filter_map(passes).collect()
    }

    async fn detach(&self, container: &str) -> Result<bool, LifecycleError> {
        self.lifecycle.detach(wanted(self.network, container, 0).key, true).await
    }

    fn count(&self, is: impl Fn(&Key) -> bool) -> usize {
        self.mortal.kernel.observe(Scope::Node).unwrap().keys().filter(|key| is(key)).count()
    }

    /// Record and kernel hold these whole chains, and nothing else.
    async fn holds(&self, containers: &[(&str, u64)]) {
        let snapshot = loop {
            let snapshot = self.lifecycle.owner.snapshot().await.unwrap();
            if snapshot.draining.is_empty() {
                break snapshot;
            }
            tokio::task::yield_now().await;
        };
        assert!(snapshot.attachments.iter().all(|attachment| attachment.state == State::Attached));
        let held: Vec<(&str, u64)> =
            snapshot.attachments.iter().map(|one| (one.key.container.as_str(), one.netns.0)).collect();
        assert_eq!(held, containers);
        assert_eq!(snapshot.leases, containers.len());
        for is in [(|key| matches!(key, Key::Veth(_))) as fn(&Key) -> bool, |key| matches!(key, Key::Published(_))] {
            assert_eq!(self.count(is), containers.len(), "{}", self.mortal.kernel);
        }
        // At home are those of a VLAN at the bridge and at the gateway's link.
        let homes = if self.network == VLAN { 2 } else { 1 };
        let masqueraded = self.count(|key| matches!(key, Key::Masquerade(..)));
        assert_eq!(masqueraded, homes * containers.len(), "{}", self.mortal.kernel);
        let gateways = usize::from(self.network == VLAN && !containers.is_empty());
        assert_eq!(self.count(|key| matches!(key, Key::GatewayLink(_))), gateways, "{}", self.mortal.kernel);
        let (fences, ways) = if self.network == ROUTED {
            (containers.len(), containers.len())
        } else {
            (usize::from(!containers.is_empty()), 0)
        };
        assert_eq!(self.count(|key| matches!(key, Key::Fenced(_))), fences);
        for is in
            [(|key| matches!(key, Key::Gateway(..))) as fn(&Key) -> bool, |key| matches!(key, Key::SandboxRoute(..))]
        {
            assert_eq!(self.count(is), ways, "{}", self.mortal.kernel);
        }
        let again = run(&self.lifecycle, Exclusivity::Exclusive, false).await.unwrap();
        assert!(again.is_empty(), "a second resync has work: {again:?}");
    }
}

fn labelled() -> Description {
    Description { state: LabelState::Known { source: "nri".to_owned() }, ..Description::default() }
}

/// What the dead daemon wrote after its death does not count.
fn bring_back(folder: &Path) {
    let journal = folder.join("journal");
    let died = journal.with_extension("died");
    if died.exists() {
        std::fs::rename(died, journal).unwrap();
    }
}

/// Runs `scenario` on each kind of network with every death that it can have; it says whether the daemon died.
async fn at_every_step<F: Future<Output = bool>>(scenario: impl Fn(&'static str, usize, bool) -> F) {
    for (network, late) in [WEB, ROUTED, VLAN].into_iter().flat_map(|network| [(network, false), (network, true)]) {
        let mut steps = 0;
        while scenario(network, steps, late).await {
            steps += 1;
            assert!(steps < 100, "there is no end to it");
        }
        assert!(steps > 3, "it died {steps} times only");
    }
}

#[tokio::test]
async fn a_chain_that_is_repeated_after_a_death_is_whole_and_one_that_is_given_up_leaves_nothing() {
    for repeated in [true, false] {
        at_every_step(|network, steps, late| async move {
            let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
            let daemon = Daemon::again(folder.path(), &kernel, network).await;
            daemon.chain("a", 1, 8080).await.unwrap();
            daemon.will_die(steps, late);
            drop(daemon.chain("b", 2, 8081).await);
            let died = daemon.is_dead();
            let next = Daemon::again(folder.path(), &kernel, network).await;
            if repeated {
                next.chain("b", 2, 8081).await.unwrap();
                next.holds(&[("a", 1), ("b", 2)]).await;
            } else {
                next.detach("b").await.unwrap();
                next.holds(&[("a", 1)]).await;
            }
            died
        })
        .await;
    }
}

#[tokio::test]
async fn the_first_chain_of_a_node_bears_a_death_too() {
    at_every_step(|network, steps, late| async move {
        let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
        let daemon = Daemon::start(folder.path(), &kernel, network);
        daemon.will_die(steps, late);
        drop(daemon.chain("a", 1, 8080).await);
        let died = daemon.is_dead();
        let next = Daemon::again(folder.path(), &kernel, network).await;
        next.chain("a", 1, 8080).await.unwrap();
        next.holds(&[("a", 1)]).await;
        died
    })
    .await;
}

#[tokio::test]
async fn a_detach_is_finished_after_a_death() {
    at_every_step(|network, steps, late| async move {
        let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
        let daemon = Daemon::again(folder.path(), &kernel, network).await;
        daemon.chain("a", 1, 8080).await.unwrap();
        daemon.chain("b", 2, 8081).await.unwrap();
        daemon.will_die(steps, late);
        drop(daemon.detach("b").await);
        let died = daemon.is_dead();
        let next = Daemon::again(folder.path(), &kernel, network).await;
        // The caller heard nothing, and asks again.
        next.detach("b").await.unwrap();
        next.holds(&[("a", 1)]).await;
        died
    })
    .await;
}

#[tokio::test]
async fn the_same_key_in_another_sandbox_moves_wholly_though_netd_dies() {
    at_every_step(|network, steps, late| async move {
        let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
        let daemon = Daemon::again(folder.path(), &kernel, network).await;
        daemon.chain("a", 1, 8080).await.unwrap();
        daemon.chain("b", 2, 8081).await.unwrap();
        daemon.will_die(steps, late);
        drop(daemon.chain("b", 3, 8081).await);
        // Also where only what goes on behind the answer was left.
        while !daemon.is_dead() && !daemon.lifecycle.owner.snapshot().await.unwrap().draining.is_empty() {
            tokio::task::yield_now().await;
        }
        let died = daemon.is_dead();
        let next = Daemon::again(folder.path(), &kernel, network).await;
        next.chain("b", 3, 8081).await.unwrap();
        next.holds(&[("a", 1), ("b", 3)]).await;
        died
    })
    .await;
}

#[tokio::test]
async fn what_is_in_quarantine_passes_nothing_though_netd_dies_and_what_leaves_it_passes_in_the_end() {
    at_every_step(|network, steps, late| async move {
        let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
        let daemon = Daemon::again(folder.path(), &kernel, network).await;
        daemon.lifecycle.quarantine(true).await.unwrap();
        daemon.will_die(steps, late);
        let attached = daemon.attach_unlabelled("a", 1).await;
        assert!(daemon.passes().iter().all(|passes| !passes), "{kernel}");
        if attached.is_ok() {
            drop(daemon.lifecycle.describe("a".to_owned(), labelled()).await);
        }
        let died = daemon.is_dead();
        let next = Daemon::again(folder.path(), &kernel, network).await;
        let found = next.lifecycle.owner.snapshot().await.unwrap().attachments;
        let expected: Vec<bool> = found.iter().map(|one| !one.quarantined).collect();
        assert_eq!(next.passes(), expected, "{kernel}");
        assert!(found.iter().all(|one| one.quarantined == one.is_pending()), "{found:?}");
        next.lifecycle.quarantine(true).await.unwrap();
        next.attach_unlabelled("a", 1).await.unwrap();
        next.lifecycle.describe("a".to_owned(), labelled()).await.unwrap();
        assert_eq!(next.passes(), [true], "{kernel}");
        died
    })
    .await;
}

#[tokio::test]
async fn a_resync_that_dies_is_finished_by_the_next() {
    at_every_step(|network, steps, late| async move {
        let (folder, kernel) = (tempfile::tempdir().unwrap(), Arc::new(FakeKernel::new()));
        leave_a_mess(folder.path(), &kernel, network).await;
        bring_back(folder.path());
        let daemon = Daemon::start(folder.path(), &kernel, network);
        daemon.will_die(steps, late);
        drop(run(&daemon.lifecycle, Exclusivity::Exclusive, false).await);
        let died = daemon.is_dead();
        Daemon::again(folder.path(), &kernel, network).await.holds(&[("whole", 1)]).await;
        died
    })
    .await;
}

/// One whole chain without its rules, a dead sandbox, a detach and an attach that were cut off.
async fn leave_a_mess(folder: &Path, kernel: &Arc<FakeKernel>, network: &'static str) {
    let daemon = Daemon::again(folder, kernel, network).await;
    daemon.chain("whole", 1, 8080).await.unwrap();
    daemon.chain("dead", 2, 8081).await.unwrap();
    daemon.chain("going", 3, 8082).await.unwrap();
    daemon.will_die(1, false);
    drop(daemon.detach("going").await);
    bring_back(folder);
    let next = Daemon::start(folder, kernel, network);
    // With its veth, without its interface.
    next.will_die(2, false);
    let cut = next.chain("coming", 4, 8083).await;
    assert!(next.is_dead(), "{cut:?}");
    kernel.kill_sandbox(NetnsId(2));
    kernel.apply(&[Step::Replace(Key::Ruleset, Object::Ruleset(0))], None).unwrap();
}
