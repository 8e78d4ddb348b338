//! Three nodes in one process, with the real log, the real state machine and openraft between them.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use kontiki_types::partition::Incarnation;
use kontiki_types::{
    CallError, ClusterId, Descriptor, KeyRange, NodeId, PartitionId, Read, ReadLevel, Reject, ReplicaId, RequestId, Retry,
    StoreId, Token, Version,
};

use crate::codec;
use crate::testing::Wires;
use crate::testing::cluster::{Cluster, PARTITION, TestNode, WAIT, config, eventually, get, put, seen};
use crate::type_config::{AppendRequest, LeaderId, Vote};
use crate::{Envelope, Group, Groups, TransportError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_read_everywhere_at_their_level() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let written = leader.write(put("k", "v", None)).await.expect("writes");
    assert_eq!(get(&leader, &ReadLevel::Linearizable, "k").await.expect("reads"), Some("v".into()));
    let mut token = Token::default();
    token.observe(PARTITION, written.version);
    for group in cluster.running() {
        assert_eq!(get(&group, &ReadLevel::AtLeast(token.clone()), "k").await.expect("reads"), Some("v".into()));
        if !group.is_leader() {
            let error = get(&group, &ReadLevel::Linearizable, "k").await.expect_err("only the leader");
            assert!(matches!(error, CallError::Retry(Retry::NotLeader { leader: Some(_), .. })), "{error:?}");
            let error = group.write(put("k", "w", None)).await.expect_err("only the leader");
            assert!(matches!(error, CallError::Retry(Retry::NotLeader { .. })), "{error:?}");
        }
    }
    let snapshot = ReadLevel::Snapshot(written.version);
    leader.write(put("k", "later", None)).await.expect("writes");
    assert_eq!(get(&leader, &snapshot, "k").await.expect("reads"), Some("v".into()));
    // Nothing comes by waiting: whoever asks has to move the clock first, and is told so before its time is over.
    let ahead = Version(written.version.0 + (1_000 << 16));
    for group in cluster.running() {
        let error = get(&group, &ReadLevel::Snapshot(ahead), "k").await.expect_err("nobody has moved the clock");
        assert!(matches!(error, CallError::Reject(Reject::VersionInFuture { .. })), "{error:?}");
    }
    leader.advance_clock(ahead).await.expect("moves");
    for group in cluster.running() {
        assert_eq!(get(&group, &ReadLevel::Snapshot(ahead), "k").await.expect("reads"), Some("later".into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_are_packed_into_few_entries() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let before = leader.status().last_next;
    let writes = (0..500).map(|i| {
        let leader = leader.clone();
        tokio::spawn(async move { leader.write(put(&format!("k{i}"), "v", None)).await })
    });
    for write in futures::future::join_all(writes).await {
        write.expect("ran").expect("writes");
    }
    let entries = leader.status().last_next - before;
    assert!(entries < 250, "500 writes took {entries} entries");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_fail_over_gets_the_first_reply() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let session = leader.open_session().await.expect("opens");
    let request = RequestId { session, sequence: 1, acknowledged_below: 1 };
    let first = leader.write(put("k", "v", Some(request))).await.expect("writes");
    let at = cluster.nodes.iter().position(|node| Some(node.id) == leader.leader()).expect("known");
    cluster.crash(at).await;
    let next = cluster.leader().await;
    let again = next.write(put("k", "v", Some(request))).await.expect("answers");
    assert_eq!(again, first, "the first reply, not a second execution");
    cluster.open(at).await;
    let back = cluster.group(at);
    let mut token = Token::default();
    token.observe(PARTITION, next.write(put("x", "y", None)).await.expect("writes").version);
    assert_eq!(get(&back, &ReadLevel::AtLeast(token), "k").await.expect("caught up"), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_survives_a_crash_of_all_nodes() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for i in 0..50 {
        leader.write(put(&format!("k{i}"), "v", None)).await.expect("writes");
    }
    drop(leader);
    for at in 0..3 {
        cluster.crash(at).await;
    }
    for at in 0..3 {
        cluster.open(at).await;
    }
    let leader = cluster.leader().await;
    for i in 0..50 {
        assert_eq!(get(&leader, &ReadLevel::Linearizable, &format!("k{i}")).await.expect("reads"), Some("v".into()), "k{i}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_serves_no_linearizable_read() {
    let cluster = Cluster::start().await;
    let old = cluster.leader().await;
    old.write(put("k", "old", None)).await.expect("writes");
    let node = old.leader().expect("known");
    cluster.wires.cut(node, true);
    let others: Vec<Group> = cluster.running().filter(|group| group.replica() != old.replica()).collect();
    let mut watch = others[0].leadership();
    let new = tokio::time::timeout(WAIT, watch.wait_for(|leader| leader.is_some_and(|leader| leader != node))).await;
    let new = new.expect("in time").expect("open").expect("a leader");
    let new = others.iter().find(|group| cluster.nodes[cluster.place_of(group)].id == new).expect("one of the others");
    // A new leader takes no write before a majority has answered it once.
    let confirmed = new.read(&ReadLevel::Linearizable, &Read::Clock, WAIT).await;
    confirmed.expect("confirmed");
    new.write(put("k", "new", None)).await.expect("writes");
    assert!(get(&old, &ReadLevel::Linearizable, "k").await.is_err(), "the old leader must not answer");
    let stale = ReadLevel::BoundedStale { age_ms_max: 600_000 };
    assert_eq!(get(&old, &stale, "k").await.expect("answers in a minority"), Some("old".into()));
    assert!(get(&old, &ReadLevel::BoundedStale { age_ms_max: 0 }, "k").await.is_err(), "but not beyond its bound");
    cluster.wires.cut(node, false);
    let mut token = Token::default();
    token.observe(PARTITION, new.reader().clock());
    assert_eq!(get(&old, &ReadLevel::AtLeast(token), "k").await.expect("healed"), Some("new".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leader_does_not_make_a_follower_look_fresh() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    leader.write(put("k", "v", None)).await.expect("writes");
    let (from, from_replica) = (leader.leader().expect("known"), leader.replica());
    let at = cluster.nodes.iter().position(|node| node.id != from).expect("a follower");
    let (groups, follower) = (cluster.groups[at].as_ref().expect("running"), cluster.group(at));
    cluster.wires.cut(groups.node(), true);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let request = AppendRequest {
        vote: Vote { leader_id: LeaderId { term: 0, node_id: from_replica.0 }, committed: true },
        prev_log_id: None,
        entries: vec![],
        leader_commit: None,
    };
    let (payload, attachments) = codec::encode_append(&request);
    let message = envelope(from, from_replica, groups.node(), follower.replica());
    let message = Envelope { kind: codec::kind::APPEND, payload, attachments, ..message };
    groups.receive(message.clone()).await.expect("answered: it leads no longer");
    let answers: Vec<_> = groups.receive_stream(futures::stream::iter([message]).boxed()).collect().await;
    assert_eq!(answers.len(), 1, "the same, by stream");
    let bound = ReadLevel::BoundedStale { age_ms_max: 300 };
    let error = get(&follower, &bound, "k").await.expect_err("nothing was heard from who leads for 400 ms");
    assert!(error.to_string().contains("ms old"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_core_panicked_says_so_and_leads_no_more() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let planted = leader.raft().with_raft_state(|_| panic!("planted")).await;
    planted.expect_err("the core is gone");
    let mut leadership = leader.leadership();
    let unled = tokio::time::timeout(WAIT, leadership.wait_for(Option::is_none)).await;
    assert!(unled.is_ok(), "it must not go on saying who leads");
    let ended = async {
        while leader.status().fault.is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, ended).await.expect("it names its fault");
    let error = leader.write(put("k", "v", None)).await.expect_err("it does not lead");
    assert!(matches!(error, CallError::Retry(Retry::NotLeader { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    leader.write(put("k", "v", None)).await.expect("writes");
    let to = cluster.nodes.iter().map(|node| node.id).find(|node| Some(*node) != leader.leader()).expect("another");
    leader.transfer_leader(to).await.expect("hands over");
    let now = cluster.leader().await;
    assert_eq!(now.leader(), Some(to));
    let error = now.transfer_leader(NodeId(9)).await.expect_err("no such replica");
    assert!(error.to_string().contains("n9 holds no voting replica"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_moves_only_so_far_ahead() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let to = Version::from_ms(1_700_000_001_000);
    assert!(leader.advance_clock(to).await.expect("advances") >= to);
    let error = leader.advance_clock(Version::MAX).await.expect_err("absurd");
    assert!(error.to_string().contains("lies in the future"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_lone_voter_is_never_stale() {
    let node = TestNode::new(1);
    let groups = Groups::open(config(&node, &Wires::default())).await.expect("opens");
    let lone = groups.create(Descriptor::new(PARTITION, KeyRange::all(), &[NodeId(1)])).await.expect("creates");
    lone.initialize().await.expect("initialises");
    tokio::time::timeout(WAIT, lone.leadership().wait_for(Option::is_some)).await.expect("in time").expect("runs");
    lone.write(put("k", "v", None)).await.expect("writes");
    // Time must pass in which nothing happens: that is what used to make it look old.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let bound = ReadLevel::BoundedStale { age_ms_max: 0 };
    assert_eq!(get(&lone, &bound, "k").await.expect("reads"), Some("v".into()));
    groups.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_what_was_applied_is_refused() {
    let node = TestNode::new(1);
    let groups = Groups::open(config(&node, &Wires::default())).await.expect("opens");
    let lone = groups.create(Descriptor::new(PARTITION, KeyRange::all(), &[NodeId(1)])).await.expect("creates");
    lone.initialize().await.expect("initialises");
    tokio::time::timeout(WAIT, lone.leadership().wait_for(Option::is_some)).await.expect("in time").expect("runs");
    lone.write(put("k", "v", None)).await.expect("writes");
    groups.flush().await.expect("flushes");
    groups.shutdown().await;
    // Another log, begun and empty, in place of the one that holds the entries.
    let other = TestNode { engine: node.engine.clone(), ..TestNode::new(1) };
    let begun = config(&other, &Wires::default());
    drop(kontiki_storage::log::Log::open(begun.disk, begun.store, begun.log).expect("begins"));
    let Err(fault) = Groups::open(config(&other, &Wires::default())).await else { panic!("opened without its log's end") };
    assert!(fault.to_string().contains("it ends at nothing, but entry"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_is_dialled_at_a_measured_pace() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let gone = [NodeId(1), NodeId(2), NodeId(3)].into_iter().find(|node| leader.leader() != Some(*node)).expect("two follow");
    cluster.wires.cut(gone, true);
    let (before, since) = (cluster.wires.dialled(gone), tokio::time::Instant::now());
    while since.elapsed() < Duration::from_secs(1) {
        leader.write(put("k", "v", None)).await.expect("two of three are enough");
    }
    let dialled = cluster.wires.dialled(gone) - before;
    assert!(dialled < 100, "dialled {dialled} times in a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_others_are_refused() {
    let cluster = Cluster::start().await;
    let groups = cluster.groups[0].as_ref().expect("running");
    let good = envelope(NodeId(2), ReplicaId(2), NodeId(1), ReplicaId(1));
    let wrong = [
        (Envelope { cluster: ClusterId([8; 16]), ..good.clone() }, "of cluster"),
        (Envelope { to_node: NodeId(3), ..good.clone() }, "meant for n3"),
        (Envelope { to_store: StoreId([9; 16]), ..good.clone() }, "meant for store"),
        (Envelope { format: 2, ..good.clone() }, "message format 2"),
        (Envelope { partition: PartitionId(77), ..good.clone() }, "p77 is not open"),
        (Envelope { to_replica: ReplicaId(9), ..good.clone() }, "meant for replica r9"),
        (Envelope { from_node: NodeId(3), ..good.clone() }, "lives on n2"),
        (Envelope { kind: 1, payload: Bytes::from_static(b"\x01junk"), ..good.clone() }, "does not parse"),
        (good, "message kind 99"),
    ];
    for (message, expected) in wrong {
        let Err(TransportError::Rejected { why, .. }) = groups.receive(message).await else { panic!("{expected}: not refused") };
        assert!(why.contains(expected), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_lost_what_it_acknowledged_is_reported_and_harms_nobody() {
    let mut cluster = Cluster::start().await;
    // A new leader asks anew what everybody has, and has nothing to report: on a busy machine it may take several attempts.
    for _ in 0..5 {
        let leader = cluster.leader().await;
        let Some((node, why)) = lose_what_was_acknowledged(&mut cluster, &leader).await else { continue };
        assert!(why.contains("older copy") && why.contains(&node.to_string()), "{why}");
        let fault = leader.status().fault;
        assert!(fault.is_none(), "the leader's replica lives: {fault:?}");
        cluster.write("k", "newest").await;
        let leader = cluster.leader().await;
        assert_eq!(get(&leader, &ReadLevel::Linearizable, "k").await.expect("reads"), Some("newest".into()));
        return;
    }
    panic!("the leader changed each time");
}

/// Gives a follower back an older copy of its directory, and waits until its leader reports it; `None` if it leads no more.
async fn lose_what_was_acknowledged(cluster: &mut Cluster, leader: &Group) -> Option<(NodeId, String)> {
    let at = cluster.nodes.iter().position(|node| Some(node.id) != leader.leader()).expect("a follower");
    cluster.stop(at).await;
    let backup = cluster.nodes[at].copy();
    cluster.open(at).await;
    // Something that the backup lacks is acknowledged by the follower itself.
    let written = leader.write(put("k", "new", None)).await.ok()?.version;
    assert_eq!(get(&cluster.group(at), &seen(written), "k").await.expect("there"), Some("new".into()));
    // And the leader knows that it has: what was not acknowledged is not lost.
    let replica = cluster.group(at).replica();
    eventually("it is acknowledged", async || !leader.is_leader() || leader.membership().lag(replica) == Some(0)).await;
    cluster.stop(at).await;
    cluster.nodes[at] = backup;
    cluster.open(at).await;
    let reported = async {
        loop {
            let status = leader.status();
            match status.reverted.first() {
                Some(reported) => return Some(reported.clone()),
                None if !leader.is_leader() => return None,
                // An entry on its way makes the follower contradict itself.
                None => drop(leader.write(put("other", "v", None)).await),
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, reported).await.expect("the loss is seen")
}

/// A message between two replicas, of a kind that is not known.
pub(crate) fn envelope(from_node: NodeId, from_replica: ReplicaId, to_node: NodeId, to_replica: ReplicaId) -> Envelope {
    Envelope {
        cluster: ClusterId([7; 16]),
        from_node,
        from_store: StoreId::default(),
        from_incarnation: Incarnation::UNKNOWN,
        to_node,
        to_store: StoreId::default(),
        to_incarnation: Incarnation::UNKNOWN,
        partition: PARTITION,
        from_replica,
        to_replica,
        kind: 99,
        format: 1,
        payload: Bytes::new(),
        attachments: vec![],
    }
}
