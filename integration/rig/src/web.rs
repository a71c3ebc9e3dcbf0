//! A small server that says its name and whom it saw asking, over TCP (as HTTP) and UDP, IPv4 and IPv6. Asking is `probe`'s.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Place;

const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(10);

/// A server on one port of a place; it ends with this value.
#[derive(Debug)]
pub struct Web {
    stopped: Arc<AtomicBool>,
    worker: Option<JoinHandle<()>>,
}

impl Web {
    /// Serves `port` of every address of `place`. The answer's text is `name`, a space, the address of who asked.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(place: &Place, name: &str, port: u16) -> Result<Self> {
        let sockets = place.run(|| -> Result<_> {
            let tcp =
                TcpListener::bind(("::", port)).with_context(|| format!("{name} cannot serve TCP port {port}"))?;
            let udp = UdpSocket::bind(("::", port)).with_context(|| format!("{name} cannot serve UDP port {port}"))?;
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            Ok((tcp, udp))
        });
        let (tcp, udp) = sockets??;
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, name) = (Arc::clone(&stopped), name.to_owned());
        let worker = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !(serve_tcp(&tcp, &name) | serve_udp(&udp, &name)) {
                    thread::sleep(PAUSE);
                }
            }
        });
        Ok(Self { stopped, worker: Some(worker) })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(worker) = self.worker.take() {
            // A panic in it has been printed; a second one here would end the process.
            drop(worker.join());
        }
    }
}

/// Whether somebody asked.
fn serve_tcp(socket: &TcpListener, name: &str) -> bool {
    match socket.accept() {
        Ok((stream, from)) => {
            let answer = text(name, from);
            // One who asks and goes away is his own affair.
            thread::spawn(move || drop(reply(stream, &answer)));
            true
        }
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn reply(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // A socket closed with unread bytes resets the connection, and the answer may be lost.
    let mut request = [0; 1024];
    if stream.read(&mut request)? == 0 {
        return Ok(());
    }
    write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{answer}", answer.len())
}

fn serve_udp(socket: &UdpSocket, name: &str) -> bool {
    let mut request = [0; 1024];
    match socket.recv_from(&mut request) {
        Ok((_, from)) => {
            drop(socket.send_to(text(name, from).as_bytes(), from));
            true
        }
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

fn text(name: &str, from: SocketAddr) -> String {
    format!("{name} {}\n", from.ip().to_canonical())
}
