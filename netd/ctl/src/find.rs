//! The one network or sandbox that a person means.

use thiserror::Error;

use crate::model::{self, Network, Sandbox};

/// Nothing, or more than one thing, is meant.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum FindError {
    /// No such network.
    #[error("there is no network {0:?}; `netdctl network ls` lists them")]
    NoNetwork(String),
    /// No such sandbox.
    #[error("there is no sandbox whose id or name is {0:?}; `netdctl sandbox ls` lists them")]
    NoSandbox(String),
    /// No such node.
    #[error("there is no node {0:?}; `netdctl node ls` lists them")]
    NoNode(String),
    /// Several nodes.
    #[error("{name:?} may mean {}; say which by the first digits of its instance", candidates.join(", "))]
    SeveralNodes { name: String, candidates: Vec<String> },
    /// Several.
    #[error("{what:?} may mean {}; say which by its id", candidates.join(", "))]
    Ambiguous { what: String, candidates: Vec<String> },
}

/// By name; a broken file has none and is found by its path.
pub(crate) fn network(networks: Vec<Network>, name: &str) -> Result<Network, FindError> {
    let is = |network: &Network| network.name == name || network.file == name;
    networks.into_iter().find(is).ok_or_else(|| FindError::NoNetwork(name.to_owned()))
}

/// By the first letters of the id as CNI or as the container's tools write it; else by the whole name.
pub(crate) fn sandbox(sandboxes: Vec<Sandbox>, id: &str) -> Result<Sandbox, FindError> {
    let begins = |sandbox: &Sandbox| sandbox.id.starts_with(id) || model::own_id(&sandbox.id).starts_with(id);
    let (by_id, others): (Vec<_>, Vec<_>) = sandboxes.into_iter().partition(begins);
    let exact = by_id.iter().position(|sandbox| sandbox.id == id || model::own_id(&sandbox.id) == id);
    let mut found = by_id;
    if let Some(at) = exact {
        return Ok(found.swap_remove(at));
    }
    if found.is_empty() {
        found.extend(others.into_iter().filter(|sandbox| sandbox.name == id));
    }
    match found.len() {
        0 => Err(FindError::NoSandbox(id.to_owned())),
        1 => Ok(found.swap_remove(0)),
        _ => Err(FindError::Ambiguous {
            what: id.to_owned(),
            candidates: found.into_iter().map(|sandbox| sandbox.id).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{FindError, sandbox};
    use crate::model::Sandbox;

    fn all() -> Vec<Sandbox> {
        let named = |id: &str, name: &str| Sandbox { id: id.to_owned(), name: name.to_owned(), ..Sandbox::default() };
        let hash = |digits: &str| format!("default-{digits}{}", "0".repeat(64 - digits.len()));
        vec![named(&hash("ab1"), "web"), named(&hash("ab2"), "db"), named("ctr", "x"), named("ctr-2", "y")]
    }

    #[test]
    fn a_sandbox_is_found_by_what_people_type() {
        let name = |id: &str| sandbox(all(), id).map(|found| found.name);
        for (typed, expected) in
            [("ab1", "web"), ("default-ab2", "db"), ("db", "db"), ("ctr", "x"), ("ctr-", "y"), ("web", "web")]
        {
            assert_eq!(name(typed), Ok(expected.to_owned()), "{typed}");
        }
        assert_eq!(name("zz"), Err(FindError::NoSandbox("zz".to_owned())));
        let error = name("ab").unwrap_err().to_string();
        assert!(error.contains("default-ab1") && error.contains("default-ab2"), "{error}");
    }
}
