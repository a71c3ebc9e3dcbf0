//! The seeds: small files in `corpus/TARGET/`, committed. An input that was once a finding becomes one.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The seeds of a target, in the order of their names.
///
/// # Errors
/// The directory cannot be read, or is empty.
pub fn corpus(target: &str) -> Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let reading = || format!("cannot read the corpus {}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(&directory).with_context(reading)? {
        paths.push(entry.with_context(reading)?.path());
    }
    paths.sort();
    ensure!(!paths.is_empty(), "the corpus {} is empty: nothing would be tried", directory.display());
    paths.iter().map(|path| fs::read(path).with_context(reading)).collect()
}
