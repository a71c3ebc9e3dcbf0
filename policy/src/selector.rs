//! Label selectors and what they match. How they are found quickly is `compile/index.rs`.

use std::collections::{BTreeMap, BTreeSet};

/// Labels of a sandbox, a namespace or a node.
pub type Labels = BTreeMap<String, String>;

/// A Kubernetes label selector: all requirements must hold; none selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selector {
    /// Sorted, so that two spellings of one selector are equal.
    pub requirements: BTreeSet<Requirement>,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must be true of it.
    pub test: Test,
}

/// What a requirement asks of the label's value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// Present, with one of these values. `matchLabels` is one value.
    In(BTreeSet<String>),
    /// Absent, or with another value.
    NotIn(BTreeSet<String>),
    /// Present.
    Exists,
    /// Absent.
    Absent,
}

impl Selector {
    /// The selector `key=value`.
    #[must_use]
    pub fn label(key: &str, value: &str) -> Self {
        let test = Test::In(BTreeSet::from([value.to_owned()]));
        Self { requirements: BTreeSet::from([Requirement { key: key.to_owned(), test }]) }
    }

    /// Whether labels looked up by `label` satisfy every requirement.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.test.holds(label(&requirement.key)))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
        }
    }
}
