//! A runtime that speaks NRI from the other side, with the limits of the Go code that reads our bytes.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use netd_hook::wire::{nri, ttrpc};
use protobuf::Message;

use super::{PATIENCE, until};

const PLUGIN: u32 = 1;
const RUNTIME: u32 = 2;
/// Go's ttrpc reads through a buffer of this size; only a read that wants at least as much goes past it.
const GO_BUFFER: usize = 4096;
/// Frames that Go's multiplexer holds for a connection whose reader is busy.
const GO_QUEUE: usize = 256;

/// How pod events are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dialect {
    /// containerd 2.2 and older.
    StateChange,
    /// containerd 2.3 and newer.
    Dedicated,
}

/// A socket at which plugins register.
pub(crate) struct Runtime {
    listener: UnixListener,
    dialect: Dialect,
}

impl Runtime {
    pub(crate) fn listen(socket: &Path, dialect: Dialect) -> Self {
        drop(std::fs::remove_file(socket));
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, dialect }
    }

    /// Takes the next connection, without a word.
    pub(crate) fn accept(&self) -> Plugin {
        let (stream, _) = until("a plugin", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Plugin { stream, dialect: self.dialect, incoming: BTreeMap::new(), last_stream: u32::MAX, cut: usize::MAX }
    }

    /// The whole handshake up to an empty list of pods.
    pub(crate) fn register(&self) -> Plugin {
        let mut plugin = self.accept();
        plugin.registered();
        assert_eq!(plugin.configure(2_000).events, 0x7);
        plugin.synchronize(Vec::new(), false);
        plugin
    }
}

/// A connection to a plugin.
pub(crate) struct Plugin {
    stream: UnixStream,
    dialect: Dialect,
    incoming: BTreeMap<u32, GoReader>,
    last_stream: u32,
    /// Writes pieces of at most this size.
    pub(crate) cut: usize,
}

/// How a call ended: gRPC code and payload.
pub(crate) type Answer = (i32, Vec<u8>);

impl Plugin {
    /// Answers the plugin's registration.
    pub(crate) fn registered(&mut self) -> nri::RegisterPluginRequest {
        let (stream, request) = self.asked();
        self.send(RUNTIME, &message(stream, 2, &ttrpc::Response::new()));
        request
    }

    /// Refuses it.
    pub(crate) fn refused(&mut self, words: &str) {
        let (stream, _) = self.asked();
        let status = ttrpc::Status { code: 9, message: words.to_owned(), ..ttrpc::Status::default() };
        let response = ttrpc::Response { status: Some(status).into(), ..ttrpc::Response::default() };
        self.send(RUNTIME, &message(stream, 2, &response));
    }

    fn asked(&mut self) -> (u32, nri::RegisterPluginRequest) {
        let (stream, kind, body) = self.read(RUNTIME);
        assert_eq!(kind, 1);
        let request = ttrpc::Request::parse_from_bytes(&body).unwrap();
        assert_eq!(request.service, "nri.pkg.api.v1alpha1.Runtime");
        assert_eq!(request.method, "RegisterPlugin");
        (stream, nri::RegisterPluginRequest::parse_from_bytes(&request.payload).unwrap())
    }

    pub(crate) fn configure(&mut self, request_timeout: i64) -> nri::ConfigureResponse {
        let mut request = nri::ConfigureRequest { request_timeout, ..nri::ConfigureRequest::default() };
        request.runtime_name = "fake".to_owned();
        let (code, payload) = self.call("Configure", &request);
        assert_eq!(code, 0);
        nri::ConfigureResponse::parse_from_bytes(&payload).unwrap()
    }

    pub(crate) fn synchronize(&mut self, pods: Vec<nri::PodSandbox>, more: bool) {
        let request = nri::SynchronizeRequest { pods, more, ..nri::SynchronizeRequest::default() };
        let (code, payload) = self.call("Synchronize", &request);
        let response = nri::SynchronizeResponse::parse_from_bytes(&payload).unwrap();
        assert_eq!((code, response.more), (0, more));
    }

    pub(crate) fn run(&mut self, pod: &nri::PodSandbox) -> Duration {
        self.event(nri::Event::RUN_POD_SANDBOX, "RunPodSandbox", pod)
    }

    pub(crate) fn stop(&mut self, pod: &nri::PodSandbox) -> Duration {
        self.event(nri::Event::STOP_POD_SANDBOX, "StopPodSandbox", pod)
    }

    pub(crate) fn remove(&mut self, pod: &nri::PodSandbox) -> Duration {
        self.event(nri::Event::REMOVE_POD_SANDBOX, "RemovePodSandbox", pod)
    }

    /// Sends an event, which must end well, and says how long the plugin took.
    fn event(&mut self, event: nri::Event, method: &str, pod: &nri::PodSandbox) -> Duration {
        let start = Instant::now();
        let pod = Some(pod.clone()).into();
        let (code, _) = match self.dialect {
            Dialect::StateChange => {
                let event = event.into();
                self.call("StateChange", &nri::StateChangeEvent { event, pod, ..nri::StateChangeEvent::default() })
            }
            Dialect::Dedicated => {
                self.call(method, &nri::PodSandboxRequest { pod, ..nri::PodSandboxRequest::default() })
            }
        };
        assert_eq!(code, 0, "{method}");
        start.elapsed()
    }

    pub(crate) fn call(&mut self, method: &str, request: &impl Message) -> Answer {
        self.last_stream = self.last_stream.wrapping_add(2);
        let mut envelope = ttrpc::Request { method: method.to_owned(), ..ttrpc::Request::default() };
        envelope.service = "nri.pkg.api.v1alpha1.Plugin".to_owned();
        envelope.payload = request.write_to_bytes().unwrap();
        self.send(PLUGIN, &message(self.last_stream, 1, &envelope));
        let (stream, kind, body) = self.read(PLUGIN);
        assert_eq!((stream, kind), (self.last_stream, 2));
        let response = ttrpc::Response::parse_from_bytes(&body).unwrap();
        (response.status.code, response.payload)
    }

    /// As Go does it: a buffer's fill, then the rest in one frame, however long.
    pub(crate) fn send(&mut self, connection: u32, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(GO_BUFFER));
        for payload in [head, rest].into_iter().filter(|payload| !payload.is_empty()) {
            let length = u32::try_from(payload.len()).unwrap();
            let frame = [&connection.to_be_bytes(), &length.to_be_bytes(), payload].concat();
            for piece in frame.chunks(self.cut) {
                self.stream.write_all(piece).unwrap();
            }
        }
    }

    /// The next message on `connection`.
    fn read(&mut self, connection: u32) -> (u32, u8, Vec<u8>) {
        loop {
            if let Some(message) = self.incoming.entry(connection).or_default().message() {
                return message;
            }
            let mut header = [0; 8];
            self.stream.read_exact(&mut header).expect("the plugin says nothing");
            let from = u32::from_be_bytes(header[..4].try_into().unwrap());
            let length = u32::from_be_bytes(header[4..].try_into().unwrap());
            let mut payload = vec![0; length as usize];
            self.stream.read_exact(&mut payload).unwrap();
            assert!([PLUGIN, RUNTIME].contains(&from), "a frame for nobody: {from}");
            self.incoming.entry(from).or_default().frame(payload);
        }
    }
}

fn message(stream: u32, kind: u8, body: &impl Message) -> Vec<u8> {
    let body = body.write_to_bytes().unwrap();
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], &body].concat()
}

/// Reads one connection as Go's `bufio` over the multiplexer does, and fails where that would.
#[derive(Default)]
pub(crate) struct GoReader {
    held: Vec<u8>,
    queued: usize,
}

impl GoReader {
    pub(crate) fn frame(&mut self, payload: Vec<u8>) {
        let wanted = self.wanted();
        let room = if wanted >= GO_BUFFER { wanted } else { GO_BUFFER };
        assert!(payload.len() <= room, "ENOMEM: a frame of {} bytes where Go reads {room}", payload.len());
        self.queued += 1;
        assert!(self.queued <= GO_QUEUE, "Go's queue of {GO_QUEUE} frames overflows");
        self.held.extend(payload);
    }

    /// Bytes that are missing to the message whose header is here.
    fn wanted(&self) -> usize {
        let Some(length) = self.held.first_chunk::<4>() else { return 0 };
        (10 + u32::from_be_bytes(*length) as usize).saturating_sub(self.held.len())
    }

    fn message(&mut self) -> Option<(u32, u8, Vec<u8>)> {
        if self.held.len() < 10 || self.wanted() > 0 {
            return None;
        }
        let length = u32::from_be_bytes(self.held[..4].try_into().unwrap()) as usize;
        let rest = self.held.split_off(10 + length);
        let whole = std::mem::replace(&mut self.held, rest);
        self.queued = 0;
        Some((u32::from_be_bytes(whole[4..8].try_into().unwrap()), whole[8], whole[10..].to_vec()))
    }
}
