//! The blocking client that doors use. No async runtime, no threads.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::preamble::{self, Tag};
use crate::v1 as messages;
use crate::wire::{CallError, PATIENCE, Wire};

const SERVICE: &str = "netd.v1.Netd";

/// netd could not be reached.
#[derive(Debug, Error)]
#[error("cannot reach netd at {socket}; is it running? (`systemctl start netd`)")]
pub struct ConnectError {
    /// Where it should listen.
    pub socket: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// One connection, with the descriptors that were sent ahead of it. It carries one call at a time: threads that share it
/// wait for each other. After [`CallError::Unanswered`] it is closed: connect again.
#[derive(Debug)]
pub struct Client(Mutex<Wire>);

impl Client {
    /// Connects and sends the descriptors that the requests on this connection speak of.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(socket: &Path, descriptors: &[(Tag, BorrowedFd<'_>)]) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError { socket: socket.to_owned(), source };
        let wire = Wire::connect(socket, PATIENCE).map_err(failed)?;
        preamble::send(wire.as_raw_fd(), descriptors).map_err(failed)?;
        Ok(Self(Mutex::new(wire)))
    }
}

macro_rules! calls {
    ($($name:ident $method:ident($request:ident) -> $response:ident: $doc:literal;)*) => {
        impl Client {
            $(
                #[doc = $doc]
                ///
                /// # Errors
                /// The connection broke, or netd was silent for 30 s.
                pub fn $name(&self, request: &messages::$request) -> Result<messages::$response, CallError> {
                    let mut wire = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    wire.call(SERVICE, stringify!($method), request)
                }
            )*
        }
        /// The messages that the client sends and gets.
        pub mod blocking {
            pub use super::messages::{
                AddressPair, Attachment, Call, Dropped, Failure, Firewall, FleetBlock, FleetNode, FleetRoute, Network, PeerCheck, Policy, PolicyFile, PolicyName, PublishedPort, Reachable, ReachedBy, Reason, TestedWay,
                $($request, $response),*
            };
        }
    };
}

calls! {
    attach Attach(AttachRequest) -> AttachResponse: "Attaches a sandbox to a network.";
    detach Detach(DetachRequest) -> DetachResponse: "Takes an attachment away.";
    describe Describe(DescribeRequest) -> DescribeResponse: "Says what a sandbox is.";
    release Release(ReleaseRequest) -> ReleaseResponse: "Detaches what a container that is gone has left.";
    gc Gc(GcRequest) -> GcResponse: "Detaches what the caller does not list.";
    networks Networks(NetworksRequest) -> NetworksResponse: "The configuration files of the watched directories.";
    check Check(CheckRequest) -> CheckResponse: "Compares an attachment with its record.";
    status Status(StatusRequest) -> StatusResponse: "What netd holds, in numbers.";
    list List(ListRequest) -> ListResponse: "All attachments.";
    resync Resync(ResyncRequest) -> ResyncResponse: "Makes kernel and record agree.";
    policies Policies(PoliciesRequest) -> PoliciesResponse: "All policies, and the files they stand in.";
    apply_policies ApplyPolicies(ApplyPoliciesRequest) -> ApplyPoliciesResponse: "Puts policies in force.";
    delete_policy DeletePolicy(DeletePolicyRequest) -> DeletePolicyResponse: "Takes an applied policy back.";
    test_policy TestPolicy(TestPolicyRequest) -> TestPolicyResponse: "Whether a connection is allowed, and why.";
    reach Reach(ReachRequest) -> ReachResponse: "Who reaches whom.";
    drops Drops(DropsRequest) -> DropsResponse: "The last denied packets.";
    fleet Fleet(FleetRequest) -> FleetResponse: "The nodes that share ranges with this one, and their blocks.";
    check_peers CheckPeers(CheckPeersRequest) -> CheckPeersResponse: "Whether other nodes are reached, and how.";
    remove_node RemoveNode(RemoveNodeRequest) -> RemoveNodeResponse: "Declares a node gone for good.";
    add_pool AddPool(AddPoolRequest) -> AddPoolResponse: "Adds a pool to those of the fleet.";
}
