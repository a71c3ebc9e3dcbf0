//! Nodes as one fleet, with the real binary and the real kernel: addresses of own blocks, routes to the others', and what
//! becomes of them when nodes, lists and stores come and go. Needs root.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of them")]

mod blocks;
mod hosts;
mod ipip;
mod over;
#[path = "../rig/mod.rs"]
mod rig;
mod ways;

use rig::nodes::{Etcd, Nodes, Sandbox, soon};

fn list(encapsulation: &str, nodes: &[usize]) -> String {
    let node = |number: &usize| {
        format!(
            "n{number} = {{ address = ['192.0.2.{number}', '2001:db8::{number}'], blocks = ['10.4.{number}.0/24', 'fd04:0:0:{number}::/64'] }}\n"
        )
    };
    let nodes: String = nodes.iter().map(node).collect();
    format!("pools = ['10.4.0.0/16', 'fd04::/48']\nencapsulation = '{encapsulation}'\n[fleet.nodes]\n{nodes}")
}

/// Each of them hears every other one, and is seen under its own address.
#[track_caller]
fn all_reach_each_other(sandboxes: &[Sandbox]) {
    for from in sandboxes {
        for to in sandboxes {
            for address in [format!("{}:80", to.v4), format!("[{}]:80", to.v6)] {
                let heard = from.space.hears_in_the_end(&address);
                let own = if address.starts_with('[') { &from.v6 } else { &from.v4 };
                assert_eq!(heard.as_ref(), Ok(own), "{} to {address}", from.v4);
            }
        }
    }
}

fn three(encapsulation: &str) -> (Nodes, Vec<Sandbox>) {
    let mut nodes = Nodes::new(3);
    nodes.start(&list(encapsulation, &[1, 2, 3]));
    let sandboxes: Vec<Sandbox> = nodes.all.iter().map(|node| node.attach("web")).collect();
    sandboxes.iter().for_each(|sandbox| sandbox.space.serve(80));
    (nodes, sandboxes)
}

fn mtu(sandbox: &Sandbox) -> u32 {
    let line = sandbox.space.command("ip -o link show eth0");
    line.split(' ').skip_while(|word| *word != "mtu").nth(1).unwrap().parse().unwrap()
}

/// Soon over, and not so soon that a machine that stands still for a moment ends it.
const LEASE: u32 = 6;

fn stored(pools: &str) -> String {
    format!("pools = {pools}\netcd = {{ endpoints = ['{}'], lease_seconds = {LEASE} }}\n", Etcd::ENDPOINT)
}

/// To blocks of others.
#[track_caller]
fn all_have_routes(nodes: &Nodes, count: usize) {
    soon("the routes", || nodes.all.iter().all(|node| node.routes().matches(" via ").count() == count));
}
