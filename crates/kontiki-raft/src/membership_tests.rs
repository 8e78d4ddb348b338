//! Groups whose members change while they are written to.

use std::collections::BTreeSet;

use kontiki_types::{CallError, Reject, Retry};

use crate::testing::cluster::{Cluster, get, put, seen};
use crate::{Group, MembershipSeen};

fn none() -> BTreeSet<kontiki_types::ReplicaId> {
    BTreeSet::new()
}

/// Ends a joint membership as an interruption leaves it: the first of the two entries is written, the second is not.
async fn begin_joint(leader: &Group, without: &Group) {
    let members = leader.raft().metrics();
    let now = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&members).membership_config.membership().clone();
    let all: BTreeSet<u64> = now.voter_ids().collect();
    let fewer: BTreeSet<u64> = all.iter().copied().filter(|id| *id != without.replica().0).collect();
    let nodes: std::collections::BTreeMap<_, _> = now.nodes().map(|(id, node)| (*id, *node)).collect();
    let joint = crate::type_config::Membership::new(vec![all, fewer], nodes).expect("valid");
    let payload = openraft::EntryPayload::Membership(joint.clone());
    leader.raft().append_membership(joint, payload, []).await.expect("appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_to_go_hands_over_first() {
    let cluster = Cluster::start().await;
    let old = cluster.leader().await;
    old.write(put("k", "v", None)).await.expect("writes");
    let gone: BTreeSet<_> = [old.replica()].into();
    cluster.on_leader("the removal", async |leader| leader.change_voters(&none(), &gone, leader.membership().seen).await).await;
    let leader = cluster.leader().await;
    assert_ne!(leader.replica(), old.replica(), "it did not take its own vote away");
    let members = leader.membership();
    assert!(!members.is_joint() && !members.votes(old.replica()) && members.voters[0].len() == 2, "{members:?}");
    assert!(!members.nodes.contains_key(&old.replica()), "who lost its vote has left");
    let written = cluster.write("k", "w").await.version;
    assert_eq!(get(&leader, &seen(written), "k").await.expect("reads"), Some("w".into()));
    // Once more changes nothing.
    leader.change_voters(&none(), &gone, MembershipSeen::default()).await.expect("done already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_was_decided_on_another_membership_is_refused() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let before = leader.membership();
    assert!(before.committed && before.learners().is_empty() && before.lag(leader.replica()).is_some(), "{before:?}");
    let others: Vec<_> = before.nodes.keys().copied().filter(|replica| *replica != leader.replica()).collect();
    leader.change_voters(&none(), &[others[0]].into(), before.seen).await.expect("removed");
    let error = leader.change_voters(&none(), &[others[1]].into(), before.seen).await.expect_err("the guard is old");
    assert!(error.to_string().contains("have changed meanwhile"), "{error}");
    assert!(leader.membership().votes(others[1]));
    let stranger = kontiki_types::ReplicaId(77);
    let error = leader.change_voters(&[stranger].into(), &none(), leader.membership().seen).await;
    assert!(matches!(error, Err(CallError::Reject(Reject::Invalid { .. }))), "a voter that was never a learner: {error:?}");
    for group in cluster.running().filter(|group| group.replica() != leader.replica()) {
        let error = group.finish_joint(MembershipSeen::default()).await;
        assert!(matches!(error, Err(CallError::Retry(Retry::NotLeader { .. }))), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_interrupted_is_finished_by_the_next_leader() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let gone = cluster.running().find(|group| group.replica() != leader.replica()).expect("a follower");
    begin_joint(&leader, &gone).await;
    assert!(leader.membership().is_joint());
    let at = cluster.place_of(&leader);
    drop(leader);
    cluster.crash(at).await;
    // The new set of voters is two, and both are needed: nobody leads until the one that crashed is back.
    cluster.open(at).await;
    let next = cluster.leader().await;
    let left = next.membership();
    assert!(left.is_joint(), "nobody has finished it by himself: {left:?}");
    cluster.write("k", "a joint group serves").await;
    cluster.on_leader("the end", async |leader| leader.finish_joint(leader.membership().seen).await).await;
    let members = cluster.leader().await.membership();
    assert!(!members.is_joint() && members.voters[0].len() == 2 && !members.votes(gone.replica()), "{members:?}");
    cluster.write("k", "done").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_descriptor_is_put_in_force_and_an_older_one_is_not() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let mut newer = leader.descriptor().as_ref().clone();
    let old = newer.clone();
    newer.epoch.conf += 1;
    newer.replicas[1].role = kontiki_types::partition::Role::Leaving;
    leader.set_descriptor(newer.clone()).await.expect("newer");
    leader.set_descriptor(newer.clone()).await.expect("it is in force already");
    assert_eq!(*leader.descriptor(), newer);
    let error = leader.set_descriptor(old).await;
    assert!(matches!(error, Err(CallError::Reject(Reject::StaleEpoch { .. }))), "{error:?}");
}
