//! The bench `attach`: which case is measured when. All cases take turns in one run, so that what disturbs one disturbs all.

mod crowd;

pub(crate) use self::crowd::Crowd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::case::{Api, Cni, Floor, Programs};
use crate::field::Field;
use crate::network::Writing;
use crate::node::Node;
use crate::report::{Memory, Report};
use crate::samples::Samples;
use crate::say;

/// What to measure, with what.
#[derive(Debug)]
pub struct Settings {
    /// 0 and 100 attachments; 1,000 for `netd-api` and `kernel-floor`, and these two routed.
    pub quick: bool,
    /// The programs under test.
    pub programs: Programs,
    /// The program `etcd`, where one is needed.
    pub etcd: Option<PathBuf>,
    /// Folder for the results.
    pub output: PathBuf,
    /// Of what is measured.
    pub commit: String,
    /// The cases to measure; none: all.
    pub only: Vec<String>,
}

pub(crate) const API: &str = "netd-api";
pub(crate) const FLOOR: &str = "kernel-floor";
pub(crate) const API_ROUTED: &str = "netd-api-routed";
pub(crate) const FLOOR_ROUTED: &str = "kernel-floor-routed";
pub(crate) const CHAIN: &str = "cni-chain";
pub(crate) const CNI: &str = "netd-cni";
pub(crate) const CNI_ONE: &str = "netd-cni-one";

/// The official plugins' costs grow too fast for more.
const MOST_OF_CHAIN: usize = 100;
const SMALL: usize = 100;
const LARGE: usize = 1_000;
const SIZES: [usize; 4] = [0, SMALL, 500, LARGE];
const QUICK_SIZES: [usize; 3] = [0, SMALL, LARGE];
/// From here, 100 at once lead to 1,000.
const BEFORE_LARGE: usize = LARGE - crowd::AT_ONCE;

/// Runs the bench and writes `attach.json` and `attach-raw.json`.
///
/// # Errors
/// A case failed, or a packet that had to pass was lost: then there is no result.
pub fn run(settings: &Settings) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    // Every sandbox's namespace is a descriptor; the daemons inherit the limit and hold two sockets an attachment.
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut bench = Bench { fields: Vec::new(), samples: Samples::default(), memory: Vec::new(), failed: Vec::new() };
    let left_out = bench.prepare(settings)?;
    let sizes = if settings.quick { QUICK_SIZES.as_slice() } else { &SIZES };
    let start = Instant::now();
    for size in sizes {
        bench.measure(*size, settings.quick)?;
        say(&format!("   done after {:.0} s", start.elapsed().as_secs_f64()));
    }
    let Bench { fields, samples, memory, failed } = bench;
    let report = Report { settings, samples: &samples, memory, failed, fields: &fields, left_out };
    report.write()?;
    report.say();
    say("taking the namespaces away");
    Ok(())
}

struct Bench {
    fields: Vec<Field>,
    samples: Samples,
    memory: Vec<Memory>,
    failed: Vec<Crowd>,
}

impl Bench {
    /// Puts every case on its node and makes there what its attachments share. Returns what is not measured, and why.
    fn prepare(&mut self, settings: &Settings) -> Result<Vec<String>> {
        let mut left_out = Vec::new();
        let Programs { netd, client, plugins, .. } = &settings.programs;
        let (most, runs) = if settings.quick { (SMALL, 40) } else { (LARGE, 200) };
        let most_chain_runs = if settings.quick { 8 } else { 20 };
        if let Some(missing) = missing(plugins) {
            left_out.push(format!("{CHAIN}: left out: no {missing}; `cargo xtask parts` builds the official plugins"));
        } else {
            let case = Box::new(Cni::official(plugins));
            self.fields.push(Field::new(CHAIN, Node::fresh()?, case, MOST_OF_CHAIN, most_chain_runs));
        }
        for (name, writing) in [(CNI, Writing::Chain), (CNI_ONE, Writing::One)] {
            let node = Node::fresh()?;
            let case = Box::new(Cni::ours(&node, netd, client, writing)?);
            self.fields.push(Field::new(name, node, case, most, runs));
        }
        for (name, writing) in [(API, Writing::One), (API_ROUTED, Writing::Routed)] {
            let node = Node::fresh()?;
            let case = Box::new(Api::start(&node, netd, writing)?);
            self.fields.push(Field::new(name, node, case, LARGE, runs.max(100)));
        }
        for (name, writing) in [(FLOOR, Writing::One), (FLOOR_ROUTED, Writing::Routed)] {
            let node = Node::fresh()?;
            let case = Box::new(Floor::start(&node, &settings.programs, writing)?);
            self.fields.push(Field::new(name, node, case, LARGE, runs.max(100)));
        }
        self.leave_out(&settings.only)?;
        for field in &mut self.fields {
            // The first attachment of a node makes what all share; it is not what later ones cost.
            let took = field.add()?;
            self.samples.note(field.name, "add-first", 0, took);
            field.del()?;
        }
        Ok(left_out)
    }

    /// Keeps the named cases.
    fn leave_out(&mut self, only: &[String]) -> Result<()> {
        if only.is_empty() {
            return Ok(());
        }
        if let Some(unknown) = only.iter().find(|name| field(&mut self.fields, name).is_err()) {
            let known: Vec<&str> = self.fields.iter().map(|field| field.name).collect();
            bail!("no case is called {unknown}; there are {}", known.join(", "));
        }
        self.fields.retain(|field| only.iter().any(|name| name == field.name));
        Ok(())
    }

    fn has_api(&self) -> bool {
        self.fields.iter().any(|field| field.name == API)
    }

    fn measure(&mut self, size: usize, quick: bool) -> Result<()> {
        say(&format!("== {size} attachments"));
        if size == LARGE && self.has_api() {
            self.grow_large(quick)?;
        }
        for field in self.fields.iter_mut().filter(|field| size <= field.most) {
            field.fill(size).with_context(|| format!("cannot have {size} attachments"))?;
        }
        if self.has_api() {
            self.weigh(size)?;
        }
        self.take_turns(size)?;
        if size == 0 && self.has_api() {
            self.crowd(0, quick)?;
        }
        Ok(())
    }

    /// Before the last 100: 100 at once from 900, and adds while deletes go on.
    fn grow_large(&mut self, quick: bool) -> Result<()> {
        let field = field(&mut self.fields, API)?;
        field.fill(BEFORE_LARGE)?;
        let added = crowd::churn(field, if quick { 200 } else { 500 })?;
        added.into_iter().for_each(|took| self.samples.note("netd-api-churn", "add", BEFORE_LARGE, took));
        self.crowd(BEFORE_LARGE, quick)
    }

    fn crowd(&mut self, size: usize, quick: bool) -> Result<()> {
        for _ in 0..if quick { 3 } else { 10 } {
            let crowd = crowd::at_once(field(&mut self.fields, API)?, size)?;
            self.samples.note("netd-api-parallel-100", "add", size, crowd.all);
            self.failed.push(crowd);
        }
        Ok(())
    }

    /// One add and one detach a turn; another case begins each time.
    fn take_turns(&mut self, size: usize) -> Result<()> {
        let mut turns: Vec<usize> =
            (0..self.fields.len()).filter(|at| self.fields.get(*at).is_some_and(|field| size <= field.most)).collect();
        if turns.is_empty() {
            return Ok(());
        }
        let runs = self.fields.iter().map(|field| field.runs).max().unwrap_or_default();
        for run in 0..runs {
            for at in &turns {
                let Some(field) = self.fields.get_mut(*at).filter(|field| run < field.runs) else { continue };
                let took = field.add()?;
                self.samples.note(field.name, "add", size, took);
                let gone = field.del()?;
                self.samples.note(field.name, "del", size, gone.answered);
                self.samples.note(field.name, "del-leasable", size, gone.leasable);
            }
            turns.rotate_left(1);
        }
        Ok(())
    }

    fn weigh(&mut self, attachments: usize) -> Result<()> {
        let netd = field(&mut self.fields, API)?.case.netd().context("netd-api has no netd")?;
        let (resident_kb, anonymous_kb) = (netd.resident_kb()?, netd.anonymous_kb()?);
        self.memory.push(Memory { attachments, resident_kb, anonymous_kb });
        Ok(())
    }
}

fn field<'a>(fields: &'a mut [Field], name: &str) -> Result<&'a mut Field> {
    fields.iter_mut().find(|field| field.name == name).with_context(|| format!("{name} is not measured"))
}

/// The first of the plugins that is not there.
fn missing(plugins: &Path) -> Option<String> {
    let names = ["bridge", "host-local", "portmap", "firewall", "tuning"];
    let paths = names.map(|name| plugins.join(name));
    paths.iter().find(|path| !path.exists()).map(|path| path.display().to_string())
}

/// A time as people read it.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
