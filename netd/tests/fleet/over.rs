//! Networks go on in the pool that continues theirs where that is full, and come back to it.

use std::time::{Duration, Instant};

use netd_api::blocking::AddPoolRequest;

use crate::rig::nodes::{Member, NETWORK, Nodes, Sandbox, soon};
use crate::stored;

/// Two blocks with five addresses each.
const FULL: &str = "{ name = 'main', range = '10.4.0.0/24', block = 29, \
                    reserved = ['10.4.0.16/28', '10.4.0.32/27', '10.4.0.64/26', '10.4.0.128/25'] }, 'fd04::/48'";
const MORE: &str = "name = 'more', range = '10.5.0.0/24', block = 29";
/// Somebody outside of the fleet.
const OUTSIDE: &str = "192.0.2.254:80";

fn try_attach(node: &Member, container: &str) -> Result<Sandbox, String> {
    let made = node.attach_to(NETWORK, container, "").map_err(|failure| failure.message)?;
    made.space.serve(80);
    Ok(made)
}

/// An address that starts so.
#[track_caller]
fn attach(node: &Member, container: &str, of: &str) -> Sandbox {
    let sandbox = try_attach(node, container).unwrap();
    assert!(sandbox.v4.starts_with(of), "{container}: {}", sandbox.v4);
    let address: ipnet::IpNet = sandbox.result["ips"][0]["address"].as_str().unwrap().parse().unwrap();
    let gateway: std::net::IpAddr = sandbox.result["ips"][0]["gateway"].as_str().unwrap().parse().unwrap();
    assert_eq!((address.prefix_len(), address.hosts().next()), (29, Some(gateway)), "{}", sandbox.result);
    sandbox
}

/// Under its own address, and those outside of the fleet under its node's.
#[track_caller]
fn all_reach_each_other(sandboxes: &[(usize, &Sandbox)]) {
    for (node, from) in sandboxes {
        for (_, to) in sandboxes {
            let heard = from.space.hears_in_the_end(&format!("{}:80", to.v4));
            assert_eq!(heard.as_ref(), Ok(&from.v4), "{} to {}", from.v4, to.v4);
        }
        assert_eq!(from.space.hears_in_the_end(OUTSIDE), Ok(format!("192.0.2.{node}")), "{}", from.v4);
    }
}

/// The network's blocks of a pool, and how many addresses are held of each.
fn own(node: &Member, pool: &str) -> Vec<(String, u64)> {
    let blocks = node.fleet().blocks.into_iter();
    let own = blocks.filter(|one| one.state == "here" && one.pool == pool && one.network == "bridge");
    own.map(|one| (one.block, one.held)).collect()
}

#[test]
fn a_network_whose_pool_is_full_goes_on_in_the_one_that_continues_it() {
    let mut nodes = Nodes::new(2);
    nodes.underlay.serve(80);
    let _etcd = nodes.etcd();
    nodes.start(&stored(&format!("[{FULL}]")));
    // The second uses too much of its block to give up some.
    let [there, _too] = ["a", "b"].map(|name| attach(&nodes.all[1], name, "10.4.0."));
    let first: Vec<Sandbox> = (0..5).map(|number| attach(&nodes.all[0], &format!("c{number}"), "10.4.0.")).collect();
    let full = try_attach(&nodes.all[0], "full").map(|sandbox| sandbox.v4).unwrap_err();
    assert!(full.contains("blocks of pool main have none left (10.4.0."), "{full}");
    // A pool more, which is for others until it is said that it continues the first.
    nodes.write(&stored(&format!("[{FULL}, {{ {MORE} }}]")));
    let request = AddPoolRequest { pool: "more".to_owned(), ..AddPoolRequest::new() };
    let mut added = nodes.all[0].client().add_pool(&request).unwrap();
    assert!(added.failure.take().is_none() && added.done, "{added:?}");
    soon("the node has a block of it", || {
        nodes.all[0].fleet().blocks.iter().any(|one| one.pool == "more" && one.state == "here")
    });
    assert!(try_attach(&nodes.all[0], "early").is_err());
    nodes.write(&stored(&format!("[{FULL}, {{ {MORE}, continues = 'main' }}]")));
    soon("an address of it", || try_attach(&nodes.all[0], "next").is_ok());
    let over = attach(&nodes.all[0], "over", "10.5.0.");
    all_reach_each_other(&[(1, &first[0]), (1, &over), (2, &there)]);
    let gateways = |node: &Member| node.space.command("ip -4 -o addr show br0").lines().count();
    assert_eq!((own(&nodes.all[0], "main").len(), own(&nodes.all[0], "more").len()), (1, 1));
    assert_eq!(gateways(&nodes.all[0]), 2);
    // The other node has room, and stays.
    let stays = attach(&nodes.all[1], "stays", "10.4.0.");
    assert_eq!(own(&nodes.all[1], "more"), []);
    for node in &nodes.all {
        soon("all is well", || node.warnings().is_empty());
        assert_eq!(node.resync(true), Vec::<String>::new());
    }
    // So it is after a restart, and for whoever comes then.
    let before = own(&nodes.all[0], "more");
    nodes.all[0].kill();
    nodes.all[0].start();
    soon("it has what it had", || own(&nodes.all[0], "more") == before);
    let again = attach(&nodes.all[0], "again", "10.5.0.");
    all_reach_each_other(&[(1, &first[0]), (1, &over), (1, &again), (2, &there), (2, &stays)]);
    comes_back(&nodes.all[0], &first[0]);
    assert_eq!(gateways(&nodes.all[0]), 1);
}

/// Whoever had an address gets it again; others get those of the first pool, and at last all of the second are given back.
fn comes_back(node: &Member, stays: &Sandbox) {
    node.detach("over");
    ["c1", "c2", "c3", "c4"].iter().for_each(|name| node.detach(name));
    soon("others have forgotten", || own(node, "main").iter().map(|(_, held)| *held).eq([1]));
    attach(node, "over", "10.5.0.");
    attach(node, "new", "10.4.0.");
    ["over", "next", "again", "new"].iter().for_each(|name| node.detach(name));
    let begin = Instant::now();
    while !own(node, "more").is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(90), "{:?}", node.fleet());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(stays.space.hears_in_the_end(OUTSIDE), Ok(format!("192.0.2.{}", node.number)));
}
