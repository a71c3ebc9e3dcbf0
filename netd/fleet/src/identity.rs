//! Who is who in a fleet. Numbers are random, are never used twice, and are chosen by the caller.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text names nobody.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentityError {
    /// No node name.
    #[error("{0:?} is no node name: use 1 to 63 letters, digits, '-' or '.', and a letter or digit first")]
    Name(String),
    /// No number.
    #[error("{0:?} is no identity: 32 hexadecimal digits are one")]
    Number(String),
}

/// What a node is called. Two nodes may have one name, one after the other; [`InstanceId`] tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Takes `text` if it is such a name.
    ///
    /// # Errors
    /// [`IdentityError::Name`].
    pub fn new(text: impl Into<String>) -> Result<Self, IdentityError> {
        let text = text.into();
        let fits = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'));
        if fits { Ok(Self(text)) } else { Err(IdentityError::Name(text)) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, IdentityError> {
        Self::new(text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

macro_rules! number {
    ($($(#[$about:meta])* $type:ident),+ $(,)?) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(u128);

        impl $type {
            /// The identity with this number, which must be a new random one.
            #[must_use]
            pub const fn new(random: u128) -> Self {
                Self(random)
            }

            /// The number.
            #[must_use]
            pub fn number(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl FromStr for $type {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
                number.map(Self).ok_or_else(|| IdentityError::Number(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdentityError;

            fn try_from(text: String) -> Result<Self, IdentityError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(number: $type) -> Self {
                number.to_string()
            }
        }
    )+};
}

number! {
    /// One node with one disk. A node whose disk was lost is another, also under the same name.
    InstanceId,
    /// One claim to a range. It is never claimed again once it is given up.
    ClaimId,
    /// One state of one block.
    RecordId,
    /// One fleet, from its founding.
    FleetId,
    /// One incarnation of a fleet's store.
    IncarnationId,
    /// What one node told a store that had forgotten something.
    TellingId,
    /// One question of a node whether others have forgotten what it withdrew.
    TicketId,
}

#[cfg(test)]
mod tests {
    use super::{InstanceId, NodeName};

    #[test]
    fn names_are_names() {
        for good in ["a", "node-1", "cart.example.org", "7"] {
            assert_eq!(NodeName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a b", "a/b", &"a".repeat(64)] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_are_written_whole() {
        let id = InstanceId::new(0xabc);
        assert_eq!(id.to_string(), "00000000000000000000000000000abc");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<InstanceId>().is_err());
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }
}
