//! The seeds: small files in `corpus/TARGET/` and its folders, committed; links lead to the tables of other tests. An input
//! that was once a finding becomes one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The seeds of a target, in the order of their names.
///
/// # Errors
/// The directory cannot be read, or is empty.
pub fn corpus(target: &str) -> Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let reading = || format!("cannot read the corpus {}", directory.display());
    let mut paths = files(&directory).with_context(reading)?;
    paths.sort();
    ensure!(!paths.is_empty(), "the corpus {} is empty: nothing would be tried", directory.display());
    paths.iter().map(|path| fs::read(path).with_context(reading)).collect()
}

fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { paths.extend(files(&path)?) } else { paths.push(path) }
    }
    Ok(paths)
}
