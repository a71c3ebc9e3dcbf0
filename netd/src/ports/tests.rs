//! Sockets of published ports, in a namespace of the test's own. Needs root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netd_config::{ContainerId, LinkName, NetworkName, PortMapping, Protocol};
use netd_kernel::{Interface, Kernel, Key, LinkSettings, LinuxKernel, NetnsId, Object, Step};
use nix::sched::{CloneFlags, unshare};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use nix::errno::Errno;

use super::{Gate, PortError, Ports, is_needless, places};
use crate::attachment::{Attachment, AttachmentKey, Facts, State};

pub(crate) fn attachment(container: &str, ports: &[(u16, Protocol)]) -> Attachment {
    let key = AttachmentKey {
        network: NetworkName::new("web").unwrap(),
        container: ContainerId::new(container).unwrap(),
        interface: LinkName::new("eth0").unwrap(),
    };
    let port = |(host, protocol): &(u16, Protocol)| PortMapping {
        host: *host,
        container: 80,
        protocol: *protocol,
        host_ip: None,
    };
    Attachment {
        key,
        netns: NetnsId(1),
        netns_path: String::new(),
        state: State::Attached,
        leases: Vec::new(),
        wiring: None,
        foreign: vec!["10.4.0.2".parse().unwrap()],
        ports: ports.iter().map(port).collect(),
        facts: Facts::default(),
        name: String::new(),
        labels: BTreeMap::new(),
        namespace: String::new(),
        label_state: crate::attachment::LabelState::None,
        image: String::new(),
        quarantined: false,
        extra: false,
    }
}

/// Runs `test` on a runtime in a namespace of its own: its ports are all free.
pub(crate) fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    thread.join().unwrap();
}

#[test]
fn one_socket_stands_for_a_port_that_is_published_several_times() {
    on_a_node(async || {
        let ports = Ports::default();
        let at = |address: &str| PortMapping {
            host: 8080,
            container: 80,
            protocol: Protocol::Tcp,
            host_ip: address.parse().ok(),
        };
        let mut web = attachment("web", &[]);
        web.ports = vec![at("0.0.0.0"), at("::"), at("127.0.0.1"), at("0.0.0.0")];
        ports.hold(&web).await.unwrap();
        assert_eq!(ports.count(), 2);
        web.ports = vec![at("0.0.0.0")];
        ports.hold(&web).await.unwrap();
        assert_eq!(ports.count(), 1);
        assert!(TcpListener::bind("0.0.0.0:8080").is_err() && TcpListener::bind("[::1]:8080").is_err());
        ports.release(&web.key).await;
        web.ports = vec![at("::")];
        ports.hold(&web).await.unwrap();
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok());
    });
}

#[test]
fn a_held_port_is_taken_for_others_and_free_when_it_is_let_go() {
    on_a_node(async || {
        let ports = Ports::default();
        let web = attachment("web", &[(8080, Protocol::Tcp), (53, Protocol::Udp)]);
        ports.hold(&web).await.unwrap();
        ports.hold(&web).await.unwrap();
        assert_eq!(ports.count(), 4);
        assert!(TcpListener::bind("0.0.0.0:8080").is_err() && TcpListener::bind("[::]:8080").is_err());
        ports.hold(&attachment("web", &[(53, Protocol::Udp)])).await.unwrap();
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok(), "a port that is published no more");
        ports.release(&web.key).await;
        assert_eq!(ports.count(), 0);
    });
}

#[test]
fn a_taken_port_is_named_and_nothing_new_is_held() {
    on_a_node(async || {
        let _other = TcpListener::bind("0.0.0.0:8081").unwrap();
        let ports = Ports::default();
        let error = ports.hold(&attachment("web", &[(8080, Protocol::Tcp), (8081, Protocol::Tcp)])).await.unwrap_err();
        assert!(matches!(error, PortError::Taken { .. }));
        assert_eq!(
            error.to_string(),
            "cannot publish 0.0.0.0:8081/tcp for web/eth0 on network web: another process of this node uses the port; `ss -lnp` names it: stop it, or take another port"
        );
        assert_eq!(ports.count(), 0);
        assert!(TcpListener::bind("0.0.0.0:8080").is_ok());
    });
}

/// A thread that stands for nerdctl's reserver, until what is returned is called. It is in the caller's namespace.
pub(crate) fn reserve(state: &Path, addresses: &'static [&str]) -> impl FnOnce() + use<> {
    let (ready, begun) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let reserver = std::thread::spawn(move || {
        let sockets: Vec<_> = addresses.iter().map(|one| TcpListener::bind(one).unwrap()).collect();
        ready.send(nix::unistd::gettid().to_string()).unwrap();
        drop((ended.recv(), sockets));
    });
    std::fs::write(state.join("port-reserver.pid"), begun.recv().unwrap()).unwrap();
    move || {
        drop(end);
        reserver.join().unwrap();
    }
}

#[test]
fn a_port_that_the_containers_own_reserver_holds_is_accepted_and_taken_over_later() {
    on_a_node(async || {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("default/abc");
        std::fs::create_dir_all(&state).unwrap();
        let end = reserve(&state, &["0.0.0.0:8080", "0.0.0.0:8081"]);
        let ports = Ports::new(folder.path());
        let own = attachment("default-abc", &[(8080, Protocol::Tcp), (8081, Protocol::Tcp)]);
        assert!(
            ports.hold(&attachment("default-abd", &[(8080, Protocol::Tcp)])).await.is_err(),
            "of another container"
        );
        ports.hold(&own).await.unwrap();
        assert!(ports.left_behind().is_empty(), "its reserver lives");
        end();
        assert!(ports.left_behind() == std::slice::from_ref(&own.key), "it is gone");
        ports.hold(&own).await.unwrap();
        assert!(ports.left_behind().is_empty());
        assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "not taken over");
    });
}

#[test]
fn a_port_is_published_at_an_address_that_the_node_has_not_yet_and_is_taken_there() {
    on_a_node(async || {
        let ports = Ports::default();
        let mut web = attachment("web", &[]);
        let at = |address: &str, protocol| PortMapping {
            host: 8080,
            container: 80,
            protocol,
            host_ip: Some(address.parse().unwrap()),
        };
        web.ports = vec![
            at("192.0.2.77", Protocol::Tcp),
            at("192.0.2.77", Protocol::Udp),
            at("2001:db8::77", Protocol::Tcp),
            at("2001:db8::77", Protocol::Udp),
        ];
        ports.hold(&web).await.unwrap();
        assert_eq!(ports.count(), 4);
        let other = Attachment { key: attachment("other", &[]).key, ..web.clone() };
        assert!(matches!(ports.hold(&other).await, Err(PortError::Taken { .. })));
    });
}

#[test]
fn a_node_without_ipv6_misses_only_sockets_that_somebody_named() {
    let mut ports = attachment("web", &[(8080, Protocol::Tcp)]).ports;
    let [v4, v6] = places(&ports[0])[..] else { panic!() };
    assert!(is_needless(&ports, v6, Errno::EAFNOSUPPORT));
    assert!(!is_needless(&ports, v4, Errno::EAFNOSUPPORT) && !is_needless(&ports, v6, Errno::EADDRINUSE));
    ports.push(PortMapping { host_ip: Some(v6.address), ..ports[0].clone() });
    assert!(!is_needless(&ports, v6, Errno::EAFNOSUPPORT));
}

const PATIENCE: Duration = Duration::from_secs(30);

/// What a client hears first of a connection to the port: a greeting from the sandbox, or a reset.
async fn greeted(client: &str, to: &str) -> bool {
    let start = Instant::now();
    let connect = async || {
        let socket = tokio::net::TcpSocket::new_v6().unwrap();
        socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
        socket.connect(to.parse().unwrap()).await
    };
    // A worker of the kernel makes the routes to addresses that have just come.
    let mut stream = loop {
        match connect().await {
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable && start.elapsed() < PATIENCE => {}
            connected => break connected.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    match stream.read_u8().await {
        Ok(b'!') => true,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        other => panic!("{client} to {to}: {other:?}"),
    }
}

/// Gives this namespace's `lo` addresses. No program is started: one would have other tests' sockets for a moment.
fn raise_loopback(addresses: &[&str]) {
    let kernel = LinuxKernel::new("netd", "nd").unwrap();
    let itself = kernel.identify(File::open("/proc/thread-self/ns/net").unwrap().into()).unwrap();
    let lo = Interface {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        routes: Vec::new(),
        sysctls: BTreeMap::new(),
        settings: LinkSettings::default(),
        quick_link_local: false,
    };
    let key = Key::Interface(itself.id, LinkName::new("lo").unwrap());
    kernel.apply(&[Step::Replace(key, Object::Interface(lo))], Some(&itself)).unwrap();
}

#[test]
fn who_comes_from_outside_by_the_proxy_is_asked_about() {
    on_a_node(async || {
        raise_loopback(&["10.4.0.2/32", "fd00::1/128", "fd00::2/128"]);
        let sandbox = tokio::net::TcpListener::bind("10.4.0.2:80").await.unwrap();
        let reached = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reached);
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = sandbox.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                stream.write_u8(b'!').await.unwrap();
            }
        }));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (asked, opens) = (Arc::clone(&heard), Arc::new(AtomicBool::new(false)));
        let answer = Arc::clone(&opens);
        let gate = Gate::new(move |client, target, protocol| {
            asked.lock().unwrap().push((client.ip().to_string(), target.to_string(), protocol));
            let answer = Arc::clone(&answer);
            async move { answer.load(Ordering::Relaxed) }
        });
        let ports = Ports::default().with_gate(gate);
        ports.hold(&attachment("web", &[(8080, Protocol::Tcp)])).await.unwrap();
        assert!(!greeted("fd00::2", "[fd00::1]:8080").await);
        assert_eq!(reached.load(Ordering::Relaxed), 0, "the sandbox heard of it");
        opens.store(true, Ordering::Relaxed);
        assert!(greeted("fd00::2", "[fd00::1]:8080").await);
        let outside = || ("fd00::2".to_owned(), "10.4.0.2:80".to_owned(), Protocol::Tcp);
        assert_eq!(*heard.lock().unwrap(), [outside(), outside()]);
        opens.store(false, Ordering::Relaxed);
        // The node itself.
        assert!(greeted("::1", "[::1]:8080").await && greeted("fd00::1", "[fd00::1]:8080").await);
        assert_eq!(heard.lock().unwrap().len(), 2);
    });
}

/// Sends back what comes in, until the other end breaks.
async fn echo(mut stream: tokio::net::TcpStream) {
    while let Ok(byte) = stream.read_u8().await {
        if stream.write_u8(byte).await.is_err() {
            break;
        }
    }
}

async fn goes_on(stream: &mut tokio::net::TcpStream) -> bool {
    stream.write_u8(b'?').await.is_ok() && stream.read_u8().await.is_ok()
}

#[test]
fn who_may_not_any_more_is_cut_off_at_both_ends_and_nobody_else() {
    on_a_node(async || {
        raise_loopback(&["10.4.0.2/32", "fd00::1/128", "fd00::2/128", "fd00::3/128"]);
        let sandbox = tokio::net::TcpListener::bind("10.4.0.2:80").await.unwrap();
        drop(tokio::spawn(async move {
            while let Ok((stream, _)) = sandbox.accept().await {
                drop(tokio::spawn(echo(stream)));
            }
        }));
        let (tell, changes) = tokio::sync::watch::channel(());
        let shut_out = Arc::new(Mutex::new(None::<std::net::IpAddr>));
        let answer = Arc::clone(&shut_out);
        let gate = Gate::new(move |client, _, _| std::future::ready(*answer.lock().unwrap() != Some(client.ip())));
        let ports = Ports::default().with_gate(gate.changing(changes));
        ports.hold(&attachment("web", &[(8080, Protocol::Tcp)])).await.unwrap();
        // A change from before is none to who comes later.
        tell.send_replace(());
        let come = async |client: &str| {
            let socket = tokio::net::TcpSocket::new_v6().unwrap();
            socket.bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap();
            let mut stream = socket.connect("[fd00::1]:8080".parse().unwrap()).await.unwrap();
            assert!(goes_on(&mut stream).await, "{client}");
            stream
        };
        while tokio::net::TcpSocket::new_v6().unwrap().connect("[fd00::1]:8080".parse().unwrap()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut stays, mut goes) = (come("fd00::2").await, come("fd00::3").await);
        *shut_out.lock().unwrap() = Some("fd00::3".parse().unwrap());
        assert!(goes_on(&mut goes).await, "nobody was told of a change");
        tell.send_replace(());
        // Nothing is sent: it hears of it by itself.
        let heard = tokio::time::timeout(PATIENCE, goes.read_u8()).await.unwrap();
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(goes_on(&mut stays).await);
    });
}

/// A sandbox that says back what it hears.
async fn echoing() {
    let sandbox = tokio::net::TcpListener::bind("10.4.0.2:80").await.unwrap();
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = sandbox.accept().await {
            drop(tokio::spawn(echo(stream)));
        }
    }));
}

/// A worker of the kernel makes the routes to addresses that have just come.
async fn connected(to: &str) -> tokio::net::TcpStream {
    let start = Instant::now();
    loop {
        match tokio::net::TcpStream::connect(to).await {
            Err(error) if start.elapsed() > PATIENCE => panic!("{to}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(stream) => return stream,
        }
    }
}

async fn is_reset(stream: &mut tokio::net::TcpStream) -> bool {
    let heard = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
    heard.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn what_came_by_a_port_ends_with_it() {
    on_a_node(async || {
        raise_loopback(&["10.4.0.2/32", "fd00::1/128"]);
        echoing().await;
        let ports = Ports::default();
        let web = attachment("web", &[(8080, Protocol::Tcp)]);
        ports.hold(&web).await.unwrap();
        let mut stream = connected("[fd00::1]:8080").await;
        assert!(goes_on(&mut stream).await);
        ports.hold(&web).await.unwrap();
        assert!(goes_on(&mut stream).await, "the port is held as before");
        ports.release(&web.key).await;
        assert!(is_reset(&mut stream).await);
    });
}

#[test]
fn a_port_takes_so_many_connections_at_a_time_and_asks_them_whether_they_are_there() {
    on_a_node(async || {
        raise_loopback(&["10.4.0.2/32", "fd00::1/128"]);
        echoing().await;
        let socket =
            super::open(super::Publication { address: "::".parse().unwrap(), protocol: Protocol::Tcp, port: 8080 });
        let target = Some("10.4.0.2:80".parse().unwrap());
        let doorman = super::proxy::Doorman::start(Gate::default(), 2).unwrap();
        let accepting = doorman.accept(socket.unwrap(), target).unwrap();
        let (mut first, mut second) = (connected("[fd00::1]:8080").await, connected("[fd00::1]:8080").await);
        assert!(goes_on(&mut first).await && goes_on(&mut second).await);
        let mut third = connected("[fd00::1]:8080").await;
        assert!(is_reset(&mut third).await);
        assert!(goes_on(&mut first).await && goes_on(&mut second).await);
        // Timer 2 is the one of keepalive (proc_net_tcp, Documentation/networking). The node's ends: of the client's
        // connection, and of the sandbox's.
        let has_timer = |table: &str, local: &str, remote: &str| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
            let is_it =
                |fields: &Vec<&str>| fields[1].ends_with(local) && fields[2].ends_with(remote) && fields[3] == "01";
            let found: Vec<_> =
                text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(is_it).collect();
            !found.is_empty() && found.iter().all(|fields| fields[5].starts_with("02:"))
        };
        // Until all that was sent is acknowledged, another timer runs.
        let start = Instant::now();
        while !(has_timer("tcp6", ":1F90", "") && has_timer("tcp", "", ":0050")) {
            assert!(start.elapsed() < PATIENCE, "nobody asks");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(second);
        // It has gone when the next may come.
        let start = Instant::now();
        loop {
            let mut next = connected("[fd00::1]:8080").await;
            if goes_on(&mut next).await {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "its place is not free");
        }
        drop(accepting);
        assert!(is_reset(&mut first).await);
    });
}
