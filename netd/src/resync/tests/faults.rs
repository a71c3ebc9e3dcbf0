//! What one attachment cannot have done keeps nothing from the others, and what was not finished is finished later.

use std::fs::File;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use netd_kernel::{Flow, Publication};

use super::super::ResyncError;
use super::*;
use crate::policies::Policies;
use crate::ports::Ports;
use crate::ports::tests::{on_a_node, reserve};
use crate::reaper;

const PATIENCE: Duration = Duration::from_secs(20);

async fn fresh(folder: &Path) -> Rig {
    restarted(folder, &Arc::new(FakeKernel::new())).await
}

impl Rig {
    fn has(&self, key: &Key) -> bool {
        self.kernel.observe(Scope::Node).unwrap().contains_key(key)
    }
}

/// The owner answers by the one worker that there is.
#[test]
fn a_vlans_gateway_goes_and_comes_without_anybody_waiting_for_ever() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let rig = Arc::new(fresh(folder.path()).await);
            let coming_and_going: Vec<_> = (1..=4_u64)
                .map(|number| {
                    let rig = Arc::clone(&rig);
                    tokio::spawn(async move {
                        let container = format!("c{number}");
                        for _ in 0..100 {
                            let wanted = wanted(VLAN, &container, number);
                            let key = wanted.key.clone();
                            rig.lifecycle.attach(wanted, rig.kernel.sandbox(number)).await.unwrap();
                            assert!(rig.has(&Key::GatewayLink(LinkName::new("br0.10").unwrap())));
                            rig.lifecycle.detach(key, true).await.unwrap();
                        }
                    })
                })
                .collect();
            for one in coming_and_going {
                one.await.unwrap();
            }
            rig.agrees(0, 0).await;
        });
        done.send(()).unwrap();
    });
    is_done.recv_timeout(PATIENCE).expect("everybody waits for everybody");
}

#[tokio::test]
async fn a_gateway_that_is_needed_again_while_it_goes_stays() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let attach =
        async |container, netns| rig.lifecycle.attach(wanted(VLAN, container, netns), rig.kernel.sandbox(netns)).await;
    let link = LinkName::new("br0.10").unwrap();
    attach("a", 1).await.unwrap();
    let gone = rig.lifecycle.owner.drain(wanted(VLAN, "a", 1).key).await.unwrap().unwrap();
    rig.lifecycle.executor.doubt_gateway(&link).unwrap();
    attach("b", 2).await.unwrap();
    rig.lifecycle.executor.remove_gateway(&link).unwrap();
    assert!(rig.has(&Key::GatewayLink(link.clone())), "{}", rig.kernel);
    rig.lifecycle.finish(gone.clone()).await.unwrap();
    assert!(rig.has(&Key::GatewayLink(link.clone())), "{}", rig.kernel);
    rig.lifecycle.detach(wanted(VLAN, "b", 2).key, true).await.unwrap();
    reaper::remove_gateway(&rig.lifecycle.owner, &rig.lifecycle.executor, &gone).await.unwrap();
    assert!(!rig.has(&Key::GatewayLink(link)), "{}", rig.kernel);
}

fn veth(attachment: &Attachment) -> Key {
    Key::Veth(attachment.wiring.as_ref().unwrap().host_link.clone())
}

fn masquerade(attachment: &Attachment) -> Key {
    Key::Masquerade(attachment.leases[0].address.addr(), LinkName::new("br0").unwrap())
}

#[tokio::test]
async fn one_that_cannot_be_finished_keeps_nothing_else_from_a_resync_or_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let (stuck, stays) = (rig.attach("stuck", 1).await.unwrap(), rig.attach("stays", 2).await.unwrap());
    let other = rig.attach("other", 3).await.unwrap();
    for key in [&stuck.key, &other.key] {
        rig.lifecycle.owner.drain(key.clone()).await.unwrap();
    }
    rig.kernel.refuse(veth(&stuck));
    rig.kernel.apply(&[Step::Delete(masquerade(&stays))], None).unwrap();
    let error = run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap_err();
    assert!(matches!(error, ResyncError::Lifecycle(_)) && error.spares_the_rules(), "{error:?}");
    assert!(rig.has(&masquerade(&stays)) && !rig.has(&veth(&other)), "{}", rig.kernel);
    // At the start one more is given up.
    let Attached::New { attachment: given_up, .. } =
        rig.lifecycle.owner.attach(wanted(WEB, "given-up", 4)).await.unwrap()
    else {
        panic!()
    };
    rig.lifecycle.executor.wire(&given_up, &rig.kernel.sandbox(4)).unwrap();
    drop(rig.lifecycle);
    let again = start(folder.path(), &rig.kernel);
    again.kernel.apply(&[Step::Delete(masquerade(&stays))], None).unwrap();
    assert!(run(&again.lifecycle, Exclusivity::Exclusive, false).await.unwrap_err().spares_the_rules());
    assert!(again.has(&masquerade(&stays)) && !again.has(&veth(&given_up)), "{}", again.kernel);
    again.kernel.heal();
    run(&again.lifecycle, Exclusivity::Shared, false).await.unwrap();
    again.agrees(1, 0).await;
}

#[tokio::test]
async fn a_bridge_that_cannot_be_made_keeps_no_other_link_from_being_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    rig.attach("a", 1).await.unwrap();
    let routed = rig.lifecycle.attach(wanted(ROUTED, "r", 2), rig.kernel.sandbox(2)).await.unwrap();
    let (bridge, way) = (
        Key::Bridge(LinkName::new("br0").unwrap()),
        Key::SandboxRoute(routed.wiring.unwrap().host_link, "10.6.0.2".parse().unwrap()),
    );
    rig.kernel.apply(&[Step::Delete(way.clone()), Step::Delete(bridge.clone())], None).unwrap();
    rig.kernel.refuse(bridge);
    assert!(run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap_err().spares_the_rules());
    assert!(rig.has(&way), "{}", rig.kernel);
    rig.kernel.refuse(Key::Ruleset);
    rig.kernel.apply(&[Step::Delete(Key::Masquerade("10.6.0.2".parse().unwrap(), way_link(&way)))], None).unwrap();
    rig.kernel.refuse(Key::Masquerade("10.6.0.2".parse().unwrap(), way_link(&way)));
    assert!(!run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap_err().spares_the_rules());
}

fn way_link(key: &Key) -> LinkName {
    let Key::SandboxRoute(link, _) = key else { panic!("{key:?}") };
    link.clone()
}

impl Rig {
    /// Waits for what goes on behind the answers.
    async fn drained_to(&self, left: &[&Attachment]) {
        let draining = async || -> BTreeSet<_> {
            self.lifecycle.owner.snapshot().await.unwrap().draining.into_iter().map(|one| one.key).collect()
        };
        let expected: BTreeSet<_> = left.iter().map(|one| one.key.clone()).collect();
        let wait = async {
            while draining().await != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("drains: {:?}, expected {expected:?}", draining().await);
        }
    }
}

#[tokio::test]
async fn a_tombstone_that_cannot_be_carried_out_keeps_no_other_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = fresh(folder.path()).await;
    let stones = folder.path().join("tombstones");
    rig.lifecycle = rig.lifecycle.with_tombstones(Tombstones::new(stones.clone()));
    let first = rig.attach("a", 1).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    std::fs::create_dir(&stones).unwrap();
    for container in ["a", "b"] {
        let text = format!(r#"{{"network":"web","container_id":"{container}","interface":"eth0"}}"#);
        std::fs::write(stones.join(format!("web:{container}:eth0.json")), text).unwrap();
    }
    rig.kernel.refuse(veth(&first));
    assert!(bury(&rig.lifecycle).await.unwrap_err().spares_the_rules());
    assert!(stones.join("web:a:eth0.json").exists() && !stones.join("web:b:eth0.json").exists());
    rig.kernel.heal();
    bury(&rig.lifecycle).await.unwrap();
    assert!(!stones.join("web:a:eth0.json").exists());
    rig.drained_to(&[]).await;
    rig.agrees(0, 0).await;
}

fn published(host: u16) -> Key {
    Key::Published(Publication { address: [0, 0, 0, 0].into(), protocol: Protocol::Sctp, port: host })
}

impl Rig {
    async fn detach(&self, container: &str, wait: bool) -> Result<bool, LifecycleError> {
        self.lifecycle.detach(wanted(WEB, container, 0).key, wait).await
    }
}

#[tokio::test]
async fn a_repeated_detach_finishes_what_the_first_could_not() {
    for wait in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let rig = fresh(folder.path()).await;
        rig.attach("a", 1).await.unwrap();
        rig.publish("a", 1, 8080).await.unwrap();
        rig.kernel.refuse(published(8080));
        rig.detach("a", wait).await.unwrap_err();
        rig.detach("a", wait).await.unwrap_err();
        assert!(rig.has(&published(8080)));
        rig.kernel.heal();
        assert!(rig.detach("a", wait).await.unwrap());
        assert!(!rig.has(&published(8080)), "it still leads to the dead sandbox: {}", rig.kernel);
        rig.drained_to(&[]).await;
        assert!(!rig.detach("a", wait).await.unwrap());
        rig.agrees(0, 0).await;
    }
}

/// It was closed once, and the port is somebody else's by then.
#[tokio::test]
async fn what_still_drains_takes_no_port_from_whoever_has_it_now() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let stuck = rig.attach("stuck", 1).await.unwrap();
    rig.publish("stuck", 1, 8080).await.unwrap();
    rig.kernel.refuse(veth(&stuck));
    rig.detach("stuck", false).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    rig.publish("b", 2, 8080).await.unwrap();
    assert!(rig.has(&published(8080)));
    rig.detach("stuck", true).await.unwrap_err();
    assert!(rig.has(&published(8080)), "{}", rig.kernel);
    run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap_err();
    assert!(rig.has(&published(8080)), "{}", rig.kernel);
    rig.kernel.heal();
    rig.detach("stuck", true).await.unwrap();
    rig.agrees(1, 1).await;
}

#[tokio::test]
async fn a_repeated_detach_of_another_plugins_interface_takes_its_ports_away() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let key = rig.publish_foreign(1, "192.0.2.9", 8080).await.unwrap().key;
    rig.kernel.refuse(published(8080));
    rig.lifecycle.detach(key.clone(), false).await.unwrap_err();
    assert!(rig.has(&published(8080)));
    rig.kernel.heal();
    assert!(rig.lifecycle.detach(key, false).await.unwrap());
    assert!(!rig.has(&published(8080)), "{}", rig.kernel);
    rig.attach("b", 2).await.unwrap();
    rig.publish("b", 2, 8080).await.unwrap();
    rig.agrees(1, 1).await;
}

impl Rig {
    /// Publishes for an interface that another plugin made.
    async fn publish_foreign(&self, netns: u64, address: &str, host: u16) -> Result<Attachment, LifecycleError> {
        let key = wanted(WEB, "foreign", netns).key;
        let addresses = vec![address.parse().unwrap()];
        let follower = Follower { key, netns: NetnsId(netns), netns_path: String::new(), addresses };
        let port = PortMapping { host, container: 80, protocol: Protocol::Sctp, host_ip: None };
        self.lifecycle.extend(follower, Extension::Ports(vec![port]), self.kernel.sandbox(netns)).await
    }

    fn leads_to(&self, port: u16) -> Option<Object> {
        self.kernel.observe(Scope::Node).unwrap().get(&published(port)).cloned()
    }
}

#[tokio::test]
async fn what_published_for_another_plugins_interface_goes_when_a_new_sandbox_has_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    rig.publish_foreign(1, "192.0.2.8", 8080).await.unwrap();
    rig.publish_foreign(2, "192.0.2.9", 8081).await.unwrap();
    assert!(!rig.has(&published(8080)), "{}", rig.kernel);
    rig.attach("b", 5).await.unwrap();
    rig.publish("b", 5, 8080).await.unwrap();
    let before = rig.leads_to(8081).unwrap();
    rig.publish_foreign(3, "192.0.2.10", 8081).await.unwrap();
    assert_ne!(rig.leads_to(8081).unwrap(), before, "it leads to the new sandbox");
    // The same port of the same address is left as it is.
    rig.publish_foreign(4, "192.0.2.10", 8081).await.unwrap();
    rig.detach("foreign", true).await.unwrap();
    rig.agrees(1, 1).await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_take_the_place_of_another_does_not_publish() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    rig.publish_foreign(1, "192.0.2.8", 8080).await.unwrap();
    rig.kernel.refuse(published(8080));
    rig.publish_foreign(2, "192.0.2.9", 8081).await.unwrap_err();
    assert!(!rig.has(&published(8081)), "{}", rig.kernel);
    rig.kernel.heal();
    run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap();
    assert!(!rig.has(&published(8080)), "{}", rig.kernel);
    rig.attach("b", 5).await.unwrap();
    rig.publish("b", 5, 8080).await.unwrap();
    rig.agrees(1, 1).await;
}

#[tokio::test]
async fn a_link_that_cannot_be_deleted_keeps_only_its_own_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let stuck = rig.attach("stuck", 1).await.unwrap();
    for (number, container) in (2..).zip(["a", "b", "c"]) {
        rig.attach(container, number).await.unwrap();
    }
    rig.kernel.refuse(veth(&stuck));
    for container in ["a", "stuck", "b", "c"] {
        rig.detach(container, false).await.unwrap();
    }
    rig.drained_to(&[&stuck]).await;
    rig.kernel.heal();
    run(&rig.lifecycle, Exclusivity::Shared, false).await.unwrap();
    rig.agrees(0, 0).await;
}

impl Rig {
    fn flows_of(&self, attachment: &Attachment) -> usize {
        self.kernel.flows(&attachment.addresses().collect()).unwrap().len()
    }

    fn open_flow(&self, attachment: &Attachment, port: u16) {
        let inside = (attachment.leases[0].address.addr(), port);
        let outside = (IpAddr::from([192, 0, 2, 7]), 443);
        self.kernel.open(Flow { protocol: 6, opener: inside, answerer: outside, asked: outside });
    }
}

#[tokio::test]
async fn an_address_that_its_container_uses_again_loses_its_old_connections_first_and_no_new_ones() {
    for is_detached in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let rig = fresh(folder.path()).await;
        let before = rig.attach("a", 1).await.unwrap();
        rig.open_flow(&before, 1);
        if is_detached {
            rig.detach("a", false).await.unwrap();
        }
        let again = rig.attach("a", 2).await.unwrap();
        assert_eq!(again.leases, before.leases);
        assert_eq!(rig.flows_of(&again), 0, "the old sandbox's");
        rig.open_flow(&again, 2);
        rig.drained_to(&[]).await;
        assert_eq!(rig.flows_of(&again), 1, "it was used again by then");
        rig.detach("a", true).await.unwrap();
        assert_eq!(rig.flows_of(&again), 0);
    }
}

#[tokio::test]
async fn a_mended_attachment_keeps_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let damaged = rig.attach("a", 1).await.unwrap();
    rig.open_flow(&damaged, 1);
    rig.kernel.apply(&[Step::Delete(veth(&damaged))], None).unwrap();
    assert!(rig.lifecycle.mend(damaged.key.clone(), rig.kernel.sandbox(1)).await.unwrap());
    rig.drained_to(&[]).await;
    assert_eq!(rig.flows_of(&damaged), 1);
}

/// Where this process has the file open.
fn descriptor_of(file: &Path) -> RawFd {
    let file = file.canonicalize().unwrap();
    let all = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let mut found = all.filter(|link| std::fs::read_link(link).is_ok_and(|target| target == file));
    found.next().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// Puts another file in a descriptor's place. Returns what was there.
#[expect(unsafe_code, reason = "the descriptor is the journal's own: that is the point")]
fn exchange(descriptor: RawFd, file: impl AsFd) -> OwnedFd {
    // SAFETY: the journal is open for as long as its owner lives, and that is longer than the test.
    unsafe {
        let before = BorrowedFd::borrow_raw(descriptor).try_clone_to_owned().unwrap();
        let _same = nix::unistd::dup2_raw(file, descriptor).unwrap().into_raw_fd();
        before
    }
}

#[tokio::test]
async fn an_attach_that_cannot_be_recorded_as_wired_leaves_no_link_and_no_rules() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    rig.attach("stays", 1).await.unwrap();
    let journal = descriptor_of(&folder.path().join("journal"));
    let (keep, kept) = tokio::sync::oneshot::channel();
    let disk_is_full = async move {
        drop(keep.send(exchange(journal, File::options().write(true).open("/dev/full").unwrap())));
        None
    };
    let attached = rig.lifecycle.attach_asking(wanted(WEB, "a", 2), rig.kernel.sandbox(2), disk_is_full).await;
    assert!(matches!(attached, Err(LifecycleError::Owner(_))), "{attached:?}");
    assert_eq!(rig.count(|key| matches!(key, Key::Veth(_) | Key::Masquerade(..))), 2, "{}", rig.kernel);
    exchange(journal, kept.await.unwrap());
    // Whoever asked takes it back, as the specification wants.
    rig.detach("a", true).await.unwrap();
    rig.agrees(1, 0).await;
}

#[tokio::test]
async fn a_port_that_an_extension_takes_away_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    rig.attach("a", 1).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    rig.publish("a", 1, 8080).await.unwrap();
    rig.publish("a", 1, 8081).await.unwrap();
    rig.publish("b", 2, 8080).await.unwrap();
    rig.publish("b", 2, 8081).await.unwrap_err();
    rig.agrees(2, 2).await;
}

#[tokio::test]
async fn an_extension_that_policies_do_not_admit_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = fresh(folder.path()).await;
    rig.attach("a", 1).await.unwrap();
    rig.attach("b", 2).await.unwrap();
    let before = rig.publish("a", 1, 8080).await.unwrap();
    let sound = rig.lifecycle.clone();
    rig.lifecycle = rig.lifecycle.with_policies(Policies::stopped());
    let error = rig.publish("a", 1, 8081).await.unwrap_err();
    assert!(matches!(error, LifecycleError::Policy { .. }), "{error:?}");
    rig.lifecycle = sound;
    assert_eq!(rig.lifecycle.owner.one(before.key.clone()).await.unwrap(), Some(before));
    assert!(rig.has(&published(8080)) && !rig.has(&published(8081)), "{}", rig.kernel);
    rig.publish("b", 2, 8081).await.unwrap();
    rig.agrees(2, 2).await;
}

#[tokio::test]
async fn nobody_waits_for_what_is_no_namespace_at_a_namespaces_path() {
    let folder = tempfile::tempdir().unwrap();
    let rig = fresh(folder.path()).await;
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let attached = Attachment { netns_path: fifo.to_str().unwrap().to_owned(), ..rig.attach("a", 1).await.unwrap() };
    let looked = tokio::time::timeout(PATIENCE, rig.lifecycle.sandbox_of(&attached)).await;
    // Whoever waits all the same waits for this.
    drop(File::options().read(true).write(true).open(&fifo).unwrap());
    assert!(looked.expect("it waits for a writer").is_none());
}

#[test]
fn a_port_is_taken_over_when_it_is_its_attachments_turn() {
    on_a_node(async || {
        let folder = tempfile::tempdir().unwrap();
        let mut rig = fresh(folder.path()).await;
        let state = folder.path().join("nerdctl/default/abc");
        std::fs::create_dir_all(&state).unwrap();
        rig.lifecycle = rig.lifecycle.with_ports(Ports::new(&folder.path().join("nerdctl")));
        let end = reserve(&state, &["0.0.0.0:8080"]);
        let key = rig.attach("default-abc", 1).await.unwrap().key;
        let follower =
            Follower { key: key.clone(), netns: NetnsId(1), netns_path: String::new(), addresses: Vec::new() };
        let port = PortMapping { host: 8080, container: 80, protocol: Protocol::Tcp, host_ip: None };
        rig.lifecycle.extend(follower, Extension::Ports(vec![port]), rig.kernel.sandbox(1)).await.unwrap();
        end();
        let turn = rig.lifecycle.turns.take(&key).await;
        let early = tokio::time::timeout(Duration::from_millis(100), rig.lifecycle.take_over_ports()).await;
        assert!(early.is_err() && TcpListener::bind("0.0.0.0:8080").is_ok(), "somebody else works on it");
        drop(turn);
        rig.lifecycle.take_over_ports().await;
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());
    });
}
