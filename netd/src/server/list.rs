//! The list of attachments, in as many answers as it needs.

use std::collections::BTreeMap;

use netd_api::v1::{self, ListRequest, ListResponse};
use netd_config::{Mode, PortMapping};

use super::page::{LONGEST, page};
use crate::attachment::{Attachment, State};
use crate::owner::Snapshot;

/// Those that stay while a list is asked for are all in it, once; one that begins to drain keeps its place.
/// `unmet`: what containers lack of what their annotations name.
pub(super) fn answer(snapshot: &Snapshot, unmet: &BTreeMap<String, String>, request: &ListRequest) -> ListResponse {
    let standing = snapshot.attachments.iter().map(|attachment| (attachment, state_name(attachment)));
    let draining = snapshot.draining.iter().map(|attachment| (attachment, "draining"));
    let all: BTreeMap<String, _> = standing.chain(draining).map(|one| (place(one.0), one)).collect();
    let asked = || all.range(request.from.clone()..);
    let longest = if request.paged { LONGEST } else { u64::MAX };
    let told = |(_, (attachment, state)): (_, &(&Attachment, &str))| {
        let unmet = unmet.get(attachment.key.container.as_str()).filter(|_| !attachment.extra).cloned();
        v1::Attachment { unmet: unmet.unwrap_or_default(), ..listed(attachment, state) }
    };
    let (attachments, behind) = page(asked().map(told), 0, longest);
    let next = asked().nth(behind as usize).filter(|_| behind > 0).map(|(place, _)| place.clone());
    ListResponse { attachments, next: next.unwrap_or_default(), ..ListResponse::new() }
}

/// Where it stands in the list. No part can hold a colon; the link tells what drains from what is attached since.
fn place(attachment: &Attachment) -> String {
    let link = attachment.wiring.as_ref().map_or("", |wiring| wiring.host_link.as_str());
    let key = &attachment.key;
    format!("{}:{}:{}:{link}", key.network, key.container, key.interface)
}

fn state_name(attachment: &Attachment) -> &'static str {
    match attachment.state {
        State::Wiring => "wiring",
        State::Attached if attachment.quarantined => "quarantine",
        State::Attached => "attached",
    }
}

fn listed(attachment: &Attachment, state: &str) -> v1::Attachment {
    let mut listed = v1::Attachment::new();
    listed.network = attachment.key.network.to_string();
    listed.container_id = attachment.key.container.to_string();
    listed.interface = attachment.key.interface.to_string();
    if let Some(wiring) = &attachment.wiring {
        listed.host_interface = wiring.host_link.to_string();
        listed.bridge = wiring.bridge.as_ref().map(ToString::to_string).unwrap_or_default();
        listed.mode = if wiring.bridge.is_some() { Mode::Bridge } else { Mode::Routed }.to_string();
    }
    listed.addresses = attachment.leases.iter().map(|lease| lease.address.to_string()).collect();
    attachment.facts.mac.clone_into(&mut listed.mac);
    attachment.netns_path.clone_into(&mut listed.netns_path);
    state.clone_into(&mut listed.state);
    attachment.name.clone_into(&mut listed.name);
    attachment.namespace.clone_into(&mut listed.namespace);
    listed.labels = attachment.labels.clone().into_iter().collect();
    listed.ports = attachment.ports.iter().map(published).collect();
    listed
}

fn published(port: &PortMapping) -> v1::PublishedPort {
    let mut published = v1::PublishedPort::new();
    published.protocol = port.protocol.to_string();
    published.host_ip = port.host_ip.map(|address| address.to_string()).unwrap_or_default();
    published.host_port = port.host.into();
    published.container_port = port.container.into();
    published
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use netd_api::v1::{ListRequest, ListResponse};
    use netd_config::{ContainerId, LinkName};
    use protobuf::Message;

    use super::answer;
    use crate::node::tests::{WEB, wanted};
    use crate::node::{Attached, Node};
    use crate::owner::Snapshot;

    /// Each with as many labels as nerdctl gives: all are longer than ttrpc's 4 MiB of a message.
    fn many() -> Snapshot {
        let Attached::New { attachment, .. } = Node::new("nd").attach(wanted(WEB, "a", 1)).unwrap() else {
            panic!("it is there already")
        };
        let numbered = |number: u16| {
            let mut one = (*attachment).clone();
            one.key.container = ContainerId::new(format!("c{number:04}")).unwrap();
            one.labels.insert("nerdctl/extraHosts".to_owned(), "x".repeat(3000));
            one.wiring.as_mut().unwrap().host_link = LinkName::new(format!("nd{number}")).unwrap();
            one
        };
        Snapshot { attachments: (0..2000).map(numbered).collect(), ..Snapshot::default() }
    }

    fn names(answer: &ListResponse) -> impl Iterator<Item = String> {
        answer.attachments.iter().map(|one| format!("{} {}", one.container_id, one.state))
    }

    /// Asks until the end; `meanwhile` happens behind the first answer.
    fn asked(mut snapshot: Snapshot, meanwhile: impl FnOnce(&mut Snapshot)) -> Vec<String> {
        let (mut from, mut got, mut meanwhile) = (String::new(), Vec::new(), Some(meanwhile));
        loop {
            let page = answer(&snapshot, &BTreeMap::new(), &ListRequest { paged: true, from, ..ListRequest::new() });
            assert!(page.compute_size() < 3 << 20);
            got.extend(names(&page));
            if page.next.is_empty() {
                return got;
            }
            from = page.next;
            meanwhile.take().into_iter().for_each(|happens| happens(&mut snapshot));
        }
    }

    #[test]
    fn many_go_into_several_answers_and_all_into_one_for_who_asks_for_no_pages() {
        let whole = answer(&many(), &BTreeMap::new(), &ListRequest::new());
        assert!(whole.compute_size() > 4 << 20 && whole.next.is_empty());
        assert_eq!(asked(many(), |_| {}), names(&whole).collect::<Vec<_>>());
        assert_eq!(asked(Snapshot::default(), |_| {}), [""; 0]);
    }

    #[test]
    fn who_stays_is_listed_once_whatever_goes_meanwhile() {
        let drains = |snapshot: &mut Snapshot, place: usize| {
            let gone = snapshot.attachments.remove(place);
            snapshot.draining.push(gone);
        };
        let got = asked(many(), |snapshot| {
            drains(snapshot, 1999);
            drains(snapshot, 1);
            snapshot.attachments.remove(0);
            // The one under the same key since has another link.
            let mut again = snapshot.draining[0].clone();
            again.wiring.as_mut().unwrap().host_link = LinkName::new("nd2000").unwrap();
            snapshot.attachments.push(again);
        });
        let mut expected: Vec<String> = (0..2000).map(|number| format!("c{number:04} wiring")).collect();
        expected[1999] = "c1999 draining".to_owned();
        expected.push("c1999 wiring".to_owned());
        assert_eq!(got, expected);
    }
}
