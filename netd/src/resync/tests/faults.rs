//! What one attachment cannot have done keeps nothing from the others, and what was not finished is finished later.

use std::time::Duration;

use super::*;
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
    rig.lifecycle.executor.doubt(&link).unwrap();
    attach("b", 2).await.unwrap();
    rig.lifecycle.executor.retire(&link).unwrap();
    assert!(rig.has(&Key::GatewayLink(link.clone())), "{}", rig.kernel);
    rig.lifecycle.finish(gone.clone()).await.unwrap();
    assert!(rig.has(&Key::GatewayLink(link.clone())), "{}", rig.kernel);
    rig.lifecycle.detach(wanted(VLAN, "b", 2).key, true).await.unwrap();
    reaper::retire(&rig.lifecycle.owner, &rig.lifecycle.executor, &gone).await.unwrap().unwrap();
    assert!(!rig.has(&Key::GatewayLink(link)), "{}", rig.kernel);
}
