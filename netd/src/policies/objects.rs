//! What the compiler says, as objects of the kernel. Pure.

use std::collections::BTreeMap;

use netd_kernel::{Class, Decision, Direction, Key, Object, Objects, Profile, Reach, Service, Span, Step};
use netd_policy::{
    AddressRange, Answer, ClassId, Compiled, Delta, Entry, PolicyId, PolicyName, ProfileId, Table, TableChange,
};

/// Changes of objects.
pub type Changes = BTreeMap<Key, Fate>;

/// What becomes of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It was not there.
    New(Object),
    /// It may have been there otherwise.
    Set(Object),
    /// It is no more.
    Gone,
}

impl Fate {
    /// This one, and then `next`.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::New(_), Self::New(object) | Self::Set(object)) => Self::New(object),
            (Self::Set(_) | Self::Gone, Self::New(object) | Self::Set(object)) => Self::Set(object),
            (_, Self::Gone) => Self::Gone,
        }
    }
}

/// Everything that the kernel is to hold.
#[must_use]
pub fn all(compiled: &Compiled) -> Objects {
    let mut objects = Objects::new();
    objects.extend(compiled.classes.iter().map(|(address, class)| (Key::Class(*address), class_of(*class))));
    objects.extend(compiled.itself.keys().map(|(from, to)| (Key::Hairpin(*from, *to), Object::Set)));
    objects.extend(compiled.blocks.iter().map(|(range, class)| (block(range), class_of(*class))));
    for (direction, isolated, pairs, any, host) in [
        (Direction::Ingress, &compiled.ingress, &compiled.pairs_in, &compiled.any_in, &compiled.host_in),
        (Direction::Egress, &compiled.egress, &compiled.pairs_out, &compiled.any_out, &compiled.host_out),
    ] {
        for address in isolated.keys() {
            objects.insert(Key::Isolated(direction, Reach::Others, *address), Object::Set);
            if host.contains_key(&compiled.class(*address)) {
                objects.insert(Key::Isolated(direction, Reach::Node, *address), Object::Set);
            }
        }
        objects.extend(
            pairs.iter().map(|((subject, peer), profile)| (pair(direction, *subject, Some(*peer)), by(*profile))),
        );
        objects.extend(any.iter().map(|(subject, profile)| (pair(direction, *subject, None), by(*profile))));
        objects.extend(host.iter().map(|(subject, profile)| (host_pair(direction, *subject), by(*profile))));
    }
    for (id, profile) in compiled.profiles.iter() {
        objects.extend(spans(*id, &profile.0));
    }
    objects
}

/// Adds what changes next to what has changed.
pub fn add(changes: &mut Changes, next: Changes) {
    if changes.is_empty() {
        *changes = next;
        return;
    }
    for (key, fate) in next {
        let fate = match changes.remove(&key) {
            Some(before) => before.then(fate),
            None => fate,
        };
        changes.insert(key, fate);
    }
}

/// What goes, then what comes: one transaction, in which the order does not matter.
#[must_use]
pub fn steps(changes: Changes) -> Vec<Step> {
    let gone = changes.iter().rev().filter(|(_, fate)| **fate == Fate::Gone);
    let mut steps: Vec<Step> = gone.map(|(key, _)| Step::Delete(key.clone())).collect();
    steps.extend(changes.into_iter().filter_map(|(key, fate)| match fate {
        Fate::New(object) => Some(Step::Create(key, object)),
        Fate::Set(object) => Some(Step::Replace(key, object)),
        Fate::Gone => None,
    }));
    steps
}

/// What changes. `before` and `after` stand around the delta.
#[must_use]
pub fn changes(before: &BTreeMap<ProfileId, netd_policy::Profile>, delta: &Delta, after: &Compiled) -> Changes {
    let mut changes = Changes::new();
    take(&mut changes, &delta.classes, |address| Key::Class(*address), |class| class_of(*class));
    take(&mut changes, &delta.itself, |(from, to)| Key::Hairpin(*from, *to), |()| Object::Set);
    take(&mut changes, &delta.blocks, block, |class| class_of(*class));
    for (direction, isolated, pairs, any, host) in [
        (Direction::Ingress, &delta.ingress, &delta.pairs_in, &delta.any_in, &delta.host_in),
        (Direction::Egress, &delta.egress, &delta.pairs_out, &delta.any_out, &delta.host_out),
    ] {
        take(&mut changes, isolated, |address| Key::Isolated(direction, Reach::Others, *address), |()| Object::Set);
        take(&mut changes, pairs, |(subject, peer)| pair(direction, *subject, Some(*peer)), |profile| by(*profile));
        take(&mut changes, any, |subject| pair(direction, *subject, None), |profile| by(*profile));
        take(&mut changes, host, |subject| host_pair(direction, *subject), |profile| by(*profile));
    }
    near(&mut changes, delta, after);
    for id in delta.profiles.removed.iter().chain(delta.profiles.set.keys()) {
        let old = before.get(id).map(|profile| spans(*id, &profile.0)).unwrap_or_default();
        changes.extend(old.into_keys().map(|key| (key, Fate::Gone)));
    }
    for (id, profile) in &delta.profiles.set {
        let is_new = !before.contains_key(id);
        let part = |object| if is_new { Fate::New(object) } else { Fate::Set(object) };
        changes.extend(spans(*id, &profile.0).into_iter().map(|(key, object)| (key, part(object))));
    }
    changes
}

fn take<K: Ord, V>(
    changes: &mut Changes,
    change: &TableChange<K, V>,
    key: impl Fn(&K) -> Key,
    object: impl Fn(&V) -> Object,
) {
    changes.extend(change.removed.iter().map(|old| (key(old), Fate::Gone)));
    let of = |new: &K, value: &V| {
        let object = object(value);
        if change.changed.contains(new) { Fate::Set(object) } else { Fate::New(object) }
    };
    changes.extend(change.set.iter().map(|(new, value)| (key(new), of(new, value))));
}

/// Who is asked about when it speaks with its own node: isolated, and of a class that the node's rules name. Either may
/// have changed.
fn near(changes: &mut Changes, delta: &Delta, after: &Compiled) {
    for (direction, isolated, now, host, table) in [
        (Direction::Ingress, &delta.ingress, &after.ingress, &delta.host_in, &after.host_in),
        (Direction::Egress, &delta.egress, &after.egress, &delta.host_out, &after.host_out),
    ] {
        let key = |address| Key::Isolated(direction, Reach::Node, address);
        let moved = delta.classes.removed.iter().chain(delta.classes.set.keys());
        let touched = isolated.removed.iter().chain(isolated.set.keys()).chain(moved).copied();
        let of_class = |class: &ClassId| host.removed.contains(class) || host.set.contains_key(class);
        let of_changed = now.keys().copied().filter(|address| !host.is_empty() && of_class(&after.class(*address)));
        for address in touched.chain(of_changed) {
            let is = now.contains_key(&address) && table.contains_key(&after.class(address));
            changes.insert(key(address), if is { Fate::Set(Object::Set) } else { Fate::Gone });
        }
    }
}

fn class_of(class: ClassId) -> Object {
    Object::Class(Class(class.0))
}

fn by(profile: ProfileId) -> Object {
    Object::Profile(Profile(profile.0))
}

fn block(range: &AddressRange) -> Key {
    Key::Block(range.first, range.last)
}

fn pair(direction: Direction, subject: ClassId, peer: Option<ClassId>) -> Key {
    Key::Pair(direction, Class(subject.0), peer.map(|peer| Class(peer.0)))
}

fn host_pair(direction: Direction, subject: ClassId) -> Key {
    Key::Pair(direction, Class(subject.0), Some(Class::NODE))
}

/// A profile's answers, each for a run of services: several protocols with all their ports, or ports of one.
fn spans(profile: ProfileId, entries: &[Entry]) -> Objects {
    let profile = Profile(profile.0);
    let mut objects = Objects::new();
    for entry in entries {
        let (from, to) = entry.protocols;
        let ports = entry.ports;
        let runs: Vec<(u8, u8)> =
            if ports == (0, u16::MAX) { vec![(from, to)] } else { (from..=to).map(|one| (one, one)).collect() };
        for (from, to) in runs {
            let span = Span {
                profile,
                first: Service { protocol: from, port: ports.0 },
                last: Service { protocol: to, port: ports.1 },
            };
            objects.insert(Key::Span(span), Object::Decision(decision(entry.answer)));
        }
    }
    objects
}

/// What [`all`] made, as far as it can be read back: of a profile, not who says so.
#[must_use]
pub fn read_back(objects: &Objects) -> Compiled {
    let mut compiled = Compiled::default();
    let mut parts: BTreeMap<ProfileId, Vec<Entry>> = BTreeMap::new();
    compiled.classes = table(objects, |key, object| match (key, object) {
        (Key::Class(address), Object::Class(class)) => Some((*address, ClassId(class.0))),
        _ => None,
    });
    compiled.blocks = table(objects, |key, object| match (key, object) {
        (Key::Block(first, last), Object::Class(class)) => {
            Some((AddressRange { first: *first, last: *last }, ClassId(class.0)))
        }
        _ => None,
    });
    for (key, object) in objects {
        if let (Key::Span(span), Object::Decision(decision)) = (key, object) {
            parts.entry(ProfileId(span.profile.0)).or_default().push(entry(span, *decision));
        }
    }
    compiled.profiles = parts.into_iter().map(|(id, entries)| (id, netd_policy::Profile(entries))).collect();
    for (direction, pairs, any, host) in [
        (Direction::Ingress, &mut compiled.pairs_in, &mut compiled.any_in, &mut compiled.host_in),
        (Direction::Egress, &mut compiled.pairs_out, &mut compiled.any_out, &mut compiled.host_out),
    ] {
        let of = |key: &Key, object: &Object| match (key, object) {
            (Key::Pair(way, subject, peer), Object::Profile(profile)) if *way == direction => {
                Some((ClassId(subject.0), *peer, ProfileId(profile.0)))
            }
            _ => None,
        };
        *pairs = table(objects, |key, object| {
            let (subject, peer, by) = of(key, object)?;
            Some(((subject, ClassId(peer.filter(|peer| *peer != Class::NODE)?.0)), by))
        });
        *any = table(objects, |key, object| {
            of(key, object).filter(|(_, peer, _)| peer.is_none()).map(|(subject, _, by)| (subject, by))
        });
        *host = table(objects, |key, object| {
            of(key, object).filter(|(_, peer, _)| *peer == Some(Class::NODE)).map(|(subject, _, by)| (subject, by))
        });
    }
    compiled
}

fn table<K: Ord, V>(objects: &Objects, read: impl Fn(&Key, &Object) -> Option<(K, V)>) -> Table<K, V> {
    objects.iter().filter_map(|(key, object)| read(key, object)).collect()
}

fn entry(span: &Span, decision: Decision) -> Entry {
    let (protocols, ports) = ((span.first.protocol, span.last.protocol), (span.first.port, span.last.port));
    let audit = (decision == Decision::Audit).then_some(PolicyId(0));
    let answer =
        Answer { allowed: decision != Decision::Deny, by: None, log: decision == Decision::AllowLogged, audit };
    Entry { protocols, ports, answer }
}

fn decision(answer: Answer) -> Decision {
    match (answer.allowed, answer.audit, answer.log) {
        (false, _, _) => Decision::Deny,
        (true, Some(_), _) => Decision::Audit,
        (true, None, true) => Decision::AllowLogged,
        (true, None, false) => Decision::Allow,
    }
}

/// New flows that a policy decided, since its rules stand as they do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    /// That passed, and would not but for its audit mode.
    pub(crate) would_deny: u64,
}

/// What each policy has decided.
pub(crate) fn counted(compiled: &Compiled, counts: &BTreeMap<Key, u64>) -> BTreeMap<PolicyName, Counted> {
    let mut counted: BTreeMap<PolicyName, Counted> = BTreeMap::new();
    for (id, profile) in compiled.profiles.iter() {
        for entry in &profile.0 {
            let Answer { allowed, by, audit, .. } = entry.answer;
            let [by, audit] = [by, audit].map(|by| by.and_then(|by| compiled.policies.get(&by)));
            let spans = spans(*id, std::slice::from_ref(entry));
            let flows: u64 = spans.keys().filter_map(|key| counts.get(key)).sum();
            if let Some(name) = by {
                let counted = counted.entry(name.clone()).or_default();
                *(if allowed { &mut counted.allowed } else { &mut counted.denied }) += flows;
            }
            if let Some(name) = audit {
                counted.entry(name.clone()).or_default().would_deny += flows;
            }
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use netd_kernel::Key;
    use netd_policy::{Change, Compiler, PolicyName, Sandbox, SandboxName};

    use super::{Counted, all, counted};

    #[test]
    fn what_a_policy_in_audit_mode_would_deny_is_counted_as_its_own() {
        let policy = |name: &str, annotations: &str, spec: &str| {
            format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\nspec: {{podSelector: {{}}{spec}}}\n"
            )
        };
        let told = |text: &str| -> BTreeMap<String, Counted> {
            let mut compiler = Compiler::new("here");
            let name = SandboxName { namespace: "shop".to_owned(), name: "cart".to_owned() };
            let sandbox = Sandbox {
                name,
                labels: BTreeMap::new(),
                namespace_labels: BTreeMap::new(),
                addresses: BTreeMap::from([("10.4.0.2".parse().unwrap(), "net".to_owned())]),
                ports: BTreeSet::new(),
                node: "here".to_owned(),
                known: None,
            };
            let policies = netd_policy::parse("shop.yaml", text).unwrap();
            compiler.update(Change::Sandbox(sandbox));
            compiler.update(Change::Policies(policies));
            let spans = all(compiler.compiled()).into_keys().filter(|key| matches!(key, Key::Span(_)));
            let each_once: BTreeMap<Key, u64> = spans.map(|key| (key, 1)).collect();
            let counted = counted(compiler.compiled(), &each_once);
            counted.into_iter().map(|(PolicyName { name, .. }, counted)| (name, counted)).collect()
        };
        let staged = policy("staged", "netd/audit: \"true\"", "");
        let alone = told(&staged);
        assert!(alone["staged"].would_deny > 0 && alone.len() == 1, "{alone:?}");
        let open = told(&policy("open", "", ", ingress: [{ports: [{port: 80}]}]"));
        assert!(open["open"].allowed > 0 && open["open"].denied > 0 && open["open"].would_deny == 0, "{open:?}");
    }
}
