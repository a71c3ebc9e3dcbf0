//! Who may be declared gone, and what people are told who is meant by a name.

use std::collections::{BTreeMap, BTreeSet};

use netd_fleet::{
    Charter, Claim, ClaimId, FleetId, IncarnationId, InstanceId, NodeName, NodeRecord, Peers, Phase, Plan, Record,
    RecordId, Settling, Table, TellingId,
};

use super::{Known, RemoveError, choose, judge, known, missing};

const ME: InstanceId = InstanceId::new(1);

fn set(of: &[u128]) -> BTreeSet<InstanceId> {
    of.iter().copied().map(InstanceId::new).collect()
}

fn charter(witnesses: &[u128]) -> Charter {
    Charter {
        fleet: FleetId::new(1),
        number: 3,
        id: IncarnationId::new(3),
        plan: Plan::default(),
        is_grown: false,
        witnesses: set(witnesses),
        removed: BTreeSet::new(),
        phase: Phase::Open,
    }
}

/// Blocks by their third octet, each with its owner.
fn table(owners: &[(u8, u128, &str)]) -> Table {
    let record = |(at, owner, name): &(u8, u128, &str)| {
        let claim =
            Claim { owner: InstanceId::new(*owner), name: NodeName::new(*name).unwrap(), part: None, kept: false };
        let claims = BTreeMap::from([(ClaimId::new(u128::from(*at)), claim)]);
        let (id, author) = (RecordId::new(u128::from(*at)), InstanceId::new(*owner));
        (
            format!("10.4.{at}.0/24").parse().unwrap(),
            Record { epoch: 1, id, author, incarnation: 1, sealed: true, joined: false, claims },
        )
    };
    owners.iter().map(record).collect()
}

/// This node is n1; n2 is there as 2, and was there as 12 and 13; n3 is gone.
fn all(charter: &Charter) -> Vec<Known> {
    let table = table(&[(1, 1, "n1"), (2, 2, "n2"), (12, 12, "n2"), (13, 13, "n2"), (14, 13, "n2"), (3, 3, "n3")]);
    known(charter, &table, (&Peers::new(), &set(&[1, 2])))
}

fn digits(instance: u128) -> String {
    InstanceId::new(instance).to_string()
}

#[test]
fn a_name_means_one_node_or_it_is_said_which_there_are() {
    let all = all(&charter(&[1]));
    let chosen = |name: &str, instance: &str| choose(&all, name, instance).map(|one| one.instance.number());
    assert_eq!(chosen("n3", ""), Ok(3));
    assert_eq!(chosen("n1", ""), Ok(1));
    assert_eq!(chosen("n2", &digits(12)), Ok(12));
    assert_eq!(chosen(&digits(3), ""), Ok(3), "where nobody knows the name");
    assert_eq!(chosen("n9", ""), Err(RemoveError::Unknown("n9".to_owned())));
    assert_eq!(chosen("n3", "ff"), Err(RemoveError::Unknown("n3".to_owned())));
    let text = chosen("n2", "").unwrap_err().to_string();
    for words in [digits(2), format!("{} (10.4.12.0/24)", digits(12)), "10.4.13.0/24, 10.4.14.0/24".to_owned()] {
        assert!(text.contains(&words), "{words}: {text}");
    }
    let gone: Vec<Known> = all.into_iter().filter(|one| !one.is_present).collect();
    let text = choose(&gone, "n2", "").unwrap_err().to_string();
    assert!(text.starts_with("several nodes were called n2 and are gone") && text.contains("--instance"), "{text}");
}

#[test]
fn a_node_that_was_renamed_has_its_last_name() {
    let table = table(&[(1, 1, "n1"), (3, 3, "old")]);
    let said = serde_json::json!({"name": "new", "addresses": [], "instance": digits(3)});
    let renamed: NodeRecord = serde_json::from_value(said).unwrap();
    let peers = Peers::from([(renamed.name.clone(), renamed)]);
    let all = known(&charter(&[1]), &table, (&peers, &set(&[1])));
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["n1", "new"]);
}

#[test]
fn whoever_is_there_stays() {
    let charter = charter(&[1]);
    let all = all(&charter);
    let judged = |instance: u128| {
        let one = all.iter().find(|one| one.instance.number() == instance).unwrap();
        judge(one, &all, (ME, false), &charter)
    };
    assert_eq!(judged(1), Err(RemoveError::Here("n1".to_owned())));
    assert_eq!(judged(2), Err(RemoveError::Present("n2".to_owned())));
    assert_eq!((judged(12), judged(3)), (Ok(()), Ok(())));
}

#[test]
fn a_witness_is_lost_only_where_too_few_others_are_there() {
    let judged = |charter: &Charter, instance: u128, lost: bool| {
        let all = all(charter);
        let one = all.iter().find(|one| one.instance.number() == instance).unwrap();
        judge(one, &all, (ME, lost), charter)
    };
    let not_needed = Err(RemoveError::NotNeeded("n3".to_owned()));
    for (witnesses, plain, lost) in [
        (&[1, 2, 3][..], Ok(()), not_needed.clone()),
        (&[1, 2], Ok(()), not_needed),
        (&[3], Err(&["n3"][..]), Ok(())),
        (&[1, 3, 12], Err(&["n2", "n3"]), Ok(())),
    ] {
        let charter = charter(witnesses);
        let plain = plain.map_err(|absent: &[&str]| RemoveError::Needed {
            name: "n3".to_owned(),
            witnesses: witnesses.len(),
            absent: absent.iter().map(|name| (*name).to_owned()).collect(),
        });
        assert_eq!((judged(&charter, 3, false), judged(&charter, 3, true)), (plain, lost), "{witnesses:?}");
    }
    // Others are missing, and it has no part in that.
    assert_eq!(judged(&charter(&[3]), 12, false), Ok(()));
    assert_eq!(judged(&charter(&[3]), 12, true), Err(RemoveError::NotNeeded("n2".to_owned())));
}

/// Those of before are asked until they have told.
#[test]
fn witnesses_of_before_are_waited_for_while_the_fleet_settles() {
    let settling = |merged: &[u128]| {
        let (need, merged, adopted) = (BTreeSet::from([set(&[2, 3, 12])]), set(merged), BTreeSet::new());
        let settling = Settling { need, merged, adopted, told: TellingId::new(1) };
        Charter { phase: Phase::Settling(settling), ..charter(&[1, 2]) }
    };
    let absent = |charter: &Charter| missing(&all(charter), charter);
    assert_eq!(absent(&settling(&[])), ["n2", "n3"]);
    assert_eq!(absent(&settling(&[3])), Vec::<String>::new());
}

/// Else nobody could say that it will not tell.
#[test]
fn one_that_was_removed_and_is_still_asked_can_be_lost() {
    let (need, adopted) = (BTreeSet::from([set(&[1, 3])]), BTreeSet::new());
    let settling = Settling { need, merged: set(&[1]), adopted, told: TellingId::new(1) };
    let charter = Charter { phase: Phase::Settling(settling), removed: set(&[3]), ..charter(&[1, 2]) };
    let all = all(&charter);
    let one = choose(&all, "n3", "").unwrap();
    assert_eq!(missing(&all, &charter), ["n3"]);
    assert!(matches!(judge(one, &all, (ME, false), &charter), Err(RemoveError::Needed { .. })));
    assert_eq!(judge(one, &all, (ME, true), &charter), Ok(()));
}

#[test]
fn a_witness_without_a_block_is_known_and_a_removed_node_is_not() {
    let removed = Charter { removed: set(&[3]), ..charter(&[1, 7]) };
    let names: Vec<String> = all(&removed).into_iter().map(|one| one.name).collect();
    assert_eq!(names, [digits(7).as_str(), "n1", "n2", "n2", "n2"]);
}
