//! gRPC as a client, for methods that are known beforehand: one request, and one answer or a stream of them.
//!
//! ```text
//! Call + request ─▶ Connection ═ HTTP/2, over any connected stream ═▶ peer
//! Answers ◀─ Incoming (pure: whole messages out of octets) ◀─┘
//! ```
//!
//! What a peer sends is bounded by [`Limits`]. Time is the caller's ([`within`]), and so is the way to the peer: only Unix
//! sockets are connected here.

mod answers;
mod connection;
mod error;
mod message;

pub use self::answers::Answers;
pub use self::connection::{Call, Connection, Limits};
pub use self::error::{CallError, within};
pub use self::message::Incoming;

#[cfg(test)]
mod tests;
