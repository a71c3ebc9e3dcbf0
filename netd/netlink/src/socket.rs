//! The socket: sends a batch, and waits until every message of it is answered.

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use thiserror::Error;

use crate::answer::{Answer, answers};

/// Room for the largest batch (octets); the default 212,992 ends a large one with `ENOBUFS`.
const SEND_BUFFER: usize = 4 << 20;
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

/// An rtnetlink socket of the namespace that it was opened in, whatever its thread does later.
#[derive(Debug)]
pub struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
}

impl Socket {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(DEADLINE_S))?;
        // Without CAP_NET_ADMIN over the first namespace: as much as `net.core.wmem_max` allows.
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Carries out all messages, in order, with one send. `flags` are those beside request and acknowledgement
    /// (`NLM_F_CREATE`, `NLM_F_EXCL`, ...), one set a message.
    ///
    /// # Errors
    /// See [`NetlinkError`]. The kernel goes on after a refused message: what follows it was tried.
    pub fn execute(&mut self, batch: Vec<(RouteNetlinkMessage, u16)>) -> Result<(), NetlinkError> {
        let first = self.sequence;
        let count = batch.len();
        let mut bytes = Vec::new();
        for (message, flags) in batch {
            self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_ACK | flags);
        }
        let failed = |unanswered, source| NetlinkError::Socket { unanswered, source };
        if count > 0 {
            self.socket.send(&bytes, 0).map_err(|source| failed(count, source))?;
        }
        let mut acks: BTreeMap<usize, (i32, String)> = BTreeMap::new();
        while acks.len() < count {
            let (datagram, _) = self.socket.recv_from_full().map_err(|source| failed(count - acks.len(), source))?;
            for answer in answers(&datagram) {
                if let Answer::Ack { sequence, errno, text } = answer
                    && let Some(index) = sequence.checked_sub(first + 1).and_then(|index| usize::try_from(index).ok())
                    && index < count
                {
                    acks.insert(index, (errno, text));
                }
            }
        }
        match acks.into_iter().find(|(_, (errno, _))| *errno != 0) {
            None => Ok(()),
            Some((index, (errno, text))) => {
                Err(NetlinkError::Refused { index, text, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }

    /// The one object that `request` asks for.
    ///
    /// # Errors
    /// See [`NetlinkError`]; an absent object is a refusal (`ENODEV` for links).
    pub fn fetch(&mut self, request: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, NetlinkError> {
        let failed = |source| NetlinkError::Socket { unanswered: 1, source };
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_REQUEST);
        self.socket.send(&bytes, 0).map_err(failed)?;
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(failed)?;
            for answer in answers(&datagram) {
                match answer {
                    Answer::Object { sequence, message, .. } if sequence == self.sequence => {
                        if let Some(object) = decode(&message).map_err(failed)? {
                            return Ok(object);
                        }
                    }
                    Answer::Ack { sequence, errno, text } if sequence == self.sequence => {
                        return Err(NetlinkError::Refused {
                            index: 0,
                            text,
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                    Answer::Object { .. } | Answer::Done { .. } | Answer::Ack { .. } => {}
                }
            }
        }
    }

    /// All objects that `request` asks for.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub fn dump(&mut self, request: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMPS {
            if let Some(objects) = self.dump_once(request.clone())? {
                return Ok(objects);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// `None`: the dump changed while it was made.
    fn dump_once(&mut self, request: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        let failed = |source| NetlinkError::Socket { unanswered: 1, source };
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_REQUEST | NLM_F_DUMP);
        self.socket.send(&bytes, 0).map_err(failed)?;
        let (mut objects, mut restless) = (Vec::new(), false);
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(failed)?;
            for answer in answers(&datagram) {
                match answer {
                    Answer::Object { sequence, interrupted, message } if sequence == self.sequence => {
                        restless |= interrupted;
                        objects.extend(decode(&message).map_err(failed)?);
                    }
                    Answer::Done { sequence, errno } | Answer::Ack { sequence, errno, .. }
                        if sequence == self.sequence =>
                    {
                        return match errno {
                            0 => Ok((!restless).then_some(objects)),
                            errno => Err(failed(io::Error::from_raw_os_error(errno))),
                        };
                    }
                    // Of a request that was given up before.
                    Answer::Object { .. } | Answer::Done { .. } | Answer::Ack { .. } => {}
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
    }
}

fn decode(message: &[u8]) -> io::Result<Option<RouteNetlinkMessage>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(object) = message.payload else { return Ok(None) };
    Ok(Some(object))
}
