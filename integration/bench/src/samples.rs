//! Measured times by case, operation and number of attachments; medians and percentiles. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct What {
    pub(crate) case: String,
    pub(crate) op: &'static str,
    pub(crate) size: usize,
}

/// One line of `attach.json` and its like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    pub(crate) what: What,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) runs: usize,
}

/// All times, in microseconds, in the order in which they were measured.
#[derive(Debug)]
pub(crate) struct Samples {
    /// What sizes are numbers of.
    counted: &'static str,
    times: BTreeMap<What, Vec<f64>>,
}

impl Default for Samples {
    fn default() -> Self {
        Self::of("attachments")
    }
}

impl Samples {
    /// None yet, of sizes that are numbers of these.
    pub(crate) fn of(counted: &'static str) -> Self {
        Self { counted, times: BTreeMap::new() }
    }

    pub(crate) fn note(&mut self, case: &str, op: &'static str, size: usize, took: Duration) {
        let what = What { case: case.to_owned(), op, size };
        self.times.entry(what).or_default().push((took.as_secs_f64() * 1e7).round() / 10.0);
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |(what, times): (&What, &Vec<f64>)| Line {
            what: what.clone(),
            p50_us: percentile(times, 50),
            p99_us: percentile(times, 99),
            runs: times.len(),
        };
        self.times.iter().map(line).collect()
    }

    /// The lines as they are written.
    pub(crate) fn json(&self) -> Vec<Value> {
        let line = |line: &Line| {
            let Line { what, p50_us, p99_us, runs } = line;
            json!({"case": what.case, "op": what.op, self.counted: what.size, "p50_us": p50_us, "p99_us": p99_us, "runs": runs})
        };
        self.lines().iter().map(line).collect()
    }

    /// All samples as they are written.
    pub(crate) fn raw_json(&self) -> Vec<Value> {
        let sample = |(what, times): (&What, &Vec<f64>)| json!({"case": what.case, "op": what.op, self.counted: what.size, "us": times});
        self.times.iter().map(sample).collect()
    }
}

/// The smallest value that `percent` of all values do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&values, 50), percentile(&values, 99)), (100.0, 198.0));
        assert_eq!((percentile(&[7.0], 50), percentile(&[7.0], 99)), (7.0, 7.0));
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 50), 2.0);
    }
}
