//! JSON by the rules of Go's `encoding/json`, because every existing file was only ever read by Go: keys match without
//! regard to case, the last duplicate wins, `null` means absent. What a value means is the caller's.

use std::cell::RefCell;
use std::rc::Rc;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::Mistake;

/// Mistakes found so far in one document.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mistakes(Rc<RefCell<Vec<Mistake>>>);

impl Mistakes {
    pub(crate) fn add(&self, path: &str, code: u32, message: impl Into<String>) {
        self.0.borrow_mut().push(Mistake { path: path.to_owned(), message: message.into(), code });
    }

    pub(crate) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    pub(crate) fn take(&self) -> Vec<Mistake> {
        self.0.take()
    }

    /// Whether a mistake stands at `path` or above it.
    pub(crate) fn blame(&self, path: &str) -> bool {
        let covers = |above: &str| {
            let start = path.get(..above.len()).is_some_and(|start| start.eq_ignore_ascii_case(above));
            start && matches!(path.as_bytes().get(above.len()), None | Some(b'.' | b'['))
        };
        self.0.borrow().iter().any(|mistake| covers(&mistake.path))
    }
}

/// A value as an error shows it: its beginning, where it is long.
pub(crate) fn quote(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// One object of the document, with its path.
#[derive(Debug, Clone)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: String,
    is_list: bool,
    pub(crate) mistakes: Mistakes,
}

impl<'a> Object<'a> {
    pub(crate) fn root(map: &'a Map<String, Value>, mistakes: Mistakes) -> Self {
        Self { map, path: String::new(), is_list: false, mistakes }
    }

    /// The top of a list of plugins. libcni reads it without a Go type, so a key that is written exactly beats all others.
    pub(crate) fn list_root(map: &'a Map<String, Value>, mistakes: Mistakes) -> Self {
        Self { is_list: true, ..Self::root(map, mistakes) }
    }

    /// Where the object stands; empty for the document as a whole.
    pub(crate) fn place(&self) -> &str {
        &self.path
    }

    pub(crate) fn map(&self) -> &'a Map<String, Value> {
        self.map
    }

    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of the last key that matches, `null` left out.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        let exact = self.map.get(key).filter(|value| self.is_list && !value.is_null());
        let mut found = self.map.iter().filter(|(name, value)| name.eq_ignore_ascii_case(key) && !value.is_null());
        exact.or_else(|| found.next_back().map(|(_, value)| value))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter().filter(|(_, value)| !value.is_null())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn wrong(&self, key: &str, message: impl Into<String>) {
        self.mistakes.add(&self.path(key), 7, message);
    }

    pub(crate) fn string(&self, key: &str) -> Option<&'a str> {
        let value = self.value(key)?;
        value.as_str().or_else(|| self.mismatch(key, value, "a string"))
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        let Some(value) = self.value(key) else { return false };
        value.as_bool().or_else(|| self.mismatch(key, value, "true or false")).unwrap_or_default()
    }

    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        let value = self.value(key)?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.or_else(|| self.mismatch(key, value, "a whole number from 0 to 4294967295"))
    }

    pub(crate) fn parsed<T: FromStr>(&self, key: &str, what: &str) -> Option<T> {
        let text = self.string(key).filter(|text| !text.is_empty())?;
        text.parse().ok().or_else(|| self.mismatch(key, &Value::from(text), what))
    }

    pub(crate) fn list(&self, key: &str) -> &'a [Value] {
        let Some(value) = self.value(key) else { return &[] };
        value.as_array().or_else(|| self.mismatch(key, value, "a list")).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn object(&self, key: &str) -> Option<Self> {
        let value = self.value(key)?;
        self.nested(self.path(key), value)
    }

    pub(crate) fn objects(&self, key: &str) -> Vec<Self> {
        self.elements(&self.path(key), self.list(key))
    }

    pub(crate) fn elements(&self, path: &str, list: &'a [Value]) -> Vec<Self> {
        list.iter().enumerate().filter_map(|(at, value)| self.nested(format!("{path}[{at}]"), value)).collect()
    }

    pub(crate) fn strings(&self, key: &str) -> Vec<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned).or_else(|| self.mismatch(key, value, "a string"));
        self.list(key).iter().filter_map(text).collect()
    }

    fn nested(&self, path: String, value: &'a Value) -> Option<Self> {
        let Some(map) = value.as_object() else {
            self.mistakes.add(&path, 7, format!("{} is not an object {{...}}", quote(value)));
            return None;
        };
        Some(Self { map, path, is_list: false, mistakes: self.mistakes.clone() })
    }

    fn mismatch<T>(&self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        self.wrong(key, format!("{} is not {wanted}", quote(value)));
        None
    }
}
