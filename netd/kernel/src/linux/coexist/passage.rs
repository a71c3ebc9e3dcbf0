//! What has to be written into another program's table, or taken out of it, so that it is as it should be. Pure.

use std::collections::BTreeSet;

use netd_netlink::nft::{self, Expression, Family, ListedRule, Meta, Position, Register, Request, Status, Verdict};

use super::OurLink;
use super::firewall::{Anchor, Dialect, Spot};

/// What of ours stands in a table of another.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) name: String,
    /// How many are in our chain; `None`: there is none.
    pub(super) rules: Option<usize>,
    /// The chains that may hold a jump to it, and all their rules.
    pub(super) anchors: Vec<(&'static Anchor, Vec<ListedRule>)>,
}

/// Of every instance: in a comment of netd's, behind its name.
const MARK: &str = ": its containers, ";

/// What should stand there.
#[derive(Debug)]
pub(super) struct Ours<'a> {
    chain: String,
    /// What every comment of ours begins with.
    signature: String,
    links: Option<&'a BTreeSet<OurLink>>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(instance: &str, links: Option<&'a BTreeSet<OurLink>>) -> Self {
        Self { chain: format!("{instance}-forward"), signature: format!("{instance}{MARK}"), links }
    }

    /// The name of our chain in every table.
    pub(super) fn chain(&self) -> &str {
        &self.chain
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.links.is_some()
    }

    /// Any other links, and any other way to write them, give another one.
    fn comment(&self, rules: &[Vec<Expression>]) -> String {
        // FNV-1a, as for the skeleton.
        let text = format!("{rules:?}");
        let hash = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{}{hash:016x}", self.signature)
    }

    fn rules(&self, dialect: Dialect) -> Vec<Vec<Expression>> {
        self.links.into_iter().flatten().flat_map(|link| rules_of(link, dialect)).collect()
    }
}

/// None where all is as it should be. `wanted` are the anchors that should hold a jump; all others should hold none.
pub(super) fn changes(table: &Table, wanted: &[&Anchor], ours: &Ours<'_>) -> Vec<Request> {
    let Table { family, name, rules: present, anchors } = table;
    let (family, chain) = (*family, ours.chain());
    let rules = wanted.first().map(|anchor| ours.rules(anchor.dialect));
    let comment = ours.comment(rules.as_deref().unwrap_or_default());
    let is_signed = |rule: &&ListedRule| rule.comment.starts_with(&ours.signature);
    let is_so = |(anchor, found): &(&Anchor, Vec<ListedRule>)| {
        let signed: Vec<&str> = found.iter().filter(is_signed).map(|rule| rule.comment.as_str()).collect();
        if wanted.contains(anchor) {
            signed == [comment.as_str()] && is_in_place(anchor.spot, found, &comment)
        } else {
            signed.is_empty()
        }
    };
    if *present == rules.as_ref().map(Vec::len) && anchors.iter().all(is_so) {
        return Vec::new();
    }
    let mut requests = Vec::new();
    for (anchor, found) in anchors {
        let signed = found.iter().filter(is_signed);
        requests.extend(signed.map(|rule| nft::delete_rule(family, name, anchor.chain, rule.handle)));
    }
    if present.is_some() {
        requests.push(nft::empty_chain(family, name, chain));
    }
    let Some(rules) = rules else {
        requests.extend(present.map(|_| nft::delete_chain(family, name, chain)));
        return requests;
    };
    if present.is_none() {
        requests.push(nft::inner_chain(family, name, chain));
    }
    requests.extend(rules.iter().map(|rule| nft::rule(family, name, chain, rule)));
    for (anchor, found) in anchors.iter().filter(|(anchor, _)| wanted.contains(anchor)) {
        let jump = [Expression::counter(), Expression::jump(chain)];
        requests.push(nft::put_rule(family, (name, anchor.chain), position(anchor.spot, found), &jump, &comment));
    }
    requests
}

/// Behind a rule that sends every packet back, ours would meet none.
fn position(spot: Spot, found: &[ListedRule]) -> Position {
    match spot {
        Spot::Ahead => Position::First,
        Spot::Behind => {
            found.iter().find(|rule| rule.is_end).map_or(Position::Last, |end| Position::Before(end.handle))
        }
    }
}

/// Whether the jump with this comment stands where it would be put now. Another netd's may be on either side of it: two that
/// made way for each other would do so for ever.
fn is_in_place(spot: Spot, found: &[ListedRule], comment: &str) -> bool {
    let Some(at) = found.iter().position(|rule| rule.comment == comment) else { return false };
    let (ahead, behind) = found.split_at(at);
    let is_others = |rule: &&ListedRule| !rule.comment.contains(MARK);
    let (mut ahead, mut behind) = (ahead.iter().filter(is_others), behind.iter().filter(is_others));
    match spot {
        Spot::Ahead => ahead.next().is_none(),
        Spot::Behind => !ahead.any(|rule| rule.is_end) && behind.next().is_none_or(|rule| rule.is_end),
    }
}

/// What a sandbox sends passes: netd's own chain has said what it may. To a sandbox only what is known, and what comes to a
/// published port: netd opens nothing that the firewall keeps shut.
fn rules_of(link: &OurLink, dialect: Dialect) -> Vec<Vec<Expression>> {
    let rule = |name, test: &[Expression]| [by(link, name).as_slice(), test, &accepted()].concat();
    let known = |test: &[Expression]| rule(Meta::OutputName, test);
    let mut rules = vec![rule(Meta::InputName, &[])];
    match dialect {
        Dialect::Iptables => rules.push(known(&[Expression::conntrack_match()])),
        Dialect::Native => rules.extend(
            [Status::Known, Status::DestinationChanged]
                .map(|status| known(&Expression::connection(status, Register(0)))),
        ),
    }
    rules
}

fn by(link: &OurLink, name: Meta) -> Vec<Expression> {
    let name_of = match link {
        OurLink::Bridge(name) => [name.as_str().as_bytes(), &[0]].concat(),
        OurLink::Beginning(prefix) => prefix.as_bytes().to_vec(),
    };
    vec![Expression::meta(name, Register(0)), Expression::is(Register(0), &name_of)]
}

/// iptables writes a counter in every rule.
fn accepted() -> [Expression; 2] {
    [Expression::counter(), Expression::verdict(Verdict::Accept)]
}

#[cfg(test)]
mod tests;
