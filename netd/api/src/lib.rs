//! The contract between netd and its doors: messages, the service, and how descriptors travel.
//!
//! ```text
//! door ── connect ── preamble (descriptors by SCM_RIGHTS) ── ttrpc requests ──▶ netd
//! ```
//!
//! Not here: what a request means.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

mod client;
mod preamble;

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
    pub mod served {
        pub mod netd {
            include!(concat!(env!("OUT_DIR"), "/served/netd.rs"));
        }
        pub mod netd_ttrpc {
            include!(concat!(env!("OUT_DIR"), "/served/netd_ttrpc.rs"));
        }
    }
    pub mod blocking {
        pub mod netd {
            include!(concat!(env!("OUT_DIR"), "/blocking/netd.rs"));
        }
        pub mod netd_ttrpc {
            include!(concat!(env!("OUT_DIR"), "/blocking/netd_ttrpc.rs"));
        }
    }
}

/// The messages.
pub use generated::served::netd as v1;

/// The service, for the daemon.
pub mod server {
    pub use crate::generated::served::netd_ttrpc::{Netd, create_netd};
}

pub use client::{CallError, Client, ConnectError, blocking};
pub use preamble::{Descriptors, Tag, descriptors};

/// Serves `service` on the socket `path`, which only root may open. A socket left by a dead netd is replaced.
///
/// # Errors
/// The socket cannot be bound, or the path is something other than a socket.
pub fn listen(path: &Path, service: Arc<dyn server::Netd + Send + Sync>) -> ttrpc::Result<ttrpc::asynchronous::Server> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && found.file_type().is_socket()
    {
        std::fs::remove_file(path).map_err(|error| ttrpc::Error::Others(error.to_string()))?;
    }
    Ok(ttrpc::asynchronous::Server::new()
        .bind(&format!("unix://{}", path.display()))?
        .set_accept_hook(preamble::PreambleHook)
        .register_service(server::create_netd(service)))
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
