//! What is written and said of a run: `attach.json`, `attach-raw.json`, a table, and whether each aim is met.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use crate::aim::Aim;
use crate::attach::{API, API_ROUTED, CNI, CNI_ONE, FLOOR, FLOOR_ROUTED, Settings, milliseconds};
use crate::field::Field;
use crate::packet::SLOW;
use crate::record;
use crate::samples::{Line, Samples};
use crate::say;

/// netd's memory.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    pub(crate) attachments: usize,
    pub(crate) resident_kb: u64,
    /// Of that, no mapped files.
    pub(crate) anonymous_kb: u64,
}

/// All that came out of a run.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) samples: &'a Samples,
    pub(crate) memory: Vec<Memory>,
    pub(crate) failed: Vec<crate::attach::Crowd>,
    pub(crate) fields: &'a [Field],
    pub(crate) left_out: Vec<String>,
}

impl Report<'_> {
    /// Writes `attach.json` and, beside it, `attach-raw.json`.
    pub(crate) fn write(&self) -> Result<()> {
        let packets = |field: &Field| {
            let times: Vec<u128> = field.packets.iter().map(std::time::Duration::as_micros).collect();
            json!({"case": field.name, "us": times})
        };
        let more = json!({
            "left_out": self.left_out,
            "resident": self.memory,
            "parallel": self.failed,
            "packets": self.fields.iter().map(packets).collect::<Vec<_>>(),
        });
        record::write("attach", self.settings, self.samples, &self.aims(), more)
    }

    /// A table for people.
    pub(crate) fn say(&self) {
        let lines = self.samples.lines();
        say(&format!(
            "\n{:<22} {:<13} {:>11} {:>10} {:>10} {:>5}  {}",
            "case", "op", "attachments", "p50 ms", "p99 ms", "runs", "× floor"
        ));
        for line in &lines {
            let against = if line.what.case == API_ROUTED { FLOOR_ROUTED } else { FLOOR };
            let floor = p50(&lines, against, line.what.op, line.what.size);
            let floor = floor.filter(|_| ![FLOOR, FLOOR_ROUTED].contains(&line.what.case.as_str()));
            let ratio = floor.map(|floor| format!("{:.2}", line.p50_us / floor)).unwrap_or_default();
            let (p50, p99) = (line.p50_us / 1e3, line.p99_us / 1e3);
            let Line { what, runs, .. } = line;
            say(&format!(
                "{:<22} {:<13} {:>11} {p50:>10.3} {p99:>10.3} {runs:>5}  {ratio}",
                what.case, what.op, what.size
            ));
        }
        let mut packets: Vec<_> = self.fields.iter().flat_map(|field| &field.packets).copied().collect();
        packets.sort();
        let slowest = packets.last().copied().map(milliseconds).unwrap_or_default();
        say(&format!("\n{} first packets passed, the slowest there and back in {slowest}", packets.len()));
        for field in self.fields {
            let slow = field.packets.iter().filter(|took| **took > SLOW).count();
            if slow > 0 {
                say(&format!("{}: {slow} of {} waited for a second ARP request", field.name, field.packets.len()));
            }
        }
        for memory in &self.memory {
            let (resident, own) = (mega(memory.resident_kb), mega(memory.anonymous_kb));
            let attachments = memory.attachments;
            say(&format!(
                "netd with {attachments} attachments: {resident:.1} MB resident, {own:.1} MB without its program"
            ));
        }
        for error in self.failed.iter().filter_map(|crowd| crowd.error.as_ref()) {
            say(&format!("of 100 at once, one failed: {error}"));
        }
        self.left_out.iter().for_each(|line| say(line));
        say("");
        self.aims().iter().for_each(|aim| say(&aim.words()));
    }

    fn aims(&self) -> Vec<Aim> {
        let lines = self.samples.lines();
        let add = |case: &str, size| p50(&lines, case, "add", size);
        let mut sizes: Vec<usize> =
            lines.iter().filter(|line| line.what.case == API).map(|line| line.what.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut aims = Vec::new();
        for (api, floor) in [(API, FLOOR), (API_ROUTED, FLOOR_ROUTED)] {
            let ratio = |size| Some(add(api, size)? / add(floor, size)?);
            let aim =
                |size: &usize| Aim::new(format!("{api} add over {floor}, {size} attachments"), 1.3, "×", ratio(*size));
            aims.extend(sizes.iter().map(aim));
        }
        let growth = |case| add(case, 1_000).and_then(|large| Some(large / add(case, 0)?));
        aims.push(Aim::new("netd-api add, 1,000 attachments over 0, on a bridge".to_owned(), 2.0, "×", growth(API)));
        aims.push(Aim::new("netd-api add, 1,000 over 0, routed".to_owned(), 1.2, "×", growth(API_ROUTED)));
        let worst = |case: &str, op: &str| {
            let of = lines.iter().filter(|line| line.what.case == case && line.what.op == op);
            of.map(|line| line.p50_us / 1e3).reduce(f64::max)
        };
        aims.push(Aim::new("netd-api del answered, at the worst size".to_owned(), 0.5, "ms", worst(API, "del")));
        aims.push(Aim::new("netd-cni add, at the worst size".to_owned(), 5.0, "ms", worst(CNI, "add")));
        aims.push(Aim::new("netd-cni-one add, at the worst size".to_owned(), 2.5, "ms", worst(CNI_ONE, "add")));
        let at_once = worst("netd-api-parallel-100", "add");
        aims.push(Aim::new("100 adds at once, at the worst size".to_owned(), 300.0, "ms", at_once));
        let failed = self.failed.iter().map(|crowd| crowd.failed).max().and_then(|most| u32::try_from(most).ok());
        aims.push(Aim::new("of 100 adds at once, failed".to_owned(), 0.0, "adds", failed.map(f64::from)));
        let memory =
            self.memory.iter().find(|memory| memory.attachments == 1_000).map(|memory| mega(memory.resident_kb));
        aims.push(Aim::new("netd resident with 1,000 attachments".to_owned(), 15.0, "MB", memory));
        aims
    }
}

fn p50(lines: &[Line], case: &str, op: &str, attachments: usize) -> Option<f64> {
    let is_it = |line: &&Line| line.what.case == case && line.what.op == op && line.what.size == attachments;
    lines.iter().find(is_it).map(|line| line.p50_us)
}

fn mega(kilobytes: u64) -> f64 {
    u32::try_from(kilobytes).map_or(f64::INFINITY, f64::from) / 1024.0
}
