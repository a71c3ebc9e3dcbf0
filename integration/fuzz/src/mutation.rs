//! Changes of an input. Which inputs are worth changing is `engine`'s question.

use crate::random::Random;

/// Octets that no mutated input exceeds.
const LONGEST: usize = 8_192;
/// What readers stumble over.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1",
    "128",
    "255",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "1e309",
    "0.5",
];

/// `input` with one to four changes. `other` lends its parts, `tokens` are words of the format.
pub(crate) fn mutate(input: &[u8], other: &[u8], tokens: &[&str], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        change(&mut bytes, other, tokens, random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], tokens: &[&str], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let run = |random: &mut Random, length: usize| {
        let start = random.below(length + 1);
        start..length.min(start + 1 + random.below(64))
    };
    match random.below(10) {
        0 => flip(bytes, at, random),
        1 => bytes.insert(at, random.octet()),
        2 => bytes.truncate(at),
        3 => {
            let cut = run(random, bytes.len());
            bytes.drain(cut);
        }
        4 => {
            let copy = bytes[run(random, bytes.len())].to_vec();
            insert(bytes, at, &copy);
        }
        5 => {
            let lent = &other[run(random, other.len())];
            insert(bytes, at, lent);
        }
        6 => {
            // The front of one, the back of another.
            bytes.truncate(at);
            bytes.extend(&other[random.below(other.len() + 1)..]);
        }
        7 => insert(bytes, at, random.one(tokens).unwrap_or_default().as_bytes()),
        8 => number(bytes, random),
        _ => swap_word(bytes, tokens, random),
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) {
    let (bit, whole) = (random.below(8), random.below(2) == 0);
    let new = random.octet();
    if let Some(byte) = bytes.get_mut(at) {
        *byte = if whole { new } else { *byte ^ (1 << bit) };
    }
}

/// Puts another number for one that is there.
fn number(bytes: &mut Vec<u8>, random: &mut Random) {
    let digits: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
    let Some(start) = digits.get(random.below(digits.len())).copied() else { return };
    let end =
        bytes[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |length| start + length);
    let new = random.one(&NUMBERS).unwrap_or_default().bytes();
    bytes.splice(start..end, new);
}

/// Puts a word of the format for a quoted one that is there.
fn swap_word(bytes: &mut Vec<u8>, tokens: &[&str], random: &mut Random) {
    let quotes: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'"').collect();
    let pair = random.below(quotes.len().saturating_sub(1));
    if let (Some(start), Some(end), Some(token)) = (quotes.get(pair), quotes.get(pair + 1), random.one(tokens)) {
        bytes.splice(start + 1..*end, token.bytes());
    }
}
