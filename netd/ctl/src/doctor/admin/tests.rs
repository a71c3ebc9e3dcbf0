//! What is found of an administrator's chains, as nft lists them, and on a real kernel (needs root, and Debian's nftables).

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::{AdminChain, Answers, check, gather, names, read};
use crate::doctor::{Level, Place};
use crate::model::Network;

const COUNTER: &str = r#"{"counter":{"packets":0,"bytes":0}}"#;
const COMMENT: &str = r#"{"xt":{"type":"match","name":"comment"}}"#;

fn rule(chain: &str, verdict: &str) -> String {
    format!(
        r#",{{"rule":{{"family":"ip","table":"filter","chain":"{chain}","handle":9,"expr":[{COMMENT},{COUNTER},{verdict}]}}}}"#
    )
}

/// As nft 1.0.6 lists what iptables made, with the way that the official plugin makes but for its first step.
fn table(more: &str) -> String {
    let chain = |name: &str, base: &str| {
        format!(r#"{{"chain":{{"family":"ip","table":"filter","name":"{name}","handle":2{base}}}}},"#)
    };
    let forward = chain("FORWARD", r#","type":"filter","hook":"forward","prio":0,"policy":"accept""#);
    let inner = ["CNI-FORWARD", "CNI-ADMIN", "NOMAD-ADMIN"].map(|name| chain(name, "")).concat();
    let led = rule("CNI-FORWARD", r#"{"jump":{"target":"CNI-ADMIN"}}"#);
    let accepts = rule("NOMAD-ADMIN", r#"{"accept":null}"#);
    let head = r#"{"metainfo":{"version":"1.0.6","json_schema_version":1}},"#;
    let table = r#"{"table":{"family":"ip","name":"filter","handle":1}}"#;
    format!(r#"{{"nftables":[{head}{forward}{inner}{table}{led}{accepts}{more}]}}"#)
}

fn told(chains: &[AdminChain]) -> Vec<(Level, String)> {
    let findings = check(chains).into_iter();
    findings.map(|one| (one.level, format!("{}: {} -> {}", one.object, one.meaning, one.remedy))).collect()
}

fn found(more: &str) -> Vec<(Level, String)> {
    let names = BTreeSet::from(["CNI-ADMIN", "NOMAD-ADMIN"].map(str::to_owned));
    told(&read("ip", &table(more), &names))
}

#[test]
fn rules_that_nobody_meets_are_a_problem_where_they_may_refuse() {
    assert_eq!(found(""), [], "what accepts limits nobody: Nomad writes such rules");
    assert_eq!(found(&rule("CNI-ADMIN", r#"{"xt":{"type":"target","name":"LOG"}}"#)), []);
    let drops = rule("CNI-ADMIN", r#"{"drop":null}"#);
    let [(level, text)] = &found(&drops)[..] else { panic!("{:?}", found(&drops)) };
    assert_eq!(*level, Level::Problem);
    for part in ["chain ip filter CNI-ADMIN: 1 of its rules", "`iptables -I FORWARD -j CNI-ADMIN`"] {
        assert!(text.contains(part), "{text}");
    }
    for verdict in
        [r#"{"reject":{"type":"icmp"}}"#, r#"{"jump":{"target":"X"}}"#, r#"{"xt":{"type":"target","name":"REJECT"}}"#]
    {
        assert_eq!(found(&rule("NOMAD-ADMIN", verdict))[0].0, Level::Problem, "{verdict}");
    }
    // As the official plugin leads there, and as one may oneself.
    for to in ["CNI-FORWARD", "CNI-ADMIN"] {
        let led = drops.clone() + &rule("FORWARD", &format!(r#"{{"jump":{{"target":"{to}"}}}}"#));
        assert_eq!(found(&led)[0].0, Level::Ok, "{to}");
    }
}

#[test]
fn what_is_no_table_has_no_chain_and_files_name_others() {
    assert_eq!(read("ip", "", &BTreeSet::new()), []);
    assert_eq!(read("ip", "{}", &BTreeSet::new()), []);
    let key = "plugins[2].iptablesAdminChainName \"NOMAD-ADMIN\": netd leads nothing there".to_owned();
    let network = Network { unheeded_keys: vec!["plugins[3].markMasqBit 14: x".to_owned(), key], ..Network::default() };
    let answers = Answers { networks: Ok(vec![network]), ..Answers::default() };
    assert_eq!(names(Some(&answers)).into_iter().collect::<Vec<_>>(), ["CNI-ADMIN", "NOMAD-ADMIN"]);
    assert_eq!(names(None).into_iter().collect::<Vec<_>>(), ["CNI-ADMIN"]);
}

fn nft(script: &str) {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// In a namespace of the test's own.
#[test]
fn a_kernels_chains_are_read() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap_or_else(|error| panic!("this test needs root (unshare: {error})"));
        let place = Place { root: PathBuf::from("/"), socket: PathBuf::new() };
        let seen = || told(&gather(&place, None)).into_iter().map(|(level, _)| level).collect::<Vec<_>>();
        assert_eq!(seen(), []);
        nft("table ip filter { chain CNI-ADMIN { ip daddr 10.0.0.0/8 counter drop; }; }\n\
             table ip6 filter { chain CNI-ADMIN { accept; }; }");
        assert_eq!(seen(), [Level::Problem]);
        nft("table ip filter { chain FORWARD { type filter hook forward priority 0; jump CNI-ADMIN; }; }");
        assert_eq!(seen(), [Level::Ok]);
    });
    thread.join().unwrap();
}
