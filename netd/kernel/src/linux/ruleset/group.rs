//! Group commit: transactions that meet at the socket go as one. What a request means is not looked at.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use netd_netlink::nft::Request;
use netd_netlink::{NetlinkError, Socket};

type Outcome = Result<(), NetlinkError>;

#[derive(Debug)]
struct Job {
    requests: Vec<Request>,
    done: mpsc::Sender<Outcome>,
}

/// Whoever has the socket carries out all that is queued, also for those who wait for it.
#[derive(Debug)]
pub(super) struct Group {
    queue: Mutex<Vec<Job>>,
    socket: Mutex<Socket>,
}

impl Group {
    pub(super) fn new(socket: Socket) -> Self {
        Self { queue: Mutex::default(), socket: Mutex::new(socket) }
    }

    /// Returns when the requests are in the kernel, all of them, or none.
    pub(super) fn commit(&self, requests: Vec<Request>) -> Outcome {
        if requests.is_empty() {
            return Ok(());
        }
        let count = requests.len();
        let (done, outcome) = mpsc::channel();
        lock(&self.queue).push(Job { requests, done });
        let mut socket = lock(&self.socket);
        let jobs = std::mem::take(&mut *lock(&self.queue));
        carry_out(&mut socket, jobs);
        drop(socket);
        // Ours was in the queue, or another had taken it and answered before it gave the socket free.
        told(&outcome, count)
    }
}

/// Who carried the requests out may have died over it: then nobody knows what the kernel holds.
fn told(outcome: &mpsc::Receiver<Outcome>, unanswered: usize) -> Outcome {
    let died = || io::Error::other("the thread that committed them died");
    outcome.recv().unwrap_or_else(|_| Err(NetlinkError::Socket { unanswered, source: died() }))
}

/// One refused request fails a whole transaction, so on a refusal each job is tried alone.
fn carry_out(socket: &mut Socket, jobs: Vec<Job>) {
    if jobs.len() > 1 {
        let all: Vec<Request> = jobs.iter().flat_map(|job| job.requests.iter().cloned()).collect();
        if socket.transact(&all).is_ok() {
            jobs.into_iter().for_each(|job| answer(job, Ok(())));
            return;
        }
    }
    for job in jobs {
        let outcome = socket.transact(&job.requests);
        answer(job, outcome);
    }
}

fn answer(job: Job, outcome: Outcome) {
    // The one who asked waits for the socket or for this; it cannot be gone.
    drop(job.done.send(outcome));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{Job, answer, told};

    #[test]
    fn what_nobody_answers_is_no_success() {
        let ask = || {
            let (done, outcome) = mpsc::channel();
            (Job { requests: Vec::new(), done }, outcome)
        };
        let (job, outcome) = ask();
        answer(job, Ok(()));
        told(&outcome, 1).unwrap();
        let (job, outcome) = ask();
        let died = std::thread::spawn(move || {
            let _carried = job;
            panic!("as somebody who commits");
        });
        died.join().unwrap_err();
        assert!(told(&outcome, 3).unwrap_err().to_string().contains("3 messages unanswered"));
    }
}
