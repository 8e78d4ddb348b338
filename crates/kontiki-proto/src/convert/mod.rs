//! Wire to types and back. Inwards everything is checked (a request from outside is believed only after `limits` has passed it);
//! outwards conversions cannot fail, except that a key outside of the default namespace has no place on the wire.
//!
//! ```text
//!   v1::GetRequest ... --- read  ---> Asked<(ReadLevel, Read)>      ReadReply  --- read  ---> v1::GetResponse ...
//!   v1::PutRequest ... --- write ---> Asked<Write<Bytes>>           WriteReply --- write ---> v1::PutResponse ...
//!   v1::Descriptor ... <-- map   ---> Descriptor, NodeInfo, PartitionMap
//! ```

mod map;
mod read;
mod write;

use bytes::Bytes;
use kontiki_types::command::Route;
use kontiki_types::limits::TOKEN_PARTITIONS_MAX;
use kontiki_types::{
    ClusterId, Epoch, KeyRange, NamespaceId, NodeId, PartitionId, Reject, RequestId, SessionId, Token, Version, key,
};

pub use map::{
    descriptor, descriptor_to, node_info, node_info_to, parse_uuid, partition_map, partitions_response, store_id, store_id_text,
};
pub use read::{
    batch_get_request, batch_get_response, changes_request, changes_response, clock_request, clock_response, get_request,
    get_response, read_level, read_level_to, read_of_batch_get, read_of_changes, read_of_clock, read_of_get, read_of_scan,
    reply_of_batch_get, reply_of_changes, reply_of_clock, reply_of_get, reply_of_scan, row, row_to, scan_request, scan_response,
    user_change, user_row,
};
pub use write::{
    delete_range_response, delete_response, open_session_response, put_response, write_of, write_of_delete,
    write_of_delete_range, write_of_put, write_reply, write_request, write_response,
};

use crate::v1;

/// A request, and where its sender believes it belongs. With a route, answer or refuse, but never forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<T> {
    /// Given by smart clients only.
    pub route: Option<Route>,
    /// What is asked, with internal keys.
    pub body: T,
}

impl<T> Asked<T> {
    fn new(route: Option<v1::Route>, body: T) -> Self {
        Self { route: route.map(route_from), body }
    }
}

/// Who answers: goes into every response header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answerer {
    /// The node that was called.
    pub node: NodeId,
    /// The partition that answered.
    pub partition: PartitionId,
}

/// The internal key of a wire key. Not checked: `limits` does that.
pub fn internal_key(user: &[u8]) -> Bytes {
    key::internal(NamespaceId::DEFAULT, user)
}

/// The wire key of an internal key; shares its buffer. Refused outside of the default namespace.
pub fn user_key(internal: &Bytes) -> Result<Bytes, Reject> {
    match key::split_internal(internal) {
        Some((NamespaceId::DEFAULT, _)) => Ok(internal.slice(key::NAMESPACE_PREFIX_BYTES..)),
        _ => Err(Reject::invalid(format!(
            "the key `{}` is not in the default namespace, and gRPC serves no other",
            key::display(internal)
        ))),
    }
}

/// The internal range of a wire range: an empty end is the end of the namespace.
pub fn internal_range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange::in_namespace(NamespaceId::DEFAULT, start, end)
}

/// The part of an internal range that lies in the default namespace, as a wire range: `(start, end)`, an empty end for the
/// namespace's own.
pub fn user_range(range: &KeyRange) -> Result<(Bytes, Bytes), Reject> {
    let namespace = KeyRange::namespace(NamespaceId::DEFAULT);
    let cut = range.intersect(&namespace);
    let end = if cut.end == namespace.end { Bytes::new() } else { user_key(&cut.end)? };
    Ok((user_key(&cut.start)?, end))
}

/// A route.
pub fn route_from(route: v1::Route) -> Route {
    Route { partition: PartitionId(route.partition_id), epoch: epoch(route.epoch) }
}

/// A route, to the wire.
pub fn route_to(route: Route) -> v1::Route {
    v1::Route { partition_id: route.partition.0, epoch: Some(epoch_to(route.epoch)) }
}

fn epoch(epoch: Option<v1::Epoch>) -> Epoch {
    let v1::Epoch { conf, bounds } = epoch.unwrap_or_default();
    Epoch { conf, bounds }
}

fn epoch_to(epoch: Epoch) -> v1::Epoch {
    v1::Epoch { conf: epoch.conf, bounds: epoch.bounds }
}

/// A session id. Refused if it is left out.
pub fn session(session: Option<v1::Session>) -> Result<SessionId, Reject> {
    let session = session.ok_or_else(|| Reject::invalid("request_id has no session; open one with OpenSession"))?;
    Ok(SessionId { partition: PartitionId(session.partition_id), opened: Version(session.opened) })
}

/// A session id, to the wire.
pub fn session_to(session: SessionId) -> v1::Session {
    v1::Session { partition_id: session.partition.0, opened: session.opened.0 }
}

fn request_id(id: Option<v1::RequestId>) -> Result<Option<RequestId>, Reject> {
    id.map(|id| {
        let v1::RequestId { session: of, sequence, acknowledged_below } = id;
        Ok(RequestId { session: session(of)?, sequence, acknowledged_below })
    })
    .transpose()
}

fn request_id_to(id: &RequestId) -> v1::RequestId {
    v1::RequestId { session: Some(session_to(id.session)), sequence: id.sequence, acknowledged_below: id.acknowledged_below }
}

/// A token. Refused if it names too many partitions.
pub fn token(token: v1::Token) -> Result<Token, Reject> {
    if token.seen.len() > TOKEN_PARTITIONS_MAX {
        return Err(Reject::TooLarge {
            what: "partitions named by a token".into(),
            actual: token.seen.len() as u64,
            limit: TOKEN_PARTITIONS_MAX as u64,
        });
    }
    let seen = token.seen.into_iter().map(|(partition, version)| (PartitionId(partition), Version(version)));
    let cluster = match token.cluster_id.as_str() {
        "" => None,
        text => {
            let id = ClusterId::parse(text);
            Some(id.ok_or_else(|| Reject::invalid(format!("the token's cluster id `{text}` is not a UUID")))?)
        }
    };
    Ok(Token { seen: seen.collect(), cluster })
}

/// A token, to the wire.
pub fn token_to(token: &Token) -> v1::Token {
    let cluster_id = token.cluster.map(|cluster| cluster.to_string()).unwrap_or_default();
    v1::Token { seen: token.seen.iter().map(|(partition, version)| (partition.0, version.0)).collect(), cluster_id }
}

/// The header of an answer that one partition gave to a routed call.
pub fn header(from: Answerer, clock: Version, age_ms: u64) -> v1::ResponseHeader {
    v1::ResponseHeader { node_id: from.node.0, partition_id: from.partition.0, clock: clock.0, age_ms, token: None }
}

/// The header of an answer to a call without a route: what it has seen is a token, of one partition or of several.
pub fn header_with_token(node: NodeId, token: &Token, age_ms: u64) -> v1::ResponseHeader {
    let only = if token.seen.len() == 1 { token.seen.first_key_value() } else { None };
    let (partition_id, clock) = only.map_or((0, 0), |(partition, version)| (partition.0, version.0));
    v1::ResponseHeader { node_id: node.0, partition_id, clock, age_ms, token: Some(token_to(token)) }
}

/// A response without what it must carry: the other side is broken or is not Kontiki.
fn missing(what: &str) -> kontiki_types::CallError {
    kontiki_types::CallError::unavailable(format!(
        "the response carries no {what}; is the other side a Kontiki node of this version?"
    ))
}

#[cfg(test)]
mod tests;
