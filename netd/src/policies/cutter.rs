//! The thread that reads conntrack for flows which may have lost their permission: that takes up to 10 ms, for which no change
//! of policies waits. What is to be cut of them the enforcer says, by what is in force then.
//!
//! ```text
//! enforcer ─ whose flows? ─▶ cutter ─ conntrack ─▶ these flows ─▶ enforcer: those denied are cut, then answers
//! ```

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, sleep};
use std::time::Duration;

use netd_kernel::Kernel;
use tracing::warn;

use super::enforcer::{Done, Request};
use crate::executor::Executor;

/// The kernel walks through conntrack without letting go of the processor, which those who were answered may need: measured
/// on two, they waited 5 ms.
const ANSWER_FIRST: Duration = Duration::from_micros(500);

/// Who is looked for, and who is answered when all is cut.
#[derive(Debug, Default)]
pub(super) struct Errand {
    /// The addresses of those whose flows may have lost their permission.
    pub(super) judged: BTreeSet<IpAddr>,
    /// Whoever changed policies is told when they hold wholly.
    pub(super) waiting: Vec<Done>,
}

/// Starts the thread; it ends with the sender. `enforcer` is not kept alive by it.
pub(super) fn start<K: Kernel + 'static>(
    executor: Arc<Executor<K>>,
    enforcer: Weak<Sender<Request>>,
) -> io::Result<Sender<Errand>> {
    let (errands, receiver) = channel();
    thread::Builder::new().name("cutter".to_owned()).spawn(move || run(&executor, &enforcer, &receiver))?;
    Ok(errands)
}

fn run<K: Kernel>(executor: &Executor<K>, enforcer: &Weak<Sender<Request>>, errands: &Receiver<Errand>) {
    while let Ok(mut errand) = errands.recv() {
        sleep(ANSWER_FIRST);
        for more in errands.try_iter() {
            errand.judged.extend(more.judged);
            errand.waiting.extend(more.waiting);
        }
        let flows = executor.flows(&errand.judged).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            warn!(error, "flows that are not allowed any more may go on until they end");
            Vec::new()
        });
        // Without an enforcer nobody waits.
        if let Some(enforcer) = enforcer.upgrade() {
            drop(enforcer.send(Request::Cut(flows, errand.waiting)));
        }
    }
}
