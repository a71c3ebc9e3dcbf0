//! Where a fleet's parts lie in etcd, and what is read back from there.
//!
//! ```text
//! PREFIX/fleet/charter            PREFIX/fleet/blocks/10.1.0.0/24      PREFIX/fleet/peers/NAME  (with its lease)
//! PREFIX/acks/AUTHOR/RECORD/WITNESS
//! PREFIX/sandboxes/of/INSTANCE/CONTAINER    PREFIX/sandboxes/asked/INSTANCE    PREFIX/answers/INSTANCE/BY    (with the lease
//!                                                                             of whoever wrote it)
//! PREFIX/tickets/INSTANCE
//! ```

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::identity::InstanceId;
use crate::peers::NodeRecord;
use crate::view::{Ack, Key, Value};

/// What lies under our prefix and is not ours, or of a later netd.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// A key of another shape.
    #[error("{0:?} is no key of a fleet; remove it, or give the fleet another prefix")]
    Key(String),
    /// A value that this netd cannot read.
    #[error("cannot read what {key:?} says; was it written by a later netd?")]
    Value {
        /// Its key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// A peer's record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) instance: Option<InstanceId>,
    pub(super) why: String,
}

/// The prefix of a fleet.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Protocol(Key),
    Peer(String),
    /// Of a later netd, or of nobody.
    Unknown,
}

/// What a key is about that is said of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Record(InstanceId, String),
    Asked(InstanceId),
    /// The last of a node that ever asked.
    Ticket(InstanceId),
    /// By whom; it is to whoever may read it.
    Answer(InstanceId),
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    pub(super) fn fleet(&self) -> Vec<u8> {
        format!("{}/fleet/", self.prefix).into()
    }

    pub(super) fn acks(&self) -> Vec<u8> {
        format!("{}/acks/", self.prefix).into()
    }

    pub(super) fn acks_to(&self, author: InstanceId) -> Vec<u8> {
        format!("{}/acks/{author}/", self.prefix).into()
    }

    pub(super) fn peer(&self, name: &str) -> Vec<u8> {
        format!("{}/fleet/peers/{name}", self.prefix).into()
    }

    pub(super) fn sandboxes(&self) -> Vec<u8> {
        format!("{}/sandboxes/", self.prefix).into()
    }

    pub(super) fn record(&self, of: InstanceId, container: &str) -> Vec<u8> {
        format!("{}/sandboxes/of/{of}/{container}", self.prefix).into()
    }

    pub(super) fn asked(&self, of: InstanceId) -> Vec<u8> {
        format!("{}/sandboxes/asked/{of}", self.prefix).into()
    }

    pub(super) fn tickets(&self) -> Vec<u8> {
        format!("{}/tickets/", self.prefix).into()
    }

    pub(super) fn ticket(&self, of: InstanceId) -> Vec<u8> {
        format!("{}/tickets/{of}", self.prefix).into()
    }

    pub(super) fn answers_to(&self, of: InstanceId) -> Vec<u8> {
        format!("{}/answers/{of}/", self.prefix).into()
    }

    pub(super) fn answer(&self, of: InstanceId, by: InstanceId) -> Vec<u8> {
        format!("{}/answers/{of}/{by}", self.prefix).into()
    }

    /// What of sandboxes a key is about. What cannot be read is of a later netd.
    pub(super) fn word(&self, key: &[u8]) -> Option<Word> {
        let text = std::str::from_utf8(key).ok()?;
        let rest = text.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        match rest.splitn(4, '/').collect::<Vec<_>>().as_slice() {
            ["sandboxes", "of", of, container] => Some(Word::Record(of.parse().ok()?, (*container).to_owned())),
            ["sandboxes", "asked", of] => Some(Word::Asked(of.parse().ok()?)),
            ["tickets", of] => Some(Word::Ticket(of.parse().ok()?)),
            ["answers", _, by] => Some(Word::Answer(by.parse().ok()?)),
            _ => None,
        }
    }

    pub(super) fn of(&self, key: &Key) -> Vec<u8> {
        let prefix = &self.prefix;
        match key {
            Key::Charter => format!("{prefix}/fleet/charter"),
            Key::Block(block) => format!("{prefix}/fleet/blocks/{block}"),
            Key::Ack(ack) => format!("{prefix}/acks/{}/{}/{}", ack.author, ack.record, ack.witness),
        }
        .into()
    }

    /// # Errors
    /// Something beside the charter or among the blocks that cannot be read.
    pub(super) fn place(&self, key: &[u8]) -> Result<Place, ForeignError> {
        let text = String::from_utf8_lossy(key);
        let rest = text.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        // Who does not know all that is said of blocks decides nothing about them.
        let is_of_blocks = ["fleet/charter", "fleet/blocks"].iter().any(|of| rest.starts_with(of));
        match read(rest) {
            None if is_of_blocks => Err(ForeignError::Key(text.into_owned())),
            place => Ok(place.unwrap_or(Place::Unknown)),
        }
    }
}

fn read(rest: &str) -> Option<Place> {
    let (kind, rest) = rest.split_once('/')?;
    match (kind, rest.split_once('/')) {
        ("fleet", None) if rest == "charter" => Some(Place::Protocol(Key::Charter)),
        ("fleet", Some(("blocks", block))) => Some(Place::Protocol(Key::Block(block.parse().ok()?))),
        ("fleet", Some(("peers", name))) => Some(Place::Peer(name.to_owned())),
        ("acks", Some((author, rest))) => {
            let (record, witness) = rest.split_once('/')?;
            let ack =
                Ack { author: author.parse().ok()?, record: record.parse().ok()?, witness: witness.parse().ok()? };
            Some(Place::Protocol(Key::Ack(ack)))
        }
        _ => None,
    }
}

pub(super) fn encode(value: &Value) -> Result<Vec<u8>, serde_json::Error> {
    match value {
        Value::Charter(charter) => serde_json::to_vec(charter),
        Value::Record(record) => serde_json::to_vec(record),
        Value::Ack => Ok(Vec::new()),
    }
}

pub(super) fn decode(key: &Key, value: &[u8]) -> Result<Value, ForeignError> {
    match key {
        Key::Charter => parse(key, value).map(Value::Charter),
        Key::Block(_) => parse(key, value).map(Value::Record),
        Key::Ack(_) => Ok(Value::Ack),
    }
}

/// One that cannot be read is one node's trouble: who it is from, if it says so, and why.
pub(super) fn peer(value: &[u8]) -> Result<NodeRecord, Unreadable> {
    #[derive(Deserialize)]
    struct Author {
        instance: Option<InstanceId>,
    }
    serde_json::from_slice(value).map_err(|error| Unreadable {
        instance: serde_json::from_slice(value).ok().and_then(|author: Author| author.instance),
        why: error.to_string(),
    })
}

fn parse<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, ForeignError> {
    serde_json::from_slice(value).map_err(|source| ForeignError::Value { key: format!("{key:?}"), source })
}

#[cfg(test)]
mod tests {
    use super::{Keys, Place, Word};
    use crate::identity::{InstanceId, RecordId};
    use crate::view::{Ack, Key};

    #[test]
    fn keys_are_read_back() {
        let keys = Keys::new("/netd/");
        let ack = Ack { author: InstanceId::new(1), record: RecordId::new(2), witness: InstanceId::new(3) };
        for key in [Key::Charter, Key::Block("fd00::/64".parse().unwrap()), Key::Ack(ack)] {
            assert_eq!(keys.place(&keys.of(&key)).unwrap(), Place::Protocol(key));
        }
        assert_eq!(keys.place(&keys.peer("a.b")).unwrap(), Place::Peer("a.b".to_owned()));
        let [one, other] = [InstanceId::new(1), InstanceId::new(2)];
        assert_eq!(keys.word(&keys.record(one, "web-1/x")), Some(Word::Record(one, "web-1/x".to_owned())));
        assert_eq!(keys.word(&keys.asked(one)), Some(Word::Asked(one)));
        assert_eq!(keys.word(&keys.ticket(one)), Some(Word::Ticket(one)));
        assert_eq!(keys.word(&keys.answer(one, other)), Some(Word::Answer(other)));
        assert_eq!(keys.word(b"/netd/sandboxes/later/1"), None);
        for foreign in ["/netd/fleet/charter/x", "/netd/fleet/blocks/x", "/netd/fleet/blocks-2/10.0.0.0/24"] {
            assert!(keys.place(foreign.as_bytes()).is_err(), "{foreign}");
        }
        for unknown in ["/netd/fleet/later", "/netd/fleet/later/x", "/netd/acks/1/2/3"] {
            assert_eq!(keys.place(unknown.as_bytes()).unwrap(), Place::Unknown, "{unknown}");
        }
    }
}
