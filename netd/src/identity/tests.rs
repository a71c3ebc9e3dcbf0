//! What each door's container is to a policy.

use std::collections::BTreeMap;
use std::time::SystemTime;

use netd_config::{Namespace, Namespaces, Protocol};

use super::misnamed_ports;
use crate::attachment::{Attachment, Description, LabelState};
use crate::node::tests::{WEB, wanted};
use crate::node::{Attached, Node};

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn described(name: &str, namespace: &str, labels: &[(&str, &str)], state: LabelState) -> Attachment {
    let Attached::New { mut attachment, .. } = Node::new("nd").attach(wanted(WEB, "default-1", 1)).unwrap() else {
        panic!()
    };
    let (name, namespace, image) = (name.to_owned(), namespace.to_owned(), "busybox".to_owned());
    attachment.describe(&Description { name, namespace, labels: map(labels), image, state });
    *attachment
}

fn known() -> LabelState {
    LabelState::Known { source: "containerd".to_owned() }
}

#[test]
fn a_container_of_compose_is_in_containerds_namespace_with_its_labels_and_image() {
    let labels = [
        ("com.docker.compose.project", "shop"),
        ("com.docker.compose.service", "web"),
        ("nerdctl/name", "shop-web-1"),
        ("netd/port.http", "8080"),
        ("netd/port.dns", "53/UDP"),
    ];
    let attachment = described("shop-web-1", "default", &labels, known());
    let namespaces = Namespaces::from([("default".to_owned(), Namespace { labels: map(&[("tier", "front")]) })]);
    let identity = attachment.identity(&namespaces).unwrap();
    assert_eq!((identity.namespace, identity.name, identity.image), ("default", "shop-web-1", "busybox"));
    assert_eq!(identity.source, Some("containerd"));
    assert_eq!(identity.labels, &map(&labels));
    assert_eq!(identity.namespace_labels, map(&[("kubernetes.io/metadata.name", "default"), ("tier", "front")]));
    let ports = BTreeMap::from([(("dns", Protocol::Udp), 53), (("http", Protocol::Tcp), 8080)]);
    assert_eq!(identity.ports, ports);
}

#[test]
fn who_is_not_known_yet_has_no_identity_and_who_never_will_be_has_an_empty_one() {
    let pending = LabelState::Pending { source: "nri".to_owned(), due: SystemTime::UNIX_EPOCH };
    assert_eq!(described("", "", &[], pending).identity(&Namespaces::new()), None);
    let attachment = described("", "", &[], LabelState::None);
    let identity = attachment.identity(&Namespaces::new()).unwrap();
    assert_eq!((identity.namespace, identity.name, identity.source), ("", "default-1", None));
    assert!(identity.labels.is_empty() && identity.namespace_labels.is_empty());
}

#[test]
fn a_label_that_names_no_port_is_told_with_its_remedy() {
    let table = [
        ("netd/port.", "80"),
        ("netd/port.Web", "80"),
        ("netd/port.80", "80"),
        ("netd/port.longer-than-fifteen", "80"),
        ("netd/port.web", "0"),
        ("netd/port.web", "65536"),
        ("netd/port.web", "80/icmp"),
        ("netd/port.web", ""),
    ];
    for (key, value) in table {
        let attachment = described("a", "default", &[(key, value)], known());
        assert!(attachment.identity(&Namespaces::new()).unwrap().ports.is_empty(), "{key}={value}");
        let told = misnamed_ports(&[attachment]);
        assert_eq!(
            told,
            [format!(
                "default-1/eth0 on network web: label {key}={value:?} names no port: write netd/port.NAME=8080 or \
                 netd/port.NAME=8080/udp, NAME of at most 15 small letters, digits and -"
            )]
        );
    }
}
