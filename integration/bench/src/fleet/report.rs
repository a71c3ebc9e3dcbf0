//! What is written and said of a run: `fleet.json`, `fleet-raw.json`, tables, and whether the aim is met.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::aim::Aim;
use crate::attach::Settings;
use crate::record;
use crate::samples::Samples;
use crate::say;

/// From a join to the route, at 99 of 100 (ms).
const LONGEST: f64 = 2_000.0;

/// What is no time.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cost {
    pub(super) case: &'static str,
    pub(super) what: String,
    pub(super) nodes: usize,
    pub(super) unit: &'static str,
    /// One a run, or one a node.
    pub(super) found: Vec<f64>,
}

/// All that came out of a run.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) settings: &'a Settings,
    pub(super) samples: &'a Samples,
    pub(super) costs: Vec<Cost>,
}

impl Report<'_> {
    /// Writes `fleet.json` and `fleet-raw.json`.
    pub(super) fn write(&self) -> Result<()> {
        record::write("fleet", self.settings, self.samples, &self.aims(), json!({"costs": self.costs}))
    }

    /// Tables for people.
    pub(super) fn say(&self) {
        say(&format!("\n{:<12} {:<30} {:>6} {:>10} {:>10} {:>6}", "case", "op", "nodes", "p50 ms", "p99 ms", "runs"));
        for line in self.samples.lines() {
            let (what, p50, p99, runs) = (&line.what, line.p50_us / 1e3, line.p99_us / 1e3, line.runs);
            say(&format!("{:<12} {:<30} {:>6} {p50:>10.1} {p99:>10.1} {runs:>6}", what.case, what.op, what.size));
        }
        say(&format!("\n{:<12} {:<44} {:>6} {:>12} {:>12} {:>5}", "case", "cost", "nodes", "median", "most", "runs"));
        for cost in &self.costs {
            let (median, most) = (median(&cost.found), cost.found.iter().copied().fold(f64::MIN, f64::max));
            let what = format!("{}, {}", cost.what, cost.unit);
            say(&format!(
                "{:<12} {what:<44} {:>6} {median:>12.1} {most:>12.1} {:>5}",
                cost.case,
                cost.nodes,
                cost.found.len()
            ));
        }
        say("");
        self.aims().iter().for_each(|aim| say(&aim.words()));
    }

    fn aims(&self) -> Vec<Aim> {
        let lines = self.samples.lines();
        let to_routes = lines.iter().filter(|line| ["join-to-route", "record-to-route"].contains(&line.what.op));
        let aim = |line: &crate::samples::Line| {
            let what = format!("{}, {}, {} nodes, p99", line.what.case, line.what.op, line.what.size);
            Aim::new(what, LONGEST, "ms", Some(line.p99_us / 1e3))
        };
        to_routes.map(aim).collect()
    }
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
