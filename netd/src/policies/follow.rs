//! Puts policies in force, in the order in which nothing passes that should not: first whoever has no labels is held back,
//! then the rules stand, and only without any rule is everybody let go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use netd_config::Quarantine;
use netd_kernel::Kernel;
use thiserror::Error;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use super::apart::Search;
use super::files::PolicyFiles;
use super::watched::Watched;
use super::{Policies, PolicyError};
use crate::attachment::Attachment;
use crate::lifecycle::Lifecycle;
use crate::owner::OwnerError;
use crate::reply::chain;

/// How long to wait before policies that could not be put in force are tried again: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Policies are not in force as their files say.
#[derive(Debug, Error)]
pub enum ForceError {
    /// The owner said no.
    #[error("cannot quarantine containers without labels")]
    Owner(#[from] OwnerError),
    /// The kernel said no.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The reading ended before it was done.
    #[error("the policy files were not read to their end")]
    Reading(#[from] JoinError),
}

/// What `read` reads is in force when this returns. It reads when it is its turn: what was read before somebody else's turn would
/// take back what is in force since.
///
/// # Errors
/// See [`ForceError`]; what was in force before stays, but for changes of files that are not refused by themselves.
pub async fn put_in_force<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    read: impl FnOnce() -> Arc<PolicyFiles> + Send + 'static,
) -> Result<(), ForceError> {
    let _turn = lifecycle.policies.turn().await;
    in_turn(lifecycle, quarantine, read).await
}

/// The same, for one whose turn it is.
pub(crate) async fn in_turn<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    read: impl FnOnce() -> Arc<PolicyFiles> + Send + 'static,
) -> Result<(), ForceError> {
    let policies = &lifecycle.policies;
    let files = spawn_blocking(read).await?;
    policies.live_at(own_addresses());
    let is_any = files.policies().next().is_some();
    lifecycle.quarantine(quarantine.holds(is_any || policies.is_any_in_force())).await?;
    // Those who come and go are told of only while there are policies.
    let alone = if policies.is_any_in_force() { None } else { Some(lifecycle.turns.whole_node().await) };
    let attachments = lifecycle.owner.snapshot().await?.attachments;
    let enforced = enforce(policies, files, attachments).await;
    drop(alone);
    // Those that are refused hold nobody back.
    let is_any = if enforced.is_ok() { is_any } else { policies.is_any_in_force() };
    let held = lifecycle.quarantine(quarantine.holds(is_any)).await;
    enforced?;
    Ok(held?)
}

/// All of it, or, where that is refused and is more than one change, what of it is not. Where nobody had said before which policies
/// there are, a part of them is not taken for all.
async fn enforce(
    policies: &Policies,
    wanted: Arc<PolicyFiles>,
    attachments: Vec<Attachment>,
) -> Result<(), PolicyError> {
    let known = policies.ask(|force| force.is_told.then(|| Arc::clone(&force.files))).await.flatten();
    let error = match policies.enforce(Arc::clone(&wanted), attachments.clone()).await {
        Err(PolicyError::Kernel(error)) => error,
        done => return done,
    };
    let search = known.and_then(|known| Search::new(&known, &wanted, policies.applied(), &chain(&*error)));
    let Some(mut search) = search else { return Err(PolicyError::Kernel(error)) };
    while let Some(next) = search.next() {
        match policies.enforce(Arc::new(next.clone()), attachments.clone()).await {
            Ok(()) => search.take(next),
            Err(PolicyError::Kernel(error)) => search.refuse(&chain(&*error)),
            Err(stopped) => return Err(stopped),
        }
    }
    policies.enforce(Arc::new(search.end()), attachments).await?;
    Err(PolicyError::Kernel(error))
}

/// Puts in force what the files say as netd starts, or, where the kernel refuses that, what was in force last.
///
/// # Errors
/// See [`ForceError`]; the kernel holds what it held.
pub async fn begin<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    watched: &Watched,
) -> Result<(), ForceError> {
    let files = watched.snapshot();
    match put_in_force(lifecycle, quarantine, move || files).await {
        Err(ForceError::Policy(PolicyError::Kernel(error))) => {
            fall_back(lifecycle, quarantine, watched, &chain(&*error)).await
        }
        done => done,
    }
}

/// Goes back to what was in force when a netd last kept it: the kernel refuses what the files say now.
///
/// # Errors
/// See [`ForceError`].
pub async fn fall_back<K: Kernel + 'static>(
    lifecycle: &Lifecycle<K>,
    quarantine: Quarantine,
    watched: &Watched,
    why: &str,
) -> Result<(), ForceError> {
    warn!(why, "the kernel refuses the policies; those that were in force last stay");
    let files = watched.kept().refusing(&watched.snapshot(), |_| why);
    put_in_force(lifecycle, quarantine, move || Arc::new(files)).await
}

/// Follows the files for ever.
pub async fn follow<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, quarantine: Quarantine, watched: &Watched) {
    let mut files = watched.subscribe();
    let mut pause = if lifecycle.policies.troubles().is_empty() { None } else { Some(AGAIN.0) };
    keep(lifecycle, watched).await;
    loop {
        let is_changed = tokio::select! {
            changed = files.changed() => if changed.is_ok() { true } else { return },
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => false,
        };
        let count = files.borrow_and_update().policies().count();
        let (watched, policies) = (watched.clone(), lifecycle.policies.clone());
        let read = {
            let watched = watched.clone();
            // What is broken or refused stays as it is in force, whatever was read since.
            move || Arc::new(watched.read_now(&policies.files_and_wait().unwrap_or_default()))
        };
        let forced = put_in_force(lifecycle, quarantine, read).await;
        // Some of it may hold though not all does.
        keep(lifecycle, &watched).await;
        pause = match forced {
            Ok(()) => {
                info!(policies = count, "in force");
                None
            }
            Err(error) => {
                let next = pause.filter(|_| !is_changed).map_or(AGAIN.0, |pause| (pause * 2).min(AGAIN.1));
                let again_in_secs = next.as_secs();
                let error = &error as &dyn std::error::Error;
                warn!(error, again_in_secs, "not all policies are in force as their files say; netd tries again");
                Some(next)
            }
        };
    }
}

async fn keep<K: Kernel + 'static>(lifecycle: &Lifecycle<K>, watched: &Watched) {
    let (watched, policies) = (watched.clone(), lifecycle.policies.clone());
    let keep = move || policies.files_and_wait().iter().for_each(|files| watched.keep(files));
    // A panic there is in the log.
    drop(spawn_blocking(keep).await);
}

/// All addresses of this node.
#[must_use]
pub fn own_addresses() -> BTreeSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let ip = |address: nix::ifaddrs::InterfaceAddress| {
        let address = address.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    addresses.filter_map(ip).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use netd_config::Quarantine;
    use netd_kernel::{FakeKernel, Kernel, Key, Step, fixed_ruleset};

    use super::{begin, follow};
    use crate::executor::Executor;
    use crate::journal::Journal;
    use crate::lifecycle::Lifecycle;
    use crate::node::Node;
    use crate::node::tests::{WEB, wanted};
    use crate::owner;
    use crate::policies::watched::Watched;
    use crate::policies::{Policies, Settings};

    fn start(folder: &Path, kernel: &Arc<FakeKernel>) -> (Lifecycle<FakeKernel>, Watched) {
        let (journal, records) = Journal::open(&folder.join("journal"), "boot").unwrap();
        let executor = Arc::new(Executor::new(Arc::clone(kernel), BTreeSet::new()));
        let settings = Settings { node: "here".to_owned(), ..Settings::default() };
        let policies = Policies::start(Arc::clone(&executor), settings).unwrap();
        let lifecycle =
            Lifecycle::new(owner::start(Node::replay("nd", records), journal), executor).with_policies(policies);
        (lifecycle, Watched::start(vec![folder.join("policies")], folder.join("kept.json")).unwrap())
    }

    fn policy(name: &str, net: &str) -> String {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, \
             ingress: [{{action: Deny, from: [{{netd/networks: [{net}]}}]}}]}}\n"
        )
    }

    async fn names(lifecycle: &Lifecycle<FakeKernel>) -> Vec<String> {
        let names = lifecycle.policies.ask(|force| force.files.policies().map(|one| one.name.name.clone()).collect());
        names.await.unwrap()
    }

    /// Runs while the files are followed, until `is_so`.
    async fn followed(netd: &(Lifecycle<FakeKernel>, Watched), is_so: impl AsyncFn() -> bool) {
        let done = async {
            while !is_so().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = follow(&netd.0, Quarantine::Policies, &netd.1) => panic!("nobody follows"),
            done = tokio::time::timeout(Duration::from_secs(20), done) => done.unwrap(),
        }
    }

    /// And who is attached meanwhile is, by what was in force; over a restart, and with the file broken by then.
    #[tokio::test]
    async fn a_file_that_the_kernel_refuses_keeps_what_was_in_force_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = Arc::new(FakeKernel::new());
        let (key, object) = fixed_ruleset();
        kernel.apply(&[Step::Create(key, object)], None).unwrap();
        let file = folder.path().join("policies/mine.yaml");
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(&file, policy("good", "192.0.2.0/24")).unwrap();
        let netd = start(folder.path(), &kernel);
        begin(&netd.0, Quarantine::Policies, &netd.1).await.unwrap();
        followed(&netd, async || folder.path().join("kept.json").exists()).await;
        let key =
            kernel.observe(netd_kernel::Scope::Node).unwrap().into_keys().find(|key| matches!(key, Key::Block(..)));
        // Of the block that would be, nothing is known here but that it is another: what goes is refused.
        kernel.refuse(key.unwrap());
        fs::write(&file, policy("bad", "198.51.100.0/24")).unwrap();
        let is_told = |netd: &(Lifecycle<FakeKernel>, Watched)| {
            netd.0.policies.troubles().iter().any(|one| one.contains("mine.yaml: the kernel refuses it: "))
        };
        followed(&netd, async || is_told(&netd)).await;
        assert_eq!(names(&netd.0).await, ["good"]);
        let attached = netd.0.attach(wanted(WEB, "late", 7), kernel.sandbox(7)).await.unwrap();
        let address = attached.leases[0].address.addr();
        let is_isolated = |key: &Key| matches!(key, Key::Isolated(.., at) if *at == address);
        assert!(kernel.observe(netd_kernel::Scope::Node).unwrap().keys().any(is_isolated), "nobody asks about it");
        drop(netd);
        let again = start(folder.path(), &kernel);
        begin(&again.0, Quarantine::Policies, &again.1).await.unwrap();
        assert_eq!((names(&again.0).await, is_told(&again)), (vec!["good".to_owned()], true));
        // It is tried again.
        kernel.heal();
        followed(&again, async || names(&again.0).await == ["bad"]).await;
        assert_eq!(again.0.policies.troubles(), Vec::<String>::new());
        fs::write(&file, "kind: [").unwrap();
        followed(&again, async || !again.0.policies.troubles().is_empty()).await;
        assert_eq!(names(&again.0).await, ["bad"]);
    }
}
