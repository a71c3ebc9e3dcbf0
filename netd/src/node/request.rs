//! What the node is asked, and what it answers. How it decides is `node`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{Bridge, IngressPolicy, Ipam, LinkName, NameError, PortMapping, Ptp, Tuning};
use netd_kernel::{NetnsId, Publication};
use thiserror::Error;

use super::{BRIDGE_PORTS, ShareError};
use crate::attachment::{Attachment, AttachmentKey, Facts, LabelState, State};
use crate::ipam::{LeaseError, Reserved};

/// What an attach wants; parsed, and with everything read that had to be read.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Identity.
    pub key: AttachmentKey,
    /// The sandbox.
    pub netns: NetnsId,
    /// As the caller wrote it.
    pub netns_path: String,
    /// What to make.
    pub what: What,
    /// Addresses that others hold.
    pub reserved: Reserved,
    /// Who is asked for the labels while it is attached.
    pub label_state: LabelState,
    /// An annotation named the network, not a CNI call.
    pub extra: bool,
}

/// What a later stanza of a chain says of the interface that it follows.
#[derive(Debug, Clone)]
pub struct Follower {
    /// Identity.
    pub key: AttachmentKey,
    /// The sandbox.
    pub netns: NetnsId,
    /// As the caller wrote it.
    pub netns_path: String,
    /// The interface's addresses, as the plugins before it gave them.
    pub addresses: Vec<IpAddr>,
}

impl Follower {
    /// An attachment of an interface that another plugin made.
    pub(super) fn blank(&self) -> Attachment {
        Attachment {
            key: self.key.clone(),
            netns: self.netns,
            netns_path: self.netns_path.clone(),
            state: State::Attached,
            leases: Vec::new(),
            wiring: None,
            foreign: Vec::new(),
            ports: Vec::new(),
            facts: Facts::default(),
            name: String::new(),
            labels: BTreeMap::new(),
            namespace: String::new(),
            image: String::new(),
            label_state: LabelState::None,
            quarantined: false,
            extra: false,
        }
    }
}

/// The kinds of attachment that netd makes.
#[derive(Debug, Clone)]
pub enum What {
    /// A veth to a bridge.
    Bridge(Box<Bridge>),
    /// A veth of its own, and a route.
    Routed(Box<Ptp>),
    /// Only addresses, for a foreign main plugin that calls us as its IPAM.
    Addresses(Ipam),
}

/// What a later stanza of a chain adds to an attachment.
#[derive(Debug, Clone)]
pub enum Extension {
    /// `portmap`.
    Ports(Vec<PortMapping>),
    /// `firewall`.
    Ingress(IngressPolicy),
    /// `tuning`.
    Tuning(Tuning),
}

/// The answer to an extension.
#[derive(Debug)]
pub enum Extended {
    /// The attachment before and after; the difference is to be made.
    Changed {
        /// As it stands.
        before: Box<Attachment>,
        /// As it should stand.
        after: Box<Attachment>,
        /// What the same key held in another sandbox, and what nobody detached: to be drained first.
        replaces: Option<Box<Attachment>>,
    },
    /// It is so already.
    Already(Box<Attachment>),
}

/// Why an attach was refused.
#[derive(Debug, Error)]
pub enum AttachError {
    /// No address.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The fleet lets this node give none.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// IPAM gave none.
    #[error("cannot attach {0}: IPAM plugin returned missing IP config; give the network an ipam section with a range")]
    NoAddress(Box<AttachmentKey>),
    /// A routed sandbox reaches all by its gateway, and the address has none.
    #[error(
        "cannot attach {key}: address {address} has no gateway, and a routed sandbox reaches all by it; name one in the IPAM section"
    )]
    NoGateway {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        address: IpNet,
    },
    /// The bridge is full.
    #[error("cannot attach {key}: bridge {bridge} has {BRIDGE_PORTS} ports, the kernel's limit; use a second network")]
    BridgeFull {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        bridge: LinkName,
    },
    /// The bridge carries another gateway and `forceAddress` is off.
    #[error(
        "cannot attach {key}: {bridge:?} already has an IP address different from {wanted}: it has {found}; give the network another bridge"
    )]
    BridgeAddress {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        bridge: String,
        /// What the network needs.
        wanted: IpNet,
        /// What stands there.
        found: IpNet,
    },
    /// Its request was cut off, or it was detached meanwhile.
    #[error("{0} is not attached; attach it again")]
    Gone(Box<AttachmentKey>),
    /// The port leads to another sandbox.
    #[error(
        "cannot publish {publication} for {key}: it leads to {holder}; take another port, or remove that container"
    )]
    PortTaken {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Which.
        publication: Publication,
        /// Whose it is.
        holder: Box<AttachmentKey>,
    },
    /// A later stanza asks for what only an attachment of ours can have.
    #[error(
        "cannot attach {key}: {what} needs an interface that netd made, and another plugin made this one; take {what} out of the \
         network's file, or let bridge or ptp make the interface"
    )]
    Foreign {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// For what.
        what: &'static str,
    },
    /// A host link name could not be formed.
    #[error("cannot name the host end of {key}'s link; shorten link_prefix in netd.toml")]
    Name {
        /// Who asked.
        key: Box<AttachmentKey>,
        /// Why.
        source: NameError,
    },
}

/// The answer to an attach.
#[derive(Debug)]
pub enum Attached {
    /// To be wired. `replaces` is what the same key held in another sandbox and must go.
    New {
        /// What to make.
        attachment: Box<Attachment>,
        /// What to drain first.
        replaces: Option<Box<Attachment>>,
        /// Blocks that are its network's from now on.
        taken: BTreeSet<IpNet>,
        /// Some address was its own until now, in a sandbox that others may still have connections with.
        is_reused: bool,
    },
    /// It stands.
    Already(Box<Attachment>),
}
