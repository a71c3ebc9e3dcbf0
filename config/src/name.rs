//! Names that are valid by construction. Which of them exist is the node's business.
//!
//! A clone shares the text: an attachment's name is a key of many maps.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a name cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not an interface name: 1 to 15 bytes, not `.` or `..`, no `/`, `:` or white space (`dev_valid_name`, net/core/dev.c).
    #[error("{0:?} is no interface name: use 1 to 15 bytes without '/', ':' or white space")]
    Link(String),
    /// Not a CNI name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*` (containernetworking/cni, pkg/utils).
    #[error("{0:?} is no CNI name: start with a letter or digit, then letters, digits, '_', '.' or '-'")]
    Cni(String),
}

/// The name of a network interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(Arc<str>);

/// The name of a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(Arc<str>);

/// `CNI_CONTAINERID`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(Arc<str>);

fn is_link(text: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0';
    !text.is_empty() && text.len() <= 15 && text != "." && text != ".." && !text.contains(bad)
}

fn is_cni(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

macro_rules! name {
    ($type:ident, $is:ident, $error:ident) => {
        impl $type {
            /// Takes `text` if it is such a name.
            ///
            /// # Errors
            /// [`NameError`] says what it should look like.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if $is(&text) { Ok(Self(text.into())) } else { Err(NameError::$error(text)) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.as_str().to_owned()
            }
        }
    };
}

name!(LinkName, is_link, Link);
name!(NetworkName, is_cni, Cni);
name!(ContainerId, is_cni, Cni);

#[cfg(test)]
mod tests {
    use super::{LinkName, NetworkName};

    #[test]
    fn link_names_follow_the_kernel() {
        for good in ["eth0", "veth12345678901", "a-b_c.d"] {
            assert!(LinkName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "veth123456789012"] {
            assert!(LinkName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn network_names_follow_cni() {
        assert!(NetworkName::new("nerdctl_1.x-y").is_ok());
        for bad in ["", "-a", "a b", "a/b"] {
            assert!(NetworkName::new(bad).is_err(), "{bad}");
        }
    }
}
