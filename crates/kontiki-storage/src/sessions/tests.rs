//! The table at its limits, and its format. What a client sees of it is in `tests/scripts/sessions`.

use std::sync::Arc;

use kontiki_types::{Epoch, OpResult};

use super::*;
use crate::engine::MemoryEngine;

const HOUR: u64 = SESSION_AGE_MS_MAX;

fn table() -> Sessions {
    Sessions::new(PartitionId(2))
}

fn request(session: SessionId, sequence: u64, acknowledged_below: u64) -> RequestId {
    RequestId { session, sequence, acknowledged_below }
}

fn done(version: u64) -> Outcome {
    Ok(WriteReply { version: Version(version), results: vec![OpResult::Put] })
}

fn failed(key: usize) -> Outcome {
    Err(Reject::ConditionFailed { index: 0, key: Bytes::from(vec![b'k'; key]), version: None })
}

fn remember(table: &mut Sessions, session: SessionId, sequence: u64, outcome: Outcome, now: u64) {
    table.remember(&request(session, sequence, 0), 7, outcome, Version(now), ClockKind::Hybrid);
}

fn is_new(table: &Sessions, session: SessionId, sequence: u64) -> bool {
    table.admit(&request(session, sequence, 0), 7) == Admission::New
}

fn is_expired(table: &Sessions, session: SessionId, sequence: u64) -> bool {
    matches!(table.admit(&request(session, sequence, 0), 7), Admission::Refused(Reject::SessionExpired { .. }))
}

/// Writes the changes, reads the table back, and demands that both are the same, sizes and all.
fn check_disk(engine: &Arc<MemoryEngine>, table: &mut Sessions) {
    let mut batch = Batch::new();
    table.write_changes(&mut batch);
    engine.write(&batch).expect("writes");
    assert_eq!(&Sessions::load(&**engine, PartitionId(2)).expect("loads"), table);
}

#[test]
fn golden_record() {
    let mut table = table();
    let session = table.open(Version::from_ms(5), ClockKind::Hybrid);
    remember(&mut table, session, 3, done(70_000), 70_000);
    remember(&mut table, session, 4, failed(1), 70_000);
    let mut batch = Batch::new();
    table.write_changes(&mut batch);
    let Some(crate::engine::Change::Put { key, value }) = batch.changes().next() else { panic!("one record") };
    assert_eq!(hex::encode(key), "03000000000000000200000000000000020000000000050000");
    assert_eq!(hex::encode(value), "01fc70110100010203070 0fc701101000100040701 0000016b00".replace(' ', ""));
}

#[test]
fn a_record_that_does_not_parse_is_a_fault_that_names_it() {
    let engine = MemoryEngine::new();
    let key = schema::Key::<&[u8]>::Session {
        partition: PartitionId(2),
        session: SessionId { partition: PartitionId(2), opened: Version(1) },
    };
    for damaged in [&b""[..], b"\x02", b"\x01\x01\x01\x05"] {
        let mut batch = Batch::new();
        batch.put(&key.encode(), damaged);
        engine.write(&batch).expect("writes");
        assert!(matches!(Sessions::load(&*engine, PartitionId(2)), Err(Fault::Corrupt { .. })), "{damaged:?}");
    }
}

#[test]
fn too_many_sessions_push_out_the_least_recently_used() {
    let (engine, mut table) = (MemoryEngine::new(), table());
    let sessions: Vec<_> = (1..=SESSIONS_MAX as u64).map(|version| table.open(Version(version), ClockKind::Hybrid)).collect();
    assert_eq!(table.len(), SESSIONS_MAX);
    remember(&mut table, sessions[0], 1, done(5000), 5000);
    check_disk(&engine, &mut table);
    let newest = table.open(Version(6000), ClockKind::Hybrid);
    assert_eq!(table.len(), SESSIONS_MAX);
    assert!(!is_expired(&table, sessions[0], 1), "it was used after the second was opened");
    assert!(is_expired(&table, sessions[1], 1) && is_new(&table, sessions[2], 1) && is_new(&table, newest, 1));
    check_disk(&engine, &mut table);
}

#[test]
fn too_many_replies_push_out_the_lowest_and_all_below_them() {
    let (engine, mut table) = (MemoryEngine::new(), table());
    let session = table.open(Version(1), ClockKind::Hybrid);
    let last = 2 * SESSION_REPLIES_MAX as u64;
    for sequence in (2..=last).step_by(2).chain([last + 2]) {
        remember(&mut table, session, sequence, done(sequence), sequence);
    }
    assert!(is_expired(&table, session, 1) && is_expired(&table, session, 2));
    assert!(is_new(&table, session, 3), "never seen, and nothing at or above it was forgotten");
    assert_eq!(table.admit(&request(session, 4, 0), 7), Admission::Known(done(4)));
    check_disk(&engine, &mut table);
}

#[test]
fn one_session_cannot_fill_the_table() {
    let (engine, mut table) = (MemoryEngine::new(), table());
    let session = table.open(Version(1), ClockKind::Hybrid);
    for sequence in 1..=40 {
        remember(&mut table, session, sequence, failed(16 * 1024), sequence);
        assert!(table.size_bytes() <= SESSION_BYTES_MAX, "{}", table.size_bytes());
    }
    assert!(is_expired(&table, session, 1));
    assert_eq!(table.admit(&request(session, 40, 0), 7), Admission::Known(failed(16 * 1024)));
    check_disk(&engine, &mut table);
}

#[test]
fn a_full_table_pushes_out_the_least_recently_used() {
    let (engine, mut table) = (MemoryEngine::new(), table());
    let mut sessions = Vec::new();
    for at in 1..=70 {
        let session = table.open(Version(100 * at), ClockKind::Hybrid);
        for sequence in 1..=15 {
            remember(&mut table, session, sequence, failed(16 * 1024), 100 * at + sequence);
        }
        sessions.push(session);
        assert!(table.size_bytes() <= SESSION_TABLE_BYTES_MAX);
    }
    assert!((60..70).contains(&table.len()), "{}", table.len());
    assert!(is_expired(&table, sessions[0], 16) && is_new(&table, sessions[69], 16));
    check_disk(&engine, &mut table);
}

#[test]
fn age_counts_in_the_partitions_own_milliseconds() {
    let mut table = table();
    let old = table.open(Version::from_ms(10), ClockKind::Hybrid);
    let young = table.open(Version::from_ms(11), ClockKind::Hybrid);
    table.open(Version::from_ms(10 + HOUR), ClockKind::Hybrid);
    assert!(is_new(&table, old, 1));
    table.open(Version::from_ms(11 + HOUR), ClockKind::Hybrid);
    assert!(is_expired(&table, old, 1) && is_new(&table, young, 1));
    // A counter says nothing about time.
    let counted = table.open(Version(1), ClockKind::Counter);
    table.open(Version::from_ms(9 * HOUR), ClockKind::Counter);
    assert!(is_new(&table, counted, 1) && is_new(&table, young, 1));
}

#[test]
fn a_fingerprint_tells_requests_apart_and_never_changes() {
    let write = |conditions: Vec<Condition<&'static [u8]>>, ops: Vec<Op<&'static [u8]>>| {
        let epoch = Epoch { conf: 1, bounds: 1 };
        fingerprint(&Write { epoch, request: None, conditions, ops })
    };
    let prints = [
        write(vec![], vec![]),
        write(vec![], vec![Op::Put { key: b"a", value: b"b" }]),
        write(vec![], vec![Op::Put { key: b"ab", value: b"" }]),
        write(vec![], vec![Op::Delete { key: b"a" }]),
        write(vec![], vec![Op::DeleteRange { start: b"a", end: b"b" }]),
        write(vec![Condition::Exists { key: b"a" }], vec![]),
        write(vec![Condition::Absent { key: b"a" }], vec![]),
        write(vec![Condition::VersionIs { key: b"a", version: Version(1) }], vec![]),
        write(vec![Condition::ValueIs { key: b"a", value: b"b" }], vec![]),
        write(vec![], vec![Op::Put { key: b"a", value: b"b" }, Op::Delete { key: b"a" }]),
        write(vec![], vec![Op::Delete { key: b"a" }, Op::Put { key: b"a", value: b"b" }]),
    ];
    let distinct: BTreeSet<u32> = prints.into_iter().collect();
    assert_eq!(distinct.len(), prints.len());
    assert_eq!(prints.map(|print| format!("{print:08x}"))[1], "96cf3ee4");
}
