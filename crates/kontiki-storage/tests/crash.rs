//! Power cuts: whatever is lost, what is left is the state after some entry of the log, and applying the rest again gives the same
//! replies and the same state. So data, sessions and applied position can never disagree.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::model::{Model, Plan, any_plans, descriptor};
use kontiki_storage::engine::{Batch, Engine, MemoryEngine, RocksEngine, RocksOptions};
use kontiki_storage::machine::{Entry, Machine};
use kontiki_storage::sessions::Sessions;
use kontiki_types::read::{ReadData, Scan};
use kontiki_types::{Command, Read, ReplicaId, Reply, Row, Version, encoding};
use proptest::prelude::*;

/// A log with everything that applying it must lead to, entry by entry.
struct History {
    commands: Vec<Option<Command<Bytes>>>,
    replies: Vec<Reply>,
    /// The model after each entry; the first is before all.
    models: Vec<Model>,
}

fn history(plans: &[Plan]) -> History {
    let mut history = History { commands: vec![], replies: vec![], models: vec![Model::new()] };
    for plan in plans {
        let mut model = history.models[history.models.len() - 1].clone();
        let command = model.resolve(plan);
        history.replies.push(model.apply(command.as_ref()));
        history.commands.push(command);
        history.models.push(model);
    }
    history
}

/// Applies entry `index` (from 1) alone and checks its reply.
fn apply(machine: &mut Machine, history: &History, index: usize) {
    let command = history.commands[index - 1].as_ref().map(encoding::encode);
    let position = format!("at {index}");
    let entry = Entry { index: index as u64, position: position.as_bytes(), membership: None, command: command.as_deref() };
    let replies = machine.apply(&[entry]).expect("applies").replies;
    assert_eq!(replies, [history.replies[index - 1].clone()], "entry {index}");
}

fn rows(machine: &Machine) -> Vec<Row> {
    rows_at(machine, machine.reader().clock())
}

fn rows_at(machine: &Machine, at: Version) -> Vec<Row> {
    let scan = Scan {
        range: machine.descriptor().range.clone(),
        reverse: false,
        keys_only: false,
        rows_max: 1000,
        bytes_max: 1_000_000,
    };
    match machine.reader().read(&Read::Scan(scan), Some(at)).expect("reads").data {
        ReadData::Page { rows, resume: None } => rows,
        other => panic!("one page: {other:?}"),
    }
}

/// Opens what a power cut left, checks that it is the state after one entry, and applies the rest of the log. Returns that entry.
fn recover(engine: Arc<dyn Engine>, history: &History, sessions: &[Sessions]) -> usize {
    let mut machine = Machine::open(engine, descriptor().id).expect("opens").expect("the replica was flushed");
    let index = machine.applied_index() as usize;
    let position = (index > 0).then(|| format!("at {index}"));
    assert_eq!(machine.position(), position.as_ref().map(String::as_bytes));
    assert_eq!(machine.reader().clock(), history.models[index].clock);
    assert_eq!(rows(&machine), history.models[index].rows(history.models[index].clock), "after entry {index}");
    assert_eq!(machine.sessions(), &sessions[index], "after entry {index}");
    let horizon = history.models[index].horizon;
    assert_eq!(machine.reader().horizon(), horizon, "what was compacted relied on no later one");
    for at in history.models[..=index].iter().map(|model| model.clock).filter(|at| *at >= horizon) {
        assert_eq!(rows_at(&machine, at), history.models[index].rows(at), "after entry {index}, at {at}");
    }
    for again in index + 1..=history.commands.len() {
        apply(&mut machine, history, again);
    }
    let last = history.commands.len();
    assert_eq!(rows(&machine), history.models[last].rows(history.models[last].clock));
    assert_eq!(machine.sessions(), &sessions[last]);
    index
}

/// Applies the whole log, with a flush after every entry in `flushed`. Returns the sessions after each entry.
fn run(engine: &Arc<dyn Engine>, history: &History, flushed: &[usize]) -> Vec<Sessions> {
    let mut machine = Machine::create(Arc::clone(engine), descriptor(), ReplicaId(1)).expect("creates");
    engine.flush().expect("flushes");
    let mut sessions = vec![machine.sessions().clone()];
    for index in 1..=history.commands.len() {
        apply(&mut machine, history, index);
        sessions.push(machine.sessions().clone());
        if flushed.contains(&index) {
            // A compaction begins with a flush.
            if index % 2 == 0 { engine.compact(b"", b"") } else { engine.flush() }.expect("flushes");
        }
    }
    sessions
}

fn options(memtable_bytes: usize) -> RocksOptions {
    RocksOptions { memtable_bytes, ..common::options() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn memory_keeps_a_prefix(plans in any_plans(30), flushed in prop::collection::vec(1..30usize, 0..3), coin: u64) {
        let history = history(&plans);
        let memory = MemoryEngine::new();
        let engine: Arc<dyn Engine> = memory.clone();
        let sessions = run(&engine, &history, &flushed);
        let unflushed = memory.unflushed();
        let lost = memory.crash(coin);
        let index = recover(engine, &history, &sessions);
        prop_assert!(lost <= unflushed);
        // Beside the entries' batches there are those that swept deletions after a compaction: they may be among the lost.
        let (lost_entries, swept) = (history.commands.len() - index, flushed.iter().any(|index| index % 2 == 0));
        prop_assert!(if swept { lost_entries <= lost } else { lost_entries == lost }, "{lost_entries} entries of {lost} batches");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn rocks_loses_exactly_what_was_not_flushed(plans in any_plans(20), flushed in prop::collection::vec(1..20usize, 0..3)) {
        let history = history(&plans);
        let dir = tempfile::tempdir().expect("a directory");
        let engine: Arc<dyn Engine> = common::open(dir.path());
        let sessions = run(&engine, &history, &flushed);
        drop(engine);
        let index = recover(common::open(dir.path()), &history, &sessions);
        prop_assert_eq!(index, flushed.into_iter().filter(|at| *at <= history.commands.len()).max().unwrap_or(0));
    }
}

/// Memtables so small that RocksDB flushes in the background, at times of its own: then more survives, but never half an entry.
#[test]
fn rocks_that_flushes_by_itself_keeps_whole_entries() {
    let value = Bytes::from(vec![b'v'; 4096]);
    let key = |number: u64| kontiki_types::key::internal(kontiki_types::NamespaceId::DEFAULT, format!("k{number:02}").as_bytes());
    let write = |number: u64| {
        let ops = (0..8).map(|part| kontiki_types::Op::Put { key: key((number + part) % 40), value: value.clone() }).collect();
        let epoch = descriptor().epoch;
        let write = kontiki_types::Write { epoch, request: None, conditions: vec![], ops };
        encoding::encode(&Command::Writes { stamp_ms: number, writes: vec![write] })
    };
    let mut survivors = Vec::new();
    for entries in [40u64, 70, 100] {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = RocksEngine::open(dir.path(), options(256 * 1024)).expect("opens");
        let mut machine = Machine::create(engine.clone(), descriptor(), ReplicaId(1)).expect("creates");
        engine.flush().expect("flushes");
        for index in 1..=entries {
            let command = write(index);
            machine.apply(&[Entry { index, position: b"p", membership: None, command: Some(&command) }]).expect("applies");
        }
        drop((machine, engine));
        let engine = RocksEngine::open(dir.path(), options(256 * 1024)).expect("opens");
        let machine = Machine::open(engine, descriptor().id).expect("opens").expect("is there");
        let survived = machine.applied_index();
        let clock = machine.reader().clock();
        // Entry n wrote 8 keys at ms n: the newest 8 rows are those of the last entry that survived, and none is newer.
        let newest = rows(&machine).iter().filter(|row| row.version == clock).count();
        assert_eq!((newest, clock.ms()), (if survived == 0 { 0 } else { 8 }, survived));
        assert!(rows(&machine).iter().all(|row| row.version <= clock));
        survivors.push(survived);
    }
    assert!(survivors.iter().any(|survived| *survived > 0), "background flushes happened: {survivors:?}");
}

/// A fault of the engine stops the machine; nothing of that apply is visible, and the disk is as it was.
#[test]
fn a_failed_write_stops_the_machine_and_changes_nothing() {
    let history = history(&[Plan::Open { stamp_ms: 5 }, Plan::Open { stamp_ms: 6 }]);
    let memory = MemoryEngine::new();
    let engine: Arc<dyn Engine> = memory.clone();
    let mut machine = Machine::create(Arc::clone(&engine), descriptor(), ReplicaId(1)).expect("creates");
    apply(&mut machine, &history, 1);
    let (reader, clock) = (machine.reader(), machine.reader().clock());

    memory.fail_next(std::io::ErrorKind::StorageFull);
    let command = encoding::encode(&history.commands[1]);
    let entry = Entry { index: 2, position: b"p", membership: None, command: Some(&command[..0]) };
    assert!(machine.apply(&[Entry { command: None, ..entry }]).expect_err("the disk is full").is_disk_full());
    assert!(machine.apply(&[Entry { command: None, ..entry }]).expect_err("for ever").is_disk_full());
    assert!(machine.fault().is_some_and(kontiki_types::Fault::is_disk_full));
    assert_eq!((reader.clock(), reader.applied_index()), (clock, 1));

    let mut machine = Machine::open(engine, descriptor().id).expect("opens").expect("is there");
    assert_eq!(machine.applied_index(), 1);
    apply(&mut machine, &history, 2);
}

/// The memory engine's disk is bounded: like a full memtable, its oldest batches become durable by themselves.
#[test]
fn memory_settles_what_is_too_much() {
    let memory = MemoryEngine::new();
    let mut batch = Batch::new();
    batch.put(b"key", &vec![0; 1024 * 1024]);
    for _ in 0..70 {
        memory.write(&batch).expect("writes");
    }
    assert!((60..65).contains(&memory.unflushed()), "{}", memory.unflushed());
    memory.crash(0);
    assert!(memory.get(b"key").expect("reads").is_some());
}
