//! Messages between two sandboxes, sent and received by one thread: what is timed is the kernel's work on the way, not who is
//! woken when.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::rules::PORT;
use crate::space::Space;

const PATIENCE: Duration = Duration::from_secs(5);
/// What is written before it is read: less than a socket's buffer.
const CHUNK: usize = 64 << 10;
/// Chunks of one measured stream.
const CHUNKS: usize = 64;

/// What is measured, by its name in the results.
pub(crate) const UDP: &str = "udp-round-trip";
pub(crate) const UDP_NEW: &str = "udp-new-flow";
pub(crate) const TCP: &str = "tcp-round-trip";
pub(crate) const TCP_NEW: &str = "tcp-connect";
/// 4 MiB through an established connection.
pub(crate) const STREAM: &str = "tcp-4-mib";
/// So many packets one way, unfragmented.
pub(crate) const UDP_MANY: &str = "udp-32-packets";
pub(crate) const OPS: [&str; 5] = [UDP, UDP_NEW, TCP, TCP_NEW, STREAM];

/// Packets sent before the first is received: less than a socket's buffer.
const PACKETS: usize = 32;
const PACKET: [u8; 1_000] = [0; 1_000];

/// Two sandboxes that talk.
#[derive(Debug)]
pub(crate) struct Pair {
    client: Space,
    server: SocketAddr,
    datagrams: (UdpSocket, UdpSocket),
    listener: TcpListener,
    stream: (TcpStream, TcpStream),
    chunk: Vec<u8>,
}

impl Pair {
    /// Connects `client` with `server`; fails where it may not.
    pub(crate) fn new(client: Space, server: &Space, address: Ipv4Addr) -> Result<Self> {
        let listener = server.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        let inside = server.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?))?;
        inside.set_read_timeout(Some(PATIENCE))?;
        let address = SocketAddr::from((address, PORT));
        let datagrams = (datagrams(&client)?, inside);
        let stream = connect(&client, &listener, address)?.1;
        stream.0.set_nodelay(true)?;
        stream.1.set_nodelay(true)?;
        stream.1.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { client, server: address, datagrams, listener, stream, chunk: vec![0; CHUNK] })
    }

    /// How long it takes once.
    pub(crate) fn measure(&mut self, op: &str) -> Result<Duration> {
        match op {
            UDP => there_and_back(&self.datagrams.0, &self.datagrams.1, self.server),
            UDP_NEW => there_and_back(&datagrams(&self.client)?, &self.datagrams.1, self.server),
            UDP_MANY => self.many(),
            TCP => self.echo(),
            TCP_NEW => Ok(connect(&self.client, &self.listener, self.server)?.0),
            _ => self.stream(),
        }
        .with_context(|| format!("{op} to {}", self.server))
    }

    fn many(&self) -> Result<Duration> {
        let (client, server) = &self.datagrams;
        let start = Instant::now();
        for _ in 0..PACKETS {
            client.send_to(&PACKET, self.server)?;
        }
        for _ in 0..PACKETS {
            server.recv_from(&mut [0; 1])?;
        }
        Ok(start.elapsed())
    }

    fn echo(&mut self) -> Result<Duration> {
        let (client, server) = (&mut self.stream.0, &mut self.stream.1);
        let start = Instant::now();
        client.write_all(b"?")?;
        server.read_exact(&mut [0])?;
        server.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        Ok(start.elapsed())
    }

    fn stream(&mut self) -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..CHUNKS {
            self.stream.0.write_all(&self.chunk)?;
            self.stream.1.read_exact(&mut self.chunk)?;
        }
        Ok(start.elapsed())
    }
}

/// Whether a port beside the one that the rules name is closed to `client`.
pub(crate) fn is_refused(client: &Space, server: &Space, address: Ipv4Addr) -> Result<bool> {
    let listener = server.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT + 1))?))?;
    let refused = client.run(|| Ok(TcpStream::connect_timeout(&(address, PORT + 1).into(), PATIENCE).is_err()))?;
    drop(listener);
    Ok(refused)
}

fn datagrams(client: &Space) -> Result<UdpSocket> {
    let socket = client.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn there_and_back(client: &UdpSocket, server: &UdpSocket, address: SocketAddr) -> Result<Duration> {
    let start = Instant::now();
    client.send_to(b"?", address)?;
    let (_, sender) = server.recv_from(&mut [0; 1])?;
    server.send_to(b"!", sender)?;
    client.recv_from(&mut [0; 1])?;
    Ok(start.elapsed())
}

/// Both ends, and how long the client waited for the connection. It ends with a reset: nothing of it is left.
fn connect(client: &Space, listener: &TcpListener, address: SocketAddr) -> Result<(Duration, (TcpStream, TcpStream))> {
    let (took, stream) = client.run(|| {
        let start = Instant::now();
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        Ok((start.elapsed(), stream))
    })?;
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (accepted, _) = listener.accept()?;
    Ok((took, (stream, accepted)))
}
