//! What netd asks of containerd, by its gRPC API: what a container is, what lives, what happens. Only reads; no decision
//! is made here.
//!
//! ```text
//! runtime ─find, living, events─▶ containerd ─▶ netd-grpc ═▶ /run/containerd/containerd.sock
//! ```

mod origin;
mod record;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use netd_grpc::{Answers, Call, Connection, Limits, within};
use protobuf::Message;
use tokio::sync::Mutex;

use crate::attachment::Description;
use api::{All, ContainerAnswer, Event, Id, NamespaceList, SandboxAnswer, SandboxList, Subscription, TaskList};
use origin::{CRI, container_ids};

pub use netd_grpc::CallError;
pub use origin::Origin;
pub use record::SOURCE;

mod api {
    #![allow(
        warnings,
        clippy::all,
        clippy::pedantic,
        unreachable_pub,
        missing_debug_implementations,
        elided_lifetimes_in_paths,
        unused_qualifications,
        clippy::allow_attributes_without_reason,
        clippy::allow_attributes,
        reason = "generated code"
    )]
    include!(concat!(env!("OUT_DIR"), "/containerd.rs"));
}

const GET_CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const GET_SANDBOX: &str = "/containerd.services.sandbox.v1.Store/Get";
const LIST_SANDBOXES: &str = "/containerd.services.sandbox.v1.Store/List";
const LIST_NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";
const LIST_TASKS: &str = "/containerd.services.tasks.v1.Tasks/List";
const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";

/// A record was made or changed.
const RECORDED: [&str; 2] = ["/containers/create", "/containers/update"];
/// A task is gone: a container's, or a further process in it.
const ENDED: &str = "/tasks/delete";

/// A message as large as containerd itself accepts, and HTTP/2's own window.
const LIMITS: Limits = Limits { message: 16 << 20, window: 65_535 };

/// A list over all namespaces asks each shim for its state: on a busy node that takes a while.
const PATIENCE: Duration = Duration::from_secs(10);

/// The way to containerd; cheap to clone. It connects when it is first asked, and again after containerd went away.
#[derive(Debug, Clone)]
pub struct Containerd {
    socket: Arc<PathBuf>,
    open: Arc<Mutex<Option<Connection>>>,
}

/// What happened to the containers of these CNI container ids: one container, by its possible spellings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Its record was made or changed.
    Recorded(Vec<String>),
    /// It ended, or a process in it: ask what lives.
    Ended(Vec<String>),
}

/// A running subscription.
#[derive(Debug)]
pub struct Events {
    answers: Answers,
    // The connection lives as long as this.
    _connection: Connection,
}

impl Containerd {
    /// containerd at this socket, which need not be there yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: Arc::new(socket.to_owned()), open: Arc::default() }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the container is; `None`: containerd has no record of it. The caller sets the deadline by giving up.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn find(&self, origin: &Origin) -> Result<Option<Description>, CallError> {
        match origin {
            Origin::Pod { id, .. } => match self.find_sandbox(id).await? {
                Some(pod) => Ok(Some(pod)),
                // Before containerd 2.0 a pod has a container's record, made before its network by the default server.
                None => self.find_container(CRI, id).await,
            },
            Origin::Container { namespace, id } => self.find_container(namespace, id).await,
            Origin::Either(text) => {
                for namespace in self.namespaces().await? {
                    let id = text.strip_prefix(&namespace).and_then(|rest| rest.strip_prefix('-'));
                    if let Some(id) = id.filter(|id| !id.is_empty())
                        && let Some(found) = self.find_container(&namespace, id).await?
                    {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The CNI container ids of all that lives: tasks of every namespace, and CRI's sandboxes.
    ///
    /// # Errors
    /// See [`CallError`]. Half a list is no list.
    pub async fn living(&self) -> Result<BTreeSet<String>, CallError> {
        let ids = async {
            let mut ids = BTreeSet::new();
            for namespace in self.namespaces().await? {
                let tasks: TaskList = self.ask(LIST_TASKS, &namespace, &All::new()).await?;
                ids.extend(tasks.tasks.iter().flat_map(|task| container_ids(&namespace, &task.id)));
            }
            // A sandbox of another shim has no task of its own.
            let sandboxes = absent_is_none(self.ask::<SandboxList>(LIST_SANDBOXES, CRI, &All::new()).await)?;
            let sandboxes = sandboxes.map(|sandboxes| sandboxes.list).unwrap_or_default();
            ids.extend(sandboxes.into_iter().map(|sandbox| sandbox.sandbox_id));
            Ok(ids)
        };
        within(PATIENCE, ids).await
    }

    /// Follows what happens from now on, on a connection of its own: its end tells that containerd went away.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn events(&self) -> Result<Events, CallError> {
        let begin = async {
            let connection = Connection::unix(&self.socket, LIMITS).await?;
            let mut subscription = Subscription::new();
            subscription.filters = RECORDED.iter().chain([&ENDED]).map(|topic| format!("topic==\"{topic}\"")).collect();
            let answers = connection.stream(Call::to(SUBSCRIBE), &subscription).await?;
            // A subscription is answered by its first event only. What comes behind it on the connection is answered
            // now: containerd is there.
            drop(connection.unary::<NamespaceList>(Call::to(LIST_NAMESPACES), &All::new()).await?);
            Ok(Events { answers, _connection: connection })
        };
        within(PATIENCE, begin).await
    }

    async fn find_container(&self, namespace: &str, id: &str) -> Result<Option<Description>, CallError> {
        let found = absent_is_none(self.ask::<ContainerAnswer>(GET_CONTAINER, namespace, &named(id)).await)?;
        let container = found.and_then(|mut answer| answer.container.take());
        Ok(container.map(|container| record::of_container(namespace, container)))
    }

    async fn find_sandbox(&self, id: &str) -> Result<Option<Description>, CallError> {
        let found = absent_is_none(self.ask::<SandboxAnswer>(GET_SANDBOX, CRI, &named(id)).await)?;
        Ok(found.and_then(|answer| record::of_sandbox(&answer.sandbox)))
    }

    async fn namespaces(&self) -> Result<Vec<String>, CallError> {
        let list: NamespaceList = self.ask(LIST_NAMESPACES, "", &All::new()).await?;
        Ok(list.namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// A connection that was open when containerd went away is opened anew, once.
    async fn ask<Answer: Message>(
        &self,
        path: &'static str,
        namespace: &str,
        request: &impl Message,
    ) -> Result<Answer, CallError> {
        let call = call(path, namespace);
        let held = self.open.lock().await.clone();
        if let Some(connection) = held {
            match connection.unary(call.clone(), request).await {
                Err(CallError::Broken(_)) => {}
                answered => return answered,
            }
        }
        let connection = Connection::unix(&self.socket, LIMITS).await?;
        *self.open.lock().await = Some(connection.clone());
        connection.unary(call, request).await
    }
}

impl Events {
    /// The next happening; an error ends the subscription.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn next(&mut self) -> Result<Happening, CallError> {
        loop {
            let Some(event) = self.answers.next::<Event>().await? else {
                return Err(CallError::Garbled("the events ended".to_owned()));
            };
            if let Some(happening) = happening(&event) {
                return Ok(happening);
            }
        }
    }
}

/// All events that netd follows have their subject as field 1.
fn happening(event: &Event) -> Option<Happening> {
    let subject = Id::parse_from_bytes(&event.event.value).ok()?;
    let ids = container_ids(&event.namespace, &subject.id);
    match event.topic.as_str() {
        ENDED => Some(Happening::Ended(ids)),
        topic if RECORDED.contains(&topic) => Some(Happening::Recorded(ids)),
        _ => None,
    }
}

/// A method of one containerd namespace; empty: of all.
fn call<'a>(path: &'static str, namespace: &'a str) -> Call<'a> {
    let call = Call::to(path);
    if namespace.is_empty() { call } else { call.with("containerd-namespace", namespace) }
}

/// Reads any bytes as containerd's record of a container and of a sandbox, and as an event.
#[must_use]
pub fn read_answer(bytes: &[u8]) -> (Option<Description>, Option<Description>, Option<Happening>) {
    let container = api::Container::parse_from_bytes(bytes).ok().map(|container| record::of_container(CRI, container));
    let sandbox = api::Sandbox::parse_from_bytes(bytes).ok().and_then(|sandbox| record::of_sandbox(&sandbox));
    (container, sandbox, Event::parse_from_bytes(bytes).ok().and_then(|event| happening(&event)))
}

fn named(id: &str) -> Id {
    let mut named = Id::new();
    id.clone_into(&mut named.id);
    named
}

fn absent_is_none<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Err(error) if error.is_absence() => Ok(None),
        answer => answer.map(Some),
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod tests;
