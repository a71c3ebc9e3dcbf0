//! The bench `policy`: what policies cost to load, to follow a change, and for each packet. The last in one run with what they
//! are compared with, case by case in turns, so that what disturbs one disturbs all.

mod load;
mod packets;
mod parts;
mod path;
pub(crate) mod probe;
mod report;
mod rules;
mod town;

use std::time::Instant;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::attach::Settings;
use crate::samples::Samples;
use crate::say;
use report::Report;

/// Runs the bench and writes `policy.json` and `policy-raw.json`.
///
/// # Errors
/// A case failed, or something passed that must not, or did not that must: then there is no result.
pub fn run(settings: &Settings) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Every sandbox's namespace is a descriptor.
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut samples = Samples::default();
    let start = Instant::now();
    let size = if settings.quick { load::QUICK } else { load::FULL };
    let (loads, of_packets): (Vec<String>, _) = settings.only.iter().cloned().partition(|case| case == load::CASE);
    let is_all = settings.only.is_empty();
    let is_loaded = is_all || !loads.is_empty();
    let held = is_loaded.then(|| load::measure(&settings.programs.netd, size, &mut samples)).transpose()?;
    say(&format!("   done after {:.0} s", start.elapsed().as_secs_f64()));
    if is_all || !of_packets.is_empty() {
        packets::measure(settings, &of_packets, &mut samples)?;
        say(&format!("   done after {:.0} s", start.elapsed().as_secs_f64()));
    }
    let report = Report { settings, samples: &samples, size, held };
    report.write()?;
    report.say();
    say("taking the namespaces away");
    Ok(())
}
