//! A CNI error, as the caller reads it on standard output. Which error it is, others decide.

use std::error::Error;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value};

/// CNI's error codes that this program gives itself; all others are netd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    UnsupportedField = 2,
    BadEnvironment = 4,
    InputOutput = 5,
    InvalidConfig = 7,
    InvalidNetns = 8,
    TryAgain = 11,
    NotAvailable = 50,
}

/// What the caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u32,
    pub(crate) message: String,
    pub(crate) details: String,
}

impl Failure {
    /// A failure with its whole chain of causes in the message.
    pub(crate) fn of(code: Code, error: &dyn Error) -> Self {
        Self { code: code as u32, message: netd_api::chain(error), details: String::new() }
    }

    /// The failure as JSON, in the order and with the indentation of the reference plugins. The version of the stanza, where
    /// it is known, stands first: the specification wants it, the reference leaves it out, no caller minds.
    pub(crate) fn to_json(&self, cni_version: Option<&str>) -> Vec<u8> {
        let mut object = Map::new();
        if let Some(version) = cni_version {
            object.insert("cniVersion".to_owned(), version.into());
        }
        object.insert("code".to_owned(), self.code.into());
        object.insert("msg".to_owned(), self.message.as_str().into());
        if !self.details.is_empty() {
            object.insert("details".to_owned(), self.details.as_str().into());
        }
        indented(&Value::Object(object))
    }
}

fn indented(value: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    match value.serialize(&mut serializer) {
        Ok(()) => text,
        // Not reached: texts and numbers always serialize.
        Err(_) => value.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn details_and_version_are_left_out_where_there_are_none() {
        let bare = Failure { code: 4, message: "no \"name\"".to_owned(), details: String::new() };
        assert_eq!(bare.to_json(None), b"{\n    \"code\": 4,\n    \"msg\": \"no \\\"name\\\"\"\n}");
        let full = Failure { details: "a".to_owned(), ..bare };
        let text = String::from_utf8(full.to_json(Some("1.0.0"))).unwrap();
        let expected = "{\n    \"cniVersion\": \"1.0.0\",\n    \"code\": 4,\n    \"msg\": \"no \\\"name\\\"\",\n    \"details\": \"a\"\n}";
        assert_eq!(text, expected);
    }
}
