//! The rules that the protocol rests upon, and how each is broken. `build` puts them into the copy.

/// A rule, and a change of the sources that breaks it.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    /// The rule.
    pub rule: &'static str,
    /// The file that it lives in, below `netd/fleet/src`.
    pub file: &'static str,
    /// The function: what follows `fn `.
    pub function: &'static str,
    /// A piece of the function that is there once; line breaks do not count.
    pub from: &'static str,
    /// What is there instead.
    pub to: &'static str,
}

const fn broken(
    rule: &'static str,
    (file, function): (&'static str, &'static str),
    from: &'static str,
    to: &'static str,
) -> Mutant {
    Mutant { rule, file, function, from, to }
}

const RELATION: (&str, &str) = ("charter.rs", "relation(");
const NEXT: (&str, &str) = ("charter.rs", "next(");
const TOLD_MORE: (&str, &str) = ("charter.rs", "told_more(");
const SETTLING_OF: (&str, &str) = ("charter.rs", "of(");
const BEHIND: (&str, &str) = ("record.rs", "is_behind(");
const JOIN: (&str, &str) = ("record.rs", "join(");
const AFTER: (&str, &str) = ("record.rs", "after(");
const DECIDE: (&str, &str) = ("decide.rs", "decide(");
const OPEN: (&str, &str) = ("decide.rs", "open(");
const FIRM: (&str, &str) = ("decide.rs", "is_firm(");
const WRITE: (&str, &str) = ("decide.rs", "write(");
const MISSED: (&str, &str) = ("decide/hold.rs", "is_missed(");
const MINE: (&str, &str) = ("decide/hold.rs", "mine(");
const PENDING: (&str, &str) = ("decide/hold.rs", "pending(");
const UNCLAIMED: (&str, &str) = ("decide/hold.rs", "unclaimed(");
const CONFIRMED: (&str, &str) = ("decide/hold.rs", "confirmed(");
const BLOCKS: (&str, &str) = ("decide/hold.rs", "blocks(");
const STRAY: (&str, &str) = ("decide/hold.rs", "stray(");
const SETTLE: (&str, &str) = ("decide/settle.rs", "step(");
const ADOPT: (&str, &str) = ("decide/settle.rs", "adopt(");
const TELL: (&str, &str) = ("decide/settle.rs", "tell(");
const AMEND: (&str, &str) = ("decide/settle.rs", "amend(");
const NARROW: (&str, &str) = ("decide/part.rs", "narrow(");
const RELEASE: (&str, &str) = ("decide/part.rs", "release(");
const CHOOSE_PART: (&str, &str) = ("decide/part.rs", "choose(");
const GIVE_UP: (&str, &str) = ("decide/wish.rs", "give_up(");
const EXTEND: (&str, &str) = ("decide/wish.rs", "extend(");
const CLAIM: (&str, &str) = ("decide/wish.rs", "claim(");
const CHOOSE: (&str, &str) = ("decide/wish.rs", "choose(");
const REMOVE: (&str, &str) = ("decide/wish.rs", "remove(");
const EVICT: (&str, &str) = ("decide/wish.rs", "evict(");
const ACKNOWLEDGE: (&str, &str) = ("decide/witness.rs", "acknowledge(");
const GROW: (&str, &str) = ("decide/witness.rs", "grow(");
const APPOINT: (&str, &str) = ("decide/witness.rs", "appoint(");
const ABANDON: (&str, &str) = ("decide/witness.rs", "abandon(");
const SWEEP: (&str, &str) = ("decide/witness.rs", "sweep(");

/// Rules whose breaking no 2,000 schedules are sure to find. A hunt that misses them does not fail.
pub const DEEP: &[&str] = &[
    "a new incarnation asks the witnesses that its beginner remembers",
    "a new incarnation asks the witnesses that the store names",
    "what was joined is another state than both",
    // A unit test of records finds it.
    "parts of one block that share an address meet",
    "a store is told only what it lacks still",
    // Only where the same incarnation was open in another copy of the store. A unit test of `decide` finds it.
    "what was told is sealed by whoever is there",
    // Only where requests of a settling come late in another copy of the store, and none of those who know better. A unit test of
    // `decide` finds it.
    "what was told or adopted is so of other blocks no longer",
    // What an earlier incarnation sealed was told, and what it did not seal is not firm.
    "a block is changed in the incarnation that was seen",
    // A dispute arises while settling alone, by a state that was joined and confirms nothing; it lasts where a rival is gone. Unit
    // tests of `decide` find the first two.
    "a claim with a rival is not confirmed",
    "who has a block confirmed takes a rival out",
    "a rival is taken out of what is firm",
    "who is not declared gone is waited for",
    // Three stores that forgot each other, one of which settled without what two nodes of another knew. Unit tests of `decide`
    // find them.
    "nothing is confirmed by what was joined",
    "a wider part is not the same claim",
    "what stood in what was joined was not firm before",
    // Only where somebody who shares a block dies between a change and its seal. A unit test of `decide` finds it.
    "a claim that was firm before is confirmed",
];

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    // Incarnations.
    broken("nothing is done in the store of another fleet", RELATION, "self.fleet != remembered.fleet", "false"),
    broken(
        "an earlier incarnation means that the store was set back",
        RELATION,
        "Ordering::Equal | std::cmp::Ordering::Less => Relation::SetBack",
        "Ordering::Equal => Relation::SetBack, std::cmp::Ordering::Less => Relation::News",
    ),
    broken(
        "two incarnations of one number are two",
        RELATION,
        "if self.id == remembered.id => Relation::Same",
        "=> Relation::Same",
    ),
    broken(
        "a new incarnation asks the witnesses that its beginner remembers",
        NEXT,
        "need: known().flat_map(Self::asked).collect()",
        "need: self.asked()",
    ),
    broken(
        "a new incarnation asks the witnesses that the store names",
        NEXT,
        "need: known().flat_map(Self::asked).collect()",
        "need: remembered.unwrap_or(self).asked()",
    ),
    broken(
        "a new incarnation asks those that an unfinished one still had to ask",
        ("charter.rs", "asked("),
        "asked.extend(settling.need.iter().cloned());",
        "",
    ),
    broken(
        "a new incarnation is later than the one that its beginner remembers",
        NEXT,
        "number: known().map(|charter| charter.number).fold(0, u64::max) + 1",
        "number: self.number + 1",
    ),
    broken(
        "a new incarnation has an id of its own",
        NEXT,
        "id: IncarnationId::new(fresh)",
        "id: IncarnationId::new(7)",
    ),
    broken(
        "nobody has told yet in a new incarnation",
        NEXT,
        "merged: BTreeSet::new()",
        "merged: match &remembered.unwrap_or(self).phase { Phase::Settling(settling) => settling.merged.clone(), Phase::Open => BTreeSet::new() }",
    ),
    broken(
        "a majority of every earlier set of witnesses tells",
        ("charter.rs", "is_told("),
        "self.need.iter().all(|set| is_majority(set, &self.merged))",
        "self.need.iter().any(|set| is_majority(set, &self.merged))",
    ),
    broken(
        "more than half are a majority",
        ("charter.rs", "is_majority(of"),
        "2 * of.intersection(some).count() > of.len()",
        "2 * of.intersection(some).count() >= of.len()",
    ),
    broken("what was adopted before more was told does not count", TOLD_MORE, "adopted: BTreeSet::new(),", ""),
    broken("what was told or adopted is so of other blocks no longer", SETTLING_OF, "if told == self.told", "if true"),
    broken("what was told is of the blocks with it", TOLD_MORE, "Self { told, adopted", "Self { adopted"),
    broken(
        "an empty store is told which fleet it belongs to",
        ("decide.rs", "found("),
        "Some(remembered) => remembered.next(None, fresh)",
        "Some(_) => Charter::found(memory.instance, wish.plan.clone()?, fresh)",
    ),
    broken("a fleet is founded where there is none", ("decide.rs", "found("), "commit([Key::Charter],", "commit([],"),
    broken(
        "an incarnation begins after the one that was seen",
        ("decide.rs", "begin_again("),
        "commit([Key::Charter],",
        "commit([],",
    ),
    broken(
        "a new charter is on disk before anything is done in it",
        DECIDE,
        "Relation::News => Some(save(memory, |memory| memory.charter = Some(charter.clone()))), Relation::Same => {",
        "Relation::News | Relation::Same => {",
    ),
    // What was forgotten.
    broken(
        "who missed a whole settling looks for its claims",
        OPEN,
        "if hold::is_missed(scene) { begin_again(memory, charter, scene.fresh) } else { scene.take() }",
        "scene.take()",
    ),
    broken(
        "whoever remembers more than the store begins a new incarnation",
        OPEN,
        "has_forgotten(&view.blocks, &memory.table)",
        "false",
    ),
    broken("an earlier epoch means that the store was set back", BEHIND, "self.epoch < remembered.epoch", "false"),
    broken(
        "another id in one epoch means that the store was set back",
        BEHIND,
        "|| (self.epoch == remembered.epoch && self.id != remembered.id)",
        "",
    ),
    broken("a block that is not there was forgotten", ("record.rs", "has_forgotten("), "is_none_or", "is_some_and"),
    broken(
        "of two states the later epoch counts",
        JOIN,
        "if store.epoch > remembered.epoch { store.clone() } else { remembered.clone() }",
        "store.clone()",
    ),
    broken(
        "a later epoch in the store counts",
        JOIN,
        "if store.epoch > remembered.epoch { store.clone() } else { remembered.clone() }",
        "remembered.clone()",
    ),
    broken(
        "of two states of one epoch all claims count",
        JOIN,
        "let mut claims = store",
        "return Record { joined: true, ..store.clone() }; let mut claims = store",
    ),
    broken("joined twice is joined once", JOIN, "|| store.joined && store.has_claims_of(remembered)", ""),
    broken("what was joined says so", JOIN, "joined: true", "joined: false"),
    broken(
        "what was joined is another state than both",
        JOIN,
        "let id = RecordId::new(store.id.number() ^ remembered.id.number().rotate_left(1));",
        "let id = store.id;",
    ),
    broken("a record's epoch grows", AFTER, "epoch: self.epoch + 1", "epoch: self.epoch"),
    broken("a changed record is not sealed", AFTER, "sealed: false", "sealed: self.sealed"),
    broken("a first record is not sealed", ("record.rs", "first("), "sealed: false", "sealed: true"),
    // Records.
    broken("a record of this incarnation is firm when it is sealed", FIRM, "record.sealed", "{ let _ = record; true }"),
    broken(
        "what opened with an incarnation is sealed in it",
        FIRM,
        "record.sealed",
        "record.sealed || record.incarnation < self.charter.number",
    ),
    broken(
        "a majority of the witnesses remembers what is sealed",
        ("decide.rs", "is_witnessed("),
        "self.charter.is_majority(&self.view.witnesses_of(record))",
        "!self.view.witnesses_of(record).is_empty()",
    ),
    broken(
        "only acknowledgements of this record count",
        ("view.rs", "witnesses_of("),
        "ack.record == record.id",
        "ack.author == record.author",
    ),
    broken(
        "a block is changed in the incarnation that was seen",
        WRITE,
        "[Key::Charter, Key::Block(block)]",
        "[Key::Block(block)]",
    ),
    broken(
        "a block is changed from the state that was seen",
        WRITE,
        "[Key::Charter, Key::Block(block)]",
        "[Key::Charter]",
    ),
    broken(
        "what a node decided upon is saved with its decision",
        ("decide.rs", "save(&self"),
        "self.note(memory);",
        "",
    ),
    broken(
        "a node knows of which incarnation its memory is",
        ("decide.rs", "note("),
        "memory.table_of = Some(self.charter.id);",
        "memory.table_of.get_or_insert(self.charter.id);",
    ),
    // Claims.
    broken("a claim that was seen to be taken away is not missed", MISSED, ".filter(has)", ""),
    broken("a later record without it took a claim away", MISSED, "now.epoch <= then.epoch &&", ""),
    broken("a claim that is in the store is not missed", MISSED, "&& !has(&now)", ""),
    broken(
        "who was removed forgets its claim",
        MINE,
        "(Hold::Confirmed, None) => Some(forget(scene, id))",
        "(Hold::Confirmed, None) => None",
    ),
    broken("nothing is confirmed by what was joined", PENDING, "record.joined ||", ""),
    broken("what stood in what was joined was not firm before", AFTER, "!self.joined &&", ""),
    broken("a claim with a rival is not confirmed", PENDING, "record.is_disputed(id)", "false"),
    broken(
        "a claim is confirmed when it is firm",
        PENDING,
        "(is_kept || scene.is_firm(record)).then",
        "{ let _ = is_kept; true }.then",
    ),
    broken("a claim that was firm before is confirmed", PENDING, "is_kept ||", "{ let _ = is_kept; false } ||"),
    broken("a claim was firm before if it stood there", AFTER, "self.claims.contains_key(id)", "{ let _ = id; true }"),
    broken(
        "what others claim is not claimed",
        UNCLAIMED,
        "!record.claims.values().any(|other| other.meets(&claim)) &&",
        "",
    ),
    broken("a record is built upon when it is firm", UNCLAIMED, "&& scene.is_firm(record)", ""),
    broken(
        "a claim that came too late is given up",
        UNCLAIMED,
        "Some(_) => Some(forget(scene, id))",
        "Some(_) => None",
    ),
    broken("who has a block confirmed takes a rival out", CONFIRMED, "any && scene.is_firm(record)", "false"),
    broken("a rival is taken out of what is firm", CONFIRMED, "any && scene.is_firm(record)", "any"),
    broken(
        "only who claims the same is a rival",
        CONFIRMED,
        "*other != id && claim.meets_part(holding.part)",
        "*other != id",
    ),
    // Parts.
    broken(
        "a part is no longer used before the store hears of it",
        NARROW,
        "Some(scene.save(|memory| {",
        "if let Some(holding) = scene.memory.holdings.get(id) && let Some(record) = scene.view.blocks.get(&holding.block) && record.claims.get(id).is_some_and(|claim| claim.part != Some(*keep)) && scene.is_firm(record) { return Some(scene.change(holding.block, record, |claims| { claims.entry(*id).and_modify(|claim| claim.part = Some(*keep)); })); } Some(scene.save(|memory| {",
    ),
    broken("what is kept was held before", ("decide/part.rs", "is_narrower("), "&& holds(holding.range(), keep)", ""),
    broken("what the disk no longer claims is returned", RELEASE, "is_wide && scene.is_firm(record)", "false"),
    broken("a part is returned from what is firm", RELEASE, "is_wide && scene.is_firm(record)", "is_wide"),
    broken(
        "a part is chosen of what is firm",
        CHOOSE_PART,
        "of_pool(block) && scene.is_firm(record)",
        "of_pool(block)",
    ),
    broken(
        "what is kept is large enough",
        ("decide/part.rs", "is_narrower("),
        "keep.prefix_len() <= pool.smallest()",
        "{ let _ = pool; true }",
    ),
    broken(
        "a part is chosen that nobody claims",
        ("record.rs", "free("),
        "self.claims.values()",
        "self.claims.values().skip(1)",
    ),
    broken(
        "parts of one block that share no address do not meet",
        ("record.rs", "meets_part("),
        "is_none_or(|(one, other)| meet(one, other))",
        "is_none_or(|_| true)",
    ),
    broken(
        "parts of one block that share an address meet",
        ("record.rs", "meets_part("),
        "is_none_or(|(one, other)| meet(one, other))",
        "is_none_or(|(one, other)| one == other)",
    ),
    broken(
        "of one claim in two states the narrower part counts",
        JOIN,
        "if claim.is_within(known) { known.part = claim.part; }",
        "",
    ),
    broken(
        "a wider part is not the same claim",
        ("record.rs", "has_claims_of("),
        "self.claims.get(id).is_some_and(|own| own.is_within(claim))",
        "{ let _ = claim; self.claims.contains_key(id) }",
    ),
    broken("a claim is for what was chosen", UNCLAIMED, "part: holding.part", "part: None"),
    broken(
        "an author seals what was witnessed",
        BLOCKS,
        "record.author == scene.me() && scene.is_witnessed(record)",
        "false",
    ),
    broken(
        "a record is sealed when it was witnessed",
        BLOCKS,
        "&& scene.is_witnessed(record)",
        "&& !scene.is_firm(record)",
    ),
    broken("what the store has and the disk has not is returned", STRAY, "any && scene.is_firm(record)", "false"),
    broken("a claim is returned from what is firm", STRAY, "any && scene.is_firm(record)", "any"),
    broken("only its own claims a node returns", STRAY, "claim.owner == scene.me() && !scene.memory", "!scene.memory"),
    broken("a claim that the disk knows is not returned", STRAY, "&& !scene.memory.holdings.contains_key(id)", ""),
    // Settling.
    broken("what the store lacks it is told", SETTLE, "if !missing.is_empty()", "if false"),
    broken(
        "a node has told when nothing is missing",
        SETTLE,
        "if !missing.is_empty() { return Some(tell(scene, settling, missing)); } if settling.asks(scene.me()) && !settling.merged.contains(&scene.me()) { return Some(amend(scene, Settling { merged: joined(&settling.merged, scene), ..settling.clone() })); }",
        "if settling.asks(scene.me()) && !settling.merged.contains(&scene.me()) { return Some(amend(scene, Settling { merged: joined(&settling.merged, scene), ..settling.clone() })); } if !missing.is_empty() { return Some(tell(scene, settling, missing)); }",
    ),
    broken(
        "a node tells what it remembers before it forgets it",
        SETTLE,
        "let missing =",
        "if memory.table_of != Some(scene.charter.id) { return Some(scene.take()); } let missing =",
    ),
    broken(
        "a node says when it has told all",
        SETTLE,
        "settling.asks(scene.me()) && !settling.merged.contains(&scene.me())",
        "false",
    ),
    broken("nobody adopts before all is told", SETTLE, "settling.is_told().then", "true.then"),
    broken(
        "a majority of the new witnesses adopts",
        ADOPT,
        "charter.is_majority(&settling.adopted)",
        "!settling.adopted.is_empty()",
    ),
    broken("what a witness adopts is on its disk", ADOPT, "memory.table != view.blocks", "false"),
    broken(
        "an incarnation opens as it was seen",
        ADOPT,
        "return Some(commit([Key::Charter],",
        "return Some(commit([],",
    ),
    broken(
        "a store is told in the incarnation that was seen",
        TELL,
        ".chain([Key::Charter]).collect();",
        ".collect();",
    ),
    broken(
        "a store is told only what it lacks still",
        TELL,
        "some.keys().map(|block| Key::Block(*block)).chain([Key::Charter])",
        "[Key::Charter].into_iter()",
    ),
    broken(
        "what was told is sealed by whoever is there",
        TELL,
        "record.incarnation.min(before)",
        "{ let _ = before; record.incarnation }",
    ),
    broken("who tells or adopts does so in what was seen", AMEND, "commit([Key::Charter],", "commit([],"),
    // Wishes.
    broken(
        "a block is no longer used before the store hears of it",
        GIVE_UP,
        "any.then(|| scene.save(|memory| memory.holdings.retain(|id, _| !given_up(id))))",
        "if let Some((block, record)) = scene.view.blocks.iter().find(|(_, record)| record.claims.keys().any(given_up) && scene.is_firm(record)) { return Some(scene.change(*block, record, |claims| claims.retain(|id, _| !given_up(id)))); } any.then(|| scene.save(|memory| memory.holdings.retain(|id, _| !given_up(id))))",
    ),
    broken("a node claims no more than is wished", CLAIM, "scene.memory.blocks_in(pool).count() >= count", "false"),
    broken("a block is chosen that nobody claims", CHOOSE, "!record.claims.is_empty() ||", ""),
    broken("a block is chosen that is firm", CHOOSE, "|| !scene.is_firm(record)", ""),
    broken("the fleet remembers who was removed", REMOVE, "if removed != charter.removed", "if false"),
    broken("a removal is written to the charter that was seen", REMOVE, "commit([Key::Charter],", "commit([],"),
    broken("who is removed claims nothing", CLAIM, "scene.is_removed() ||", ""),
    broken(
        "who is removed does not witness",
        ("decide/wish.rs", "dismiss("),
        "!stay.is_empty() && stay != scene.charter.witnesses",
        "false",
    ),
    broken("a fleet has a witness", ("decide/wish.rs", "dismiss("), "!stay.is_empty() &&", ""),
    broken("what a removed node wrote is sealed", EVICT, "is_removed(&record.author) ||", ""),
    broken("what is left of an earlier incarnation is sealed", EVICT, "|| is_left(scene, record)", ""),
    broken("claims are taken out of what is firm", EVICT, "(any && scene.is_firm(record))", "any"),
    broken("the claims of who was removed are taken out", EVICT, "(any && scene.is_firm(record))", "false"),
    broken("only the claims of who is removed are taken out", EVICT, "!is_removed(&claim.owner))", "false)"),
    // Witnesses.
    broken(
        "what a witness acknowledges is on its disk",
        ACKNOWLEDGE,
        "new.iter().any(|(block, record)| scene.memory.table.get(block) != Some(record))",
        "false",
    ),
    broken("a witness acknowledges what is not firm", ACKNOWLEDGE, "if new.is_empty()", "if true"),
    broken("nodes that are there become witnesses", GROW, "let fits = new.len() == more &&", "let fits = false &&"),
    broken(
        "who is removed does not become a witness",
        GROW,
        ".filter(|node| !scene.charter.removed.contains(node))",
        "",
    ),
    broken(
        "new witnesses come with a new incarnation",
        APPOINT,
        "let next = scene.charter.next(scene.memory.charter.as_ref(), scene.fresh);",
        "let next = scene.charter.clone();",
    ),
    broken("witnesses are appointed after what was seen", APPOINT, "commit([Key::Charter],", "commit([],"),
    broken("who is declared gone is not waited for", ABANDON, "scene.charter.asks_any(gone).then", "false.then"),
    broken(
        "who is not declared gone is waited for",
        ("charter.rs", "without("),
        "settling.need.iter().map(rest).filter(|set| !set.is_empty()).collect()",
        "BTreeSet::new()",
    ),
    broken("witnesses are abandoned after what was seen", ABANDON, "commit([Key::Charter],", "commit([],"),
    broken("an acknowledgement goes when nobody waits for it", SWEEP, "(!delete.is_empty()).then", "false.then"),
    broken("an acknowledgement stays while its record is not firm", SWEEP, "&& !awaited.contains(&ack.record)", ""),
    // Pools.
    broken(
        "a later charter without a pool that is remembered is of a store that was set back",
        RELATION,
        "Ordering::Greater if self.plan.has_all_of(&remembered.plan) =>",
        "Ordering::Greater =>",
    ),
    broken(
        "pools that do not fit together are not forgotten for each other",
        RELATION,
        "if self.united(Some(remembered)).is_none() { return Relation::Split; }",
        "if self.united(Some(remembered)).is_none() { return if self.number > remembered.number { Relation::News } else { Relation::SetBack }; }",
    ),
    broken(
        "a new incarnation has the pools that its beginner remembers",
        NEXT,
        "self.united(remembered).unwrap_or_else(|| self.plan.clone())",
        "self.plan.clone()",
    ),
    broken(
        "a new incarnation has the pools that the store has",
        NEXT,
        "self.united(remembered).unwrap_or_else(|| self.plan.clone())",
        "remembered.unwrap_or(self).plan.clone()",
    ),
    broken(
        "a pool comes with a new incarnation",
        ("charter.rs", "extended("),
        "let next = self.next(remembered, fresh);",
        "let next = { let _ = (remembered, fresh); self.clone() };",
    ),
    broken("a pool is added to the charter that was seen", EXTEND, "commit([Key::Charter],", "commit([],"),
    // Memory.
    broken(
        "a node may use what is confirmed",
        ("memory.rs", "usable("),
        ".filter(|holding| holding.state == Hold::Confirmed)",
        "",
    ),
];
