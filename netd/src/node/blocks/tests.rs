//! Addresses of a pool come from own blocks, and a network's blocks are its own.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netd_fleet::without;

use crate::attachment::{Attachment, State};
use crate::journal::Record;
use crate::node::tests::{WEB, wanted};
use crate::node::{AttachError, Attached, Node, Share, ShareError, SharedPool};

fn share(blocks: &[&str], reserved: &[&str]) -> Share {
    let reserved = reserved.iter().map(|one| one.parse().unwrap()).collect();
    let pool = |range: &str| SharedPool {
        name: range.to_owned(),
        range: range.parse().unwrap(),
        mtu: Some(1_450),
        remedy: "ask for more".to_owned(),
        grows: true,
        is_spent: false,
        continues: None,
        smallest: if range.contains(':') { 64 } else { 29 },
    };
    let pieces = |block: &&str| {
        let block: IpNet = block.parse().unwrap();
        (block, without(block, &reserved))
    };
    let pools = ["10.4.0.0/16", "fd04::/48"].map(pool).into();
    Share { pools, blocks: blocks.iter().map(pieces).collect(), parts: BTreeMap::new() }
}

fn node(blocks: &[&str]) -> Node {
    let mut node = Node::new("nd");
    take(&mut node, blocks);
    node
}

fn take(node: &mut Node, blocks: &[&str]) {
    for record in node.share(share(blocks, &[])) {
        node.take(record);
    }
}

fn try_attach(node: &mut Node, config: &str, container: &str) -> Result<Attachment, AttachError> {
    let asked = wanted(config, container, 1);
    let network = asked.key.network.clone();
    let Attached::New { mut attachment, taken, .. } = node.attach(asked)? else { panic!("already there") };
    for block in taken {
        node.take(Record::Assigned(block, network.clone()));
    }
    attachment.state = State::Attached;
    node.take(Record::Put(attachment.clone()));
    Ok(*attachment)
}

fn attach(node: &mut Node, config: &str, container: &str) -> String {
    let attachment = try_attach(node, config, container).unwrap();
    let lease = &attachment.leases[0];
    format!("{} by {}", lease.address, lease.gateway.unwrap())
}

fn other() -> String {
    WEB.replace("\"web\"", "\"db\"").replace("br0", "br1")
}

#[test]
fn blocks_are_used_one_after_the_other_each_by_one_network() {
    let mut node = node(&["10.4.7.0/30", "10.4.8.0/30", "10.4.9.0/29"]);
    assert_eq!(attach(&mut node, WEB, "a"), "10.4.7.2/30 by 10.4.7.1");
    assert_eq!(attach(&mut node, &other(), "a"), "10.4.8.2/30 by 10.4.8.1");
    assert_eq!(attach(&mut node, WEB, "b"), "10.4.9.2/29 by 10.4.9.1");
    let full = try_attach(&mut node, &other(), "b").unwrap_err();
    assert!(matches!(full, AttachError::Share(ShareError::Full { is_transient: true, .. })), "{full:?}");
    let none = try_attach(&mut node, &WEB.replace("\"web\"", "\"x\""), "a").unwrap_err();
    assert!(none.to_string().ends_with("has no block of pool 10.4.0.0/16 for its network yet: ask for more"), "{none}");
    // The same after a restart, whatever order the networks come in.
    let mut again = Node::replay("nd", node.records());
    take(&mut again, &["10.4.7.0/30", "10.4.8.0/30", "10.4.9.0/29"]);
    assert_eq!(again.usage(), node.usage());
    assert_eq!(attach(&mut again, WEB, "c"), "10.4.9.3/29 by 10.4.9.1");
}

/// Whoever asks waits for it, and hears of it in the end.
#[test]
fn an_address_that_others_still_know_is_counted_and_not_given() {
    let mut node = node(&["10.4.7.0/30"]);
    let spoken = [("10.4.7.2".parse().unwrap(), wanted(WEB, "old", 1).key.container)];
    node.spoken_for(spoken.clone().into());
    let none = try_attach(&mut node, WEB, "a").unwrap_err();
    let count = |error: &AttachError| if let AttachError::Share(error) = error { error.unforgotten() } else { 0 };
    assert_eq!(count(&none), 1, "{none}");
    assert!(none.to_string().contains("network yet; 1 that nobody holds"), "{none}");
    node.spoken_for(BTreeMap::new());
    assert_eq!(attach(&mut node, WEB, "a"), "10.4.7.2/30 by 10.4.7.1");
    node.spoken_for(spoken.into());
    let full = try_attach(&mut node, WEB, "b").unwrap_err();
    assert_eq!(count(&full), 0, "somebody holds it: {full}");
}

#[test]
fn what_the_fleet_reserves_is_not_given_out() {
    let mut node = Node::new("nd");
    drop(node.share(share(&["10.4.7.0/29"], &["10.4.7.0/31", "10.4.7.4/32"])));
    let all: Vec<String> = ["a", "b", "c"].iter().map(|name| attach(&mut node, WEB, name)).collect();
    let by = |address: &str| format!("{address}/29 by 10.4.7.2");
    assert_eq!(all, ["10.4.7.3", "10.4.7.5", "10.4.7.6"].map(by));
    assert_eq!(node.usage()[0].size, 3);
}

#[test]
fn an_interface_has_the_size_of_the_way_unless_its_network_names_one() {
    let mut node = node(&["10.4.7.0/29"]);
    let mtu = |attachment: Attachment| attachment.wiring.unwrap().mtu;
    assert_eq!(mtu(try_attach(&mut node, WEB, "a").unwrap()), Some(1_450));
    let named = WEB.replace("\"bridge\":\"br0\"", "\"bridge\":\"br0\",\"mtu\":1300");
    assert_eq!(mtu(try_attach(&mut node, &named, "b").unwrap()), Some(1_300));
    let apart = WEB.replace("10.4.0.0/24", "10.5.0.0/24").replace("br0", "br5");
    assert_eq!(mtu(try_attach(&mut node, &apart, "c").unwrap()), None);
}

/// A bridge drops without a word what one of its ports cannot take.
#[test]
fn all_of_one_bridge_have_the_size_of_the_first() {
    let mut node = node(&["10.4.7.0/29", "10.4.8.0/29"]);
    let mtu = |node: &mut Node, config: &str, name: &str| try_attach(node, config, name).unwrap().wiring.unwrap().mtu;
    assert_eq!(mtu(&mut node, WEB, "a"), Some(1_450));
    let mut jumbo = share(&["10.4.7.0/29", "10.4.8.0/29"], &[]);
    jumbo.pools.iter_mut().for_each(|pool| pool.mtu = Some(8_950));
    node.share(jumbo).into_iter().for_each(|record| node.take(record));
    assert_eq!(mtu(&mut node, WEB, "b"), Some(1_450));
    assert_eq!(mtu(&mut node, &other(), "c"), Some(8_950), "of another bridge");
    for gone in ["a", "b"] {
        let gone = node.attachment(&wanted(WEB, gone, 1).key).unwrap().clone();
        node.take(Record::Drain(Box::new(gone)));
    }
    assert_eq!(mtu(&mut node, WEB, "d"), Some(8_950));
    // Who was there before the fleet has what the kernel gives.
    let mut node = Node::new("nd");
    assert_eq!(mtu(&mut node, WEB, "a"), None);
    take(&mut node, &["10.4.7.0/29"]);
    assert_eq!(mtu(&mut node, WEB, "b"), None);
}

#[test]
fn who_was_there_before_keeps_address_and_block() {
    let mut node = Node::new("nd");
    assert_eq!(attach(&mut node, WEB, "a"), "10.4.0.2/24 by 10.4.0.1");
    assert_eq!(attach(&mut node, &other(), "b"), "10.4.0.2/24 by 10.4.0.1");
    take(&mut node, &["10.4.0.0/26", "10.4.9.0/26"]);
    assert_eq!(node.strays().count(), 0);
    assert_eq!(attach(&mut node, WEB, "c"), "10.4.9.2/26 by 10.4.9.1");
    // The block that both had is the first's.
    let networks: BTreeMap<String, String> =
        node.usage().into_iter().map(|one| (one.block.to_string(), one.network.unwrap().to_string())).collect();
    assert_eq!(networks["10.4.0.0/26"], "db");
    take(&mut node, &["10.4.9.0/26"]);
    assert_eq!(node.strays().count(), 2);
}

#[test]
fn a_block_goes_only_when_nobody_holds_an_address_of_it() {
    let mut node = node(&["10.4.7.0/29", "10.4.8.0/29"]);
    attach(&mut node, WEB, "a");
    let [seven, eight]: [IpNet; 2] = ["10.4.7.0/29", "10.4.8.0/29"].map(|block| block.parse().unwrap());
    assert_eq!(node.retire(seven), None);
    assert_eq!(node.retire(eight), Some(Vec::new()));
    // Nothing is given out of it meanwhile.
    assert!(try_attach(&mut node, &other(), "a").is_err());
    node.unretire(eight);
    assert_eq!(attach(&mut node, &other(), "a"), "10.4.8.2/29 by 10.4.8.1");
    take(&mut node, &["10.4.8.0/29"]);
    assert_eq!(node.usage().len(), 1);
    assert_eq!(node.strays().count(), 1);
}

/// Another node may do so, too.
#[test]
fn nothing_is_given_out_of_what_is_shut_and_who_has_something_keeps_it() {
    let mut node = node(&["10.4.7.0/29"]);
    assert_eq!(attach(&mut node, WEB, "a"), "10.4.7.2/29 by 10.4.7.1");
    let mut shut = share(&["10.4.7.0/29"], &[]);
    shut.blocks.values_mut().for_each(Vec::clear);
    assert!(node.share(shut).is_empty());
    let network = |ipam: &str| WEB.replace(r#""type":"host-local""#, ipam);
    let fixed = r#""type":"static","addresses":[{"address":"10.4.7.4/16","gateway":"10.4.0.1"}]"#;
    for config in [WEB.to_owned(), network(fixed)] {
        let error = try_attach(&mut node, &config, "b").unwrap_err();
        assert!(error.to_string().contains("ask for more"), "{error}");
    }
    assert_eq!((node.strays().count(), node.usage()[0].held), (0, 1));
    take(&mut node, &["10.4.7.0/29"]);
    assert_eq!(attach(&mut node, WEB, "b"), "10.4.7.3/29 by 10.4.7.1");
}

#[test]
fn an_address_that_is_asked_for_must_be_of_own_blocks() {
    let mut node = node(&["10.4.7.0/29", "10.4.8.0/29", "10.4.9.0/29"]);
    let asking = |address: &str| {
        let args = format!("\"args\":{{\"cni\":{{\"ips\":[\"{address}\"]}}}},\"ipam\"");
        WEB.replace("\"ipam\"", &args)
    };
    assert_eq!(attach(&mut node, &other(), "a"), "10.4.7.2/29 by 10.4.7.1");
    assert_eq!(attach(&mut node, &asking("10.4.9.6"), "a"), "10.4.9.6/29 by 10.4.9.1");
    for (address, container) in [("10.4.7.6", "b"), ("10.4.0.6", "c")] {
        let refused = try_attach(&mut node, &asking(address), container).unwrap_err().to_string();
        assert!(refused.contains("addresses from 10.4.8.0/29, 10.4.9.0/29 only"), "{refused}");
    }
    let fixed = WEB.replace(
        r#""type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]"#,
        r#""type":"static","addresses":[{"address":"10.4.8.4/16","gateway":"10.4.0.1"}]"#,
    );
    assert_eq!(attach(&mut node, &fixed, "d"), "10.4.8.4/29 by 10.4.8.1");
}

#[test]
fn both_families_come_from_blocks_and_ranges_that_are_mixed_are_refused() {
    let both =
        WEB.replace("[{\"subnet\":\"10.4.0.0/24\"}]", "[{\"subnet\":\"10.4.0.0/24\"}],[{\"subnet\":\"fd04::/64\"}]");
    let mut node = node(&["10.4.7.0/29", "fd04:0:0:7::/122"]);
    let attachment = try_attach(&mut node, &both, "a").unwrap();
    let addresses: Vec<String> = attachment.leases.iter().map(|lease| lease.address.to_string()).collect();
    assert_eq!(addresses, ["10.4.7.2/29", "fd04:0:0:7::2/122"]);
    for ranges in ["10.0.0.0/8", "10.4.0.0/15"] {
        let refused = try_attach(&mut node, &WEB.replace("10.4.0.0/24", ranges), "b").unwrap_err();
        assert!(matches!(refused, AttachError::Share(ShareError::Mixed { .. })), "{refused:?}");
    }
}

#[test]
fn a_route_by_the_declared_gateway_goes_by_the_blocks() {
    let mut node = node(&["10.4.7.0/29"]);
    let routes = r#""ranges":[[{"subnet":"10.4.0.0/24"}]],"routes":[{"dst":"10.9.0.0/16","gw":"10.4.0.1"},{"dst":"10.8.0.0/16","gw":"10.4.7.3"},{"dst":"10.7.0.0/16","gw":"192.0.2.9"}]"#;
    let with = WEB.replace(r#""ranges":[[{"subnet":"10.4.0.0/24"}]]"#, routes);
    let wiring = try_attach(&mut node, &with, "a").unwrap().wiring.unwrap();
    let by: Vec<String> = wiring.routes.iter().map(|route| route.gateway.unwrap().to_string()).collect();
    assert_eq!(by, ["10.4.7.1", "10.4.7.3", "192.0.2.9", "10.4.7.1"]);
}

/// The half that its gateway is in stays, and its addresses keep their prefix.
#[test]
fn half_of_a_block_can_go_where_nobody_has_an_address_of_it() {
    let mut node = node(&["10.4.1.0/27"]);
    assert_eq!(attach(&mut node, WEB, "one"), "10.4.1.2/27 by 10.4.1.1");
    let [block, half, other] = ["10.4.1.0/27", "10.4.1.0/28", "10.4.1.16/28"].map(|one| one.parse::<IpNet>().unwrap());
    let usage =
        |node: &Node| node.usage().into_iter().map(|one| (one.part, one.keep, one.size, one.held)).collect::<Vec<_>>();
    assert_eq!(usage(&node), [(block, Some(half), 29, 1)]);
    assert!(!node.narrow(block, other) && node.narrow(block, half));
    assert_eq!(usage(&node), [(half, Some("10.4.1.0/29".parse().unwrap()), 14, 1)]);
    // The fleet does not know yet.
    take(&mut node, &["10.4.1.0/27"]);
    let rest: Vec<String> = (0..13).map(|number| attach(&mut node, WEB, &format!("c{number}"))).collect();
    assert_eq!((rest[0].as_str(), rest[12].as_str()), ("10.4.1.3/27 by 10.4.1.1", "10.4.1.15/27 by 10.4.1.1"));
    assert!(matches!(try_attach(&mut node, WEB, "beyond"), Err(AttachError::Share(ShareError::Full { .. }))));
    assert_eq!(usage(&node), [(half, None, 14, 14)]);
    // Then it knows; and the other half, should it come back, is a block like any other.
    let mut parted = share(&["10.4.1.0/27", "10.4.1.16/28"], &[]);
    parted.blocks.insert(block, vec![half]);
    parted.parts.insert(block, half);
    for record in node.share(parted) {
        node.take(record);
    }
    assert_eq!(attach(&mut node, WEB, "more"), "10.4.1.18/28 by 10.4.1.17");
    assert_eq!(usage(&node), [(half, None, 14, 14), (other, Some("10.4.1.16/29".parse().unwrap()), 13, 1)]);
    assert_eq!(node.strays().count(), 0);
    // What was given up wholly is not this node's.
    let mut parted = share(&["10.4.1.0/27"], &[]);
    parted.blocks.insert(block, vec![half]);
    parted.parts.insert(block, half);
    assert!(node.share(parted).is_empty());
    assert_eq!(node.strays().map(|(_, address)| address.to_string()).collect::<Vec<_>>(), ["10.4.1.18"]);
}

#[test]
fn no_half_goes_where_this_node_gives_nothing_out_of_the_other() {
    let mut node = node(&["10.4.1.0/27"]);
    let mut reserved = share(&["10.4.1.0/27"], &[]);
    let keeps = |node: &Node| node.usage()[0].keep.map(|keep| keep.to_string());
    for (pieces, keep) in
        [(["10.4.1.0/29", "10.4.1.16/28"], None), (["10.4.1.0/28", "10.4.1.16/29"], Some("10.4.1.0/28"))]
    {
        reserved.blocks.insert("10.4.1.0/27".parse().unwrap(), pieces.map(|piece| piece.parse().unwrap()).to_vec());
        assert!(node.share(reserved.clone()).is_empty());
        assert_eq!(keeps(&node).as_deref(), keep);
    }
}

#[test]
fn who_asks_for_an_address_that_was_given_up_is_told_what_is_left() {
    let mut node = node(&["10.4.1.0/27"]);
    let [block, half] = ["10.4.1.0/27", "10.4.1.0/28"].map(|one| one.parse::<IpNet>().unwrap());
    attach(&mut node, WEB, "one");
    assert!(node.narrow(block, half));
    let asking = WEB.replace(r#""type":"host-local""#, r#""type":"static","addresses":[{"address":"10.4.1.20/27"}]"#);
    let AttachError::Share(error @ ShareError::Beyond { .. }) = try_attach(&mut node, &asking, "two").unwrap_err()
    else {
        panic!("it is given")
    };
    assert!(error.to_string().contains("10.4.1.0/28") && !error.to_string().contains("10.4.1.0/27"), "{error}");
}

/// As where the pool is for other nodes by now.
#[test]
fn out_of_a_block_of_which_nothing_may_be_given_nothing_is() {
    let mut node = node(&["10.4.7.0/24"]);
    assert_eq!(attach(&mut node, WEB, "before"), "10.4.7.2/24 by 10.4.7.1");
    let mut closed = share(&["10.4.7.0/24", "10.4.8.0/24"], &[]);
    closed.blocks.values_mut().for_each(Vec::clear);
    assert!(node.share(closed).is_empty());
    let network = |name: &str| WEB.replace("\"web\"", &format!("\"{name}\""));
    for name in ["web", "db"] {
        let refused = try_attach(&mut node, &network(name), "after").unwrap_err();
        let AttachError::Share(error @ ShareError::NoBlock { .. }) = refused else { panic!("{refused:?}") };
        assert!(
            error.to_string().contains("no block of pool 10.4.0.0/16 for its network yet: ask for more"),
            "{error}"
        );
    }
    // Who was there is no stray, and has its address.
    assert_eq!((node.strays().count(), node.usage()[0].held, node.usage()[0].size), (0, 1, 0));
}

/// The first pool, one that continues it, and one that continues that.
fn line(blocks: &[&str], spent: usize) -> Share {
    let mut share = share(blocks, &[]);
    let first = share.pools.remove(0);
    let ranges = ["10.4.0.0/16", "10.5.0.0/16", "10.6.0.0/16"];
    for (at, range) in ranges.iter().enumerate() {
        let continues = at.checked_sub(1).map(|before| ranges[before].to_owned());
        let (name, range) = ((*range).to_owned(), range.parse().unwrap());
        share.pools.push(SharedPool { name, range, continues, is_spent: at < spent, ..first.clone() });
    }
    share
}

#[test]
fn a_network_goes_on_in_the_pools_that_continue_its_own_and_comes_back() {
    const BLOCKS: [&str; 4] = ["10.4.7.0/30", "10.5.7.0/30", "10.6.7.0/29", "10.6.8.0/29"];
    let mut node = Node::new("nd");
    drop(node.share(line(&BLOCKS, 0)));
    assert_eq!(attach(&mut node, WEB, "a"), "10.4.7.2/30 by 10.4.7.1");
    // More is to be had of the first.
    let full = try_attach(&mut node, WEB, "b").unwrap_err().to_string();
    assert!(full.contains("blocks of pool 10.4.0.0/16 have none left (10.4.7.0/30;"), "{full}");
    drop(node.share(line(&BLOCKS, 1)));
    assert_eq!(attach(&mut node, WEB, "b"), "10.5.7.2/30 by 10.5.7.1");
    let full = try_attach(&mut node, WEB, "c").unwrap_err().to_string();
    assert!(full.contains("blocks of pool 10.5.0.0/16 have none left (10.4.7.0/30, 10.5.7.0/30;"), "{full}");
    drop(node.share(line(&BLOCKS, 3)));
    assert_eq!(attach(&mut node, WEB, "c"), "10.6.7.2/29 by 10.6.7.1");
    let mut again = Node::replay("nd", node.records());
    drop(again.share(line(&BLOCKS, 2)));
    assert_eq!(again.usage(), node.usage());
    // A network of a later pool does not go to an earlier one.
    let late = other().replace("10.4.0.0/24", "10.6.0.0/24");
    assert_eq!(attach(&mut again, &late, "d"), "10.6.8.2/29 by 10.6.8.1");
    // More of the first: what there is of the last goes before a new block of it, and a block of it before another of the last.
    let grown = [&BLOCKS[..], &["10.4.8.0/30"]].concat();
    drop(again.share(line(&grown, 0)));
    for (container, address) in [("e", "10.6.7.3"), ("f", "10.6.7.4"), ("g", "10.6.7.5"), ("h", "10.6.7.6")] {
        assert_eq!(attach(&mut again, WEB, container), format!("{address}/29 by 10.6.7.1"));
    }
    assert_eq!(attach(&mut again, WEB, "i"), "10.4.8.2/30 by 10.4.8.1");
}

#[test]
fn an_address_of_a_pool_that_continues_another_may_be_asked_for() {
    let mut node = Node::new("nd");
    drop(node.share(line(&["10.4.7.0/30", "10.5.7.0/29"], 0)));
    let asking = |address: &str| {
        WEB.replace("\"ipam\":{", &format!("\"args\":{{\"cni\":{{\"ips\":[\"{address}\"]}}}},\"ipam\":{{"))
    };
    assert_eq!(attach(&mut node, &asking("10.5.7.4"), "a"), "10.5.7.4/29 by 10.5.7.1");
    let beyond = try_attach(&mut node, &asking("10.5.8.4"), "b").unwrap_err().to_string();
    assert!(beyond.contains("of pool 10.5.0.0/16 this node gives addresses from 10.5.7.0/29 only"), "{beyond}");
}

/// One address of each set, and none from another's pool.
#[test]
fn two_sets_do_not_share_a_line_of_pools() {
    let mut node = Node::new("nd");
    drop(node.share(line(&["10.4.7.0/30", "10.5.7.0/29"], 0)));
    for sets in [
        "[{\"subnet\":\"10.4.0.0/24\"}],[{\"subnet\":\"10.5.0.0/24\"}]",
        "[{\"subnet\":\"10.5.0.0/24\"}],[{\"subnet\":\"10.4.0.0/24\"}]",
    ] {
        let config = WEB.replace("[{\"subnet\":\"10.4.0.0/24\"}]", sets);
        let mixed = try_attach(&mut node, &config, "a").unwrap_err();
        assert!(matches!(mixed, AttachError::Share(ShareError::Mixed { .. })), "{config}: {mixed:?}");
    }
}
