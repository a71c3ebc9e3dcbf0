//! A containerd for tests: the same protocol over the same kind of socket, with records that a test puts there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use protobuf::{Message, MessageField};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use super::api::{
    Any, Container, ContainerAnswer, Event, Id, Namespace, NamespaceList, Sandbox, SandboxAnswer, SandboxList, Task,
    TaskList,
};
use super::{GET_CONTAINER, GET_SANDBOX, LIST_NAMESPACES, LIST_SANDBOXES, LIST_TASKS, SUBSCRIBE};

/// Of every container.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:latest";
/// Longer than an attach waits, shorter than whoever asks behind it.
pub(crate) const A_WHILE: Duration = Duration::from_secs(1);
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// What it has.
#[derive(Debug, Default)]
pub(crate) struct Records {
    containers: BTreeMap<(String, String), Container>,
    sandboxes: BTreeMap<String, Sandbox>,
    tasks: BTreeMap<String, Vec<String>>,
    /// Before each answer.
    pub(crate) delay: Duration,
    /// Nobody is told of these.
    pub(crate) stuck: BTreeSet<String>,
    /// What is asked of these is told as it was a while ago.
    pub(crate) late: BTreeSet<String>,
    /// As before 2.0.
    pub(crate) has_no_sandboxes: bool,
    /// Lists end in an error after this many.
    pub(crate) lists_fail: bool,
}

/// It runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) records: Arc<Mutex<Records>>,
    events: broadcast::Sender<Vec<u8>>,
    accepting: JoinHandle<()>,
}

impl Fake {
    pub(crate) fn start(socket: &Path) -> Self {
        Self::with(socket, Arc::default())
    }

    /// The same containerd, started again.
    pub(crate) fn with(socket: &Path, records: Arc<Mutex<Records>>) -> Self {
        drop(std::fs::remove_file(socket));
        let listener = UnixListener::bind(socket).unwrap();
        let events = broadcast::channel(16).0;
        let (served, told) = (Arc::clone(&records), events.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (records, events) = (Arc::clone(&served), told.clone());
                // They end with this task: a containerd that is gone hangs up.
                connections.spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond, Arc::clone(&records), events.clone()));
                    }
                });
            }
        });
        Self { records, events, accepting }
    }

    pub(crate) fn container(&self, namespace: &str, id: &str, labels: &[(&str, &str)]) {
        let mut container = Container::new();
        container.id = id.to_owned();
        IMAGE.clone_into(&mut container.image);
        container.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.records.lock().unwrap().containers.insert((namespace.to_owned(), id.to_owned()), container);
    }

    pub(crate) fn sandbox(&self, id: &str, metadata: &str) {
        let mut sandbox = Sandbox::new();
        sandbox.sandbox_id = id.to_owned();
        let mut any = Any::new();
        any.value = metadata.as_bytes().to_vec();
        sandbox.extensions.insert("metadata".to_owned(), any);
        self.records.lock().unwrap().sandboxes.insert(id.to_owned(), sandbox);
    }

    pub(crate) fn tasks(&self, namespace: &str, ids: &[&str]) {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        self.records.lock().unwrap().tasks.insert(namespace.to_owned(), ids);
    }

    /// Says that something happened; waits for somebody who listens.
    pub(crate) async fn say(&self, namespace: &str, topic: &str, id: &str) {
        let mut subject = Id::new();
        subject.id = id.to_owned();
        let mut any = Any::new();
        any.value = subject.write_to_bytes().unwrap();
        let mut event = Event::new();
        event.namespace = namespace.to_owned();
        event.topic = topic.to_owned();
        event.event = MessageField::some(any);
        while self.events.send(event.write_to_bytes().unwrap()).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    records: Arc<Mutex<Records>>,
    events: broadcast::Sender<Vec<u8>>,
) {
    let path = request.uri().path().to_owned();
    let namespace = request.headers().get("containerd-namespace").map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let mut body = request.into_body();
    let mut asked = BytesMut::new();
    while let Some(chunk) = body.data().await {
        asked.extend_from_slice(&chunk.unwrap());
    }
    let asked = asked.split_off(5);
    let delay = records.lock().unwrap().delay;
    tokio::time::sleep(delay).await;
    let id = Id::parse_from_bytes(&asked).map(|asked| asked.id).unwrap_or_default();
    let is_of_one = [GET_CONTAINER, GET_SANDBOX].contains(&path.as_str());
    if is_of_one && records.lock().unwrap().stuck.contains(&id) {
        return std::future::pending().await;
    }
    let head = Response::builder().header("content-type", "application/grpc");
    if path == SUBSCRIBE {
        let mut said = events.subscribe();
        // As the real one: the head comes with the first event.
        let Ok(first) = said.recv().await else { return };
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        send(&mut stream, &first);
        while let Ok(event) = said.recv().await {
            send(&mut stream, &event);
        }
        return;
    }
    let answer = answer(&path, namespace.as_deref(), &asked, &records.lock().unwrap());
    if is_of_one && records.lock().unwrap().late.contains(&id) {
        tokio::time::sleep(A_WHILE).await;
    }
    match answer {
        Ok(bytes) => {
            // Who asked may have gone.
            let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else { return };
            send(&mut stream, &bytes);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            drop(stream.send_trailers(trailers));
        }
        Err(code) => {
            let head = head.header("grpc-status", code).header("grpc-message", "no");
            drop(respond.send_response(head.body(()).unwrap(), true));
        }
    }
}

/// In two pieces, as any message may come.
fn send(stream: &mut SendStream<Bytes>, message: &[u8]) {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let frame = [&[0], length.as_slice(), message].concat();
    let (first, second) = frame.split_at(3);
    drop(stream.send_data(Bytes::copy_from_slice(first), false));
    drop(stream.send_data(Bytes::copy_from_slice(second), false));
}

#[expect(clippy::unwrap_in_result, reason = "only the client under test asks")]
fn answer(path: &str, namespace: Option<&str>, asked: &[u8], records: &Records) -> Result<Vec<u8>, &'static str> {
    let id = Id::parse_from_bytes(asked).unwrap().id;
    let namespace = || namespace.expect("this method needs a namespace").to_owned();
    let bytes = match path {
        GET_CONTAINER => {
            let mut answer = ContainerAnswer::new();
            answer.container = Some(records.containers.get(&(namespace(), id)).ok_or(NOT_FOUND)?.clone()).into();
            answer.write_to_bytes()
        }
        GET_SANDBOX | LIST_SANDBOXES if records.has_no_sandboxes => return Err(UNIMPLEMENTED),
        GET_SANDBOX => {
            assert_eq!(namespace(), "k8s.io");
            let mut answer = SandboxAnswer::new();
            answer.sandbox = Some(records.sandboxes.get(&id).ok_or(NOT_FOUND)?.clone()).into();
            answer.write_to_bytes()
        }
        LIST_SANDBOXES => {
            let mut list = SandboxList::new();
            list.list = records.sandboxes.values().cloned().collect();
            list.write_to_bytes()
        }
        LIST_NAMESPACES => namespaces(records).write_to_bytes(),
        LIST_TASKS if records.lists_fail => return Err("14"),
        LIST_TASKS => {
            let mut list = TaskList::new();
            let ids = records.tasks.get(&namespace()).cloned().unwrap_or_default();
            list.tasks = ids.into_iter().map(task).collect();
            list.write_to_bytes()
        }
        other => panic!("{other} is never asked for"),
    };
    Ok(bytes.unwrap())
}

fn namespaces(records: &Records) -> NamespaceList {
    let names = records.containers.keys().map(|(namespace, _)| namespace).chain(records.tasks.keys());
    let names: BTreeSet<&String> = names.collect();
    let mut list = NamespaceList::new();
    list.namespaces = names.into_iter().map(|name| Namespace { name: name.clone(), ..Namespace::default() }).collect();
    list
}

fn task(id: String) -> Task {
    Task { id, ..Task::default() }
}
