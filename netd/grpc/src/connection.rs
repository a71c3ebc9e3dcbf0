//! An open connection, and requests on it. What comes back is `answers`'s.

use std::path::Path;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use protobuf::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

use crate::answers::Answers;
use crate::error::CallError;
use crate::message::frame;

/// Metadata and status of one call (octets).
const LARGEST_HEAD: u32 = 64 << 10;

/// What a peer may have us hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest message (octets).
    pub message: usize,
    /// What may come before it is read (octets): of one call, and of all together.
    pub window: u32,
}

/// Which method, and what goes with the request.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    path: &'static str,
    metadata: Vec<(&'static str, &'a str)>,
}

impl<'a> Call<'a> {
    /// The method at `/package.Service/Method`.
    #[must_use]
    pub const fn to(path: &'static str) -> Self {
        Self { path, metadata: Vec::new() }
    }

    /// The same with this metadata, too.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &'a str) -> Self {
        self.metadata.push((name, value));
        self
    }
}

/// An open connection. It is driven by a task that ends with it.
#[derive(Debug, Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    base: String,
    largest: usize,
}

impl Connection {
    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn unix(socket: &Path, limits: Limits) -> Result<Self, CallError> {
        Self::over(UnixStream::connect(socket).await?, "http://localhost".to_owned(), limits).await
    }

    /// Speaks over a connected stream with `base`, a scheme and a host.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn over<S>(stream: S, base: String, limits: Limits) -> Result<Self, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(limits.window)
            .initial_connection_window_size(limits.window)
            .max_header_list_size(LARGEST_HEAD);
        let (sender, connection) = builder.handshake(stream).await?;
        let peer = base.clone();
        tokio::spawn(async move {
            // Whoever waits for an answer is told as well.
            if let Err(error) = connection.await {
                tracing::debug!(%error, peer, "a gRPC connection ended");
            }
        });
        Ok(Self { sender, base, largest: limits.message })
    }

    /// Asks for one answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn unary<A: Message>(&self, call: Call<'_>, request: &impl Message) -> Result<A, CallError> {
        let mut answers = self.stream(call, request).await?;
        let answer = answers.next().await?;
        let answer = answer.ok_or_else(|| CallError::Garbled("it is empty".to_owned()))?;
        // The status comes last.
        answers.next::<A>().await?;
        Ok(answer)
    }

    /// Asks for a stream of answers. What is wrong with the request is told by the first of them.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn stream(&self, call: Call<'_>, request: &impl Message) -> Result<Answers, CallError> {
        self.send(call, request, true).await
    }

    /// The same for a method that takes a stream of requests too, and ends with it: this one stays open until the answers
    /// are dropped.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn open_stream(&self, call: Call<'_>, request: &impl Message) -> Result<Answers, CallError> {
        self.send(call, request, false).await
    }

    async fn send(&self, call: Call<'_>, request: &impl Message, is_all: bool) -> Result<Answers, CallError> {
        let mut head = Request::post(format!("{}{}", self.base, call.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in call.metadata {
            head = head.header(name, value);
        }
        let head = head.body(()).map_err(|error| CallError::Garbled(error.to_string()))?;
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(head, false)?;
        body.send_data(frame(request)?, is_all)?;
        Ok(Answers::awaited(response, body, self.largest))
    }
}
