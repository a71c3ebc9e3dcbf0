//! Why a call has no answer.

use std::io;
use std::time::Duration;

use thiserror::Error;

/// gRPC status codes.
const NOT_FOUND: u32 = 5;
const UNIMPLEMENTED: u32 = 12;

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

impl CallError {
    /// There is no such object, or no such service.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Status { code: NOT_FOUND | UNIMPLEMENTED, .. })
    }
}

/// Gives a call up after `limit`.
///
/// # Errors
/// The call's own, or [`CallError::Late`].
pub async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    tokio::time::timeout(limit, call).await.unwrap_or(Err(CallError::Late))
}
