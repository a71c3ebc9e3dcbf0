//! `netdctl node`, `block` and `peer`: what is asked, and of what the answer consists. How it looks is `fleet/render`.

mod model;
mod render;

use crate::arguments::{Arguments, Node};
use crate::ask::{AskError, Netd};
use crate::find::FindError;
use crate::render::Look;
use crate::{Answer, Failed, show};
use model::{Check, Fleet};

pub(crate) fn nodes(
    arguments: &Arguments,
    command: &Node,
    look: Look,
    netd: impl Fn() -> Result<Netd, AskError>,
) -> Result<Answer, Failed> {
    let fleet = Fleet::from(netd()?.fleet()?);
    match command {
        Node::Ls => show(arguments, &fleet, |fleet| render::nodes(fleet, look)),
        Node::Inspect { name } => {
            let node = fleet.nodes.into_iter().find(|node| node.name == *name);
            let node = node.ok_or_else(|| FindError::NoNode(name.clone()))?;
            show(arguments, &node, |node| render::node(node, look))
        }
    }
}

pub(crate) fn blocks(arguments: &Arguments, netd: &Netd) -> Result<Answer, Failed> {
    let blocks = Fleet::from(netd.fleet()?).blocks;
    show(arguments, &blocks, |blocks| render::blocks(blocks))
}

pub(crate) fn check(arguments: &Arguments, name: Option<String>, look: Look, netd: &Netd) -> Result<Answer, Failed> {
    let checks: Vec<Check> = netd.check_peers(name.unwrap_or_default())?.into_iter().map(Check::from).collect();
    let ill = checks.iter().any(|check| !check.troubles.is_empty());
    let answer = show(arguments, &checks, |checks| render::checks(checks, look))?;
    Ok(Answer { ill, ..answer })
}

#[cfg(test)]
mod tests;
