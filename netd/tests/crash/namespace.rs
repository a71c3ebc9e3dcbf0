//! Network namespaces that end with their last descriptor: the node's and the sandboxes'. Nothing here knows netd.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

/// A machine under load delays the kernel's workers, which raise a new link's carrier.
const PATIENCE: Duration = Duration::from_secs(20);
const RESEND: Duration = Duration::from_millis(100);
/// Where a sandbox answers by UDP.
const ECHO: u16 = 7;
/// Where a sandbox takes connections; published ports lead there.
pub(crate) const WEB: u16 = 80;

/// A network namespace.
#[derive(Debug)]
pub(crate) struct Namespace(pub(crate) File);

impl Namespace {
    pub(crate) fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(made.join().unwrap())
    }

    /// Does `work` on a thread in the namespace; sockets and programs made there stay in it.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    pub(crate) fn command(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        let output = self.run(|| command.output().unwrap());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether datagrams reach `address` of the sandbox, and their answers come back. More than one is sent: an IPv6 address
    /// that has just moved is announced by the kernel's workers, some milliseconds after the link is up.
    pub(crate) fn echoes(&self, sandbox: &Sandbox, address: IpAddr) -> bool {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(RESEND)).unwrap();
        let own_port = socket.local_addr().unwrap().port();
        let mut bytes = [0; 8];
        let mut there_and_back = || {
            socket.send_to(b"there", SocketAddr::new(address, ECHO))?;
            // What came too late for the probe before this one is none of ours.
            let (length, peer) = loop {
                let (length, peer) = sandbox.echo.recv_from(&mut bytes)?;
                if peer.port() == own_port {
                    break (length, peer);
                }
            };
            sandbox.echo.send_to(&bytes[..length], peer)?;
            socket.recv(&mut bytes)
        };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if there_and_back().is_ok() {
                return true;
            }
        }
        false
    }

    /// Whether a connection to `address` of this namespace is one to the sandbox.
    pub(crate) fn connects(&self, sandbox: &Sandbox, address: SocketAddr) -> bool {
        while sandbox.web.accept().is_ok() {}
        let Ok(stream) = self.run(|| TcpStream::connect_timeout(&address, PATIENCE)) else { return false };
        let start = Instant::now();
        while sandbox.web.accept().is_err() {
            if start.elapsed() > PATIENCE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(stream);
        true
    }
}

/// A sandbox that listens. It dies when it is dropped, unless somebody else holds its namespace.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) namespace: Namespace,
    echo: UdpSocket,
    web: TcpListener,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new();
        let (echo, web) =
            namespace.run(|| (UdpSocket::bind(("::", ECHO)).unwrap(), TcpListener::bind(("::", WEB)).unwrap()));
        echo.set_read_timeout(Some(RESEND)).unwrap();
        web.set_nonblocking(true).unwrap();
        Self { namespace, echo, web }
    }
}
