//! Nodes, blocks and checks as tables for people. Pure.

use super::model::{Added, Block, Check, Fleet, Node, Removed};
use crate::render::{Look, line};
use crate::table::Table;

/// Digits of an instance where a name is not enough.
const SHOWN: usize = 8;
const NONE: &str =
    "This node is part of no fleet; three lines in /etc/netd/netd.toml make it part of one (docs/nodes.md).\n";

pub(crate) fn nodes(fleet: &Fleet, look: Look) -> String {
    if fleet.source.is_empty() {
        return NONE.to_owned();
    }
    let mut table = Table::new(["NODE", "STATE", "ADDRESSES", "BLOCKS", "REACHED", "MTU", "VERSION"]);
    for node in &fleet.nodes {
        table.row([
            named(node, &fleet.nodes),
            node.state.clone(),
            node.addresses.join(","),
            node.blocks.len().to_string(),
            reached(node),
            number(node.mtu),
            node.version.clone(),
        ]);
    }
    let mut text = table.render();
    for warning in &fleet.warnings {
        line(&mut text, format_args!("{} {warning}", look.paint(33, "warning:")));
    }
    text
}

/// Where several have the name, also which of them.
fn named(node: &Node, nodes: &[Node]) -> String {
    match node.instance.get(..SHOWN) {
        Some(instance) if is_shared(node, nodes) => format!("{} ({instance})", node.name),
        _ => node.name.clone(),
    }
}

fn is_shared(node: &Node, nodes: &[Node]) -> bool {
    nodes.iter().filter(|other| other.name == node.name).count() > 1
}

/// Its owner, as `node ls` names it; all of them where several claim it.
fn owner(block: &Block, nodes: &[Node]) -> String {
    let is_unclear = |node: &Node| block.instances.contains(&node.instance) && is_shared(node, nodes);
    if !nodes.iter().any(is_unclear) {
        return block.node.clone();
    }
    let instances: Vec<&str> = block.instances.iter().filter_map(|instance| instance.get(..SHOWN)).collect();
    format!("{} ({})", block.node, instances.join(", "))
}

/// By what; and whether all of it is.
fn reached(node: &Node) -> String {
    let mut ways: Vec<&str> =
        node.routes.iter().map(|route| if route.by.is_empty() { "not" } else { route.by.as_str() }).collect();
    ways.sort_unstable();
    ways.dedup();
    ways.join(",")
}

fn number(mtu: u32) -> String {
    if mtu == 0 { String::new() } else { mtu.to_string() }
}

pub(crate) fn node(node: &Node, look: Look) -> String {
    let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut table = Table::headless();
    for (name, value) in [
        ("node", node.name.clone()),
        ("instance", node.instance.clone()),
        ("state", node.state.clone()),
        ("witness", if node.witness { "yes" } else { "no" }.to_owned()),
        ("addresses", node.addresses.join(",")),
        ("blocks", node.blocks.join(",")),
        ("decapsulates", node.encapsulations.join(",")),
        ("mtu", number(node.mtu)),
        ("labels", labels.join(",")),
        ("version", node.version.clone()),
    ] {
        table.row([name.to_owned(), value]);
    }
    let mut text = table.render();
    if !node.routes.is_empty() {
        let mut routes = Table::new(["BLOCK", "BY", "TO"]);
        for route in &node.routes {
            routes.row([route.block.clone(), route.by.clone(), route.to.clone()]);
        }
        line(&mut text, format_args!("\n{}", routes.render().trim_end()));
    }
    for trouble in &node.troubles {
        line(&mut text, format_args!("{} {trouble}", look.paint(33, "warning:")));
    }
    text
}

pub(crate) fn removed(removed: &Removed, look: Look) -> String {
    let Removed { name, instance, blocks, done, waits } = removed;
    let mut text = String::new();
    if *done {
        line(&mut text, format_args!("{name} ({instance}) is removed from the fleet."));
    } else {
        let asked = "is not removed yet: the fleet has not noted it. This node's netd goes on asking for it while it runs, and as long as that node is away";
        line(&mut text, format_args!("{name} ({instance}) {asked}."));
    }
    if *done && !blocks.is_empty() {
        line(&mut text, format_args!("Others may take its blocks: {}.", blocks.join(", ")));
    }
    if !waits.is_empty() {
        line(&mut text, format_args!("{} {waits}", look.paint(33, "warning:")));
    }
    text
}

pub(crate) fn added(added: &Added, look: Look) -> String {
    let Added { name, range, done, waits } = added;
    let pool = if name == range { range.clone() } else { format!("{name} ({range})") };
    let mut text = String::new();
    if *done {
        let next = "Nodes whose netd.toml has it take blocks of it; write it to fleet.pools on all of them.";
        line(&mut text, format_args!("Pool {pool} is the fleet's.\n{next}"));
    } else {
        let asked = "is not in use yet: too few of the fleet have noted it. This node's netd goes on asking for it while it runs";
        line(&mut text, format_args!("Pool {pool} {asked}."));
    }
    if !waits.is_empty() {
        line(&mut text, format_args!("{} {waits}", look.paint(33, "warning:")));
    }
    text
}

pub(crate) fn blocks(fleet: &Fleet) -> String {
    if fleet.blocks.is_empty() {
        return "No blocks: this node is part of no fleet, or nobody has one yet (`netdctl node ls`).\n".to_owned();
    }
    let mut table = Table::new(["BLOCK", "POOL", "NODE", "STATE", "NETWORK", "HELD"]);
    for block in &fleet.blocks {
        let held = if block.size == 0 { String::new() } else { format!("{} of {}", block.held, block.size) };
        table.row([
            block.block.clone(),
            block.pool.clone(),
            owner(block, &fleet.nodes),
            block.state.clone(),
            block.network.clone(),
            held,
        ]);
    }
    table.render()
}

pub(crate) fn checks(checks: &[Check], look: Look) -> String {
    if checks.is_empty() {
        return "No peers: no other node is heard of (`netdctl node ls`).\n".to_owned();
    }
    let mut table = Table::new(["PEER", "BLOCK", "BY", "TO", "ANSWER", "MTU", "ENCAPSULATED"]);
    for check in checks {
        let answer = if check.answered { format!("{} us", check.round_trip_us) } else { "none".to_owned() };
        let mtu = if check.answered { format!("{} of {}", check.mtu, check.wanted_mtu) } else { String::new() };
        table.row([
            check.name.clone(),
            check.block.clone(),
            check.by.clone(),
            check.to.clone(),
            answer,
            mtu,
            check.encapsulated.clone(),
        ]);
    }
    let mut text = table.render();
    for check in checks {
        for trouble in &check.troubles {
            line(&mut text, format_args!("{} {}: {trouble}", look.paint(31, "problem:"), check.name));
        }
    }
    text
}
