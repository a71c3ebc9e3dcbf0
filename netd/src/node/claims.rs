//! Which places of the node are whose, for published ports. Pure; what a port publishes is the attachment's to say.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netd_config::Protocol;
use netd_kernel::Publication;

use super::draft::at_all;
use crate::attachment::AttachmentKey;

/// Port first: whoever wants a port at all addresses looks at that port alone, however many others there are.
type Place = (Protocol, u16, IpAddr);

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<Place, AttachmentKey>);

impl Claims {
    /// Whose the place is.
    pub(super) fn holder(&self, publication: Publication) -> Option<&AttachmentKey> {
        self.0.get(&place(publication))
    }

    /// These are whose they say from now on.
    pub(super) fn extend(&mut self, claims: impl IntoIterator<Item = (Publication, AttachmentKey)>) {
        self.0.extend(claims.into_iter().map(|(publication, key)| (place(publication), key)));
    }

    /// The place is nobody's.
    pub(super) fn remove(&mut self, publication: Publication) {
        self.0.remove(&place(publication));
    }

    /// Who else than `own` keeps it from having the place: one address of the node may be taken by all addresses, and the other
    /// way round.
    pub(super) fn in_the_way(&self, own: &AttachmentKey, wanted: Publication) -> Option<&AttachmentKey> {
        let is_anothers = |holder: &&AttachmentKey| *holder != own;
        if !wanted.address.is_unspecified() {
            let mut taken = [wanted, at_all(&wanted)].into_iter().filter_map(|at| self.holder(at));
            return taken.find(is_anothers);
        }
        let last =
            if wanted.address.is_ipv4() { Ipv4Addr::BROADCAST.into() } else { Ipv6Addr::from_bits(u128::MAX).into() };
        let last = Publication { address: last, ..wanted };
        self.0.range(place(wanted)..=place(last)).map(|(_, holder)| holder).find(is_anothers)
    }
}

fn place(publication: Publication) -> Place {
    (publication.protocol, publication.port, publication.address)
}

#[cfg(test)]
mod tests {
    use netd_config::{ContainerId, LinkName, NetworkName, Protocol};
    use netd_kernel::Publication;

    use super::Claims;
    use crate::attachment::AttachmentKey;

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey {
            network: NetworkName::new("web").unwrap(),
            container: ContainerId::new(container).unwrap(),
            interface: LinkName::new("eth0").unwrap(),
        }
    }

    fn at(address: &str, port: u16) -> Publication {
        Publication { address: address.parse().unwrap(), protocol: Protocol::Tcp, port }
    }

    #[test]
    fn a_place_is_in_the_way_of_itself_of_all_addresses_and_behind_all_addresses() {
        let check = |taken: (&str, u16), wanted: (&str, u16), is_free: bool| {
            let mut claims = Claims::default();
            let neighbours = [at("0.0.0.0", taken.1 - 1), at("::", taken.1 + 1), at("255.255.255.255", taken.1 - 1)];
            claims.extend(neighbours.map(|place| (place, key("neighbour"))));
            claims.extend([(at(taken.0, taken.1), key("holder"))]);
            let wanted = at(wanted.0, wanted.1);
            let found = claims.in_the_way(&key("other"), wanted).map(|holder| holder.container.as_str().to_owned());
            assert_eq!(found.as_deref(), (!is_free).then_some("holder"), "{taken:?} {wanted}");
            assert_eq!(claims.in_the_way(&key("holder"), wanted), None, "nobody is in his own way: {taken:?} {wanted}");
        };
        for (one, other, all) in [("10.0.0.7", "10.0.0.8", "0.0.0.0"), ("fd00::7", "ffff::8", "::")] {
            check((one, 80), (one, 80), false);
            check((one, 80), (other, 80), true);
            check((one, 80), (all, 80), false);
            check((other, 80), (all, 80), false);
            check((all, 80), (one, 80), false);
            check((all, 80), (all, 80), false);
        }
        check(("0.0.0.0", 80), ("::", 80), true);
        check(("::", 80), ("255.255.255.255", 80), true);
        check(("255.255.255.255", 80), ("0.0.0.0", 80), false);
    }

    #[test]
    fn what_is_let_go_is_in_nobodys_way() {
        let mut claims = Claims::default();
        claims.extend([(at("0.0.0.0", 80), key("holder"))]);
        assert_eq!(claims.holder(at("0.0.0.0", 80)), Some(&key("holder")));
        claims.remove(at("0.0.0.0", 80));
        assert_eq!(claims.in_the_way(&key("other"), at("10.0.0.7", 80)), None);
    }
}
