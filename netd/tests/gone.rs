//! Nodes that are gone for good, on etcd: they are removed by another one, and what was theirs is others' to take. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod rig;

use std::fs;

use netd_api::blocking::{FleetNode, FleetResponse, RemoveNodeRequest, RemoveNodeResponse};
use netd_api::v1::FailureCode;
use rig::nodes::{Etcd, Member, NETWORK, Nodes, Sandbox, soon};

/// One pool of so many blocks for IPv4.
fn stored(block: u8) -> String {
    let etcd = format!("etcd = {{ endpoints = ['{}'], lease_seconds = 6 }}", Etcd::ENDPOINT);
    format!("pools = [{{ range = '10.4.0.0/24', block = {block} }}, 'fd04::/48']\n{etcd}\n")
}

/// A network beside the first, with blocks of its own.
fn attach_to_another(node: &Member) -> Result<Sandbox, netd_api::blocking::Failure> {
    let other = NETWORK.replace("\"bridge\",\"type\"", "\"other\",\"type\"").replace("br0", "br1");
    node.attach_to(&other, "other", "")
}

fn remove(node: &Member, name: &str, instance: &str, lost: bool) -> RemoveNodeResponse {
    let (name, instance) = (name.to_owned(), instance.to_owned());
    let request = RemoveNodeRequest { name, instance, lost, ..RemoveNodeRequest::new() };
    node.client().remove_node(&request).unwrap()
}

#[track_caller]
fn refused(answer: &RemoveNodeResponse, code: FailureCode, words: &[&str]) {
    let failure = answer.failure.as_ref().unwrap();
    assert_eq!(failure.code.enum_value(), Ok(code), "{failure:?}");
    words.iter().for_each(|word| assert!(failure.message.contains(word), "{word}: {}", failure.message));
}

fn states<'a>(fleet: &'a FleetResponse, name: &str) -> Vec<(&'a str, &'a str)> {
    let named = fleet.nodes.iter().filter(|node| node.name == name);
    named.map(|node| (node.state.as_str(), node.instance.as_str())).collect()
}

fn blocks_of<'a>(fleet: &'a FleetResponse, instance: &String) -> Vec<&'a str> {
    let of_it = fleet.blocks.iter().filter(|block| block.instances.contains(instance));
    of_it.map(|block| block.block.as_str()).collect()
}

fn is_absent(node: &Member, name: &str) -> bool {
    states(&node.fleet(), name).iter().any(|(state, _)| *state == "absent")
}

fn warns(node: &Member, words: &str) -> bool {
    node.warnings().iter().any(|text| text.contains(words))
}

/// The founder is the only witness of two nodes.
#[test]
fn a_founder_that_never_comes_back_is_removed_and_its_block_goes_to_who_needs_one() {
    let mut nodes = Nodes::new(2);
    let _etcd = nodes.etcd();
    nodes.write(&stored(25));
    let mut sandboxes = Vec::new();
    for node in &mut nodes.all {
        node.start();
        sandboxes.push(node.attach("web"));
    }
    let second = &nodes.all[1];
    soon("they know each other", || states(&second.fleet(), "n1").iter().any(|(state, _)| *state == "present"));
    let fleet = second.fleet();
    let founder: FleetNode = fleet.nodes.iter().find(|node| node.name == "n1").unwrap().clone();
    assert!(founder.witness && !fleet.nodes[0].witness, "{fleet:?}");
    let was_its = blocks_of(&fleet, &founder.instance).into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(was_its.len(), 2, "{fleet:?}");
    assert!(attach_to_another(second).is_err(), "both blocks are in use");
    refused(&remove(second, "n2", "", false), FailureCode::CONFLICT, &["n2 itself"]);
    refused(&remove(second, "n1", "", false), FailureCode::CONFLICT, &["n1 is present"]);
    refused(&remove(second, "n7", "", false), FailureCode::UNKNOWN_SANDBOX, &["no node n7", "netdctl node ls"]);

    nodes.all[0].kill();
    let second = &nodes.all[1];
    soon("its lease is over", || is_absent(second, "n1"));
    soon("it is told", || warns(second, "too few of the fleet's witnesses are there (absent: n1)"));
    let needed = remove(second, "n1", "", false);
    refused(&needed, FailureCode::CONFLICT, &["absent: n1", "--lost", "set back to an older copy", "gone for good"]);
    assert!(attach_to_another(second).is_err(), "nothing has changed");
    let answer = remove(second, "n1", "", true);
    assert!(answer.failure.is_none() && answer.done && answer.waits.is_empty(), "{answer:?}");
    assert_eq!((&answer.name, &answer.instance, &answer.blocks), (&"n1".to_owned(), &founder.instance, &was_its));
    soon("its block is another's", || attach_to_another(second).is_ok());
    soon("all is well", || second.warnings().is_empty());
    let fleet = second.fleet();
    assert_eq!((states(&fleet, "n1"), fleet.nodes[0].witness), (Vec::new(), true));
    let mine = blocks_of(&fleet, &fleet.nodes[0].instance);
    assert!(was_its.iter().any(|block| mine.contains(&block.as_str())), "{was_its:?}: {mine:?}");

    // It was not gone after all: it has nothing any more, and says what to do.
    nodes.all[0].start();
    soon("it is told", || warns(&nodes.all[0], "this node was removed from the fleet"));
    soon("it has nothing", || blocks_of(&nodes.all[0].fleet(), &founder.instance).is_empty());
    nodes.all[0].detach("web");
    nodes.all[0].kill();
    fs::remove_file(nodes.all[0].folder.path().join("state/fleet.json")).unwrap();
    nodes.all[0].start();
    soon("it is a node like others", || nodes.all[0].warnings().is_empty() && nodes.all[0].fleet().connected);
    soon("and is known", || states(&nodes.all[1].fleet(), "n1").iter().any(|(state, _)| *state == "present"));
}

/// As a node is that was installed anew.
#[test]
fn a_host_that_is_made_anew_leaves_an_instance_behind_that_is_told_apart_and_removed() {
    let mut nodes = Nodes::new(3);
    let _etcd = nodes.etcd();
    nodes.start(&stored(26));
    let mut sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    let witnesses = |node: &Member| node.fleet().nodes.iter().filter(|node| node.witness).count();
    soon("all witness", || witnesses(&nodes.all[0]) == 3);
    let before = nodes.all[2].fleet().nodes[0].instance.clone();

    nodes.all[2].kill();
    nodes.all[2].space.command("ip link del br0");
    fs::remove_dir_all(nodes.all[2].folder.path().join("state")).unwrap();
    fs::remove_dir_all(nodes.all[2].folder.path().join("run")).unwrap();
    nodes.all[2].start();
    sandboxes.push(nodes.all[2].attach("anew"));
    let first = &nodes.all[0];
    let now = nodes.all[2].fleet().nodes[0].instance.clone();
    soon("it is a peer", || states(&first.fleet(), "n3").contains(&("present", &now)));
    let fleet = first.fleet();
    assert_eq!(states(&fleet, "n3"), [("present", now.as_str()), ("absent", before.as_str())]);
    let (left, own) = (blocks_of(&fleet, &before), blocks_of(&fleet, &now));
    assert!(left.len() == 2 && own.len() == 2 && left.iter().all(|block| !own.contains(block)), "{fleet:?}");
    assert!(attach_to_another(first).is_err(), "all four blocks are somebody's");

    refused(&remove(first, "n3", "", false), FailureCode::CONFLICT, &[&now, &before, "--instance", left[0]]);
    refused(&remove(first, "n3", &now, false), FailureCode::CONFLICT, &["n3 is present"]);
    refused(&remove(first, "n3", &before, true), FailureCode::CONFLICT, &["Leave --lost away"]);
    let answer = remove(first, "n3", &before[..8], false);
    assert!(answer.failure.is_none() && answer.done && answer.waits.is_empty(), "{answer:?}");
    assert_eq!((answer.instance, answer.blocks.len()), (before.clone(), 2));
    soon("what was left behind is another's", || attach_to_another(first).is_ok());
    soon("the new one witnesses in its stead", || witnesses(first) == 3);
    for node in &nodes.all {
        soon("nobody shows it", || states(&node.fleet(), "n3").iter().all(|(_, instance)| *instance != before));
        soon("all is well", || node.warnings().is_empty());
    }
}
