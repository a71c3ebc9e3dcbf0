//! Of changes that the kernel refuses together, those that it does not refuse by themselves. Pure: who tries them is `follow`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use netd_policy::{Policy, PolicyName};

use super::files::PolicyFiles;

/// Trials of one search. Each reads all policies anew; what is left then waits for the next search.
const TRIALS: usize = 40;

/// Files that change together or not at all.
type Together = Vec<String>;

/// A search for what is refused: what is to be tried next, and what came of it.
pub(super) struct Search {
    now: PolicyFiles,
    wanted: Arc<PolicyFiles>,
    /// Not decided yet; the last is the next. Of each it is known that it is refused with others or in one.
    open: Vec<Vec<Together>>,
    /// Why, by file.
    refused: BTreeMap<String, String>,
    trials: usize,
}

impl Search {
    /// `before` is in force, and all of `wanted` was refused. What changes below `whole` was asked for at once, and is not parted.
    /// `None`: there is nothing to part.
    pub(super) fn new(before: &PolicyFiles, wanted: &Arc<PolicyFiles>, whole: &Path, why: &str) -> Option<Self> {
        let all = changes(before, wanted, whole);
        if all.len() < 2 {
            return None;
        }
        let (now, wanted) = (before.clone(), Arc::clone(wanted));
        let mut search = Self { now, wanted, open: vec![all], refused: BTreeMap::new(), trials: 0 };
        search.refuse(why);
        Some(search)
    }

    /// What is to be put in force now; `None`: all is decided.
    pub(super) fn next(&self) -> Option<PolicyFiles> {
        let taken = self.open.last()?.iter().flatten().map(String::as_str).collect();
        Some(self.now.taking(&self.wanted, &taken))
    }

    /// It is in force.
    pub(super) fn take(&mut self, next: PolicyFiles) {
        self.now = next;
        self.open.pop();
    }

    /// It is not, and what was in force before is.
    pub(super) fn refuse(&mut self, why: &str) {
        self.trials += 1;
        let mut first = self.open.pop().unwrap_or_default();
        if first.len() > 1 {
            let second = first.split_off(first.len() / 2);
            self.open.extend([second, first]);
        } else {
            self.note(first, why);
        }
        if self.trials >= TRIALS {
            let rest = std::mem::take(&mut self.open);
            rest.into_iter().for_each(|changes| self.note(changes, why));
        }
    }

    fn note(&mut self, changes: Vec<Together>, why: &str) {
        self.refused.extend(changes.into_iter().flatten().map(|file| (file, why.to_owned())));
    }

    /// What is in force, and what each file says that is not as it wants.
    pub(super) fn end(self) -> PolicyFiles {
        self.now.refusing(&self.wanted, |file| self.refused.get(file).map_or("", String::as_str))
    }
}

/// In the order of the files. A file that takes a policy over from another changes with it: without both, nobody or somebody else
/// would have it.
fn changes(before: &PolicyFiles, wanted: &PolicyFiles, whole: &Path) -> Vec<Together> {
    let (known, after) = (before.by_name(), wanted.by_name());
    let gone = before.files.iter().map(|file| file.file.as_str()).filter(|file| !after.contains_key(file));
    let files = wanted.files.iter().map(|file| file.file.as_str()).chain(gone);
    let policies = |file: &str| -> [&[Policy]; 2] {
        [&known, &after].map(|files| files.get(file).map_or(&[][..], |file| file.policies.as_slice()))
    };
    let changed: Vec<&str> = files.filter(|file| policies(file)[0] != policies(file)[1]).collect();
    let mut groups = Groups::of(changed.len());
    let (mut holders, mut below): (BTreeMap<&PolicyName, usize>, Option<usize>) = (BTreeMap::new(), None);
    for (at, file) in changed.iter().enumerate() {
        for policy in policies(file).into_iter().flatten() {
            groups.join(*holders.entry(&policy.name).or_insert(at), at);
        }
        if Path::new(file).starts_with(whole) {
            groups.join(*below.get_or_insert(at), at);
        }
    }
    let mut together: BTreeMap<usize, Together> = BTreeMap::new();
    for (at, file) in changed.into_iter().enumerate() {
        together.entry(groups.first(at)).or_default().push(file.to_owned());
    }
    together.into_values().collect()
}

/// Each led by the first of its kind.
struct Groups(Vec<usize>);

impl Groups {
    fn of(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn first(&self, mut at: usize) -> usize {
        while self.0[at] != at {
            at = self.0[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.first(one), self.first(other));
        self.0[one.max(other)] = one.min(other);
    }
}

impl PolicyFiles {
    /// These with what `wanted` says of the files that are `taken`.
    fn taking(&self, wanted: &Self, taken: &BTreeSet<&str>) -> Self {
        let (before, after) = (self.by_name(), wanted.by_name());
        let files = wanted.files.iter().filter_map(|file| {
            let known = before.get(file.file.as_str()).copied();
            let is_same = known.is_some_and(|known| known.policies == file.policies);
            if is_same || taken.contains(file.file.as_str()) { Some(file) } else { known }
        });
        let stays = |name: &str| !after.contains_key(name) && !taken.contains(name);
        let gone = self.files.iter().filter(|file| stays(&file.file));
        Self { files: files.chain(gone).cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::{Search, TRIALS};
    use crate::policies::files::{PolicyFiles, Source};

    fn files(texts: &[(&str, &[&str])]) -> Arc<PolicyFiles> {
        let policy = |name: &&str| {
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec: {{podSelector: {{}}}}\n"
            )
        };
        let text = |names: &[&str]| names.iter().map(policy).collect::<Vec<_>>().join("---\n");
        let sources: Vec<_> =
            texts.iter().map(|(file, names)| Source { file: (*file).to_owned(), text: Ok(text(names)) }).collect();
        Arc::new(PolicyFiles::default().next(&sources))
    }

    fn names(files: &PolicyFiles) -> Vec<&str> {
        files.policies().map(|policy| policy.name.name.as_str()).collect()
    }

    /// By a kernel that refuses what `is_bad`. What is in force at the end, and how often it was asked.
    fn searched(
        before: &PolicyFiles,
        wanted: &Arc<PolicyFiles>,
        is_bad: impl Fn(&[&str]) -> bool,
    ) -> Option<(PolicyFiles, usize)> {
        let mut search = Search::new(before, wanted, Path::new("/applied"), "all")?;
        let mut count = 0;
        while let Some(next) = search.next() {
            count += 1;
            if is_bad(&names(&next)) { search.refuse(&format!("no {count}")) } else { search.take(next) }
        }
        Some((search.end(), count))
    }

    #[test]
    fn the_bad_one_of_many_is_found_and_the_others_come_into_force() {
        let all: Vec<String> = (0..100).map(|at| format!("f{at:02}")).collect();
        let wanted = files(&all.iter().map(|file| (file.as_str(), &[][..])).collect::<Vec<_>>());
        assert!(searched(&PolicyFiles::default(), &wanted, |_| true).is_none(), "nothing changes");
        let each: Vec<[&str; 1]> = all.iter().map(|file| [file.as_str()]).collect();
        let texts: Vec<(&str, &[&str])> = each.iter().map(|names| (names[0], &names[..])).collect();
        let wanted = files(&texts);
        let bad = |names: &[&str]| names.contains(&"f41");
        let (found, count) = searched(&PolicyFiles::default(), &wanted, bad).unwrap();
        assert_eq!((found.policies().count(), names(&found).contains(&"f41")), (99, false));
        assert!(count <= 14, "{count} trials");
        let errors: Vec<_> = found.errors().collect();
        assert!(matches!(errors[..], [error] if error.starts_with("f41: the kernel refuses it: no ")), "{errors:?}");
        // A kernel that refuses everything is not asked for ever.
        let (found, count) = searched(&PolicyFiles::default(), &wanted, |_| true).unwrap();
        assert_eq!((found.policies().count(), found.errors().count(), count), (0, 100, TRIALS - 1));
    }

    #[test]
    fn what_was_in_force_stays_where_its_file_is_refused_or_gone() {
        let before = files(&[("a", &["one"]), ("b", &["two"]), ("c", &["three"])]);
        let wanted = files(&[("a", &["one", "four"]), ("b", &["two", "bad"])]);
        let (found, _) =
            searched(&before, &wanted, |names| names.contains(&"bad") || !names.contains(&"three")).unwrap();
        assert_eq!(names(&found), ["one", "four", "two", "three"]);
        let errors: Vec<_> = found.errors().collect();
        assert!(
            errors[0].starts_with("b: the kernel refuses it: no ")
                && errors[0].ends_with("last good text stays in force")
        );
        assert!(errors[1].starts_with("c: the kernel refuses to be without it: no "), "{errors:?}");
        assert_eq!(found.next(&[]), PolicyFiles::default());
    }

    #[test]
    fn who_takes_a_policy_over_changes_with_whoever_gives_it() {
        let before = files(&[("a", &["one"]), ("b", &["two"])]);
        let wanted = files(&[("a", &["five"]), ("b", &["two", "one", "bad"]), ("c", &["three"])]);
        let (found, _) = searched(&before, &wanted, |names| names.contains(&"bad")).unwrap();
        assert_eq!(names(&found), ["one", "two", "three"], "nobody is without one");
        assert_eq!(found.errors().count(), 2);
        // What was asked for at once is not parted.
        let wanted = files(&[("/applied/x", &["bad"]), ("/applied/y", &["three"]), ("z", &["four"])]);
        let (found, _) = searched(&PolicyFiles::default(), &wanted, |names| names.contains(&"bad")).unwrap();
        assert_eq!(names(&found), ["four"]);
        assert!(searched(&before, &files(&[("a", &["one"]), ("b", &["bad"])]), |_| true).is_none(), "it is only one");
    }
}
