//! A batch: the changes that one apply makes, in order. All bytes lie in one buffer, so that a batch of a thousand small records
//! costs a few allocations and not thousands.

use std::ops::Range;

/// Changes to an engine, applied together, in order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    changes: Vec<Span>,
}

/// Where a change's bytes lie.
#[derive(Clone, Debug)]
struct Span {
    key: Range<usize>,
    value: Option<Range<usize>>,
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Sets a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes a key; nothing happens if it is absent.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_with(|bytes| bytes.extend_from_slice(key), |bytes| bytes.extend_from_slice(value));
    }

    /// Sets a key, both parts appended in place: saves a copy where they are made of pieces.
    pub fn put_with(&mut self, key: impl FnOnce(&mut Vec<u8>), value: impl FnOnce(&mut Vec<u8>)) {
        let key = self.append(key);
        let value = self.append(value);
        debug_assert!(!key.is_empty(), "a key of an engine is not empty");
        self.changes.push(Span { key, value: Some(value) });
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let key = self.append(|bytes| bytes.extend_from_slice(key));
        self.changes.push(Span { key, value: None });
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.bytes.len();
        write(&mut self.bytes);
        start..self.bytes.len()
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        self.changes.iter().map(|span| {
            let key = &self.bytes[span.key.clone()];
            match &span.value {
                Some(value) => Change::Put { key, value: &self.bytes[value.clone()] },
                None => Change::Delete { key },
            }
        })
    }

    /// How many changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order_and_as_given() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        batch.put(b"a", b"");
        batch.delete(b"b");
        batch.put_with(|key| key.extend([b'c', b'c']), |value| value.extend(b"value"));
        let expected =
            [Change::Put { key: b"a", value: b"" }, Change::Delete { key: b"b" }, Change::Put { key: b"cc", value: b"value" }];
        assert!(batch.changes().eq(expected));
        assert_eq!((batch.len(), batch.size_bytes()), (3, 9));
    }
}
