//! What the daemon consists of, in the order in which it comes about: the record, the kernel, policies, what the record means,
//! and only then who asks, though he may wait from the beginning. Decisions are in the library.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use netd::allowlist::Allowlist;
use netd::coexist::Coexist;
use netd::executor::Executor;
use netd::fleet::Fleet;
use netd::journal::Journal;
use netd::lease_history::LeaseHistory;
use netd::lifecycle::Lifecycle;
use netd::networks::Networks;
use netd::node::Node;
use netd::policies::drops::Drops;
use netd::policies::follow;
use netd::policies::watched::Watched;
use netd::policies::{Policies, PolicyError, Settings, explain};
use netd::ports::{Ports, Store};
use netd::reservations::Reservations;
use netd::resync::Exclusivity;
use netd::runtime::Runtime;
use netd::server::{PolicyDesk, Service, Unmet};
use netd::tombstones::Tombstones;
use netd::watch::Heard;
use netd::{lease_history, owner, resync, watch, watchdog};
use netd_api::server::Bound;
use netd_config::NodeConfig;
use netd_kernel::{Coexistence, LOG_GROUP, LinuxKernel, LoggedPacket, Notices, Obstacle, PacketLog, Passage};
use nix::fcntl::{Flock, FlockArg};
use tokio::signal::unix::{SignalKind, signal};

use crate::memory;

/// How often record and kernel are compared without being asked.
const RESYNC_EVERY: Duration = Duration::from_secs(30);

/// `file`: where the settings were read.
pub(crate) async fn run(config: NodeConfig, file: &Path) -> Result<()> {
    let tombstones = Path::new(&config.run_dir).join("tombstones");
    let Record { _lock, journal, node, lasting } = open_record(&config, &tombstones)?;
    // Who calls from now on is answered when all is restored.
    let socket = netd_api::bind(Path::new(&config.socket)).with_context(|| {
        format!(
            "cannot listen on {}; it takes a folder that is there, and no other netd or file at that name (socket in netd.toml)",
            config.socket
        )
    })?;
    let kernel = LinuxKernel::new(&config.instance, &config.link_prefix).with_context(|| {
        let instance = &config.instance;
        format!("cannot open netlink, or take over nftables table {instance}: run netd as root, and give a second one an instance of its own")
    })?;
    // Before the first look: what goes after it is heard.
    let (heard, is_shared) = listen_to_node(&config, &kernel, &tombstones)?;
    let executor = Arc::new(Executor::new(Arc::new(kernel), node.guarded().clone()));
    let (name, fleet) = fleet(&config, file)?;
    let (namespaces, denied, applied) = (config.namespaces.clone(), config.denied, applied(&config));
    let settings = Settings { node: name, namespaces, denied, applied };
    let policies = Policies::start(Arc::clone(&executor), settings).context("cannot start the policies' thread")?;
    let lifecycle = Lifecycle::new(owner::start(node, journal), executor)
        .with_tombstones(Tombstones::new(tombstones))
        .with_ports(Ports::default().with_store(Store::open()).with_gate(policies.gate()))
        .with_policies(policies)
        .with_coexist(coexist(&config)?)
        .with_fleet(fleet);
    let kept = Path::new(&config.state_dir).join("policies.json");
    let watched =
        Watched::start(policy_directories(&config), kept).context("cannot watch the directory of policies")?;
    restore(&lifecycle, &config, &watched).await?;

    let (ending, end) = tokio::sync::oneshot::channel::<()>();
    let keeping = lease_history::keep(lifecycle.owner.clone(), lasting, async move { drop(end.await) });
    let keeping = tokio::spawn(keeping);
    serve(socket, &config, &lifecycle, (heard, watched), is_shared).await?;
    drop(ending);
    keeping.await.context("the keeper of leases died")
}

/// What outlives a netd, of this boot and of others.
struct Record {
    _lock: Flock<fs::File>,
    journal: Journal,
    node: Node,
    lasting: LeaseHistory,
}

fn open_record(config: &NodeConfig, tombstones: &Path) -> Result<Record> {
    let run_dir = Path::new(&config.run_dir);
    fs::create_dir_all(tombstones).with_context(|| format!("cannot make {}", tombstones.display()))?;
    fs::set_permissions(run_dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot keep {} for root alone; see run_dir in netd.toml", run_dir.display()))?;
    let twice = || format!("another netd uses {}; give this one its own instance and run_dir", run_dir.display());
    let _lock = lock(run_dir, twice)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    let (journal, records) = Journal::open(&run_dir.join("journal"), &boot_id)?;
    let node = Node::replay(&config.link_prefix, records);
    let mut node = if config.spoof_guard { node } else { node.without_spoof_guard() };
    let (lasting, last) = LeaseHistory::open(Path::new(&config.state_dir), SystemTime::now());
    node.recall(last);
    Ok(Record { _lock, journal, node, lasting })
}

/// What others do to kernel and tombstones; and whether they can take netd's rules away.
fn listen_to_node(config: &NodeConfig, kernel: &LinuxKernel, tombstones: &Path) -> Result<(Heard, bool)> {
    let notices = listen_to_kernel(config)?;
    let changes = kernel.changes().context("cannot listen to what others do to nftables")?;
    let is_shared = changes.is_some();
    if is_shared {
        tracing::info!(
            "this kernel lets others take netd's rules away (older than 6.9); netd makes them again at once"
        );
    }
    let others = kernel.others().context("cannot listen to other programs' nftables")?;
    let heard = watch::listen(watch::Ears { notices, changes, others, tombstones })
        .with_context(|| format!("cannot watch {}", tombstones.display()))?;
    Ok((heard, is_shared))
}

/// Answers who asks, and follows what is heard, until it is told to stop.
async fn serve(
    socket: Bound,
    config: &NodeConfig,
    lifecycle: &Lifecycle<LinuxKernel>,
    (heard, watched): (Heard, Watched),
    is_shared: bool,
) -> Result<()> {
    let networks = Networks::watch(config.conf_dirs.iter().map(PathBuf::from).collect())
        .context("cannot watch the network directories")?;
    let runtime = Runtime::new(&config.containerd_socket);
    let drops = listen_to_drops(&lifecycle.policies);
    let service = Arc::new(Service {
        lifecycle: lifecycle.clone(),
        reservations: Arc::new(Reservations::default()),
        networks: networks.clone(),
        runtime: runtime.clone(),
        desk: PolicyDesk { directories: policy_directories(config), quarantine: config.quarantine, drops },
        unmet: Unmet::default(),
        sysctls: Allowlist::default(),
        instance: config.instance.clone(),
    });
    let _server = socket.serve(service).context("cannot serve callers")?;
    tracing::info!(socket = config.socket, instance = config.instance, "ready");
    // Outside systemd there is nobody to tell.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    watchdog::start(lifecycle.owner.clone());
    until_stopped(async {
        tokio::join!(
            heard.follow(lifecycle),
            lifecycle.coexist.follow(),
            runtime.follow(lifecycle),
            follow::follow(lifecycle, config.quarantine, &watched),
            lifecycle.fleet.follow(lifecycle, &networks),
            lifecycle.fleet.acquaint(lifecycle),
            look_around(lifecycle, &runtime, is_shared),
            memory::keep_small(),
        );
    })
    .await
}

/// Makes the kernel what the record says, before anybody is answered.
async fn restore(lifecycle: &Lifecycle<LinuxKernel>, config: &NodeConfig, watched: &Watched) -> Result<()> {
    force(lifecycle, config, watched).await?;
    if let Err(error) = rules(lifecycle).await {
        // A ruleset that is made anew is made with its policies, which may be what is refused.
        follow::fall_back(lifecycle, config.quarantine, watched, &netd_api::chain(&error)).await?;
        let made = rules(lifecycle).await;
        made.context("cannot make the rules of the record; `netdctl doctor` says what this kernel lacks")?;
    }
    lifecycle.policies.settle().await.context("cannot write the policies")?;
    // Ahead of who asks: no address is given that is not this node's.
    lifecycle.fleet.begin(lifecycle).await.context("cannot begin with the fleet")?;
    if let Err(error) = resync::bury(lifecycle).await {
        tracing::warn!(%error, "tombstones remain");
    }
    lifecycle.coexist.begin(&lifecycle.owner.snapshot().await?.attachments).await;
    hold_ports(lifecycle).await
}

/// A link that cannot be put right is in the log, and the next resync tries again: the others are not kept waiting for it.
async fn rules(lifecycle: &Lifecycle<LinuxKernel>) -> Result<(), resync::ResyncError> {
    match resync::run(lifecycle, Exclusivity::Exclusive, false).await {
        Err(error) if error.spares_the_rules() => Ok(()),
        resynced => resynced.map(drop),
    }
}

/// Ahead of the links and rules of the record: a ruleset that is made anew is made with what is the fleet's and with its
/// policies, and they with whom they select on other nodes.
async fn force(lifecycle: &Lifecycle<LinuxKernel>, config: &NodeConfig, watched: &Watched) -> Result<()> {
    lifecycle.fleet.look().await.context("cannot look for the ways to other nodes")?;
    lifecycle.fleet.recall(lifecycle).await;
    let forced = follow::begin(lifecycle, config.quarantine, watched).await;
    forced.context("cannot put the policies in force; `netdctl doctor` says what this kernel lacks")
}

/// The host's name, and its part in the fleet.
fn fleet(config: &NodeConfig, file: &Path) -> Result<(String, Fleet)> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").context("cannot read the node's name")?;
    let name = name.trim().to_owned();
    let fleet = Fleet::start(config, file, &name).context("cannot be part of the fleet")?;
    Ok((name, fleet))
}

/// Routes to other nodes are heard of where there are such.
fn listen_to_kernel(config: &NodeConfig) -> Result<Notices> {
    let notices = Notices::open();
    let notices = if config.fleet.is_on() { notices.and_then(Notices::with_routes) } else { notices };
    notices.context("cannot listen to the kernel's notices")
}

fn coexist(config: &NodeConfig) -> Result<Coexist> {
    let kernel = Coexistence::open(&config.instance).context("cannot ask for other programs' nftables")?;
    Ok(Coexist::new(kernel, config.coexist, &config.link_prefix))
}

/// Takes away what netd put among other programs' rules.
pub(crate) fn withdraw(config: &NodeConfig) -> Result<()> {
    let run_dir = Path::new(&config.run_dir);
    let runs = || {
        format!(
            "netd uses {} and would put its rules back; stop it first: `systemctl disable --now netd`",
            run_dir.display()
        )
    };
    let _alone = run_dir.exists().then(|| lock(run_dir, runs)).transpose()?;
    let mut kernel = Coexistence::open(&config.instance).context("cannot ask for other programs' nftables")?;
    let obstacles = kernel.settle(None).context("cannot ask for other programs' nftables")?;
    let refused =
        obstacles.iter().find_map(|one| if let Passage::Refused(why) = &one.passage { Some((one, why)) } else { None });
    if let Some((Obstacle { family, table, .. }, why)) = refused {
        bail!("cannot take netd's rules out of nftables table {family} {table}: {why}");
    }
    Ok(())
}

/// The user's, and those that netd keeps for `netdctl policy apply`.
fn policy_directories(config: &NodeConfig) -> Vec<PathBuf> {
    vec![PathBuf::from(&config.policies_dir), applied(config)]
}

fn applied(config: &NodeConfig) -> PathBuf {
    Path::new(&config.state_dir).join("policies")
}

/// Denied packets are denied whether netd hears of them or not.
fn listen_to_drops(policies: &Policies) -> Drops {
    let policies = policies.clone();
    let tell = move |packet: &LoggedPacket| {
        let packet = packet.clone();
        let told = policies
            .ask_and_wait(move |force| explain::told_of(force.compiler.world(), force.compiler.policies(), &packet));
        told.unwrap_or_default()
    };
    PacketLog::open(LOG_GROUP).and_then(|log| Drops::listen(log, tell)).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot listen to denied packets: `netdctl drops` stays empty");
        Drops::default()
    })
}

/// Finds what nobody told. Of policies all is looked at where others can change them (`is_shared`), else which bridges meet them.
async fn look_around(lifecycle: &Lifecycle<LinuxKernel>, runtime: &Runtime, is_shared: bool) {
    loop {
        tokio::time::sleep(RESYNC_EVERY).await;
        if let Err(error) = resync::bury(lifecycle).await {
            tracing::warn!(%error, "tombstones remain");
        }
        lifecycle.take_over_ports().await;
        if let Err(error) = resync::run(lifecycle, Exclusivity::Shared, false).await {
            tracing::warn!(%error, "resync failed; the next one tries again");
        }
        lifecycle.policies.live_at(follow::own_addresses());
        if lifecycle.policies.is_any_in_force()
            && let Err(error) = look_at_policies(lifecycle, is_shared).await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "policies not looked at; the next round tries again"
            );
        }
        if let Err(error) = runtime.look_around(lifecycle).await {
            tracing::warn!(%error, "not freed; the next round tries again");
        }
    }
}

async fn look_at_policies(lifecycle: &Lifecycle<LinuxKernel>, is_shared: bool) -> Result<(), PolicyError> {
    if is_shared { lifecycle.policies.verify().await } else { lifecycle.policies.filter_again().await }
}

/// The sockets that the service manager kept, or new ones. What another process took meanwhile stays published, and is
/// reported.
async fn hold_ports(lifecycle: &Lifecycle<LinuxKernel>) -> Result<()> {
    for attachment in lifecycle.owner.snapshot().await?.attachments {
        if let Err(error) = lifecycle.ports.hold(&attachment).await {
            tracing::warn!(%error, "port not reserved; packets still go to the sandbox");
        }
    }
    lifecycle.ports.leave_unclaimed().await;
    Ok(())
}

/// One netd an instance; `taken` says what it is to who finds another there.
fn lock(run_dir: &Path, taken: impl FnOnce() -> String) -> Result<Flock<fs::File>> {
    let path = run_dir.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error).with_context(taken)
}

async fn until_stopped(work: impl Future<Output = ()>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = work => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
