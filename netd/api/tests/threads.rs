//! The threads of the daemon's end: as many as there are callers, and few when they have gone. Alone in its process, whose
//! threads it counts.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netd_api::server::Netd;
use netd_api::{Client, blocking, v1};
use ttrpc::asynchronous::TtrpcContext;

/// Whether a call is carried out on its caller's thread, as the number of attachments.
struct Place;

#[async_trait::async_trait]
impl Netd for Place {
    async fn status(&self, _: &TtrpcContext, _: v1::StatusRequest) -> ttrpc::Result<v1::StatusResponse> {
        let attachments = u64::from(netd_api::is_on_a_callers_thread());
        let elsewhere = tokio::spawn(async { netd_api::is_on_a_callers_thread() }).await;
        assert!(!elsewhere.unwrap_or(true));
        Ok(v1::StatusResponse { attachments, ..v1::StatusResponse::default() })
    }
}

fn threads() -> usize {
    let names = fs::read_dir("/proc/self/task").unwrap();
    let names = names.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "caller").count()
}

fn until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never came to that");
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn everybody_has_a_thread_of_his_own_and_few_stay() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("netd.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(async { netd_api::bind(&socket).unwrap().serve(Arc::new(Place)) }).unwrap();
    let clients: Vec<Client> = (0..20).map(|_| Client::connect(&socket, &[]).unwrap()).collect();
    for client in clients.iter().rev() {
        assert_eq!(client.status(&blocking::StatusRequest::new()).unwrap().attachments, 1);
    }
    assert!(threads() > clients.len());
    drop(clients);
    until(|| threads() <= 4);
    drop(server);
    until(|| threads() == 0);
}
