//! The daemon's end of the socket. What a request means is the service's business.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

pub use crate::generated::netd_ttrpc::{Netd, create_netd};
use crate::preamble;

/// Serves `service` on the socket `path`, which only root may open. A socket left by a dead netd is replaced.
///
/// # Errors
/// The socket cannot be bound, or the path is something other than a socket.
pub fn listen(path: &Path, service: Arc<dyn Netd + Send + Sync>) -> ttrpc::Result<ttrpc::asynchronous::Server> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && found.file_type().is_socket()
    {
        std::fs::remove_file(path).map_err(|error| ttrpc::Error::Others(error.to_string()))?;
    }
    Ok(ttrpc::asynchronous::Server::new()
        .bind(&format!("unix://{}", path.display()))?
        .set_accept_hook(preamble::PreambleHook)
        .register_service(create_netd(service)))
}
