//! Groups whose members change while they are written to.

use std::collections::BTreeSet;

use kontiki_types::{CallError, Reject, Retry};

use crate::testing::cluster::{Cluster, eventually, get, put, seen};
use crate::{Group, LogRetention, MembershipSeen};

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
async fn a_dead_voter_is_replaced_in_one_joint_change() {
    let mut cluster = Cluster::start_with(3, LogRetention { every_ms: 5, ..LogRetention::default() }).await;
    let leader = cluster.leader().await;
    leader.write(put("before", "v", None)).await.expect("writes");
    let dead = cluster.running().find(|group| group.replica() != leader.replica()).expect("a follower");
    let (gone, gone_at) = (dead.replica(), cluster.place_of(&dead));
    drop(dead);
    cluster.crash(gone_at).await;
    let at = cluster.add_node(4).await;
    let new = cluster.join(&leader, at).await;
    cluster.add_learner(new, cluster.nodes[at].id).await;
    cluster.caught_up(new).await;
    let before = cluster.write("while it joins", "w").await.version;
    let (add, remove): (BTreeSet<_>, BTreeSet<_>) = ([new].into(), [gone].into());
    let memberships = memberships_of(&leader);
    cluster.on_leader("the change", async |leader| leader.change_voters(&add, &remove, leader.membership().seen).await).await;
    let now = cluster.leader().await.membership();
    assert!(!now.is_joint() && now.votes(new) && !now.votes(gone) && !now.nodes.contains_key(&gone), "{now:?}");
    // Never two voters, and never four: all of it is one step, in which both majorities count.
    let voters = |sets: &Vec<BTreeSet<u64>>| sets.iter().map(BTreeSet::len).collect::<Vec<_>>();
    let passed: Vec<_> = memberships.await.expect("followed").iter().map(voters).collect();
    assert!(passed.iter().all(|sizes| *sizes == [3] || *sizes == [3, 3]), "{passed:?}");
    // A second one of the first three dies: one old and the new one are a majority, and know everything.
    let old = cluster.running().map(|group| group.replica()).find(|replica| *replica != leader.replica() && *replica != new);
    let old_at =
        cluster.running().find(|group| Some(group.replica()) == old).map(|group| cluster.place_of(&group)).expect("runs");
    cluster.crash(old_at).await;
    let written = cluster.write("after", "x").await.version;
    assert!(written > before);
    let newcomer = cluster.group(at);
    for (name, value) in [("before", "v"), ("while it joins", "w"), ("after", "x")] {
        assert_eq!(get(&newcomer, &seen(written), name).await.expect("reads"), Some(value.into()), "{name}");
    }
}

/// Every membership that a replica sees until the voters are three again, others than now, and not joint.
fn memberships_of(group: &Group) -> tokio::task::JoinHandle<Vec<Vec<BTreeSet<u64>>>> {
    use openraft::async_runtime::watch::WatchReceiver;
    let mut metrics = group.raft().metrics();
    let sets = |metrics: &openraft::RaftMetrics<crate::type_config::TypeConfig>| {
        metrics.membership_config.membership().get_joint_config().clone()
    };
    let first = sets(&metrics.borrow_watched());
    tokio::spawn(async move {
        let mut seen = vec![first.clone()];
        loop {
            let now = sets(&metrics.borrow_watched());
            if seen.last() != Some(&now) {
                seen.push(now.clone());
            }
            if (now.len() == 1 && now != first) || metrics.changed().await.is_err() {
                return seen;
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_could_not_apply_is_opened_again_and_catches_up() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    let follower = cluster.running().find(|group| group.replica() != leader.replica()).expect("a follower");
    let at = cluster.place_of(&follower);
    cluster.nodes[at].engine.fail_next(std::io::ErrorKind::StorageFull);
    cluster.write("k", "two are enough").await;
    eventually("it has stopped", async || follower.stopped_by_disk().is_some() && follower.status().fault.is_some()).await;
    let written = cluster.write("k", "they go on").await.version;
    eventually("it is open again", async || !cluster.groups(at).reopen_stopped().await.is_empty()).await;
    let again = cluster.group(at);
    assert_eq!((again.replica(), again.status().fault), (follower.replica(), None));
    assert_eq!(get(&again, &seen(written), "k").await.expect("reads"), Some("they go on".into()));
    assert!(again.status().term >= leader.status().term, "it has not forgotten its vote");
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
