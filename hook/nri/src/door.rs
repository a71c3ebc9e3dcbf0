//! Keeps a connection to the runtime, and answers it in time. What netd has taken and what not is `outbox`'s business.
//!
//! The runtime calls plugins one after the other for the whole node, so an answer may wait only for a pod that has just
//! started, and not for long. Whatever goes wrong on a connection ends it: a new one starts with the whole handshake.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use netd_api::chain;
use sd_notify::NotifyState;
use thiserror::Error;

use crate::backoff::Backoff;
use crate::courier::Courier;
use crate::message::MessageError;
use crate::outbox::{Outbox, Outcome};
use crate::pod::Pod;
use crate::request::Request;
use crate::session::{self, Event, Identity, Session, SessionError};

/// While containerd is away; connecting to nobody costs nothing.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// While containerd is there and does not take us.
const RETRY_REFUSED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A connection that held so long was no mistake.
const SETTLED: Duration = Duration::from_secs(5);
/// The runtime takes plugins one by one, and a slow one ahead of us has its own time.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// The runtime reads all the time.
const WRITE: Duration = Duration::from_secs(10);
/// An answer to a pod's start waits for netd no longer than this, nor than half of what the runtime allows.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// More pods than any node has.
const MOST_PODS: usize = 65_536;
const CHUNK: usize = 64 << 10;

/// A connection has ended.
#[derive(Debug, Error)]
pub enum DoorError {
    /// Nobody listens.
    #[error("cannot connect to NRI at {socket}; is containerd running, with NRI enabled?")]
    Connect {
        /// Where it should.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket failed.
    #[error("the connection to NRI broke")]
    Broken(#[from] io::Error),
    /// The runtime took the connection, and no more.
    #[error("the runtime does not finish the handshake within {} s; does another plugin hold it up?", HANDSHAKE.as_secs())]
    Silent,
    /// The runtime went.
    #[error("the runtime closed the connection")]
    Closed,
    /// See [`SessionError`].
    #[error(transparent)]
    Session(#[from] SessionError),
    /// An answer could not be encoded.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The list of pods has no end.
    #[error("the runtime lists more than {MOST_PODS} pods")]
    TooManyPods,
}

/// Where and as whom to register.
#[derive(Debug, Clone)]
pub struct Door {
    /// NRI's socket.
    pub socket: PathBuf,
    /// Name and index.
    pub identity: Identity,
}

/// One connection.
struct Visit<'a> {
    stream: UnixStream,
    courier: &'a Courier,
    /// The pieces of `Synchronize` so far.
    pods: Vec<Pod>,
    budget: Duration,
    configured: bool,
}

impl Door {
    /// Serves the runtime, for ever: away or refusing, it is tried again.
    pub fn serve(&self, courier: &Courier) -> ! {
        let mut away = Backoff::new(RETRY.0, RETRY.1);
        let mut refused = Backoff::new(RETRY_REFUSED.0, RETRY_REFUSED.1);
        let mut quiet = false;
        loop {
            let start = Instant::now();
            let (error, configured) = self.visit(courier);
            courier.write(Outbox::disconnected);
            if configured {
                refused.succeeded();
                quiet = false;
            }
            // A runtime that throws us out again and again is not to be pestered.
            if configured && start.elapsed() > SETTLED {
                away.succeeded();
            }
            let is_away = matches!(error, DoorError::Connect { .. });
            say(&error, std::mem::replace(&mut quiet, is_away));
            std::thread::sleep(if is_away || configured { away.failed() } else { refused.failed() });
        }
    }

    fn visit(&self, courier: &Courier) -> (DoorError, bool) {
        let stream = match self.connect() {
            Ok(stream) => stream,
            Err(source) => return (DoorError::Connect { socket: self.socket.clone(), source }, false),
        };
        let budget = Duration::ZERO;
        let mut visit = Visit { stream, courier, pods: Vec::new(), budget, configured: false };
        let error = visit.run(&self.identity).err().unwrap_or(DoorError::Closed);
        (error, visit.configured)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.set_write_timeout(Some(WRITE))?;
        Ok(stream)
    }
}

impl Visit<'_> {
    fn run(&mut self, identity: &Identity) -> Result<(), DoorError> {
        self.stream.write_all(&session::register(identity)?)?;
        let mut session = Session::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            while let Some(event) = session.pull()? {
                self.hear(event)?;
            }
            let read = match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(DoorError::Silent),
                read => read?,
            };
            if read == 0 {
                return Ok(());
            }
            session.push(&chunk[..read]);
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), DoorError> {
        match event {
            Event::Registered => tracing::debug!("the runtime takes the plugin"),
            Event::Asked { stream, request } => {
                let answer = request.answer();
                let outcome = self.act(request)?;
                if let Some((pod, outcome)) = outcome {
                    wait(&pod, &outcome, self.budget);
                }
                self.stream.write_all(&session::answer(stream, answer)?)?;
            }
        }
        Ok(())
    }

    /// Does what the request wants; gives what to wait for before it is answered.
    fn act(&mut self, request: Request) -> Result<Option<(String, Receiver<Outcome>)>, DoorError> {
        let now = Instant::now();
        match request {
            Request::Configure { runtime, timeout } => self.configure(&runtime, timeout)?,
            Request::Synchronize { pods, more } => self.synchronize(pods, more, now)?,
            Request::Ran(pod) if pod.netns.is_none() => self.courier.write(|outbox| outbox.lives(&pod.id)),
            Request::Ran(pod) => return Ok(Some((pod.id.clone(), self.courier.ran(pod)))),
            Request::Stopped(pod) => self.courier.write(|outbox| outbox.stopped(&pod.id)),
            Request::Removed(pod) => self.courier.write(|outbox| outbox.removed(pod.id, now)),
            Request::Irrelevant => {}
            Request::Unknown(method) => tracing::debug!(method, "unknown method"),
            Request::Undecodable { method, why, .. } => {
                tracing::error!(
                    method,
                    why,
                    "cannot read a call of the runtime; is it an NRI newer than this netd-hook?"
                );
            }
        }
        Ok(None)
    }

    fn configure(&mut self, runtime: &str, timeout: Duration) -> Result<(), DoorError> {
        self.configured = true;
        self.budget = (timeout / 2).min(LONGEST_WAIT);
        // From here on silence means that no pod comes or goes.
        self.stream.set_read_timeout(None)?;
        tracing::info!(runtime, budget_ms = self.budget.as_millis(), "registered");
        // Outside systemd there is nobody to tell.
        drop(sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("registered with NRI")]));
        Ok(())
    }

    fn synchronize(&mut self, pods: Vec<Pod>, more: bool, now: Instant) -> Result<(), DoorError> {
        self.pods.extend(pods);
        if self.pods.len() > MOST_PODS {
            return Err(DoorError::TooManyPods);
        }
        if !more {
            let pods = std::mem::take(&mut self.pods);
            tracing::info!(pods = pods.len(), "synchronized");
            self.courier.write(|outbox| outbox.synchronized(pods, now));
        }
        Ok(())
    }
}

/// Waits for netd's answer. Whatever it is, the runtime is told that all is well: netd keeps the pod closed until it
/// knows what the pod is, and hears so later.
fn wait(sandbox: &str, outcome: &Receiver<Outcome>, budget: Duration) {
    if outcome.recv_timeout(budget).is_err() {
        tracing::warn!(sandbox, budget_ms = budget.as_millis(), "netd is late; the pod starts, netd hears of it later");
    }
}

fn say(error: &DoorError, quiet: bool) {
    let error = chain(error);
    if quiet {
        tracing::debug!(error, "not connected");
        return;
    }
    drop(sd_notify::notify(&[NotifyState::Status("waiting for containerd's NRI")]));
    tracing::warn!(error, "not connected; trying again until it succeeds");
}
