//! `netd.toml`: the node's settings.

use serde::Deserialize;

use crate::error::{ConfigErrors, Mistake};

/// The node's settings, each with its default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Two instances on one node need two names.
    pub instance: String,
    /// State that ends with the boot.
    pub run_dir: String,
    /// Where the API listens.
    pub socket: String,
    /// First letters of the links that netd makes; at most 4 bytes.
    pub link_prefix: String,
    /// Threads of the daemon's runtime.
    pub workers: usize,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            instance: "netd".to_owned(),
            run_dir: "/run/netd".to_owned(),
            socket: "/run/netd/netd.sock".to_owned(),
            link_prefix: "nd".to_owned(),
            workers: 2,
        }
    }
}

impl NodeConfig {
    /// Reads the text of `file_name`.
    ///
    /// # Errors
    /// What is wrong, where, and what to write instead.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let mistake = |path: &str, message: String| Mistake { path: path.to_owned(), message, code: 7 };
        let config: Self =
            toml::from_str(text).map_err(|error| ConfigErrors::new(file_name, vec![mistake("", error.to_string())]))?;
        let mut mistakes = Vec::new();
        let prefix = &config.link_prefix;
        if prefix.is_empty() || prefix.len() > 4 || !prefix.chars().all(|c| c.is_ascii_alphanumeric()) {
            mistakes.push(mistake("link_prefix", format!("{prefix:?} must be 1 to 4 letters or digits")));
        }
        if config.workers == 0 {
            mistakes.push(mistake("workers", "0 threads do no work; use 1 or more".to_owned()));
        }
        for (key, path) in [("run_dir", &config.run_dir), ("socket", &config.socket)] {
            if !path.starts_with('/') {
                mistakes.push(mistake(key, format!("{path:?} is not absolute; start it with /")));
            }
        }
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigErrors::new(file_name, mistakes)) }
    }
}
