//! Golden error texts: each file of `broken/` has one kind of mistake. `UPDATE_GOLDEN=1` rewrites `broken/errors.txt`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test program")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use netd_policy::parse;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken")
}

fn files() -> BTreeMap<String, String> {
    let paths = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let documents = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    documents
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_remedy() {
    let mut told = String::new();
    for (name, text) in files() {
        let errors = parse(&name, &text).expect_err(&name);
        assert!(
            errors.faults.iter().all(|fault| !fault.remedy.is_empty() && fault.line > 0 && fault.column > 0),
            "{errors}"
        );
        told.push_str(&format!("{errors}\n"));
    }
    let golden = folder().join("errors.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &told).unwrap();
    }
    assert_eq!(fs::read_to_string(&golden).unwrap(), told);
}

#[test]
fn no_two_files_have_the_same_kind_of_mistake() {
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in files() {
        let errors = parse(&name, &text).expect_err(&name);
        let kind: Vec<String> = errors
            .faults
            .iter()
            .map(|fault| format!("{} {:?} {} {}", fault.path, fault.value, fault.problem, fault.remedy))
            .collect();
        assert_eq!(kinds.insert(kind.join("\n"), name.clone()), None, "{name}");
    }
    assert!(kinds.len() >= 30);
}

#[test]
fn of_very_many_mistakes_the_first_are_told() {
    let keys: String = (0..5_000).map(|number| format!("k{number}: 1\n")).collect();
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a}}\nspec: {{podSelector: {{}}}}\n{keys}"
    );
    let errors = parse("many.yaml", &text).unwrap_err().to_string();
    assert_eq!(errors.lines().count(), 51);
    assert!(errors.lines().next().unwrap().contains("k0"), "{errors}");
    assert!(errors.ends_with("many.yaml: 950 or more other mistakes; mend these first"), "{errors}");
}

#[test]
fn an_image_is_selected_as_containerd_calls_it() {
    let policy = |key: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: a}}\n\
             spec: {{podSelector: {{matchLabels: {{{key}: docker.io/library/nginx:1.29}}}}}}\n"
        )
    };
    assert_eq!(parse("a.yaml", &policy("netd/image")).unwrap().len(), 1);
    let listed = policy("netd/image").replace("matchLabels", "matchExpressions").replace(
        "{netd/image: docker.io/library/nginx:1.29}",
        "[{key: netd/image, operator: NotIn, values: [\"localhost:5000/a@sha256:00\"]}]",
    );
    assert_eq!(parse("a.yaml", &listed).unwrap().len(), 1);
    assert!(parse("a.yaml", &policy("app")).unwrap_err().to_string().contains("is no label's value"));
}

#[test]
fn a_broken_text_anywhere_never_panics() {
    for text in files().into_values() {
        for (end, _) in text.char_indices() {
            drop(parse("cut.yaml", &text[..end]));
            drop(parse("cut.yaml", &text[end..]));
        }
    }
}
