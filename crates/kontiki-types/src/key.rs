//! Keys and ranges. A *user key* is what a caller names; an *internal key* is `namespace id (u32, big endian) ++ user key`
//! and is what partitions cut, routers look up and storage holds. Keys are ordered as bytes everywhere.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::id::NamespaceId;

/// Bytes of the namespace prefix of an internal key.
pub const NAMESPACE_PREFIX_BYTES: usize = 4;

/// The internal key of a user key: `namespace (u32, big endian) ++ user`.
pub fn internal(namespace: NamespaceId, user: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(NAMESPACE_PREFIX_BYTES + user.len());
    key.put_u32(namespace.0);
    key.put_slice(user);
    key.freeze()
}

/// Splits an internal key into its namespace and user key. `None` if it is shorter than the prefix.
pub fn split_internal(key: &[u8]) -> Option<(NamespaceId, &[u8])> {
    let (prefix, user) = key.split_first_chunk::<NAMESPACE_PREFIX_BYTES>()?;
    Some((NamespaceId(u32::from_be_bytes(*prefix)), user))
}

/// The smallest key after `key`: `key ++ 0x00`.
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// The first key after every key that starts with `prefix`. Empty (no bound) if `prefix` is all `0xff`.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff).map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Bytes::from(end)
}

/// A key for a human: text where it is printable ASCII, `\xNN` elsewhere, cut after 64 bytes.
pub fn display(key: &[u8]) -> String {
    use fmt::Write as _;
    let mut out = String::new();
    for byte in key.iter().take(64) {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(char::from(*byte)),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
    if key.len() > 64 {
        let _ = write!(out, "...({} bytes)", key.len());
    }
    out
}

/// An internal key for a human: the user key, after the namespace where that is not `default`.
pub fn display_internal(key: &[u8]) -> String {
    match split_internal(key) {
        Some((NamespaceId::DEFAULT, user)) => display(user),
        Some((namespace, user)) => format!("{namespace}/{}", display(user)),
        None => display(key),
    }
}

/// A half-open range of internal keys `[start, end)`. An empty `end` means no upper bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    /// First key inside.
    pub start: Bytes,
    /// First key outside; empty for no bound.
    pub end: Bytes,
}

impl KeyRange {
    /// `[start, end)`; an empty `end` means no upper bound.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Every key.
    pub fn all() -> Self {
        Self::default()
    }

    /// Every key of one namespace.
    pub fn namespace(namespace: NamespaceId) -> Self {
        let start = internal(namespace, b"");
        let end = match namespace.0.checked_add(1) {
            Some(next) => internal(NamespaceId(next), b""),
            None => Bytes::new(),
        };
        Self { start, end }
    }

    /// The internal range of a user range in `namespace`; an empty user `end` means the end of the namespace.
    pub fn in_namespace(namespace: NamespaceId, start: &[u8], end: &[u8]) -> Self {
        let whole = Self::namespace(namespace);
        let end = if end.is_empty() { whole.end } else { internal(namespace, end) };
        Self { start: internal(namespace, start), end }
    }

    /// Whether `key` lies inside.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && (self.end.is_empty() || key < self.end.as_ref())
    }

    /// Whether `other` lies inside completely. An empty range lies inside if its start does not lie before ours.
    pub fn contains_range(&self, other: &Self) -> bool {
        let end_inside = self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end);
        other.start >= self.start && end_inside
    }

    /// Whether no key can lie inside.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }

    /// Whether start lies after end: a caller's mistake, not merely an empty range.
    pub fn is_reversed(&self) -> bool {
        !self.end.is_empty() && self.start > self.end
    }

    /// The keys in both ranges; may be empty.
    pub fn intersect(&self, other: &Self) -> Self {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        Self { start, end }
    }

    /// Whether some key lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && !self.intersect(other).is_empty()
    }
}

impl fmt::Display for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.end.is_empty() { "+inf".to_owned() } else { display_internal(&self.end) };
        write!(f, "[{}, {end})", display_internal(&self.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prefix_end_carries_over_ff() {
        assert_eq!(prefix_end(b"ab"), Bytes::from_static(b"ac"));
        assert_eq!(prefix_end(b"a\xff"), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(b"\xff\xff"), Bytes::new());
        assert_eq!(prefix_end(b""), Bytes::new());
    }

    #[test]
    fn an_empty_end_is_no_bound() {
        let all = KeyRange::all();
        assert!(all.contains(b"") && all.contains(b"\xff\xff") && !all.is_empty());
        let tail = KeyRange::new("m", "");
        assert!(!tail.contains(b"a") && tail.contains(b"zz"));
        assert_eq!(all.intersect(&tail), tail);
        assert!(KeyRange::new("b", "a").is_reversed());
        assert!(KeyRange::new("a", "a").is_empty() && !KeyRange::new("a", "a").is_reversed());
        assert!(!KeyRange::new("a", "b").overlaps(&KeyRange::new("b", "c")));
    }

    #[test]
    fn a_namespace_holds_its_keys_and_no_others() {
        let range = KeyRange::namespace(NamespaceId::DEFAULT);
        assert!(range.contains(&internal(NamespaceId::DEFAULT, b"")));
        assert!(range.contains(&internal(NamespaceId::DEFAULT, b"\xff\xff\xff")));
        assert!(!range.contains(&internal(NamespaceId::SYSTEM, b"x")));
        assert!(!range.contains(&internal(NamespaceId(2), b"")));
        assert!(KeyRange::namespace(NamespaceId(u32::MAX)).end.is_empty());
    }

    #[test]
    fn ranges_are_told_in_user_keys() {
        let range = KeyRange::in_namespace(NamespaceId::DEFAULT, b"a", b"");
        assert_eq!(range.to_string(), "[a, ns2/)");
        assert_eq!(KeyRange::new(internal(NamespaceId::SYSTEM, b"map"), "").to_string(), "[ns0/map, +inf)");
    }

    proptest! {
        #[test]
        fn internal_keys_round_trip_and_keep_order(a: Vec<u8>, b: Vec<u8>, ns: u32) {
            let (ia, ib) = (internal(NamespaceId(ns), &a), internal(NamespaceId(ns), &b));
            prop_assert_eq!(split_internal(&ia), Some((NamespaceId(ns), a.as_slice())));
            prop_assert_eq!(a.cmp(&b), ia.cmp(&ib));
        }

        #[test]
        fn intersect_holds_exactly_the_common_keys(s1: Vec<u8>, e1: Vec<u8>, s2: Vec<u8>, e2: Vec<u8>, key: Vec<u8>) {
            let (a, b) = (KeyRange::new(s1, e1), KeyRange::new(s2, e2));
            prop_assert_eq!(a.intersect(&b).contains(&key), a.contains(&key) && b.contains(&key));
        }

        #[test]
        fn prefix_end_bounds_the_prefix(prefix: Vec<u8>, tail: Vec<u8>) {
            let mut key = prefix.clone();
            key.extend(&tail);
            prop_assert!(KeyRange::new(prefix.clone(), prefix_end(&prefix)).contains(&key));
        }
    }
}
