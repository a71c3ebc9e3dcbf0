//! Protocols that no socket speaks for us: what goes over a raw one, and an end that answers it.

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::space::{Heard, Space, TURN, in_turns};

pub(crate) const GRE: u8 = 47;
pub(crate) const SCTP: u8 = 132;
/// For experiments (RFC 3692). The kernel takes its first octets for a checksum, and answers none that is wrong
/// (`nf_reject_verify_csum`): a refusal is silent.
pub(crate) const TRIAL: u8 = 253;

/// After so many nothing comes any more.
const TURNS: u32 = 3;
/// Both ends' verification tag.
const TAG: [u8; 4] = *b"netd";
/// Types of chunks (RFC 9260, 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;

/// One end of a talk by a protocol; by SCTP, between two ports.
pub(crate) struct Talk {
    socket: UdpSocket,
    protocol: u8,
    ports: (u16, u16),
}

impl Space {
    /// Begins to talk with an address; nothing is sent yet. Ports matter to SCTP alone.
    pub(crate) fn talk(&self, protocol: u8, address: IpAddr, port: u16) -> Talk {
        static PORTS: AtomicU16 = AtomicU16::new(20_000);
        let ports = (PORTS.fetch_add(1, Ordering::Relaxed), port);
        let socket = self.run(move || {
            let socket = raw(protocol, address.is_ipv4());
            socket.set_read_timeout(Some(TURN)).unwrap();
            socket.connect((address, 0)).unwrap();
            socket
        });
        Talk { socket, protocol, ports }
    }

    /// Answers whoever talks by these protocols, for as long as the test runs.
    pub(crate) fn answer(&self, protocols: &[u8]) {
        for (protocol, is_v4) in protocols.iter().flat_map(|protocol| [(*protocol, true), (*protocol, false)]) {
            let socket = self.run(move || raw(protocol, is_v4));
            std::thread::spawn(move || {
                let mut bytes = [0; 256];
                while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                    let sent = &bytes[if is_v4 { 20 } else { 0 }..length];
                    let back = if protocol == SCTP { sctp_answer(sent) } else { plain_answer(sent) };
                    drop(back.map(|back| socket.send_to(&back, peer)));
                }
            });
        }
    }
}

impl Talk {
    /// Sends what opens a flow, and hears.
    pub(crate) fn open(&self) -> Heard {
        let init = [INIT, 0, 0, 20];
        self.ask(if self.protocol == SCTP { chunk(self.ports, [0; 4], init) } else { self.plain() })
    }

    /// Sends what goes on in it.
    pub(crate) fn go_on(&self) -> Heard {
        let beat = [HEARTBEAT, 0, 0, 4];
        self.ask(if self.protocol == SCTP { chunk(self.ports, TAG, beat) } else { self.plain() })
    }

    /// Behind a plain GRE header as much as an error must give back, or fewer octets than ports would take.
    fn plain(&self) -> Vec<u8> {
        if self.protocol == GRE { b"\0\0\x08\0who?".to_vec() } else { b"?".to_vec() }
    }

    fn ask(&self, bytes: Vec<u8>) -> Heard {
        let asked = self.socket.send(&bytes).map(drop);
        in_turns(asked, TURNS, || self.socket.recv(&mut [0; 256]).map(drop))
    }
}

fn raw(protocol: u8, is_v4: bool) -> UdpSocket {
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    #[expect(unsafe_code, reason = "nix names few protocols")]
    // SAFETY: the call has no pointers, and the descriptor that it gives is nobody else's.
    let socket = unsafe {
        let fd = libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol));
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    UdpSocket::from(socket)
}

/// Both ends may answer: an answer has none.
fn plain_answer(sent: &[u8]) -> Option<Vec<u8>> {
    Some([sent.strip_suffix(b"?")?, b"!"].concat())
}

fn sctp_answer(sent: &[u8]) -> Option<Vec<u8>> {
    let port = |at: usize| u16::from_be_bytes([sent[at], sent[at + 1]]);
    let ports = (port(2), port(0));
    match sent.get(12) {
        Some(&INIT) => Some(chunk(ports, TAG, [INIT_ACK, 0, 0, 20])),
        Some(&HEARTBEAT) => Some(chunk(ports, TAG, [HEARTBEAT_ACK, 0, 0, 4])),
        Some(_) | None => None,
    }
}

/// A packet of SCTP with one chunk. That of an initiation has a tag, a window, two numbers of streams and a first number.
fn chunk(ports: (u16, u16), tag: [u8; 4], head: [u8; 4]) -> Vec<u8> {
    let mut packet = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    packet.extend([tag, [0; 4], head].concat());
    if [INIT, INIT_ACK].contains(&head[0]) {
        packet.extend([TAG, [0, 1, 0, 0], [0, 1, 0, 1], TAG].concat());
    }
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    const CASTAGNOLI: u32 = 0x82f6_3b78;
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { CASTAGNOLI } else { 0 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
