//! The table of policy cases: each file of `cases/FEATURE/` says what it shows and which probes it stops. Model and
//! compiled maps are asked here; `UPDATE_GOLDEN=1` rewrites the list `cases/README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test program")]

#[path = "table/probes.rs"]
mod probes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use netd_policy::{Compiler, Hook, Policy, Source, oracle, parse};
use probes::{Probe, expected, head, probes, world};

/// No case is lost unseen.
const LEAST: usize = 300;
/// Features that are about how one meaning may be written. Elsewhere no two cases mean the same.
const SPELLINGS: [&str; 3] = ["documents", "empty", "types"];

struct Case {
    feature: String,
    name: String,
    text: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for feature in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        for path in fs::read_dir(&feature).unwrap().map(|entry| entry.unwrap().path()) {
            let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
            cases.push(Case { feature: name(&feature), name: name(&path), text: fs::read_to_string(&path).unwrap() });
        }
    }
    cases.sort_by(|one, other| (&one.feature, &one.name).cmp(&(&other.feature, &other.name)));
    cases
}

fn policies(case: &Case) -> Vec<Policy> {
    parse(&case.name, &case.text).unwrap_or_else(|errors| panic!("{}/{errors}", case.feature))
}

/// Its policies without what they are called and where they stand.
fn meaning(case: &Case) -> String {
    let mut policies = policies(case);
    policies.sort_by(|one, other| (one.tier, &one.name).cmp(&(other.tier, &other.name)));
    let nowhere = || Source { file: "".into(), line: 0 };
    for (number, policy) in policies.iter_mut().enumerate() {
        policy.name.name = number.to_string();
        policy.source = nowhere();
        for rule in [&mut policy.ingress, &mut policy.egress].into_iter().flatten().flatten() {
            rule.name = None;
            rule.source = nowhere();
        }
    }
    format!("{policies:?}")
}

/// What the kernels of both ends' nodes do.
fn passes(nodes: &BTreeMap<&str, Compiler>, probe: &Probe) -> bool {
    let end = |this: &probes::End, incoming: bool| {
        let Some(node) = this.node.filter(|_| !this.is_node) else { return true };
        let hook = match (probe.is_own_node(), incoming) {
            (false, _) => Hook::Forward,
            (true, true) => Hook::Output,
            (true, false) => Hook::Input,
        };
        let answers = nodes[node].compiled().interpret(hook, probe.flow);
        let answer = if incoming { answers.ingress } else { answers.egress };
        answer.is_none_or(|answer| answer.allowed)
    };
    end(&probe.from, false) && end(&probe.to, true)
}

#[test]
fn model_and_maps_do_what_each_case_says() {
    let (world, probes) = (world(), probes());
    let mut faults = Vec::new();
    for case in cases() {
        let (_, lines) = head(&case.text);
        let policies = policies(&case);
        let nodes: BTreeMap<&str, Compiler> = ["n1", "n2"]
            .map(|name| {
                let mut compiler = Compiler::new(name);
                compiler.load(policies.clone(), world.clone());
                (name, compiler)
            })
            .into();
        let before = faults.len();
        for probe in &probes {
            let wanted = expected(&lines, probe);
            let model = oracle::verdict(&world, &policies, probe.flow);
            let maps = passes(&nodes, probe);
            if (model.allowed(), maps) != (wanted, wanted) && faults.len() < before + 4 {
                let family = if probe.v6 { 6 } else { 4 };
                faults.push(format!(
                    "{}/{}: {} -> {} {} @{family}: expected {wanted}, model {} ({:?}, {:?}), maps {maps}",
                    case.feature,
                    case.name,
                    probe.from.name,
                    probe.to.name,
                    probe.traffic,
                    model.allowed(),
                    model.egress.by,
                    model.ingress.by
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_case_is_listed_and_no_two_are_the_same() {
    let mut policies_seen: BTreeMap<String, String> = BTreeMap::new();
    let mut titles: BTreeMap<String, String> = BTreeMap::new();
    let mut list = "# Policy cases\n\nThe world and the notation are in `../table/probes.rs`.\n".to_owned();
    let mut feature = String::new();
    let (mut models, mut faults) = (BTreeMap::new(), Vec::new());
    let all = cases();
    for case in &all {
        let (title, lines) = head(&case.text);
        let name = format!("{}/{}", case.feature, case.name);
        assert!(title.ends_with('.') && (!lines.is_empty() || case.feature == "nothing"), "{name} says nothing");
        let body = case.text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
        assert_eq!(policies_seen.insert(body, name.clone()), None, "{name}: the same policies");
        assert_eq!(titles.insert(title.clone(), name.clone()), None, "{name}: the same title");
        if !SPELLINGS.contains(&case.feature.as_str())
            && let Some(same) = models.insert(meaning(case), name.clone())
        {
            faults.push(format!("{name} means what {same} means"));
        }
        if case.feature != feature {
            feature.clone_from(&case.feature);
            list.push_str(&format!("\n## {feature}\n\n"));
        }
        list.push_str(&format!("- `{}`: {title}\n", case.name));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(all.len() >= LEAST, "{} cases; there were more", all.len());
    list.push_str(&format!("\n{} cases, {} probes each.\n", all.len(), probes().len()));
    let path = folder().join("README.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &list).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap(), list);
}
