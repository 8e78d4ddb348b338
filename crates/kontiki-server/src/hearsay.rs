//! What a node learns of the map from others. A node that holds no replica of the system partition lives by it; the others ask too, now
//! and then, because a replica that was taken out of its group is not told: nothing reaches it any more.
//!
//! ```text
//!   every second (no system replica here), every few seconds (else), and on a suspicion:
//!     a message for another disk, a refusal, a message for a replica that is not here ── Members::suspect
//!        ──> Cluster.Partitions at other members ──> MapCopy::hear ──> reconcile
//! ```
//!
//! One message can be forged, by anybody; so a suspicion is a reason to ask and nothing more. The map that the others hold is what counts.
//!
//! **Invariant:** only the map of a node that says it is in this cluster is heard: an address may have come to be another one's.

use std::sync::Arc;
use std::time::Duration;

use kontiki_client::{ClientOptions, Dial, Endpoint, Remote};
use kontiki_types::{CallError, ClusterId, PartitionId, PartitionMap};
use tokio::time::{Instant, sleep, sleep_until};

use crate::local::Local;

/// Between two rounds of questions of a node that has no map of its own.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same of a node that has one.
const ASK_SELDOM: Duration = Duration::from_secs(5);
/// Between two rounds, however many reasons there are: messages come by the thousand.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// One member is given this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub(crate) async fn run(local: Local) {
    let mut suspicions = local.map_copy().suspicions();
    let mut next = Instant::now();
    loop {
        let suspected = tokio::select! {
            changed = suspicions.changed() => if changed.is_err() { return } else { true },
            () = sleep_until(next) => false,
            () = local.stopping().cancelled() => return,
        };
        tokio::select! {
            () = ask(&local, suspected) => {}
            () = local.stopping().cancelled() => return,
        }
        let has_own = local.replica(PartitionId::SYSTEM).is_some();
        next = Instant::now() + if has_own { ASK_SELDOM } else { ASK_EVERY };
        tokio::select! {
            () = sleep(ASK_AGAIN_AFTER) => {}
            () = local.stopping().cancelled() => return,
        }
    }
}

/// Asks others for their map: those that hold the system partition first. All of them if there is a suspicion, else until one answers.
async fn ask(local: &Local, suspected: bool) {
    let map = local.map_copy().current();
    let holders = map.get(PartitionId::SYSTEM).map(|system| system.replicas.clone()).unwrap_or_default();
    let mut addrs: Vec<String> =
        holders.iter().filter(|r| r.node != local.node()).filter_map(|r| local.map_copy().addr(r.node)).collect();
    addrs.extend(local.map_copy().others(local.node()).into_iter().filter(|addr| !addrs.contains(addr)).collect::<Vec<_>>());
    for addr in addrs {
        match map_at(&addr, local.dial(), local.identity().cluster).await {
            Ok(told) if !told.partitions.is_empty() => {
                local.map_copy().hear(&told);
                if !suspected {
                    return;
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(addr, %error, "a member could not be asked for its map"),
        }
    }
}

/// The map of the member at an address, if a member of this cluster is (still) there. The numbers of nodes, partitions and replicas are alike in all
/// clusters: by the map of another one this node would delete its replicas, or take itself for one that was replaced.
async fn map_at(addr: &str, dial: &Arc<dyn Dial>, cluster: ClusterId) -> Result<PartitionMap, CallError> {
    Remote::new(addr, dial.clone(), &ClientOptions::default())?.in_cluster(cluster).map(ANSWER_WITHIN).await
}

#[cfg(test)]
mod tests {
    use kontiki_client::TcpDial;
    use kontiki_types::Reject;

    use super::*;
    use crate::{Node, NodeOptions};

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_believes_the_map_of_another_cluster() {
        let folder = tempfile::tempdir().expect("a folder");
        let options =
            NodeOptions { data_dir: folder.path().join("other"), listen: "127.0.0.1:0".to_owned(), ..NodeOptions::default() };
        let other = Node::start(options).await.expect("starts");
        other.ready(Duration::from_secs(30)).await.expect("ready");
        let (addr, dial): (_, Arc<dyn Dial>) = (other.addr(), Arc::new(TcpDial));
        let theirs = other.status().cluster;
        let map = map_at(addr, &dial, theirs).await.expect("a member tells");
        assert!(!map.partitions.is_empty());
        let ours = ClusterId([9; 16]);
        let refused = map_at(addr, &dial, ours).await.expect_err("our member is not there any more");
        let other_cluster =
            matches!(refused, CallError::Reject(Reject::OtherCluster { asked, here }) if asked == ours && here == theirs);
        assert!(other_cluster, "{refused}");
        other.stop().await;
    }
}
