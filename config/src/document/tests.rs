//! CNI documents: what Go would read is read, and each kind of mistake has its text in `tests/golden`.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::Document;
use crate::stanza::Stanza;

fn parse(text: &str) -> Document {
    Document::parse(text.as_bytes(), "", "bridge").unwrap()
}

#[test]
fn keys_match_without_case_null_is_absent_and_the_last_duplicate_wins() {
    let document = parse(
        r#"{"CNIVERSION":"1.0.0","Name":"web","type":"portmap","ipam":null,"runtimeConfig":{"portMappings":
            [{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]},"name":"last"}"#,
    );
    assert_eq!(document.name.as_str(), "last");
    let Stanza::Portmap(portmap) = document.stanza else { panic!("not portmap") };
    assert_eq!((portmap.ports[0].host, portmap.ports[0].container), (8080, 80));
}

#[test]
fn nerdctls_default_bridge_is_read_whole() {
    let document = parse(
        r#"{"cniVersion":"1.0.0","name":"bridge","type":"bridge","bridge":"nerdctl0","isGateway":true,"ipMasq":true,
            "hairpinMode":true,"ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}],
            "ranges":[[{"subnet":"10.4.0.0/24","gateway":"10.4.0.1"}]]}}"#,
    );
    let Stanza::Bridge(bridge) = document.stanza else { panic!("not a bridge") };
    assert_eq!(bridge.bridge.as_str(), "nerdctl0");
    assert!(bridge.is_gateway && bridge.ip_masq && bridge.hairpin_mode && !bridge.is_default_gateway);
    let crate::Ipam::HostLocal(ipam) = bridge.ipam else { panic!("not host-local") };
    assert_eq!(ipam.range_sets[0][0].start.to_string(), "10.4.0.1");
    assert_eq!(ipam.range_sets[0][0].end.to_string(), "10.4.0.254");
}

#[test]
fn old_nerdctls_isolation_is_the_firewalls_same_bridge() {
    let document = parse(r#"{"cniVersion":"0.4.0","name":"web","type":"isolation"}"#);
    let Stanza::Firewall(firewall) = document.stanza else { panic!("not a firewall") };
    assert_eq!(firewall.ingress_policy, crate::IngressPolicy::SameBridge);
}

/// What a result may hold, a follower hands on: nothing is lost on the way.
#[test]
fn a_result_is_handed_on_whole() {
    let previous = json!({"cniVersion":"1.1.0","dns":{"domain":"a","nameservers":["192.0.2.53"],"options":["ndots:1"],"search":["b"]},
        "interfaces":[{"name":"vhost0","mac":"aa","mtu":1400,"sandbox":"/n","socketPath":"/run/vhost.sock","pciID":"0000:00:02.1"}],
        "ips":[{"address":"10.4.0.2/24","gateway":"10.4.0.1","interface":0}],
        "routes":[{"dst":"0.0.0.0/0","gw":"10.4.0.1","mtu":1400,"advmss":1360,"priority":100,"table":100,"scope":0}]});
    let text = json!({"cniVersion":"1.1.0","name":"web","type":"portmap","prevResult":previous});
    let result = parse(&text.to_string()).prev_result.unwrap();
    assert_eq!(result.to_json(crate::CniVersion::V1_1_0), previous);
    // As Go's structs of that version have them.
    let old = result.to_json(crate::CniVersion::V0_4_0);
    assert_eq!(old["interfaces"][0], json!({"name":"vhost0","mac":"aa","sandbox":"/n"}));
    assert_eq!(old["routes"], previous["routes"]);
}

#[test]
fn name_servers_of_a_file_are_those_that_the_reference_reads() {
    let text = "# a\n; b\nnameserver 192.0.2.53 \n nameserver 192.0.2.54\ndomain old\ndomain new\nnameserver\nsearch a b\noptions ndots:2 edns0\nsearch c\n";
    let dns = crate::Dns::of_resolv_conf(text);
    assert_eq!(dns.nameservers, ["192.0.2.53", "192.0.2.54"]);
    assert_eq!(
        (dns.domain.as_str(), dns.search.join(" ").as_str(), dns.options.join(" ").as_str()),
        ("new", "a b c", "ndots:2 edns0")
    );
}

/// An unspecified host address is all of its family (containernetworking/plugins, portmap), but for nerdctl's: no entry stands
/// twice.
#[test]
fn ports_are_published_where_the_reference_publishes_them() {
    let read = |entries: &str| {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"web","type":"portmap","runtimeConfig":{{"portMappings":[{entries}]}}}}"#
        );
        let document = Document::parse(text.as_bytes(), "", "portmap").map_err(|error| error.to_string())?;
        let Stanza::Portmap(portmap) = document.stanza else { panic!("not portmap") };
        let place = |port: &crate::PortMapping| port.host_ip.map_or_else(|| "all".to_owned(), |ip| ip.to_string());
        let shown = portmap.ports.iter().map(|port| format!("{} {}>{}", place(port), port.host, port.container));
        Ok::<_, String>(shown.collect::<Vec<_>>().join(", "))
    };
    let at = |host_ip: &str, container: u16| {
        format!(r#"{{"hostPort":8080,"containerPort":{container},"protocol":"tcp","hostIP":"{host_ip}"}}"#)
    };
    assert_eq!(read(&at("", 80)).unwrap(), "all 8080>80");
    assert_eq!(read(&at("0.0.0.0", 80)).unwrap(), "all 8080>80", "as nerdctl writes it");
    assert_eq!(read(&at("::", 80)).unwrap(), ":: 8080>80");
    assert_eq!(read(&format!("{},{}", at("0.0.0.0", 80), at("::", 81))).unwrap(), "0.0.0.0 8080>80, :: 8080>81");
    assert_eq!(read(&format!("{},{}", at("0.0.0.0", 80), at("::", 80))).unwrap(), "0.0.0.0 8080>80, :: 8080>80");
    let many = [at("::", 80), at("", 80), at("0.0.0.0", 80), at("", 80), at("127.0.0.1", 81), at("127.0.0.1", 81)];
    assert_eq!(read(&many.join(",")).unwrap(), "all 8080>80, 127.0.0.1 8080>81");
    for (one, other) in [("", ""), ("", "::"), ("0.0.0.0", ""), ("192.0.2.1", "192.0.2.1")] {
        let error = read(&format!("{},{}", at(one, 80), at(other, 81))).unwrap_err();
        let expected = "portMappings[1].hostPort: 8080/tcp is published twice, for ports 80 and 81 of the container";
        assert!(error.contains(expected), "{one:?} {other:?}: {error}");
    }
}

fn tuned(more: &str, arguments: &str) -> Result<crate::Tuning, String> {
    let text = format!(r#"{{"cniVersion":"1.0.0","name":"web","type":"tuning"{more}}}"#);
    let document = Document::parse(text.as_bytes(), arguments, "tuning").map_err(|error| error.to_string())?;
    let Stanza::Tuning(tuning) = document.stanza else { panic!("not tuning") };
    Ok(tuning)
}

/// containernetworking/plugins 1.9.1, `parseConf` of tuning.
#[test]
fn the_arguments_of_a_tuning_stanza_have_the_last_word_on_each_of_its_keys() {
    let own = r#","mac":"02:00:00:00:00:01","mtu":1400,"promisc":true,"allmulti":true,"txQLen":500,
        "sysctl":{"net.ipv4.conf.IFNAME.forwarding":"1","net/core/somaxconn":"100"}"#;
    let args = |cni: &str| format!(r#"{own},"args":{{"cni":{{{cni}}}}}"#);
    let plain = tuned(own, "").unwrap();
    assert_eq!(
        (plain.mtu, plain.promisc, plain.all_multicast, plain.queue_length),
        (Some(1400), true, true, Some(500))
    );
    for nothing in ["", r#""mac":null,"mtu":null,"promisc":null,"allmulti":null,"txQLen":null,"sysctl":null"#] {
        assert_eq!(tuned(&args(nothing), "").unwrap(), plain, "{nothing}");
    }
    let other = tuned(
        &args(
            r#""mac":"02:00:00:00:00:04","mtu":1300,"promisc":false,"allmulti":false,"txQLen":9,
            "sysctl":{"net.core.somaxconn":"200","net.ipv4.tcp_ecn":"1"}"#,
        ),
        "",
    );
    let other = other.unwrap();
    assert_eq!(
        (other.mtu, other.promisc, other.all_multicast, other.queue_length),
        (Some(1300), false, false, Some(9))
    );
    assert_eq!(other.mac, Some([2, 0, 0, 0, 0, 4]));
    let sysctl: Vec<_> = other.sysctl.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(sysctl, ["net.core.somaxconn=200", "net.ipv4.conf.IFNAME.forwarding=1", "net.ipv4.tcp_ecn=1"]);
    let less = tuned(&args(r#""mac":"","mtu":0"#), "").unwrap();
    assert_eq!((less.mac, less.mtu, less.promisc), (None, None, true));
    let wrong = tuned(&args(r#""mtu":"big","sysctl":{"kernel.x":"1"}"#), "").unwrap_err();
    assert!(wrong.contains("args.cni.mtu: ") && wrong.contains("args.cni.sysctl.kernel.x: "), "{wrong}");
}

/// Of tuning `args.cni` beats the capability, and of a bridge it is the other way round.
#[test]
fn a_mac_comes_from_whom_the_reference_takes_it() {
    let (cni, capability) =
        (r#","args":{"cni":{"mac":"02:00:00:00:00:04"}}"#, r#","runtimeConfig":{"mac":"02:00:00:00:00:03"}"#);
    let (own, environment) = (r#","mac":"02:00:00:00:00:01""#, "MAC=02:00:00:00:00:02");
    let last = |text: &str, arguments: &str| tuned(text, arguments).unwrap().mac.map(|mac| mac[5]);
    assert_eq!(last(&format!("{own}{cni}{capability}"), environment), Some(4));
    assert_eq!(last(&format!("{own}{capability}"), environment), Some(3));
    assert_eq!(last(own, environment), Some(2));
    assert_eq!(last(own, ""), Some(1));
    assert_eq!(last(&format!(r#"{own},"runtimeConfig":{{"mac":""}}"#), "MAC="), Some(1), "what is empty says nothing");
    let of_bridge = |more: &str, arguments: &str| {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"web","type":"bridge","ipam":{{"type":"host-local","subnet":"10.4.0.0/24"}}{more}}}"#
        );
        let document = Document::parse(text.as_bytes(), arguments, "bridge").unwrap();
        let Stanza::Bridge(bridge) = document.stanza else { panic!("not a bridge") };
        bridge.mac.map(|mac| mac[5])
    };
    assert_eq!(of_bridge(&format!("{cni}{capability}"), environment), Some(3));
    assert_eq!(of_bridge(cni, environment), Some(4));
    assert_eq!(of_bridge(r#","args":{"cni":{"mac":""}},"runtimeConfig":{"mac":""}"#, environment), Some(2));
    assert_eq!(of_bridge(r#","args":{"cni":{"mac":""}}"#, "MAC="), None);
}

fn fixed(text: &str, arguments: &str) -> crate::StaticIpam {
    let document = Document::parse(text.as_bytes(), arguments, "static").unwrap_or_else(|error| panic!("{error}"));
    let Stanza::Static(fixed) = document.stanza else { panic!("not static") };
    fixed
}

/// The capability stands in for `args.cni.ips`, and both for what the section and `CNI_ARGS` list.
#[test]
fn static_addresses_come_from_where_the_reference_takes_them() {
    let text = |more: &str| {
        format!(
            r#"{{"cniVersion":"1.0.0","name":"web","type":"bridge","ipam":{{"type":"static","dns":{{"nameservers":["192.0.2.53"]}},
                "addresses":[{{"address":"10.4.0.2/24"}},{{"address":"10.5.0.2/24","gateway":"10.5.0.9"}}]}}{more}}}"#
        )
    };
    let show = |more: &str, arguments: &str| {
        let found = fixed(&text(more), arguments).addresses;
        let one = |(address, gateway): &(ipnet::IpNet, Option<std::net::IpAddr>)| {
            format!("{address} {}", gateway.map_or_else(|| "-".to_owned(), |gateway| gateway.to_string()))
        };
        found.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(show("", ""), "10.4.0.2/24 -, 10.5.0.2/24 10.5.0.9");
    let args = "IP=10.6.0.2/24, 10.7.0.2/24;GATEWAY=10.6.0.1,10.5.0.1";
    assert_eq!(show("", args), "10.4.0.2/24 -, 10.5.0.2/24 10.5.0.1, 10.6.0.2/24 10.6.0.1, 10.7.0.2/24 -");
    let cni = r#","args":{"cni":{"ips":["10.8.0.2/24"]}}"#;
    assert_eq!(show(cni, args), "10.8.0.2/24 -");
    let both = format!(r#"{cni},"runtimeConfig":{{"ips":["10.9.0.2/24","fd00:9::2/64"]}}"#);
    assert_eq!(show(&both, args), "10.9.0.2/24 -, fd00:9::2/64 -");
    assert_eq!(fixed(&text(""), "").dns.nameservers, ["192.0.2.53"]);
}

#[test]
fn a_gateway_argument_that_is_no_address_is_told() {
    let text = r#"{"cniVersion":"1.0.0","name":"web","ipam":{"type":"static"}}"#;
    let error = Document::parse(text.as_bytes(), "GATEWAY=10.4.0", "static").unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (4, "CNI configuration on standard input: CNI_ARGS: invalid gateway address: 10.4.0; write it as 10.4.0.1")
    );
}

#[test]
fn an_address_that_is_asked_for_twice_is_asked_for_once() {
    let text = r#"{"cniVersion":"1.0.0","name":"web","ipam":{"type":"host-local","subnet":"10.4.0.0/24"},
        "args":{"cni":{"ips":["10.4.0.6"]}},"runtimeConfig":{"ips":["10.4.0.5/24","10.4.0.7"]}}"#;
    let document = Document::parse(text.as_bytes(), "IP=10.4.0.5", "host-local").unwrap();
    let Stanza::HostLocal(ipam) = document.stanza else { panic!("not host-local") };
    let asked: Vec<_> = ipam.requested.iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["10.4.0.5", "10.4.0.6", "10.4.0.7"]);
}

#[test]
fn results_keep_the_official_key_order_in_every_version() {
    let previous = r#"{"interfaces":[{"name":"cni0","mac":"aa"},{"name":"eth0","sandbox":"/n"}],
        "ips":[{"interface":1,"address":"10.4.0.2/24","gateway":"10.4.0.1"}],"routes":[{"dst":"0.0.0.0/0"}]}"#;
    let text = format!(r#"{{"cniVersion":"1.0.0","name":"web","type":"tuning","prevResult":{previous}}}"#);
    let result = parse(&text).prev_result.unwrap();
    assert_eq!(
        result.to_json(crate::CniVersion::V1_0_0).to_string(),
        r#"{"cniVersion":"1.0.0","interfaces":[{"mac":"aa","name":"cni0"},{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.4.0.2/24","gateway":"10.4.0.1","interface":1}],"routes":[{"dst":"0.0.0.0/0"}]}"#
    );
    assert_eq!(
        result.to_json(crate::CniVersion::V0_2_0),
        json!({"cniVersion":"0.2.0","ip4":{"ip":"10.4.0.2/24","gateway":"10.4.0.1","routes":[{"dst":"0.0.0.0/0"}]},"dns":{}})
    );
    let old = result.to_json(crate::CniVersion::V0_4_0).to_string();
    assert!(old.contains(r#"{"version":"4","interface":1"#) && old.ends_with(r#""dns":{}}"#), "{old}");
}

/// Each `NAME.json` has its `NAME.error`; `UPDATE_GOLDEN=1` rewrites them.
#[test]
fn every_broken_document_says_what_is_wrong() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    names.sort();
    assert!(names.len() >= 30, "{} broken documents", names.len());
    let mut texts = std::collections::BTreeSet::new();
    for path in names {
        let error = Document::parse(&fs::read(&path).unwrap(), "", "bridge").unwrap_err();
        let text = format!("code {}: {error}\n", error.code());
        let golden = path.with_extension("error");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&golden).unwrap_or_default(), "{}", path.display());
        assert!(texts.insert(text), "{} says what another one says", path.display());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        drop(Document::parse(&bytes, "", "bridge"));
    }

    #[test]
    fn any_value_under_any_known_key_is_read_without_panic(
        key in prop::sample::select(vec!["cniVersion", "name", "type", "bridge", "mtu", "ipam", "vlan", "dns",
            "runtimeConfig", "prevResult", "args", "ingressPolicy", "sysctl"]),
        value in prop::sample::select(vec!["null", "true", "-1", "1e99", "\"x\"", "[]", "[[]]", "[null]", "{}",
            "{\"type\":\"host-local\",\"ranges\":[[{\"subnet\":\"::/0\"}]]}", "{\"type\":\"static\",\"addresses\":[[]]}",
            "{\"portMappings\":[{\"hostPort\":-1}]}", "{\"ips\":[3]}"]),
    ) {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"web","type":"bridge","{key}":{value}}}"#);
        drop(Document::parse(text.as_bytes(), "IP=x;MAC=y", "bridge"));
    }
}
