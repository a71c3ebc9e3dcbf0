//! What all policy files together say: each file's policies or its mistakes, one holder a name, nothing lost to a bad edit.
//! Pure but for the reading at the end; what policies mean is `netd_policy`'s.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use netd_policy::{Policy, PolicyName};

use crate::directories;

const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A file as it was found.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub file: String,
    /// Or why there is none, and what to do.
    pub text: Result<String, String>,
}

/// One policy file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file.
    pub file: String,
    /// Its policies in force: those of its last good text.
    pub policies: Vec<Policy>,
    /// What is wrong, and what to do.
    pub error: Option<String>,
    /// Its last good text; empty where there was none.
    pub good: String,
}

/// All files, in the order of precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFiles {
    /// The files.
    pub files: Vec<PolicyFile>,
}

impl PolicyFiles {
    /// The files as another netd kept them.
    #[must_use]
    pub fn remembered(texts: BTreeMap<String, String>) -> Self {
        let sources: Vec<_> = texts.into_iter().map(|(file, text)| Source { file, text: Ok(text) }).collect();
        Self::default().next(&sources)
    }

    /// The last good text of each file, for the next netd.
    #[must_use]
    pub fn texts(&self) -> BTreeMap<String, String> {
        let good = self.files.iter().filter(|file| !file.good.is_empty());
        good.map(|file| (file.file.clone(), file.good.clone())).collect()
    }

    /// Each file by its name.
    pub(super) fn by_name(&self) -> BTreeMap<&str, &PolicyFile> {
        self.files.iter().map(|file| (file.file.as_str(), file)).collect()
    }

    /// All policies in force.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.files.iter().flat_map(|file| &file.policies)
    }

    /// The file that holds a policy.
    #[must_use]
    pub fn holder(&self, name: &PolicyName) -> Option<&PolicyFile> {
        self.files.iter().find(|file| file.policies.iter().any(|policy| policy.name == *name))
    }

    /// All policies in force, each as its file has it.
    pub fn with_texts(&self) -> impl Iterator<Item = (&Policy, String)> {
        self.files.iter().flat_map(|file| {
            let documents = Documents::of(&file.good);
            file.policies.iter().map(move |policy| (policy, documents.at(policy.source.line)))
        })
    }

    /// What stays in force, which is these files' policies, where the kernel refuses what `wanted` says: each file that would have
    /// changed anything says so, and why, and the next reading tries it again.
    #[must_use]
    pub(super) fn refusing<'a>(&self, wanted: &Self, why: impl Fn(&str) -> &'a str) -> Self {
        let (before, after) = (self.by_name(), wanted.by_name());
        let kept = |file: &PolicyFile| kept_in_force(file, before.get(file.file.as_str()).copied(), why(&file.file));
        let mut files: Vec<_> = wanted.files.iter().map(kept).collect();
        let gone =
            self.files.iter().filter(|file| !file.policies.is_empty() && !after.contains_key(file.file.as_str()));
        files.extend(gone.map(|file| {
            let why = why(&file.file);
            let error = format!("{}: the kernel refuses to be without it: {why}; it stays in force", file.file);
            PolicyFile { error: Some(error), ..file.clone() }
        }));
        Self { files }
    }

    /// What is wrong with each file that something is wrong with.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter_map(|file| file.error.as_deref())
    }

    /// These files after a change, when `sources` are all there are.
    #[must_use]
    pub fn next(&self, sources: &[Source]) -> Self {
        let before = self.by_name();
        let known = |source: &Source| before.get(source.file.as_str()).copied();
        let mut files: Vec<_> = sources.iter().map(|source| read(source, known(source))).collect();
        one_holder_a_name(&mut files);
        Self { files }
    }
}

/// The documents of a text, by their lines.
pub(crate) struct Documents<'a> {
    lines: Vec<&'a str>,
    /// Lines, from 0, that part one from the next.
    partings: Vec<usize>,
}

impl<'a> Documents<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let parts = lines.iter().enumerate().filter(|(_, line)| line.starts_with("---"));
        let partings = parts.map(|(at, _)| at).collect();
        Self { lines, partings }
    }

    /// The document that has this line, from 1.
    pub(crate) fn at(&self, line: usize) -> String {
        let at = line.saturating_sub(1).min(self.lines.len());
        let next = self.partings.partition_point(|parting| *parting < at);
        let first = next.checked_sub(1).map_or(0, |before| self.partings[before] + 1);
        let last = self.partings.get(next).copied().unwrap_or(self.lines.len());
        self.lines[first..last].iter().flat_map(|line| [line, "\n"]).collect()
    }
}

fn read(source: &Source, before: Option<&PolicyFile>) -> PolicyFile {
    // What is said twice is read once. Where there was an error, not all of its policies may be here.
    let is_known = |before: &&PolicyFile| before.error.is_none() && source.text.as_ref() == Ok(&before.good);
    if let Some(before) = before.filter(is_known) {
        return before.clone();
    }
    let file = source.file.clone();
    match source.text.as_ref().map_err(|error| format!("{file}: {error}")).and_then(|text| parsed(&file, text)) {
        Ok((_, text)) if is_cut_off(&text) && before.is_some_and(|before| !is_cut_off(&before.good)) => {
            let error =
                format!("{file}: nothing is in it any more; write it anew, or remove it to take its policies back");
            kept(file, before, error)
        }
        Ok((policies, good)) => PolicyFile { file, policies, error: None, good },
        Err(error) => kept(file, before, error),
    }
}

/// As a disk that is full, or an editor that has just begun to write, leaves a file.
fn is_cut_off(text: &str) -> bool {
    let says = |line: &str| !(line.is_empty() || line.starts_with('#') || line == "---" || line == "...");
    !text.lines().any(|line| says(line.trim()))
}

fn parsed(file: &str, text: &str) -> Result<(Vec<Policy>, String), String> {
    let policies = netd_policy::parse(file, text).map_err(|errors| errors.to_string())?;
    Ok((policies, text.to_owned()))
}

/// The last good text holds on.
fn kept(file: String, before: Option<&PolicyFile>, error: String) -> PolicyFile {
    let good = before.map(|before| before.good.clone()).unwrap_or_default();
    let policies = netd_policy::parse(&file, &good).unwrap_or_default();
    let error = if good.is_empty() { error } else { format!("{error}; its last good text stays in force") };
    PolicyFile { file, policies, error: Some(error), good }
}

fn kept_in_force(wanted: &PolicyFile, before: Option<&PolicyFile>, why: &str) -> PolicyFile {
    let before = before.cloned().unwrap_or_default();
    if before.policies == wanted.policies {
        return wanted.clone();
    }
    let stays =
        if before.policies.is_empty() { "nothing of it is in force" } else { "its last good text stays in force" };
    let error = format!("{}: the kernel refuses it: {why}; {stays}", wanted.file);
    PolicyFile { file: wanted.file.clone(), error: Some(error), ..before }
}

/// Of several files that hold one policy, the first does; the others say so.
fn one_holder_a_name(files: &mut [PolicyFile]) {
    let mut holders: BTreeMap<PolicyName, String> = BTreeMap::new();
    for file in files {
        let mut told = Vec::new();
        file.policies.retain(|policy| match holders.get(&policy.name) {
            Some(holder) => {
                let place = &policy.source;
                told.push(format!("{place}: {} stands in {holder} already; remove one of the two", policy.name));
                false
            }
            None => {
                holders.insert(policy.name.clone(), policy.source.to_string());
                true
            }
        });
        if !told.is_empty() {
            let told = told.join("; ");
            file.error = Some(file.error.take().map_or_else(|| told.clone(), |error| format!("{error}; {told}")));
        }
    }
}

/// The files of all directories, in their order, in each by name. Where a directory is there and cannot be listed, the
/// files that were known below it stand, unread.
#[must_use]
pub fn sources(directories: &[PathBuf], before: &PolicyFiles) -> Vec<Source> {
    directories.iter().flat_map(|directory| sources_in(directory, before)).collect()
}

fn sources_in(directory: &Path, before: &PolicyFiles) -> Vec<Source> {
    let listed = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>());
    let mut paths = match listed {
        Ok(paths) => paths,
        // Nothing is asked for, and the watch waits for it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return unlisted(directory, &error, before),
    };
    paths.retain(|path| path.extension().is_some_and(|is| ENDINGS.iter().any(|ending| is == *ending)));
    paths.sort();
    paths.iter().map(|path| Source { file: path.display().to_string(), text: text(path) }).collect()
}

fn unlisted(directory: &Path, error: &std::io::Error, before: &PolicyFiles) -> Vec<Source> {
    let told = format!("cannot list {}: {error}; see that it is a directory that netd may read", directory.display());
    let failed = |file: String| Source { file, text: Err(told.clone()) };
    let known = before.files.iter().map(|file| file.file.clone());
    let below = known.filter(|file| Path::new(file).starts_with(directory) && Path::new(file) != directory);
    std::iter::once(directory.display().to_string()).chain(below).map(failed).collect()
}

fn text(path: &Path) -> Result<String, String> {
    let octets = directories::text(path, netd_policy::LONGEST as u64, "policy file")?;
    netd_policy::text(&octets).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{PolicyFiles, Source, sources};

    fn policy(name: &str) -> String {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{podSelector: {{}}}}\n"
        )
    }

    fn source(file: &str, text: &str) -> Source {
        Source { file: file.to_owned(), text: Ok(text.to_owned()) }
    }

    fn names(files: &PolicyFiles) -> Vec<String> {
        files.policies().map(|policy| policy.name.name.clone()).collect()
    }

    #[test]
    fn a_bad_file_hides_no_good_one_and_what_was_good_holds_on() {
        let good = PolicyFiles::default().next(&[source("a", &policy("one")), source("b", &policy("two"))]);
        assert_eq!(names(&good), ["one", "two"]);
        let broken = good.next(&[source("a", "kind: ["), source("b", &policy("three"))]);
        assert_eq!(names(&broken), ["one", "three"]);
        let error = broken.files[0].error.clone().unwrap();
        assert!(error.starts_with("a:") && error.ends_with("; its last good text stays in force"), "{error}");
        // Broken otherwise: still held; the next netd holds it too; good again: the new one; gone: gone.
        let next = PolicyFiles::remembered(broken.texts()).next(&[source("a", "x: 1"), source("b", &policy("three"))]);
        assert_eq!(names(&next), ["one", "three"]);
        let fixed = next.next(&[source("a", &policy("four"))]);
        assert_eq!((names(&fixed), fixed.files[0].error.clone()), (vec!["four".to_owned()], None));
    }

    #[test]
    fn a_file_that_is_emptied_takes_no_policy_back() {
        let good = PolicyFiles::default().next(&[source("a", &policy("one"))]);
        for empty in ["", "\n", "---\n", "# shop\n---\n"] {
            let emptied = good.next(&[source("a", empty)]);
            assert_eq!(names(&emptied), ["one"], "{empty:?}");
            assert_eq!(
                emptied.files[0].error.as_deref(),
                Some(
                    "a: nothing is in it any more; write it anew, or remove it to take its policies back; its last good text stays in force"
                )
            );
            assert_eq!(names(&emptied.next(&[source("a", empty)])), ["one"], "{empty:?} again");
        }
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": []}"#;
        assert!(names(&good.next(&[source("a", list)])).is_empty(), "that is said");
        assert!(names(&good.next(&[])).is_empty());
        assert_eq!(PolicyFiles::default().next(&[source("a", "")]).files[0].error, None);
    }

    #[test]
    fn what_the_kernel_refuses_leaves_what_was_in_force_and_is_tried_by_the_next_reading() {
        let good = PolicyFiles::default().next(&[
            source("a", &policy("one")),
            source("b", &policy("two")),
            source("d", &policy("four")),
        ]);
        let sources = [source("a", &policy("one")), source("b", &policy("three")), source("c", &policy("five"))];
        let wanted = good.next(&sources);
        let refused = good.refusing(&wanted, |_| "no");
        assert_eq!(names(&refused), ["one", "two", "four"]);
        assert_eq!(
            refused.errors().collect::<Vec<_>>(),
            [
                "b: the kernel refuses it: no; its last good text stays in force",
                "c: the kernel refuses it: no; nothing of it is in force",
                "d: the kernel refuses to be without it: no; it stays in force"
            ]
        );
        // The next netd has what was in force, though the file is broken by then.
        let next = PolicyFiles::remembered(refused.texts()).next(&[source("b", "kind: [")]);
        assert_eq!(names(&next), ["two"]);
        assert_eq!(names(&refused.next(&[source("b", "kind: [")])), ["two"]);
        assert_eq!(refused.next(&sources), wanted, "tried again");
        assert_eq!(good.refusing(&good, |_| "no"), good);
    }

    #[test]
    fn what_did_not_change_is_not_read_again() {
        let texts = |second: &str| [source("a", &policy("one")), source("b", second)];
        let before = PolicyFiles::default().next(&texts(&policy("two")));
        let next = before.next(&texts(&[policy("one"), policy("two")].join("---\n")));
        let is_the_same = |at: usize, files: &PolicyFiles| {
            let read = |files: &PolicyFiles| Arc::clone(&files.files[at].policies[0].source.file);
            Arc::ptr_eq(&read(&before), &read(files))
        };
        assert!(is_the_same(0, &next) && !is_the_same(1, &next));
        // One of which not all was taken may be whole the next time.
        assert_eq!(names(&next), ["one", "two"]);
        assert_eq!(names(&next.next(&[source("b", &next.files[1].good)])), ["one", "two"]);
    }

    #[test]
    fn of_two_files_with_one_policy_the_first_holds_it_and_the_other_says_so() {
        let both = [source("a", &policy("one")), source("b", &[policy("one"), policy("two")].join("---\n"))];
        let files = PolicyFiles::default().next(&both);
        assert_eq!(names(&files), ["one", "two"]);
        let error = files.files[1].error.clone().unwrap();
        assert_eq!(error, "b:1: NetworkPolicy shop/one stands in a:1 already; remove one of the two");
        assert_eq!(names(&files.next(&both[1..])), ["one", "two"]);
    }

    #[test]
    fn files_are_read_by_name_and_what_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("policies");
        let read = |before: &PolicyFiles| before.next(&sources(std::slice::from_ref(&directory), before));
        assert_eq!(read(&PolicyFiles::default()), PolicyFiles::default());
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("b.yaml"), policy("two")).unwrap();
        std::fs::write(directory.join("a.json"), r#"{"apiVersion": "v1", "kind": "List", "items": []}"#).unwrap();
        std::fs::write(directory.join("README"), "not read").unwrap();
        std::fs::write(directory.join("c.yml"), [0xff]).unwrap();
        let files = read(&PolicyFiles::default());
        assert_eq!((names(&files), files.files.len()), (vec!["two".to_owned()], 3));
        assert!(files.files[2].error.as_ref().unwrap().ends_with("not UTF-8 after octet 0; save it as UTF-8"));
        // What cannot be listed any more loses nothing.
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::write(&directory, "a file").unwrap();
        assert_eq!(names(&read(&files)), ["two"]);
    }
}
