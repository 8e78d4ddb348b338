//! Leadership is handed over while callers write and read: nobody is sent to a node that does not serve yet, nobody is left without an
//! answer, and nobody who is down is chosen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kontiki_types::{CallError, NodeId, Read, ReadLevel, Retry};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Group;
use crate::testing::cluster::{Cluster, WAIT, get, put};

/// As many redirects in a row as a client follows without a pause.
const REDIRECTS_MAX: u64 = 3;
/// Writers; more than there are entries in flight, so that there is always something under way and something that waits.
const WRITERS: u64 = 16;
/// Hand-overs while they write.
const HAND_OVERS: usize = 12;

/// A caller that goes where it is told to.
struct Caller {
    groups: Arc<Vec<Group>>,
    at: usize,
}

impl Caller {
    fn leads(groups: &Arc<Vec<Group>>) -> usize {
        groups.iter().position(Group::is_leader).unwrap_or(0)
    }

    /// A write, or else a read, repeated until it is answered; returns how often it was sent elsewhere. Anything else than a name to go to
    /// fails the test.
    async fn call(&mut self, writes: Option<&str>) -> u64 {
        let mut redirects = 0;
        loop {
            let group = &self.groups[self.at];
            let answer = match writes {
                Some(key) => group.write(put(key, "v", None)).await.map(drop),
                None => group.read(&ReadLevel::Linearizable, &Read::Clock, WAIT).await.map(drop),
            };
            match answer {
                Ok(()) => return redirects,
                Err(CallError::Retry(Retry::NotLeader { leader: Some(leader), .. })) => {
                    redirects += 1;
                    self.at = self.groups.iter().position(|group| group.node() == leader).expect("a voter");
                }
                Err(error) => panic!("n{} did not name its successor: {error:?}", self.groups[self.at].node().0),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_sent_once_to_a_leader_that_serves() {
    let cluster = Cluster::start().await;
    cluster.leader().await;
    let groups = Arc::new(cluster.running().collect::<Vec<_>>());
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut callers: JoinSet<u64> = JoinSet::new();
    for writer in 0..WRITERS {
        let (stop, written) = (stop.clone(), written.clone());
        let mut caller = Caller { at: Caller::leads(&groups), groups: groups.clone() };
        callers.spawn(async move {
            let (mut most, key) = (0, format!("k{writer}"));
            while !stop.load(Ordering::Relaxed) {
                most = most.max(caller.call(Some(&key)).await).max(caller.call(None).await);
                written.fetch_add(1, Ordering::Relaxed);
            }
            most
        });
    }
    for turn in 0..HAND_OVERS {
        let before = written.load(Ordering::Relaxed);
        let leader = cluster.leader().await;
        leader.hand_over(|_| true, turn).await.expect("somebody is close, however much is written");
        let goes_on = async {
            while written.load(Ordering::Relaxed) < before + WRITERS {
                tokio::task::yield_now().await;
            }
        };
        timeout(WAIT, goes_on).await.expect("writes go on");
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(most) = callers.join_next().await {
        let most = most.expect("no caller was refused without a name");
        assert!(most <= REDIRECTS_MAX, "a caller was sent elsewhere {most} times in a row");
    }
    let last = cluster.leader().await;
    assert_eq!(get(&last, &ReadLevel::Linearizable, "k0").await.expect("reads"), Some("v".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_is_down_is_never_chosen() {
    let cluster = Cluster::start().await;
    for turn in 0..4 {
        let leader = cluster.leader().await;
        let others: Vec<Group> = cluster.running().filter(|group| group.replica() != leader.replica()).collect();
        // Idle, and complete as far as the leader knows.
        let written = leader.write(put("k", "v", None)).await.expect("writes");
        for other in &others {
            let mut applied = other.applied();
            let here = applied.wait_for(|_| other.reader().clock() >= written.version);
            timeout(WAIT, here).await.expect("in time").expect("runs");
        }
        let (down, up) = (others[turn % 2].node(), others[(turn + 1) % 2].node());
        cluster.wires.cut(down, true);
        // What was sent before the cut says nothing about now.
        tokio::time::sleep(super::hand_over::HEARD_BEFORE).await;
        leader.hand_over(|_| true, turn).await.expect("the other one takes over");
        assert_eq!(leader.leader(), Some(up), "{down} is cut off");
        cluster.wires.cut(down, false);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_can_hand_over_to_nobody_goes_on_leading() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    leader.write(put("k", "v", None)).await.expect("writes");
    let error = leader.hand_over(|_| false, 0).await.expect_err("nobody is fit");
    assert!(error.to_string().contains("no other voter was heard that has caught up"), "{error}");
    leader.write(put("k", "w", None)).await.expect("goes on");
    let error = leader.transfer_leader(NodeId(9)).await.expect_err("no such replica");
    assert!(error.to_string().contains("n9 holds no voting replica"), "{error}");
}
