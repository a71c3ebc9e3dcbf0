//! `cargo xtask guest`: a command in another kernel, by hand. What tests run there is in the rig's `tests/guests.rs`.

use std::time::Duration;

use anyhow::{Result, bail};
use netd_rig::Guest;

use crate::say;

const LIMIT: Duration = Duration::from_secs(3_600);

/// Runs a shell command as root of the guest and shows what it printed.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [kernel, command @ ..] = arguments else { bail!(usage()) };
    let Some(guest) = Guest::ALL.into_iter().find(|guest| guest.name() == kernel) else { bail!(usage()) };
    if command.is_empty() {
        bail!(usage());
    }
    let outcome = guest.run(&command.join(" "), LIMIT)?;
    say(outcome.output.trim_end());
    say(&format!("status {} after {:.1?}", outcome.status, outcome.took));
    if outcome.status == 0 { Ok(()) } else { bail!("the command failed in the guest") }
}

fn usage() -> String {
    let names = Guest::ALL.map(Guest::name).join(" | ");
    format!("usage: cargo xtask guest {{{names}}} COMMAND...; it sees this machine's files, and what it writes is lost")
}
