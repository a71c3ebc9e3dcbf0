//! What comes to the socket of a published port. To `[::1]`, and to an IPv6 address where the sandbox has only IPv4, no
//! packet can be led by the ruleset: netd accepts and passes the bytes on. Everything else missed the ruleset, and is reset.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::gate::{Gate, Visit};

/// A sandbox that does not answer within this refuses, with the time that it takes to know who may reach it.
const CONNECT: Duration = Duration::from_secs(10);
/// Out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts on `socket` for as long as the task lives. Connections already accepted outlive it.
pub(super) fn accept(socket: OwnedFd, target: Option<SocketAddr>, gate: Gate) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(StdListener::from(socket))?;
    Ok(tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, client)) => drop(tokio::spawn(serve(stream, client, target, gate.clone()))),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept on a published port");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }))
}

async fn serve(stream: TcpStream, client: SocketAddr, target: Option<SocketAddr>, gate: Gate) {
    let Some((target, own)) = target.zip(stream.local_addr().ok()) else { return reset(&stream) };
    let (mut gate, visit) = (gate.afresh(), Visit { client, own, target });
    match tokio::time::timeout(CONNECT, connect(visit, &gate)).await {
        Ok(Some(inside)) => pass(stream, inside, visit, &mut gate).await,
        Ok(None) | Err(_) => reset(&stream),
    }
}

async fn connect(visit: Visit, gate: &Gate) -> Option<TcpStream> {
    if gate.opens(visit).await { TcpStream::connect(visit.target).await.ok() } else { None }
}

/// Until an end breaks, which ends both (there is nobody to tell), or the visit may not go on.
async fn pass(mut stream: TcpStream, mut inside: TcpStream, visit: Visit, gate: &mut Gate) {
    tokio::select! {
        _ended = copy_bidirectional(&mut stream, &mut inside) => return,
        () = gate.shuts(visit) => {}
    }
    tracing::info!(client = %visit.client, target = %visit.target, "cut: not allowed any more");
    reset(&stream);
    reset(&inside);
}

/// Closing with this option resets: the opener hears at once that nobody is there for it.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}
