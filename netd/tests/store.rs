//! Published ports while netd is away: their sockets lie with the service manager, which is played here. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::io::{IoSliceMut, Read};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use netd_api::{Client, Tag, blocking};
use nix::cmsg_space;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, Shutdown, getsockopt, recvmsg, shutdown, sockopt};
use rig::{Space, call};

const CHAIN: [&str; 2] = [
    r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isGateway":true,
    "ipam":{"type":"host-local","dataDir":"/nonexistent","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#,
    r#"{"cniVersion":"1.0.0","name":"web","type":"portmap","capabilities":{"portMappings":true},
    "runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}"#,
];
const V4: &str = "port-tcp-00000000-8080";
const V6: &str = "port-tcp-00000000000000000000000000000000-8080";
const PATIENCE: Duration = Duration::from_secs(60);

/// One test at a time: what a child is to inherit, every child inherits.
static ALONE: Mutex<()> = Mutex::new(());

/// What a service manager does for netd.
struct Manager {
    folder: tempfile::TempDir,
    node: Space,
    notes: UnixDatagram,
    store: Vec<(String, OwnedFd)>,
    netd: Option<Child>,
    // Ends after all of them.
    _alone: MutexGuard<'static, ()>,
}

impl Manager {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let notes = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        notes.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { _alone: alone, folder, node: Space::new(), notes, store: Vec::new(), netd: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts netd with all that the store has, from descriptor 3 on.
    fn start(&mut self) {
        let (run_dir, config) = (self.path("run"), self.path("netd.toml"));
        let socket = self.socket();
        let settings = format!(
            "run_dir = {run_dir:?}\nstate_dir = {run_dir:?}\nsocket = {socket:?}\nconf_dirs = []\ncontainerd_socket = ''\n"
        );
        std::fs::write(&config, settings).unwrap();
        let mut script = "export LISTEN_PID=$$; exec \"$0\" --config \"$1\"".to_owned();
        let inherited: Vec<OwnedFd> = self.store.iter().map(|(_, fd)| inheritable(fd)).collect();
        for (number, fd) in (3..).zip(&inherited) {
            script += &format!(" {number}<&{fd} {fd}<&-", fd = fd.as_raw_fd());
        }
        let mut command = Command::new("bash");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_netd")]).arg(config);
        command.env("NOTIFY_SOCKET", self.path("notify")).env_remove("WATCHDOG_USEC");
        if !self.store.is_empty() {
            let names: Vec<&str> = self.store.iter().map(|(name, _)| name.as_str()).collect();
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        self.netd = Some(self.node.run(move || command.spawn().unwrap()));
        self.hear_until("READY=1");
    }

    fn socket(&self) -> PathBuf {
        self.path("run").join("netd.sock")
    }

    fn kill(&mut self) {
        if let Some(mut netd) = self.netd.take() {
            netd.kill().unwrap();
            netd.wait().unwrap();
        }
    }

    /// Does as it is told until it is told `last`.
    fn hear_until(&mut self, last: &str) {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "nobody says {last}");
            let (text, fd) = receive(&self.notes);
            let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            if text.starts_with("FDSTORE=1") {
                self.store.push((name, fd.unwrap()));
            } else if text.starts_with("FDSTOREREMOVE=1") {
                self.store.retain(|(known, _)| *known != name);
            }
            if text.starts_with(last) {
                return;
            }
        }
    }

    fn stored(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.store.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// netd waits for the manager: each request has a thread of its own.
    fn request(
        &self,
        space: Option<&Space>,
        ask: impl FnOnce(&dyn Fn() -> Client) + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let fd = space.map(|space| space.fd.try_clone().unwrap());
        let socket = self.socket();
        std::thread::spawn(move || {
            let descriptors: Vec<_> = fd.iter().map(|fd| (Tag::SandboxNetns, fd.as_fd())).collect();
            // Descriptors are of one call.
            ask(&|| Client::connect(&socket, &descriptors).unwrap());
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The same, by a number that is none of those which netd is given.
fn inheritable(fd: &OwnedFd) -> OwnedFd {
    let number = fcntl(fd, FcntlArg::F_DUPFD(100)).unwrap();
    #[expect(unsafe_code, reason = "descriptors come by number")]
    // SAFETY: the kernel has just made it for this process.
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

fn receive(notes: &UnixDatagram) -> (String, Option<OwnedFd>) {
    let (mut text, mut space) = ([0; 512], cmsg_space!([i32; 1]));
    let mut buffers = [IoSliceMut::new(&mut text)];
    let got = recvmsg::<()>(notes.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
    let fd = got
        .cmsgs()
        .unwrap()
        .find_map(|one| if let ControlMessageOwned::ScmRights(fds) = one { fds.first().copied() } else { None });
    #[expect(unsafe_code, reason = "descriptors come by number")]
    // SAFETY: the kernel has just made it for this process.
    let fd = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let length = got.bytes;
    (String::from_utf8_lossy(&text[..length]).into_owned(), fd)
}

fn attach(connect: &dyn Fn() -> Client) {
    let mut result = serde_json::Value::Null;
    for stanza in CHAIN {
        let mut config: serde_json::Value = serde_json::from_str(stanza).unwrap();
        if !result.is_null() {
            config["prevResult"] = result;
        }
        let mut request = blocking::AttachRequest::new();
        request.call = Some(call(&config.to_string(), "web", "/run/netns/web")).into();
        let response = connect().attach(&request).unwrap();
        assert!(response.failure.is_none(), "{response:?}");
        result = serde_json::from_slice(&response.result).unwrap();
    }
}

fn detach(connect: &dyn Fn() -> Client) {
    let mut request = blocking::DetachRequest::new();
    request.call = Some(call(CHAIN[0], "web", "")).into();
    assert!(connect().detach(&request).unwrap().failure.is_none());
}

/// A connection to where only netd can lead it.
fn connect(node: &Space) -> std::io::Result<TcpStream> {
    let to = SocketAddr::from((Ipv6Addr::LOCALHOST, 8080));
    node.run(move || TcpStream::connect_timeout(&to, PATIENCE))
}

fn hears(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn is_free(node: &Space) -> bool {
    node.run(|| TcpListener::bind("0.0.0.0:8080").is_ok() && TcpListener::bind("[::]:8080").is_ok())
}

/// Its netd has published a port of the sandbox, and the manager has both sockets.
fn published() -> (Manager, Space) {
    let mut manager = Manager::new();
    manager.node.command("ip link set lo up");
    manager.start();
    let sandbox = Space::new();
    sandbox.serve(80);
    let attaching = manager.request(Some(&sandbox), attach);
    manager.hear_until(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={V6}"));
    attaching.join().unwrap();
    (manager, sandbox)
}

#[test]
fn a_port_is_never_free_while_netd_is_away_and_who_connects_waits_for_the_next_one() {
    let (mut manager, _sandbox) = published();
    assert_eq!(manager.stored(), [V4, V6]);
    assert_eq!(hears(connect(&manager.node).unwrap()), "10.4.0.1");

    manager.kill();
    assert!(!is_free(&manager.node), "another process takes the port of a netd that is away");
    let waiting = connect(&manager.node).expect("the kernel takes the connection for the next netd");
    manager.start();
    assert_eq!(hears(waiting), "10.4.0.1", "the connection that waited");
    assert_eq!(hears(connect(&manager.node).unwrap()), "10.4.0.1");

    // What it is told again it has already; then the container goes, and the port with it.
    let detaching = manager.request(None, detach);
    manager.hear_until("BARRIER=1");
    detaching.join().unwrap();
    assert_eq!(manager.stored(), Vec::<&str>::new());
    assert!(is_free(&manager.node));
}

#[test]
fn what_was_kept_for_a_port_that_nobody_publishes_is_let_go() {
    let mut manager = Manager::new();
    manager.node.command("ip link set lo up");
    let of = |address: &'static str| manager.node.run(move || OwnedFd::from(TcpListener::bind(address).unwrap()));
    // Of a netd that ended between shutting it and saying so.
    let shut = of("0.0.0.0:8082");
    shutdown(shut.as_raw_fd(), Shutdown::Both).unwrap();
    let sockets = [
        (V4.to_owned(), of("0.0.0.0:8080")),
        ("port-tcp-00000000-8081".to_owned(), of("0.0.0.0:9090")),
        ("port-tcp-00000000-8082".to_owned(), shut),
        ("stored".to_owned(), of("0.0.0.0:9091")),
    ];
    manager.store.extend(sockets);
    manager.start();
    assert_eq!(manager.stored(), Vec::<&str>::new(), "what is not as it says is nobody's either");
    assert!(is_free(&manager.node));
}

#[test]
fn what_does_not_listen_any_more_is_exchanged_for_what_does() {
    let (mut manager, _sandbox) = published();
    manager.kill();
    for (_, socket) in &manager.store {
        shutdown(socket.as_raw_fd(), Shutdown::Both).unwrap();
    }
    manager.start();
    assert_eq!(manager.stored(), [V4, V6]);
    let listens = |(_, socket): &(String, OwnedFd)| getsockopt(socket, sockopt::AcceptConn).unwrap();
    assert!(manager.store.iter().all(listens));
    assert_eq!(hears(connect(&manager.node).unwrap()), "10.4.0.1");
}
