//! `TO:PORT[/PROTOCOL]` of `netdctl policy test`, as people write it. Pure.

use thiserror::Error;

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// A sandbox, the node or an address, for netd to find.
    pub(crate) to: String,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// For ICMP, type and code.
    pub(crate) port: u16,
}

/// It cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TargetError {
    /// No port.
    #[error("{0:?} names no port: write {0}:80, {0}:53/udp, or {0}:icmp for a ping")]
    NoPort(String),
    /// Not a number.
    #[error("{0:?} is no port: write a number from 1 to 65535, or icmp")]
    Port(String),
    /// Not a protocol.
    #[error("{0:?} is no protocol that has ports: write tcp, udp or sctp")]
    Protocol(String),
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

impl Target {
    /// Reads the text.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        let (to, port) = split(text).ok_or_else(|| TargetError::NoPort(text.to_owned()))?;
        if port == "icmp" {
            return Ok(ping(to));
        }
        let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let protocol = match protocol {
            "tcp" => TCP,
            "udp" => UDP,
            "sctp" => SCTP,
            other => return Err(TargetError::Protocol(other.to_owned())),
        };
        let number = port.parse().ok().filter(|number| *number > 0);
        let port = number.ok_or_else(|| TargetError::Port(port.to_owned()))?;
        Ok(Self { to: to.to_owned(), protocol, port })
    }
}

/// An IPv6 address with a port stands in brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (to, rest) = bracketed.split_once(']')?;
        return Some((to, rest.strip_prefix(':')?));
    }
    let (to, port) = text.rsplit_once(':')?;
    (!to.is_empty() && !to.contains(':')).then_some((to, port))
}

/// An echo request; what netd knows under a name is asked for by IPv4, where it has that.
fn ping(to: &str) -> Target {
    const ICMP: (u8, u16) = (1, 8 << 8);
    const ICMPV6: (u8, u16) = (58, 128 << 8);
    let (protocol, port) = if to.contains(':') { ICMPV6 } else { ICMP };
    Target { to: to.to_owned(), protocol, port }
}

#[cfg(test)]
mod tests {
    use super::{Target, TargetError};

    #[test]
    fn a_target_has_a_port_or_is_pinged() {
        let target = |to: &str, protocol, port| Ok(Target { to: to.to_owned(), protocol, port });
        for (text, expected) in [
            ("web:80", target("web", 6, 80)),
            ("default/web:53/udp", target("default/web", 17, 53)),
            ("10.0.0.2:9/sctp", target("10.0.0.2", 132, 9)),
            ("[fd00::2]:443", target("fd00::2", 6, 443)),
            ("web:icmp", target("web", 1, 2_048)),
            ("[fd00::2]:icmp", target("fd00::2", 58, 32_768)),
            ("web", Err(TargetError::NoPort("web".to_owned()))),
            ("fd00::2", Err(TargetError::NoPort("fd00::2".to_owned()))),
            ("[fd00::2]", Err(TargetError::NoPort("[fd00::2]".to_owned()))),
            (":80", Err(TargetError::NoPort(":80".to_owned()))),
            ("web:0", Err(TargetError::Port("0".to_owned()))),
            ("web:http", Err(TargetError::Port("http".to_owned()))),
            ("web:80/quic", Err(TargetError::Protocol("quic".to_owned()))),
        ] {
            assert_eq!(Target::parse(text), expected, "{text}");
        }
    }
}
