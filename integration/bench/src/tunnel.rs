//! The bench `tunnel`: what packets between two nodes' sandboxes cost where netd runs on both, against the same links and routes
//! made by `ip` with no table at all, in turns in one run.
//!
//! ```text
//! sandbox ─ bridge ─ node ═ tunnel or route ═ node ─ bridge ─ sandbox
//! ```

mod by_hand;
mod by_netd;
mod course;
mod report;

use anyhow::Result;

use crate::attach::Settings;
use crate::policy::probe::{STREAM, TCP, UDP, UDP_MANY};
use crate::samples::Samples;
use crate::say;
use course::{Course, Maker, Way};
use report::Report;

const OPS: [&str; 4] = [STREAM, UDP_MANY, UDP, TCP];
/// Exchanges of which the median is one sample.
const EXCHANGES: usize = 20;

/// Runs the bench and writes `tunnel.json` and `tunnel-raw.json`.
///
/// # Errors
/// A case failed: then there is no result.
pub fn run(settings: &Settings) -> Result<()> {
    let mut left_out = Vec::new();
    let mut courses = Vec::new();
    for way in Way::ALL {
        if !by_hand::is_there(way)? {
            left_out.push(format!("{}: this kernel has no such tunnels", way.name()));
            continue;
        }
        for maker in Maker::ALL {
            say(&format!("   {}", maker.case(way)));
            courses.push(Course::new(&settings.programs.netd, way, maker)?);
        }
    }
    let mut samples = Samples::default();
    let rounds = if settings.quick { 60 } else { 600 };
    for _ in 0..rounds {
        for course in &mut courses {
            for op in OPS {
                let median = course.median(op, if op == STREAM { 1 } else { EXCHANGES })?;
                samples.note(&course.name, op, 2, median);
            }
        }
        courses.rotate_left(1);
    }
    let report = Report { settings, samples: &samples, left_out };
    report.write()?;
    report.say();
    Ok(())
}
