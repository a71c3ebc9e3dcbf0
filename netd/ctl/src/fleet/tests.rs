//! Tables of nodes, blocks and checks.

use netd_api::blocking as api;

use super::model::{Added, Check, Fleet, Removed};
use super::{find, render};
use crate::render::Look;

fn fleet() -> Fleet {
    let route = |block: &str, by: &str| api::FleetRoute {
        block: block.to_owned(),
        by: by.to_owned(),
        to: "192.0.2.2".to_owned(),
        ..api::FleetRoute::new()
    };
    let node = |name: &str, state: &str, routes: Vec<api::FleetRoute>| api::FleetNode {
        name: name.to_owned(),
        state: state.to_owned(),
        addresses: vec!["192.0.2.2".to_owned()],
        mtu: 1_500,
        routes,
        troubles: vec!["n2 cannot unpack vxlan".to_owned()],
        ..api::FleetNode::new()
    };
    let block = |block: &str, node: &str, size: u64| api::FleetBlock {
        block: block.to_owned(),
        pool: "main".to_owned(),
        node: node.to_owned(),
        state: "here".to_owned(),
        size,
        held: 2,
        ..api::FleetBlock::new()
    };
    Fleet::from(api::FleetResponse {
        source: "etcd".to_owned(),
        nodes: vec![
            node("n1", "here", Vec::new()),
            node("n2", "present", vec![route("10.4.2.0/24", "vxlan"), route("10.4.3.0/24", "")]),
        ],
        blocks: vec![block("10.4.1.0/24", "n1", 253), block("10.4.2.0/24", "n2", 0), block("10.4.3.0/24", "n2", 0)],
        warnings: vec!["fleet: the store does not answer".to_owned()],
        ..api::FleetResponse::new()
    })
}

#[test]
fn nodes_say_whether_all_of_them_is_reached() {
    let expected = "\
NODE  STATE    ADDRESSES  BLOCKS  REACHED    MTU   VERSION
n1    here     192.0.2.2  1       -          1500  -
n2    present  192.0.2.2  2       not,vxlan  1500  -
warning: fleet: the store does not answer
";
    assert_eq!(render::nodes(&fleet(), Look::default()), expected);
    assert!(render::nodes(&Fleet::default(), Look::default()).contains("part of no fleet"));
    let inspected = render::node(&fleet().nodes[1], Look::default());
    assert!(inspected.contains("10.4.3.0/24  -      192.0.2.2\n"), "{inspected}");
    assert!(inspected.ends_with("warning: n2 cannot unpack vxlan\n"), "{inspected}");
}

/// n2 was installed anew, and once before.
fn replaced() -> Fleet {
    let [now, before, first] = ['a', 'b', 'c'].map(|digit| digit.to_string().repeat(32));
    let node = |state: &str, instance: &str| api::FleetNode {
        name: "n2".to_owned(),
        state: state.to_owned(),
        instance: instance.to_owned(),
        witness: state == "absent",
        ..api::FleetNode::new()
    };
    let block = |at: u8, owners: &[&String]| api::FleetBlock {
        block: format!("10.4.{at}.0/24"),
        node: "n2".to_owned(),
        state: "present".to_owned(),
        instances: owners.iter().map(|owner| (*owner).clone()).collect(),
        ..api::FleetBlock::new()
    };
    Fleet::from(api::FleetResponse {
        source: "etcd".to_owned(),
        nodes: vec![node("present", &now), node("absent", &before), node("absent", &first)],
        blocks: vec![block(1, &[&now]), block(2, &[&before]), block(3, &[&before]), block(4, &[&first, &before])],
        ..api::FleetResponse::new()
    })
}

#[test]
fn a_host_that_was_made_anew_is_not_shown_with_what_it_had_before() {
    let expected = "\
NODE           STATE    ADDRESSES  BLOCKS  REACHED  MTU  VERSION
n2 (aaaaaaaa)  present  -          1       -        -    -
n2 (bbbbbbbb)  absent   -          3       -        -    -
n2 (cccccccc)  absent   -          1       -        -    -
";
    assert_eq!(render::nodes(&replaced(), Look::default()), expected);
    let found = |name: &str| find(replaced().nodes, name).map(|node| node.instance[..1].to_owned());
    assert_eq!((found("n2"), found("bb")), (Ok("a".to_owned()), Ok("b".to_owned())));
    assert!(found("n3").unwrap_err().to_string().contains("netdctl node ls"));
    let gone: Vec<_> = replaced().nodes.into_iter().skip(1).collect();
    let text = find(gone, "n2").unwrap_err().to_string();
    assert!(text.contains(&"b".repeat(32)) && text.contains("the first digits of its instance"), "{text}");
    let inspected = render::node(&replaced().nodes[1], Look::default());
    let words = format!("instance      {}\nstate         absent\nwitness       yes\n", "b".repeat(32));
    assert!(inspected.contains(&words), "{inspected}");
}

#[test]
fn a_removal_says_what_it_frees_and_what_it_waits_for() {
    let done = Removed {
        name: "n2".to_owned(),
        instance: "bb".to_owned(),
        blocks: vec!["10.4.2.0/24".to_owned(), "10.4.3.0/24".to_owned()],
        done: true,
        waits: String::new(),
    };
    let text = "n2 (bb) is removed from the fleet.\nOthers may take its blocks: 10.4.2.0/24, 10.4.3.0/24.\n";
    assert_eq!(render::removed(&done, Look::default()), text);
    let waits = Removed { done: false, waits: "too few witnesses".to_owned(), ..done };
    let text = render::removed(&waits, Look::default());
    assert!(
        text.contains("is not removed yet")
            && !text.contains("10.4.2.0/24")
            && text.ends_with("\nwarning: too few witnesses\n"),
        "{text}"
    );
}

#[test]
fn blocks_say_how_full_they_are_where_that_is_known() {
    let expected = "\
BLOCK        POOL  NODE  STATE  NETWORK  HELD
10.4.1.0/24  main  n1    here   -        2 of 253
10.4.2.0/24  main  n2    here   -        -
10.4.3.0/24  main  n2    here   -        -
";
    assert_eq!(render::blocks(&fleet()), expected);
}

#[test]
fn of_nodes_with_one_name_a_block_says_whose_it_is() {
    let expected = "\
BLOCK        POOL  NODE                     STATE    NETWORK  HELD
10.4.1.0/24  -     n2 (aaaaaaaa)            present  -        -
10.4.2.0/24  -     n2 (bbbbbbbb)            present  -        -
10.4.3.0/24  -     n2 (bbbbbbbb)            present  -        -
10.4.4.0/24  -     n2 (cccccccc, bbbbbbbb)  present  -        -
";
    assert_eq!(render::blocks(&replaced()), expected);
}

#[test]
fn checks_end_with_what_is_wrong() {
    let good = api::PeerCheck {
        name: "n2".to_owned(),
        block: "10.4.2.0/24".to_owned(),
        by: "vxlan".to_owned(),
        to: "192.0.2.2".to_owned(),
        answered: true,
        round_trip_us: 120,
        mtu: 1_450,
        wanted_mtu: 1_450,
        encapsulated: "yes".to_owned(),
        ..api::PeerCheck::new()
    };
    let bad = api::PeerCheck {
        answered: false,
        encapsulated: String::new(),
        troubles: vec!["nothing comes back".to_owned()],
        ..good.clone()
    };
    let checks: Vec<Check> = [good, bad].map(Check::from).into();
    let expected = "\
PEER  BLOCK        BY     TO         ANSWER  MTU           ENCAPSULATED
n2    10.4.2.0/24  vxlan  192.0.2.2  120 us  1450 of 1450  yes
n2    10.4.2.0/24  vxlan  192.0.2.2  none    -             -
problem: n2: nothing comes back
";
    assert_eq!(render::checks(&checks, Look::default()), expected);
}

#[test]
fn a_pool_that_was_added_says_what_is_next() {
    let done =
        Added { name: "10.5.0.0/16".to_owned(), range: "10.5.0.0/16".to_owned(), done: true, waits: String::new() };
    let text = render::added(&done, Look::default());
    assert!(
        text.starts_with("Pool 10.5.0.0/16 is the fleet's.\n") && text.contains("fleet.pools on all of them"),
        "{text}"
    );
    let waits = Added { name: "more".to_owned(), done: false, waits: "too few witnesses".to_owned(), ..done };
    let text = render::added(&waits, Look::default());
    assert!(text.starts_with("Pool more (10.5.0.0/16) is not in use yet"), "{text}");
    assert!(text.ends_with("\nwarning: too few witnesses\n"), "{text}");
}
