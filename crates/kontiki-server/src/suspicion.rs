//! What a node does when a message says that it is not who it thinks: it asks the other members. One message can be forged, by
//! anybody; so it is a reason to ask and nothing more. The map that the others hold is what counts.
//!
//! ```text
//!   message for another disk, a refusal, a message for a replica that is not here ── Members::suspect
//!        ──> Cluster.Partitions at each other member ──> does its map know this node by another disk? then this one stops taking part
//! ```

use std::sync::Arc;
use std::time::Duration;

use kontiki_client::{ClientOptions, Dial, Endpoint, Remote};
use tokio::time::sleep;

use crate::local::Local;
use crate::reconcile;

/// Between two rounds of questions, however many reasons there are: messages come by the thousand.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// One member is given this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Runs until the node stops.
pub(crate) async fn run(local: Local, dial: Arc<dyn Dial>) {
    let mut suspicions = local.map_copy().suspicions();
    loop {
        tokio::select! {
            changed = suspicions.changed() => if changed.is_err() { return },
            () = local.stopping().cancelled() => return,
        }
        tokio::select! {
            () = ask(&local, &dial) => {}
            () = local.stopping().cancelled() => return,
        }
        sleep(ASK_EVERY).await;
    }
}

async fn ask(local: &Local, dial: &Arc<dyn Dial>) {
    for addr in local.map_copy().others(local.node()) {
        let Ok(member) = Remote::new(&addr, dial.clone(), &ClientOptions::default()) else { continue };
        match member.map(ANSWER_WITHIN).await {
            Ok(map) => reconcile::check_own_entry(local, &map),
            Err(error) => tracing::debug!(addr, %error, "a member could not be asked for its map"),
        }
    }
}
