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

/// By its whole name, with its namespace before it or not, or its whole id; else by the first letters of the id as CNI or as
/// the container's tools write it.
pub(crate) fn sandbox(sandboxes: Vec<Sandbox>, what: &str) -> Result<Sandbox, FindError> {
    let ids =
        |sandbox: &Sandbox, is: fn(&str, &str) -> bool| is(&sandbox.id, what) || is(model::own_id(&sandbox.id), what);
    let is_named = |sandbox: &Sandbox| {
        let in_namespace = what.split_once('/');
        sandbox.name == what || in_namespace == Some((sandbox.namespace.as_str(), sandbox.name.as_str()))
    };
    let is_exact = |sandbox: &Sandbox| is_named(sandbox) || ids(sandbox, |id, what| id == what);
    let (mut found, others): (Vec<_>, Vec<_>) = sandboxes.into_iter().partition(is_exact);
    if found.is_empty() {
        found.extend(others.into_iter().filter(|sandbox| ids(sandbox, |id, what| id.starts_with(what))));
    }
    match found.len() {
        0 => Err(FindError::NoSandbox(what.to_owned())),
        1 => Ok(found.swap_remove(0)),
        _ => Err(FindError::Ambiguous {
            what: what.to_owned(),
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

    #[test]
    fn a_name_goes_before_the_beginning_of_anothers_id_and_two_of_one_name_are_told() {
        let mut all = all();
        all[0].name = "ctr-".to_owned();
        all.push(Sandbox { namespace: "k8s.io".to_owned(), ..all[1].clone() });
        all[1].namespace = "default".to_owned();
        all[4].id = "pod".to_owned();
        let id = |what: &str| sandbox(all.clone(), what).map(|found| found.id);
        assert_eq!(id("ctr-"), Ok(all[0].id.clone()));
        assert_eq!(id("k8s.io/db"), Ok("pod".to_owned()));
        assert_eq!(id("default/db"), Ok(all[1].id.clone()));
        assert!(matches!(id("db"), Err(FindError::Ambiguous { candidates, .. }) if candidates.len() == 2));
    }
}
