//! The way of a node to the first member: it can be cut, and held at the moment at which a session begins to watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use netd_fleet::EtcdSettings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::PATIENCE;

/// RFC 9113, 3.4 and 4.1.
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;

#[derive(Clone)]
pub(crate) struct Line {
    port: u16,
    member: String,
    is_cut: Arc<watch::Sender<bool>>,
    is_shut: Arc<watch::Sender<bool>>,
    /// Requests for a watch that have come this far.
    asked: Arc<watch::Sender<usize>>,
    connections: Arc<AtomicUsize>,
}

impl Line {
    pub(crate) async fn to(settings: &EtcdSettings) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let line = Self {
            port: listener.local_addr().unwrap().port(),
            member: settings.endpoints[0].trim_start_matches("http://").to_owned(),
            is_cut: Arc::new(watch::Sender::new(false)),
            is_shut: Arc::new(watch::Sender::new(false)),
            asked: Arc::new(watch::Sender::new(0)),
            connections: Arc::default(),
        };
        let of = line.clone();
        tokio::spawn(async move {
            while let Ok((node, _)) = listener.accept().await {
                tokio::spawn(of.clone().carry(node));
            }
        });
        line
    }

    /// As a node has it whose only way this is.
    pub(crate) fn settings(&self, settings: EtcdSettings) -> EtcdSettings {
        EtcdSettings { endpoints: vec![format!("http://127.0.0.1:{}", self.port)], ..settings }
    }

    /// Whoever is connected is so no longer, and nobody else gets through.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }

    /// No request for a watch gets through, nor what comes behind it.
    pub(crate) fn shut(&self, is_shut: bool) {
        self.is_shut.send_replace(is_shut);
    }

    /// Until a session has listed all, and asks for its first watch.
    pub(crate) async fn is_asked(&self) {
        let mut asked = self.asked.subscribe();
        timeout(PATIENCE, asked.wait_for(|asked| *asked > 0)).await.unwrap().unwrap();
    }

    /// Since the beginning.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn carry(self, node: TcpStream) {
        let mut is_cut = self.is_cut.subscribe();
        let carried = async {
            let member = TcpStream::connect(&self.member).await.unwrap();
            self.connections.fetch_add(1, Ordering::Relaxed);
            let ((from_node, mut to_node), (mut from_member, to_member)) = (node.into_split(), member.into_split());
            tokio::select! {
                done = copy(&mut from_member, &mut to_node) => drop(done),
                done = self.ask(from_node, to_member) => drop(done),
            }
        };
        tokio::select! {
            biased;
            _ = is_cut.wait_for(|is_cut| *is_cut) => {}
            () = carried => {}
        }
    }

    /// Passes on what the node asks, whole frames.
    async fn ask(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> std::io::Result<()> {
        let mut is_shut = self.is_shut.subscribe();
        let mut frame = vec![0; PREFACE];
        from.read_exact(&mut frame).await?;
        to.write_all(&frame).await?;
        loop {
            frame.resize(HEADER, 0);
            from.read_exact(&mut frame).await?;
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
            frame.resize(HEADER + usize::try_from(length).unwrap(), 0);
            from.read_exact(&mut frame[HEADER..]).await?;
            if asks_for_a_watch(&frame) {
                self.asked.send_modify(|asked| *asked += 1);
                drop(is_shut.wait_for(|is_shut| !is_shut).await);
            }
            to.write_all(&frame).await?;
        }
    }
}

/// The one request whose first field is a message that begins with a key: `WatchRequest.create_request.key`, behind gRPC's five
/// octets.
fn asks_for_a_watch(frame: &[u8]) -> bool {
    const FIRST: u8 = 1 << 3 | 2;
    frame[3] == DATA && matches!(frame.get(HEADER + 5..), Some([FIRST, _, FIRST, _, b'/', ..]))
}
