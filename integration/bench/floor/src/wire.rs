//! Bytes of netlink messages: headers, attributes, nests. What they mean is `messages`'.

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE`.
pub(crate) const REQUEST: u16 = 1;
pub(crate) const ACK: u16 = 4;
pub(crate) const EXCL: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;

const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Where a header has its flags.
const FLAGS: usize = 6;

/// Messages that go in one send. Only the last asks for an acknowledgement: the kernel reports refusals in any case.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Where the message begins that is being written.
    start: usize,
    /// Number of the last message, from 1.
    pub(crate) last: u32,
}

impl Batch {
    /// Begins a message; `body` is the fixed part of its type.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.start = self.bytes.len();
        self.last += 1;
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.last.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.fixed(body);
    }

    /// Asks for an acknowledgement of the message that is being written.
    pub(crate) fn acknowledged(&mut self) {
        self.bytes[self.start + FLAGS] |= ACK.to_ne_bytes()[0];
        self.bytes[self.start + FLAGS + 1] |= ACK.to_ne_bytes()[1];
    }

    /// A fixed part within a nest.
    pub(crate) fn fixed(&mut self, body: &[u8]) {
        self.bytes.extend(body);
        self.close();
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.close();
    }

    /// With the zero at its end.
    pub(crate) fn text(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inner(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.close();
    }

    /// Fills up to 4 octets and brings the message's length up to date.
    fn close(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// What the kernel says to a message: its number, and 0 or an error number.
pub(crate) fn acknowledgements(mut datagram: &[u8]) -> Vec<(u32, i32)> {
    const ERROR: u16 = 2;
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut found = Vec::new();
    while let (Some(length), Some(sequence), Some(error)) =
        (word(datagram, 0), word(datagram, 8), word(datagram, HEADER))
    {
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        if kind == ERROR {
            found.push((sequence, -error.cast_signed()));
        }
        let next = usize::try_from(length).unwrap_or(usize::MAX).next_multiple_of(4).max(HEADER);
        datagram = datagram.get(next..).unwrap_or_default();
    }
    found
}
