//! A long-lived program that ends with its value, and when this process ends in whatever way. Where it runs is `space`'s.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

use crate::space::Space;

/// A program on a leash.
#[derive(Debug)]
pub(crate) struct Leash {
    shell: Child,
    pub(crate) process: u32,
}

impl Leash {
    /// Starts `words` in `space`, by a shell that ends it when this process closes the shell's input, also by a sudden end.
    /// What it says goes to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(space: &Space, words: &[&str], log: &Path) -> Result<Self> {
        let program = words.first().copied().unwrap_or_default();
        let script = r#""$@" </dev/null >/dev/null & echo $!; read -r _; kill -9 $!; wait"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, "leash"]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(log)?);
        let mut shell = space.run(|| command.spawn().with_context(|| format!("cannot start {program}")))?;
        let mut line = String::new();
        BufReader::new(shell.stdout.take().context("the leash has no output")?).read_line(&mut line)?;
        let process = line.trim().parse().with_context(|| format!("{program} named no process"))?;
        Ok(Self { shell, process })
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // It has been told; there is nobody to tell that it did not end.
        drop(self.shell.wait());
    }
}
