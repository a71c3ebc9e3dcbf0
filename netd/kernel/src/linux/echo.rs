//! Asks an address for an echo (RFC 792, RFC 4443), in a packet of a given size that nobody on the way may cut up. Blocking.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use netd_config::LinkName;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// It came back.
    Heard(Duration),
    /// It is larger than a link on the way, as far as the kernel knows.
    TooLarge,
    /// Nothing was heard.
    Silence,
}

/// Asks one address.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    to: IpAddr,
    identifier: u16,
    sequence: u16,
}

impl Asker {
    /// A socket for echoes of `to` in the calling thread's network namespace. The identifier tells askers apart. What is sent
    /// leaves by the link, if one is named, and only what comes in by it is heard (socket(7), `SO_BINDTODEVICE`).
    ///
    /// # Errors
    /// The kernel's: `ENETUNREACH` and the like where no route leads there.
    pub fn open(to: IpAddr, identifier: u16, link: Option<&LinkName>) -> io::Result<Self> {
        let (family, protocol) = if to.is_ipv4() {
            (AddressFamily::Inet, SockProtocol::Icmp)
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        };
        let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        whole(&raw, to.is_ipv4())?;
        if let Some(link) = link {
            setsockopt(&raw, sockopt::BindToDevice, &OsString::from(link.as_str()))?;
        }
        let socket = UdpSocket::from(raw);
        socket.connect(SocketAddr::new(to, 0))?;
        Ok(Self { socket, to, identifier, sequence: 0 })
    }

    /// Sends an IP packet of `size` octets in all, and waits for its echo.
    ///
    /// # Errors
    /// The kernel's, other than that the packet is too large.
    pub fn ask(&mut self, size: usize, patience: Duration) -> io::Result<Echo> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = if self.to.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
        let request = request(self.to.is_ipv4(), self.identifier, self.sequence, size.saturating_sub(header));
        let begin = Instant::now();
        match self.socket.send(&request) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Echo::TooLarge),
            sent => drop(sent?),
        }
        let mut answer = vec![0; size.max(1_024)];
        loop {
            let left = patience.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Ok(Echo::Silence);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut answer) {
                Ok(length) if self.is_echo(&answer[..length]) => return Ok(Echo::Heard(begin.elapsed())),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                // Told by somebody on the way.
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(Echo::TooLarge),
                Err(error) => return Err(error),
            }
        }
    }

    /// An IPv4 socket hears the packet with its header, an IPv6 socket without.
    fn is_echo(&self, packet: &[u8]) -> bool {
        let (message, kind) = if self.to.is_ipv4() {
            let length = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
            (packet.get(length..).unwrap_or_default(), 0)
        } else {
            (packet, 129)
        };
        let wanted = [self.identifier.to_be_bytes(), self.sequence.to_be_bytes()].concat();
        message.first() == Some(&kind) && message.get(4..8) == Some(&wanted[..])
    }
}

/// The kernel puts the checksum into ICMPv6 messages.
fn request(is_v4: bool, identifier: u16, sequence: u16, length: usize) -> Vec<u8> {
    let mut message = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.resize(length.max(ICMP_HEADER), 0x6e);
    if is_v4 {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// RFC 1071.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Nobody cuts the packet up, and what the kernel remembers of a narrow path does not count (`IP_PMTUDISC_PROBE`).
fn whole(socket: &OwnedFd, is_v4: bool) -> io::Result<()> {
    let (level, name, value) = if is_v4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    };
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "nix has no wrapper for IP_MTU_DISCOVER")]
    // SAFETY: the kernel reads one int, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::{checksum, request};

    #[test]
    fn a_request_sums_up_to_nothing() {
        for length in [8, 9, 64] {
            let message = request(true, 0x1234, 7, length);
            assert_eq!((message.len(), checksum(&message)), (length, 0));
        }
        assert_eq!(request(false, 1, 2, 0), [128, 0, 0, 0, 0, 1, 0, 2]);
    }
}
