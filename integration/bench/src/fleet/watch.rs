//! A bare watch of etcd, which only notes when it hears of whom: what the store itself takes, without any netd.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use netd_fleet::NodeRecord;
use serde_json::{Value, json};

use super::store::Store;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// When a node was first heard of with a block, and with which.
type Known = BTreeMap<String, (Instant, Ipv4Net)>;

/// A watch of all that nodes say of themselves.
#[derive(Debug)]
pub(super) struct Watch {
    known: Arc<Mutex<Known>>,
    stream: TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    /// Hears from now on.
    pub(super) fn start(store: &Store, prefix: &str) -> Result<Self> {
        let (key, end) = (format!("{prefix}/fleet/peers/"), format!("{prefix}/fleet/peers0"));
        let body = json!({"create_request": {"key": encode(key.as_bytes()), "range_end": encode(end.as_bytes())}});
        let stream = store.ask("/v3/watch", &body.to_string()).context("cannot watch etcd")?;
        let known = Arc::<Mutex<Known>>::default();
        let reader = {
            let (known, stream) = (Arc::clone(&known), stream.try_clone()?);
            thread::spawn(move || follow(stream, &known))
        };
        Ok(Self { known, stream, reader: Some(reader) })
    }

    /// When it first heard of this node with a block, and of which.
    pub(super) fn known(&self, name: &str) -> Option<(Instant, Ipv4Net)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// All nodes that it has heard of with a block.
    pub(super) fn count(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stream.shutdown(Shutdown::Both));
        drop(self.reader.take().map(JoinHandle::join));
    }
}

/// One message a line; the chunks of HTTP around them are lines of their own.
fn follow(stream: TcpStream, known: &Mutex<Known>) {
    for line in BufReader::new(stream).lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
        let now = Instant::now();
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        let events = message["result"]["events"].as_array().cloned().unwrap_or_default();
        let records = events.iter().filter_map(|event| event["kv"]["value"].as_str()).filter_map(decode);
        for record in records.filter_map(|value| serde_json::from_slice::<NodeRecord>(&value).ok()) {
            let block = record.blocks.iter().find_map(|block| if let IpNet::V4(v4) = block { Some(*v4) } else { None });
            let Some(block) = block else { continue };
            let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(record.name.to_string()).or_insert((now, block));
        }
    }
}

/// Base 64 (RFC 4648).
fn encode(octets: &[u8]) -> String {
    let mut text = String::new();
    for three in octets.chunks(3) {
        let bits = three.iter().fold(0_usize, |bits, octet| bits << 8 | usize::from(*octet)) << (8 * (3 - three.len()));
        for at in 0..4 {
            let sign = ALPHABET.get(bits >> (18 - 6 * at) & 63).filter(|_| at <= three.len());
            text.push(sign.map_or('=', |sign| char::from(*sign)));
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for sign in text.trim_end_matches('=').bytes() {
        let value = u32::try_from(ALPHABET.iter().position(|one| *one == sign)?).ok()?;
        (bits, count) = ((bits << 6 | value) & 0xffff, count + 6);
        if count >= 8 {
            count -= 8;
            octets.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn base_64_is_that_of_the_rfc() {
        for (octets, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(encode(octets.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), octets.as_bytes());
        }
        assert_eq!(decode("!"), None);
    }
}
