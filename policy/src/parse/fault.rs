//! What is wrong with a policy file: everything at once, each with its place and its remedy.

use std::cell::RefCell;
use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// As `spec.ingress[0].ports[1].port`; empty for the document as a whole.
    pub path: String,
    /// What stands there, if anything does.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// All mistakes of one file; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    /// The file's name.
    pub file: String,
    /// In the order of the text.
    pub faults: Vec<Fault>,
}

/// So many are told; whoever has more has a file of another kind.
const TOLD: usize = 50;
/// So many are kept, until all are told apart by their place.
const KEPT: usize = 1_000;

/// Collects faults while a file is read.
#[derive(Debug, Default)]
pub(crate) struct Faults(RefCell<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        let mut faults = self.0.borrow_mut();
        if faults.len() < KEPT {
            faults.push(fault);
        }
    }

    pub(crate) fn take(self) -> Vec<Fault> {
        let mut faults = self.0.into_inner();
        faults.sort_by_key(|fault| (fault.line, fault.column));
        faults
    }
}

/// The path of a key below `path`. A key may be any text, and a message is one line.
pub(super) fn join(path: &str, key: &str) -> String {
    let is_plain = key.chars().all(|c| c.is_ascii_alphanumeric());
    match (path, is_plain) {
        ("", true) => key.to_owned(),
        ("", false) => format!("{key:?}"),
        (path, true) => format!("{path}.{key}"),
        (path, false) => format!("{path}[{key:?}]"),
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.faults.iter().take(TOLD).enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{}:{}: ", self.file, fault.line, fault.column)?;
            if !fault.path.is_empty() {
                write!(f, "{}: ", fault.path)?;
            }
            if let Some(value) = &fault.value {
                write!(f, "{value} ")?;
            }
            write!(f, "{}; {}", fault.problem, fault.remedy)?;
        }
        match self.faults.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "\n{}: {more} or more other mistakes; mend these first", self.file),
        }
    }
}

impl std::error::Error for Errors {}
