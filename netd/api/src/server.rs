//! The daemon's end of the socket. What a request means is the service's business; how it is read is `connection`'s.

mod connection;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

pub use crate::generated::netd_ttrpc::Netd;
use crate::generated::netd_ttrpc::create_netd;
use connection::Services;

/// Out of descriptors, accepting again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);

/// A service on its socket. It ends with this value, and its connections with it.
#[derive(Debug)]
pub struct Server(JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves `service` on the socket `path`, which only root may open. A socket left by a dead netd is replaced.
///
/// # Errors
/// The socket cannot be bound, somebody listens on it, or the path is something other than a socket.
pub fn listen(path: &Path, service: Arc<dyn Netd + Send + Sync>) -> io::Result<Server> {
    if let Ok(found) = std::fs::symlink_metadata(path)
        && found.file_type().is_socket()
    {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "a netd that lives listens there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
    Ok(Server(tokio::spawn(accept(listener, Arc::new(create_netd(service))))))
}

async fn accept(listener: UnixListener, services: Arc<Services>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection::serve(stream, Arc::clone(&services)))),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
