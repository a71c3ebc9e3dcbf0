//! `netdctl policy` and `netdctl drops`: what is asked, and of what the answer consists. How it looks is `policy/render`.

mod asked;
mod model;
mod render;
mod target;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use netd_api::blocking as api;
use netd_policy::PolicyName;
use thiserror::Error;

use crate::arguments::{Arguments, Drops, Output, Policy, Which};
use crate::ask::{AskError, Netd};
use crate::render::Look;
use crate::{Answer, Failed, show, write};
use target::{Target, TargetError};

/// How long netd is asked to wait for a denied packet; it is asked again afterwards.
const DROPS_WAIT_MS: u32 = 10_000;

/// A command about policies cannot be carried out.
#[derive(Debug, Error)]
pub(crate) enum PolicyError {
    /// No text.
    #[error("cannot read {file}; name a file that may be read, or - for standard input")]
    File { file: PathBuf, source: io::Error },
    /// Not where to.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No such policy.
    #[error("there is no policy {0}; `netdctl policy ls` lists them")]
    None(String),
    /// Several.
    #[error("{what} may mean {}; say which with --namespace or --kind", candidates.join(", "))]
    Ambiguous { what: String, candidates: Vec<String> },
}

pub(crate) fn answer(
    arguments: &Arguments,
    command: &Policy,
    look: Look,
    netd: impl Fn() -> Result<Netd, AskError>,
) -> Result<Answer, Failed> {
    match command {
        Policy::Ls => {
            let mut all = model::Policies::from(netd()?.policies(true)?);
            all.policies.iter_mut().for_each(|policy| policy.text = None);
            show(arguments, &all, render::policies)
        }
        Policy::Get { which } => {
            let policy = find(netd()?.policies(false)?.into(), which)?;
            show(arguments, &policy, |policy| policy.text.clone().unwrap_or_default())
        }
        Policy::Apply { file } => {
            let answer = netd()?.apply_policies(name(file), text(file)?)?;
            let names: Vec<_> = answer.applied.into_iter().map(model::Name::from).collect();
            show(arguments, &names, |names| render::applied(names))
        }
        Policy::Delete { which } => {
            let netd = netd()?;
            let model::Policy { kind, namespace, name, .. } = find(netd.policies(true)?.into(), which)?;
            let policy = model::Name { kind, namespace, name };
            netd.delete_policy(&policy.kind, &policy.namespace, &policy.name)?;
            show(arguments, &policy, render::deleted)
        }
        Policy::Validate { files } => validate(arguments, files),
        Policy::Test { from, to } => {
            let target = Target::parse(to).map_err(PolicyError::from)?;
            let asked = api::TestPolicyRequest {
                from: from.clone(),
                to: target.to,
                protocol: target.protocol.into(),
                port: target.port.into(),
                ..api::TestPolicyRequest::new()
            };
            let verdict = model::Verdict::from(netd()?.test_policy(&asked)?);
            let answer = show(arguments, &verdict, |verdict| asked::verdict(verdict, look))?;
            Ok(Answer { ill: !verdict.allowed, ..answer })
        }
        Policy::Matrix => {
            let ways = model::ways(netd()?.reach(String::new(), Vec::new())?, false);
            show(arguments, &ways, |ways| asked::matrix(ways))
        }
        Policy::Diff { file } => {
            let mut ways = model::ways(netd()?.reach(name(file), text(file)?)?, true);
            ways.retain(model::Way::changes);
            show(arguments, &ways, |ways| asked::diff(ways))
        }
    }
}

/// Writes as it hears, where it is to go on.
pub(crate) fn drops(arguments: &Arguments, command: &Drops, netd: &Netd) -> Result<Answer, Failed> {
    let mut after = 0;
    loop {
        let wait = if command.follow { DROPS_WAIT_MS } else { 0 };
        let answer = netd.drops(after, wait)?;
        after = answer.drops.last().map_or(after, |last| last.sequence);
        let heard: Vec<_> = answer.drops.into_iter().map(model::Dropped::from).collect();
        if !command.follow {
            return show(arguments, &heard, |heard| render::drops(heard));
        }
        let text = match arguments.output {
            Output::Table => render::drops(&heard),
            Output::Json => crate::render::json_lines(&heard)?,
        };
        if !heard.is_empty() && write(&text).and_then(|()| io::stdout().flush()).is_err() {
            return Ok(String::new().into());
        }
    }
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

pub(crate) fn text(file: &Path) -> Result<Vec<u8>, PolicyError> {
    let failed = |source| PolicyError::File { file: file.to_owned(), source };
    if file != Path::new("-") {
        return std::fs::read(file).map_err(failed);
    }
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// The one policy that is meant.
fn find(all: model::Policies, which: &Which) -> Result<model::Policy, PolicyError> {
    let is = |policy: &model::Policy| {
        policy.name == which.name
            && which.namespace.as_ref().is_none_or(|namespace| policy.namespace == *namespace)
            && which.kind.as_ref().is_none_or(|kind| policy.kind.eq_ignore_ascii_case(kind))
    };
    let mut found: Vec<_> = all.policies.into_iter().filter(is).collect();
    match found.len() {
        0 => Err(PolicyError::None(asked(which))),
        1 => Ok(found.swap_remove(0)),
        _ => Err(PolicyError::Ambiguous {
            what: asked(which),
            candidates: found.iter().map(|one| render::full(&one.kind, &one.namespace, &one.name)).collect(),
        }),
    }
}

/// The whole question: there may be one of that name elsewhere.
fn asked(which: &Which) -> String {
    let part = |part: &Option<String>, end| part.as_ref().map_or_else(String::new, |part| format!("{part}{end}"));
    format!("{}{}{}", part(&which.kind, ' '), part(&which.namespace, '/'), which.name)
}

/// All files' mistakes at once, and those of the files together: as netd reads them, the first file holds a name.
fn validate(arguments: &Arguments, files: &[PathBuf]) -> Result<Answer, Failed> {
    let mut all = Vec::new();
    let mut holders: BTreeMap<PolicyName, String> = BTreeMap::new();
    for file in files {
        let (name, octets) = (name(file), text(file)?);
        let read = netd_policy::text(&octets).map_err(|error| format!("{name}: {error}"));
        let read = read.and_then(|text| netd_policy::parse(&name, text).map_err(|errors| errors.to_string()));
        let errors = match &read {
            Ok(policies) => policies.iter().filter_map(|policy| twice(policy, &holders)).collect(),
            Err(error) => vec![error.clone()],
        };
        let policies = read.unwrap_or_default();
        all.push(model::Validated { file: name, policies: policies.len(), errors });
        for policy in policies {
            holders.entry(policy.name).or_insert_with(|| policy.source.to_string());
        }
    }
    let ill = all.iter().any(|file| !file.errors.is_empty());
    Ok(Answer { ill, ..show(arguments, &all, |all| render::validated(all))? })
}

fn twice(policy: &netd_policy::Policy, holders: &BTreeMap<PolicyName, String>) -> Option<String> {
    let holder = holders.get(&policy.name)?;
    Some(format!("{}: {} stands in {holder} already; remove one of the two", policy.source, policy.name))
}

#[cfg(test)]
mod tests {
    use super::{find, model};
    use crate::arguments::Which;

    #[test]
    fn who_asks_for_no_policy_or_for_two_hears_whole_names() {
        let one = |kind: &str, namespace: &str| model::Policy {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: "cart".to_owned(),
            ..model::Policy::default()
        };
        let found = |namespace: Option<&str>, kind: Option<&str>| {
            let policies = vec![one("NetworkPolicy", "default"), one("ClusterNetworkPolicy", "")];
            let [namespace, kind] = [namespace, kind].map(|said| said.map(str::to_owned));
            let which = Which { name: "cart".to_owned(), namespace, kind };
            find(model::Policies { policies, files: Vec::new() }, &which).map_err(|error| error.to_string())
        };
        let none = "there is no policy NetworkPolicy shop/cart; `netdctl policy ls` lists them";
        assert_eq!(found(Some("shop"), Some("NetworkPolicy")).unwrap_err(), none);
        let two =
            "cart may mean NetworkPolicy default/cart, ClusterNetworkPolicy cart; say which with --namespace or --kind";
        assert_eq!(found(None, None).unwrap_err(), two);
        assert_eq!(found(Some("default"), None).unwrap().kind, "NetworkPolicy");
    }
}
