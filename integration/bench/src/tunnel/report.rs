//! What is written and said of a run: `tunnel.json`, `tunnel-raw.json`, a table, and whether each aim is met.

use anyhow::Result;
use serde_json::json;

use super::OPS;
use super::course::{Maker, Way};
use crate::aim::Aim;
use crate::attach::Settings;
use crate::record;
use crate::samples::Samples;
use crate::say;

/// netd carries 98 % of what is carried by hand: it takes no longer than so many times as long.
const LONGEST: f64 = 1.02;
/// Two that are the same may differ by so much; otherwise a figure says nothing.
const SAME: f64 = 0.02;

/// All that came out of a run.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) settings: &'a Settings,
    pub(super) samples: &'a Samples,
    pub(super) left_out: Vec<String>,
}

impl Report<'_> {
    /// Writes `tunnel.json` and, beside it, `tunnel-raw.json`.
    pub(super) fn write(&self) -> Result<()> {
        let same = |(way, op)| json!({"way": Way::name(way), "op": op, "difference": self.difference(way, op)});
        let more = json!({"left_out": self.left_out, "same": self.pairs().map(same).collect::<Vec<_>>()});
        record::write("tunnel", self.settings, self.samples, &self.aims(), more)
    }

    /// A table for people.
    pub(super) fn say(&self) {
        say(&format!("\n{:<20} {:<15} {:>10} {:>10} {:>5}  carried", "case", "op", "p50 µs", "p99 µs", "runs"));
        for line in self.samples.lines() {
            let what = &line.what;
            let way = Way::ALL.into_iter().find(|way| Maker::ALL.iter().any(|maker| maker.case(*way) == what.case));
            let by_hand = way.and_then(|way| self.median(&Maker::Hand.case(way), what.op));
            let carried = by_hand.map(|by_hand| format!("{:.1} %", by_hand / line.p50_us * 100.0)).unwrap_or_default();
            say(&format!(
                "{:<20} {:<15} {:>10.1} {:>10.1} {:>5}  {carried}",
                what.case, what.op, line.p50_us, line.p99_us, line.runs
            ));
        }
        say("");
        for (way, op) in self.pairs() {
            let Some(difference) = self.difference(way, op) else { continue };
            let verdict = if self.is_void(way, op) { "VOID: its figures say nothing" } else { "counts" };
            say(&format!("{op}, {}: by hand against by hand {:+.1} %: {verdict}", way.name(), difference * 100.0));
        }
        self.left_out.iter().for_each(|line| say(line));
        say("");
        self.aims().iter().for_each(|aim| say(&aim.words()));
    }

    fn aims(&self) -> Vec<Aim> {
        let aim = |(maker, what): (Maker, &str), (way, op): (Way, &'static str)| {
            let found = self.ratio(maker, way, op).filter(|_| !self.is_void(way, op));
            Aim::new(format!("{op}, {}, {what}: time over the same by hand", way.name()), LONGEST, "×", found)
        };
        let makers = [(Maker::NetdBare, "links and routes"), (Maker::Netd, "all of netd")];
        makers.into_iter().flat_map(|maker| self.pairs().map(move |pair| aim(maker, pair))).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (Way, &'static str)> {
        Way::ALL.into_iter().flat_map(|way| OPS.map(|op| (way, op)))
    }

    fn difference(&self, way: Way, op: &str) -> Option<f64> {
        self.ratio(Maker::HandAgain, way, op).map(|found| found - 1.0)
    }

    fn is_void(&self, way: Way, op: &str) -> bool {
        self.difference(way, op).is_none_or(|found| found.abs() > SAME)
    }

    /// Of the medians, over that by hand.
    fn ratio(&self, maker: Maker, way: Way, op: &str) -> Option<f64> {
        Some(self.median(&maker.case(way), op)? / self.median(&Maker::Hand.case(way), op)?)
    }

    fn median(&self, case: &str, op: &str) -> Option<f64> {
        self.samples.lines().iter().find(|line| line.what.case == case && line.what.op == op).map(|line| line.p50_us)
    }
}
