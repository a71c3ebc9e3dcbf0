//! Leases: round robin, requested, own, exhausted, never twice.

use std::net::IpAddr;

use netd_config::{ContainerId, LinkName, NetworkName, Range};
use proptest::prelude::*;

use super::{Leases, Reserved};
use crate::attachment::AttachmentKey;

fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: NetworkName::new("web").unwrap(),
        container: ContainerId::new(container).unwrap(),
        interface: LinkName::new("eth0").unwrap(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn range(subnet: &str, start: &str, end: &str, gateway: &str) -> Range {
    Range { subnet: subnet.parse().unwrap(), start: ip(start), end: ip(end), gateway: ip(gateway) }
}

fn small() -> Vec<Vec<Range>> {
    vec![vec![range("10.4.0.0/29", "10.4.0.1", "10.4.0.6", "10.4.0.1")]]
}

fn lease(leases: &mut Leases, container: &str, requested: &[IpAddr]) -> Result<String, String> {
    leases
        .lease(&key(container), &small(), requested, &Reserved::new())
        .map(|got| got.iter().map(|lease| lease.address.to_string()).collect::<Vec<_>>().join(" "))
        .map_err(|error| error.to_string())
}

#[test]
fn goes_round_and_skips_the_gateway() {
    let mut leases = Leases::default();
    assert_eq!(lease(&mut leases, "a", &[]).unwrap(), "10.4.0.2/29");
    assert_eq!(lease(&mut leases, "b", &[]).unwrap(), "10.4.0.3/29");
    leases.release(&key("a"), ip("10.4.0.2"));
    assert_eq!(lease(&mut leases, "c", &[]).unwrap(), "10.4.0.4/29", "a freed address comes last");
    for (container, expected) in [("d", "10.4.0.5/29"), ("e", "10.4.0.6/29"), ("f", "10.4.0.2/29")] {
        assert_eq!(lease(&mut leases, container, &[]).unwrap(), expected);
    }
}

#[test]
fn what_others_take_for_somebodys_is_nobody_elses() {
    let mut leases = Leases::default();
    let spoken = ["10.4.0.2", "10.4.0.4", "10.4.0.5"].map(|address| (ip(address), key("a").container));
    leases.speak(spoken.into());
    leases.remember(&key("b"), ip("10.4.0.4"));
    assert_eq!(lease(&mut leases, "b", &[]).unwrap(), "10.4.0.3/29", "though it had another last");
    let refused = lease(&mut leases, "b", &[ip("10.4.0.2")]).unwrap_err();
    assert!(refused.contains("other nodes may still take it for container a's"), "{refused}");
    assert_eq!(lease(&mut leases, "a", &[ip("10.4.0.2")]).unwrap(), "10.4.0.2/29");
    assert_eq!(leases.spoken().collect::<Vec<_>>(), [ip("10.4.0.4"), ip("10.4.0.5")], "the third is held");
    assert_eq!(lease(&mut leases, "c", &[]).unwrap(), "10.4.0.6/29");
    assert!(lease(&mut leases, "d", &[]).unwrap_err().contains("no IP addresses available"), "rather none");
    leases.speak(std::collections::BTreeMap::new());
    assert_eq!(lease(&mut leases, "d", &[]).unwrap(), "10.4.0.4/29");
}

#[test]
fn what_somebody_might_come_back_for_is_given_away_last() {
    let mut leases = Leases::default();
    leases.remember(&key("a"), ip("10.4.0.2"));
    leases.remember(&key("b"), ip("10.4.0.4"));
    assert_eq!(lease(&mut leases, "c", &[]).unwrap(), "10.4.0.3/29");
    assert_eq!(lease(&mut leases, "a", &[]).unwrap(), "10.4.0.2/29");
    assert_eq!(lease(&mut leases, "d", &[]).unwrap(), "10.4.0.5/29");
    assert_eq!(lease(&mut leases, "e", &[]).unwrap(), "10.4.0.6/29");
    assert_eq!(lease(&mut leases, "f", &[]).unwrap(), "10.4.0.4/29", "rather than none");
    assert!(lease(&mut leases, "b", &[]).unwrap_err().contains("no IP addresses available"));
    leases.release(&key("d"), ip("10.4.0.5"));
    assert_eq!(lease(&mut leases, "b", &[]).unwrap(), "10.4.0.5/29");
}

#[test]
fn exhaustion_names_the_pool_and_where_to_look() {
    let mut leases = Leases::default();
    for container in ["a", "b", "c", "d", "e"] {
        lease(&mut leases, container, &[]).unwrap();
    }
    assert_eq!(
        lease(&mut leases, "f", &[]).unwrap_err(),
        "cannot lease an address for f/eth0 on network web: no IP addresses available in range set: \
         10.4.0.1-10.4.0.6 (5 leased by netd, 0 reserved in the host-local data directory or held for other networks of \
         the same link; `netdctl lease ls` names the holders); remove containers, or give the network a larger range"
    );
}

#[test]
fn a_requested_address_is_given_or_its_holder_is_named() {
    let mut leases = Leases::default();
    assert_eq!(lease(&mut leases, "a", &[ip("10.4.0.5")]).unwrap(), "10.4.0.5/29");
    assert_eq!(lease(&mut leases, "a", &[ip("10.4.0.5")]).unwrap(), "10.4.0.5/29", "its own again");
    let refused = lease(&mut leases, "b", &[ip("10.4.0.5")]).unwrap_err();
    assert_eq!(
        refused,
        "cannot lease 10.4.0.5 for b/eth0 on network web: it is held by a/eth0 on network web; ask for another address, or remove that container"
    );
    assert!(lease(&mut leases, "b", &[ip("10.4.0.1")]).unwrap_err().contains("is subnet's gateway"));
    assert!(lease(&mut leases, "b", &[ip("192.0.2.1")]).unwrap_err().contains("failed to allocate all requested IPs"));
}

#[test]
fn reservations_of_others_are_honoured() {
    let mut leases = Leases::default();
    let reserved = Reserved::from([ip("10.4.0.2"), ip("10.4.0.3")]);
    let got = leases.lease(&key("a"), &small(), &[], &reserved).unwrap();
    assert_eq!(got[0].address.to_string(), "10.4.0.4/29");
    assert!(leases.lease(&key("b"), &small(), &[ip("10.4.0.2")], &reserved).is_err());
}

#[test]
fn a_failed_second_set_leaves_nothing_of_the_first() {
    let mut leases = Leases::default();
    let full = range("fd00::/126", "fd00::1", "fd00::1", "fd00::1");
    let sets = vec![small().remove(0), vec![full]];
    assert!(leases.lease(&key("a"), &sets, &[], &Reserved::new()).is_err());
    assert_eq!(leases.count(), 0);
}

proptest! {
    #[test]
    fn no_address_is_ever_held_twice(moves in prop::collection::vec((0_u8..12, prop::bool::ANY), 1..200)) {
        let mut leases = Leases::default();
        let mut held = std::collections::BTreeMap::<u8, IpAddr>::new();
        for (container, attach) in moves {
            let key = key(&format!("c{container}"));
            if attach {
                if let Ok(got) = leases.lease(&key, &small(), &[], &Reserved::new()) {
                    held.insert(container, got[0].address.addr());
                }
            } else if let Some(address) = held.remove(&container) {
                leases.release(&key, address);
            }
            let mut addresses: Vec<_> = held.values().collect();
            addresses.sort();
            addresses.dedup();
            prop_assert_eq!(addresses.len(), held.len());
            prop_assert_eq!(leases.count(), held.len());
        }
    }
}
