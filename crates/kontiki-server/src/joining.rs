//! How a new directory gets its place in a cluster: as a first member of a new one, or as a new node of one that is there.
//!
//! ```text
//!   --join            ask any node to be taken in, until one answers
//!   --members         ask the other members first: do they know a cluster in which this number is somebody else's disk?
//!                       yes: this disk was wiped ── join it as a new node; the old number is given up
//!                       no:  found it together with them
//!   neither           a cluster of its own
//! ```
//!
//! A wiped node must not come back under its old number: it has forgotten votes and entries that it acknowledged.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kontiki_client::{ClientOptions, ClusterChange, Endpoint, Join, Joined, Remote};
use kontiki_types::{CallError, Error, ErrorKind, NodeId, NodeState, StoreId};
use tokio::time::{Instant, sleep};

use crate::env::{DataDir, Env};
use crate::identity::{self, Identity};
use crate::options::NodeOptions;
use crate::running::blocking;

/// How long a node goes on asking before it gives up: the cluster may be starting too, or electing.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// One attempt.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);
/// Between two rounds over all addresses.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Other members are given this long to say what they know.
const MEMBERS_WITHIN: Duration = Duration::from_secs(1);

/// Gives a new directory its identity. `addr` is where this node will be reached.
pub(crate) async fn settle(env: &Env, options: &NodeOptions, dir: &Arc<dyn DataDir>, addr: &str) -> Result<Identity, Error> {
    let (of, seed) = (dir.clone(), env.seed);
    let store = blocking(env, move || identity::new_store(of.as_ref(), seed)).await??;
    let identity = match place(env, options, addr, store).await? {
        Some((joined, former)) => {
            tracing::info!(node = %joined.node, cluster = %joined.cluster, %addr, "this node has joined the cluster");
            Identity::member(joined, store, former)
        }
        None => Identity::founder(options, store, env.seed),
    };
    let (of, keep) = (dir.clone(), identity.clone());
    blocking(env, move || keep.keep(of.as_ref())).await??;
    Ok(identity)
}

/// A directory that has its place already, and was given addresses to join at: they must be of its cluster. Else the node would go on in the cluster
/// that it was in, or alone, and nobody would be told. Whoever does not answer in a moment is believed.
pub(crate) async fn check_cluster(env: &Env, options: &NodeOptions, identity: Identity) -> Result<Identity, Error> {
    let asked = options.join.iter().map(|addr| async move {
        let member = Remote::new(addr, env.dial.clone(), &ClientOptions::default()).ok()?;
        let status = member.status(MEMBERS_WITHIN).await.ok()?;
        (status.cluster != identity.cluster).then_some((addr, status.cluster))
    });
    let other = join_all(asked).await.into_iter().flatten().next();
    let Some((addr, other)) = other else { return Ok(identity) };
    let (path, own, node) = (options.data_dir.display(), identity.cluster, identity.node);
    let message = format!(
        "data directory {path} belongs to {node} of the cluster {own}, and {addr}, where it is to join, is of the cluster {other}; give an empty directory \
         to join that one, or correct the address"
    );
    Err(Error::new(ErrorKind::Storage, message))
}

/// The place that a cluster has given to this node, if one is there.
async fn place(env: &Env, options: &NodeOptions, addr: &str, store: StoreId) -> Result<Option<(Joined, Option<NodeId>)>, Error> {
    let (zone, cluster_name) = (options.zone.clone(), options.cluster_name.clone());
    let join = Join { addr: addr.to_owned(), store, zone, cluster_name, former: None };
    if !options.join.is_empty() {
        return Ok(Some((ask(env, &options.join, join).await?, None)));
    }
    let others = options.members.iter().filter(|(id, _)| *id != options.node_id);
    let others: Vec<String> = others.map(|(_, addr)| addr.clone()).collect();
    if !knows_another_disk(env, options, &others).await {
        return Ok(None);
    }
    let former = Some(options.node_id);
    tracing::warn!(
        node = %options.node_id,
        "the data directory is empty, but the cluster knows this node with another disk: it joins as a new node, and the old one is given up"
    );
    Ok(Some((ask(env, &others, Join { former, ..join }).await?, former)))
}

/// Whether some other member is in this very cluster and knows this node's number with a disk, or as one that was given up.
async fn knows_another_disk(env: &Env, options: &NodeOptions, others: &[String]) -> bool {
    let cluster = identity::cluster_id(&options.cluster_name, &options.members);
    let asked = others.iter().map(|addr| async move {
        let Ok(member) = Remote::new(addr, env.dial.clone(), &ClientOptions::default()) else { return false };
        let (Ok(status), Ok(map)) = (member.status(MEMBERS_WITHIN).await, member.map(MEMBERS_WITHIN).await) else { return false };
        let entry = map.node(options.node_id);
        let taken = entry.is_none_or(|entry| entry.store.is_some() || entry.state != NodeState::Active);
        status.cluster == cluster && !map.partitions.is_empty() && taken
    });
    join_all(asked).await.contains(&true)
}

/// Asks to be taken in until some node answers.
async fn ask(env: &Env, addrs: &[String], join: Join) -> Result<Joined, Error> {
    let until = Instant::now() + JOIN_WITHIN;
    let mut last = String::new();
    loop {
        for addr in addrs {
            let node = Remote::new(addr, env.dial.clone(), &ClientOptions::default()).map_err(Error::from)?;
            match node.change_cluster_anywhere(ClusterChange::Join(join.clone()), ATTEMPT_WITHIN).await {
                Ok(Some(joined)) => return Ok(joined),
                Ok(None) => last = format!("{addr} answered without a number"),
                Err(CallError::Reject(reject)) => {
                    let message = format!("{addr} does not take this node in: {reject}");
                    return Err(Error::with_source(ErrorKind::Config, message, reject));
                }
                Err(error) => last = error.to_string(),
            }
        }
        if Instant::now() > until {
            let (asked, within) = (addrs.join(", "), JOIN_WITHIN.as_secs());
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("no node took this one in within {within} s; asked was {asked}: {last}; is the cluster running there?"),
            ));
        }
        sleep(AGAIN_AFTER).await;
    }
}
