//! What was told piece by piece is what would be told anew.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{KeyValue, Keys, Listing, Mirror};
use crate::charter::Charter;
use crate::identity::{ClaimId, InstanceId, NodeName, RecordId};
use crate::peers::{Encapsulation, NodeRecord, Peers};
use crate::plan::{Plan, Pool};
use crate::record::{Claim, Record, Writer};
use crate::view::Key;

const ME: InstanceId = InstanceId::new(1);
const BLOCKS: [&str; 3] = ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"];

fn block(at: usize) -> IpNet {
    BLOCKS[at].parse().unwrap()
}

fn name(number: u128) -> NodeName {
    NodeName::new(format!("n{number}")).unwrap()
}

fn keys() -> Keys {
    Keys::new("/t")
}

fn claim(owner: u128, part: Option<&str>) -> (ClaimId, Claim) {
    let part = part.map(|part| part.parse().unwrap());
    (ClaimId::new(owner), Claim { owner: InstanceId::new(owner), name: name(owner), part, kept: false })
}

struct Store(Mirror);

impl Store {
    fn put(&mut self, key: Vec<u8>, value: &impl serde::Serialize) {
        let value = serde_json::to_vec(value).unwrap();
        self.0.put(KeyValue { key, value, ..KeyValue::default() }).unwrap();
    }

    fn peer(&mut self, called: u128, instance: u128, blocks: &[usize]) {
        self.peer_with(called, instance, blocks.iter().map(|at| block(*at)).collect());
    }

    fn peer_with(&mut self, called: u128, instance: u128, blocks: BTreeSet<IpNet>) {
        let record = NodeRecord {
            instance: Some(InstanceId::new(instance)),
            name: name(called),
            addresses: BTreeSet::new(),
            blocks,
            encapsulations: BTreeSet::new(),
            accepts: BTreeSet::new(),
            mtu: None,
            labels: BTreeMap::new(),
            version: String::new(),
            needs: None,
            lending: None,
            reads_added_pools: false,
        };
        self.put(keys().peer(name(called).as_str()), &record);
    }

    fn gone(&mut self, called: u128) {
        self.0.delete(&keys().peer(name(called).as_str())).unwrap();
    }

    fn claims(&mut self, at: usize, owners: &[u128], sealed: bool) {
        let writer = Writer { author: InstanceId::new(owners[0]), incarnation: 1, id: RecordId::new(7) };
        let record =
            Record { sealed, ..Record::first(writer, owners.iter().map(|owner| claim(*owner, None)).collect()) };
        self.put(keys().of(&Key::Block(block(at))), &record);
    }

    /// The first block, of which 2 has this since before, and 3 claims that now.
    fn parts(&mut self, of: &str, other: &str, sealed: bool) {
        let writer = |number| Writer { author: InstanceId::new(3), incarnation: 1, id: RecordId::new(number) };
        let before = Record::first(writer(7), [claim(2, Some(of))].into());
        let claims = [claim(2, Some(of)), claim(3, Some(other))].into();
        self.put(keys().of(&Key::Block(block(0))), &Record { sealed, ..before.after(writer(8), claims) });
    }

    fn incarnation(&mut self, number: u64) {
        let pool = Pool {
            name: "p".to_owned(),
            range: "10.0.0.0/16".parse().unwrap(),
            block: 24,
            reserved: BTreeSet::new(),
            labels: BTreeMap::new(),
        };
        let charter = Charter::found(ME, Plan::new(vec![pool]).unwrap(), 5);
        self.put(keys().of(&Key::Charter), &Charter { number, ..charter });
    }
}

fn empty() -> Store {
    let nothing = || Listing { pairs: Vec::new(), revision: 1 };
    Store(Mirror::of(keys(), nothing(), nothing()).unwrap())
}

/// What is heard, and which peers have which blocks then.
type Step<'a> = (&'a dyn Fn(&mut Store), &'a [(u128, &'a [usize])]);

#[test]
fn what_was_told_piece_by_piece_is_what_is_told_anew() {
    let mut store = empty();
    let mut told = Peers::new();
    let steps: &[Step<'_>] = &[
        (&|store| store.incarnation(1), &[]),
        // Its own record is nobody's peer.
        (&|store| store.peer(1, 1, &[]), &[]),
        (&|store| store.peer(2, 2, &[0]), &[(2, &[])]),
        (&|store| store.claims(0, &[2], false), &[(2, &[])]),
        (&|store| store.claims(0, &[2], true), &[(2, &[0])]),
        (&|store| store.peer(3, 3, &[1]), &[(2, &[0]), (3, &[])]),
        (&|store| store.claims(1, &[3], false), &[(2, &[0]), (3, &[])]),
        // What an earlier incarnation left counts until it is sealed anew.
        (&|store| store.incarnation(2), &[(2, &[0]), (3, &[1])]),
        // In dispute it is nobody's.
        (&|store| store.claims(1, &[3, 2], true), &[(2, &[0]), (3, &[])]),
        (&|store| store.claims(1, &[2], true), &[(2, &[0]), (3, &[])]),
        (&|store| store.peer(2, 2, &[0, 1]), &[(2, &[0, 1]), (3, &[])]),
        // Another instance under a name.
        (&|store| store.peer(3, 4, &[2]), &[(2, &[0, 1]), (3, &[])]),
        (&|store| store.claims(2, &[4], true), &[(2, &[0, 1]), (3, &[2])]),
        // One instance under two names.
        (&|store| store.peer(5, 4, &[2]), &[(2, &[0, 1]), (3, &[2]), (5, &[2])]),
        (&|store| store.claims(2, &[9], true), &[(2, &[0, 1]), (3, &[]), (5, &[])]),
        (&|store| store.gone(3), &[(2, &[0, 1]), (5, &[])]),
        (&|store| store.gone(2), &[(5, &[])]),
    ];
    for (at, (step, expected)) in steps.iter().enumerate() {
        step(&mut store);
        let before = told.clone();
        assert_eq!(store.0.tell(ME, &mut told), told != before, "step {at}");
        let found: Vec<_> = told.values().map(|peer| (peer.name.clone(), peer.blocks.clone())).collect();
        let wanted =
            expected.iter().map(|(called, blocks)| (name(*called), blocks.iter().map(|at| block(*at)).collect()));
        assert_eq!(found, wanted.collect::<Vec<_>>(), "step {at}");
        let mut anew = Peers::new();
        store.0.tell_all(ME, &[], &mut anew);
        assert_eq!(anew, told, "step {at}");
    }
}

/// Of a later netd, or written by hand.
#[test]
fn a_record_that_cannot_be_read_is_its_own_nodes_trouble() {
    let (mut store, mut told) = (empty(), Peers::new());
    store.peer(2, 2, &[]);
    let put = |store: &mut Store, called: u128, text: &str| {
        let (key, value) = (keys().peer(name(called).as_str()), text.as_bytes().to_vec());
        store.0.put(KeyValue { key, value, ..KeyValue::default() }).unwrap();
    };
    let others = format!("{{\"instance\":\"{}\",\"addresses\":7}}", InstanceId::new(3));
    put(&mut store, 1, &others);
    put(&mut store, 3, &others);
    put(&mut store, 4, "{}");
    put(
        &mut store,
        5,
        r#"{"name":"n5","addresses":["192.0.2.5"],"encapsulations":["direct","wireguard"],"accepts":["wireguard"],"later":1}"#,
    );
    store.put(b"/t/fleet/later/x".to_vec(), &1);
    store.0.tell(ME, &mut told);
    assert_eq!(told.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["n2", "n5"]);
    let takes = &told[&name(5)];
    assert_eq!(takes.encapsulations, BTreeSet::from([Encapsulation::Direct, Encapsulation::Unknown]));
    assert_eq!(takes.accepts, BTreeSet::from([Encapsulation::Unknown]), "not whatever it can");
    let unreadable = store.0.unreadable();
    assert_eq!(unreadable.keys().collect::<Vec<_>>(), ["n1", "n3", "n4"]);
    assert!(unreadable["n4"].contains("missing field `name`"), "{unreadable:?}");
    assert!(store.0.is_anothers("n1", ME) && store.0.is_anothers("n3", ME));
    assert!(!store.0.is_anothers("n4", ME), "nobody's");
    store.peer(4, 4, &[]);
    store.gone(3);
    put(&mut store, 2, "?");
    store.0.tell(ME, &mut told);
    assert_eq!(told.keys().map(NodeName::as_str).collect::<Vec<_>>(), ["n4", "n5"]);
    assert_eq!(store.0.unreadable().keys().collect::<Vec<_>>(), ["n1", "n2"]);
    for key in [keys().of(&Key::Charter), keys().of(&Key::Block(block(0))), b"/t/fleet/blocks/x".to_vec()] {
        assert!(store.0.put(KeyValue { key, value: b"{}".to_vec(), ..KeyValue::default() }).is_err());
    }
}

#[test]
fn who_is_gone_with_the_mirror_before_is_told_no_more() {
    let mut store = empty();
    store.peer(2, 2, &[]);
    let mut told = Peers::new();
    assert!(store.0.tell_all(ME, &[], &mut told));
    let late = told[&name(2)].clone();
    assert!(!empty().0.tell_all(ME, &[&late], &mut told), "it is awaited");
    assert!(empty().0.tell_all(ME, &[], &mut told));
    assert!(told.is_empty());
}

#[test]
fn only_what_a_decision_rests_on_is_news_to_it() {
    let mut store = empty();
    let mut is_news = |step: &dyn Fn(&mut Store)| {
        step(&mut store);
        std::mem::take(&mut store.0.is_news)
    };
    assert!(is_news(&|store| store.incarnation(1)));
    assert!(is_news(&|store| store.peer(2, 2, &[])));
    assert!(!is_news(&|store| store.peer(2, 2, &[0])), "it is there as before");
    assert!(is_news(&|store| store.claims(0, &[2], false)));
    assert!(is_news(&|store| store.claims(0, &[2], true)));
    assert!(is_news(&|store| store.peer(2, 3, &[0])));
    assert_eq!(store.0.present(), BTreeSet::from([InstanceId::new(3)]));
    store.gone(2);
    assert!(store.0.is_news);
    assert_eq!(store.0.present(), BTreeSet::new());
}

#[test]
fn who_shares_a_block_keeps_its_part_while_anothers_claim_is_witnessed() {
    let has = |said: [&str; 2], claimed: [&str; 2], sealed: bool| {
        let (mut store, mut told) = (empty(), Peers::new());
        store.incarnation(1);
        store.peer_with(2, 2, [said[0].parse().unwrap()].into());
        store.peer_with(3, 3, [said[1].parse().unwrap()].into());
        store.parts(claimed[0], claimed[1], sealed);
        store.0.tell(ME, &mut told);
        let of = |number| told[&name(number)].blocks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        [of(2), of(3)]
    };
    const HALVES: [&str; 2] = ["10.0.0.0/25", "10.0.0.128/25"];
    assert_eq!(has(HALVES, HALVES, false), [HALVES[0], ""]);
    assert_eq!(has(HALVES, HALVES, true), HALVES);
    // Its disk says less already, or its record more still.
    assert_eq!(has(["10.0.0.64/26", "10.0.0.0/24"], HALVES, true), ["10.0.0.64/26", HALVES[1]]);
    assert_eq!(has([HALVES[1], HALVES[0]], HALVES, true), ["", ""], "each says what is the other's");
    assert_eq!(has(HALVES, [HALVES[0], "10.0.0.0/26"], true), ["", ""], "they meet");
    assert_eq!(has(["10.0.1.0/25", "10.0.0.0/8"], HALVES, true), ["", ""], "of another block, and of more than one");
}
