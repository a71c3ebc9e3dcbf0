//! The socket: sends a batch, and waits until every message of it is answered.
//!
//! What the messages say is built elsewhere: by netlink-packet-route for links, by `nft` and `conntrack` for netfilter.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use thiserror::Error;

use crate::answer::{Answer, answers};
use crate::link::Link;
use crate::nft::{BATCH_BEGIN, BATCH_END, Request};

/// Room for the largest batch (octets); the default 212,992 ends a large one with `EMSGSIZE` or `ENOBUFS`.
const SEND_BUFFER: usize = 64 << 20;
/// A batch that is no larger has room on every node (octets; an attach's largest is a third of it).
const SMALL: usize = 4 << 10;
/// The kernel answers as it works; silence this long is a fault.
const DEADLINE_S: i64 = 10;
/// A dump that changes under us is made again this often.
const DUMPS: usize = 8;

/// Why a batch was not, or not wholly, carried out.
#[derive(Debug, Error)]
pub enum NetlinkError {
    /// The kernel refused one message. All others of the batch were tried too.
    #[error("message {index} of the batch was refused{}", if text.is_empty() { String::new() } else { format!(" ({text})") })]
    Refused {
        /// Its place in the batch, from 0; the first that was refused.
        index: usize,
        /// The kernel's explanation, where it has one.
        text: String,
        /// The error number.
        source: io::Error,
    },
    /// The socket failed, or the kernel did not answer all messages in time.
    #[error("the netlink socket failed with {unanswered} messages unanswered")]
    Socket {
        /// Messages whose fate is not known.
        unanswered: usize,
        /// Why.
        source: io::Error,
    },
    /// A dump changed under us every time.
    #[error("the kernel's state changed during each of {DUMPS} dumps")]
    Restless,
}

/// Header of a netfilter message (`struct nfgenmsg`): family, version, subsystem.
const NETFILTER_HEADER: usize = 4;
/// An acknowledgement that echoes its request, or one object (octets).
const LARGEST_ANSWER: usize = 16 << 10;
/// A dump comes in datagrams of what its reader has room for, up to this (octets; `netlink_recvmsg`). For each, the kernel
/// goes through a set of nf_tables from its beginning.
const LARGEST_PART: usize = 32 << 10;
/// Header of a netlink message.
const HEADER: usize = 16;
/// `NFNL_SUBSYS_NFTABLES`: whose transaction a batch is, said by its marks.
const NF_TABLES: u16 = 10;

/// A netlink socket of the namespace that it was opened in, whatever its thread does later.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    has_room: bool,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Socket {
    /// Opens an rtnetlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Self::open_protocol(NETLINK_ROUTE)
    }

    /// Opens a netfilter socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_netfilter() -> io::Result<Self> {
        Self::open_protocol(NETLINK_NETFILTER)
    }

    fn open_protocol(protocol: isize) -> io::Result<Self> {
        let socket = netlink_sys::Socket::new(protocol)?;
        // The kernel gives it its number by the way (`netlink_autobind`, net/netlink/af_netlink.c).
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(DEADLINE_S))?;
        Ok(Self { socket, sequence: 0, has_room: false })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.has_room && bytes.len() > SMALL {
            // Without CAP_NET_ADMIN over the first namespace: as much as `net.core.wmem_max` allows.
            setsockopt(&self.socket, sockopt::SndBufForce, &SEND_BUFFER)
                .or_else(|_| setsockopt(&self.socket, sockopt::SndBuf, &SEND_BUFFER))?;
            self.has_room = true;
        }
        self.socket.send(bytes, 0).map(drop)
    }

    /// From now on, [`Socket::datagram`] does not wait.
    pub(crate) fn set_non_blocking(&mut self) -> io::Result<()> {
        self.socket.set_non_blocking(true)
    }

    /// One datagram that nobody asked for.
    pub(crate) fn datagram(&self) -> io::Result<Vec<u8>> {
        self.socket.recv_from_full().map(|(datagram, _)| datagram)
    }

    /// Carries out all messages, in order, with one send. `flags` are those beside request and acknowledgement
    /// (`NLM_F_CREATE`, `NLM_F_EXCL`, ...), one set a message.
    ///
    /// # Errors
    /// See [`NetlinkError`]. The kernel goes on after a refused message: what follows it was tried.
    pub fn execute(&mut self, batch: Vec<(RouteNetlinkMessage, u16)>) -> Result<(), NetlinkError> {
        self.each_echo(batch, &mut |_| {})
    }

    /// The same, for a batch whose first message makes a link and asks to be told what came of it (`NLM_F_ECHO`). A kernel
    /// before Linux 6.2 does not tell: `None`.
    ///
    /// # Errors
    /// As for [`Socket::execute`].
    pub fn create_link(&mut self, batch: Vec<(RouteNetlinkMessage, u16)>) -> Result<Option<Link>, NetlinkError> {
        let mut link = None;
        self.each_echo(batch, &mut |object| link = Link::read(object))?;
        Ok(link)
    }

    /// Shows what is echoed of the first message.
    fn each_echo(
        &mut self,
        batch: Vec<(RouteNetlinkMessage, u16)>,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        let first = self.sequence + 1;
        let count = batch.len();
        let mut bytes = Vec::new();
        for (at, (message, flags)) in batch.into_iter().enumerate() {
            // Refusals come in any case, in order; the last one's answer says that all before it were tried.
            let ack = if at + 1 == count { NLM_F_ACK } else { 0 };
            self.append(&mut bytes, message, NLM_F_REQUEST | ack | flags);
        }
        if count == 0 {
            return Ok(());
        }
        let failed = |source| NetlinkError::Socket { unanswered: count, source };
        self.send(&bytes).map_err(failed)?;
        let mut refused: Option<NetlinkError> = None;
        loop {
            for answer in self.receive().map_err(failed)? {
                let (sequence, errno, text) = match answer {
                    Answer::Ack { sequence, errno, text } => (sequence, errno, text),
                    Answer::Object { sequence, message, .. } if sequence == first => {
                        visit(&message);
                        continue;
                    }
                    // Of a request that was given up before.
                    Answer::Object { .. } | Answer::Done { .. } => continue,
                };
                if errno != 0 && (first..=self.sequence).contains(&sequence) {
                    let index = usize::try_from(sequence - first).unwrap_or(count);
                    let source = io::Error::from_raw_os_error(errno);
                    refused.get_or_insert(NetlinkError::Refused { index, text, source });
                }
                if sequence == self.sequence {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Carries out all requests as one transaction: all, or none and the first refusal.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn transact(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let Some((last, others)) = requests.split_last() else { return Ok(()) };
        let failed = |source| NetlinkError::Socket { unanswered: requests.len(), source };
        let mut bytes = Vec::new();
        self.append_netfilter(&mut bytes, BATCH_BEGIN, NLM_F_REQUEST, 0, NF_TABLES, &[]);
        let begin = self.sequence;
        for request in others {
            self.append_request(&mut bytes, request, NLM_F_REQUEST);
        }
        // Refusals come in any case; of what went well, the last one speaks for all.
        self.append_request(&mut bytes, last, NLM_F_REQUEST | NLM_F_ACK);
        let end = self.sequence;
        self.append_netfilter(&mut bytes, BATCH_END, NLM_F_REQUEST, 0, NF_TABLES, &[]);
        self.send(&bytes).map_err(failed)?;
        let mut refused: Option<NetlinkError> = None;
        loop {
            for answer in self.receive().map_err(failed)? {
                let Answer::Ack { sequence, errno, text } = answer else { continue };
                if errno != 0
                    && (begin..=end).contains(&sequence)
                    && let Ok(index) = usize::try_from(sequence.saturating_sub(begin + 1))
                {
                    let source = io::Error::from_raw_os_error(errno);
                    refused.get_or_insert(NetlinkError::Refused { index, text, source });
                }
                // An error of the first message speaks for the whole transaction: nothing may follow it.
                if sequence == end || (sequence == begin && errno != 0) {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Carries out one request that stands outside of any transaction.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn command(&mut self, request: &Request) -> Result<(), NetlinkError> {
        let mut bytes = Vec::new();
        self.append_request(&mut bytes, request, NLM_F_REQUEST | NLM_F_ACK);
        self.each_object(&bytes, false, &mut |_| {}).map(drop)
    }

    /// The bodies, behind the netfilter header, of all objects that `request` asks for. With `one`, of the one object.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an absent object is a refusal (`ENOENT`).
    pub fn read_netfilter(&mut self, request: &Request, one: bool) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let flags = if one { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_DUMP };
        for _ in 0..DUMPS {
            let mut bytes = Vec::new();
            self.append_request(&mut bytes, request, flags);
            let mut bodies = Vec::new();
            if self.each_object(&bytes, one, &mut |object| bodies.push(body(object).to_vec()))? {
                return Ok(bodies);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Shows the bodies, behind the netfilter header, of all objects that `request` asks for, without keeping them. What
    /// changes meanwhile may be shown or not.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn each_netfilter(&mut self, request: &Request, visit: &mut dyn FnMut(&[u8])) -> Result<(), NetlinkError> {
        let mut bytes = Vec::new();
        self.append_request(&mut bytes, request, NLM_F_REQUEST | NLM_F_DUMP);
        self.each_object(&bytes, false, &mut |object| visit(body(object))).map(drop)
    }

    /// The one object that `request` asks for.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an absent object is a refusal (`ENODEV` for links).
    pub fn fetch(&mut self, request: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        let failed = |source| NetlinkError::Socket { unanswered: 1, source };
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_REQUEST);
        let mut decoded = Ok(None);
        self.each_object(&bytes, true, &mut |object| decoded = decode(object))?;
        decoded.map_err(failed)?.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))
    }

    /// Who the one link is that `request` asks for.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an absent link is a refusal (`ENODEV`).
    pub fn link(&mut self, request: RouteNetlinkMessage) -> Result<Link, NetlinkError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_REQUEST);
        let mut link = None;
        self.each_object(&bytes, true, &mut |object| link = Link::read(object))?;
        link.ok_or_else(|| NetlinkError::Socket { unanswered: 1, source: io::ErrorKind::InvalidData.into() })
    }

    /// What `keep` makes of all objects that `request` asks for. It gets them one at a time: an object takes ten times the room
    /// that it had on the wire.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn dump<T>(
        &mut self,
        request: &RouteNetlinkMessage,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMPS {
            let (mut bytes, mut kept, mut damage) = (Vec::new(), Vec::new(), None);
            self.append(&mut bytes, request.clone(), NLM_F_REQUEST | NLM_F_DUMP);
            let is_whole = self.each_object(&bytes, false, &mut |object| match decode(object) {
                Ok(object) => kept.extend(object.and_then(&mut keep)),
                Err(error) => damage = Some(error),
            })?;
            if let Some(source) = damage {
                return Err(NetlinkError::Socket { unanswered: 1, source });
            }
            if is_whole {
                return Ok(kept);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Sends a request and shows its objects: until the end of the dump, or just `one`. `false`: the dump changed while it was
    /// made.
    fn each_object(&mut self, request: &[u8], one: bool, visit: &mut dyn FnMut(&[u8])) -> Result<bool, NetlinkError> {
        let failed = |source| NetlinkError::Socket { unanswered: 1, source };
        self.send(request).map_err(failed)?;
        let mut restless = false;
        loop {
            let answered = if one { self.receive() } else { self.receive_of_any_size() };
            for answer in answered.map_err(failed)? {
                match answer {
                    Answer::Object { sequence, interrupted, message } if sequence == self.sequence => {
                        restless |= interrupted;
                        visit(&message);
                        if one {
                            return Ok(true);
                        }
                    }
                    Answer::Done { sequence, interrupted, errno: 0 } if sequence == self.sequence => {
                        return Ok(!restless && !interrupted);
                    }
                    Answer::Ack { sequence, errno: 0, .. } if sequence == self.sequence => return Ok(true),
                    Answer::Done { sequence, errno, .. } if sequence == self.sequence => {
                        return Err(failed(io::Error::from_raw_os_error(errno)));
                    }
                    Answer::Ack { sequence, errno, text } if sequence == self.sequence => {
                        let source = io::Error::from_raw_os_error(errno);
                        return Err(NetlinkError::Refused { index: 0, text, source });
                    }
                    // Of a request that was given up before.
                    Answer::Object { .. } | Answer::Done { .. } | Answer::Ack { .. } => {}
                }
            }
        }
    }

    /// One datagram that is no larger than an acknowledgement or an object can be.
    fn receive(&mut self) -> io::Result<Vec<Answer>> {
        self.receive_into(&mut [0; LARGEST_ANSWER])
    }

    /// One datagram of a dump; the kernel makes it larger where one object is.
    fn receive_of_any_size(&mut self) -> io::Result<Vec<Answer>> {
        let length = recv(self.socket.as_raw_fd(), &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        self.receive_into(&mut vec![0; length.max(LARGEST_PART)])
    }

    fn receive_into(&mut self, buffer: &mut [u8]) -> io::Result<Vec<Answer>> {
        let length = recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC)?;
        let datagram = buffer.get(..length).ok_or_else(|| io::Error::from_raw_os_error(Errno::EMSGSIZE as i32))?;
        Ok(answers(datagram))
    }

    fn append_request(&mut self, bytes: &mut Vec<u8>, request: &Request, flags: u16) {
        let body = request.body.as_bytes();
        self.append_netfilter(bytes, request.kind, flags | request.flags, request.family, request.resource, body);
    }

    /// Header, netfilter header, body.
    fn append_netfilter(&mut self, bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        self.sequence += 1;
        let length = u32::try_from(HEADER + NETFILTER_HEADER + body.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        bytes.extend(body);
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        // It is in the header from now on; to find it out again takes as long as to write the message.
        message.finalize();
        let (start, length) = (bytes.len(), message.header.length as usize);
        bytes.resize(start + length.next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + length]);
    }
}

/// What is behind the netfilter header.
fn body(object: &[u8]) -> &[u8] {
    object.get(HEADER + NETFILTER_HEADER..).unwrap_or_default()
}

/// A whole message as netlink-packet-route reads it; `None`: it is of netlink itself.
///
/// # Errors
/// It cannot be read.
pub fn decode(message: &[u8]) -> io::Result<Option<RouteNetlinkMessage>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(object) = message.payload else { return Ok(None) };
    Ok(Some(object))
}
