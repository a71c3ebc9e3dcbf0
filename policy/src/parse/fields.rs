//! A document's fields, each with its path and place, so that every mistake can be told at once. What they mean is for
//! the files beside this one.

use std::cell::RefCell;

use super::fault::{Fault, Faults, join};
use super::scalar::Scalar;
use super::yaml::{Entry, Place, Tree, Value};

/// One value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) tree: &'a Tree,
    pub(super) path: String,
    pub(super) faults: &'a Faults,
}

/// A map whose keys are asked for one by one; [`Object::close`] tells of those that nobody asked for.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) field: Field<'a>,
    entries: &'a [Entry],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Field<'a> {
    pub(super) fn line(&self) -> usize {
        self.tree.place.line
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.tree.value, Value::Scalar(Scalar::Null))
    }

    /// Tells that the value is wrong.
    pub(super) fn wrong(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.tell(self.tree.place, self.path.clone(), Some(shown(self.tree)), problem.into(), remedy.into());
    }

    /// Tells that something is missing or superfluous here, where no value can be shown.
    pub(super) fn lacks(&self, problem: impl Into<String>, remedy: impl Into<String>) {
        self.tell(self.tree.place, self.path.clone(), None, problem.into(), remedy.into());
    }

    fn tell(&self, place: Place, path: String, value: Option<String>, problem: String, remedy: String) {
        self.faults.add(Fault { line: place.line, column: place.column, path, value, problem, remedy });
    }

    pub(super) fn object(&self) -> Option<Object<'a>> {
        match &self.tree.value {
            Value::Map(entries) => Some(Object { field: self.clone(), entries, known: RefCell::default() }),
            Value::Scalar(_) | Value::List(_) => {
                self.wrong("is no map", "write keys below it, or {}");
                None
            }
        }
    }

    pub(super) fn list(&self) -> Option<Vec<Self>> {
        match &self.tree.value {
            Value::List(items) => Some(
                items
                    .iter()
                    .enumerate()
                    .map(|(number, tree)| Self { tree, path: format!("{}[{number}]", self.path), faults: self.faults })
                    .collect(),
            ),
            Value::Scalar(_) | Value::Map(_) => {
                self.wrong("is no list", "write items below it, each after \"- \"");
                None
            }
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.tree.value {
            Value::Scalar(Scalar::Text(text)) => Some(text),
            Value::Scalar(Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_)) => {
                self.wrong("is no text to YAML", "put it in quotes");
                None
            }
            Value::Scalar(Scalar::Null) | Value::List(_) | Value::Map(_) => {
                self.wrong("is no text", "write one value here");
                None
            }
        }
    }

    /// A whole number between `least` and `most`.
    pub(super) fn number(&self, least: u16, most: u16) -> Option<u16> {
        match &self.tree.value {
            Value::Scalar(Scalar::Int(number)) => match u16::try_from(*number) {
                Ok(number) if (least..=most).contains(&number) => Some(number),
                Ok(_) | Err(_) => {
                    self.wrong("is out of range", format!("use {least} to {most}"));
                    None
                }
            },
            Value::Scalar(Scalar::Text(text)) if text.parse::<u16>().is_ok() => {
                self.wrong("is text", "take the quotes away: it must be a number");
                None
            }
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => {
                self.wrong("is no whole number", format!("use {least} to {most}"));
                None
            }
        }
    }

    pub(super) fn is(&self, word: &str) -> bool {
        matches!(&self.tree.value, Value::Scalar(Scalar::Text(text)) if text == word)
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.tree.value, Value::Scalar(Scalar::Int(_) | Scalar::Float(_)))
    }

    /// The one of `found` that is there: what stands in each of the fields `names`, as far as it could be read.
    pub(super) fn only<T>(&self, mut found: Vec<Option<T>>, names: &str) -> Option<T> {
        if found.len() != 1 {
            self.wrong("must have exactly one field", format!("choose {names}"));
            return None;
        }
        found.pop().flatten()
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = match &self.tree.value {
            Value::Scalar(Scalar::Int(_) | Scalar::Float(_)) => "",
            Value::Scalar(_) | Value::List(_) | Value::Map(_) => self.text()?,
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.wrong("is unknown here", format!("use {}", all.join(", ")));
        None
    }
}

impl<'a> Object<'a> {
    /// The value of `key`; `None` if it is missing or null.
    pub(super) fn find(&self, key: &'static str) -> Option<Field<'a>> {
        self.known.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.at(entry)).filter(|field| !field.is_null())
    }

    /// The value of `key`, which must be there.
    pub(super) fn require(&self, key: &'static str, remedy: &str) -> Option<Field<'a>> {
        let found = self.find(key);
        if found.is_none() {
            self.field.lacks(format!("{key} is missing"), remedy);
        }
        found
    }

    /// All keys and values, for maps with free keys.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.at(entry)))
    }

    /// Tells of every key that was not asked for.
    pub(super) fn close(self) {
        let known = self.known.borrow();
        for entry in self.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let remedy = match nearest(&entry.key, &known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("the fields here are {}", known.join(", ")),
            };
            self.field.tell(
                entry.place,
                self.field.path.clone(),
                None,
                format!("unknown field {:?}", entry.key),
                remedy,
            );
        }
    }

    fn at(&self, entry: &'a Entry) -> Field<'a> {
        Field { tree: &entry.value, path: join(&self.field.path, &entry.key), faults: self.field.faults }
    }
}

fn shown(tree: &Tree) -> String {
    match &tree.value {
        Value::Scalar(Scalar::Null) => "null".to_owned(),
        Value::Scalar(Scalar::Bool(value)) => value.to_string(),
        Value::Scalar(Scalar::Int(number)) => number.to_string(),
        Value::Scalar(Scalar::Float(text)) => text.clone(),
        Value::Scalar(Scalar::Text(text)) if text.chars().count() > 60 => {
            format!("{:?}...", text.chars().take(57).collect::<String>())
        }
        Value::Scalar(Scalar::Text(text)) => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a map".to_owned(),
    }
}

/// The known key that was probably meant.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |name: &str| edits(&key.to_lowercase(), &name.to_lowercase());
    let best = known.iter().copied().min_by_key(|name| distance(name))?;
    (distance(best) <= 2).then_some(best)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
