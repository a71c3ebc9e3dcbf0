//! Measured times by case, operation and number of attachments; medians and percentiles. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct What {
    pub(crate) case: String,
    pub(crate) op: &'static str,
    pub(crate) attachments: usize,
}

/// One line of `attach.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) what: What,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) runs: usize,
}

/// All times, in microseconds, in the order in which they were measured.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<What, Vec<f64>>);

impl Samples {
    pub(crate) fn note(&mut self, case: &str, op: &'static str, attachments: usize, took: Duration) {
        let what = What { case: case.to_owned(), op, attachments };
        self.0.entry(what).or_default().push((took.as_secs_f64() * 1e7).round() / 10.0);
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |(what, times): (&What, &Vec<f64>)| Line {
            what: what.clone(),
            p50_us: percentile(times, 50),
            p99_us: percentile(times, 99),
            runs: times.len(),
        };
        self.0.iter().map(line).collect()
    }

    pub(crate) fn raw(&self) -> impl Iterator<Item = (&What, &[f64])> {
        self.0.iter().map(|(what, times)| (what, times.as_slice()))
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
