//! Every target for a bounded count, so that a reader that got worse is seen without a longer run.

use netd_fuzz::{TARGETS, corpus, fuzz};

/// A few seconds a target, unoptimised.
const RUNS: u64 = 20_000;

#[test]
fn no_reader_panics_or_breaks_its_promise() {
    for target in TARGETS {
        let report = fuzz(&target, &corpus(target.name).unwrap(), RUNS, 1);
        println!("{}: {} runs, {} shapes", target.name, report.runs, report.shapes);
        if let Some(finding) = report.finding {
            panic!("{}: {}\n{:?}", target.name, finding.what, String::from_utf8_lossy(&finding.input));
        }
        assert!(report.shapes > 4, "{}: the inputs reach nothing", target.name);
    }
}
