//! flannel's configurations, and what netd reads in the sections that are made of them.

use std::net::IpAddr;

use ipnet::IpNet;
use netd_config::{Encapsulation, FleetConfig, NodeConfig};

use super::{Translation, translate};

fn translated(text: &str) -> Translation {
    translate(text, &["http://192.0.2.1:2379".to_owned()]).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// As netd reads what was written.
fn read(text: &str) -> FleetConfig {
    let settings = translated(text).settings;
    NodeConfig::parse("netd.toml", &settings).unwrap_or_else(|error| panic!("{settings}\n{error}")).fleet
}

#[test]
fn a_section_looks_like_this() {
    let text = r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
        "Backend": {"Type": "vxlan", "Port": 7890}}"#;
    let expected = r#"# What flannel's configuration says, for /etc/netd/netd.toml: the same on every host.
# flannel: VNI 1, UDP port 7890. netd: a VNI of its own, UDP port 4789; let that pass between the hosts.
[fleet]
pools = [
    { range = "10.0.0.0/8", block = 20, reserved = ["10.0.0.0/13", "10.8.0.0/15", "10.99.16.0/20", "10.99.32.0/19", "10.99.64.0/18", "10.99.128.0/17", "10.100.0.0/14", "10.104.0.0/13", "10.112.0.0/12", "10.128.0.0/9"] },
]
encapsulation = "vxlan"
# To be completed; flannel's etcd will do, since netd's keys lie under /netd:
# etcd = ["http://ADDRESS:2379"]
"#;
    assert_eq!(translate(text, &[]).unwrap().settings, expected);
}

#[test]
fn pools_are_what_flannel_would_share() {
    for (text, expected) in [
        (r#"{"Network": "10.244.0.0/16"}"#, &["10.244.0.0/16 24"][..]),
        // Host bits are cut off, 0 and null say nothing, and keys are read without regard to case.
        (r#"{"network": "10.244.7.0/16", "SUBNETLEN": 0, "SubnetMin": "", "SubnetMax": null}"#, &["10.244.0.0/16 24"]),
        (r#"{"Network": "10.244.0.0/22"}"#, &["10.244.0.0/22 24"]),
        (r#"{"Network": "10.244.0.0/23"}"#, &["10.244.0.0/23 25"]),
        (r#"{"Network": "10.244.0.0/28"}"#, &["10.244.0.0/28 30"]),
        (r#"{"Network": "10.244.0.0/16", "SubnetLen": 26}"#, &["10.244.0.0/16 26"]),
        (r#"{"Network": "10.244.0.0/16", "IPv6Network": "fd04::/48"}"#, &["10.244.0.0/16 24"]),
        (
            r#"{"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd04::/48"}"#,
            &["10.244.0.0/16 24", "fd04::/48 64"],
        ),
        (r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd04::/63"}"#, &["fd04::/63 65"]),
    ] {
        let pools: Vec<String> = read(text).pools.iter().map(|pool| format!("{} {}", pool.range, pool.block)).collect();
        assert_eq!(pools, expected, "{text}");
    }
}

#[test]
fn what_lies_before_and_behind_the_subnets_is_reserved() {
    for (text, free) in [
        (r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.1.0", "SubnetMax": "10.1.254.0"}"#, "10.1.1.0 10.1.254.255"),
        (r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.128.0"}"#, "10.1.128.0 10.1.255.255"),
        (r#"{"Network": "10.1.0.0/16", "SubnetMax": "10.1.0.0"}"#, "10.1.0.0 10.1.0.255"),
        (r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.0.0", "SubnetMax": "10.1.255.0"}"#, "10.1.0.0 10.1.255.255"),
        (
            r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd04::/62", "IPv6SubnetMin": "fd04:0:0:1::", "IPv6SubnetMax": "fd04:0:0:2::"}"#,
            "fd04:0:0:1:: fd04::2:ffff:ffff:ffff:ffff",
        ),
    ] {
        let pool = read(text).pools.remove(0);
        let [first, last] = [0, 1].map(|at| free.split(' ').nth(at).unwrap().parse::<IpAddr>().unwrap());
        let is_reserved = |address: IpAddr| pool.reserved.iter().any(|range: &IpNet| range.contains(&address));
        let is_within = |address: IpAddr| (first..=last).contains(&address);
        for address in [
            Some(first),
            Some(last),
            super::before(first),
            super::behind(last),
            Some(pool.range.network()),
            Some(pool.range.broadcast()),
        ] {
            let address = address.unwrap();
            assert_eq!(is_reserved(address), !is_within(address) && pool.range.contains(&address), "{text}: {address}");
        }
    }
}

#[test]
fn backends_become_encapsulations_and_what_has_no_counterpart_is_told() {
    let with = |backend: &str| format!(r#"{{"Network": "10.244.0.0/16", "Backend": {backend}}}"#);
    for (backend, expected, notes) in [
        (r#"{"Type": "vxlan"}"#, Encapsulation::Vxlan, &["VNI 1, UDP port 8472"][..]),
        (
            r#"{"Type": "VXLAN", "VNI": 42, "Port": 4789, "GBP": true, "Colour": 1}"#,
            Encapsulation::Vxlan,
            &["VNI 42, UDP port 4789", "GBP", "Backend.Colour"],
        ),
        (r#"{"type": "vxlan", "directrouting": true}"#, Encapsulation::CrossSubnet, &["VNI 1"]),
        (r#"{"Type": "host-gw"}"#, Encapsulation::Direct, &[]),
        (r#"{"Type": "ipip"}"#, Encapsulation::Ipip, &[]),
        (r#"{"Type": "ipip", "DirectRouting": true}"#, Encapsulation::CrossSubnetIpip, &[]),
    ] {
        let text = with(backend);
        assert_eq!(read(&text).encapsulation, expected, "{backend}");
        let translation = translated(&text);
        assert_eq!(translation.notes.len(), notes.len(), "{translation:?}");
        for (note, words) in translation.notes.iter().zip(notes) {
            assert!(
                note.contains(words) && translation.settings.contains(&format!("# {note}.\n")),
                "{words}: {translation:?}"
            );
        }
    }
    let silent = translated(r#"{"Network": "10.244.0.0/16", "EnableNFTables": true, "Networks": []}"#);
    assert!(
        silent.notes[0].contains("earlier flanneld for udp") && silent.notes[2].starts_with("Networks "),
        "{silent:?}"
    );
    // A comment ends where its line does.
    let strange = translated(r#"{"Network": "10.244.0.0/16", "a\nlabels": 1, "Backend": {"Type": "host-gw"}}"#);
    assert_eq!(strange.notes, ["a\\nlabels has no meaning here and is left out"]);
    // IP in IP carries no IPv6.
    let both = r#"{"Network": "10.1.0.0/16", "EnableIPv6": true, "IPv6Network": "fd04::/48", "Backend": {"Type": "ipip", "DirectRouting": true}}"#;
    let fleet = read(both);
    let modes: Vec<_> = fleet.pools.iter().map(|pool| fleet.encapsulation_of(pool)).collect();
    assert_eq!(modes, [Encapsulation::CrossSubnetIpip, Encapsulation::CrossSubnet]);
}

#[test]
fn what_cannot_be_translated_says_why() {
    for (text, words) in [
        ("", &["empty", "/coreos.com/network/config"][..]),
        ("{", &["one JSON object"]),
        ("[]", &["should be an object"]),
        ("{}", &["has no Network"]),
        (r#"{"EnableIPv4": false}"#, &["neither IPv4 nor IPv6"]),
        (r#"{"Network": "10.1.0.0/16", "EnableIPv6": true}"#, &["has no IPv6Network"]),
        (r#"{"Network": "10.1.0.0"}"#, &["10.1.0.0 for Network", "10.244.0.0/16"]),
        (r#"{"Network": "fd04::/48"}"#, &["for Network"]),
        (r#"{"Network": 7}"#, &["7 for Network", "a text"]),
        (r#"{"Network": "\n\u001b[2J"}"#, &[r"\u{a}\u{1b}[2J for Network"]),
        (r#"{"Network": "10.1.0.0/29"}"#, &["/28 or a larger one"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": 17}"#, &["17 for SubnetLen", "18 to 30, for 10.1.0.0/16"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": 31}"#, &["18 to 30"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": 300}"#, &["300 for SubnetLen"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetLen": "24"}"#, &["a number"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.2.0.0"}"#, &["for SubnetMin", "a /24 in 10.1.0.0/16"]),
        (r#"{"Network": "10.1.0.0/16", "SubnetMax": "10.1.7.9"}"#, &["for SubnetMax", "the first address"]),
        (
            r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.9.0", "SubnetMax": "10.1.8.0"}"#,
            &["10.1.8.0 for SubnetMax", "10.1.9.0 (SubnetMin)"],
        ),
        (r#"{"Network": "10.1.0.0/16", "Backend": "vxlan"}"#, &["for Backend", "an object"]),
        (r#"{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": "1"}}"#, &["for Backend.VNI", "a number"]),
    ] {
        let error = netd_api::chain(&translate(text, &[]).unwrap_err());
        words.iter().for_each(|word| assert!(error.contains(word), "{word}: {error}"));
    }
    let error =
        translate(r#"{"Network": "192.0.0.0/16"}"#, &["http://192.0.2.1:2379".to_owned()]).unwrap_err().to_string();
    assert!(error.contains("netd would not start") && error.contains("192.0.2.1 lies in pool 192.0.0.0/16"), "{error}");
    for kind in ["udp", "wireguard", "ipsec", "alloc", "aws-vpc", "extension", ""] {
        let text = format!(r#"{{"Network": "10.1.0.0/16", "Backend": {{"Type": "{kind}"}}}}"#);
        let error = translate(&text, &[]).unwrap_err().to_string();
        assert!(error.contains(&format!("backend \"{kind}\"")) && error.contains("fleet.address"), "{error}");
    }
}
