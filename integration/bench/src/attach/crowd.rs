//! Many requests at the same time: 100 adds at once, and adds while detaches go on.

use std::sync::Barrier;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::case::{Api, Sandbox};
use crate::field::{Field, PACKET_EVERY};
use crate::network::Writing;
use crate::packet;

/// Adds that are asked for at the same time.
pub(super) const AT_ONCE: usize = 100;

/// 100 adds at once.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Crowd {
    /// Attachments before.
    pub(crate) attachments: usize,
    /// From the first request to the last answer.
    #[serde(skip)]
    pub(crate) all: Duration,
    /// Adds that failed.
    pub(crate) failed: usize,
    /// What the first of them said.
    pub(crate) error: Option<String>,
}

/// Attaches 100 at once, each from a thread and by a connection of its own; takes them away again.
pub(super) fn at_once(field: &mut Field, attachments: usize) -> Result<Crowd> {
    let netd = field.case.netd().context("no netd to ask")?;
    let (socket, data_dir) = (netd.socket.clone(), field.node.data_dir());
    let sandboxes = (0..AT_ONCE).map(|_| field.sandbox()).collect::<Result<Vec<_>>>()?;
    let barrier = Barrier::new(AT_ONCE);
    let ask = |sandbox| {
        barrier.wait();
        let begin = Instant::now();
        let outcome = Api::attach(&socket, &data_dir, Writing::One, sandbox);
        (begin, Instant::now(), outcome)
    };
    let ask = &ask;
    let done: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = sandboxes.iter().map(|sandbox| scope.spawn(move || ask(sandbox))).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let first = done.iter().map(|(begin, ..)| *begin).min().context("nobody asked")?;
    let last = done.iter().map(|(_, end, _)| *end).max().context("nobody was answered")?;
    let all = last - first;
    let outcomes: Vec<_> = done.into_iter().map(|(.., outcome)| outcome).collect();
    if let (Some(sandbox), Some(Ok(added))) = (sandboxes.first(), outcomes.first()) {
        packet::pass(&field.node.space, &sandbox.space, added.address).context("one of 100 at once")?;
    }
    let errors: Vec<String> =
        outcomes.iter().filter_map(|one| one.as_ref().err()).map(|error| format!("{error:#}")).collect();
    for sandbox in &sandboxes {
        Api::detach(&socket, &data_dir, Writing::One, sandbox)?;
    }
    field.spent.extend(sandboxes);
    field.case.netd().context("no netd to ask")?.wait_until_drained()?;
    let failed = AT_ONCE - (outcomes.len() - errors.len());
    Ok(Crowd { attachments, all, failed, error: errors.into_iter().next() })
}

/// Adds one after another while another thread detaches what was added before; as many stand after as before.
pub(super) fn churn(field: &mut Field, adds: usize) -> Result<Vec<Duration>> {
    let netd = field.case.netd().context("no netd to ask")?;
    let (socket, data_dir) = (netd.socket.clone(), field.node.data_dir());
    let (added, to_detach) = mpsc::channel::<Sandbox>();
    let detacher = thread::spawn({
        let (socket, data_dir) = (socket.clone(), data_dir.clone());
        move || -> Result<Vec<Sandbox>> {
            let mut spent = Vec::new();
            for sandbox in to_detach {
                Api::detach(&socket, &data_dir, Writing::One, &sandbox)?;
                spent.push(sandbox);
            }
            Ok(spent)
        }
    });
    let mut times = Vec::new();
    for _ in 0..adds {
        let sandbox = field.sandbox()?;
        let attached = Api::attach(&socket, &data_dir, Writing::One, &sandbox)?;
        times.push(attached.took);
        if sandbox.number % PACKET_EVERY == 0 {
            packet::pass(&field.node.space, &sandbox.space, attached.address).context("while others are detached")?;
        }
        // A detacher that failed says so below.
        drop(added.send(sandbox));
        // A deleted link takes the kernel about 20 ms: faster adds would only fill the bridge.
        thread::sleep(Duration::from_millis(20));
    }
    drop(added);
    let spent = detacher.join().ok().context("the detacher panicked")??;
    field.spent.extend(spent);
    field.case.netd().context("no netd to ask")?.wait_until_drained()?;
    Ok(times)
}
