//! Examines the node. `facts` gathers and changes nothing, `checks` judges and is pure, and this file writes it down.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::render::{self, Look};

mod admin;
mod checks;
mod containerd;
mod facts;
mod firewall;
mod fleet;
mod kernel;
mod neighbours;
mod sysctl;
mod trial;
mod tunnels;

pub(crate) use facts::gather;

/// How bad it is. The worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Something does not work, or will not after the next restart.
    Problem,
    /// It works, with a catch.
    Warning,
    /// As it should be.
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What was looked at.
    pub(crate) object: String,
    /// What was found, and what follows from it.
    pub(crate) meaning: String,
    /// What to do; empty where all is well.
    pub(crate) remedy: String,
}

impl Finding {
    fn ok(object: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self { level: Level::Ok, object: object.into(), meaning: meaning.into(), remedy: String::new() }
    }

    fn warning(object: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warning, object: object.into(), meaning: meaning.into(), remedy: remedy.into() }
    }

    fn problem(object: impl Into<String>, meaning: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::warning(object, meaning, remedy) }
    }
}

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The node's file system; `/` but in tests.
    pub(crate) root: PathBuf,
    /// Where netd listens.
    pub(crate) socket: PathBuf,
}

impl Place {
    /// An absolute path of the node.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.at(path)).ok()
    }

    /// Names in a folder, in order; none where there is no such folder.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.at(path)).into_iter().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
        names.sort();
        names
    }

    fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// All findings, the worst first.
pub(crate) fn examine(facts: &facts::Facts) -> Vec<Finding> {
    let mut findings = checks::all(facts);
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// Whether anything does not work.
pub(crate) fn is_ill(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Problem)
}

/// The findings for people.
pub(crate) fn table(findings: &[Finding], look: Look) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, colour) = match finding.level {
            Level::Problem => ("problem", 31),
            Level::Warning => ("warning", 33),
            Level::Ok => ("ok     ", 32),
        };
        let word = look.paint(colour, word);
        render::line(&mut text, format_args!("{word}  {}: {}", finding.object, finding.meaning));
        if !finding.remedy.is_empty() {
            render::line(&mut text, format_args!("         -> {}", finding.remedy));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings, good) = (count(Level::Problem), count(Level::Warning), count(Level::Ok));
    render::line(&mut text, format_args!("problems: {problems}, warnings: {warnings}, ok: {good}"));
    text
}

#[cfg(test)]
mod tests;
