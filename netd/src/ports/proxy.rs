//! What comes to the socket of a published port. To `[::1]`, and to an IPv6 address where the sandbox has only IPv4, no
//! packet can be led by the ruleset: netd accepts and passes the bytes on. Everything else missed the ruleset, and is reset.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::gate::{Gate, Visit};

/// A sandbox that does not answer within this refuses, with the time that it takes to know who may reach it.
const CONNECT: Duration = Duration::from_secs(10);
/// Out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections of one port at a time: each takes two descriptors. Who comes then is reset.
pub(super) const MOST: usize = 1_024;
/// An end that says nothing for so long is asked whether it is still there (seconds), and then so often, so many times.
const SILENCE: u32 = 60;
const ASK_AGAIN: u32 = 10;
const ASKED: u32 = 6;

/// Accepts on `socket` for as long as the task lives, at most `most` at a time. Its connections end with it.
pub(super) fn accept(
    socket: OwnedFd,
    target: Option<SocketAddr>,
    gate: Gate,
    most: usize,
) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(StdListener::from(socket))?;
    Ok(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_ended) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) if connections.len() >= most => reset(&stream),
                Ok((stream, client)) => drop(connections.spawn(serve(stream, client, target, gate.clone()))),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept on a published port");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }))
}

/// A stream that is reset, unless it has come to its end: who hears of an end believes that he has had all.
struct Uncut {
    stream: TcpStream,
    is_over: bool,
}

impl Uncut {
    fn new(stream: TcpStream) -> Self {
        keep_alive(&stream);
        Self { stream, is_over: false }
    }
}

impl Drop for Uncut {
    fn drop(&mut self) {
        if !self.is_over {
            reset(&self.stream);
        }
    }
}

/// One whose other end is gone without a word does not stay for ever.
fn keep_alive(stream: &TcpStream) {
    let set = setsockopt(stream, sockopt::KeepAlive, &true)
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepInterval, &ASK_AGAIN))
        .and_then(|()| setsockopt(stream, sockopt::TcpKeepCount, &ASKED));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection of a published port is not asked whether it is still there");
    }
}

async fn serve(stream: TcpStream, client: SocketAddr, target: Option<SocketAddr>, gate: Gate) {
    let mut stream = Uncut::new(stream);
    let Some((target, own)) = target.zip(stream.stream.local_addr().ok()) else { return };
    let (mut gate, visit) = (gate.afresh(), Visit { client, own, target });
    if let Ok(Some(inside)) = tokio::time::timeout(CONNECT, connect(visit, &gate)).await {
        pass(&mut stream, &mut Uncut::new(inside), visit, &mut gate).await;
    }
}

async fn connect(visit: Visit, gate: &Gate) -> Option<TcpStream> {
    if gate.opens(visit).await { TcpStream::connect(visit.target).await.ok() } else { None }
}

/// Until an end breaks, which ends both (there is nobody to tell), or the visit may not go on.
async fn pass(stream: &mut Uncut, inside: &mut Uncut, visit: Visit, gate: &mut Gate) {
    tokio::select! {
        _ended = copy_bidirectional(&mut stream.stream, &mut inside.stream) => {
            (stream.is_over, inside.is_over) = (true, true);
        }
        () = gate.shuts(visit) => {
            tracing::info!(client = %visit.client, target = %visit.target, "cut: not allowed any more");
        }
    }
}

/// Closing with this option resets: the opener hears at once that nobody is there for it.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}
