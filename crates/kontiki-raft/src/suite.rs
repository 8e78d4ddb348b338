//! openraft's own conformance suite, on the real log (real files, real fsync) and the real state machine.

use std::sync::Arc;

use bytes::Bytes;
use kontiki_storage::disk::FileDisk;
use kontiki_storage::engine::{Engine, MemoryEngine};
use kontiki_storage::log::{Log, LogOptions};
use kontiki_storage::machine::Machine;
use kontiki_types::{Descriptor, KeyRange, NodeId, PartitionId, ReplicaId, StoreId};
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use crate::flush::{FlushBarrier, Places};
use crate::log_queue::log_queue;
use crate::log_store::GroupLog;
use crate::state_machine::{Parts, StateMachine, place};
use crate::testing::Threads;
use crate::type_config::{Entry, LeaderId, LogId, Payload, TypeConfig, Vote};

const GROUP: PartitionId = PartitionId(2);

struct Builder;

fn open(dir: &TempDir) -> (GroupLog, StateMachine) {
    let disk = Arc::new(FileDisk::open(dir.path()).expect("a directory"));
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() };
    let (log, recovered) = Log::open(disk, StoreId::default(), options).expect("opens");
    let reader = log.reader();
    let (queue, writer, _spares) = log_queue(log);
    let exec = Arc::new(Threads);
    crate::Exec::spawn_log_writer(exec.as_ref(), writer).expect("a thread");
    let group_log = GroupLog::open(GROUP, queue, reader, recovered.groups.get(&GROUP)).expect("opens");
    let engine: Arc<dyn Engine> = MemoryEngine::new();
    let descriptor = Descriptor::new(GROUP, KeyRange::all(), &[NodeId(1)]);
    let machine = Machine::create(engine.clone(), descriptor, ReplicaId(1)).expect("creates");
    let parts = Parts {
        places: Places::new(place(&machine).expect("readable")),
        flush: Arc::new(FlushBarrier::new(engine.clone(), exec.clone())),
        machine,
        partition: GROUP,
        engine,
        exec,
        log: group_log.clone(),
        outgoing: Arc::default(),
        replicas: Arc::default(),
        start: 1,
        effects: Arc::new(|_, _| {}),
    };
    (group_log, StateMachine::new(parts).0)
}

impl StoreBuilder<TypeConfig, GroupLog, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, GroupLog, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let (log, machine) = open(&dir);
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_suite_passes_on_the_real_log() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn entry(term: u64, index: u64, body: &str) -> Entry {
    Entry::new(log_id(term, index), openraft::EntryPayload::Normal(Payload(Bytes::copy_from_slice(body.as_bytes()))))
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>) {
    let (done, flushed) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(done)).await.expect("appends");
    flushed.await.expect("answered").expect("flushed");
}

#[tokio::test]
async fn a_reopened_log_has_its_entries_vote_and_purge_point() {
    let dir = tempfile::tempdir().expect("a directory");
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true };
    {
        let (mut log, _machine) = open(&dir);
        append(&mut log, (0..10).map(|index| entry(1, index, "one")).collect()).await;
        log.truncate_after(Some(log_id(1, 6))).await.expect("truncates");
        append(&mut log, vec![entry(3, 7, "three"), entry(3, 8, "three")]).await;
        log.purge(log_id(1, 2)).await.expect("purges");
        log.save_committed(Some(log_id(3, 7))).await.expect("kept for the next record");
        log.save_vote(&vote).await.expect("saved");
    }
    let (mut log, _machine) = open(&dir);
    let state = log.get_log_state().await.expect("a state");
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 2)));
    assert_eq!(state.last_log_id, Some(log_id(3, 8)));
    assert_eq!(log.read_vote().await.expect("a vote"), Some(vote));
    assert_eq!(log.read_committed().await.expect("a commit point"), Some(log_id(3, 7)));
    let entries = log.try_get_log_entries(3..9).await.expect("entries");
    let terms: Vec<u64> = entries.iter().map(|entry| entry.log_id.leader_id.term).collect();
    assert_eq!(terms, [1, 1, 1, 1, 3, 3]);
    append(&mut log, vec![entry(3, 9, "after")]).await;
    assert_eq!(log.try_get_log_entries(8..10).await.expect("one from disk, one from memory").len(), 2);
}

#[tokio::test]
async fn a_failed_fsync_fails_every_append_and_vote_from_then_on() {
    use kontiki_storage::disk::SimulatedDisk;
    let disk = Arc::new(SimulatedDisk::new(7));
    let (log, _) = Log::open(disk.clone(), StoreId::default(), LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() })
        .expect("opens");
    let reader = log.reader();
    let (queue, writer, _spares) = log_queue(log);
    crate::Exec::spawn_log_writer(&Threads, writer).expect("a thread");
    let mut log = GroupLog::open(GROUP, queue.clone(), reader, None).expect("opens");
    append(&mut log, vec![entry(1, 0, "kept")]).await;
    disk.fail_next_sync();
    let (done, flushed) = TypeConfig::oneshot();
    log.append(vec![entry(1, 1, "lost")], IOFlushed::signal(done)).await.expect("queued");
    flushed.await.expect("answered").expect_err("the fsync failed");
    assert!(log.wait_durable(1).await.is_err(), "and is never applied here");
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: false };
    log.save_vote(&vote).await.expect_err("the log is poisoned, although the disk works again");
    assert!(queue.fault().is_some());
}

#[tokio::test]
async fn after_a_full_disk_nothing_is_reported_durable_even_when_there_is_room_again() {
    use kontiki_storage::disk::SimulatedDisk;
    let disk = Arc::new(SimulatedDisk::new(7));
    let (log, _) = Log::open(disk.clone(), StoreId::default(), LogOptions { segment_bytes: 1 << 20, ..LogOptions::default() })
        .expect("opens");
    let reader = log.reader();
    let (queue, writer, _spares) = log_queue(log);
    crate::Exec::spawn_log_writer(&Threads, writer).expect("a thread");
    let mut log = GroupLog::open(GROUP, queue.clone(), reader.clone(), None).expect("opens");
    let mut other = GroupLog::open(PartitionId(GROUP.0 + 1), queue.clone(), reader, None).expect("opens");
    let large = "x".repeat(600 * 1024);
    append(&mut log, vec![entry(1, 0, &large)]).await;
    disk.full(Some(disk.used_bytes()));
    let (done, flushed) = TypeConfig::oneshot();
    log.append(vec![entry(1, 1, &large)], IOFlushed::signal(done)).await.expect("queued");
    flushed.await.expect("answered").expect_err("the disk is full");
    disk.full(None);
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: false };
    other.save_vote(&vote).await.expect_err("the log has ended, for every group");
    assert!(log.wait_durable(1).await.is_err(), "what was refused is not durable because something later is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_behind_a_purge_gets_nothing_rather_than_a_gap() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut log, _machine) = open(&dir);
    append(&mut log, (1..=9).map(|index| entry(1, index, "entry")).collect()).await;
    log.purge(log_id(1, 5)).await.expect("purges");
    let stream = log.limited_get_log_entries(3, 10).await.expect("reads");
    assert!(stream.is_empty(), "entries from {:?} on would be taken for those from 3 on", stream.first());
    assert_eq!(log.limited_get_log_entries(6, 10).await.expect("reads").len(), 4);
    let tolerant = log.try_get_log_entries(3..10).await.expect("reads");
    assert_eq!(tolerant.first().map(|first| first.log_id.index), Some(6), "others are told what is left");
}
