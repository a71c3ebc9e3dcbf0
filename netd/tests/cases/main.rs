//! The table of policy cases (`policy/tests/cases`) with real packets: two nodes with sandboxes on bridges, and the outside.
//! Model, compiled maps and kernel must agree on every probe. Needs root, and fails without.
//!
//! The policies of one case follow those of another by what differs, as in a running netd; nothing is made anew between.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests stand outside of them")]

mod ask;
mod choice;
mod net;
#[path = "../../../policy/tests/table/probes.rs"]
mod probes;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../../kernel/tests/packets/space.rs"]
mod space;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use netd_policy::{Policy, oracle, parse};

use crate::ask::{Heard, ask};
use crate::choice::chosen;
use crate::net::Net;
use crate::probes::{Probe, expected, head, probes, world};

struct Case {
    feature: String,
    name: String,
    text: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/cases");
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let entries =
        |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>();
    let features = entries(&folder).into_iter().filter(|path| path.is_dir());
    let files = features.flat_map(|feature| entries(&feature));
    let mut cases: Vec<Case> = files
        .map(|file| Case {
            feature: name(file.parent().unwrap()),
            name: name(&file),
            text: fs::read_to_string(&file).unwrap(),
        })
        .collect();
    cases.sort_by(|one, other| (&one.feature, &one.name).cmp(&(&other.feature, &other.name)));
    cases
}

/// What the three say of one probe, beside what the case says.
struct Said {
    case: bool,
    model: bool,
    maps: bool,
    kernel: Heard,
}

impl Said {
    fn agree(&self) -> bool {
        let heard = if self.case { Heard::Answer } else { Heard::Refusal };
        (self.model, self.maps, self.kernel) == (self.case, self.case, heard)
    }
}

/// One line of the table: probes that were expected to pass, to be refused, and those that all agree on.
#[derive(Default)]
struct Count {
    passing: usize,
    refused: usize,
    agreed: usize,
}

/// An answer and a refusal may both be late on a busy machine: who hears neither asks again.
fn answer(net: &Net, probe: &Probe) -> Heard {
    let again = || ask(net, probe);
    let first = again();
    (0..3).fold(first, |heard, _| if heard == Heard::Nothing { again() } else { heard })
}

#[test]
fn the_kernel_does_what_every_case_says() {
    let (mut net, probes, world, cases) = (Net::new(), probes(), world(), cases());
    let (mut table, mut faults) = (String::new(), Vec::new());
    let mut all = Count::default();
    let start = Instant::now();
    for filters_all in [false, true] {
        net.filter_all_bridges(filters_all);
        for (number, case) in cases.iter().enumerate() {
            let (_, lines) = head(&case.text);
            let policies = parse(&case.name, &case.text).unwrap();
            net.enforce(&policies);
            let mut count = Count::default();
            for probe in chosen(&probes, &world, &policies, number) {
                let said = Said {
                    case: expected(&lines, probe),
                    model: oracle::verdict(&world, &policies, probe.flow).allowed(),
                    maps: net.passes(probe),
                    kernel: answer(&net, probe),
                };
                *(if said.case { &mut count.passing } else { &mut count.refused }) += 1;
                count.agreed += usize::from(said.agree());
                if !said.agree() {
                    faults.push(fault(case, filters_all, probe, &said));
                }
            }
            let Case { feature, name, .. } = case;
            let Count { passing, refused, agreed } = count;
            writeln!(table, "{filters_all}\t{feature}\t{name}\t{passing}\t{refused}\t{agreed}").unwrap();
            all = Count { passing: all.passing + passing, refused: all.refused + refused, agreed: all.agreed + agreed };
            if number % 40 == 0 {
                net.assert_held();
            }
        }
    }
    net.enforce(&Vec::<Policy>::new());
    net.assert_held();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("policy-cases.tsv");
    let title = "call-iptables\tfeature\tcase\tpassing\trefused\tagreed\n";
    fs::write(&path, [title, &table].concat()).unwrap();
    println!(
        "{} cases, twice: {} probes, {} to pass, {} to be refused; model, maps and kernel agree on {}; {:.1} s; {}",
        cases.len(),
        all.passing + all.refused,
        all.passing,
        all.refused,
        all.agreed,
        start.elapsed().as_secs_f64(),
        path.display()
    );
    assert!(faults.is_empty(), "{} do not agree:\n{}", faults.len(), faults[..faults.len().min(40)].join("\n"));
    assert!(all.passing > 10_000 && all.refused > 10_000, "too few were asked");
}

fn fault(case: &Case, filters_all: bool, probe: &Probe, said: &Said) -> String {
    let Said { case: wanted, model, maps, kernel } = said;
    let (family, traffic) = (if probe.v6 { 6 } else { 4 }, probe.traffic);
    format!(
        "{}/{} ({filters_all}): {} -> {} {traffic} @{family}: case {wanted}, model {model}, maps {maps}, kernel {kernel:?}",
        case.feature, case.name, probe.from.name, probe.to.name
    )
}
