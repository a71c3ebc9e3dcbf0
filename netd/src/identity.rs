//! What an attachment's container is, as policies select it. Pure; who says it is `attachment`'s, what selects it is not here.

use std::collections::BTreeMap;

use netd_config::{Namespaces, Protocol};
use thiserror::Error;

use crate::attachment::{Attachment, LabelState};

/// A label that names a port: `netd/port.NAME` with the value `PORT` or `PORT/PROTOCOL`. No record that netd reads names
/// ports: CRI's `PortMapping` has no name, and nerdctl knows numbers only.
const NAMED_PORT: &str = "netd/port.";
/// The label that Kubernetes gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Octets of a port's name (RFC 6335, section 5.1).
const LONGEST_NAME: usize = 15;

/// What a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity<'a> {
    /// The pod's namespace, or containerd's. Empty where nobody has a record of the container: it is in no namespace.
    pub namespace: &'a str,
    /// Those of `netd.toml`, and Kubernetes' own.
    pub namespace_labels: BTreeMap<String, String>,
    /// The pod's name, nerdctl's, or the container's id.
    pub name: &'a str,
    /// The pod's, or those of containerd's record: nerdctl's, compose's, the user's own.
    pub labels: &'a BTreeMap<String, String>,
    /// Of a container outside of pods, where its record has one.
    pub image: &'a str,
    /// Whose word this is; `None`: the container's door has no labels.
    pub source: Option<&'a str>,
    /// Ports by name.
    pub ports: BTreeMap<(&'a str, Protocol), u16>,
}

/// A label that should name a port and does not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "label {key}={value:?} names no port: write {NAMED_PORT}NAME=8080 or {NAMED_PORT}NAME=8080/udp, NAME of at most \
     {LONGEST_NAME} small letters, digits and -"
)]
pub struct PortMistake {
    /// The label.
    pub key: String,
    /// Its value.
    pub value: String,
}

impl Attachment {
    /// What the container is; `None`: somebody is still to say it, and no policy can be the container's yet.
    #[must_use]
    pub fn identity(&self, namespaces: &Namespaces) -> Option<Identity<'_>> {
        let source = match &self.label_state {
            LabelState::Known { source } => Some(source.as_str()),
            LabelState::None => None,
            LabelState::Pending { .. } => return None,
        };
        let name = if self.name.is_empty() { self.key.container.as_str() } else { &self.name };
        Some(Identity {
            namespace: &self.namespace,
            namespace_labels: labels_of(&self.namespace, namespaces),
            name,
            labels: &self.labels,
            image: &self.image,
            source,
            ports: named_ports(&self.labels).filter_map(Result::ok).collect(),
        })
    }
}

/// What `status` says of labels that should name a port and do not.
#[must_use]
pub fn misnamed_ports<'a>(attachments: impl IntoIterator<Item = &'a Attachment>) -> Vec<String> {
    let of = |one: &Attachment| -> Vec<String> {
        let mistakes = named_ports(&one.labels).filter_map(Result::err);
        mistakes.map(|mistake| format!("{}: {mistake}", one.key)).collect()
    };
    attachments.into_iter().flat_map(of).collect()
}

fn labels_of(namespace: &str, namespaces: &Namespaces) -> BTreeMap<String, String> {
    if namespace.is_empty() {
        return BTreeMap::new();
    }
    let mut labels = namespaces.get(namespace).map(|known| known.labels.clone()).unwrap_or_default();
    labels.insert(NAMESPACE_NAME.to_owned(), namespace.to_owned());
    labels
}

type NamedPort<'a> = ((&'a str, Protocol), u16);

fn named_ports(labels: &BTreeMap<String, String>) -> impl Iterator<Item = Result<NamedPort<'_>, PortMistake>> {
    labels.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(NAMED_PORT)?;
        let mistake = || PortMistake { key: key.clone(), value: value.clone() };
        Some(port(name, value).ok_or_else(mistake))
    })
}

fn port<'a>(name: &'a str, value: &str) -> Option<NamedPort<'a>> {
    let is_of_a_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(is_of_a_name)
        && name.bytes().any(|byte| byte.is_ascii_lowercase());
    let (number, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let number = number.parse().ok().filter(|number| *number != 0)?;
    let said = protocol.to_ascii_lowercase();
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| one.to_string() == said)?;
    is_name.then_some(((name, protocol), number))
}

#[cfg(test)]
mod tests;
