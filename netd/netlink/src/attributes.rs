//! Netlink attributes (linux/netlink.h): a builder that aligns, and a reader that takes any bytes. What they mean is the caller's.

/// The kernel marks nested attributes with this bit, and some of ours must carry it.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// A run of attributes being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute of any octets. One longer than 65,531 octets cannot be written, and is cut off: callers bound
    /// their lists ([`crate::nft::elements`] does).
    #[must_use]
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(&value[..usize::from(length) - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number in network order, as nf_tables wants all of its own.
    #[must_use]
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds attributes as the value of one.
    #[must_use]
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Adds attributes that were read as the value of one.
    #[must_use]
    pub fn nested_bytes(self, kind: u16, inner: &[u8]) -> Self {
        self.bytes(kind | NESTED, inner)
    }

    /// As they go to the kernel.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in `bytes`, as kind and value; what follows damage is left out.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & KIND, value))
    })
}

/// The value of the attribute `kind` in `bytes`.
#[must_use]
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attributes, attribute, attributes};

    #[test]
    fn what_was_written_is_read() {
        let inner = Attributes::new().text(1, "br0").number(2, 7);
        let outer = Attributes::new().nested(3, &inner).bytes(4, b"abc");
        assert_eq!(outer.as_bytes().len() % 4, 0);
        assert_eq!(attribute(outer.as_bytes(), 4), Some(&b"abc"[..]));
        let nested = attribute(outer.as_bytes(), 3).unwrap();
        assert_eq!(attribute(nested, 1), Some(&b"br0\0"[..]));
        assert_eq!(attribute(nested, 2), Some(&[0, 0, 0, 7][..]));
        assert_eq!(attribute(nested, 9), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
