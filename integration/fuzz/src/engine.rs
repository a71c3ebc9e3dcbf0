//! Runs a target on mutated inputs, and keeps those that show something new. What a change is, is `mutation`'s.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::time::ClockId;

use crate::mutation::mutate;
use crate::random::Random;
use crate::targets::Target;

/// Inputs that are kept beside the seeds.
const POOL: usize = 4_096;
/// No reader of a few thousand octets may take this long.
const SLOW: Duration = Duration::from_secs(1);

/// What a run of a target found.
#[derive(Debug)]
pub struct Report {
    /// Inputs tried, seeds among them.
    pub runs: u64,
    /// Different shapes of answers.
    pub shapes: usize,
    /// The first finding; it ends the run.
    pub finding: Option<Finding>,
}

/// An input that a reader did not bear.
#[derive(Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What happened.
    pub what: String,
}

/// Tries `target` on its seeds and then on mutated inputs, `runs` in all.
#[must_use]
pub fn fuzz(target: &Target, seeds: &[Vec<u8>], runs: u64, seed: u64) -> Report {
    let mut random = Random::new(seed);
    let (mut pool, mut shapes) = (seeds.to_vec(), BTreeSet::new());
    for run in 0..runs {
        let seeding = usize::try_from(run).ok().and_then(|at| seeds.get(at)).cloned();
        let input = seeding.unwrap_or_else(|| {
            let (one, other) = (random.below(pool.len()), random.below(pool.len()));
            mutate(&pool[one], &pool[other], target.tokens, &mut random)
        });
        match attempt(target, &input) {
            Ok(shape) => {
                if shapes.insert(shape) && pool.len() < seeds.len() + POOL {
                    pool.push(input);
                }
            }
            Err(what) => {
                return Report { runs: run + 1, shapes: shapes.len(), finding: Some(Finding { input, what }) };
            }
        }
    }
    Report { runs, shapes: shapes.len(), finding: None }
}

fn attempt(target: &Target, input: &[u8]) -> Result<u64, String> {
    let start = worked();
    let verdict = catch_unwind(AssertUnwindSafe(|| (target.read)(input)));
    let took = worked().saturating_sub(start);
    match verdict {
        Err(panic) => Err(format!("panic: {}", words(panic.as_ref()))),
        Ok(Err(broken)) => Err(broken),
        Ok(Ok(_)) if took > SLOW => Err(format!("took {} ms for {} octets", took.as_millis(), input.len())),
        Ok(Ok(shape)) => Ok(shape),
    }
}

/// For how long this thread has had a processor: what others do on the machine does not count.
fn worked() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map(Duration::from).unwrap_or_default()
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::fuzz;
    use crate::targets::Target;

    fn read(input: &[u8]) -> Result<u64, String> {
        assert!(!input.windows(4).any(|window| window == b"boom"), "it went off");
        if input.starts_with(b"}") { Err("backwards".to_owned()) } else { Ok(input.len() as u64) }
    }

    #[test]
    fn a_panic_and_a_broken_promise_are_found_and_named() {
        let found = |tokens| {
            let target = Target { name: "x", tokens, read };
            fuzz(&target, &[b"{}".to_vec()], 100_000, 1).finding.map(|finding| finding.what)
        };
        assert_eq!(found(&["boom", " "]).as_deref(), Some("panic: it went off"));
        assert_eq!(found(&["}"]).as_deref(), Some("backwards"));
    }

    #[test]
    fn the_same_seed_tries_the_same_inputs() {
        let target = Target { name: "x", tokens: &["a"], read: |input| Ok(input.len() as u64) };
        let shapes = |seed| fuzz(&target, &[b"{\"a\": 1}".to_vec()], 2_000, seed).shapes;
        assert_eq!(shapes(7), shapes(7));
    }
}
