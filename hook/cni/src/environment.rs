//! The environment of a call, checked as the reference plugins check it (containernetworking/cni, pkg/skel and pkg/utils).
//! The messages are theirs. The stanza on standard input is not looked at.

use std::ffi::OsString;

use thiserror::Error;

use crate::failure::{Code, Failure};

/// What the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Command {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// Variables without which the command makes no sense, in the order in which they are reported.
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Self::Gc | Self::Status => &["CNI_PATH"],
            Self::Version => &[],
        }
    }

    /// Whether it speaks of one sandbox.
    fn is_of_a_sandbox(self) -> bool {
        match self {
            Self::Add | Self::Del | Self::Check => true,
            Self::Gc | Self::Status | Self::Version => false,
        }
    }
}

/// A checked environment. Texts are empty where the command needs none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) interface: String,
    pub(crate) arguments: String,
    /// `CNI_NETNS_OVERRIDE`: the sandbox may be the plugin's own namespace.
    pub(crate) may_share_netns: bool,
}

/// Why a call cannot be understood.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum EnvironmentError {
    #[error("required env variables [{}] missing", .0.join(","))]
    Missing(Vec<&'static str>),
    #[error("unknown CNI_COMMAND: {0}")]
    Command(String),
    #[error("{0} is not valid UTF-8; netd takes no such value")]
    Encoding(&'static str),
    #[error("invalid characters in containerID")]
    ContainerId(String),
    #[error("interface name is too long")]
    LongInterface,
    #[error("interface name is . or ..")]
    DotInterface,
    #[error("interface name contains / or : or whitespace characters")]
    Interface,
}

impl From<EnvironmentError> for Failure {
    fn from(error: EnvironmentError) -> Self {
        let mut failure = Self::of(Code::BadEnvironment, &error);
        failure.details = match error {
            EnvironmentError::ContainerId(id) => id,
            EnvironmentError::LongInterface => "interface name should be less than 16 characters".to_owned(),
            EnvironmentError::Missing(_)
            | EnvironmentError::Command(_)
            | EnvironmentError::Encoding(_)
            | EnvironmentError::DotInterface
            | EnvironmentError::Interface => String::new(),
        };
        failure
    }
}

impl Environment {
    /// Reads the environment through `variable`. `None`: there is no `CNI_COMMAND`, so a person called, not a runtime.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, EnvironmentError> {
        let text = |name: &'static str| {
            let value = variable(name).unwrap_or_default();
            value.into_string().map_err(|_| EnvironmentError::Encoding(name))
        };
        let command = text("CNI_COMMAND")?;
        if command.is_empty() {
            return Ok(None);
        }
        let command = Command::parse(&command).ok_or(EnvironmentError::Command(command))?;
        let is_missing = |name: &&str| variable(name).is_none_or(|value| value.is_empty());
        let missing: Vec<&str> = command.required().iter().copied().filter(is_missing).collect();
        if !missing.is_empty() {
            return Err(EnvironmentError::Missing(missing));
        }
        let of_sandbox = |name| if command.is_of_a_sandbox() { text(name) } else { Ok(String::new()) };
        let environment = Self {
            command,
            container_id: of_sandbox("CNI_CONTAINERID")?,
            netns: of_sandbox("CNI_NETNS")?,
            interface: of_sandbox("CNI_IFNAME")?,
            arguments: of_sandbox("CNI_ARGS")?,
            may_share_netns: matches!(text("CNI_NETNS_OVERRIDE")?.to_ascii_uppercase().as_str(), "1" | "TRUE"),
        };
        if command.is_of_a_sandbox() {
            environment.check_names()?;
        }
        Ok(Some(environment))
    }

    fn check_names(&self) -> Result<(), EnvironmentError> {
        if !is_cni_name(&self.container_id) {
            return Err(EnvironmentError::ContainerId(self.container_id.clone()));
        }
        let interface = self.interface.as_str();
        if interface.len() > 15 {
            return Err(EnvironmentError::LongInterface);
        }
        if matches!(interface, "." | "..") {
            return Err(EnvironmentError::DotInterface);
        }
        if interface.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace()) {
            return Err(EnvironmentError::Interface);
        }
        Ok(())
    }
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`
pub(crate) fn is_cni_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests;
