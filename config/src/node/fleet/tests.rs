//! A fleet in few words and in many, and a golden text for every mistake. `UPDATE_GOLDEN=1` rewrites `tests/fleet/errors.txt`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Encapsulation, FleetConfig};
use crate::NodeConfig;

fn fleet(text: &str) -> FleetConfig {
    NodeConfig::parse("netd.toml", text).unwrap().fleet
}

#[test]
fn three_lines_are_a_fleet() {
    let few = fleet("[fleet]\npools = ['10.4.0.0/16', 'fd00:4::/48']\netcd = ['http://192.0.2.1:2379']\n");
    assert!(few.is_on() && !FleetConfig::default().is_on());
    let told: Vec<_> = few.pools.iter().map(|pool| (pool.name.as_str(), pool.block)).collect();
    assert_eq!(told, [("10.4.0.0/16", 26), ("fd00:4::/48", 122)]);
    assert_eq!(few.encapsulation_of(&few.pools[0]), Encapsulation::Vxlan);
    assert_eq!((few.etcd.endpoints.len(), few.etcd.prefix.as_str(), few.etcd.lease_seconds), (1, "/netd", 10));
    assert!(few.address.0.is_empty() && few.name.is_empty());
}

#[test]
fn everything_can_be_said() {
    let many = fleet(
        "[fleet]\nname = 'n1'\naddress = ['192.0.2.1', '2001:db8::1']\nencapsulation = 'direct'\nlabels = { rack = 'a' }\n\
         [[fleet.pools]]\nname = 'main'\nrange = '10.4.0.0/16'\nblock = 24\nencapsulation = 'cross-subnet'\n\
         reserved = ['10.4.9.0/24']\nnodes = { rack = 'a' }\n\
         [fleet.etcd]\nendpoints = ['https://192.0.2.1:2379']\nprefix = '/x'\nauthority = '/ca'\ncertificate = '/c'\n\
         key = '/k'\nuser = 'netd'\npassword_file = '/p'\nlease_seconds = 5\n",
    );
    let pool = &many.pools[0];
    assert_eq!((pool.name.as_str(), pool.block, pool.reserved.len(), pool.nodes.len()), ("main", 24, 1, 1));
    assert_eq!(many.encapsulation_of(pool), Encapsulation::CrossSubnet);
    assert_eq!((many.address.0.len(), many.labels["rack"].as_str(), many.etcd.lease_seconds), (2, "a", 5));
}

#[test]
fn pools_go_on_from_others_by_name_or_range() {
    let config = fleet(
        "[fleet]\netcd = ['http://192.0.2.1:2379']\n\
         pools = [{ range = '10.4.0.0/16', name = 'main' }, { range = '10.5.0.0/16', continues = '10.4.0.0/16' }, \
         { range = '10.6.0.0/16', continues = 'main' }, { range = '10.7.0.0/16', continues = '10.5.0.0/16' }]\n",
    );
    let all_before =
        |at: usize| config.all_before(&config.pools[at]).into_iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>();
    assert_eq!([0, 1, 2, 3].map(all_before), [vec![], vec!["main"], vec!["main"], vec!["10.5.0.0/16", "main"]]);
}

#[test]
fn a_list_names_every_node() {
    let listed = fleet(
        "[fleet]\npools = ['10.4.0.0/16']\n[fleet.nodes]\nn1 = { address = '192.0.2.1', blocks = ['10.4.1.0/24'] }\n\
         n2 = { address = '192.0.2.2', blocks = ['10.4.2.0/24', '10.4.3.0/24'] }\n",
    );
    assert_eq!(listed.nodes["n2"].blocks.len(), 2);
    assert_eq!(listed.nodes["n1"].address.0.first().unwrap().to_string(), "192.0.2.1");
}

#[test]
fn members_of_etcd_are_at_addresses_or_have_names() {
    let at = |endpoints: &str| {
        let config = fleet(&format!("[fleet]\npools = ['10.4.0.0/16']\netcd = [{endpoints}]\n"));
        config.etcd.addresses().map(|address| address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        at("'http://192.0.2.1:2379', 'http://[2001:db8::1]:2379/', 'http://192.0.2.2', 'http://[2001:db8::2]'"),
        ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]
    );
    assert!(at("'http://etcd.example.org:2379'").is_empty());
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fleet")
}

#[test]
fn every_mistake_is_told_with_its_key_and_its_remedy() {
    let paths = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    paths.sort();
    let mut told = String::new();
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        let errors = NodeConfig::parse(name, &fs::read_to_string(&path).unwrap()).expect_err(name);
        errors.mistakes().iter().for_each(|one| told.push_str(&format!("{name}: {}: {}\n", one.path, one.message)));
    }
    let golden = folder().join("errors.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &told).unwrap();
    }
    assert_eq!(fs::read_to_string(&golden).unwrap(), told);
}
