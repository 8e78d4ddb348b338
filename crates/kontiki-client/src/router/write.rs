//! The write loop: one atomic write, one request id, as many attempts as the time allows.

use std::time::Duration;

use bytes::Bytes;
use kontiki_types::{
    CallError, KeyRange, NodeId, Op, PartitionId, PartitionMap, Reject, RequestId, SessionId, Write, WriteReply, limits,
};

use super::{Aim, Attempts, Failure, Next, Place, Router, Target, limited};
use crate::cluster_change::{ClusterChange, Joined};
use crate::session::Ticket;

impl Router {
    /// Applies one atomic write exactly once, or says honestly that it is not known. `request`: the caller's own id; without, the
    /// client's session with the partition is used.
    pub(crate) async fn write(
        &self,
        mut write: Write<Bytes>,
        request: Option<RequestId>,
        timeout: Duration,
    ) -> Result<(PartitionId, WriteReply), Failure> {
        write.request = request;
        limits::check_write(&write).map_err(CallError::from)?;
        let mut attempts = Attempts::new(timeout);
        let mut ticket: Option<Ticket> = None;
        loop {
            let target = match self.target(&mut attempts, Aim::Leader, |map| place(map, &write)).await {
                Ok((target, ())) => target,
                Err(Failure::Across(reject)) if attempts.may_be_applied => {
                    return Err(attempts.final_error(reject.into()).into());
                }
                Err(failure) => return Err(failure),
            };
            let time = self.attempt_time(&attempts)?;
            if request.is_none() && ticket.is_none() {
                match self.ticket(&attempts, &target, time).await {
                    Ok(given) => ticket = Some(given),
                    Err(error) => {
                        // Opening a session twice does no harm; it is no attempt of the write.
                        self.after(&mut attempts, &target, error, true, false).await?;
                        continue;
                    }
                }
            }
            let time = self.attempt_time(&attempts)?;
            write.epoch = target.route.epoch;
            write.request = request.or_else(|| ticket.as_ref().map(Ticket::request_id));
            attempts.made += 1;
            let error = match limited(time, target.endpoint.write(target.route, write.clone(), time), true).await {
                Ok(reply) => {
                    self.succeeded(&attempts, &target, Aim::Leader);
                    self.named(reply.version);
                    return Ok((target.partition, reply));
                }
                Err(error) => error,
            };
            match self.after(&mut attempts, &target, error, true, true).await? {
                Next::Again => {}
                Next::NewSession(session) => {
                    self.renew(&attempts, &target, session, request, ticket.take())?;
                }
            }
        }
    }

    /// A number in the client's session with the target's partition.
    async fn ticket(&self, attempts: &Attempts, target: &Target, time: Duration) -> Result<Ticket, CallError> {
        let open = async || limited(time, target.endpoint.open_session(target.route, time), false).await;
        let begin = self.sessions.begin(target.partition, open);
        match tokio::time::timeout_at(attempts.deadline, begin).await {
            Ok(ticket) => ticket,
            Err(_) => Err(CallError::unavailable(format!(
                "all {} requests that one session may have open at {} are waiting",
                limits::SESSION_REPLIES_MAX,
                target.partition
            ))),
        }
    }

    /// The store does not know the session. A write that was certainly never applied goes on under a new one; any other ends here,
    /// because under a new session it could be applied a second time.
    fn renew(
        &self,
        attempts: &Attempts,
        target: &Target,
        session: SessionId,
        request: Option<RequestId>,
        ticket: Option<Ticket>,
    ) -> Result<(), CallError> {
        let expired = Reject::SessionExpired { session, sequence: request.map_or(0, |request| request.sequence) };
        let Some(ticket) = ticket.filter(|_| request.is_none()) else {
            return Err(attempts.final_error(expired.into()));
        };
        // A session of another partition (before a split) is alive where it belongs.
        if ticket.session().partition == target.partition {
            self.sessions.retire(target.partition, ticket.session());
        }
        if attempts.may_be_applied {
            let sequence = ticket.request_id().sequence;
            return Err(attempts.final_error(Reject::SessionExpired { session, sequence }.into()));
        }
        Ok(())
    }

    /// Opens a session for a caller who makes their own request ids, at the partition that holds `key`.
    pub(crate) async fn open_session(&self, key: &[u8], timeout: Duration) -> Result<(PartitionId, SessionId), CallError> {
        let mut attempts = Attempts::new(timeout);
        loop {
            let found = self.target(&mut attempts, Aim::Leader, |map| place_of_key(map, key)).await;
            let (target, ()) = found.map_err(Failure::into_call)?;
            let time = self.attempt_time(&attempts)?;
            attempts.made += 1;
            match limited(time, target.endpoint.open_session(target.route, time), false).await {
                Ok(session) => {
                    self.succeeded(&attempts, &target, Aim::Leader);
                    self.named(session.opened);
                    return Ok((target.partition, session));
                }
                Err(error) => {
                    self.after(&mut attempts, &target, error, true, false).await?;
                }
            }
        }
    }

    /// Moves a leadership. Repeating it does no harm.
    pub(crate) async fn transfer_leader(&self, partition: PartitionId, to: NodeId, timeout: Duration) -> Result<(), CallError> {
        let mut attempts = Attempts::new(timeout);
        loop {
            let found = self.target(&mut attempts, Aim::Leader, |map| place_of_partition(map, partition)).await;
            let (target, ()) = found.map_err(Failure::into_call)?;
            let time = self.attempt_time(&attempts)?;
            attempts.made += 1;
            match limited(time, target.endpoint.transfer_leader(partition, to, time), false).await {
                Ok(()) => {
                    self.map.set_leader(partition, to);
                    return Ok(());
                }
                Err(error) => {
                    self.after(&mut attempts, &target, error, true, false).await?;
                }
            }
        }
    }
}

impl Router {
    /// Asks for a change of the cluster's shape. Repeating it does no harm.
    pub(crate) async fn change_cluster(&self, change: ClusterChange, timeout: Duration) -> Result<Option<Joined>, CallError> {
        let (mut attempts, partition) = (Attempts::new(timeout), change.partition());
        loop {
            let found = self.target(&mut attempts, Aim::Leader, |map| place_of_partition(map, partition)).await;
            let (target, ()) = found.map_err(Failure::into_call)?;
            let time = self.attempt_time(&attempts)?;
            attempts.made += 1;
            match limited(time, target.endpoint.change_cluster(change.clone(), time), false).await {
                Ok(answer) => {
                    self.succeeded(&attempts, &target, Aim::Leader);
                    return Ok(answer);
                }
                // What another change was made of meanwhile is not for the router to repair.
                Err(error @ CallError::Reject(_)) => return Err(error),
                Err(error) => {
                    self.after(&mut attempts, &target, error, true, false).await?;
                }
            }
        }
    }
}

pub(super) fn place_of_key(map: &PartitionMap, key: &[u8]) -> Place<()> {
    match index_of(map, key) {
        Some(at) => Place::At(at, ()),
        None => Place::Nowhere,
    }
}

pub(super) fn place_of_partition(map: &PartitionMap, partition: PartitionId) -> Place<()> {
    match map.partitions.iter().position(|descriptor| descriptor.id == partition) {
        Some(at) => Place::At(at, ()),
        None if map.partitions.is_empty() => Place::Nowhere,
        None => {
            Place::Across(Reject::invalid(format!("partition {partition} is not on the map; `partitions` lists those that are")))
        }
    }
}

/// The index of the partition that holds a key.
pub(super) fn index_of(map: &PartitionMap, key: &[u8]) -> Option<usize> {
    let after = map.partitions.partition_point(|descriptor| descriptor.range.start.as_ref() <= key);
    let at = after.checked_sub(1)?;
    map.partitions[at].range.contains(key).then_some(at)
}

/// The one partition that holds every key of a write.
fn place(map: &PartitionMap, write: &Write<Bytes>) -> Place<()> {
    let mut keys = write.ops.iter().map(Op::key).chain(write.conditions.iter().map(|condition| condition.key()));
    let Some(first) = keys.next() else { return Place::Nowhere };
    let Some(at) = index_of(map, first) else { return Place::Nowhere };
    let home = &map.partitions[at];
    let across = |other: &[u8]| match index_of(map, other) {
        Some(elsewhere) => Place::Across(Reject::CrossPartition {
            key_a: Bytes::copy_from_slice(first),
            first: home.id,
            key_b: Bytes::copy_from_slice(other),
            second: map.partitions[elsewhere].id,
        }),
        None => Place::Nowhere,
    };
    if let Some(other) = keys.find(|key| !home.range.contains(key)) {
        return across(other);
    }
    for op in &write.ops {
        if let Op::DeleteRange { start, end } = op {
            let range = KeyRange::new(start.clone(), end.clone());
            if !range.is_empty() && !home.range.contains_range(&range) {
                return across(&home.range.end);
            }
        }
    }
    Place::At(at, ())
}
