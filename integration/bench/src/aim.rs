//! What the project wants of itself, and whether a run found it so.

use serde_json::{Value, json};

/// A limit, and what was found.
pub(crate) struct Aim {
    what: String,
    limit: f64,
    unit: &'static str,
    found: Option<f64>,
}

impl Aim {
    pub(crate) fn new(what: String, limit: f64, unit: &'static str, found: Option<f64>) -> Self {
        Self { what, limit, unit, found }
    }

    fn verdict(&self) -> &'static str {
        match self.found {
            Some(found) if found <= self.limit => "met",
            Some(_) => "NOT MET",
            None => "not measured",
        }
    }

    pub(crate) fn words(&self) -> String {
        let found = self.found.map(|found| format!(": {found:.2}")).unwrap_or_default();
        format!("{}, aim ≤ {} {}{found} {}", self.what, self.limit, self.unit, self.verdict())
    }

    pub(crate) fn json(&self) -> Value {
        json!({"aim": self.what, "limit": self.limit, "unit": self.unit, "found": self.found, "verdict": self.verdict()})
    }
}
