//! Policies that were applied through the API: each in a file of its own in netd's state directory, where it is watched like
//! any other. A policy that a file of the user's holds is his to change.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use netd_api::v1;
use netd_policy::{Policy, PolicyName};
use thiserror::Error;

use super::files::{Documents, PolicyFiles};
use crate::whole_file::write_all_whole;

/// A directory of policies could not be changed. Nothing is.
#[derive(Debug, Error)]
#[error("cannot write {path}; make its directory writable, or set state_dir in netd.toml")]
pub(crate) struct ApplyError {
    path: PathBuf,
    source: io::Error,
}

/// What stood in files before they were changed. `None`: there was none.
#[derive(Debug, Default)]
pub(crate) struct Undo(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Undo {
    fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let stood = |path: PathBuf| match std::fs::read(&path) {
            Ok(text) => Ok((path, Some(text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path, None)),
            Err(error) => Err(error),
        };
        Ok(Self(paths.into_iter().map(stood).collect::<io::Result<_>>()?))
    }

    /// Whether what these files say now is in force, as far as `files` are.
    pub(crate) fn holds_in(&self, files: &PolicyFiles) -> bool {
        let known = files.by_name();
        self.0.iter().all(|(path, _)| match known.get(path.to_string_lossy().as_ref()) {
            Some(file) => file.error.is_none() && path.exists(),
            None => !path.exists(),
        })
    }

    /// Makes the files what they were. What cannot be is in the log, and told as what is there.
    pub(crate) fn take_back(self) {
        let (stood, new): (Vec<_>, Vec<_>) = self.0.into_iter().partition(|(_, text)| text.is_some());
        let stood: Vec<_> = stood.into_iter().filter_map(|(path, text)| Some((path, text?))).collect();
        if let Err(error) = write_all_whole(&stood) {
            tracing::warn!(%error, "policy files that were changed are not what they were before");
        }
        for (path, _) in new {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "a policy file that was not there before stays");
                }
                _ => {}
            }
        }
    }
}

/// The policies of a text, at least one.
pub(crate) fn parse(file: &str, text: &[u8]) -> Result<Vec<Policy>, String> {
    let text = netd_policy::text(text).map_err(|error| format!("{file}: {error}"))?;
    let policies = netd_policy::parse(file, text).map_err(|errors| errors.to_string())?;
    if policies.is_empty() { Err(format!("{file}: no policy in it; nothing is changed")) } else { Ok(policies) }
}

/// Each policy with its own document of the text: it will stand in a file of its own. Those of one list get a document each.
pub(crate) fn apart(text: &[u8], policies: &[Policy]) -> Vec<(PolicyName, String)> {
    let text = String::from_utf8_lossy(text);
    let all = Documents::of(&text);
    let documents: Vec<String> = policies.iter().map(|policy| all.at(policy.source.line)).collect();
    let mut seen = BTreeSet::new();
    let is_shared = documents.iter().any(|document| !seen.insert(document));
    let documents = if is_shared { netd_policy::apart(&text) } else { documents };
    policies.iter().map(|policy| policy.name.clone()).zip(documents).collect()
}

/// No policy may stand in a file of the user's already.
pub(crate) fn refuse_others(files: &PolicyFiles, names: &[PolicyName], folder: &Path) -> Result<(), String> {
    let elsewhere = names.iter().find_map(|name| {
        let holder = files.holder(name)?;
        (!Path::new(&holder.file).starts_with(folder))
            .then(|| format!("{name} stands in {}: change it there", holder.file))
    });
    elsewhere.map_or(Ok(()), Err)
}

/// The file of an applied policy.
pub(crate) fn path_of(files: &PolicyFiles, wanted: &v1::PolicyName, folder: &Path) -> Result<PathBuf, String> {
    let is = |policy: &&Policy| {
        let name = &policy.name;
        name.kind.as_str().eq_ignore_ascii_case(&wanted.kind)
            && name.namespace == wanted.namespace
            && name.name == wanted.name
    };
    let Some(policy) = files.policies().find(is) else {
        let namespace = if wanted.namespace.is_empty() { "" } else { &format!("{}/", wanted.namespace) };
        return Err(format!("there is no {} {namespace}{}", wanted.kind, wanted.name));
    };
    let file = PathBuf::from(&*policy.source.file);
    if file.starts_with(folder) {
        Ok(file)
    } else {
        Err(format!("{} stands in {}: remove it there", policy.name, file.display()))
    }
}

/// Writes each policy into its own file: the one that it has, if it has one. All of them, or none.
pub(crate) fn write(folder: &Path, files: &PolicyFiles, policies: &[(PolicyName, String)]) -> Result<Undo, ApplyError> {
    let texts: Vec<_> = policies.iter().map(|(name, text)| (path_for(folder, files, name), text.as_bytes())).collect();
    let failed = |source| ApplyError { path: folder.to_owned(), source };
    let undo = Undo::of(texts.iter().map(|(path, _)| path.clone())).map_err(failed)?;
    if let Err(error) = write_all_whole(&texts) {
        undo.take_back();
        return Err(failed(error));
    }
    Ok(undo)
}

/// Removes the file of a policy.
pub(crate) fn remove(path: PathBuf) -> Result<Undo, ApplyError> {
    let failed = |source| ApplyError { path: path.clone(), source };
    let undo = Undo::of([path.clone()]).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(undo)
}

fn path_for(folder: &Path, files: &PolicyFiles, name: &PolicyName) -> PathBuf {
    let own = files.holder(name).filter(|holder| holder.policies.len() == 1).map(|holder| PathBuf::from(&holder.file));
    own.filter(|path| path.starts_with(folder)).unwrap_or_else(|| folder.join(file_name(name)))
}

/// Names have dots, and no underscores.
fn file_name(name: &PolicyName) -> String {
    let PolicyName { kind, namespace, name } = name;
    let kind = kind.as_str().to_ascii_lowercase();
    if namespace.is_empty() { format!("{kind}_{name}.yaml") } else { format!("{kind}_{namespace}_{name}.yaml") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use netd_api::v1;

    use super::{apart, parse, path_of, refuse_others, write};
    use crate::policies::files::{PolicyFiles, Source};

    fn policy(name: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{podSelector: {{}}}}\n"
        )
    }

    #[test]
    fn each_policy_gets_a_file_of_its_own_and_can_be_found_there() {
        let folder = tempfile::tempdir().unwrap();
        let text = [policy("one"), policy("two")].join("---\n");
        let policies = parse("x.yaml", text.as_bytes()).unwrap();
        let parts = apart(text.as_bytes(), &policies);
        assert_eq!(parts.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), [policy("one"), policy("two")]);
        drop(write(folder.path(), &PolicyFiles::default(), &parts).unwrap());
        let file = folder.path().join("networkpolicy_shop_two.yaml");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), policy("two"));
        let texts = BTreeMap::from([(file.display().to_string(), policy("two"))]);
        let files = PolicyFiles::remembered(texts);
        let [kind, namespace, name] = ["networkpolicy", "shop", "two"].map(str::to_owned);
        let mut wanted = v1::PolicyName { kind, namespace, name, ..v1::PolicyName::new() };
        assert_eq!(path_of(&files, &wanted, folder.path()).unwrap(), file);
        let elsewhere = path_of(&files, &wanted, Path::new("/elsewhere")).unwrap_err();
        assert!(elsewhere.contains("NetworkPolicy shop/two stands in") && elsewhere.contains("remove it there"));
        wanted.name = "three".to_owned();
        assert!(path_of(&files, &wanted, folder.path()).unwrap_err().contains("there is no networkpolicy shop/three"));
    }

    #[test]
    fn what_is_taken_back_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("networkpolicy_shop_p1.yaml");
        std::fs::write(&old, policy("p1") + "# mine\n").unwrap();
        // More than are synchronised one by one.
        let text = (0..9).map(|at| policy(&format!("p{at}"))).collect::<Vec<_>>().join("---\n");
        let policies = parse("x.yaml", text.as_bytes()).unwrap();
        let parts = apart(text.as_bytes(), &policies);
        let undo = write(folder.path(), &PolicyFiles::default(), &parts).unwrap();
        let count = || std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!((count(), std::fs::read_to_string(&old).unwrap()), (9, policy("p1")));
        undo.take_back();
        assert_eq!((count(), std::fs::read_to_string(&old).unwrap()), (1, policy("p1") + "# mine\n"));
        super::remove(old.clone()).unwrap().take_back();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), policy("p1") + "# mine\n");
        // One of them cannot be written: none is.
        std::fs::create_dir(folder.path().join("networkpolicy_shop_p8.yaml")).unwrap();
        write(folder.path(), &PolicyFiles::default(), &parts).unwrap_err();
        assert_eq!((count(), std::fs::read_to_string(&old).unwrap()), (2, policy("p1") + "# mine\n"));
    }

    #[test]
    fn no_two_policies_share_a_file_and_one_that_has_a_file_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let named = |namespace: &str, name: &str| {
            let text = policy(name).replace("namespace: shop", &format!("namespace: {namespace}"));
            let name = PolicyFiles::default().next(&[Source { file: "x".to_owned(), text: Ok(text.clone()) }]);
            (name.policies().next().unwrap().name.clone(), text)
        };
        let two = [named("k8s", "io.x"), named("k8s.io", "x")];
        drop(write(folder.path(), &PolicyFiles::default(), &two).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        let old = folder.path().join("networkpolicy.shop.one.yaml").display().to_string();
        let files = PolicyFiles::default().next(&[Source { file: old.clone(), text: Ok(policy("one")) }]);
        let (name, text) = named("shop", "one");
        drop(write(folder.path(), &files, &[(name, text.clone() + "# again\n")]).unwrap());
        assert_eq!(std::fs::read_to_string(old).unwrap(), text + "# again\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_is_the_users_is_refused_and_a_list_is_parted() {
        let user = Source { file: "/etc/user.yaml".to_owned(), text: Ok(policy("one")) };
        let files = PolicyFiles::default().next(&[user]);
        let names = [files.policies().next().unwrap().name.clone()];
        assert!(
            refuse_others(&files, &names, Path::new("/var/lib"))
                .unwrap_err()
                .contains("/etc/user.yaml: change it there")
        );
        assert_eq!(refuse_others(&files, &names, Path::new("/etc")), Ok(()));
        assert!(parse("x", b"").unwrap_err().contains("no policy in it"));
        assert!(parse("x", &[0xff]).unwrap_err().contains("not UTF-8"));
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a"}, "spec": {"podSelector": {}}},
            {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "b"}, "spec": {"podSelector": {}}}]}"#;
        let policies = parse("x", list.as_bytes()).unwrap();
        let parts = apart(list.as_bytes(), &policies);
        for ((name, text), at) in parts.iter().zip(["a", "b"]) {
            assert_eq!(parse("x", text.as_bytes()).unwrap().iter().map(|one| &one.name).collect::<Vec<_>>(), [name]);
            assert_eq!(name.name, at);
        }
        assert_eq!(parts.len(), 2);
    }
}
