//! One suite for both engines: whatever holds for one holds for the other. What they must do under a power cut is in `crash`, and the
//! plain cases are scripts (`scripts/engine`); here are random walks against an ordered map, views, and faults of the disk.

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use common::{BOTH, Place};
use kontiki_storage::engine::{Batch, Engine, RocksEngine};
use kontiki_storage::schema;
use kontiki_types::{Fault, NamespaceId, PartitionId, Version, key};
use proptest::prelude::*;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys as the schema makes them (several versions of few user keys, and some records that are no data), so that the filter on the key
/// part is at work.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let user = prop::sample::select(vec![&b""[..], b"a", b"a\x00", b"ab", b"b", b"\xff"]);
    prop_oneof![
        8 => (user, 0..4u64).prop_map(|(user, version)| {
            schema::Key::Data { key: key::internal(NamespaceId::DEFAULT, user), version: Version(version) }.encode()
        }),
        1 => (1..3u64).prop_map(|id| schema::Key::<&[u8]>::Applied { partition: PartitionId(id) }.encode()),
        1 => prop::collection::vec(prop::sample::select(vec![0u8, 1, 0x10, b'a', 0xff]), 1..4),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Flush,
    Get(Vec<u8>),
    First(Vec<u8>, Vec<u8>),
    /// All versions of one key at or below one: the point read.
    Point(Vec<u8>),
    Walk {
        from: Vec<u8>,
        to: Vec<u8>,
        moves: Vec<Move>,
    },
}

#[derive(Clone, Debug)]
enum Move {
    Seek(Vec<u8>),
    SeekForPrev(Vec<u8>),
    Next,
    Prev,
}

fn any_step() -> impl Strategy<Value = Step> {
    let change = (any_key(), prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..5)));
    let step =
        prop_oneof![any_key().prop_map(Move::Seek), any_key().prop_map(Move::SeekForPrev), Just(Move::Next), Just(Move::Prev)];
    let end = prop_oneof![1 => Just(vec![]), 3 => any_key()];
    prop_oneof![
        4 => prop::collection::vec(change, 1..6).prop_map(Step::Write),
        1 => Just(Step::Flush),
        2 => any_key().prop_map(Step::Get),
        2 => (any_key(), end.clone()).prop_map(|(from, to)| Step::First(from, to)),
        3 => any_key().prop_map(Step::Point),
        3 => (any_key(), end, prop::collection::vec(step, 1..8)).prop_map(|(from, to, moves)| Step::Walk { from, to, moves }),
    ]
}

fn in_range(map: &Map, from: &[u8], to: &[u8]) -> Map {
    map.iter()
        .filter(|(key, _)| key.as_slice() >= from && (to.is_empty() || key.as_slice() < to))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect()
}

fn owned(found: Option<(&Vec<u8>, &Vec<u8>)>) -> Option<(Bytes, Bytes)> {
    found.map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
}

fn walk(engine: &dyn Engine, view: &Map, from: &[u8], to: &[u8], moves: &[Move]) {
    let mut cursor = engine.cursor(from, to).expect("opens");
    let mut at: Option<Vec<u8>> = None;
    for step in moves {
        let range = |bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>)| view.range(bounds).map(|(key, _)| key.clone());
        at = match (step, at) {
            (Move::Seek(key), _) => range((Bound::Included(key.clone()), Bound::Unbounded)).next(),
            (Move::SeekForPrev(key), _) => range((Bound::Unbounded, Bound::Included(key.clone()))).next_back(),
            (Move::Next, Some(at)) => range((Bound::Excluded(at), Bound::Unbounded)).next(),
            (Move::Prev, Some(at)) => range((Bound::Unbounded, Bound::Excluded(at))).next_back(),
            (_, None) => None,
        };
        match step {
            Move::Seek(key) => cursor.seek(key),
            Move::SeekForPrev(key) => cursor.seek_for_prev(key),
            Move::Next => cursor.next(),
            Move::Prev => cursor.prev(),
        }
        .expect("moves");
        assert_eq!(cursor.valid(), at.is_some(), "{step:?}");
        if let Some(key) = &at {
            assert_eq!((cursor.key(), cursor.value()), (key.as_slice(), view[key].as_slice()), "{step:?}");
        } else {
            assert!(cursor.key().is_empty() && cursor.value().is_empty());
        }
    }
}

fn run(engine: &dyn Engine, map: &mut Map, step: &Step) {
    match step {
        Step::Flush => engine.flush().expect("flushes"),
        Step::Write(changes) => {
            let mut batch = Batch::new();
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        batch.put(key, value);
                        map.insert(key.clone(), value.clone());
                    }
                    None => {
                        batch.delete(key);
                        map.remove(key);
                    }
                }
            }
            engine.write(&batch).expect("writes");
        }
        Step::Get(key) => assert_eq!(engine.get(key).expect("reads").as_deref(), map.get(key).map(Vec::as_slice)),
        Step::First(from, to) => {
            assert_eq!(engine.first(from, to).expect("reads"), owned(in_range(map, from, to).first_key_value()), "{step:?}");
        }
        Step::Point(from) => {
            if let Some(part) = schema::data_prefix(from) {
                let to = [part, &[0xff; schema::VERSION_BYTES]].concat();
                assert_eq!(
                    engine.first(from, &to).expect("reads"),
                    owned(in_range(map, from, &to).first_key_value()),
                    "{step:?}"
                );
            }
        }
        Step::Walk { from, to, moves } => walk(engine, &in_range(map, from, to), from, to, moves),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn engines_are_ordered_maps(steps in prop::collection::vec(any_step(), 1..60)) {
        for on in BOTH {
            let place = Place::new(on);
            let engine = place.engine();
            let mut map = Map::new();
            for step in &steps {
                run(&*engine, &mut map, step);
            }
            run(&*engine, &mut map, &Step::Walk { from: vec![0], to: vec![], moves: [vec![Move::Seek(vec![0])], vec![Move::Next; 50]].concat() });
        }
    }
}

#[test]
fn a_cursor_sees_one_moment() {
    for on in BOTH {
        let engine = Place::new(on);
        let engine = engine.engine();
        let mut batch = Batch::new();
        batch.put(b"a", b"1");
        batch.put(b"b", b"1");
        engine.write(&batch).expect("writes");
        let mut cursor = engine.cursor(b"", b"").expect("opens");
        let mut later = Batch::new();
        later.delete(b"a");
        later.put(b"b", b"2");
        later.put(b"c", b"2");
        engine.write(&later).expect("writes");
        engine.flush().expect("flushes");
        cursor.seek(b"a").expect("seeks");
        assert_eq!((cursor.key(), cursor.value()), (&b"a"[..], &b"1"[..]), "on {on:?}");
        cursor.next().expect("moves");
        assert_eq!((cursor.key(), cursor.value()), (&b"b"[..], &b"1"[..]), "on {on:?}");
        cursor.next().expect("moves");
        assert!(!cursor.valid(), "on {on:?}");
        assert_eq!(engine.get(b"b").expect("reads").as_deref(), Some(&b"2"[..]));
    }
}

#[test]
fn stats_tell_what_was_written_and_what_was_flushed() {
    for on in BOTH {
        let place = Place::new(on);
        let engine = place.engine();
        let mut batch = Batch::new();
        for number in 0..1000u32 {
            batch.put(&number.to_be_bytes(), &[7; 1000]);
        }
        engine.write(&batch).expect("writes");
        let before = engine.stats();
        engine.flush().expect("flushes");
        let after = engine.stats();
        assert_eq!((before.records_estimate, after.records_estimate), (1000, 1000), "on {on:?}");
        assert!(before.unflushed_bytes >= 1_000_000 && after.unflushed_bytes < 100_000, "on {on:?}: {before:?} {after:?}");
        assert!(after.data_bytes > 1000 && !after.stalled, "on {on:?}: {after:?}");
    }
}

/// A directory with two flushed tables in it.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = common::open(dir.path());
    for round in 0..2u8 {
        let mut batch = Batch::new();
        for number in 0..2000u32 {
            batch.put(&[&[1][..], &number.to_be_bytes()].concat(), &[round; 100]);
        }
        engine.write(&batch).expect("writes");
        engine.flush().expect("flushes");
    }
    dir
}

#[allow(clippy::disallowed_methods, reason = "this test damages files")]
fn files(dir: &Path, wanted: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(wanted))).collect()
}

fn refused(dir: &Path) -> Fault {
    RocksEngine::open(dir, common::options()).expect_err("refused")
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let _holder = common::open(dir.path());
    match refused(dir.path()) {
        Fault::Io { action, source } => {
            assert_eq!(source.kind(), ErrorKind::ResourceBusy, "{source}");
            assert!(action.contains(&dir.path().display().to_string()), "{action}");
        }
        other => panic!("{other}"),
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test damages files")]
fn a_file_in_place_of_the_directory_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    std::fs::write(&path, "not a directory").expect("writes");
    assert!(matches!(refused(&path), Fault::Io { .. }));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test damages files")]
fn damaged_heads_are_refused() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("CURRENT emptied", |dir| std::fs::write(dir.join("CURRENT"), "").expect("writes")),
        ("CURRENT overwritten", |dir| std::fs::write(dir.join("CURRENT"), "nonsense\n").expect("writes")),
        ("CURRENT removed", |dir| std::fs::remove_file(dir.join("CURRENT")).expect("removes")),
        ("all but the tables removed", |dir| {
            let others = files(dir, "").into_iter().filter(|file| file.extension().is_none_or(|extension| extension != "sst"));
            others.for_each(|file| std::fs::remove_file(file).expect("removes"));
        }),
        ("MANIFEST removed", |dir| files(dir, "MANIFEST").iter().for_each(|file| std::fs::remove_file(file).expect("removes"))),
        ("MANIFEST overwritten", |dir| {
            files(dir, "MANIFEST").iter().for_each(|file| std::fs::write(file, vec![0x5a; 300]).expect("writes"))
        }),
    ];
    for (name, damage) in damages {
        let dir = filled();
        damage(dir.path());
        let fault = refused(dir.path());
        eprintln!("{name}: {fault}");
        assert!(matches!(fault, Fault::Io { .. } | Fault::Corrupt { .. }), "{name}: {fault}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "this test damages files")]
fn a_damaged_block_is_a_fault_when_it_is_read() {
    let dir = filled();
    for table in files(dir.path(), ".sst") {
        let mut bytes = std::fs::read(&table).expect("reads");
        let middle = bytes.len() / 3;
        bytes[middle] ^= 0xff;
        std::fs::write(&table, bytes).expect("writes");
    }
    let engine = common::open(dir.path());
    let scan = || {
        let mut cursor = engine.cursor(b"", b"")?;
        cursor.seek(b"\x01")?;
        while cursor.valid() {
            cursor.next()?;
        }
        Ok::<_, Fault>(())
    };
    assert!(matches!(scan().expect_err("damaged"), Fault::Corrupt { .. }));
    let point = (0..2000u32).find_map(|number| engine.get(&[&[1][..], &number.to_be_bytes()].concat()).err());
    assert!(matches!(point, Some(Fault::Corrupt { .. })), "{point:?}");
    let first = (0..2000u32).find_map(|number| engine.first(&[&[1][..], &number.to_be_bytes()].concat(), b"").err());
    assert!(matches!(first, Some(Fault::Corrupt { .. })), "{first:?}");
}
