//! The blocking client that doors use. No async runtime.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use thiserror::Error;
use ttrpc::context::with_timeout;

use crate::generated::blocking::{netd as messages, netd_ttrpc::NetdClient};
use crate::preamble::{self, Tag};

/// Longer than any attach; a door's caller has its own limit.
const TIMEOUT_NS: i64 = 30_000_000_000;

/// netd could not be reached.
#[derive(Debug, Error)]
#[error("cannot reach netd at {socket}; is it running? (`systemctl start netd`)")]
pub struct ConnectError {
    /// Where it should listen.
    pub socket: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// A request had no answer.
#[derive(Debug, Error)]
#[error("netd did not answer")]
pub struct CallError(#[from] ttrpc::Error);

impl CallError {
    /// Whether netd does not know the request: it is older than its caller.
    #[must_use]
    pub fn is_unknown_request(&self) -> bool {
        // The ttrpc server answers NOT_FOUND to a method that its service does not have; netd itself never does.
        matches!(&self.0, ttrpc::Error::RpcStatus(status)
            if matches!(status.code(), ttrpc::Code::NOT_FOUND | ttrpc::Code::UNIMPLEMENTED))
    }
}

/// One connection, with the descriptors that were sent ahead of it.
#[expect(missing_debug_implementations, reason = "the generated client has none")]
pub struct Client(NetdClient);

impl Client {
    /// Connects and sends the descriptors that the requests on this connection speak of.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(socket: &Path, descriptors: &[(Tag, BorrowedFd<'_>)]) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError { socket: socket.to_owned(), source };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        preamble::send(stream.as_raw_fd(), descriptors).map_err(failed)?;
        let client = ttrpc::Client::new(stream.into_raw_fd()).map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self(NetdClient::new(client)))
    }
}

macro_rules! calls {
    ($($name:ident($request:ident) -> $response:ident: $doc:literal;)*) => {
        impl Client {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// The connection broke, or 30 s passed.
                pub fn $name(&self, request: &messages::$request) -> Result<messages::$response, CallError> {
                    Ok(self.0.$name(with_timeout(TIMEOUT_NS), request)?)
                }
            )*
        }
        /// The messages of the blocking client.
        pub mod blocking {
            pub use super::messages::{Attachment, Call, Failure, Network, PublishedPort, $($request, $response),*};
        }
    };
}

calls! {
    attach(AttachRequest) -> AttachResponse: "Attaches a sandbox to a network.";
    detach(DetachRequest) -> DetachResponse: "Takes an attachment away.";
    describe(DescribeRequest) -> DescribeResponse: "Says what a sandbox is.";
    gc(GcRequest) -> GcResponse: "Detaches what the caller does not list.";
    networks(NetworksRequest) -> NetworksResponse: "The configuration files of the watched directories.";
    check(CheckRequest) -> CheckResponse: "Compares an attachment with its record.";
    status(StatusRequest) -> StatusResponse: "What netd holds, in numbers.";
    list(ListRequest) -> ListResponse: "All attachments.";
    resync(ResyncRequest) -> ResyncResponse: "Makes kernel and record agree.";
}
