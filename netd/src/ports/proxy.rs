//! What comes to the socket of a published port. To `[::1]`, and to an IPv6 address where the sandbox has only IPv4, no
//! packet can be led by the ruleset: netd accepts and passes the bytes on. Everything else missed the ruleset, and is reset.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Gate;

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

async fn serve(mut stream: TcpStream, client: SocketAddr, target: Option<SocketAddr>, gate: Gate) {
    let connected = match target {
        Some(target) => {
            let connecting = connect(&stream, client, target, &gate);
            tokio::time::timeout(CONNECT, connecting).await.ok().flatten()
        }
        None => None,
    };
    let Some(mut inside) = connected else {
        // Closing with this option resets: the opener hears at once that nobody is there for it.
        drop(stream.set_zero_linger());
        return;
    };
    // An end that breaks ends both; there is nobody to tell.
    drop(copy_bidirectional(&mut stream, &mut inside).await);
}

async fn connect(stream: &TcpStream, client: SocketAddr, target: SocketAddr, gate: &Gate) -> Option<TcpStream> {
    if gate.opens(client, stream.local_addr().ok()?, target).await {
        TcpStream::connect(target).await.ok()
    } else {
        None
    }
}
