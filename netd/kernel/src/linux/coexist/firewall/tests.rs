//! Chains as real firewalls make them, to what is told of them.

use netd_netlink::nft::{Family, ListedBase, ListedChain};

use super::{Barrier, Chain, Firewall, barriers, tables};

fn chain(family: Family, table: &str, name: &str, base: Option<(u32, bool)>) -> Chain {
    let base = base.map(|(hook, drops)| ListedBase { hook, drops });
    Chain { family, listed: ListedChain { table: table.to_owned(), name: name.to_owned(), base } }
}

fn told(chains: &[Chain]) -> Vec<(Firewall, Family, String, bool)> {
    let told = |barrier: Barrier| (barrier.firewall, barrier.family, barrier.chain, barrier.anchor.is_some());
    barriers(chains, "netd").into_iter().map(told).collect()
}

const FORWARD: u32 = 2;

#[test]
fn whose_chain_drops_is_found_by_the_chains_beside_it() {
    let forward = |drops| chain(Family::Ipv4, "filter", "FORWARD", Some((FORWARD, drops)));
    let docker = chain(Family::Ipv4, "filter", "DOCKER-USER", None);
    let ufw = chain(Family::Ipv4, "filter", "ufw-before-forward", None);
    let firewalld = chain(Family::Inet, "firewalld", "filter_FORWARD", Some((FORWARD, false)));
    let one = |firewall, is_known| vec![(firewall, Family::Ipv4, "FORWARD".to_owned(), is_known)];
    assert_eq!(told(&[forward(false), docker.clone()]), []);
    assert_eq!(told(&[forward(true)]), one(Firewall::Other, false));
    assert_eq!(told(&[forward(true), docker.clone()]), one(Firewall::Docker, true));
    assert_eq!(told(&[ufw.clone(), forward(true)]), one(Firewall::Ufw, true));
    let both = [one(Firewall::Docker, true), one(Firewall::Ufw, true)].concat();
    assert_eq!(told(&[forward(true), ufw, docker.clone()]), both);
    assert_eq!(told(&[firewalld]), [(Firewall::Firewalld, Family::Inet, "filter_FORWARD".to_owned(), true)]);
    // Another family's chain of the same name helps nobody.
    let six = chain(Family::Ipv6, "filter", "FORWARD", Some((FORWARD, true)));
    assert_eq!(told(&[six, docker]), [(Firewall::Other, Family::Ipv6, "FORWARD".to_owned(), false)]);
}

#[test]
fn own_chains_other_hooks_and_chains_without_a_hook_drop_nothing_that_is_forwarded() {
    assert_eq!(
        told(&[
            chain(Family::Inet, "netd", "forward", Some((FORWARD, true))),
            chain(Family::Inet, "x", "input", Some((1, true))),
            chain(Family::Inet, "x", "inner", None),
        ]),
        []
    );
}

#[test]
fn a_table_is_looked_at_for_what_stands_or_should_stand_there() {
    let chains = [
        chain(Family::Ipv4, "filter", "FORWARD", Some((FORWARD, true))),
        chain(Family::Ipv4, "filter", "DOCKER-USER", None),
        chain(Family::Ipv6, "filter", "netd-forward", None),
        chain(Family::Inet, "mine", "forward", Some((FORWARD, true))),
    ];
    let found: Vec<_> = tables(&chains, &barriers(&chains, "netd"), "netd-forward").into_iter().collect();
    assert_eq!(found, [(Family::Ipv4, "filter".to_owned()), (Family::Ipv6, "filter".to_owned())]);
}
