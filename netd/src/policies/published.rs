//! Where a connection to an address of this node really goes: to the sandbox that has the port published, as the ruleset or
//! netd's own proxy leads it. Whoever is led has the source that he had: the ruleset asks policies ahead of any masquerade. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netd_config::Protocol;
use netd_kernel::Publication;
use netd_policy::{TCP, Traffic};

use crate::attachment::Attachment;
use crate::node::at_all;
use crate::ports::proxied;

/// All published ports of this node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    ruled: BTreeMap<Publication, SocketAddr>,
    proxied: BTreeMap<Publication, SocketAddr>,
}

/// Where one leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NextHop {
    /// A sandbox's address and port.
    pub(crate) target: SocketAddr,
    /// netd accepts, and connects there itself.
    pub(crate) is_proxied: bool,
}

impl Published {
    /// Those of these attachments.
    pub(crate) fn of(attachments: &[Attachment]) -> Self {
        let ruled = attachments.iter().flat_map(Attachment::publications).collect();
        Self { ruled, proxied: attachments.iter().flat_map(proxied).collect() }
    }

    /// Where this leads that comes to an address of the node; `None`: to the node itself.
    pub(crate) fn lead(&self, to: IpAddr, traffic: Traffic) -> Option<NextHop> {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = protocols.into_iter().find(|one| one.number() == traffic.protocol)?;
        let there = Publication { address: to, protocol, port: traffic.port };
        // The address that is named comes first, as in the ruleset.
        let of =
            |all: &BTreeMap<Publication, SocketAddr>| all.get(&there).or_else(|| all.get(&at_all(&there))).copied();
        let ruled = of(&self.ruled).filter(|_| to != IpAddr::from(Ipv6Addr::LOCALHOST));
        let ruled = ruled.map(|target| NextHop { target, is_proxied: false });
        let is_accepted = traffic.protocol == TCP && to.is_ipv6();
        let proxied = || of(&self.proxied).filter(|_| is_accepted).map(|target| NextHop { target, is_proxied: true });
        ruled.or_else(proxied)
    }
}

#[cfg(test)]
mod tests {
    use netd_policy::{ICMP, SCTP, TCP, Traffic, UDP};

    use super::{NextHop, Published};
    use crate::ports::tests::attachment;

    #[test]
    fn a_published_port_leads_as_the_ruleset_and_the_proxy_do() {
        use netd_config::Protocol::{Sctp, Tcp, Udp};
        let mut web = attachment("web", &[(8080, Tcp), (53, Udp), (9, Sctp)]);
        let mut other = attachment("other", &[(8080, Tcp)]);
        other.foreign = vec!["10.4.0.3".parse().unwrap(), "fd00::3".parse().unwrap()];
        other.ports[0].host_ip = Some("192.0.2.7".parse().unwrap());
        web.ports[0].container = 81;
        let published = Published::of(&[web, other]);
        let led = |to: &str, is_proxied| Some(NextHop { target: to.parse().unwrap(), is_proxied });
        for (to, protocol, port, expected) in [
            ("192.0.2.1", TCP, 8080, led("10.4.0.2:81", false)),
            ("192.0.2.1", UDP, 53, led("10.4.0.2:80", false)),
            ("192.0.2.1", SCTP, 9, led("10.4.0.2:80", false)),
            ("192.0.2.1", UDP, 8080, None),
            ("192.0.2.1", ICMP, 8080, None),
            ("192.0.2.7", TCP, 8080, led("10.4.0.3:80", false)),
            // Its sandbox has no IPv6: what has a socket of netd's is passed on, and nothing else.
            ("2001:db8::1", TCP, 8080, led("10.4.0.2:81", true)),
            ("::1", TCP, 8080, led("10.4.0.2:81", true)),
            ("2001:db8::1", UDP, 53, None),
            ("2001:db8::1", SCTP, 9, None),
        ] {
            let lead = published.lead(to.parse().unwrap(), Traffic { protocol, port });
            assert_eq!(lead, expected, "{to} {protocol} {port}");
        }
        let mut both = attachment("both", &[(8080, Tcp)]);
        both.foreign.push("fd00::2".parse().unwrap());
        let published = Published::of(&[both]);
        let lead = |to: &str| published.lead(to.parse().unwrap(), Traffic { protocol: TCP, port: 8080 });
        assert_eq!((lead("2001:db8::1"), lead("::1")), (led("[fd00::2]:80", false), led("[fd00::2]:80", true)));
    }
}
