//! netd's own record, which a crash may have torn: bytes of the file, and records of any content. Beside it what a door leaves on
//! disk, and what containerd has recorded.

use netd::attachment::Description;
use netd::containerd::{Happening, read_answer};
use netd::journal::{Record, read_records};
use netd::lease_history::read_leases;
use netd::node::Node;
use netd::tombstones::read_key;
use serde_json::json;

use super::{Verdict, promise, shape};

pub(super) const TOKENS: &[&str] = &[
    "Put",
    "Drain",
    "Reaped",
    "Counter",
    "Guard",
    "V4",
    "V6",
    "key",
    "network",
    "container",
    "interface",
    "netns",
    "state",
    "Wiring",
    "Attached",
    "leases",
    "address",
    "gateway",
    "wiring",
    "host_link",
    "nd00000001",
    "ndffffffff",
    "bridge",
    "gateways",
    "ports",
    "host",
    "protocol",
    "Udp",
    "host_ip",
    "null",
    "true",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\n",
    "eth0",
    "10.4.0.2/24",
    "fd00::2/64",
    "{\"Counter\":18446744073709551615}\n",
    "{\"key\":{\"network\":\"web\",\"container\":\"a\",\"interface\":\"eth0\"},\"addresses\":[\"10.4.0.2\"],\"seen\":1}\n",
];

pub(super) const CONTAINERD: &[&str] = &[
    "io.cri-containerd.sandbox.metadata",
    "metadata",
    "nerdctl/name",
    "/tasks/delete",
    "/containers/create",
    "{\"Metadata\":{\"Config\":{\"metadata\":{\"name\":\"web\"},\"labels\":{\"a\":\"b\"}}}}",
    "\"labels\":null",
    "k8s.io",
    "\n\u{1}",
    "\u{12}\u{8}",
];

/// The file behind its header.
pub(super) fn bytes(input: &[u8]) -> Verdict {
    replayed(read_records(input))
}

/// Payloads, one a line, with right lengths and checksums.
pub(super) fn records(input: &[u8]) -> Verdict {
    // One that is no record would hide those behind it.
    let frames = input.split(|byte| *byte == b'\n').map(sealed);
    replayed(frames.flat_map(|frame| read_records(&frame)).collect())
}

/// Payloads of the file of leases, in the same way. Whatever it says, nobody holds an address by it.
pub(super) fn leases(input: &[u8]) -> Verdict {
    let frames: Vec<u8> = input.split(|byte| *byte == b'\n').flat_map(sealed).collect();
    let last = read_leases(&[b"netd-leases 1\n", frames.as_slice()].concat());
    let count = last.len();
    let mut node = Node::new("nd");
    node.recall(last);
    promise(node.lease_count() == 0, || format!("{} addresses are held", node.lease_count()))?;
    Ok(shape((count.min(8), node.kept().remembered.len())))
}

/// What a door left: the key is written as it was read.
pub(super) fn tombstone(input: &[u8]) -> Verdict {
    let Ok(key) = read_key(input) else { return Ok(shape(kind_of_error(input))) };
    let (network, container, interface) = (key.network.as_str(), key.container.as_str(), key.interface.as_str());
    let text = json!({"network": network, "container_id": container, "interface": interface}).to_string();
    let again = read_key(text.as_bytes()).map_err(|error| format!("unreadable as written: {error}"))?;
    promise(again == key, || format!("{key} became {again}"))?;
    // They are parts of the tombstone's own name.
    promise(!text.contains('/') && !text.contains("\\u"), || format!("a name with {text}"))?;
    Ok(shape((network.len(), container.len().min(9), interface.len())))
}

fn kind_of_error(input: &[u8]) -> String {
    let error = read_key(input).err().map(|error| error.to_string()).unwrap_or_default();
    error.chars().filter(|letter| !letter.is_ascii_digit()).take(20).collect()
}

pub(super) fn containerd(input: &[u8]) -> Verdict {
    let (container, sandbox, event) = read_answer(input);
    let known = |one: &Option<Description>| one.as_ref().map(|one| (one.labels.len(), one.name.len().min(9)));
    let happened = event.map(|event| match event {
        Happening::Ended(ids) => (0, ids.len()),
        Happening::Recorded(ids) => (1, ids.len()),
    });
    Ok(shape((known(&container), known(&sandbox), happened)))
}

fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap_or_default().to_le_bytes().to_vec();
    frame.extend(crc32fast::hash(payload).to_le_bytes());
    frame.extend(payload);
    frame
}

/// Whatever was recorded, a node comes of it, and its own records give the same node.
fn replayed(records: Vec<Record>) -> Verdict {
    let count = records.len();
    let node = Node::replay("nd", records);
    let own = node.records();
    let again = Node::replay("nd", own.clone());
    promise(again.records() == own, || format!("replayed {own:?}, which gives {:?}", again.records()))?;
    Ok(shape((count.min(8), node.attachments().count(), node.draining().count(), node.lease_count())))
}
