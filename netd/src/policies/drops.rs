//! The last packets that were denied, for those who ask why. Who the ends are is told by whoever listens.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use netd_kernel::{LoggedPacket, PacketLog};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;
use tracing::warn;

/// Packets that are remembered; the oldest goes first.
const KEPT: usize = 1_024;

/// What is known of a denied packet beyond its headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Who sent it, in words.
    pub from: String,
    /// To whom, in words.
    pub to: String,
    /// Which rule denied it.
    pub by: String,
    /// FILE:LINE of it; empty where no rule did.
    pub place: String,
}

/// A denied packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Counted from 1 since netd started.
    pub sequence: u64,
    /// When it was heard of.
    pub at: SystemTime,
    /// Its headers.
    pub packet: LoggedPacket,
    /// Its ends, and why.
    pub told: Told,
}

/// The last denied packets; cheap to clone. The listening ends with the last handle.
#[derive(Debug, Clone, Default)]
pub struct Drops {
    heard: Arc<Heard>,
    _listening: Option<Arc<PipeWriter>>,
}

#[derive(Debug, Default)]
struct Heard {
    last: Mutex<Last>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Last {
    packets: VecDeque<Denied>,
    count: u64,
}

impl Drops {
    /// Listens from now on; `tell` says of each packet what netd knows at that moment.
    ///
    /// # Errors
    /// No thread or pipe is to be had.
    pub fn listen(log: PacketLog, tell: impl Fn(&LoggedPacket) -> Told + Send + 'static) -> io::Result<Self> {
        let (ending, end) = io::pipe()?;
        let heard = Arc::new(Heard::default());
        let keep = Arc::clone(&heard);
        thread::Builder::new().name("drops".to_owned()).spawn(move || {
            if let Err(error) = follow(&log, &ending, |packet| keep.push(tell(&packet), packet)) {
                warn!(%error, "no longer hears of denied packets; they are denied all the same");
            }
        })?;
        Ok(Self { heard, _listening: Some(Arc::new(end)) })
    }

    /// The packets after the one of this number, oldest first. Where there are none yet, waits for one as long as `patience`.
    pub async fn after(&self, sequence: u64, patience: Duration) -> Vec<Denied> {
        let more = self.heard.more.notified();
        tokio::pin!(more);
        // Before the look, or what comes in between would not wake.
        more.as_mut().enable();
        let found = self.heard.after(sequence);
        if !found.is_empty() || tokio::time::timeout(patience, more).await.is_err() {
            return found;
        }
        self.heard.after(sequence)
    }
}

impl Heard {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, told: Told, packet: LoggedPacket) {
        let mut last = self.last();
        last.count += 1;
        let sequence = last.count;
        if last.packets.len() == KEPT {
            last.packets.pop_front();
        }
        last.packets.push_back(Denied { sequence, at: SystemTime::now(), packet, told });
        drop(last);
        self.more.notify_waiters();
    }

    fn after(&self, sequence: u64) -> Vec<Denied> {
        self.last().packets.iter().filter(|denied| denied.sequence > sequence).cloned().collect()
    }
}

/// Until the other end of the pipe is closed.
fn follow(log: &PacketLog, ending: &PipeReader, mut push: impl FnMut(LoggedPacket)) -> io::Result<()> {
    loop {
        let mut polled = [PollFd::new(ending.as_fd(), PollFlags::POLLIN), PollFd::new(log.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if polled[0].any().unwrap_or(true) {
            return Ok(());
        }
        loop {
            match log.receive() {
                Ok(packets) => packets.into_iter().for_each(&mut push),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use netd_kernel::LoggedPacket;

    use super::{Drops, KEPT, Told};

    fn packet() -> LoggedPacket {
        let address = "10.0.0.1".parse().unwrap();
        LoggedPacket {
            prefix: String::new(),
            input: 0,
            source: address,
            destination: address,
            protocol: 6,
            ports: None,
        }
    }

    #[tokio::test]
    async fn the_last_are_kept_and_the_next_is_waited_for() {
        let drops = Drops::default();
        assert!(drops.after(0, Duration::from_millis(1)).await.is_empty());
        for _ in 0..KEPT + 2 {
            drops.heard.push(Told::default(), packet());
        }
        let kept = drops.after(0, Duration::ZERO).await;
        assert_eq!((kept.len(), kept[0].sequence), (KEPT, 3));
        let last = kept[KEPT - 1].sequence;
        let waiting = tokio::spawn({
            let drops = drops.clone();
            async move { drops.after(last, Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        drops.heard.push(Told::default(), packet());
        let next = waiting.await.unwrap();
        assert_eq!(next.iter().map(|denied| denied.sequence).collect::<Vec<_>>(), [last + 1]);
    }
}
