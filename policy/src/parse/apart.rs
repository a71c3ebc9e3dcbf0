//! The policies of a text, each as a text of its own: what kubectl writes as one list can then stand in several files. Whether they
//! are right is `parse`'s question.

use super::fault::Faults;
use super::scalar::Scalar;
use super::yaml::{self, Tree, Value};
use super::{KINDS, list_of};
use crate::model::Kind;

/// Each policy of `text` as a JSON document, in the order of [`super::parse`], which has found no mistake in it.
#[must_use]
pub fn apart(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for tree in yaml::documents(text, &Faults::default()) {
        document(&tree, None, &mut found);
    }
    found
}

/// `default` is the kind of a typed list's items, which may leave it out.
fn document(tree: &Tree, default: Option<Kind>, found: &mut Vec<String>) {
    let Value::Map(_) = &tree.value else { return };
    let (version, kind) = (text_of(tree, "apiVersion"), text_of(tree, "kind"));
    if let Some(items) = version.zip(kind).and_then(|(version, kind)| list_of(version, kind)) {
        if let Some(Value::List(list)) = child(tree, "items") {
            list.iter().for_each(|item| document(item, items, found));
        }
        return;
    }
    let said = default.filter(|_| version.is_none() && kind.is_none());
    let said = said.and_then(|kind| KINDS.iter().find(|known| known.2 == kind));
    let mut text = String::new();
    object(&mut text, tree, said.map(|known| (known.0, known.1)), 0);
    text.push('\n');
    found.push(text);
}

fn child<'a>(tree: &'a Tree, key: &str) -> Option<&'a Value> {
    let Value::Map(entries) = &tree.value else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value.value)
}

fn text_of<'a>(tree: &'a Tree, key: &str) -> Option<&'a str> {
    if let Some(Value::Scalar(Scalar::Text(text))) = child(tree, key) { Some(text) } else { None }
}

/// A key a line, so that a rule has a line of its own.
fn object(text: &mut String, tree: &Tree, said: Option<(&str, &str)>, depth: usize) {
    let Value::Map(entries) = &tree.value else { return value(text, tree, depth) };
    let mut is_first = true;
    let mut key = |text: &mut String, key: &str| {
        text.push_str(if std::mem::take(&mut is_first) { "{" } else { "," });
        line(text, depth + 1);
        quoted(text, key);
        text.push_str(": ");
    };
    if let Some((version, kind)) = said {
        for (name, value) in [("apiVersion", version), ("kind", kind)] {
            key(text, name);
            quoted(text, value);
        }
    }
    for entry in entries {
        key(text, &entry.key);
        value(text, &entry.value, depth + 1);
    }
    if is_first {
        return text.push_str("{}");
    }
    line(text, depth);
    text.push('}');
}

fn value(text: &mut String, tree: &Tree, depth: usize) {
    match &tree.value {
        Value::Map(_) => object(text, tree, None, depth),
        Value::List(list) => {
            for (at, one) in list.iter().enumerate() {
                text.push_str(if at == 0 { "[" } else { ", " });
                value(text, one, depth);
            }
            text.push_str(if list.is_empty() { "[]" } else { "]" });
        }
        Value::Scalar(scalar) => self::scalar(text, scalar),
    }
}

fn scalar(text: &mut String, scalar: &Scalar) {
    match scalar {
        Scalar::Null => text.push_str("null"),
        Scalar::Bool(is) => text.push_str(if *is { "true" } else { "false" }),
        Scalar::Int(number) => text.push_str(&number.to_string()),
        Scalar::Float(number) => text.push_str(number),
        Scalar::Text(said) => quoted(text, said),
    }
}

fn quoted(text: &mut String, said: &str) {
    text.push('"');
    for letter in said.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            control if control.is_control() => text.push_str(&format!("\\u{:04x}", u32::from(control))),
            other => text.push(other),
        }
    }
    text.push('"');
}

fn line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::apart;
    use crate::parse::parse;

    #[test]
    fn each_policy_of_a_list_says_alone_what_it_says_there() {
        let spec = "spec: {podSelector: {matchLabels: {a: 'yes', number: '1'}}, ingress: [{ports: [{port: 80}, \
                    {port: web}]}, {}], policyTypes: []}";
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicy\n  metadata: &m {{name: \
             a, namespace: x}}\n  {spec}\n- apiVersion: networking.k8s.io/v1\n  kind: NetworkPolicyList\n  items:\n  - metadata: {{<<: \
             *m, name: b}}\n    {spec}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: c, annotations: {{x: \"q\\\"\\\\\\n\"}}}}\n{spec}\n"
        );
        let together = parse("x", &list).unwrap();
        let texts = apart(&list);
        assert_eq!((together.len(), texts.len()), (3, 3));
        for (whole, text) in together.iter().zip(&texts) {
            let alone = parse("x", text).unwrap();
            assert_eq!((alone.len(), &alone[0].name), (1, &whole.name), "{text}");
            assert_eq!(without_lines(&alone[0]), without_lines(whole), "{text}");
        }
        assert!(texts[0].lines().count() > 5, "{}", texts[0]);
    }

    /// Its debug form, but for where it stands.
    fn without_lines(policy: &crate::Policy) -> String {
        let mut text = String::new();
        let form = format!("{policy:?}");
        for (at, part) in form.split("line: ").enumerate() {
            text += if at == 0 { part } else { part.trim_start_matches(|digit: char| digit.is_ascii_digit()) };
        }
        text
    }
}
