//! What the node decides, and that replaying its records gives the same node.

use std::net::IpAddr;

use netd_config::{ContainerId, Document, IngressPolicy, LinkName, NetworkName, PortMapping, Protocol, Stanza};
use netd_kernel::NetnsId;

use super::{AttachError, Attached, Extended, Extension, Follower, Node, Wanted, What};
use crate::attachment::{Attachment, AttachmentKey, LabelState, State};
use crate::ipam::Reserved;
use crate::journal::Record;

pub(crate) const WEB: &str = r#"{"cniVersion":"1.0.0","name":"web","type":"bridge","bridge":"br0","isDefaultGateway":true,
    "ipam":{"type":"host-local","ranges":[[{"subnet":"10.4.0.0/24"}]]}}"#;

pub(crate) const ROUTED: &str = r#"{"cniVersion":"1.0.0","name":"routed","type":"ptp","ipMasq":true,"mtu":1400,"ipam":{"type":"host-local",
    "ranges":[[{"subnet":"10.6.0.0/24"}],[{"subnet":"fd06::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.9.0.0/16","gw":"10.6.0.9"}]}}"#;

pub(crate) fn wanted(config: &str, container: &str, netns: u64) -> Wanted {
    let document = Document::parse(config.as_bytes(), "", "bridge").unwrap();
    let what = if let Stanza::Bridge(bridge) = document.stanza {
        What::Bridge(bridge)
    } else if let Stanza::Ptp(ptp) = document.stanza {
        What::Routed(ptp)
    } else {
        panic!("it attaches nothing")
    };
    let key = AttachmentKey {
        network: NetworkName::new(document.name.as_str()).unwrap(),
        container: ContainerId::new(container).unwrap(),
        interface: LinkName::new("eth0").unwrap(),
    };
    let netns_path = format!("/run/netns/{netns}");
    let (reserved, label_state) = (Reserved::new(), LabelState::None);
    Wanted { key, netns: NetnsId(netns), netns_path, what, reserved, label_state, extra: false }
}

fn attach(node: &mut Node, container: &str, netns: u64) -> Attachment {
    let Attached::New { attachment, replaces, .. } = node.attach(wanted(WEB, container, netns)).unwrap() else {
        panic!("already there")
    };
    if let Some(replaced) = replaces {
        node.take(Record::Drain(replaced));
    }
    let mut attachment = *attachment;
    attachment.state = State::Attached;
    node.take(Record::Put(Box::new(attachment.clone())));
    attachment
}

fn address(attachment: &Attachment) -> String {
    attachment.leases[0].address.to_string()
}

fn reaped(attachment: &Attachment) -> Record {
    let link = attachment.wiring.as_ref().unwrap().host_link.to_string();
    Record::Reaped(attachment.key.clone(), link)
}

#[test]
fn a_repeated_attach_is_answered_from_the_record() {
    let mut node = Node::new("nd");
    let first = attach(&mut node, "a", 1);
    let Attached::Already(again) = node.attach(wanted(WEB, "a", 1)).unwrap() else { panic!("attached twice") };
    assert_eq!(*again, first);
    assert_eq!(node.lease_count(), 1);
}

#[test]
fn an_attach_that_was_cut_off_is_made_anew() {
    let mut node = Node::new("nd");
    let Attached::New { attachment, .. } = node.attach(wanted(WEB, "a", 1)).unwrap() else { panic!() };
    node.take(Record::Put(attachment.clone()));
    let Attached::New { attachment: again, replaces, .. } = node.attach(wanted(WEB, "a", 1)).unwrap() else { panic!() };
    assert_eq!(replaces.as_deref(), Some(&*attachment));
    assert_eq!(address(&again), address(&attachment));
}

fn follower(container: &str, netns: u64) -> Follower {
    let key = wanted(WEB, container, netns).key;
    let addresses = vec!["192.0.2.9".parse().unwrap()];
    Follower { key, netns: NetnsId(netns), netns_path: String::new(), addresses }
}

fn port(host: u16, host_ip: Option<&str>) -> PortMapping {
    let host_ip = host_ip.map(|address| address.parse().unwrap());
    PortMapping { host, container: 80, protocol: Protocol::Tcp, host_ip }
}

fn publish(node: &mut Node, container: &str, netns: u64, ports: Vec<PortMapping>) -> Result<Extended, AttachError> {
    let extended = node.extend(follower(container, netns), &Extension::Ports(ports))?;
    if let Extended::Changed { after, .. } = &extended {
        node.take(Record::Put(after.clone()));
    }
    Ok(extended)
}

#[test]
fn a_port_leads_to_one_sandbox_until_it_is_closed() {
    let mut node = Node::new("nd");
    attach(&mut node, "a", 1);
    attach(&mut node, "b", 2);
    publish(&mut node, "a", 1, vec![port(8080, None)]).unwrap();
    assert!(matches!(publish(&mut node, "a", 1, vec![port(8080, None)]), Ok(Extended::Already(_))));
    let error = publish(&mut node, "b", 2, vec![port(8080, None)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot publish 0.0.0.0:8080/tcp for b/eth0 on network web: it leads to a/eth0 on network web; take another port, or remove that container"
    );
    publish(&mut node, "b", 2, vec![port(8081, Some("192.0.2.1")), port(8082, Some("2001:db8::1"))]).unwrap();
    let gone = node.attachment(&follower("a", 1).key).unwrap().clone();
    node.take(Record::Drain(Box::new(gone.clone())));
    assert!(publish(&mut node, "b", 2, vec![port(8080, None)]).is_err(), "the ruleset still leads it to a");
    node.closed(&gone);
    publish(&mut node, "b", 2, vec![port(8080, None)]).unwrap();
    let replayed = Node::replay("nd", node.records());
    assert!(matches!(
        replayed.extend(follower("b", 2), &Extension::Ports(vec![port(8080, None)])),
        Ok(Extended::Already(_))
    ));
}

#[test]
fn a_port_at_all_addresses_and_one_at_a_single_address_are_in_each_others_way() {
    let mut node = Node::new("nd");
    attach(&mut node, "a", 1);
    attach(&mut node, "b", 2);
    let taken = |node: &mut Node, ports: Vec<PortMapping>| {
        let error = publish(node, "b", 2, ports).unwrap_err().to_string();
        error.split(" for ").next().unwrap_or_default().to_owned()
    };
    publish(&mut node, "a", 1, vec![port(80, Some("0.0.0.0")), port(81, Some("192.0.2.1")), port(82, None)]).unwrap();
    assert_eq!(taken(&mut node, vec![port(80, Some("127.0.0.1"))]), "cannot publish 127.0.0.1:80/tcp");
    assert_eq!(taken(&mut node, vec![port(81, None)]), "cannot publish 0.0.0.0:81/tcp");
    // Its sandbox has no IPv6, but netd listens there for it.
    assert_eq!(taken(&mut node, vec![port(82, Some("::"))]), "cannot publish [::]:82/tcp");
    publish(&mut node, "b", 2, vec![port(80, Some("::")), port(81, Some("192.0.2.2"))]).unwrap();
    publish(&mut node, "a", 1, vec![port(80, Some("127.0.0.1")), port(81, None)]).unwrap_err();
    publish(&mut node, "a", 1, vec![port(80, Some("127.0.0.1"))]).unwrap();
}

#[test]
fn a_host_address_of_a_family_that_the_sandbox_lacks_is_passed_over() {
    let mut node = Node::new("nd");
    attach(&mut node, "a", 1);
    publish(&mut node, "a", 1, vec![port(8080, None), port(81, Some("192.0.2.1")), port(82, Some("2001:db8::1"))])
        .unwrap();
    let attachment = node.attachment(&follower("a", 1).key).unwrap();
    let published: Vec<String> = attachment.publications().iter().map(|(at, to)| format!("{at} {to}")).collect();
    assert_eq!(published, ["0.0.0.0:8080/tcp 10.4.0.2:80", "192.0.2.1:81/tcp 10.4.0.2:80"]);
}

#[test]
fn behind_another_plugin_ports_are_published_and_nothing_else() {
    let mut node = Node::new("nd");
    publish(&mut node, "a", 1, vec![port(8080, None)]).unwrap();
    let attachment = node.attachment(&follower("a", 1).key).unwrap().clone();
    assert_eq!(attachment.publications()[0].1.to_string(), "192.0.2.9:80");
    let error = node.extend(follower("a", 1), &Extension::Ingress(IngressPolicy::Isolated)).unwrap_err();
    assert!(error.to_string().contains("ingressPolicy needs an interface that netd made"), "{error}");
    node.take(Record::Drain(Box::new(attachment.clone())));
    node.closed(&attachment);
    assert!(node.attachment(&attachment.key).is_none());
    publish(&mut node, "b", 2, vec![port(8080, None)]).unwrap();
}

#[test]
fn a_draining_address_is_free_at_once_to_its_own_container_and_to_nobody_else() {
    let mut node = Node::new("nd");
    let first = attach(&mut node, "a", 1);
    node.take(Record::Drain(Box::new(first.clone())));
    let other = attach(&mut node, "b", 2);
    assert_ne!(address(&other), address(&first));
    let again = attach(&mut node, "a", 3);
    assert_eq!(address(&again), address(&first));
    assert_ne!(again.wiring.as_ref().unwrap().host_link, first.wiring.as_ref().unwrap().host_link);
    node.take(reaped(&first));
    assert_eq!(node.lease_count(), 2, "the old link's end does not free the address in use");
    node.take(Record::Drain(Box::new(again.clone())));
    node.take(reaped(&again));
    assert_eq!(node.lease_count(), 1);
}

#[test]
fn another_sandbox_under_the_same_key_replaces_the_first() {
    let mut node = Node::new("nd");
    let first = attach(&mut node, "a", 1);
    let second = attach(&mut node, "a", 2);
    assert_eq!(address(&second), address(&first));
    assert_eq!(node.draining().count(), 1);
    assert_eq!(node.attachments().count(), 1);
}

#[test]
fn the_1024th_port_is_refused_before_the_kernel_does() {
    let wide = WEB.replace("10.4.0.0/24", "10.4.0.0/16");
    let mut node = Node::new("nd");
    for number in 0..1_023 {
        let Attached::New { attachment, .. } = node.attach(wanted(&wide, &format!("c{number}"), number)).unwrap()
        else {
            panic!()
        };
        node.take(Record::Put(attachment));
    }
    let error = node.attach(wanted(&wide, "last", 9_999)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot attach last/eth0 on network web: bridge br0 has 1023 ports, the kernel's limit; use a second network"
    );
    assert_eq!(node.lease_count(), 1_023, "a refused attach holds nothing");
}

#[test]
fn a_second_gateway_of_the_same_family_is_refused_without_force_address() {
    let mut node = Node::new("nd");
    attach(&mut node, "a", 1);
    let other = WEB.replace("10.4.0.0/24", "10.5.0.0/24").replace("\"web\"", "\"db\"");
    assert!(matches!(node.attach(wanted(&other, "b", 2)), Err(AttachError::BridgeAddress { .. })));
    assert_eq!(node.lease_count(), 1);
    let forced = other.replace("\"bridge\":", "\"forceAddress\":true,\"bridge\":");
    assert!(node.attach(wanted(&forced, "b", 2)).is_ok());
}

#[test]
fn replaying_the_records_gives_the_same_node_at_every_point() {
    let mut node = Node::new("nd");
    for number in 0..20_u64 {
        let attachment = attach(&mut node, &format!("c{}", number % 7), number);
        if number % 3 == 0 {
            node.take(Record::Drain(Box::new(attachment.clone())));
        }
        if number % 6 == 0 {
            node.take(reaped(&attachment));
        }
        let replayed = Node::replay("nd", node.records());
        assert_eq!(replayed.records(), node.records());
        assert_eq!(replayed.lease_count(), node.lease_count());
        assert_eq!(replayed.ports, node.ports);
        assert_eq!(replayed.gateways, node.gateways);
    }
}

#[test]
fn host_links_are_never_named_twice() {
    let mut node = Node::new("nd");
    let first = attach(&mut node, "a", 1);
    node.take(Record::Drain(Box::new(first.clone())));
    node.take(reaped(&first));
    let mut replayed = Node::replay("nd", node.records());
    let second = attach(&mut replayed, "a", 2);
    assert_ne!(second.wiring.unwrap().host_link, first.wiring.unwrap().host_link);
}

#[test]
fn an_address_keeps_its_mac_and_only_one_that_had_another_is_announced() {
    let mut node = Node::new("nd");
    let announced = |attachment: &Attachment| {
        attachment.wiring.as_ref().unwrap().sysctls.contains_key("net.ipv4.conf.eth0.arp_notify")
    };
    let first = attach(&mut node, "a", 1);
    assert_eq!(first.wiring.as_ref().unwrap().mac, Some([0x02, 0x6e, 10, 4, 0, 2]));
    assert!(!announced(&first));
    let gone = |node: &mut Node, attachment: &Attachment| {
        node.take(Record::Drain(Box::new(attachment.clone())));
        node.take(reaped(attachment));
    };
    gone(&mut node, &first);
    let with_mac = WEB.replace(
        "\"bridge\":",
        "\"args\":{\"cni\":{\"mac\":\"02:00:00:00:00:07\",\"ips\":[\"10.4.0.2\"]}},\"bridge\":",
    );
    let Attached::New { attachment, .. } = node.attach(wanted(&with_mac, "b", 2)).unwrap() else { panic!() };
    assert!(announced(&attachment), "neighbours may know the address by its own MAC");
    node.take(Record::Put(attachment.clone()));
    gone(&mut node, &attachment);
    let mut node = Node::replay("nd", node.records());
    let wanted_again = WEB.replace("\"bridge\":", "\"args\":{\"cni\":{\"ips\":[\"10.4.0.2\"]}},\"bridge\":");
    let Attached::New { attachment, .. } = node.attach(wanted(&wanted_again, "c", 3)).unwrap() else { panic!() };
    assert!(announced(&attachment), "neighbours may know the address by the other MAC");
}

#[test]
fn a_container_gets_the_address_again_that_it_held_last() {
    let mut node = Node::new("nd");
    let first = attach(&mut node, "a", 1);
    node.take(Record::Drain(Box::new(first.clone())));
    node.take(reaped(&first));
    let other = attach(&mut node, "b", 2);
    assert_ne!(address(&other), address(&first), "others come by it last");
    let mut node = Node::replay("nd", node.records());
    let again = attach(&mut node, "a", 3);
    assert_eq!(address(&again), address(&first));
}

#[test]
fn a_routed_sandbox_goes_by_its_gateway_for_all_and_uses_no_bridge() {
    let mut node = Node::new("nd");
    let Attached::New { attachment, .. } = node.attach(wanted(ROUTED, "a", 1)).unwrap() else { panic!() };
    let wiring = attachment.wiring.as_ref().unwrap();
    let gateways: Vec<String> = wiring.gateways.iter().map(ToString::to_string).collect();
    assert_eq!(
        (wiring.bridge.as_ref(), wiring.mtu, gateways),
        (None, Some(1_400), vec!["10.6.0.1/32".to_owned(), "fd06::1/128".to_owned()])
    );
    let text = |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let routes: Vec<String> = wiring
        .routes
        .iter()
        .map(|route| format!("{} via {} src {}", route.destination, text(route.gateway), text(route.source)))
        .collect();
    assert_eq!(
        routes,
        [
            "10.6.0.1/32 via - src 10.6.0.2",
            "10.6.0.0/24 via 10.6.0.1 src 10.6.0.2",
            "fd06::1/128 via - src fd06::2",
            "fd06::/64 via fd06::1 src fd06::2",
            "0.0.0.0/0 via 10.6.0.1 src -",
            "10.9.0.0/16 via 10.6.0.9 src -",
        ]
    );
    node.take(Record::Put(attachment.clone()));
    let extended = node.extend(
        Follower { key: attachment.key.clone(), ..follower("a", 1) },
        &Extension::Ingress(IngressPolicy::Isolated),
    );
    let Extended::Changed { after, .. } = extended.unwrap() else { panic!("no fence") };
    let wiring = after.wiring.as_ref().unwrap();
    assert!(wiring.fenced && !wiring.isolated, "there is no port to isolate");
    assert_eq!(Node::replay("nd", node.records()).records(), node.records());
}

#[test]
fn a_vlan_has_a_gateway_and_a_home_of_its_own() {
    let mut node = Node::new("nd");
    let attach = |node: &mut Node, network: &str, container: &str, netns| {
        node.attach(wanted(network, container, netns)).map(|attached| {
            let Attached::New { attachment, .. } = attached else { panic!() };
            node.take(Record::Put(attachment.clone()));
            attachment
        })
    };
    attach(&mut node, WEB, "plain", 1).unwrap();
    // Another subnet than the bridge has, and no clash.
    let vlan = WEB.replace("\"web\"", "\"vlan\"").replace("\"br0\"", "\"br0\",\"vlan\":10").replace("10.4.", "10.5.");
    let vlan = vlan.replace("fd00:4::", "fd00:5::");
    let first = attach(&mut node, &vlan, "a", 2).unwrap();
    let wiring = first.wiring.as_ref().unwrap();
    assert_eq!((wiring.home().as_str(), wiring.filters_vlans), ("br0.10", true));
    assert_eq!(wiring.vlans, netd_kernel::Vlans::of(10, &[], &[]));
    let error =
        attach(&mut node, &vlan.replace("\"vlan\",", "\"other\",").replace("10.5.", "10.9."), "b", 3).unwrap_err();
    assert!(error.to_string().contains("\"br0.10\" already has an IP address different from 10.9.0.1/24"), "{error}");
    // With its last attachment gone, the VLAN may have another gateway.
    let link = LinkName::new("br0.10").unwrap();
    assert!(node.uses_gateway(&link));
    node.take(Record::Drain(first.clone()));
    assert!(!node.uses_gateway(&link));
    node.take(reaped(&first));
    attach(&mut node, &vlan.replace("\"vlan\",", "\"other\",").replace("10.5.", "10.9."), "b", 3).unwrap();
    assert_eq!(Node::replay("nd", node.records()).records(), node.records());
}

#[test]
fn more_routed_sandboxes_than_a_bridge_has_ports() {
    let wide = ROUTED.replace("10.6.0.0/24", "10.6.0.0/16");
    let mut node = Node::new("nd");
    for number in 0..=1_023 {
        let Attached::New { attachment, .. } = node.attach(wanted(&wide, &format!("c{number}"), number)).unwrap()
        else {
            panic!()
        };
        node.take(Record::Put(attachment));
    }
    assert_eq!(node.attachments().count(), 1_024);
}

#[test]
fn a_routed_address_needs_a_gateway() {
    let mut node = Node::new("nd");
    let fixed = r#"{"cniVersion":"1.0.0","name":"routed","type":"ptp","ipam":{"type":"static","addresses":[{"address":"10.6.0.2/24","gateway":"10.6.0.1"}]}}"#;
    let mut asked = wanted(fixed, "a", 1);
    let What::Routed(ptp) = &mut asked.what else { panic!() };
    let netd_config::Ipam::Static(ipam) = &mut ptp.ipam else { panic!() };
    ipam.addresses[0].1 = None;
    assert!(matches!(node.attach(asked), Err(AttachError::NoGateway { .. })));
    assert_eq!(node.lease_count(), 0, "a refused attach holds nothing");
    assert!(node.attach(wanted(fixed, "a", 1)).is_ok());
}

/// Attaches to any network; the address, or why there is none.
fn address_on(node: &mut Node, network: &str, container: &str, netns: u64) -> Result<String, String> {
    let attached = node.attach(wanted(network, container, netns)).map_err(|error| error.to_string())?;
    let Attached::New { attachment, .. } = attached else { panic!("already there") };
    node.take(Record::Put(attachment.clone()));
    Ok(address(&attachment))
}

#[test]
fn an_address_has_one_holder_on_a_bridge_and_among_routed_links_whatever_its_network_is_called() {
    let renamed = |config: &str| config.replace("\"name\":\"", "\"name\":\"other-");
    for (config, first, second) in [(WEB, "10.4.0.2/24", "10.4.0.3/24"), (ROUTED, "10.6.0.2/24", "10.6.0.3/24")] {
        let mut node = Node::new("nd");
        assert_eq!(address_on(&mut node, config, "a", 1).unwrap(), first);
        assert_eq!(address_on(&mut node, &renamed(config), "b", 2).unwrap(), second);
        // Asked for, it is refused by name, as long as its link is there.
        let ip = first.split('/').next().unwrap();
        let asked = renamed(config)
            .replace("\"cniVersion\"", &format!("\"args\":{{\"cni\":{{\"ips\":[\"{ip}\"]}}}},\"cniVersion\""));
        let gone = node.attachment(&wanted(config, "a", 1).key).unwrap().clone();
        for _ in 0..2 {
            let mut replayed = Node::replay("nd", node.records());
            let error = address_on(&mut replayed, &asked, "c", 3).unwrap_err();
            assert!(error.contains(&format!("{ip} for c/eth0")) && error.contains("held by a/eth0"), "{error}");
            node.take(Record::Drain(Box::new(gone.clone())));
        }
        node.take(reaped(&gone));
        assert_eq!(address_on(&mut node, &asked, "c", 3).unwrap(), first);
    }
}

#[test]
fn an_address_may_be_held_on_each_of_two_bridges_and_in_each_of_two_vlans() {
    let mut node = Node::new("nd");
    let of = |name: &str, bridge: &str| {
        WEB.replace("\"web\"", &format!("\"{name}\"")).replace("\"br0\"", bridge).replace("isDefaultGateway", "x")
    };
    for (number, (name, bridge)) in
        (1..).zip([("a", "\"br0\""), ("b", "\"br1\""), ("c", "\"br0\",\"vlan\":10"), ("d", "\"br0\",\"vlan\":11")])
    {
        assert_eq!(address_on(&mut node, &of(name, bridge), "one", number).unwrap(), "10.4.0.2/24", "{name}");
    }
}

#[test]
fn a_static_address_that_another_network_holds_on_the_bridge_is_refused() {
    let mut node = Node::new("nd");
    address_on(&mut node, WEB, "a", 1).unwrap();
    let fixed = r#"{"cniVersion":"1.0.0","name":"fixed","type":"bridge","bridge":"br0",
        "ipam":{"type":"static","addresses":[{"address":"10.4.0.2/24"}]}}"#;
    let error = address_on(&mut node, fixed, "b", 2).unwrap_err();
    assert!(error.contains("10.4.0.2 for b/eth0") && error.contains("a/eth0 on network web"), "{error}");
    assert_eq!(address_on(&mut node, &fixed.replace("br0", "br1"), "b", 2).unwrap(), "10.4.0.2/24");
}
