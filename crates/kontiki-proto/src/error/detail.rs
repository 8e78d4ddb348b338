//! `CallError` as the typed `ErrorDetail` message and back, without loss: one arm per kind in each direction.

use std::io;

use kontiki_types::{
    Ambiguous, Bytes, CallError, ClusterId, Fault, NamespaceId, NodeId, PartitionId, Reject, Retry, SessionId, Version, key,
};

use super::{Keys, clip};
use crate::convert::{descriptor, descriptor_to, session, session_to};
use crate::v1::{self, error_detail::Detail};

/// Bytes kept of each text when details are shortened.
const TEXT_BYTES_MAX: usize = 512;

fn key_to(key: &Bytes, keys: Keys) -> v1::ErrorKey {
    match (keys, key::split_internal(key)) {
        (Keys::Internal, Some((namespace, _))) => {
            v1::ErrorKey { namespace_id: namespace.0, key: key.slice(key::NAMESPACE_PREFIX_BYTES..) }
        }
        _ => v1::ErrorKey { namespace_id: NamespaceId::DEFAULT.0, key: key.clone() },
    }
}

/// The internal key; empty if it was left out.
fn key_from(key: Option<v1::ErrorKey>) -> Bytes {
    key.map(|key| key::internal(NamespaceId(key.namespace_id), &key.key)).unwrap_or_default()
}

pub(super) fn encode(error: &CallError, keys: Keys) -> v1::ErrorDetail {
    let detail = match error {
        CallError::Reject(reject) => encode_reject(reject, keys),
        CallError::Retry(retry) => encode_retry(retry),
        CallError::Ambiguous(Ambiguous { reason }) => Detail::Ambiguous(v1::Ambiguous { reason: reason.clone() }),
        CallError::Fault(fault) => encode_fault(fault),
    };
    v1::ErrorDetail { detail: Some(detail) }
}

fn encode_reject(reject: &Reject, keys: Keys) -> Detail {
    match reject {
        Reject::ConditionFailed { index, key, version } => Detail::ConditionFailed(v1::ConditionFailed {
            index: *index,
            key: Some(key_to(key, keys)),
            version: version.map(|version| version.0),
        }),
        Reject::TooLarge { what, actual, limit } => {
            Detail::TooLarge(v1::TooLarge { what: what.clone(), actual: *actual, limit: *limit })
        }
        Reject::Invalid { reason } => Detail::Invalid(v1::Invalid { reason: reason.clone() }),
        Reject::SessionExpired { session, sequence } => {
            Detail::SessionExpired(v1::SessionExpired { session: Some(session_to(*session)), sequence: *sequence })
        }
        Reject::SessionConflict { session, sequence } => {
            Detail::SessionConflict(v1::SessionConflict { session: Some(session_to(*session)), sequence: *sequence })
        }
        Reject::StaleEpoch { partition, descriptors } => Detail::StaleEpoch(v1::StaleEpoch {
            partition_id: partition.0,
            descriptors: descriptors.iter().map(descriptor_to).collect(),
        }),
        Reject::CrossPartition { key_a, first, key_b, second } => Detail::CrossPartition(v1::CrossPartition {
            key_a: Some(key_to(key_a, keys)),
            first_partition_id: first.0,
            key_b: Some(key_to(key_b, keys)),
            second_partition_id: second.0,
        }),
        Reject::VersionTooOld { version, oldest } => {
            Detail::VersionTooOld(v1::VersionTooOld { version: version.0, oldest: oldest.0 })
        }
        Reject::VersionInFuture { version, newest } => {
            Detail::VersionInFuture(v1::VersionInFuture { version: version.0, newest: newest.0 })
        }
        Reject::OtherCluster { asked, here } => {
            Detail::OtherCluster(v1::OtherCluster { asked_cluster_id: asked.to_string(), here_cluster_id: here.to_string() })
        }
    }
}

fn encode_retry(retry: &Retry) -> Detail {
    match retry {
        Retry::NotLeader { partition, leader } => {
            Detail::NotLeader(v1::NotLeader { partition_id: partition.0, leader_node_id: leader.map(|node| node.0) })
        }
        Retry::UnknownPartition { partition } => Detail::UnknownPartition(v1::UnknownPartition { partition_id: partition.0 }),
        Retry::Unavailable { reason } => Detail::Unavailable(v1::Unavailable { reason: reason.clone() }),
        Retry::Overloaded { what, limit, retry_after_ms } => {
            Detail::Overloaded(v1::Overloaded { what: what.clone(), limit: *limit, retry_after_ms: *retry_after_ms })
        }
    }
}

fn encode_fault(fault: &Fault) -> Detail {
    match fault {
        Fault::Io { action, source } => {
            Detail::FaultIo(v1::FaultIo { action: action.clone(), message: source.to_string(), disk_full: fault.is_disk_full() })
        }
        Fault::Corrupt { place, detail } => {
            Detail::FaultCorrupt(v1::FaultCorrupt { place: place.clone(), detail: detail.clone() })
        }
        Fault::Format { place, found, known, advice } => Detail::FaultFormat(v1::FaultFormat {
            place: place.clone(),
            found: u32::from(*found),
            known: u32::from(*known),
            advice: advice.clone(),
        }),
        Fault::Invariant(message) => Detail::FaultInvariant(v1::FaultInvariant { message: message.clone() }),
    }
}

/// `None` if it carries no kind that this program knows: the sender is newer.
pub(super) fn decode(detail: v1::ErrorDetail) -> Option<CallError> {
    let detail = match decode_reject(detail.detail?) {
        Ok(reject) => return Some(reject?.into()),
        Err(other) => other,
    };
    Some(match detail {
        Detail::NotLeader(wire) => {
            let leader = wire.leader_node_id.map(NodeId);
            Retry::NotLeader { partition: PartitionId(wire.partition_id), leader }.into()
        }
        Detail::UnknownPartition(wire) => Retry::UnknownPartition { partition: PartitionId(wire.partition_id) }.into(),
        Detail::Unavailable(wire) => CallError::unavailable(wire.reason),
        Detail::Overloaded(v1::Overloaded { what, limit, retry_after_ms }) => {
            Retry::Overloaded { what, limit, retry_after_ms }.into()
        }
        Detail::Ambiguous(wire) => CallError::ambiguous(wire.reason),
        Detail::FaultIo(wire) => {
            let kind = if wire.disk_full { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            Fault::io(wire.action, io::Error::new(kind, wire.message)).into()
        }
        Detail::FaultCorrupt(wire) => Fault::corrupt(wire.place, wire.detail).into(),
        Detail::FaultFormat(wire) => {
            let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
            let (found, known) = (byte(wire.found), byte(wire.known));
            Fault::Format { place: wire.place, found, known, advice: wire.advice }.into()
        }
        Detail::FaultInvariant(wire) => Fault::Invariant(wire.message).into(),
        // `decode_reject` took the others.
        _ => return None,
    })
}

/// A reject (`None` inside if it is incomplete), or the detail back if it is none.
fn decode_reject(detail: Detail) -> Result<Option<Reject>, Detail> {
    let of = |wire: Option<v1::Session>| -> Option<SessionId> { session(wire).ok() };
    Ok(Some(match detail {
        Detail::ConditionFailed(wire) => {
            Reject::ConditionFailed { index: wire.index, key: key_from(wire.key), version: wire.version.map(Version) }
        }
        Detail::TooLarge(v1::TooLarge { what, actual, limit }) => Reject::TooLarge { what, actual, limit },
        Detail::Invalid(wire) => Reject::Invalid { reason: wire.reason },
        Detail::CrossPartition(wire) => Reject::CrossPartition {
            key_a: key_from(wire.key_a),
            first: PartitionId(wire.first_partition_id),
            key_b: key_from(wire.key_b),
            second: PartitionId(wire.second_partition_id),
        },
        Detail::SessionExpired(wire) => {
            let Some(session) = of(wire.session) else { return Ok(None) };
            Reject::SessionExpired { session, sequence: wire.sequence }
        }
        Detail::SessionConflict(wire) => {
            let Some(session) = of(wire.session) else { return Ok(None) };
            Reject::SessionConflict { session, sequence: wire.sequence }
        }
        Detail::StaleEpoch(wire) => Reject::StaleEpoch {
            partition: PartitionId(wire.partition_id),
            descriptors: wire.descriptors.into_iter().map(descriptor).collect(),
        },
        Detail::VersionTooOld(wire) => Reject::VersionTooOld { version: Version(wire.version), oldest: Version(wire.oldest) },
        Detail::VersionInFuture(wire) => Reject::VersionInFuture { version: Version(wire.version), newest: Version(wire.newest) },
        Detail::OtherCluster(wire) => {
            let ids = (ClusterId::parse(&wire.asked_cluster_id), ClusterId::parse(&wire.here_cluster_id));
            let (Some(asked), Some(here)) = ids else { return Ok(None) };
            Reject::OtherCluster { asked, here }
        }
        other => return Err(other),
    }))
}

/// Leaves out what may be large: keys (the caller knows them by index), descriptors (a router asks for the map then), ends of texts.
pub(super) fn shorten(detail: &mut v1::ErrorDetail) {
    let short = |text: &mut String| *text = clip(text, TEXT_BYTES_MAX);
    match &mut detail.detail {
        Some(Detail::ConditionFailed(wire)) => wire.key = None,
        Some(Detail::CrossPartition(wire)) => {
            wire.key_a = None;
            wire.key_b = None;
        }
        Some(Detail::StaleEpoch(wire)) => wire.descriptors.clear(),
        Some(Detail::TooLarge(wire)) => short(&mut wire.what),
        Some(Detail::Invalid(wire)) => short(&mut wire.reason),
        Some(Detail::Unavailable(wire)) => short(&mut wire.reason),
        Some(Detail::Overloaded(wire)) => short(&mut wire.what),
        Some(Detail::Ambiguous(wire)) => short(&mut wire.reason),
        Some(Detail::FaultIo(wire)) => {
            short(&mut wire.action);
            short(&mut wire.message);
        }
        Some(Detail::FaultCorrupt(wire)) => {
            short(&mut wire.place);
            short(&mut wire.detail);
        }
        Some(Detail::FaultFormat(wire)) => {
            short(&mut wire.place);
            short(&mut wire.advice);
        }
        Some(Detail::FaultInvariant(wire)) => short(&mut wire.message),
        _ => {}
    }
}
