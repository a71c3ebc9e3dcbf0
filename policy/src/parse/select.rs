//! Label selectors and address ranges as they stand in documents.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::model::Block;
use crate::selector::{Requirement, Selector, Test};

use super::fields::{Field, Object};
use super::names;

/// A label selector; what is wrong in it is told and left out.
pub(super) fn selector(field: &Field<'_>) -> Selector {
    let Some(object) = field.object() else { return Selector::default() };
    let mut requirements = BTreeSet::new();
    if let Some(labels) = object.find("matchLabels").and_then(|field| field.object()) {
        requirements.extend(labels.entries().filter_map(|(key, value)| equals(key, &value)));
    }
    if let Some(items) = object.find("matchExpressions").and_then(|field| field.list()) {
        requirements.extend(items.iter().filter_map(expression));
    }
    object.close();
    Selector { requirements }
}

/// The label of a container's image, which netd adds. No label of Kubernetes' has such values.
const IMAGE: &str = "netd/image";

fn equals(key: &str, value: &Field<'_>) -> Option<Requirement> {
    let good_key = label_key(value, key);
    let text = label_value(key, value)?;
    good_key.then(|| Requirement { key: key.to_owned(), test: Test::In(BTreeSet::from([text])) })
}

#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Exists,
    Absent,
}

const OPERATORS: [(&str, Operator); 4] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::Absent),
];

fn expression(field: &Field<'_>) -> Option<Requirement> {
    let object = field.object()?;
    let key = object.require("key", "name the label").and_then(|field| {
        let key = field.text()?;
        label_key(&field, key).then(|| key.to_owned())
    });
    let operator =
        object.require("operator", "use In, NotIn, Exists or DoesNotExist").and_then(|field| field.word(&OPERATORS));
    let listed = object.find("values");
    let named = key.as_deref().unwrap_or_default();
    let test = operator.and_then(|operator| match operator {
        Operator::In => values(&object, named, listed.as_ref()).map(Test::In),
        Operator::NotIn => values(&object, named, listed.as_ref()).map(Test::NotIn),
        Operator::Exists => no_values(listed.as_ref()).then_some(Test::Exists),
        Operator::Absent => no_values(listed.as_ref()).then_some(Test::Absent),
    });
    object.close();
    Some(Requirement { key: key?, test: test? })
}

fn values(object: &Object<'_>, key: &str, listed: Option<&Field<'_>>) -> Option<BTreeSet<String>> {
    let items = listed.map_or(Some(Vec::new()), Field::list)?;
    if items.is_empty() {
        object.field.lacks("In and NotIn need values", "list at least one under values");
        return None;
    }
    Some(items.iter().filter_map(|item| label_value(key, item)).collect())
}

fn no_values(listed: Option<&Field<'_>>) -> bool {
    let empty = listed.is_none_or(|field| field.list().is_some_and(|items| items.is_empty()));
    if let Some(field) = listed.filter(|_| !empty) {
        field.wrong("means nothing to Exists and DoesNotExist", "leave values out, or use In or NotIn");
    }
    empty
}

fn label_key(field: &Field<'_>, key: &str) -> bool {
    let good = names::is_label_key(key);
    if !good {
        field.lacks(
            format!("{key:?} is no label's key"),
            "use name or domain/name, the name of at most 63 letters, digits, '-', '_', '.'",
        );
    }
    good
}

fn label_value(key: &str, field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if names::is_label_value(text) || (key == IMAGE && names::is_image(text)) {
        return Some(text.to_owned());
    }
    field.wrong(
        "is no label's value",
        "use at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends",
    );
    None
}

/// `ipBlock`.
pub(super) fn block(field: &Field<'_>) -> Option<Block> {
    let object = field.object()?;
    let range = object.require("cidr", "write a range as 10.0.0.0/8 or fd00::/8").and_then(|field| cidr(&field));
    let mut except = BTreeSet::new();
    for hole in object.find("except").and_then(|field| field.list()).unwrap_or_default() {
        let Some(net) = cidr(&hole) else { continue };
        match range {
            Some(range) if !range.contains(&net) || range == net => {
                hole.wrong(format!("is no part of {range}"), "except takes smaller ranges inside cidr");
            }
            Some(_) | None => {
                except.insert(net);
            }
        }
    }
    object.close();
    Some(Block { cidr: range?, except })
}

/// One address range; bits behind the prefix are cleared, as Kubernetes does.
pub(super) fn cidr(field: &Field<'_>) -> Option<IpNet> {
    let text = field.text()?;
    let net = IpNet::from_str(text).map(|net| net.trunc()).ok();
    if net.is_none() {
        let remedy = match IpAddr::from_str(text) {
            Ok(address @ IpAddr::V4(_)) => format!("one address is {address}/32"),
            Ok(address @ IpAddr::V6(_)) => format!("one address is {address}/128"),
            Err(_) => "write it as 10.0.0.0/8 or fd00::/8".to_owned(),
        };
        field.wrong("is no address range", remedy);
    }
    net
}
