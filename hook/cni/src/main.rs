//! The CNI door: what a plugin is asked on its environment and standard input is put to netd, and netd's answer is given
//! back. No decision about networks is made here.
//!
//! ```text
//! runtime ─ environment, stdin ─▶ netd-cni ═ descriptors, ttrpc ═▶ netd
//!                                    └─ DEL without netd ─▶ a tombstone
//! ```

mod environment;
mod failure;
mod handover;
mod place;
mod plugin;
mod request;
mod stanza;
mod tombstone;

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use thiserror::Error;

use environment::{Command, Environment};
use failure::{Code, Failure};
use place::Place;
use plugin::Plugin;
use request::Request;
use stanza::Stanza;

/// The stanza did not come.
#[derive(Debug, Error)]
#[error("error reading from stdin")]
struct StdinError(#[from] std::io::Error);

/// What goes to whom.
#[derive(Debug)]
enum Outcome {
    /// Standard output, success.
    Answer(Vec<u8>),
    /// Standard error, success: a person called.
    Banner(String),
    /// Standard output, exit status 1.
    Failed { failure: Failure, cni_version: Option<String> },
}

fn main() -> ExitCode {
    let argv0 = std::env::args_os().next().unwrap_or_default();
    let outcome = run(&argv0, |name| std::env::var_os(name), &mut std::io::stdin());
    let (written, status) = match outcome {
        Outcome::Answer(bytes) => (std::io::stdout().write_all(&bytes), ExitCode::SUCCESS),
        Outcome::Banner(text) => (std::io::stderr().write_all(text.as_bytes()), ExitCode::SUCCESS),
        Outcome::Failed { failure, cni_version } => {
            (std::io::stdout().write_all(&failure.to_json(cni_version.as_deref())), ExitCode::FAILURE)
        }
    };
    // An answer that nobody could read is none.
    if written.is_ok() { status } else { ExitCode::FAILURE }
}

fn run(argv0: &OsStr, variable: impl Fn(&str) -> Option<OsString>, stdin: &mut dyn Read) -> Outcome {
    let mut cni_version = None;
    let outcome = answer(argv0, variable, stdin, &mut cni_version);
    outcome.unwrap_or_else(|failure| Outcome::Failed { failure, cni_version })
}

fn answer(
    argv0: &OsStr,
    variable: impl Fn(&str) -> Option<OsString>,
    stdin: &mut dyn Read,
    cni_version: &mut Option<String>,
) -> Result<Outcome, Failure> {
    let plugin = Plugin::called(argv0).map_err(|error| Failure::of(Code::UnsupportedField, &error))?;
    let Some(environment) = Environment::read(&variable)? else { return Ok(Outcome::Banner(plugin.banner())) };
    if environment.command == Command::Version {
        return Ok(Outcome::Answer(format!("{}\n", plugin::versions()).into_bytes()));
    }
    let mut config = Vec::new();
    let read = stdin.read_to_end(&mut config).map_err(StdinError);
    read.map_err(|error| Failure::of(Code::InputOutput, &error))?;
    let stanza = Stanza::read(&config);
    cni_version.clone_from(&stanza.cni_version);
    let place = Place::find(Path::new(argv0), variable("NETD_RUN_DIR"))
        .map_err(|error| Failure::of(Code::BadEnvironment, &error))?;
    let request = Request { environment, plugin: plugin.kind(&stanza.kind), stanza: &stanza, config, place };
    request.send().map(Outcome::Answer)
}
