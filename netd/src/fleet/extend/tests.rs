//! Which pools may be added, and what is said of others.

use std::collections::BTreeSet;

use netd_config::{FleetConfig, NodeConfig};
use netd_fleet::{Charter, FleetId, IncarnationId, NodeRecord, Phase, Plan};

use super::{ExtendError, choose, judge, pool};

fn config(pools: &str) -> FleetConfig {
    let text = format!("[fleet]\npools = [{pools}]\netcd = ['http://192.0.2.1:2379']\n");
    NodeConfig::parse("netd.toml", &text).unwrap().fleet
}

fn charter(pools: &str) -> Charter {
    let plan = Plan::new(config(pools).pools.iter().map(pool).collect()).unwrap();
    let (fleet, id) = (FleetId::new(1), IncarnationId::new(1));
    let [witnesses, removed] = [BTreeSet::new(), BTreeSet::new()];
    Charter { fleet, number: 1, id, plan, is_grown: false, witnesses, removed, phase: Phase::Open }
}

fn peer(name: &str, address: &str, reads_added_pools: bool) -> NodeRecord {
    let said = serde_json::json!({
        "name": name, "addresses": [address], "reads_added_pools": reads_added_pools,
    });
    serde_json::from_value(said).unwrap()
}

#[test]
fn a_pool_is_added_by_its_name_or_range_if_the_settings_have_it() {
    let config = config("'10.4.0.0/16', { name = 'more', range = '10.5.0.0/16' }");
    for word in ["more", "10.5.0.0/16"] {
        let chosen = choose(&config, word).unwrap();
        assert_eq!(judge(chosen, &charter("'10.4.0.0/16'"), [].into_iter()).unwrap().name, "more");
    }
    let unknown = choose(&config, "10.6.0.0/16").unwrap_err().to_string();
    assert!(unknown.contains("whose netd.toml has 10.4.0.0/16, more (10.5.0.0/16): write it"), "{unknown}");
}

#[test]
fn a_pool_that_does_not_fit_is_refused_with_the_reason() {
    let stored = charter("'10.4.0.0/16', { name = 'more', range = '10.6.0.0/16' }");
    for (asked, words) in [
        ("'10.4.0.0/15'", "it cannot be added (pools 10.4.0.0/15 and 10.4.0.0/16 share addresses"),
        ("'10.4.9.0/24'", "it cannot be added (pools 10.4.0.0/16 and 10.4.9.0/24 share addresses"),
        ("{ name = 'more', range = '10.7.0.0/16' }", "pool more is 10.7.0.0/16 here and 10.6.0.0/16 in the store"),
        ("{ range = '10.4.0.0/16', block = 24 }", "has blocks of /24 in netd.toml and of /26 in the store"),
        ("{ name = 'other', range = '10.4.0.0/16' }", "pool other is called 10.4.0.0/16 in the store"),
    ] {
        let config = config(asked);
        let refused = judge(&config.pools[0], &stored, [].into_iter()).unwrap_err();
        assert!(matches!(&refused, ExtendError::Unlike(text) if text.contains(words)), "{asked}: {refused}");
    }
    // One that the store has is there already.
    assert!(judge(&config("'10.4.0.0/16'").pools[0], &stored, [].into_iter()).is_ok());
}

#[test]
fn no_pool_is_added_where_a_node_is_reached_or_cannot_read_of_it() {
    let (config, stored) = (config("'10.5.0.0/16'"), charter("'10.4.0.0/16'"));
    let refused = |peers: &[NodeRecord]| judge(&config.pools[0], &stored, peers.iter()).unwrap_err().to_string();
    let inside = refused(&[peer("n2", "192.0.2.2", true), peer("n3", "10.5.0.3", true)]);
    assert!(
        inside.starts_with("pool 10.5.0.0/16 holds an address of the hosts' own networks, 10.5.0.3 (n3)"),
        "{inside}"
    );
    let earlier = refused(&[peer("n2", "192.0.2.2", true), peer("n3", "192.0.2.3", false)]);
    assert!(earlier.starts_with("the netd of n3 cannot read"), "{earlier}");
}

#[test]
fn a_pool_smaller_than_a_block_is_none() {
    let text = "[fleet]\npools = [{ range = '10.5.0.0/28', block = 26 }]\netcd = ['http://192.0.2.1:2379']\n";
    let refused = NodeConfig::parse("netd.toml", text).unwrap_err().to_string();
    assert!(refused.contains("block"), "{refused}");
}
