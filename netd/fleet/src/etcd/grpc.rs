//! gRPC as a client, over any connected stream: one request, and one answer or many. What is asked is `client`'s.
//!
//! A message is a flag octet (compressed: never), its length (u32, big endian), and itself (gRPC over HTTP/2, "Length-
//! Prefixed-Message").

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use protobuf::Message;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

/// Flag and length.
const PREFIX: usize = 5;
/// A whole list of a large fleet comes in one message.
const LARGEST: usize = 256 << 20;
/// What etcd may send before it is read: one list, not many round trips.
const WINDOW: u32 = 8 << 20;
/// gRPC status codes.
const OK: u32 = 0;
const UNKNOWN: u32 = 2;

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("cannot connect")]
    Connect(#[from] io::Error),
    /// The connection broke, or the peer does not speak HTTP/2.
    #[error("the connection broke")]
    Broken(#[from] h2::Error),
    /// The peer refused.
    #[error("refused with gRPC status {code} ({message})")]
    Status {
        /// gRPC status code.
        code: u32,
        /// Its explanation.
        message: String,
    },
    /// The answer is no gRPC message of ours.
    #[error("cannot read the answer: {0}")]
    Garbled(String),
    /// No answer in time.
    #[error("no answer in time")]
    Late,
}

/// An open connection. It is driven by a task that ends with it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    base: String,
    token: Option<String>,
}

impl Connection {
    pub(super) async fn over<S>(stream: S, base: String) -> Result<Self, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(async move {
            // Whoever waits for an answer is told as well.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to etcd ended");
            }
        });
        Ok(Self { sender, base, token: None })
    }

    /// Every request from now on carries this token.
    pub(super) fn authorize(&mut self, token: String) {
        self.token = Some(token);
    }

    /// Asks for one answer.
    pub(super) async fn unary<A: Message>(&self, path: &str, request: &impl Message) -> Result<A, CallError> {
        let mut answers = self.stream(path, request).await?;
        answers.finish()?;
        let answer = answers.next().await?;
        let answer = answer.ok_or_else(|| CallError::Garbled("it is empty".to_owned()))?;
        // The status comes last.
        answers.next::<A>().await?;
        Ok(answer)
    }

    /// Asks for a stream of answers, which lasts until it is dropped.
    pub(super) async fn stream(&self, path: &str, request: &impl Message) -> Result<Answers, CallError> {
        let mut head = Request::post(format!("{}{path}", self.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = &self.token {
            head = head.header("token", token);
        }
        let head = head.body(()).map_err(|error| CallError::Garbled(error.to_string()))?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(head, false)?;
        body.send_data(frame(request)?, false)?;
        Ok(Answers { body, state: State::Awaited(response), received: BytesMut::new() })
    }
}

/// The answers to one request.
#[derive(Debug)]
pub(super) struct Answers {
    body: SendStream<Bytes>,
    state: State,
    received: BytesMut,
}

#[derive(Debug)]
enum State {
    Awaited(ResponseFuture),
    Flowing(RecvStream),
    Ended,
}

impl Answers {
    /// Asks nothing more.
    fn finish(&mut self) -> Result<(), CallError> {
        Ok(self.body.send_data(Bytes::new(), true)?)
    }

    /// The next answer; `None`: that was all, and all went well. May be cancelled: no answer is lost by it.
    pub(super) async fn next<A: Message>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.whole()? {
                let parsed = A::parse_from_bytes(&message);
                return parsed.map(Some).map_err(|error| CallError::Garbled(error.to_string()));
            }
            match &mut self.state {
                State::Awaited(response) => {
                    let response = response.await?;
                    // A refusal may come without a body, its status in the head.
                    status(response.headers(), false)?;
                    self.state = State::Flowing(response.into_body());
                }
                State::Flowing(body) => match body.data().await {
                    Some(chunk) => {
                        let chunk = chunk?;
                        body.flow_control().release_capacity(chunk.len())?;
                        self.received.extend_from_slice(&chunk);
                    }
                    None => {
                        let trailers = body.trailers().await?;
                        self.state = State::Ended;
                        status(&trailers.unwrap_or_default(), true)?;
                    }
                },
                State::Ended => return Ok(None),
            }
        }
    }

    /// Takes one whole message from what was received.
    fn whole(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some((prefix, _)) = self.received.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if flag != 0 || length > LARGEST {
            return Err(CallError::Garbled(format!("a message of {length} octets with flag {flag}")));
        }
        if self.received.len() < PREFIX + length {
            return Ok(None);
        }
        self.received.advance(PREFIX);
        Ok(Some(self.received.split_to(length).freeze()))
    }
}

fn frame(message: &impl Message) -> Result<Bytes, CallError> {
    let garbled = |error: String| CallError::Garbled(error);
    let body = message.write_to_bytes().map_err(|error| garbled(error.to_string()))?;
    let length = u32::try_from(body.len()).map_err(|error| garbled(error.to_string()))?;
    Ok([&[0], length.to_be_bytes().as_slice(), &body].concat().into())
}

/// The status of a call; where it `must` be there, its absence is an error.
fn status(headers: &HeaderMap, must: bool) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status").map(|code| code.parse().unwrap_or(UNKNOWN));
    match code {
        Some(OK) => Ok(()),
        None if !must => Ok(()),
        None => Err(CallError::Garbled("it ends without a status".to_owned())),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default().to_owned();
            Err(CallError::Status { code, message })
        }
    }
}
