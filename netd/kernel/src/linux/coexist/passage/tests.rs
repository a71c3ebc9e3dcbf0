//! From what stands in a table to what is changed there.

use std::collections::BTreeSet;

use netd_config::LinkName;
use netd_netlink::nft::{Family, ListedRule, Position};

use super::super::OurLink;
use super::super::firewall::{Anchor, Dialect, Spot, anchors};
use super::{Ours, Table, changes, is_in_place, position};

fn links() -> BTreeSet<OurLink> {
    BTreeSet::from([OurLink::Bridge(LinkName::new("br0").unwrap()), OurLink::Beginning("nd".to_owned())])
}

fn docker() -> &'static Anchor {
    anchors(Family::Ipv4, "filter").next().unwrap()
}

fn listed(handle: u64, comment: &str, is_end: bool) -> ListedRule {
    ListedRule { handle, comment: comment.to_owned(), is_end }
}

fn table(rules: Option<usize>, found: Vec<ListedRule>) -> Table {
    Table { family: Family::Ipv4, name: "filter".to_owned(), rules, anchors: vec![(docker(), found)] }
}

#[test]
fn what_stands_is_left_alone_and_what_does_not_is_written_whole() {
    let links = links();
    let ours = Ours::new("netd", Some(&links));
    let comment = ours.comment(&ours.rules(Dialect::Iptables));
    let (theirs, jump) = (listed(1, "theirs", false), listed(2, &comment, false));
    // Per link, one rule for what it sends and one for what it gets.
    let change = |rules, found: &[&ListedRule]| {
        changes(&table(rules, found.iter().map(|rule| (*rule).clone()).collect()), &[docker()], &ours).len()
    };
    assert_eq!(change(Some(4), &[&theirs, &jump]), 0);
    assert_eq!(change(None, &[&theirs]), 1 + 4 + 1);
    assert_eq!(change(Some(4), &[&theirs]), 1 + 4 + 1, "the jump is gone");
    assert_eq!(change(Some(3), &[&jump]), 1 + 1 + 4 + 1, "a rule of the chain is gone");
    assert_eq!(change(Some(4), &[&jump, &jump]), 2 + 1 + 4 + 1, "there are two");
    let older = listed(3, "netd: its containers, 0000000000000000", false);
    assert_eq!(change(Some(4), &[&older]), 1 + 1 + 4 + 1, "it is for other links");
}

#[test]
fn a_jump_that_stands_where_it_would_not_be_put_is_moved() {
    let links = links();
    let ours = Ours::new("netd", Some(&links));
    let comment = ours.comment(&ours.rules(Dialect::Iptables));
    let rule = |sign| match sign {
        'N' => listed(1, &comment, false),
        'o' => listed(2, "other: its containers, 0000000000000000", false),
        sign => listed(3, "", sign == 'R'),
    };
    // Ours is N, another netd's o, what sends every packet back R.
    let table = [
        (Spot::Behind, ["N", "xxN", "xNR", "xNRx", "xNoR", "xoNR"].as_slice(), true),
        (Spot::Behind, ["Nx", "xNx", "RN", "xRN", "NxR", "Nox"].as_slice(), false),
        (Spot::Ahead, ["N", "Nx", "NRx", "Nox", "oNx"].as_slice(), true),
        (Spot::Ahead, ["xN", "RN", "xNx", "oxN"].as_slice(), false),
    ];
    for (spot, chains, expected) in table {
        for chain in chains {
            let found: Vec<ListedRule> = chain.chars().map(rule).collect();
            assert_eq!(is_in_place(spot, &found, &comment), expected, "{spot:?} {chain}");
        }
    }
    let change =
        |chain: &str| changes(&self::table(Some(4), chain.chars().map(rule).collect()), &[docker()], &ours).len();
    assert_eq!((change("xN"), change("Nx")), (0, 1 + 1 + 4 + 1));
}

#[test]
fn what_is_not_wanted_is_taken_away_and_nothing_else() {
    let ours = Ours::new("netd", None);
    let change = |rules, found| changes(&table(rules, found), &[], &ours).len();
    assert_eq!(change(None, vec![listed(1, "theirs", false)]), 0);
    let jump = listed(2, "netd: its containers, 0000000000000000", false);
    assert_eq!(change(Some(4), vec![listed(1, "netd", false), jump]), 1 + 1 + 1);
    assert_eq!(change(Some(0), Vec::new()), 2);
}

#[test]
fn a_jump_goes_behind_what_people_wrote_and_ahead_of_an_end() {
    let rules = [listed(7, "", false), listed(9, "", true), listed(11, "", true)];
    assert_eq!(position(Spot::Behind, &rules), Position::Before(9));
    assert_eq!(position(Spot::Behind, &rules[..1]), Position::Last);
    assert_eq!(position(Spot::Ahead, &rules), Position::First);
}
