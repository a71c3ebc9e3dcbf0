//! The answers to one request, and how the call ended.

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use protobuf::Message;

use crate::error::CallError;
use crate::message::Incoming;

/// gRPC status codes.
const OK: u32 = 0;
const UNKNOWN: u32 = 2;

/// The answers to one request. The call is given up when they are dropped.
#[derive(Debug)]
pub struct Answers {
    // The peer sees the requests end when this goes.
    _requests: SendStream<Bytes>,
    state: State,
    received: Incoming,
}

#[derive(Debug)]
enum State {
    Awaited(ResponseFuture),
    Flowing(RecvStream),
    Ended,
}

impl Answers {
    pub(crate) fn awaited(response: ResponseFuture, requests: SendStream<Bytes>, largest: usize) -> Self {
        Self { _requests: requests, state: State::Awaited(response), received: Incoming::new(largest) }
    }

    /// The next answer; `None`: that was all, and all went well. May be cancelled: no answer is lost by it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn next<A: Message>(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.received.whole()? {
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
                        self.received.push(&chunk);
                    }
                    None => {
                        let trailers = body.trailers().await?;
                        self.state = State::Ended;
                        status(&trailers.unwrap_or_default(), true)?;
                    }
                },
                State::Ended if self.received.is_empty() => return Ok(None),
                State::Ended => return Err(CallError::Garbled("it ends within a message".to_owned())),
            }
        }
    }
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
