//! netd's NRI door: a long-lived plugin that tells netd what each CRI pod is.
//!
//! ```text
//! containerd ═ unix socket ═▶ frame ▶ message ▶ request    pure: bytes in, what is asked out (`session`)
//!                                               │
//!                                             door ── answers in time, whatever netd does
//!                                               │
//!                                             outbox ▶ courier ═ ttrpc (+ netns) ═▶ netd
//! ```
//!
//! Not here: attaching. containerd has called CNI before it speaks to a plugin, and a pod whose address netd did not give
//! is netd's to leave alone.

pub mod backoff;
pub mod courier;
pub mod door;
pub mod frame;
pub mod message;
pub mod outbox;
pub mod pod;
pub mod request;
pub mod session;

/// The messages on the wire, generated from `proto/`.
pub mod wire {
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
    pub mod nri {
        include!(concat!(env!("OUT_DIR"), "/nri.rs"));
    }
    pub mod ttrpc {
        include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
    }
}
