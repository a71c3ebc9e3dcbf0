//! Walks a file along the tables of known keys: which keys nobody reads, and which values are of the wrong kind. What
//! a value means, and whether netd can do it, is `stanza`'s.

use serde_json::{Map, Value};

use super::known::{self, Kind, Table};
use crate::json::{Mistakes, Object, quote};

/// Where an object stands in its file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// A list of plugins.
    Top,
    /// An entry of the list.
    Listed,
    /// The only plugin, which is the whole file.
    Single,
}

/// Adds values of the wrong kind to the object's mistakes; returns the paths of unknown keys. A type that is not
/// official has keys of its own, which are not judged.
pub(super) fn check(object: &Object<'_>, place: Place) -> Vec<String> {
    let own = || object.value("type").and_then(Value::as_str).and_then(known::plugin);
    let tables = match place {
        Place::Top => vec![known::TOP],
        Place::Listed => own().map_or_else(Vec::new, |own| vec![own, known::EVERY_PLUGIN]),
        Place::Single => own().map_or_else(Vec::new, |own| vec![own, known::EVERY_PLUGIN, known::TOP]),
    };
    let mut walk = Walk { mistakes: object.mistakes.clone(), unknown: Vec::new() };
    if !tables.is_empty() {
        walk.object(object.place(), object.map(), &tables);
    }
    walk.unknown
}

struct Walk {
    mistakes: Mistakes,
    unknown: Vec<String>,
}

impl Walk {
    fn object(&mut self, place: &str, map: &Map<String, Value>, tables: &[Table]) {
        for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
            let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            let mut rows = tables.iter().flat_map(|table| table.iter());
            match rows.find(|(known, _)| known.eq_ignore_ascii_case(key)) {
                Some((_, kind)) => self.value(&path, value, *kind),
                None => self.unknown.push(path),
            }
        }
    }

    fn value(&mut self, path: &str, value: &Value, kind: Kind) {
        match kind {
            Kind::Any => {}
            Kind::Flag => self.expect(path, value, value.is_boolean(), "true or false"),
            Kind::Number => self.expect(path, value, value.is_i64() || value.is_u64(), "a whole number"),
            Kind::Text => self.expect(path, value, value.is_string(), "a string"),
            Kind::Texts => self.elements(path, value, Kind::Text),
            Kind::Object(table) => self.nested(path, value, &[table]),
            Kind::Objects(table) => match value.as_array() {
                Some(list) => self.each(path, list, |walk, path, one| walk.nested(path, one, &[table])),
                None => self.expect(path, value, false, "a list"),
            },
            Kind::RangeSets => match value.as_array() {
                Some(sets) => self.each(path, sets, Self::range_set),
                None => self.expect(path, value, false, "a list"),
            },
            Kind::Ipam => self.ipam(path, value),
        }
    }

    fn elements(&mut self, path: &str, value: &Value, kind: Kind) {
        match value.as_array() {
            Some(list) => self.each(path, list, |walk, path, one| walk.value(path, one, kind)),
            None => self.expect(path, value, false, "a list"),
        }
    }

    fn each(&mut self, path: &str, list: &[Value], mut visit: impl FnMut(&mut Self, &str, &Value)) {
        for (at, one) in list.iter().enumerate() {
            visit(self, &format!("{path}[{at}]"), one);
        }
    }

    /// A set, or a lone range: go-cni sends the sets of a capability without their inner lists.
    fn range_set(&mut self, path: &str, set: &Value) {
        match set.as_object() {
            Some(range) => self.object(path, range, &[known::RANGE]),
            None => self.value(path, set, Kind::Objects(known::RANGE)),
        }
    }

    fn ipam(&mut self, path: &str, value: &Value) {
        let Some(map) = value.as_object() else { return self.nested(path, value, &[]) };
        let kind = map.iter().rfind(|(key, value)| key.eq_ignore_ascii_case("type") && !value.is_null());
        if let Some(table) = kind.and_then(|(_, kind)| kind.as_str()).and_then(known::ipam) {
            self.object(path, map, &[table, known::EVERY_IPAM]);
        }
    }

    fn nested(&mut self, path: &str, value: &Value, tables: &[Table]) {
        match value.as_object() {
            Some(map) => self.object(path, map, tables),
            None => self.expect(path, value, false, "an object {...}"),
        }
    }

    /// Silent where the stanza's own reading has already found fault there or above.
    fn expect(&self, path: &str, value: &Value, is_right: bool, wanted: &str) {
        if !is_right && !self.mistakes.blame(path) {
            self.mistakes.add(path, 7, format!("{} is not {wanted}", quote(value)));
        }
    }
}
