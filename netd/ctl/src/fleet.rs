//! `netdctl node`, `block` and `peer`: what is asked, and of what the answer consists. How it looks is `fleet/render`.

mod model;
mod render;

use netd_api::blocking as api;

use crate::arguments::{Arguments, Node};
use crate::ask::{AskError, Netd};
use crate::find::FindError;
use crate::render::Look;
use crate::{Answer, Failed, show};
use model::{Added, Check, Fleet, Removed};

pub(crate) fn nodes(
    arguments: &Arguments,
    command: &Node,
    look: Look,
    netd: impl Fn() -> Result<Netd, AskError>,
) -> Result<Answer, Failed> {
    let fleet = || Ok::<Fleet, AskError>(netd()?.fleet()?.into());
    match command {
        Node::Ls => show(arguments, &fleet()?, |fleet| render::nodes(fleet, look)),
        Node::Inspect { name } => show(arguments, &find(fleet()?.nodes, name)?, |node| render::node(node, look)),
        Node::Rm { name, instance, lost } => {
            let (name, instance) = (name.clone(), instance.clone().unwrap_or_default());
            let request = api::RemoveNodeRequest { name, instance, lost: *lost, ..api::RemoveNodeRequest::new() };
            let removed = Removed::from(netd()?.remove_node(&request)?);
            show(arguments, &removed, |removed| render::removed(removed, look))
        }
    }
}

/// By its name, whoever is there before who is not; else by the first digits of its instance.
fn find(nodes: Vec<model::Node>, name: &str) -> Result<model::Node, FindError> {
    let (named, others): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.name == name);
    let (gone, there): (Vec<_>, Vec<_>) = named.into_iter().partition(|node| node.state == "absent");
    let begins = |node: &model::Node| !name.is_empty() && node.instance.starts_with(name);
    let mut found = if there.is_empty() { gone } else { there };
    if found.is_empty() {
        found.extend(others.into_iter().filter(begins));
    }
    match found.len() {
        0 => Err(FindError::NoNode(name.to_owned())),
        1 => Ok(found.swap_remove(0)),
        _ => {
            let candidates = found.into_iter().map(|node| format!("{} ({})", node.instance, node.state)).collect();
            Err(FindError::SeveralNodes { name: name.to_owned(), candidates })
        }
    }
}

pub(crate) fn add_pool(arguments: &Arguments, pool: String, look: Look, netd: &Netd) -> Result<Answer, Failed> {
    let added = Added::from(netd.add_pool(pool)?);
    let answer = show(arguments, &added, |added| render::added(added, look))?;
    Ok(Answer { ill: !added.done, ..answer })
}

pub(crate) fn blocks(arguments: &Arguments, netd: &Netd) -> Result<Answer, Failed> {
    let fleet = Fleet::from(netd.fleet()?);
    show(arguments, &fleet.blocks, |_| render::blocks(&fleet))
}

pub(crate) fn check(arguments: &Arguments, name: Option<String>, look: Look, netd: &Netd) -> Result<Answer, Failed> {
    let checks: Vec<Check> = netd.check_peers(name.unwrap_or_default())?.into_iter().map(Check::from).collect();
    let ill = checks.iter().any(|check| !check.troubles.is_empty());
    let answer = show(arguments, &checks, |checks| render::checks(checks, look))?;
    Ok(Answer { ill, ..answer })
}

#[cfg(test)]
mod tests;
