//! YAML and JSON text to trees with places, by the rules of kubectl. What the keys mean is `fields.rs` and on.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::fault::{Fault, Faults, join};
use super::scalar::{Scalar, resolve};

/// Deeper than any policy.
const DEEPEST: usize = 40;
/// What aliases may copy in one file: a file of nested aliases grows without end.
const COPIES: usize = 100_000;

/// Where a node starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// A node.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar(Scalar),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Tree,
}

/// The documents of `text`, as far as it can be read.
pub(super) fn documents(text: &str, faults: &Faults) -> Vec<Tree> {
    let mut builder = Builder { faults, open: Vec::new(), anchors: BTreeMap::new(), done: Vec::new(), copies: 0 };
    let mut parser = Parser::new_from_str(text);
    while let Some(next) = parser.next_event() {
        match next {
            Ok((Event::StreamEnd, _)) => break,
            Ok((event, span)) => {
                if builder.take(event, span).is_none() {
                    break;
                }
            }
            Err(error) => {
                let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
                builder.fault(place, format!("this is no YAML: {}", error.info()), "correct the text from here on");
                break;
            }
        }
    }
    builder.done
}

/// A list or map that is not complete.
struct Open {
    place: Place,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Tree>),
    Map { entries: Vec<Entry>, key: Option<(Key, Place)>, merged: Vec<Entry> },
}

/// A key whose value comes next.
enum Key {
    Text(String),
    /// `<<`: the value's keys belong here.
    Merge,
    /// Told already.
    Wrong,
}

struct Builder<'a> {
    faults: &'a Faults,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Tree>,
    done: Vec<Tree>,
    copies: usize,
}

impl Builder<'_> {
    /// `None` where reading on makes no sense.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Scalar(text, style, anchor, tag) => self.scalar(place, &text, style, anchor, tag.as_ref()),
            Event::SequenceStart(anchor, _) => self.start(place, anchor, Inside::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.start(place, anchor, Inside::Map { entries: Vec::new(), key: None, merged: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => self.alias(place, id),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Some(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
        }
    }

    fn scalar(
        &mut self,
        place: Place,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Cow<'_, Tag>>,
    ) -> Option<()> {
        let is_text = style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.suffix == "str");
        if let Some(tag) = tag.filter(|tag| tag.suffix != "str") {
            self.fault(place, format!("has the tag {tag}"), "policies have no tags: write the value without it");
        }
        let is_merge = text == "<<" && style == ScalarStyle::Plain;
        let scalar = if is_text { Scalar::Text(text.to_owned()) } else { resolve(text) };
        self.node(Tree { value: Value::Scalar(scalar), place }, anchor, is_merge)
    }

    fn start(&mut self, place: Place, anchor: usize, inside: Inside) -> Option<()> {
        if self.open.len() >= DEEPEST {
            self.fault(place, "is nested deeper than any policy".to_owned(), "take the nesting apart");
            return None;
        }
        self.open.push(Open { place, anchor, inside });
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let Open { place, anchor, inside } = self.open.pop()?;
        let value = match inside {
            Inside::List(items) => Value::List(items),
            Inside::Map { entries, merged, .. } => {
                self.repeated(&entries);
                Value::Map(with_merged(entries, merged))
            }
        };
        self.node(Tree { value, place }, anchor, false)
    }

    /// Tells of keys that stand twice in one map.
    fn repeated(&self, entries: &[Entry]) {
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_by(|one, other| one.key.cmp(&other.key));
        for same in sorted.chunk_by(|one, other| one.key == other.key) {
            for again in &same[1..] {
                let path = join(&self.path(), &again.key);
                let remedy = format!("keep one; the first is in line {}", same[0].place.line);
                self.fault_at(again.place, path, format!("the key {:?} stands here again", again.key), &remedy);
            }
        }
    }

    fn alias(&mut self, place: Place, id: usize) -> Option<()> {
        let Some(tree) = self.anchors.get(&id).cloned() else {
            self.fault(place, "refers to a node that is not complete".to_owned(), "write the value out");
            return None;
        };
        self.copies += size(&tree);
        if self.copies > COPIES {
            self.fault(place, "repeats too much by aliases".to_owned(), "write fewer aliases of aliases");
            return None;
        }
        self.node(tree, 0, false)
    }

    /// Puts a complete node where it belongs.
    fn node(&mut self, tree: Tree, anchor: usize, is_merge: bool) -> Option<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, tree.clone());
        }
        let place = tree.place;
        let told = match self.open.last_mut().map(|open| &mut open.inside) {
            None => {
                self.done.push(tree);
                None
            }
            Some(Inside::List(items)) => {
                items.push(tree);
                None
            }
            Some(Inside::Map { entries, key, merged }) => match key.take() {
                Some((Key::Text(key), place)) => {
                    entries.push(Entry { key, place, value: tree });
                    None
                }
                Some((Key::Merge, _)) => merge(tree, merged),
                Some((Key::Wrong, _)) => None,
                None => {
                    let (found, told) = match key_of(&tree, is_merge) {
                        Ok(found) => (found, None),
                        Err(problem) => (Key::Wrong, Some((problem, "write it as text, in quotes"))),
                    };
                    *key = Some((found, place));
                    told
                }
            },
        };
        if let Some((problem, remedy)) = told {
            self.fault(place, problem, remedy);
        }
        Some(())
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.inside {
                Inside::List(items) => path.push_str(&format!("[{}]", items.len())),
                Inside::Map { key: Some((Key::Text(key), _)), .. } => path = join(&path, key),
                Inside::Map { .. } => {}
            }
        }
        path
    }

    fn fault(&self, place: Place, problem: String, remedy: &str) {
        self.fault_at(place, self.path(), problem, remedy);
    }

    fn fault_at(&self, place: Place, path: String, problem: String, remedy: &str) {
        let Place { line, column } = place;
        self.faults.add(Fault { line, column, path, value: None, problem, remedy: remedy.to_owned() });
    }
}

fn key_of(tree: &Tree, is_merge: bool) -> Result<Key, String> {
    match &tree.value {
        Value::Scalar(Scalar::Text(_)) if is_merge => Ok(Key::Merge),
        Value::Scalar(Scalar::Text(text) | Scalar::Float(text)) => Ok(Key::Text(text.clone())),
        Value::Scalar(Scalar::Int(number)) => Ok(Key::Text(number.to_string())),
        Value::Scalar(Scalar::Bool(value)) => Err(format!("a key here means {value} to YAML 1.1")),
        Value::Scalar(Scalar::Null) => Err("a key here is empty".to_owned()),
        Value::List(_) | Value::Map(_) => Err("a key here is no text".to_owned()),
    }
}

/// The keys of a map, and those of `<<` that it does not have itself.
fn with_merged(mut entries: Vec<Entry>, merged: Vec<Entry>) -> Vec<Entry> {
    for entry in merged {
        if !entries.iter().any(|own| own.key == entry.key) {
            entries.push(entry);
        }
    }
    entries
}

/// Takes the keys of a map, or of a list of maps; or says why not.
fn merge(tree: Tree, into: &mut Vec<Entry>) -> Option<(String, &'static str)> {
    match tree.value {
        Value::Map(entries) => {
            into.extend(entries);
            None
        }
        Value::List(items) => items.into_iter().filter_map(|item| merge(item, into)).last(),
        Value::Scalar(_) => Some(("<< takes a map".to_owned(), "write an alias of one there")),
    }
}

fn size(tree: &Tree) -> usize {
    match &tree.value {
        Value::Scalar(_) => 1,
        Value::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Value::Map(entries) => 1 + entries.iter().map(|entry| size(&entry.value)).sum::<usize>(),
    }
}
