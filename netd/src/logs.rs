//! What the daemon logs, and how. Who logs what is each module's own.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to log. `NETD_LOG` chooses which lines: `info`, or by crate, as in `info,netd=debug`.
pub(crate) fn start() {
    // A journal and a file have no colours.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let wanted = std::env::var("NETD_LOG").ok();
    let read = wanted.as_deref().map(str::parse::<Targets>);
    let chosen = match &read {
        Some(Ok(targets)) => targets.clone(),
        None | Some(Err(_)) => Targets::new().with_default(tracing::Level::INFO),
    };
    tracing_subscriber::registry().with(lines).with(chosen).init();
    if let Some(Err(error)) = read {
        tracing::warn!(NETD_LOG = wanted, %error, "cannot read NETD_LOG; info holds");
    }
}
