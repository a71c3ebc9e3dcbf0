//! `netdctl`: reads the command line, asks netd, writes the answer. How an answer looks is `render.rs`.

mod arguments;
mod ask;
mod doctor;
mod find;
mod fleet;
mod model;
mod policy;
mod render;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use netd_config::NodeConfig;
use netdctl::flannel::{self, FlannelError};
use serde::Serialize;
use thiserror::Error;

use arguments::{Arguments, Block, Command, Lease, Network, Output, Peer, Pool, Sandbox, Translate};
use ask::{AskError, Netd};
use doctor::Place;
use find::FindError;
use policy::PolicyError;
use render::Look;

/// The node's settings.
pub(crate) const SETTINGS: &str = "/etc/netd/netd.toml";

#[derive(Debug, Error)]
enum Failed {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Flannel(#[from] FlannelError),
    #[error("cannot write the answer as JSON")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the manual pages to {directory}; name a folder that is there and may be written")]
    Man { directory: PathBuf, source: io::Error },
}

/// Of commands that say yes or no: neither.
const NO_ANSWER: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let failed = if arguments.command.judges() { ExitCode::from(NO_ANSWER) } else { ExitCode::FAILURE };
    match answer(&arguments) {
        Ok(answer) => match write(&answer.text) {
            Ok(()) if answer.ill => ExitCode::FAILURE,
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("cannot write to standard output: {error}"));
                failed
            }
        },
        Err(error) => {
            complain(&netd_api::chain(&error));
            failed
        }
    }
}

/// What is written, and whether it tells of a problem.
struct Answer {
    text: String,
    ill: bool,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, ill: false }
    }
}

fn answer(arguments: &Arguments) -> Result<Answer, Failed> {
    let socket = arguments.socket.clone().unwrap_or_else(|| socket(Path::new(SETTINGS)));
    let terminal = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let look = Look { full_ids: arguments.no_trunc, colour: terminal };
    let netd = || Netd::connect(&socket);
    match &arguments.command {
        Command::Status => show(arguments, &netd()?.status()?, |status| render::status(status, look)),
        Command::Network(Network::Ls) => {
            let mut networks = netd()?.networks()?;
            networks.iter_mut().for_each(|network| network.config = None);
            show(arguments, &networks, |networks| render::networks(networks))
        }
        Command::Network(Network::Inspect { name }) => {
            show(arguments, &find::network(netd()?.networks()?, name)?, |network| render::network(network, look))
        }
        Command::Sandbox(Sandbox::Ls) => {
            show(arguments, &netd()?.sandboxes()?, |sandboxes| render::sandboxes(sandboxes, look))
        }
        Command::Sandbox(Sandbox::Inspect { id }) => {
            show(arguments, &find::sandbox(netd()?.sandboxes()?, id)?, render::sandbox)
        }
        Command::Lease(Lease::Ls) => {
            show(arguments, &model::leases(&netd()?.sandboxes()?), |leases| render::leases(leases, look))
        }
        Command::Policy(command) => policy::answer(arguments, command, look, netd),
        Command::Node(command) => fleet::nodes(arguments, command, look, netd),
        Command::Pool(Pool::Add { pool }) => fleet::add_pool(arguments, pool.clone(), look, &netd()?),
        Command::Block(Block::Ls) => fleet::blocks(arguments, &netd()?),
        Command::Peer(Peer::Check { name }) => fleet::check(arguments, name.clone(), look, &netd()?),
        Command::Translate(Translate::Flannel { file, etcd }) => {
            let text = policy::text(file)?;
            let translated = flannel::translate(&String::from_utf8_lossy(&text), etcd)?;
            show(arguments, &translated, |translated| translated.settings.clone())
        }
        Command::Drops(command) => policy::drops(arguments, command, &netd()?),
        Command::Resync(resync) => show(arguments, &netd()?.resync(resync.dry_run)?, render::plan),
        Command::Doctor => {
            let findings = doctor::examine(&doctor::gather(&Place { root: "/".into(), socket: socket.clone() }));
            let answer = show(arguments, &findings, |findings| doctor::table(findings, look))?;
            Ok(Answer { ill: doctor::is_ill(&findings), ..answer })
        }
        Command::Completion { shell } => Ok(completion(*shell).into()),
        Command::Man { directory } => {
            let man = |source| Failed::Man { directory: directory.clone(), source };
            clap_mangen::generate_to(Arguments::command(), directory).map_err(man)?;
            Ok(String::new().into())
        }
    }
}

fn show<T: Serialize>(arguments: &Arguments, answer: &T, table: impl Fn(&T) -> String) -> Result<Answer, Failed> {
    Ok(match arguments.output {
        Output::Table => table(answer).into(),
        Output::Json => render::json(answer)?.into(),
    })
}

/// Where netd listens, as its settings say. Mistakes in them are netd's own business to complain about.
fn socket(settings: &Path) -> PathBuf {
    NodeConfig::socket_of(&std::fs::read_to_string(settings).unwrap_or_default()).into()
}

fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "netdctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
fn write(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[expect(clippy::print_stderr, reason = "the one place where netdctl complains")]
fn complain(text: &str) {
    eprintln!("netdctl: {text}");
}
