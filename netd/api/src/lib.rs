//! The contract between netd and its doors: messages, the service, and how descriptors travel.
//!
//! ```text
//! door ── connect ── preamble (descriptors by SCM_RIGHTS) ── ttrpc requests ──▶ netd
//! ```
//!
//! The client blocks and needs no runtime; the feature `server` adds the daemon's end, beside a tokio runtime.
//! Not here: what a request means.

mod client;
mod preamble;
#[cfg(feature = "server")]
pub mod server;
mod wire;

mod generated {
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
    pub mod netd {
        include!(concat!(env!("OUT_DIR"), "/netd.rs"));
    }
    #[cfg(feature = "server")]
    pub mod netd_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/netd_ttrpc.rs"));
    }
}

/// The messages.
pub use generated::netd as v1;

pub use client::{Client, ConnectError, blocking};
pub use preamble::Tag;
#[cfg(feature = "server")]
pub use preamble::{Descriptors, descriptors};
#[cfg(feature = "server")]
pub use server::{bind, is_on_a_callers_thread};
pub use wire::CallError;

/// An error with all its causes, on one line: each names what it adds, none repeats the next.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The CNI error code that fits a failure (CNI specification, section 5).
#[must_use]
pub fn cni_code(code: v1::FailureCode) -> u32 {
    match code {
        v1::FailureCode::INCOMPATIBLE_VERSION => 1,
        v1::FailureCode::UNSUPPORTED_FIELD => 2,
        v1::FailureCode::UNKNOWN_SANDBOX => 3,
        v1::FailureCode::BAD_ENVIRONMENT => 4,
        v1::FailureCode::INPUT_OUTPUT => 5,
        v1::FailureCode::UNDECODABLE => 6,
        v1::FailureCode::INVALID_CONFIG => 7,
        v1::FailureCode::INVALID_NETNS => 8,
        v1::FailureCode::TRY_AGAIN => 11,
        v1::FailureCode::NOT_AVAILABLE => 50,
        v1::FailureCode::FAILURE_CODE_UNSPECIFIED
        | v1::FailureCode::EXHAUSTED
        | v1::FailureCode::CONFLICT
        | v1::FailureCode::INTERNAL => 999,
    }
}
