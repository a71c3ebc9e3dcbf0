//! What other nodes write into the store, and this one on its disk: a value that is read is written as it was read.

use netd_fleet::{Charter, Memory, NodeRecord, Record, SandboxRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "instance",
    "name",
    "addresses",
    "blocks",
    "encapsulations",
    "accepts",
    "mtu",
    "labels",
    "version",
    "needs",
    "namespace_labels",
    "ports",
    "fleet",
    "plan",
    "pools",
    "reserved",
    "witnesses",
    "removed",
    "phase",
    "Settling",
    "Open",
    "epoch",
    "author",
    "incarnation",
    "sealed",
    "claims",
    "owner",
    "holdings",
    "\"00000000000000000000000000000001\"",
    "\"10.4.0.0/26\"",
    "\"fd00::/64\"",
    "\"10.4.0.1/26\"",
    "\"192.0.2.1\"",
    "\"vxlan\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "true",
];

pub(super) fn values(input: &[u8]) -> Verdict {
    let read = [
        same::<NodeRecord>(input)?,
        same::<SandboxRecord>(input)?,
        same::<Charter>(input)?,
        same::<Record>(input)?,
        same::<Memory>(input)?,
    ];
    // What is no value of either, by how far it was read.
    let error = serde_json::from_slice::<Charter>(input).err().map(|error| error.to_string());
    let words = error.map(|error| error.chars().filter(|letter| !letter.is_ascii_digit()).take(24).collect::<String>());
    Ok(shape((read, words)))
}

/// How long it is as it is written, roughly; `None`: it is no such value.
fn same<T: DeserializeOwned + Serialize + PartialEq>(input: &[u8]) -> Result<Option<usize>, String> {
    let Ok(value) = serde_json::from_slice::<T>(input) else { return Ok(None) };
    let written = serde_json::to_vec(&value).map_err(|error| format!("read, and not to be written: {error}"))?;
    let again: T = serde_json::from_slice(&written).map_err(|error| format!("unreadable as written: {error}"))?;
    promise(again == value, || format!("written as {}", String::from_utf8_lossy(&written)))?;
    Ok(Some(written.len() / 32))
}
