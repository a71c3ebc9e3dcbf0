//! What people are told of pools that are not the fleet's.

use netd_config::{FleetConfig, NodeConfig};
use netd_fleet::{Plan, Pool};

use super::{hinders, unlike};

fn config(pools: &str) -> FleetConfig {
    let text = format!("[fleet]\npools = [{pools}]\netcd = ['http://192.0.2.1:2379']\n");
    NodeConfig::parse("netd.toml", &text).unwrap().fleet
}

fn plan(pools: &str) -> Plan {
    let pool = |pool: netd_config::PoolConfig| Pool {
        name: pool.name,
        range: pool.range,
        block: pool.block,
        reserved: pool.reserved,
        labels: pool.nodes,
    };
    Plan::new(config(pools).pools.into_iter().map(pool).collect()).unwrap()
}

#[test]
fn pools_that_differ_are_told_with_what_to_write() {
    let stored = "{ name = 'main', range = '10.4.0.0/16' }, 'fd04::/48'";
    for (pools, expected, gets_none) in [
        (stored, &[][..], false),
        // What only this node goes by.
        (
            "{ name = 'main', range = '10.4.0.0/16', reserved = ['10.4.9.0/24'], encapsulation = 'direct' }, 'fd04::/48'",
            &[],
            false,
        ),
        (
            "'10.5.0.0/16', 'fd04::/48'",
            &[
                "pool 10.5.0.0/16 is not in the store, which has fd04::/48, main (10.4.0.0/16)",
                "pool main (10.4.0.0/16) is in the store and not",
            ],
            true,
        ),
        (
            "{ name = 'new', range = '10.5.0.0/16' }, 'fd04::/48', { name = 'main', range = '10.4.0.0/16' }",
            &["pool new (10.5.0.0/16) is not in the store"],
            true,
        ),
        (
            "'10.4.0.0/17', { name = 'main', range = '10.5.0.0/16' }, 'fd04::/48'",
            &[
                "pool 10.4.0.0/17 is not in the store, which has fd04::/48, main (10.4.0.0/16): no node gets a block of it, and it cannot be added (pools",
                "pool main is 10.5.0.0/16 here",
            ],
            true,
        ),
        ("'10.4.0.0/16', 'fd04::/48'", &["pool 10.4.0.0/16 is called main in the store"], true),
        (
            "{ name = 'main', range = '10.5.0.0/16' }, 'fd04::/48'",
            &["pool main is 10.5.0.0/16 here and 10.4.0.0/16 in the store"],
            true,
        ),
        (
            "{ name = 'main', range = '10.4.0.0/16', block = 24 }, 'fd04::/48'",
            &["pool main has blocks of /24 in netd.toml and of /26 in the store"],
            false,
        ),
        ("{ name = 'main', range = '10.4.0.0/16' }", &["pool fd04::/48 is in the store and not in netd.toml"], false),
    ] {
        let (config, plan) = (config(pools), plan(stored));
        let told: Vec<String> = unlike(&config, &plan).iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{pools}: {told:?}");
        told.iter().zip(expected).for_each(|(text, words)| assert!(text.starts_with(words), "{pools}: {text}"));
        assert_eq!(hinders(&config.pools[0], &plan).is_some(), gets_none, "{pools}");
    }
}
