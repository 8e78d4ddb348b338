//! The keys on disk: golden bytes hold the format still, and properties hold the order.

use kontiki_types::NamespaceId;
use kontiki_types::key;
use proptest::prelude::*;

use super::*;

fn data(user: &[u8], version: u64) -> Key<Bytes> {
    Key::Data { key: key::internal(NamespaceId::DEFAULT, user), version: Version(version) }
}

fn any_key() -> impl Strategy<Value = Key<Bytes>> {
    // Few distinct bytes, zeros and ones among them, so that escapes meet often.
    let user = prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, b'a', 0xfe, 0xff]), 0..6);
    prop_oneof![
        any::<u64>().prop_map(|partition| Key::Replica { partition: PartitionId(partition) }),
        any::<u64>().prop_map(|partition| Key::Applied { partition: PartitionId(partition) }),
        any::<u64>().prop_map(|partition| Key::Floor { partition: PartitionId(partition) }),
        any::<u64>().prop_map(|partition| Key::Tombstone { partition: PartitionId(partition) }),
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(keeper, opener, opened)| Key::Session {
            partition: PartitionId(keeper),
            session: SessionId { partition: PartitionId(opener), opened: Version(opened) },
        }),
        (0..3u32, user, any::<u64>()).prop_map(|(namespace, user, version)| Key::Data {
            key: key::internal(NamespaceId(namespace), &user),
            version: Version(version)
        }),
    ]
}

#[test]
fn golden_bytes() {
    let session = SessionId { partition: PartitionId(2), opened: Version(0x0102) };
    let golden = [
        (Key::Replica { partition: PartitionId(7) }, "010000000000000007"),
        (Key::Applied { partition: PartitionId(7) }, "020000000000000007"),
        (Key::Session { partition: PartitionId(7), session }, "03000000000000000700000000000000020000000000000102"),
        (Key::Floor { partition: PartitionId(7) }, "040000000000000007"),
        (Key::Tombstone { partition: PartitionId(7) }, "050000000000000007"),
        (data(b"abc", 1), "100000000161626300 00fffffffffffffffe"),
        (data(b"a\x00\xff", 2), "10000000016100ffff 0000fffffffffffffffd"),
        (data(b"", 0), "1000000001 0000ffffffffffffffff"),
    ];
    for (key, expected) in golden {
        assert_eq!(hex::encode(key.encode()), expected.replace(' ', ""), "{key:?}");
    }
}

#[test]
fn foreign_bytes_are_a_fault_that_names_them() {
    for bytes in [
        &b""[..],
        b"\x00",
        b"\x01",
        b"\x0112345678x",
        b"\x03123",
        b"\x10\x00\x00\x00\x01",
        b"\x10\x00\x00\x00\x01a\x00\x0112345678",
        b"\x11",
    ] {
        let fault = Key::decode(bytes).expect_err("not a key");
        assert!(matches!(fault, Fault::Corrupt { .. }), "{fault}");
    }
}

proptest! {
    #[test]
    fn keys_round_trip(key in any_key()) {
        prop_assert_eq!(Key::decode(&key.encode()).expect("decodes"), key);
    }

    #[test]
    fn data_sorts_by_key_and_then_newest_first(a in any_key(), b in any_key()) {
        if let (Key::Data { key: key_a, version: at_a }, Key::Data { key: key_b, version: at_b }) = (&a, &b) {
            let expected = key_a.cmp(key_b).then(at_b.cmp(at_a));
            prop_assert_eq!(a.encode().cmp(&b.encode()), expected);
        }
    }

    #[test]
    fn the_key_part_is_shared_by_versions_and_stable(user: Vec<u8>, version: u64) {
        let encoded = data(&user, version).encode();
        let part = data_prefix(&encoded).expect("a data key");
        prop_assert_eq!(part, &encoded[..encoded.len() - VERSION_BYTES]);
        prop_assert_eq!(data_prefix(part), Some(part));
        prop_assert_eq!(part.to_vec(), data_prefix_of(&key::internal(NamespaceId::DEFAULT, &user)));
    }

    #[test]
    fn bounds_hold_exactly_the_keys_of_a_range(start in bound(), end in bound(), key in any_key()) {
        if let Key::Data { key: internal, .. } = &key {
            let range = KeyRange::new(start, end);
            let (from, to) = super::data(&range);
            let encoded = key.encode();
            prop_assert_eq!(encoded >= from && encoded < to, range.contains(internal));
        }
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes: Vec<u8>, data: Vec<u8>) {
        let _ = Key::decode(&bytes);
        let mut framed = vec![DATA];
        framed.extend(&data);
        if let Ok(key) = Key::decode(&framed) {
            prop_assert_eq!(key.encode(), framed);
        }
    }
}

/// Bounds of any length, also shorter than a namespace.
fn bound() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, 0, 1, 2, b'a', 0xff]), 0..8)
}
