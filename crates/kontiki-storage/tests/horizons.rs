//! Horizons, compaction and views together: what is overwritten gives its room back, and nobody who may read meets a hole. On both engines.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::model::descriptor;
use common::{BOTH, Place};
use kontiki_storage::engine::Engine;
use kontiki_storage::machine::{Entry, Machine};
use kontiki_types::{Command, Epoch, NamespaceId, Op, ReplicaId, Version, Write, encoding, key};

fn user(number: u64) -> Bytes {
    key::internal(NamespaceId::DEFAULT, format!("c{number:04}").as_bytes())
}

fn apply(machine: &mut Machine, command: &Command<Bytes>) {
    let command = encoding::encode(command);
    let index = machine.applied_index() + 1;
    machine.apply(&[Entry { index, position: b"p", membership: None, command: Some(&command) }]).expect("applies");
}

fn write(machine: &mut Machine, stamp_ms: u64, ops: Vec<Op<Bytes>>) {
    let write = Write { epoch: Epoch { conf: 1, bounds: 1 }, request: None, conditions: vec![], ops };
    apply(machine, &Command::Writes { stamp_ms, writes: vec![write] });
}

fn put(machine: &mut Machine, stamp_ms: u64, keys: u64, value_bytes: usize) {
    // Values that do not compress.
    let mut seed = stamp_ms;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    let ops = (0..keys).map(|number| Op::Put { key: user(number), value: (0..value_bytes).map(|_| byte()).collect() }).collect();
    write(machine, stamp_ms, ops);
}

fn horizon(machine: &mut Machine, ms: u64) {
    apply(machine, &Command::AdvanceHorizon { to: Version::from_ms(ms) });
}

fn records(engine: &dyn Engine) -> usize {
    let mut cursor = engine.cursor(b"\x10", b"").expect("opens");
    cursor.seek(b"\x10").expect("seeks");
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next().expect("moves");
    }
    count
}

#[test]
fn few_keys_that_are_overwritten_many_times_take_bounded_room() {
    for on in BOTH {
        let place = Place::new(on);
        let engine = place.engine();
        let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
        let (mut most, mut bytes) = (0, 0);
        for round in 1..=40u64 {
            for step in 0..25 {
                put(&mut machine, round * 100 + step, 20, 200);
            }
            horizon(&mut machine, round * 100 + 20);
            engine.compact(b"", b"").expect("compacts");
            most = most.max(records(&*engine));
            bytes = engine.stats().data_bytes.max(bytes);
        }
        // The newest at the horizon, and four that are newer, of 20 keys; 20,000 records of 4 MiB were written.
        assert_eq!(most, 20 * 5, "on {on:?}");
        assert!(bytes < 200_000, "on {on:?}: {bytes} bytes");
    }
}

#[test]
fn a_view_keeps_what_it_may_be_asked_for() {
    for on in BOTH {
        let place = Place::new(on);
        let engine = place.engine();
        let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
        for ms in 1..=10 {
            put(&mut machine, ms, 3, 10);
        }
        horizon(&mut machine, 4);
        engine.flush().expect("flushes");
        let export = Machine::export(engine.view(), machine.partition()).expect("exports").expect("is there");
        horizon(&mut machine, 10);
        engine.compact(b"", b"").expect("compacts");
        // Versions 4 to 10 of three keys are in the view's horizon.
        let seen = |export: &kontiki_storage::machine::Export| {
            let (mut from, mut rows) = (Bytes::new(), 0);
            while let Some(chunk) = export.chunk(&from, 100).expect("reads") {
                (from, rows) = (chunk.to.clone(), rows + chunk.rows.len());
            }
            rows
        };
        assert!(seen(&export) >= 21, "on {on:?}: {}", seen(&export));
        assert_eq!(export.header().horizon, Version::from_ms(4));
        drop(export);
        engine.compact(b"", b"").expect("compacts");
        assert_eq!(records(&*engine), 3, "on {on:?}");
    }
}

/// Older records of a deleted key lie in other files than its mark; whatever is rewritten in which order, none comes back.
#[test]
fn no_older_version_reappears_when_marks_go() {
    for on in BOTH {
        let place = Place::new(on);
        let engine = place.engine();
        let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
        for round in 0..12u64 {
            let ms = 10 * round + 1;
            put(&mut machine, ms, 40, 300);
            engine.flush().expect("flushes");
            let odd = (0..40).filter(|number| number % 2 == 1);
            write(&mut machine, ms + 1, odd.map(|number| Op::Delete { key: user(number) }).collect());
            engine.flush().expect("flushes");
            horizon(&mut machine, ms + 2 - round % 3);
            // Parts, so that marks and what they hide are not always in the same compaction.
            let from = [&b"\x10\0\0\0\x01"[..], format!("c{:04}", (round * 7) % 30).as_bytes()].concat();
            let to = [&b"\x10\0\0\0\x01"[..], format!("c{:04}", (round * 7) % 30 + 10).as_bytes()].concat();
            engine.compact(&from, &to).expect("compacts");
            let live = |number| {
                let read = kontiki_types::Read::Get { keys: vec![user(number)] };
                match machine.reader().read(&read, None).expect("reads").data {
                    kontiki_types::read::ReadData::Values(values) => values[0].is_some(),
                    other => panic!("values: {other:?}"),
                }
            };
            assert!((0..40).all(|number| live(number) == (number % 2 == 0)), "on {on:?}, round {round}");
        }
        write(&mut machine, 500, vec![]);
        horizon(&mut machine, 500);
        engine.compact(b"", b"").expect("compacts");
        assert_eq!(records(&*engine), 20, "on {on:?}: no mark is left, and nothing that one has hidden");
    }
}

/// Two replicas that have applied the same hash alike, however far each was compacted; and differ if one of them lacks anything that counts.
#[test]
fn replicas_hash_alike_wherever_compaction_has_come() {
    let (memory, rocks) = (Place::new(BOTH[0]), Place::new(BOTH[1]));
    let hash = |place: &Place, machine: &Machine| {
        let export = Machine::export(place.engine().view(), machine.partition()).expect("exports").expect("is there");
        export.content_hash().expect("hashes")
    };
    let mut machines =
        [&memory, &rocks].map(|place| Machine::create(place.engine(), descriptor(), ReplicaId(1)).expect("creates"));
    let mut hashes = std::collections::BTreeSet::new();
    for ms in 1..=20 {
        for machine in &mut machines {
            put(machine, ms, 4, 10);
            write(machine, ms, vec![Op::Delete { key: user(ms % 4) }]);
            horizon(machine, ms.saturating_sub(ms % 5));
        }
        if ms % 3 == 0 {
            rocks.engine().compact(b"", b"").expect("compacts");
        }
        let both = [hash(&memory, &machines[0]), hash(&rocks, &machines[1])];
        assert_eq!(both[0], both[1], "after {ms}");
        hashes.insert(both[0]);
    }
    assert_eq!(hashes.len(), 20, "each state has its own");
    let before = hash(&rocks, &machines[1]);
    let lost = key_of(3, Version(Version::from_ms(20).0));
    let mut batch = kontiki_storage::engine::Batch::new();
    batch.delete(&lost);
    rocks.engine().write(&batch).expect("writes");
    assert_ne!(hash(&rocks, &machines[1]), before, "a record is missing");
}

fn key_of(number: u64, version: Version) -> Vec<u8> {
    kontiki_storage::schema::Key::Data { key: user(number), version }.encode()
}

/// A replica that is replaced: what was known of the old data's horizon says nothing of the new data.
#[test]
fn a_snapshot_brings_its_own_horizon() {
    for on in BOTH {
        let (source, target) = (Place::new(on), Place::new(on));
        let fill = |engine: Arc<dyn Engine>, replica| {
            let mut machine = Machine::create(engine, descriptor(), ReplicaId(replica)).expect("creates");
            (1..=9).for_each(|ms| put(&mut machine, ms, 2, 10));
            machine
        };
        let mut from = fill(source.engine(), 1);
        horizon(&mut from, 3);
        horizon(&mut from, 3);
        let mut to = fill(target.engine(), 2);
        horizon(&mut to, 8);
        target.engine().flush().expect("flushes");
        let export = Machine::export(source.engine().view(), from.partition()).expect("exports").expect("is there");
        let mut import = kontiki_storage::machine::Import::begin(&*target.engine(), export.header().clone()).expect("begins");
        while let Some(start) = import.next() {
            let chunk = export.chunk(start, 100).expect("reads").expect("there is more");
            import.add(&chunk).expect("adds");
        }
        to.install(import).expect("installs");
        assert_eq!(to.reader().horizon(), Version::from_ms(3));
        target.engine().compact(b"", b"").expect("compacts");
        assert_eq!(records(&*target.engine()), 2 * 7, "on {on:?}: versions 3 to 9");
    }
}

/// RocksDB's own compactions, which nobody asked for, use only horizons that a crash cannot lose.
#[test]
fn compactions_in_the_background_do_not_run_ahead_of_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = || kontiki_storage::engine::RocksOptions { memtable_bytes: 64 * 1024, ..common::options() };
    let engine = kontiki_storage::engine::RocksEngine::open(dir.path(), options()).expect("opens");
    let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
    for ms in 1..=300 {
        put(&mut machine, ms, 20, 200);
        horizon(&mut machine, ms);
        if ms % 100 == 0 {
            engine.flush().expect("flushes");
        }
    }
    drop((machine, engine));
    let engine = kontiki_storage::engine::RocksEngine::open(dir.path(), options()).expect("opens");
    let machine = Machine::open(engine.clone(), descriptor().id).expect("opens").expect("is there");
    let (reader, oldest) = (machine.reader(), machine.reader().horizon());
    for ms in oldest.ms()..=reader.clock().ms() {
        let read = kontiki_types::Read::Get { keys: (0..20).map(user).collect() };
        match reader.read(&read, Some(Version::from_ms(ms))).expect("reads").data {
            kontiki_types::read::ReadData::Values(values) => {
                assert!(values.iter().all(|row| row.as_ref().is_some_and(|row| row.version.ms() == ms)), "at {ms}")
            }
            other => panic!("values: {other:?}"),
        }
    }
}
