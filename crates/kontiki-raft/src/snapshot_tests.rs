//! Replicas that are caught up by snapshots, over lines that break and lie, on nodes that crash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use kontiki_types::{Descriptor, KeyRange, NamespaceId, NodeId, PartitionId, ReadLevel, ReplicaId};
use parking_lot::Mutex;

use crate::codec::kind;
use crate::snapshot::wire::{Down, Totals, Up};
use crate::testing::cluster::{Cluster, PARTITION, TestNode, eventually, get, put, seen};
use crate::testing::copy_files;
use crate::type_config::Vote;
use crate::{Envelope, Group, LogRetention, SnapshotOptions};

const ROWS: u64 = 120;

fn eager() -> LogRetention {
    LogRetention { entries_per_group: 16, every_ms: 5, ..LogRetention::default() }
}

/// Many small chunks.
fn small() -> SnapshotOptions {
    SnapshotOptions { chunk_bytes: 256, progress_timeout_ms: 1000, ..SnapshotOptions::default() }
}

fn key(i: u64) -> String {
    format!("key-{i:05}")
}

/// A lone voter with some rows, and a second node that holds an empty replica which is to join.
async fn lone_and_joining() -> (Cluster, ReplicaId) {
    lone_and_joining_with(small()).await
}

async fn lone_and_joining_with(snapshots: SnapshotOptions) -> (Cluster, ReplicaId) {
    let mut cluster = Cluster::start_as(1, eager(), snapshots).await;
    let leader = cluster.leader().await;
    for i in 0..ROWS {
        leader.write(put(&key(i), &format!("value {i}"), None)).await.expect("writes");
    }
    let at = cluster.add_node(2).await;
    let replica = cluster.join(&leader, at).await;
    (cluster, replica)
}

/// Everything that was written is there, as of the leader's clock.
async fn holds_everything(cluster: &Cluster, group: &Group, rows: u64) {
    let now = cluster.leader().await.reader().clock();
    for i in 0..rows {
        let value = get(group, &seen(now), &key(i)).await.expect("reads");
        assert_eq!(value, Some(Bytes::from(format!("value {i}"))), "{}", key(i));
    }
}

/// What a snapshot's messages say, in passing.
fn peek(message: &Envelope) -> Up {
    Up::decode(&message.payload).expect("a message about a snapshot")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_from_one_to_three_voters_under_writes() {
    let (mut cluster, second) = lone_and_joining().await;
    let at = cluster.add_node(3).await;
    let leader = cluster.leader().await;
    let third = cluster.join(&leader, at).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = tokio::spawn({
        let (leader, stop) = (leader.clone(), stop.clone());
        async move {
            let mut written = ROWS;
            while !stop.is_cancelled() {
                leader.write(put(&key(written), &format!("value {written}"), None)).await.expect("writes go on");
                written += 1;
            }
            written
        }
    });
    for (replica, node) in [(second, NodeId(2)), (third, NodeId(3))] {
        cluster.add_learner(replica, node).await;
        cluster.caught_up(replica).await;
    }
    let add: BTreeSet<_> = [second, third].into();
    let voting = cluster
        .on_leader("the votes", async |leader| leader.change_voters(&add, &BTreeSet::new(), leader.membership().seen).await);
    voting.await;
    stop.cancel();
    let written = writer.await.expect("ran");
    for groups in cluster.groups.iter().flatten().skip(1) {
        assert!(groups.snapshot_stats().installed > 0, "a replica that was created empty begins with a snapshot");
    }
    let first = cluster.place_of(&leader);
    assert_eq!(first, 0);
    for group in cluster.running().collect::<Vec<_>>() {
        holds_everything(&cluster, &group, written).await;
    }
    // The replica that was alone dies; the two new ones have everything, and votes.
    drop(leader);
    cluster.crash_keeping(0, 0).await;
    let next = cluster.leader().await;
    assert_eq!(get(&next, &ReadLevel::Linearizable, &key(0)).await.expect("reads"), Some("value 0".into()));
    cluster.write("after", "it goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_for_too_long_is_caught_up() {
    let cluster = Cluster::start_as(3, eager(), small()).await;
    let leader = cluster.leader().await;
    let away = cluster.running().find(|group| group.replica() != leader.replica()).expect("a follower");
    let at = cluster.place_of(&away);
    let node = cluster.nodes[at].id;
    cluster.wires.cut(node, true);
    for i in 0..ROWS {
        leader.write(put(&key(i), &format!("value {i}"), None)).await.expect("two are enough");
    }
    eventually("its entries are gone", async || leader.membership().trimmed && leader.transfer_begins_after(&away)).await;
    cluster.wires.cut(node, false);
    eventually("it catches up", async || away.reader().clock() >= leader.reader().clock()).await;
    holds_everything(&cluster, &away, ROWS).await;
    assert!(cluster.groups(at).snapshot_stats().installed >= 1);
    cluster.write("k", "v").await;
}

impl Group {
    /// Whether the log here begins after what the other has.
    fn transfer_begins_after(&self, other: &Group) -> bool {
        use openraft::async_runtime::watch::WatchReceiver;
        let purged = self.raft().metrics().borrow_watched().purged.map_or(0, |id| id.index);
        purged > other.status().last_next
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_breaks_is_taken_up_where_it_broke() {
    let (cluster, replica) = lone_and_joining().await;
    let (chunks, whole) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Totals::default())));
    let (counted, told) = (chunks.clone(), whole.clone());
    cluster.wires.tamper(move |message| {
        match peek(&message) {
            Up::Chunk { .. } => {
                // Every seventh chunk meets a line that breaks.
                if counted.fetch_add(1, Ordering::SeqCst) % 7 == 6 {
                    return vec![None];
                }
            }
            Up::Finish { totals } => *told.lock() = totals,
            Up::Offer { .. } => {}
        }
        vec![Some(message)]
    });
    cluster.add_learner(replica, NodeId(2)).await;
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
    let (total, stats) = (whole.lock().chunks, cluster.groups(1).snapshot_stats());
    assert!(total > 20, "a transfer of many chunks: {total}");
    assert_eq!(stats.received_chunks, total, "each chunk was staged once: it never began again");
    assert!(stats.failed > 2, "{stats:?}");
    let breaks = cluster.groups(0).snapshot_stats().failed;
    assert!(chunks.load(Ordering::SeqCst) <= total + breaks * 4, "at most a window of chunks is sent again after each break");
    assert_eq!(cluster.group(0).outgoing().floor(), None, "the view is let go when it is done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_were_changed_repeated_exchanged_or_cut_do_no_harm() {
    let (cluster, replica) = lone_and_joining().await;
    let seen_chunks = Arc::new(AtomicU64::new(0));
    let counted = seen_chunks.clone();
    let mut held_back = None;
    cluster.wires.tamper(move |mut message| {
        let Up::Chunk { number, from, to, crc } = peek(&message) else { return vec![Some(message)] };
        let rows = message.attachments[0].clone();
        match counted.fetch_add(1, Ordering::SeqCst) {
            // A bit is flipped.
            1 => {
                let mut changed = rows.to_vec();
                changed[9] ^= 1;
                message.attachments = vec![changed.into()];
            }
            // It comes twice.
            4 => return vec![Some(message.clone()), Some(message)],
            // It comes after the next one.
            7 => {
                held_back = Some(message);
                return vec![];
            }
            8 => return vec![Some(message), held_back.take()],
            // Its end is missing, and the sum was made to fit.
            12 => {
                let rows = rows.slice(..rows.len() - 3);
                let crc = crate::snapshot::wire::chunk_crc(number, &from, &to, &rows);
                message.payload = Up::Chunk { number, from, to, crc }.encode();
                message.attachments = vec![rows];
            }
            // It is said to cover more than it does.
            16 => {
                let to = Bytes::from_static(&[0xff]);
                let crc = crate::snapshot::wire::chunk_crc(number, &from, &to, &rows);
                message.payload = Up::Chunk { number, from, to, crc }.encode();
            }
            _ => {
                let _ = crc;
            }
        }
        vec![Some(message)]
    });
    cluster.add_learner(replica, NodeId(2)).await;
    cluster.caught_up(replica).await;
    assert!(seen_chunks.load(Ordering::SeqCst) > 16, "all of them happened");
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
    assert!(cluster.groups(1).snapshot_stats().failed >= 4, "{:?}", cluster.groups(1).snapshot_stats());
    assert!(cluster.running().all(|group| group.status().fault.is_none()), "nobody was harmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_never_more_than_a_window_ahead() {
    let (cluster, replica) = lone_and_joining().await;
    let chunks = Arc::new(AtomicU64::new(0));
    let counted = chunks.clone();
    // Nothing arrives, and nobody says so.
    cluster.wires.tamper(move |message| match peek(&message) {
        Up::Chunk { .. } => {
            counted.fetch_add(1, Ordering::SeqCst);
            vec![]
        }
        _ => vec![Some(message)],
    });
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("the attempt is given up", async || cluster.groups(0).snapshot_stats().failed > 0).await;
    assert_eq!(chunks.load(Ordering::SeqCst), 4);
    cluster.wires.tamper(|message| vec![Some(message)]);
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_the_receiver_costs_the_attempt_and_nothing_else() {
    let (cluster, replica) = lone_and_joining().await;
    cluster.nodes[1].full.store(true, Ordering::SeqCst);
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("it is refused", async || cluster.groups(0).snapshot_stats().failed > 1).await;
    assert!(cluster.group(1).status().fault.is_none() && cluster.groups(1).fault().is_none(), "the node lives");
    assert!(cluster.group(1).incoming().staged.lock().await.is_none(), "what was staged gave its room back");
    cluster.nodes[1].full.store(false, Ordering::SeqCst);
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_end_of_a_transfer_is_found_before_anything_is_replaced() {
    let (cluster, replica) = lone_and_joining().await;
    let (engine, finished) = (cluster.nodes[1].engine.clone(), Arc::new(AtomicU64::new(0)));
    let ends = finished.clone();
    cluster.wires.tamper(move |message| {
        // The first time that everything is there, the flush before the installation meets a full disk.
        if matches!(peek(&message), Up::Finish { .. }) && ends.fetch_add(1, Ordering::SeqCst) == 0 {
            engine.fail_next(std::io::ErrorKind::StorageFull);
        }
        vec![Some(message)]
    });
    cluster.add_learner(replica, NodeId(2)).await;
    cluster.caught_up(replica).await;
    assert!(finished.load(Ordering::SeqCst) > 1 && cluster.groups(0).snapshot_stats().failed > 0, "it was refused once");
    assert!(cluster.group(1).stopped_by_disk().is_none(), "the replica was not harmed");
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_installation_failed_is_opened_again_and_gets_it() {
    let (cluster, replica) = lone_and_joining().await;
    cluster.nodes[1].uninstallable.store(true, Ordering::SeqCst);
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("it fails", async || cluster.group(1).stopped_by_disk().is_some()).await;
    eventually("the status says why", async || {
        cluster.group(1).status().fault.is_some_and(|why| why.contains("installing rows"))
    })
    .await;
    cluster.write("k", "the other one goes on").await;
    cluster.nodes[1].uninstallable.store(false, Ordering::SeqCst);
    eventually("it is open again", async || !cluster.groups(1).reopen_stopped().await.is_empty()).await;
    assert!(cluster.group(1).status().fault.is_none());
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_goes_on_failing_keeps_nobody_else_waiting() {
    let (mut cluster, full) = lone_and_joining().await;
    cluster.nodes[1].full.store(true, Ordering::SeqCst);
    cluster.add_learner(full, NodeId(2)).await;
    eventually("it accepts and fails", async || cluster.groups(0).snapshot_stats().failed > 1).await;
    // Another replica joins meanwhile, under a newer descriptor: the older view is none for it.
    let at = cluster.add_node(3).await;
    let third = cluster.join(&cluster.leader().await, at).await;
    cluster.add_learner(third, NodeId(3)).await;
    cluster.caught_up(third).await;
    holds_everything(&cluster, &cluster.group(at), ROWS).await;
    assert!(cluster.nodes[1].full.load(Ordering::SeqCst) && cluster.groups(1).snapshot_stats().installed == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_brings_nobody_further_is_let_go() {
    // Longer than the longest pause between two attempts: else it would be let go between them.
    let snapshots = SnapshotOptions { resume_within_ms: 4000, ..small() };
    let (cluster, replica) = lone_and_joining_with(snapshots).await;
    cluster.nodes[1].full.store(true, Ordering::SeqCst);
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("a view is held", async || cluster.group(0).outgoing().floor().is_some()).await;
    let first = cluster.group(0).outgoing().floor().expect("held");
    cluster.write("k", "v").await;
    // The receiver is asked all the while, accepts, and fails. What was written since is in the next view.
    eventually("a newer view is held", async || cluster.group(0).outgoing().floor().is_some_and(|floor| floor > first)).await;
}

/// Everything that a sender says in one transfer, in order, up to the end, which did not arrive.
async fn caught_transfer(cluster: &Cluster, replica: ReplicaId) -> (Envelope, Envelope) {
    let (offered, finished) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (offers, ends) = (offered.clone(), finished.clone());
    cluster.wires.tamper(move |message| match peek(&message) {
        Up::Offer { .. } => {
            offers.lock().get_or_insert_with(|| message.clone());
            vec![Some(message)]
        }
        Up::Finish { .. } => {
            ends.lock().get_or_insert(message);
            vec![None]
        }
        Up::Chunk { .. } => vec![Some(message)],
    });
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("all but the end has come", async || finished.lock().is_some()).await;
    cluster.wires.cut(NodeId(2), true);
    (offered.lock().clone().expect("offered"), finished.lock().clone().expect("ended"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_for_a_replica_that_was_moved_away_meanwhile_changes_nothing() {
    let (cluster, replica) = lone_and_joining().await;
    let (offer, end) = caught_transfer(&cluster, replica).await;
    // The line is taken up where it broke, with everything there; before the end comes, the replica is removed.
    let (lines, messages) = tokio::sync::mpsc::channel(4);
    let messages =
        futures::stream::unfold(messages, |mut messages| async move { messages.recv().await.map(|one| (one, messages)) });
    let mut answers = cluster.groups(1).receive_snapshot(messages.boxed());
    lines.send(offer.clone()).await.expect("listens");
    let accepted = answers.next().await.expect("an answer").expect("accepted");
    assert!(matches!(Down::decode(&accepted.payload), Ok(Down::Accept { next, .. }) if next > 0));
    cluster.groups(1).destroy(PARTITION, replica).await.expect("removed");
    lines.send(end).await.expect("listens");
    while let Some(answer) = answers.next().await {
        let installed = answer.is_ok_and(|answer| matches!(Down::decode(&answer.payload), Ok(Down::Installed { .. })));
        assert!(!installed, "there is nothing that it could be installed in");
    }
    let engine = cluster.nodes[1].engine.clone();
    assert!(kontiki_storage::machine::Machine::open(engine, PARTITION).expect("readable").is_none(), "nothing of it came back");
    // Offered once more it is refused by name, also when a newer replica of the partition lives here.
    let refusal = async || {
        let mut answers = cluster.groups(1).receive_snapshot(futures::stream::iter([offer.clone()]).boxed());
        answers.next().await.expect("an answer").expect_err("refused").to_string()
    };
    let why = refusal().await;
    assert!(why.contains("was removed from n2"), "{why}");
    cluster.wires.tamper(|message| vec![Some(message)]);
    cluster.wires.cut(NodeId(2), false);
    cluster.on_leader("the removal", async |leader| leader.remove_nodes(&[replica].into(), leader.membership().seen).await).await;
    let next = cluster.join(&cluster.leader().await, 1).await;
    let why = refusal().await;
    assert!(why.contains(&format!("meant for replica {replica}, n2 holds {next}")), "{why}");
    cluster.add_learner(next, NodeId(2)).await;
    cluster.caught_up(next).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_crashes_at_any_step_is_caught_up_in_the_end() {
    let (mut cluster, replica) = lone_and_joining().await;
    let (messages, crash_at) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (counted, at) = (messages.clone(), crash_at.clone());
    let finished = Arc::new(AtomicU64::new(0));
    let ends = finished.clone();
    cluster.wires.tamper(move |message| {
        if matches!(peek(&message), Up::Finish { .. }) {
            ends.fetch_add(1, Ordering::SeqCst);
        }
        let number = counted.fetch_add(1, Ordering::SeqCst);
        if number == at.load(Ordering::SeqCst) { vec![None] } else { vec![Some(message)] }
    });
    cluster.add_learner(replica, NodeId(2)).await;
    // At the offer, at the first chunks, in the middle; each time it comes back with nothing of it, and the transfer begins again.
    for step in [0, 1, 2, 5, 11, 23] {
        crash_at.store(messages.load(Ordering::SeqCst) + step, Ordering::SeqCst);
        eventually("that step", async || messages.load(Ordering::SeqCst) > crash_at.load(Ordering::SeqCst)).await;
        cluster.crash_keeping(1, step).await;
        cluster.open(1).await;
        let group = cluster.group(1);
        assert!(group.places().applied().0.is_none() || finished.load(Ordering::SeqCst) > 0, "the old state or the new one");
    }
    crash_at.store(u64::MAX, Ordering::SeqCst);
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
    // After the installation too, and with nothing flushed since: the floor says that the log may begin there.
    cluster.crash_keeping(1, 0).await;
    cluster.open(1).await;
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_installation_and_the_logs_purge_is_repaired() {
    let (mut cluster, replica) = lone_and_joining().await;
    // The log as it was before the snapshot came.
    cluster.stop(1).await;
    let before = TestNode::new(2);
    copy_files(cluster.nodes[1].dir.path(), before.dir.path());
    cluster.open(1).await;
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("it is installed", async || cluster.groups(1).snapshot_stats().installed > 0).await;
    // Cut off at once, with what the snapshot alone has left in the engine: its flush was part of the installation.
    cluster.wires.cut(NodeId(2), true);
    cluster.crash_keeping(1, 0).await;
    let floor =
        kontiki_storage::machine::Machine::open(cluster.nodes[1].engine.clone(), PARTITION).expect("opens").expect("there");
    assert_eq!(floor.floor(), Some(floor.applied_index()), "nothing was flushed since");
    drop(floor);
    cluster.nodes[1].dir = before.dir;
    cluster.open(1).await;
    cluster.wires.cut(NodeId(2), false);
    cluster.caught_up(replica).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
    assert!(cluster.group(1).status().fault.is_none());
}

/// Catches the offer of a snapshot on its way, and gives it to whoever asks.
async fn caught_offer(cluster: &Cluster, replica: ReplicaId) -> Envelope {
    let caught = Arc::new(Mutex::new(None));
    let keep = caught.clone();
    cluster.wires.tamper(move |message| {
        if matches!(peek(&message), Up::Offer { .. }) {
            *keep.lock() = Some(message);
        }
        vec![None]
    });
    cluster.add_learner(replica, NodeId(2)).await;
    eventually("an offer", async || caught.lock().is_some()).await;
    caught.lock().clone().expect("caught")
}

async fn answer_to(cluster: &Cluster, message: Envelope) -> Down {
    let mut answers = cluster.groups(1).receive_snapshot(futures::stream::iter([message]).boxed());
    let answer = answers.next().await.expect("an answer").expect("not refused as a message");
    assert_eq!(answer.kind, kind::SNAPSHOT_REPLY);
    Down::decode(&answer.payload).expect("readable")
}

fn changed(message: &Envelope, change: impl FnOnce(&mut Vote, &mut kontiki_storage::machine::Header)) -> Envelope {
    let Up::Offer { id, mut vote, last, membership, header, anew } = peek(message) else { panic!("an offer") };
    let mut header = kontiki_storage::machine::Header::decode(&header).expect("readable");
    change(&mut vote, &mut header);
    let offer = Up::Offer { id, vote, last, membership, header: header.encode().into(), anew };
    Envelope { payload: offer.encode(), ..message.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_does_not_want_it_refuses_by_name() {
    let (cluster, replica) = lone_and_joining().await;
    let offer = caught_offer(&cluster, replica).await;
    assert!(matches!(answer_to(&cluster, offer.clone()).await, Down::Accept { next: 0, .. }), "as it is, it is wanted");
    let refused = async |message: Envelope| match answer_to(&cluster, message).await {
        Down::Refused { why } => why,
        other => panic!("not refused: {other:?}"),
    };
    let why = refused(changed(&offer, |_, header| header.descriptor.epoch.conf -= 1)).await;
    assert!(why.contains("its epoch is"), "{why}");
    let why = refused(changed(&offer, |_, header| header.applied_index += 1)).await;
    assert!(why.contains("its header says otherwise"), "{why}");
    let why = refused(changed(&offer, |vote, _| vote.committed = false)).await;
    assert!(why.contains("cannot know"), "{why}");
    let other = PartitionId(9);
    let why = refused(changed(&offer, |_, header| header.descriptor.id = other)).await;
    assert!(why.contains("it is of p9"), "{why}");
    // Another partition here holds a part of the range.
    let elsewhere = Descriptor::new(other, KeyRange::namespace(NamespaceId(9)), &[NodeId(2)]);
    cluster.groups(1).create(elsewhere).await.expect("beside it");
    let why = refused(changed(&offer, |_, header| header.descriptor.range = KeyRange::all())).await;
    assert!(why.contains("overlaps that of p9"), "{why}");
    let cut = Envelope { payload: offer.payload.slice(..offer.payload.len() - 3), ..offer.clone() };
    let mut answers = cluster.groups(1).receive_snapshot(futures::stream::iter([cut]).boxed());
    assert!(answers.next().await.expect("an answer").is_err(), "an offer that does not parse");
    let stranger = Envelope { to_replica: ReplicaId(99), ..offer.clone() };
    let mut answers = cluster.groups(1).receive_snapshot(futures::stream::iter([stranger]).boxed());
    assert!(answers.next().await.expect("an answer").is_err(), "for another replica");
    // A leader that was replaced: the receiver has heard of a newer one.
    let older = changed(&offer, |vote, _| vote.leader_id.term = 0);
    let knows = async || matches!(answer_to(&cluster, older.clone()).await, Down::HigherVote { vote } if vote.leader_id.term > 0);
    eventually("it knows of the newer leader", knows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_leaves_nothing_but_its_tombstone() {
    let (mut cluster, replica) = lone_and_joining().await;
    cluster.add_learner(replica, NodeId(2)).await;
    cluster.caught_up(replica).await;
    cluster.on_leader("the removal", async |leader| leader.remove_nodes(&[replica].into(), leader.membership().seen).await).await;
    let error = cluster.groups(1).destroy(PARTITION, ReplicaId(77)).await.expect_err("another one is here");
    assert!(error.to_string().contains("holds replica"), "{error}");
    let descriptor = cluster.group(1).descriptor().as_ref().clone();
    cluster.groups(1).destroy(PARTITION, replica).await.expect("removed");
    cluster.groups(1).destroy(PARTITION, replica).await.expect("once more does nothing");
    assert!(cluster.groups(1).get(PARTITION).is_none());
    assert!(cluster.groups(1).log_reader().footprint(PARTITION).is_none(), "the log has forgotten it");
    let error = cluster.groups(1).create_empty(descriptor.clone(), replica).await.err().expect("never again");
    assert!(error.to_string().contains("was removed"), "{error}");
    let late = cluster.group(0).raft().clone();
    drop(late);
    let message = Envelope { kind: kind::VOTE, ..crate::cluster_tests::envelope(NodeId(1), ReplicaId(1), NodeId(2), replica) };
    let refused = cluster.groups(1).receive(message).await.expect_err("refused");
    let removed = crate::Refusal::RemovedReplica;
    assert!(matches!(refused, crate::TransportError::Rejected { refusal, .. } if refusal == removed), "{refused}");
    // A newer replica of the same partition is welcome, also after a restart.
    cluster.stop(1).await;
    cluster.open(1).await;
    assert!(cluster.groups(1).get(PARTITION).is_none());
    let next = ReplicaId(replica.0 + 1);
    cluster.groups(1).create_empty(descriptor, next).await.expect("a newer one");
    cluster.add_learner(next, NodeId(2)).await;
    cluster.caught_up(next).await;
    holds_everything(&cluster, &cluster.group(1), ROWS).await;
}
