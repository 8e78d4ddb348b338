//! Writes: exactly once, whatever is lost; and honest when it is not known.

use std::time::Duration;

use kontiki_types::{CallError, ErrorKind, NodeId, PartitionId, Reject, Retry, Version};
use tokio::time::Instant;

use super::fake::{Cluster, Fault};
use super::options;
use crate::WriteBatch;

#[tokio::test(start_paused = true)]
async fn a_put_goes_to_the_leader_and_follows_hints() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.client(options());
    cluster.lead(2, Some(3));
    client.put("a", "1").await.expect("written");
    assert_eq!(cluster.value("a").expect("there"), "1");
    client.put("a", "2").await.expect("written");
    // The session was opened where the hint led; no write went to a wrong node, and the second went straight to the leader.
    assert_eq!(cluster.writes_asked().iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(cluster.state().sessions_opened, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again_under_the_same_id() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("n", "0").await.expect("written");
    cluster.state().faults.extend([Fault::LoseReply, Fault::LoseReply, Fault::LoseRequest, Fault::Hang]);
    let batch = WriteBatch::new().if_value("n", "0").put("n", "1");
    let reply = client.write(batch).await.expect("the first execution's answer, not a failed condition");
    assert_eq!(cluster.value("n").expect("there"), "1");
    let asked = cluster.writes_asked();
    let ids: std::collections::BTreeSet<_> = asked[1..].iter().map(|(_, id)| (id.session, id.sequence)).collect();
    assert_eq!(ids.len(), 1, "one id for all attempts: {asked:?}");
    let id = *ids.first().expect("one");
    assert_eq!(cluster.state().executed[&id], 1);
    assert_eq!(reply.version, client.get("n").await.expect("read").expect("there").version);
}

#[tokio::test(start_paused = true)]
async fn what_ends_in_doubt_is_called_ambiguous_and_what_is_proven_unavailable() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    let start = Instant::now();

    cluster.state().faults.push_back(Fault::LoseReply);
    cluster.state().faults.extend(vec![Fault::Fail(CallError::unavailable("no quorum")); 10_000]);
    let error = client.put("k", "1").await.expect_err("never answered");
    assert_eq!(error.kind(), ErrorKind::Ambiguous, "{error}");
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert!(start.elapsed() <= options().timeout, "{:?}", start.elapsed());
    assert!(start.elapsed() >= options().timeout / 2, "it used its time: {:?}", start.elapsed());
    assert_eq!(cluster.value("k").expect("there"), "1", "and indeed it was applied");

    let start = Instant::now();
    let error = client.put("k", "2").await.expect_err("never taken");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(start.elapsed() <= options().timeout);

    cluster.state().faults.clear();
    client.put("k", "3").await.expect("serves again");
    assert_eq!(cluster.value("k").expect("there"), "3");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_arrives_after_its_caller_gave_up_is_refused() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    cluster.state().faults.push_back(Fault::Late(Duration::from_secs(60)));
    cluster.state().faults.extend(vec![Fault::Fail(CallError::unavailable("no quorum")); 10_000]);
    let error = client.put("k", "late").await.expect_err("never answered");
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    cluster.state().faults.clear();
    client.put("k", "new").await.expect("written, and the old number acknowledged");
    assert_eq!(cluster.state().late, 1, "still on its way");
    cluster.until(|cluster| cluster.state().late == 0).await;
    assert_eq!(cluster.value("k").expect("there"), "new");
}

#[tokio::test(start_paused = true)]
async fn overload_is_waited_out_and_named_if_it_lasts() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    let full = CallError::from(Retry::Overloaded { what: "proposals".into(), limit: 8, retry_after_ms: 300 });
    cluster.state().faults.push_back(Fault::Fail(full.clone()));
    let start = Instant::now();
    client.put("k", "1").await.expect("written after the wait");
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    cluster.state().faults.extend(vec![Fault::Fail(full); 10_000]);
    let error = client.put("k", "2").await.expect_err("still full");
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_session_is_renewed_only_for_what_was_never_applied() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    cluster.forget_sessions();
    client.put("k", "1").await.expect("under a new session");
    assert_eq!(cluster.state().sessions_opened, 2);

    // In doubt, and then the session is forgotten: a new session could apply it a second time.
    cluster.state().faults.push_back(Fault::LoseReply);
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "2").await }
    });
    cluster.until(|cluster| cluster.value("k").expect("there") == "2").await;
    cluster.forget_sessions();
    let error = write.await.expect("no panic").expect_err("not known");
    assert_eq!(error.kind(), ErrorKind::Ambiguous, "{error}");
    assert!(error.to_string().contains("older than the store remembers"), "{error}");
    client.put("k", "3").await.expect("goes on");
    assert!(cluster.state().executed.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_condition_names_the_users_key_and_its_version() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    let version = client.put("k", "0").await.expect("written");
    let error = client.write(WriteBatch::new().if_absent("k").put("k", "1")).await.expect_err("it is there");
    assert_eq!(error.kind(), ErrorKind::ConditionFailed);
    let Some(Reject::ConditionFailed { index: 0, key, version: found }) = error.reject() else { panic!("{error:?}") };
    assert_eq!((key.as_ref(), *found), (b"k".as_slice(), Some(version)));
    assert!(error.to_string().contains("`k`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_atomic_write_stays_in_one_partition() {
    let cluster = Cluster::new(&["m"]);
    let client = cluster.client(options());
    let error = client.write(WriteBatch::new().put("a", "1").put("z", "1")).await.expect_err("two partitions");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let Some(Reject::CrossPartition { key_a, first, key_b, second }) = error.reject() else { panic!("{error:?}") };
    assert_eq!((key_a.as_ref(), key_b.as_ref()), (b"a".as_slice(), b"z".as_slice()));
    assert_eq!((*first, *second), (PartitionId(2), PartitionId(3)));
    let error = client.write(WriteBatch::new().delete_range("a", "z")).await.expect_err("crosses");
    assert!(matches!(error.reject(), Some(Reject::CrossPartition { .. })), "{error}");
    client.write(WriteBatch::new().delete_range("a", "m").put("b", "1")).await.expect("inside");
    assert_eq!(cluster.writes_asked().len(), 1, "the others were refused before anything was sent");
}

#[tokio::test(start_paused = true)]
async fn a_stale_map_is_repaired_from_the_refusal_without_asking_again() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("z", "0").await.expect("written");
    let maps = cluster.state().maps_given;
    cluster.split(2, "m", 9);
    client.put("z", "1").await.expect("re-routed");
    client.put("a", "1").await.expect("the other half");
    assert_eq!(cluster.state().maps_given, maps, "the refusal carried the descriptors");
    let ids: Vec<_> = client.map().partitions.iter().map(|descriptor| descriptor.id.0).collect();
    assert_eq!(ids, [1, 2, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_write_in_doubt_keeps_its_id_over_a_split() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("z", "0").await.expect("written");
    cluster.state().faults.push_back(Fault::LoseReply);
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.write(WriteBatch::new().if_value("z", "0").put("z", "1")).await }
    });
    cluster.until(|cluster| cluster.value("z").expect("there") == "1").await;
    cluster.split(2, "m", 9);
    write.await.expect("no panic").expect("the first answer, from the child's memory");
    assert!(cluster.state().executed.values().all(|times| *times == 1));
}

#[tokio::test(start_paused = true)]
async fn nodes_that_point_at_each_other_do_not_spin() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    cluster.lead(2, None);
    for (node, hint) in [(1, 2), (2, 1), (3, 1)] {
        cluster.state().hints.insert((NodeId(node), PartitionId(2)), Some(NodeId(hint)));
    }
    let before = cluster.writes_asked().len();
    let error = client.put("k", "1").await.expect_err("nobody leads");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let asked = cluster.writes_asked().len() - before;
    assert!((10..400).contains(&asked), "paced: {asked} attempts in {:?}", options().timeout);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_found_soon_after_its_election() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    client.put("k", "0").await.expect("written");
    cluster.state().down.insert(NodeId(1));
    cluster.lead(2, None);
    let write = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "1").await }
    });
    let asked = cluster.writes_asked().len();
    cluster.until(|cluster| cluster.writes_asked().len() >= asked + 5).await;
    cluster.lead(2, Some(2));
    let elected = Instant::now();
    write.await.expect("no panic").expect("written at the new leader");
    assert!(elected.elapsed() < Duration::from_millis(600), "{:?}", elected.elapsed());
    assert_eq!(cluster.value("k").expect("there"), "1");
}

#[tokio::test(start_paused = true)]
async fn a_range_is_deleted_in_pages_over_all_partitions() {
    let cluster = Cluster::new(&["c", "f"]);
    let client = cluster.client(options());
    for key in ["a1", "a2", "a3", "a4", "a5", "b1", "c1", "c2", "d1", "f1", "g1", "h1"] {
        client.put(key, "x").await.expect("written");
    }
    cluster.split(3, "c2", 9);
    assert_eq!(client.delete_range("a2", "g").await.expect("deleted"), 9);
    for (key, there) in [("a1", true), ("a2", false), ("c2", false), ("f1", false), ("g1", true)] {
        assert_eq!(cluster.value(key).is_some(), there, "{key}");
    }
    assert_eq!(client.delete_range("", "").await.expect("everything"), 3);
    assert_eq!(client.delete_range("q", "q").await.expect("empty"), 0);
    let error = client.delete_range("b", "a").await.expect_err("reversed");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("reversed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_refused_before_anything_is_sent() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    for (error, word) in [
        (client.put("", "x").await.expect_err("empty"), "empty"),
        (client.put(vec![7u8; 16 * 1024 + 1], "x").await.expect_err("long"), "16384"),
        (client.put("k", vec![7u8; 1024 * 1024 + 1]).await.expect_err("large"), "1048576"),
        (client.write(WriteBatch::new()).await.expect_err("nothing"), "empty"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(cluster.state().asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_request_id_is_used_and_its_conflict_told() {
    let cluster = Cluster::new(&[]);
    let client = cluster.client(options());
    let session = client.open_session("k").await.expect("opened").value;
    let request = kontiki_types::RequestId { session, sequence: 1, acknowledged_below: 1 };
    let first = client.write_with(WriteBatch::new().put("k", "1"), Some(request)).await.expect("written").value;
    let again = client.write_with(WriteBatch::new().put("k", "1"), Some(request)).await.expect("the same answer").value;
    assert_eq!(first, again);
    assert_eq!(cluster.state().executed[&(session, 1)], 1);
    let gone = kontiki_types::RequestId { session: kontiki_types::SessionId { opened: Version(1), ..session }, ..request };
    let error = client.write_with(WriteBatch::new().put("k", "2"), Some(gone)).await.expect_err("unknown session");
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
}
