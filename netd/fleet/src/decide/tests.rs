//! One decision at a time, where the order of the steps is the point; whole schedules are the simulation's.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Action, Wish, decide, lacks};
use crate::charter::{Charter, Phase};
use crate::identity::{ClaimId, InstanceId, NodeName, RecordId};
use crate::memory::{Hold, Memory};
use crate::plan::{Plan, Pool};
use crate::record::{Claim, Record, Writer, ahead};
use crate::view::{Key, Txn, Value, View};

const POOL: &str = "main";

fn plan() -> Plan {
    let (reserved, labels) = (BTreeSet::new(), BTreeMap::new());
    let pool = Pool { name: POOL.to_owned(), range: "10.0.0.0/23".parse().unwrap(), block: 24, reserved, labels };
    Plan::new(vec![pool]).unwrap()
}

fn want(count: usize) -> Wish {
    Wish { plan: Some(plan()), blocks: BTreeMap::from([(POOL.to_owned(), count)]), ..Wish::default() }
}

/// A store that does at once what is asked, and nodes on it.
#[derive(Clone)]
struct Fleet {
    view: View,
    nodes: Vec<(Memory, Wish)>,
    fresh: u128,
}

impl Fleet {
    fn new(wishes: Vec<Wish>) -> Self {
        let node = |(at, wish): (usize, Wish)| {
            let number = u128::try_from(at + 1).unwrap();
            (Memory::new(InstanceId::new(number), NodeName::new(format!("n{number}")).unwrap()), wish)
        };
        Self { view: View::default(), nodes: wishes.into_iter().enumerate().map(node).collect(), fresh: 100 }
    }

    fn memory(&self, at: usize) -> &Memory {
        &self.nodes[at].0
    }

    fn next(&mut self, at: usize) -> Option<Action> {
        self.fresh += 1;
        let (memory, wish) = &self.nodes[at];
        decide(memory, &self.view, wish, self.fresh)
    }

    fn step(&mut self, at: usize) -> Option<Action> {
        let action = self.next(at)?;
        match &action {
            Action::Save(memory) => self.nodes[at].0 = (**memory).clone(),
            Action::Commit(Txn { put, delete, .. }) => {
                put.iter().for_each(|(key, value)| self.view.apply(*key, Some(value.clone())));
                delete.iter().for_each(|key| self.view.apply(*key, None));
            }
        }
        Some(action)
    }

    /// Until the named nodes have nothing left to do.
    fn rest(&mut self, nodes: &[usize]) {
        for _ in 0..1_000 {
            let steps: Vec<_> = nodes.iter().map(|at| self.step(*at)).collect();
            if steps.iter().all(Option::is_none) {
                return;
            }
        }
        panic!("no rest: {:?}", nodes.iter().map(|at| self.next(*at)).collect::<Vec<_>>());
    }

    /// Alone, as far as it knows.
    fn is_there(&mut self, at: usize) {
        let (memory, wish) = &mut self.nodes[at];
        wish.present = BTreeSet::from([memory.instance]);
    }

    fn charter(&self) -> &Charter {
        self.view.charter.as_ref().unwrap()
    }

    fn claim_of(&self, at: usize) -> ClaimId {
        *self.memory(at).holdings.keys().next().unwrap()
    }
}

fn saved(action: Option<Action>) -> Memory {
    match action {
        Some(Action::Save(memory)) => *memory,
        other => panic!("{other:?}"),
    }
}

fn written(action: Option<Action>) -> Vec<(Key, Value)> {
    match action {
        Some(Action::Commit(txn)) => txn.put,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claim_is_saved_written_witnessed_sealed_and_only_then_used() {
    let mut fleet = Fleet::new(vec![want(0), want(1)]);
    fleet.rest(&[0]);
    fleet.rest(&[1]);
    // Nobody has witnessed it yet.
    assert_eq!(fleet.memory(1).holdings[&fleet.claim_of(1)].state, Hold::Pending);
    assert!(fleet.memory(1).usable().is_empty());
    let record = fleet.view.blocks.values().next().unwrap().clone();
    assert!(!record.sealed);
    // The witness remembers first, and says so then.
    assert!(saved(fleet.step(0)).table.values().any(|known| *known == record));
    assert!(matches!(written(fleet.step(0))[..], [(Key::Ack(_), Value::Ack)]));
    let sealed = written(fleet.step(1));
    assert!(matches!(&sealed[..], [(Key::Block(_), Value::Record(record))] if record.sealed));
    assert!(fleet.memory(1).usable().is_empty());
    saved(fleet.step(1));
    assert_eq!(fleet.memory(1).usable().len(), 1);
}

#[test]
fn what_a_node_itself_reserves_it_does_not_claim() {
    let [first, second]: [IpNet; 2] = ["10.0.0.0/24", "10.0.1.0/24"].map(|block| block.parse().unwrap());
    for (reserved, other) in [(first, second), (second, first)] {
        let mut own = plan().pool(POOL).unwrap().clone();
        own.reserved.insert(reserved);
        let wish = Wish { plan: Some(Plan::new(vec![own]).unwrap()), ..want(2) };
        let mut fleet = Fleet::new(vec![want(0), wish]);
        fleet.rest(&[0]);
        fleet.is_there(0);
        fleet.rest(&[0, 1]);
        assert_eq!(fleet.memory(1).usable(), [other]);
        let (memory, wish) = &fleet.nodes[1];
        assert_eq!(lacks(memory, &fleet.view, wish), BTreeSet::from([POOL.to_owned()]));
    }
}

#[test]
fn a_node_that_is_there_again_is_not_removed() {
    let [gone, back] = [InstanceId::new(8), InstanceId::new(9)];
    let mut wish = Wish { remove: BTreeSet::from([gone, back]), abandon: BTreeSet::from([back]), ..Wish::default() };
    assert!(wish.forget_removals(&BTreeSet::from([back])));
    assert_eq!((&wish.remove, &wish.abandon), (&BTreeSet::from([gone]), &BTreeSet::new()));
    assert!(!wish.forget_removals(&BTreeSet::from([back])));
}

#[test]
fn what_is_given_up_is_first_unused_and_then_returned() {
    let mut fleet = Fleet::new(vec![want(1)]);
    fleet.rest(&[0]);
    let claim = fleet.claim_of(0);
    fleet.nodes[0].1 = Wish { give_up: BTreeSet::from([claim]), ..want(0) };
    assert!(saved(fleet.step(0)).usable().is_empty());
    let returned = written(fleet.step(0));
    assert!(matches!(&returned[..], [(_, Value::Record(record))] if record.claims.is_empty() && record.epoch == 2));
    fleet.rest(&[0]);
    fleet.nodes[0].1 = want(2);
    fleet.rest(&[0]);
    assert_eq!(fleet.memory(0).usable().len(), 2);
}

#[test]
fn a_store_that_was_set_back_is_told_what_it_forgot() {
    let mut fleet = Fleet::new(vec![want(0), want(1), want(2)]);
    fleet.rest(&[0]);
    let early = fleet.view.clone();
    fleet.rest(&[0, 1]);
    let held = fleet.memory(1).usable();
    fleet.view = early;
    // The third knows nothing, and the second is away.
    fleet.rest(&[2]);
    assert!(fleet.memory(2).usable().is_empty());
    fleet.rest(&[0, 2]);
    assert_eq!(fleet.memory(2).usable().len(), 1);
    assert_ne!(fleet.memory(2).usable(), held);
    assert_eq!(fleet.charter().number, 2);
    fleet.rest(&[0, 1, 2]);
    assert_eq!(fleet.memory(1).usable(), held);
}

#[test]
fn what_is_no_longer_kept_is_first_unused_then_returned_and_then_anothers() {
    let mut fleet = Fleet::new(vec![want(2), want(1), want(1)]);
    fleet.rest(&[0]);
    fleet.rest(&[0, 1]);
    let lacks = |fleet: &Fleet, at: usize| lacks(fleet.memory(at), &fleet.view, &fleet.nodes[at].1);
    assert_eq!(lacks(&fleet, 1), BTreeSet::from([POOL.to_owned()]));
    let claim = fleet.claim_of(0);
    let block = fleet.memory(0).holdings[&claim].block;
    let halves: Vec<IpNet> = block.subnets(25).unwrap().collect();
    // Not what it does not hold, nor a part too small.
    let elsewhere: IpNet =
        if block.addr().to_string() == "10.0.0.0" { "10.0.1.0/25" } else { "10.0.0.0/25" }.parse().unwrap();
    for keep in [elsewhere, block.subnets(28).unwrap().next().unwrap()] {
        fleet.nodes[0].1.keep = BTreeMap::from([(claim, keep)]);
        assert_eq!(fleet.next(0), None, "{keep}");
    }
    fleet.nodes[0].1.keep = BTreeMap::from([(claim, halves[0])]);
    assert!(saved(fleet.step(0)).usable().contains(&halves[0]));
    assert_eq!(fleet.view.blocks[&block].free(block), []);
    let returned = written(fleet.step(0));
    assert!(matches!(&returned[..], [(_, Value::Record(now))] if now.free(block) == [halves[1]] && !now.sealed));
    // Nobody builds upon that before it is sealed.
    assert_eq!(fleet.next(1), None);
    fleet.rest(&[0, 1]);
    assert_eq!(fleet.memory(1).usable(), [halves[1]]);
    assert!(lacks(&fleet, 1).is_empty());
    // What it returns the third finds, and the first may not have it back.
    fleet.nodes[0].1.keep = BTreeMap::from([(claim, block)]);
    assert_eq!(fleet.next(0), None);
    fleet.nodes[1].1 = Wish { give_up: BTreeSet::from([fleet.claim_of(1)]), ..want(0) };
    fleet.rest(&[0, 1]);
    fleet.rest(&[0, 2]);
    assert_eq!((fleet.memory(1).usable(), fleet.memory(2).usable()), (vec![], vec![halves[1]]));
}

/// Of a claim that became narrower in one of two states of one epoch, the narrower part counts, whoever tells which.
#[test]
fn a_store_that_forgot_that_a_claim_became_narrower_does_not_widen_it() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0, 1]);
    let claim = fleet.claim_of(0);
    let block = fleet.memory(0).holdings[&claim].block;
    let half = block.subnets(25).unwrap().next().unwrap();
    let wide = fleet.view.blocks[&block].clone();
    fleet.nodes[0].1.keep = BTreeMap::from([(claim, half)]);
    fleet.rest(&[0, 1]);
    let narrow = fleet.view.blocks[&block].clone();
    assert_eq!(narrow.claims[&claim].part, Some(half));
    let stale = Record { epoch: narrow.epoch, id: RecordId::new(9), ..wide.clone() };
    for (store, told) in [(&stale, &narrow), (&narrow, &stale)] {
        let joined = ahead(&[(block, store.clone())].into(), &[(block, told.clone())].into());
        let part = joined.get(&block).unwrap_or(store).claims[&claim].part;
        assert_eq!(part, Some(half));
    }
    let joined = Record { joined: true, ..stale };
    let again = ahead(&[(block, joined)].into(), &[(block, narrow.clone())].into());
    assert_eq!(again[&block].claims[&claim].part, Some(half));
    // The whole block, in a store that was set back: its owner returns the rest again.
    fleet.view.blocks.insert(block, Record { epoch: narrow.epoch + 1, ..wide });
    fleet.nodes[0].0.table.remove(&block);
    fleet.rest(&[0]);
    assert_eq!(fleet.view.blocks[&block].claims[&claim].part, Some(half));
}

#[test]
fn news_are_saved_before_anything_is_told() {
    let mut fleet = Fleet::new(vec![want(1)]);
    fleet.rest(&[0]);
    let next = fleet.charter().next(None, 1);
    let before = fleet.memory(0).clone();
    fleet.view.charter = Some(next.clone());
    let promised = saved(fleet.step(0));
    assert_eq!(promised.charter, Some(next));
    // What it remembers of the incarnation before is still to be told.
    assert_eq!((promised.table_of, promised.table), (before.table_of, before.table));
    let told = written(fleet.step(0));
    let [(Key::Charter, Value::Charter(Charter { phase: Phase::Settling(settling), .. }))] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(settling.merged.contains(&before.instance));
}

#[test]
fn an_emptied_store_is_refounded_and_a_stranger_left_alone() {
    let mut fleet = Fleet::new(vec![want(1), want(1)]);
    fleet.rest(&[0, 1]);
    let held = [fleet.memory(0).usable(), fleet.memory(1).usable()];
    fleet.view = View::default();
    fleet.rest(&[0, 1]);
    assert_eq!([fleet.memory(0).usable(), fleet.memory(1).usable()], held);
    assert_eq!((fleet.charter().number, fleet.view.blocks.len()), (2, 2));
    let mut other = Fleet::new(vec![want(0)]);
    other.fresh = 10_000;
    other.rest(&[0]);
    fleet.view = other.view;
    assert_eq!(fleet.next(0), None);
    assert_eq!(fleet.memory(0).usable(), held[0]);
}

#[test]
fn in_a_dispute_the_confirmed_claim_stays_and_the_other_withdraws() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0, 1]);
    let (block, record) = fleet.view.blocks.first_key_value().map(|(block, record)| (*block, record.clone())).unwrap();
    let name = NodeName::new("n9").unwrap();
    let rival = Claim { owner: InstanceId::new(9), name, part: None, kept: false };
    let mine = record.claims.clone();
    let claims = mine.clone().into_iter().chain([(ClaimId::new(9), rival)]).collect();
    let disputed = Record { epoch: record.epoch + 1, id: RecordId::new(9), claims, ..record };
    fleet.view.blocks.insert(block, disputed);
    let asserted = written(fleet.step(0));
    assert!(matches!(&asserted[..], [(_, Value::Record(now))] if now.claims.keys().eq(mine.keys())));
    fleet.rest(&[0, 1]);
    assert_eq!(fleet.memory(0).usable(), [block]);
}

#[test]
fn a_node_that_was_removed_uses_nothing_and_one_that_is_gone_can_be_abandoned() {
    let mut fleet = Fleet::new(vec![want(0), want(2), want(0)]);
    fleet.rest(&[0, 1]);
    let gone = fleet.memory(1).instance;
    fleet.nodes[0].1 = Wish { remove: BTreeSet::from([gone]), ..want(2) };
    fleet.rest(&[0]);
    assert_eq!(fleet.memory(0).usable().len(), 2);
    fleet.nodes[1].1 = want(0);
    fleet.rest(&[1]);
    assert!(fleet.memory(1).usable().is_empty());
    // The founder and only witness goes, with its blocks.
    let founder = fleet.memory(0).instance;
    fleet.nodes[2].1 = Wish { remove: BTreeSet::from([founder]), ..want(1) };
    fleet.rest(&[2]);
    assert!(fleet.memory(2).usable().is_empty());
    fleet.nodes[2].1.abandon = BTreeSet::from([founder]);
    fleet.rest(&[2]);
    assert_eq!(fleet.memory(2).usable().len(), 1);
    assert_eq!(fleet.charter().witnesses, BTreeSet::from([InstanceId::new(3)]));
}

#[test]
fn present_nodes_become_witnesses_in_odd_numbers() {
    let mut fleet = Fleet::new(vec![want(0); 7]);
    let all: BTreeSet<InstanceId> = fleet.nodes.iter().map(|(memory, _)| memory.instance).collect();
    for (count, witnesses) in [(1, 1), (2, 1), (3, 3), (4, 3), (7, 5)] {
        let present: BTreeSet<InstanceId> = all.iter().copied().take(count).collect();
        fleet.nodes.iter_mut().for_each(|(_, wish)| wish.present.clone_from(&present));
        let nodes: Vec<usize> = (0..count).collect();
        fleet.rest(&nodes);
        assert_eq!(fleet.charter().witnesses.len(), witnesses, "{count} present");
        assert!(fleet.charter().is_open());
    }
}

/// The others would appoint it before anybody can remove it, if that were done later.
#[test]
fn a_node_that_was_abandoned_and_removed_and_lives_is_not_appointed_again() {
    let mut fleet = Fleet::new(vec![want(0); 3]);
    let all: BTreeSet<InstanceId> = fleet.nodes.iter().map(|(memory, _)| memory.instance).collect();
    fleet.nodes.iter_mut().for_each(|(_, wish)| wish.present.clone_from(&all));
    fleet.rest(&[0]);
    assert_eq!(fleet.charter().witnesses, all);
    let lost = fleet.memory(2).instance;
    fleet.nodes[0].1.abandon = BTreeSet::from([lost]);
    fleet.nodes[0].1.remove = BTreeSet::from([lost]);
    fleet.rest(&[0, 1, 2]);
    assert!(fleet.charter().is_open() && !fleet.charter().witnesses.contains(&lost));
}

/// The same incarnation was open in another copy of the store. There somebody claimed a block, and died before he sealed it.
#[test]
fn what_was_told_is_firm_whoever_is_there_to_seal_it() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0, 1]);
    let (block, record) = fleet.view.blocks.first_key_value().map(|(block, record)| (*block, record.clone())).unwrap();
    let (own, charter) = (fleet.claim_of(0), fleet.charter().next(None, 7));
    fleet.view.apply(Key::Charter, Some(Value::Charter(charter.clone())));
    fleet.view.apply(Key::Block(block), None);
    fleet.nodes.iter_mut().for_each(|(memory, _)| memory.charter = Some(charter.clone()));
    let (owner, name) = (InstanceId::new(9), NodeName::new("n9").unwrap());
    let claims = [(ClaimId::new(9), Claim { owner, name, part: None, kept: false })].into();
    let (id, incarnation) = (RecordId::new(9), charter.number);
    let other = Record { id, author: owner, incarnation, sealed: false, claims, ..record };
    fleet.nodes[1].0.table.insert(block, other);
    fleet.is_there(0);
    assert_eq!(written(fleet.step(1)).len(), 2);
    fleet.rest(&[0, 1]);
    assert!(fleet.charter().is_open());
    assert_eq!(fleet.view.blocks[&block].claims.keys().collect::<Vec<_>>(), [&own]);
}

#[test]
fn a_claim_with_a_rival_is_not_confirmed() {
    let mut fleet = Fleet::new(vec![want(0), want(1)]);
    fleet.rest(&[0]);
    fleet.rest(&[1]);
    let claim = fleet.claim_of(1);
    let (block, mut record) = fleet.view.blocks.pop_first().unwrap();
    let (owner, name) = (InstanceId::new(9), NodeName::new("n9").unwrap());
    record.claims.insert(ClaimId::new(9), Claim { owner, name, part: None, kept: false });
    record.sealed = true;
    fleet.view.apply(Key::Block(block), Some(Value::Record(record)));
    assert!(!saved(fleet.step(1)).holdings.contains_key(&claim));
}

/// Who shares the block changed it before its claimant saw it firm, and died before he sealed that.
#[test]
fn a_claim_that_was_firm_is_confirmed_whoever_builds_upon_it() {
    let mut fleet = Fleet::new(vec![want(0), want(1)]);
    fleet.rest(&[0]);
    fleet.rest(&[1]);
    let (id, author) = (fleet.claim_of(1), InstanceId::new(9));
    for kept in [false, true] {
        let (block, record) =
            fleet.view.blocks.first_key_value().map(|(block, record)| (*block, record.clone())).unwrap();
        let mut later = Record { epoch: record.epoch + 1, id: RecordId::new(record.epoch.into()), author, ..record };
        later.claims.values_mut().for_each(|claim| claim.kept = kept);
        fleet.view.apply(Key::Block(block), Some(Value::Record(later)));
        fleet.rest(&[1]);
        assert_eq!(fleet.memory(1).holdings[&id].state == Hold::Confirmed, kept);
    }
}

/// What its owner returned, or an operator took away: it was taken out of a firm state, whoever lives to seal that.
#[test]
fn what_a_later_state_does_not_have_does_not_come_back() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0, 1]);
    let earlier = fleet.view.blocks.clone();
    fleet.nodes[0].1 = Wish { give_up: BTreeSet::from([fleet.claim_of(0)]), ..want(0) };
    fleet.step(0);
    fleet.step(0);
    let later = fleet.view.blocks.clone();
    assert!(later.values().all(|record| !record.sealed && record.claims.is_empty()));
    assert_eq!((ahead(&later, &earlier), ahead(&earlier, &later)), (BTreeMap::new(), later));
}

/// Of two states that forgot each other, one is without what somebody returned, and the other has a claim more. Nobody has to
/// know what was built upon the first, and it has the later epoch.
#[test]
fn what_was_joined_confirms_nothing() {
    let mut fleet = Fleet::new(vec![want(2), want(1), want(0), want(0)]);
    fleet.rest(&[0]);
    let claim = fleet.claim_of(0);
    let block = fleet.memory(0).holdings[&claim].block;
    let keep = |fleet: &mut Fleet, at: usize, length: u8| {
        let (id, held) = fleet.memory(at).holdings.iter().find(|(_, held)| held.block == block).unwrap();
        let part = held.range().subnets(length).unwrap().next().unwrap();
        fleet.nodes[at].1.keep = BTreeMap::from([(*id, part)]);
        fleet.rest(&[0, at]);
    };
    keep(&mut fleet, 0, 25);
    fleet.rest(&[0, 1]);
    keep(&mut fleet, 1, 26);
    let epoch = fleet.view.blocks[&block].epoch;
    let mut other = Fleet { fresh: 5_000, ..fleet.clone() };
    // The second returns its part, and the fourth claims what is free then; only it knows that.
    fleet.nodes[1].1 = Wish { give_up: BTreeSet::from([fleet.claim_of(1)]), ..want(0) };
    fleet.rest(&[0, 1]);
    let met = fleet.view.clone();
    fleet.nodes[3].1 = want(1);
    fleet.rest(&[3]);
    fleet.nodes[3].0.table = fleet.view.blocks.clone();
    assert_eq!((met.blocks[&block].sealed, fleet.view.blocks[&block].epoch), (true, epoch + 2));
    // In another copy the third claims what is free beside the second.
    other.nodes[2].1 = want(1);
    other.rest(&[2]);
    other.nodes[2].0.table = other.view.blocks.clone();
    assert_eq!(other.view.blocks[&block].epoch, epoch + 1);
    let early = other.claim_of(2);
    // They meet, without the second and the fourth.
    (fleet.view, fleet.nodes[2], fleet.fresh) = (met, other.nodes[2].clone(), 10_000);
    fleet.is_there(0);
    fleet.rest(&[0, 2]);
    let held = fleet.memory(2).usable();
    assert_eq!((held.len(), fleet.memory(2).holdings.contains_key(&early)), (1, false));
    fleet.rest(&[0, 2, 3]);
    assert_eq!(fleet.memory(2).usable(), held);
    assert!(fleet.memory(3).usable().iter().all(|part| !part.contains(&held[0]) && !held[0].contains(part)));
}

/// Nor is a claim confirmed by what is built upon that, before it is sealed.
#[test]
fn what_stood_in_a_joined_state_was_not_firm_before() {
    let mut fleet = Fleet::new(vec![want(0), want(1)]);
    fleet.rest(&[0]);
    fleet.rest(&[1]);
    let (block, record) = fleet.view.blocks.first_key_value().map(|(block, record)| (*block, record.clone())).unwrap();
    let stale = Record { id: RecordId::new(9), claims: BTreeMap::new(), ..record };
    let of = |record: &Record| BTreeMap::from([(block, record.clone())]);
    for (store, told) in [(&record, &stale), (&stale, &record)] {
        let joined = ahead(&of(store), &of(told));
        assert!(joined[&block].joined && joined[&block].claims == record.claims);
        assert!([store, told].iter().all(|one| ahead(&joined, &of(one)).is_empty()));
        let writer = Writer { author: InstanceId::new(9), incarnation: 1, id: RecordId::new(10) };
        let after = joined[&block].after(writer, record.claims.clone());
        assert!(!after.joined && after.claims.values().all(|claim| !claim.kept));
    }
}

/// By requests that come late the same incarnation begins and is told in a copy of the store that lacks what was told.
#[test]
fn what_was_told_in_another_copy_of_the_store_is_told_again() {
    let mut fleet = Fleet::new(vec![want(1), want(0), want(0)]);
    fleet.rest(&[0]);
    let (block, before) = fleet.view.blocks.pop_first().unwrap();
    let early = fleet.view.clone();
    fleet.view.apply(Key::Block(block), Some(Value::Record(before)));
    let all = fleet.nodes.iter().map(|(memory, _)| memory.instance).collect();
    fleet.nodes.iter_mut().for_each(|(_, wish)| wish.present = BTreeSet::clone(&all));
    // The only witness begins an incarnation with two more, and tells all that it remembers.
    let [begun, saved_as, told] = [(); 3].map(|()| fleet.step(0));
    assert_eq!(saved(saved_as).charter, Some(charter_of(&begun)));
    let charter = charter_of(&told);
    assert!(matches!(&charter.phase, Phase::Settling(settling) if settling.is_told()));
    // Here it remembers a block that is not there. The two others know nothing, and do not open it without the first.
    fleet.view = View { charter: Some(charter), ..early };
    fleet.nodes[2].1 = Wish { present: all, ..want(2) };
    fleet.rest(&[1, 2]);
    assert!(!fleet.charter().is_open());
    fleet.rest(&[0, 1, 2]);
    assert!(fleet.charter().is_open());
    assert_eq!(fleet.memory(0).usable(), [block]);
    assert_eq!(fleet.memory(2).usable().len(), 1);
}

fn pool(name: &str, range: &str) -> Pool {
    Pool { name: name.to_owned(), range: range.parse().unwrap(), ..plan().pools()[0].clone() }
}

fn pools(charter: &Charter) -> String {
    charter.plan.pools().iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_pool_is_in_use_when_a_majority_remembers_it() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0]);
    fleet.rest(&[0, 1]);
    let before = fleet.charter().clone();
    fleet.nodes[1].1.add = vec![pool("more", "10.1.0.0/23")];
    fleet.nodes[1].1.blocks = BTreeMap::from([("more".to_owned(), 1)]);
    fleet.rest(&[1]);
    assert!(!fleet.charter().is_open() && fleet.charter().number == before.number + 1);
    assert!(fleet.memory(1).holdings.is_empty(), "nobody remembers it yet but who asked for it");
    fleet.rest(&[0, 1]);
    assert_eq!((pools(fleet.charter()).as_str(), fleet.charter().is_open()), ("main more", true));
    assert_eq!(fleet.memory(1).usable().len(), 1);
    assert_eq!((fleet.memory(0).usable().len(), fleet.charter().number), (1, before.number + 1));
}

#[test]
fn a_store_that_forgot_a_pool_is_told_of_it_also_in_a_later_incarnation() {
    let mut fleet = Fleet::new(vec![want(1), want(1), want(0)]);
    fleet.rest(&[0]);
    fleet.rest(&[0, 1]);
    let before = fleet.view.clone();
    fleet.nodes[0].1.add = vec![pool("more", "10.1.0.0/23")];
    fleet.nodes[1].1.blocks.insert("more".to_owned(), 1);
    fleet.rest(&[0, 1]);
    fleet.nodes[0].1.add.clear();
    // Others have come to a later incarnation without it.
    fleet.view = before;
    let earlier = fleet.charter().clone();
    let later = Charter { number: earlier.number + 7, id: crate::identity::IncarnationId::new(7), ..earlier };
    fleet.view.charter = Some(later.clone());
    let next = charter_of(&fleet.step(1));
    assert_eq!((pools(&next).as_str(), next.number), ("main more", later.number + 1));
    fleet.rest(&[0, 1]);
    assert_eq!((fleet.memory(1).usable().len(), fleet.charter().is_open()), (2, true));
}

#[test]
fn who_knows_a_pool_that_does_not_fit_does_nothing_and_keeps_what_it_has() {
    let mut fleet = Fleet::new(vec![want(1), want(0)]);
    fleet.rest(&[0]);
    let before = fleet.view.clone();
    fleet.nodes[0].1.add = vec![pool("more", "10.1.0.0/23")];
    fleet.nodes[0].1.blocks.insert("more".to_owned(), 1);
    fleet.rest(&[0]);
    fleet.view = before;
    fleet.nodes[1].1.add = vec![pool("wide", "10.1.0.0/16")];
    fleet.nodes[1].1.blocks.insert("wide".to_owned(), 1);
    for _ in 0..20 {
        fleet.step(1);
    }
    let split = fleet.view.clone();
    fleet.rest(&[0, 1]);
    assert_eq!(fleet.view, split, "the witness does not settle what it must not forget its pool for");
    assert!(pools(fleet.charter()).contains("wide") && !fleet.charter().is_open());
    assert_eq!((fleet.memory(0).usable().len(), fleet.memory(1).usable().len()), (2, 0));
    // One that does not fit is not asked for.
    fleet.nodes[1].1.add = vec![pool("main", "10.7.0.0/23"), pool("wider", "10.0.0.0/15")];
    assert_eq!(fleet.next(1), None);
}

fn charter_of(action: &Option<Action>) -> Charter {
    match &written(action.clone())[..] {
        [.., (Key::Charter, Value::Charter(charter))] => charter.clone(),
        other => panic!("{other:?}"),
    }
}
