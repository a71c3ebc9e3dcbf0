//! Policy files to policies. What policies mean is `oracle.rs`; where files come from is netd's business.

mod apart;
mod cluster;
mod fault;
mod fields;
mod meta;
mod names;
mod namespaced;
mod protocols;
mod scalar;
mod select;
mod yaml;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use apart::apart;
pub use fault::{Errors, Fault};

use crate::model::{Kind, Policy, PolicyName, Source};

use fault::Faults;
use fields::{Field, Object};

const KINDS: [(&str, &str, Kind); 4] = [
    ("networking.k8s.io/v1", "NetworkPolicy", Kind::NetworkPolicy),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", Kind::ClusterNetworkPolicy),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", Kind::AdminNetworkPolicy),
    ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy", Kind::BaselineAdminNetworkPolicy),
];

/// Reads all policies of `text`, YAML (any number of documents) or JSON. `file_name` is for messages and for the
/// sources of rules.
///
/// # Errors
/// All mistakes of the file at once; one is enough to refuse all of it.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<Policy>, Errors> {
    let faults = Faults::default();
    let trees = yaml::documents(text, &faults);
    let file = Arc::from(file_name);
    let mut policies = Vec::new();
    for tree in &trees {
        let field = Field { tree, path: String::new(), faults: &faults };
        Reader { file: &file, policies: &mut policies }.document(&field, None);
    }
    repeated(&policies, &faults);
    let faults = faults.take();
    if faults.is_empty() { Ok(policies) } else { Err(Errors { file: file_name.to_owned(), faults }) }
}

/// Octets of a policy file; a policy has some hundred.
pub const LONGEST: usize = 4 << 20;

/// The text of a policy file.
///
/// # Errors
/// Why it is none, and what to do.
pub fn text(octets: &[u8]) -> Result<&str, String> {
    if octets.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes; part the policies into several files"));
    }
    std::str::from_utf8(octets)
        .map_err(|error| format!("not UTF-8 after octet {}; save it as UTF-8", error.valid_up_to()))
}

fn again(policy: &Policy, first: &str) -> Fault {
    Fault {
        line: policy.source.line,
        column: 1,
        path: "metadata.name".to_owned(),
        value: None,
        problem: format!("{} stands here again", policy.name),
        remedy: format!("rename one; the first is {first}"),
    }
}

struct Reader<'a> {
    file: &'a Arc<str>,
    policies: &'a mut Vec<Policy>,
}

impl Reader<'_> {
    /// Reads one object, or a list of them. `default` is the kind of a typed list's items.
    fn document(&mut self, field: &Field<'_>, default: Option<Kind>) {
        if field.is_null() && default.is_none() {
            return;
        }
        let Some(object) = field.object() else { return };
        let version = object.find("apiVersion").and_then(|field| Some((field.text()?, field)));
        let kind = object.find("kind").and_then(|field| Some((field.text()?, field)));
        match (version, kind, default) {
            (Some((version, at)), Some((kind, kind_at)), _) => match list_of(version, kind) {
                Some(items) => self.items(object, items),
                None => {
                    if let Some(kind) = known(version, kind, &at, &kind_at) {
                        self.policy(object, kind);
                    }
                }
            },
            (None, None, Some(kind)) => self.policy(object, kind),
            (None, _, _) => {
                field.lacks("apiVersion is missing", "a NetworkPolicy has apiVersion: networking.k8s.io/v1");
            }
            (_, None, _) => field.lacks("kind is missing", format!("use {}", names_of_kinds())),
        }
    }

    fn items(&mut self, object: Object<'_>, default: Option<Kind>) {
        object.find("metadata");
        let items = object.require("items", "list the policies there").and_then(|field| field.list());
        object.close();
        for item in items.unwrap_or_default() {
            if item.is_null() {
                item.wrong("is no policy", "take the item out");
            } else {
                self.document(&item, default);
            }
        }
    }

    fn policy(&mut self, object: Object<'_>, kind: Kind) {
        object.find("status");
        let source = Source { file: Arc::clone(self.file), line: object.field.line() };
        let meta = meta::meta(&object, kind);
        let spec =
            object.require("spec", "say there what the policy selects and allows").and_then(|field| field.object());
        object.close();
        let (Some(meta), Some(spec)) = (meta, spec) else { return };
        let policy = match kind {
            Kind::NetworkPolicy => Some(namespaced::policy(&spec, meta, source)),
            Kind::ClusterNetworkPolicy | Kind::AdminNetworkPolicy | Kind::BaselineAdminNetworkPolicy => {
                cluster::policy(&spec, meta, source)
            }
        };
        spec.close();
        self.policies.extend(policy);
    }
}

/// `Some` if this is a list: of what its items say, or of one kind.
fn list_of(version: &str, kind: &str) -> Option<Option<Kind>> {
    if (version, kind) == ("v1", "List") {
        return Some(None);
    }
    let item = kind.strip_suffix("List")?;
    KINDS.iter().find(|known| (known.0, known.1) == (version, item)).map(|known| Some(known.2))
}

fn known(version: &str, kind: &str, version_at: &Field<'_>, kind_at: &Field<'_>) -> Option<Kind> {
    match KINDS.iter().find(|known| known.1 == kind) {
        Some((right, _, kind)) if *right == version => Some(*kind),
        Some((right, kind, _)) => {
            version_at.wrong(format!("is not a version of {kind} that netd reads"), format!("use {right}"));
            None
        }
        None => {
            kind_at.wrong("is no kind of policy", format!("use {}", names_of_kinds()));
            None
        }
    }
}

fn names_of_kinds() -> String {
    KINDS.map(|(_, kind, _)| kind).join(", ")
}

/// The same policy twice in one file: which of them holds?
fn repeated(policies: &[Policy], faults: &Faults) {
    let mut seen: BTreeMap<&PolicyName, usize> = BTreeMap::new();
    for policy in policies {
        if let Some(first) = seen.insert(&policy.name, policy.source.line) {
            faults.add(again(policy, &format!("in line {first}")));
        }
    }
}
