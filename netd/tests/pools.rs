//! Pools of `netd.toml` that are not those of the fleet, and pools that are added to those, on etcd. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::fs;

use netd_api::blocking::{AddPoolRequest, AddPoolResponse, Failure};
use netd_api::v1::FailureCode;
use rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};
use rig::shop::describe;

const OLD: &str = "'10.4.0.0/16', 'fd04::/48'";
const NEW: &str = "'10.4.0.0/16', '10.5.0.0/16', 'fd04::/48'";
/// Lets containers in that are called login.
const FROM_LOGIN: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-login, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: login}}}]
";

fn stored(pools: &str) -> String {
    format!("pools = [{pools}]\netcd = ['{}']\n", Etcd::ENDPOINT)
}

fn warns(node: &Member, words: &[&str]) -> bool {
    words.iter().all(|word| node.warnings().iter().any(|text| text.contains(word)))
}

fn add(node: &Member, pool: &str) -> AddPoolResponse {
    let request = AddPoolRequest { pool: pool.to_owned(), ..AddPoolRequest::new() };
    node.client().add_pool(&request).unwrap()
}

#[track_caller]
fn refused(answer: &AddPoolResponse, code: FailureCode, words: &[&str]) {
    let failure = answer.failure.as_ref().unwrap();
    assert_eq!(failure.code.enum_value(), Ok(code), "{failure:?}");
    words.iter().for_each(|word| assert!(failure.message.contains(word), "{word}: {}", failure.message));
}

/// A network beside the first, whose range is of the new pool.
fn of_more() -> String {
    let network = NETWORK.replace("\"bridge\",\"type\"", "\"more\",\"type\"").replace("br0", "br1");
    network.replace("10.4.0.0/24", "10.5.0.0/24")
}

fn attach_to_more(node: &Member, container: &str) -> Result<Sandbox, Failure> {
    node.attach_to(&of_more(), container, "")
}

/// Once the node has heard of the pool.
fn more(node: &Member, container: &str) -> Sandbox {
    soon("the node has blocks of the pool", || {
        node.fleet().blocks.iter().any(|block| block.pool == "10.5.0.0/16" && block.state == "here")
    });
    let sandbox = node.attach_in_time(&of_more(), container);
    assert!(sandbox.v4.starts_with("10.5."), "{}", sandbox.v4);
    sandbox.space.serve(80);
    sandbox
}

/// By the addresses that each has, not by its node's.
#[track_caller]
fn all_reach_each_other(sandboxes: &[&Sandbox]) {
    for from in sandboxes {
        for to in sandboxes {
            let address = format!("{}:80", to.v4);
            soon(&format!("{} hears {address}", from.v4), || {
                from.space.hears_in_the_end(&address).as_ref() == Ok(&from.v4)
            });
        }
    }
}

fn own_blocks(node: &Member) -> Vec<(String, String)> {
    let blocks = node.fleet().blocks.into_iter().filter(|block| block.state == "here");
    blocks.map(|block| (block.pool, block.block)).collect()
}

#[test]
fn a_pool_more_is_used_by_all_nodes_that_have_it_and_not_missed_by_the_others() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    nodes.start(&stored(OLD));
    let web: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    web.iter().for_each(|sandbox| sandbox.space.serve(80));
    all_reach_each_other(&web.iter().collect::<Vec<_>>());
    let words = ["10.5.0.0/16 is no pool of this node", "10.4.0.0/16, fd04::/48: write it to fleet.pools there first"];
    refused(&add(&nodes.all[0], "10.5.0.0/16"), FailureCode::INVALID_CONFIG, &words);
    // A node that has it alone gets nothing of it, and is told how it gets some.
    nodes.all[0].write(&stored(NEW));
    soon("it is told", || warns(&nodes.all[0], &["To add it for good, `netdctl pool add 10.5.0.0/16` on one node"]));
    let failure = attach_to_more(&nodes.all[0], "early").map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains("pool 10.5.0.0/16 is not in the store"), "{failure:?}");
    // netd waits for a slow store for some seconds, and goes on where it is asked again.
    soon("it is added", || add(&nodes.all[0], "10.5.0.0/16").done);
    for _ in 0..2 {
        let added = add(&nodes.all[0], "10.5.0.0/16");
        assert!(added.failure.is_none() && added.done && added.waits.is_empty(), "{added:?}");
    }
    let mut of_pool = vec![more(&nodes.all[0], "login")];
    // One that is started again with it, and one that does not have it.
    nodes.all[1].kill();
    nodes.all[1].write(&stored(NEW));
    nodes.all[1].start();
    of_pool.push(more(&nodes.all[1], "login"));
    let foreign = "pool 10.5.0.0/16 is in the store and not in netd.toml";
    soon("the third is told what it lacks", || warns(&nodes.all[2], &[foreign, "Add it to fleet.pools"]));
    let again = nodes.all[2].attach("again");
    assert!(again.v4.starts_with("10.4."), "{}", again.v4);
    again.space.serve(80);
    all_reach_each_other(&[&web[0], &web[1], &web[2], &again]);
    all_reach_each_other(&[&web[0], &web[1], &of_pool[0], &of_pool[1]]);
    nodes.all[2].write(&stored(NEW));
    of_pool.push(more(&nodes.all[2], "other"));
    let all: Vec<&Sandbox> = web.iter().chain(&of_pool).chain([&again]).collect();
    all_reach_each_other(&all);
    soon("all are content", || nodes.all.iter().all(|node| node.warnings().is_empty()));
    let route = |from: usize, to: usize| {
        nodes.all[from]
            .routes()
            .lines()
            .any(|line| line.starts_with("10.5.") && line.contains(&format!("192.0.2.{}", to + 1)))
    };
    assert!((0..3).all(|from| (0..3).all(|to| from == to || route(from, to))), "{}", nodes.all[0].routes());
    policies(&nodes, &web[0], &of_pool);
    all_start_again(&mut nodes, &all);
    // It stays.
    nodes.all[0].write(&stored(OLD));
    soon("that is told", || warns(&nodes.all[0], &["hold from the next start on", foreign]));
}

/// Whom a policy lets pass is known by an address of the new pool as by any.
fn policies(nodes: &Nodes, web: &Sandbox, of_pool: &[Sandbox]) {
    for (node, container, app) in [(0, "web", "web"), (1, "login", "login"), (2, "other", "other")] {
        describe(&nodes.all[node].client(), container, container, &[("app", app)]);
    }
    let folder = nodes.all[0].folder.path().join("policies");
    fs::create_dir_all(&folder).unwrap();
    let draft = nodes.all[0].folder.path().join("draft");
    fs::write(&draft, FROM_LOGIN).unwrap();
    fs::rename(draft, folder.join("shop.yaml")).unwrap();
    let hears = |from: &Sandbox| from.space.hears(&format!("{}:80", web.v4)) == Ok(from.v4.clone());
    soon("the policy is in force", || !hears(&of_pool[2]));
    soon("whom it names passes", || hears(&of_pool[1]));
    assert!(!hears(&of_pool[2]));
    fs::remove_file(folder.join("shop.yaml")).unwrap();
    soon("all pass", || hears(&of_pool[2]));
}

fn all_start_again(nodes: &mut Nodes, all: &[&Sandbox]) {
    let before: Vec<_> = nodes.all.iter().map(own_blocks).collect();
    assert!(before.iter().all(|own| own.iter().any(|(pool, _)| pool == "10.5.0.0/16")), "{before:?}");
    nodes.all.iter_mut().for_each(Member::kill);
    nodes.all.iter_mut().for_each(Member::start);
    for (node, before) in nodes.all.iter().zip(before) {
        soon("it has what it had", || own_blocks(node) == before);
    }
    let new: Vec<Sandbox> = nodes.all.iter().map(|node| more(node, "new")).collect();
    all_reach_each_other(&all.iter().copied().chain(&new).collect::<Vec<_>>());
}

#[test]
fn a_pool_that_overlaps_or_holds_hosts_or_is_too_small_is_not_added() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    nodes.all[0].write(&stored(OLD));
    nodes.all[0].start();
    nodes.all[0].attach("web");
    let node = &nodes.all[0];
    node.space.command("ip addr add 10.9.0.1/24 dev up0");
    node.write(&stored("'10.4.0.0/16', 'fd04::/48', '10.9.0.0/16'"));
    let words =
        ["pool 10.9.0.0/16 holds an address of the hosts' own networks, 10.9.0.", "Give it a range that holds none"];
    refused(&add(node, "10.9.0.0/16"), FailureCode::INVALID_CONFIG, &words);
    // What the fleet never had may be taken back without a restart.
    node.write(&stored("'10.4.0.0/16', 'fd04::/48', { range = '10.6.0.0/28', block = 26 }"));
    refused(
        &add(node, "10.6.0.0/28"),
        FailureCode::INVALID_CONFIG,
        &["10.6.0.0/28 is no pool", "blocks of /26 do not fit in 10.6.0.0/28"],
    );
    node.write(&stored(OLD));
    soon("it is content", || node.warnings().is_empty());
    // A file with pools that overlap is none; one that has another in their place is known from a start on.
    nodes.all[1].write(&stored("'10.4.0.0/15', 'fd04::/48'"));
    nodes.all[1].start();
    let words = ["it cannot be added (pools 10.4.0.0/15 and 10.4.0.0/16 share addresses"];
    soon("it is told", || warns(&nodes.all[1], &words));
    refused(&add(&nodes.all[1], "10.4.0.0/15"), FailureCode::INVALID_CONFIG, &words);
    soon("the first is content", || nodes.all[0].warnings().is_empty());
}

#[test]
fn a_pool_that_the_store_does_not_have_is_told_and_a_change_of_pools_too() {
    const OTHER: &str = "{ range = '10.4.0.0/16', block = 24 }, 'fd04::/48', '10.5.0.0/16'";
    const MISSING: &str = "pool 10.5.0.0/16 is not in the store, which has 10.4.0.0/16, fd04::/48";
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    for (node, pools) in nodes.all.iter_mut().zip([OLD, OTHER]) {
        node.write(&stored(pools));
        node.start();
        node.attach("web");
    }
    let (first, second) = (&nodes.all[0], &nodes.all[1]);
    soon("both are told", || {
        warns(second, &[MISSING, "pool 10.4.0.0/16 has blocks of /24 in netd.toml and of /26 in the store"])
    });
    soon("the first is content", || first.warnings().is_empty());
    // What will never come is not waited for.
    let network = NETWORK.replace("\"bridge\",\"type\"", "\"other\",\"type\"").replace("br0", "br1");
    let network = network.replace("10.4.0.0/24", "10.5.0.0/24");
    let failure = second.attach_to(&network, "x", "").map(|sandbox| sandbox.v4).unwrap_err();
    assert!(failure.message.contains(MISSING) && !failure.message.contains("try again"), "{failure:?}");
    assert_ne!(netd_api::cni_code(failure.code.enum_value().unwrap()), 11, "{failure:?}");
    // Nor does a start bring it.
    first.write(&stored(OTHER));
    let next = "hold from the next start on, pools only as the store has them";
    soon("the change is told, and what will not hold", || warns(first, &[next, MISSING]));
    first.write(&stored(OLD));
    soon("it is taken back", || first.warnings().is_empty());
}
