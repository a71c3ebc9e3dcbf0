//! What is written and said of a run: `policy.json`, `policy-raw.json`, a table, and whether each aim is met.

use anyhow::Result;
use serde_json::json;

use super::load::{CASE, Held, Size};
use super::packets::{AGAIN, BRIDGE, BRIDGE_AGAIN, BRIDGE_NONE, NETD, NONE, RULES, case};
use super::path::RESTORE;
use super::probe::OPS;
use crate::aim::Aim;
use crate::attach::Settings;
use crate::record;
use crate::samples::Samples;
use crate::say;

/// Two that are the same may differ by so much; otherwise a figure says nothing.
const SAME: f64 = 0.05;
/// Two that are the same: between routed sandboxes, and on one bridge.
type Pair = (&'static str, &'static str);
const PAIRS: [Pair; 2] = [(NONE, AGAIN), (BRIDGE_NONE, BRIDGE_AGAIN)];

/// All that came out of a run.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) settings: &'a Settings,
    pub(super) samples: &'a Samples,
    pub(super) size: Size,
    /// `None`: only packets were measured.
    pub(super) held: Option<Held>,
}

impl Report<'_> {
    /// Writes `policy.json` and, beside it, `policy-raw.json`.
    pub(super) fn write(&self) -> Result<()> {
        let same = |op| {
            let [routed, bridged] = PAIRS.map(|pair| self.difference(pair, op));
            json!({"op": op, "difference": routed, "difference_bridged": bridged})
        };
        let more = json!({
            "policies": self.size.policies,
            "elements": self.held,
            "iptables": RESTORE,
            "same": OPS.map(same),
        });
        record::write("policy", self.settings, self.samples, &self.aims(), more)
    }

    /// A table for people.
    pub(super) fn say(&self) {
        say(&format!(
            "\n{:<22} {:<15} {:>11} {:>10} {:>10} {:>5}  × no table",
            "case", "op", "attachments", "p50 µs", "p99 µs", "runs"
        ));
        for line in self.samples.lines() {
            let pair = if line.what.case.starts_with(BRIDGE) { PAIRS[1] } else { PAIRS[0] };
            let void = if self.is_void(pair, line.what.op) { " void" } else { "" };
            let ratio = self.ratio(&line.what.case, pair.0, line.what.op).map(|found| format!("{found:.3}{void}"));
            say(&format!(
                "{:<22} {:<15} {:>11} {:>10.1} {:>10.1} {:>5}  {}",
                line.what.case,
                line.what.op,
                line.what.size,
                line.p50_us,
                line.p99_us,
                line.runs,
                ratio.unwrap_or_default()
            ));
        }
        if let Some(held) = self.held {
            let policies = self.size.policies;
            say(&format!(
                "\n{held} elements of policies in the kernel's IPv4 sets for {policies} policies; iptables by {RESTORE}"
            ));
        }
        for (pair, op) in PAIRS.iter().flat_map(|pair| OPS.map(|op| (*pair, op))) {
            let Some(found) = self.difference(pair, op) else { continue };
            let verdict = if self.is_void(pair, op) { "VOID: its figures say nothing" } else { "counts" };
            say(&format!("{op}: {} against {} {:+.1} %: {verdict}", pair.1, pair.0, found * 100.0));
        }
        say("");
        self.aims().iter().for_each(|aim| say(&aim.words()));
    }

    fn aims(&self) -> Vec<Aim> {
        let size = self.size;
        let load = format!("{} policies over {} sandboxes in the kernel", size.policies, size.sandboxes);
        let mut aims = vec![Aim::new(load, 2_000.0, "ms", self.median(CASE, "load"))];
        for (op, what) in [
            ("add", "one sandbox more"),
            ("relabel", "one sandbox relabelled"),
            ("move", "one sandbox in another namespace"),
        ] {
            aims.push(Aim::new(format!("{what}, in the kernel"), 2.0, "ms", self.median(CASE, op)));
        }
        for rules in RULES {
            for op in OPS {
                let found = self.ratio(&case(NETD, rules), NONE, op).filter(|_| !self.is_void(PAIRS[0], op));
                aims.push(Aim::new(format!("{op}, {rules} rules over no table"), 1.0 + SAME, "×", found));
            }
        }
        aims
    }

    /// By how much two that are the same differ.
    fn difference(&self, (one, again): Pair, op: &str) -> Option<f64> {
        self.ratio(again, one, op).map(|found| found - 1.0)
    }

    fn is_void(&self, pair: Pair, op: &str) -> bool {
        self.difference(pair, op).is_none_or(|found| found.abs() > SAME)
    }

    /// In milliseconds.
    fn median(&self, case: &str, op: &str) -> Option<f64> {
        let lines = self.samples.lines();
        lines.iter().find(|line| line.what.case == case && line.what.op == op).map(|line| line.p50_us / 1e3)
    }

    /// Of the medians.
    fn ratio(&self, case: &str, against: &str, op: &str) -> Option<f64> {
        Some(self.median(case, op)? / self.median(against, op)?)
    }
}
