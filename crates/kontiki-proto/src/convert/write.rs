//! Writes on the wire: Put, Delete, DeleteRange (one page) and Write, which are all one `Write<Bytes>` below; and OpenSession.

use bytes::Bytes;
use kontiki_types::command::Route;
use kontiki_types::{CallError, Condition, Epoch, KeyRange, Op, OpResult, Reject, SessionId, Version, Write, WriteReply, limits};

use super::{
    Answerer, Asked, header, internal_key, internal_range, missing, request_id, request_id_to, route_to, session_to, user_key,
    user_range,
};
use crate::v1;

fn checked(
    route: Option<v1::Route>,
    request: Option<v1::RequestId>,
    conditions: Vec<Condition<Bytes>>,
    ops: Vec<Op<Bytes>>,
) -> Result<Asked<Write<Bytes>>, Reject> {
    let mut asked = Asked::new(route, Write { epoch: Epoch::default(), request: request_id(request)?, conditions, ops });
    if let Some(route) = &asked.route {
        asked.body.epoch = route.epoch;
    }
    limits::check_write(&asked.body)?;
    Ok(asked)
}

/// What a `Put` asks. The value shares the request's buffer.
pub fn write_of_put(request: v1::PutRequest) -> Result<Asked<Write<Bytes>>, Reject> {
    let put = Op::Put { key: internal_key(&request.key), value: request.value };
    checked(request.route, request.request_id, vec![], vec![put])
}

/// What a `Delete` asks.
pub fn write_of_delete(request: v1::DeleteRequest) -> Result<Asked<Write<Bytes>>, Reject> {
    let delete = Op::Delete { key: internal_key(&request.key) };
    checked(request.route, request.request_id, vec![], vec![delete])
}

/// What a `DeleteRange` asks: with a route, this one page.
pub fn write_of_delete_range(request: v1::DeleteRangeRequest) -> Result<Asked<Write<Bytes>>, Reject> {
    if request.request_id.is_some() && request.route.is_none() {
        return Err(Reject::invalid(
            "a request_id without a route: a DeleteRange over several partitions is more than one request",
        ));
    }
    let KeyRange { start, end } = internal_range(&request.start, &request.end);
    checked(request.route, request.request_id, vec![], vec![Op::DeleteRange { start, end }])
}

/// What a `Write` asks.
pub fn write_of(request: v1::WriteRequest) -> Result<Asked<Write<Bytes>>, Reject> {
    let conditions = (0..).zip(request.conditions).map(|(at, test)| condition(at, test)).collect::<Result<_, _>>()?;
    let ops = (0..).zip(request.ops).map(|(at, change)| op(at, change)).collect::<Result<_, _>>()?;
    checked(request.route, request.request_id, conditions, ops)
}

fn condition(at: usize, condition: v1::Condition) -> Result<Condition<Bytes>, Reject> {
    use v1::condition::Test;
    let key = internal_key(&condition.key);
    let test = condition.test.ok_or_else(|| {
        Reject::invalid(format!("condition {at} has no test; give it one of exists, absent, version_is, value_is"))
    })?;
    match test {
        Test::Exists(true) => Ok(Condition::Exists { key }),
        Test::Absent(true) => Ok(Condition::Absent { key }),
        // `exists: false` could be read as "absent"; refusing it is better than guessing.
        Test::Exists(false) => Err(Reject::invalid(format!("condition {at} has `exists: false`; say `absent: true`"))),
        Test::Absent(false) => Err(Reject::invalid(format!("condition {at} has `absent: false`; say `exists: true`"))),
        Test::VersionIs(version) => Ok(Condition::VersionIs { key, version: Version(version) }),
        Test::ValueIs(value) => Ok(Condition::ValueIs { key, value }),
    }
}

fn op(at: usize, op: v1::Op) -> Result<Op<Bytes>, Reject> {
    use v1::op::Op as Change;
    match op.op {
        Some(Change::Put(put)) => Ok(Op::Put { key: internal_key(&put.key), value: put.value }),
        Some(Change::Delete(delete)) => Ok(Op::Delete { key: internal_key(&delete.key) }),
        Some(Change::DeleteRange(range)) => {
            let KeyRange { start, end } = internal_range(&range.start, &range.end);
            Ok(Op::DeleteRange { start, end })
        }
        None => Err(Reject::invalid(format!("operation {at} is empty; give it one of put, delete, delete_range"))),
    }
}

/// A write, to the wire. Values are shared, not copied.
pub fn write_request(route: Route, write: &Write<Bytes>) -> Result<v1::WriteRequest, Reject> {
    Ok(v1::WriteRequest {
        conditions: write.conditions.iter().map(condition_to).collect::<Result<_, _>>()?,
        ops: write.ops.iter().map(op_to).collect::<Result<_, _>>()?,
        request_id: write.request.as_ref().map(request_id_to),
        route: Some(route_to(route)),
    })
}

fn condition_to(condition: &Condition<Bytes>) -> Result<v1::Condition, Reject> {
    use v1::condition::Test;
    let (key, test) = match condition {
        Condition::Exists { key } => (key, Test::Exists(true)),
        Condition::Absent { key } => (key, Test::Absent(true)),
        Condition::VersionIs { key, version } => (key, Test::VersionIs(version.0)),
        Condition::ValueIs { key, value } => (key, Test::ValueIs(value.clone())),
    };
    Ok(v1::Condition { key: user_key(key)?, test: Some(test) })
}

fn op_to(op: &Op<Bytes>) -> Result<v1::Op, Reject> {
    use v1::op::Op as Change;
    let change = match op {
        Op::Put { key, value } => Change::Put(v1::PutOp { key: user_key(key)?, value: value.clone() }),
        Op::Delete { key } => Change::Delete(v1::DeleteOp { key: user_key(key)? }),
        Op::DeleteRange { start, end } => {
            let (start, end) = user_range(&KeyRange::new(start.clone(), end.clone()))?;
            Change::DeleteRange(v1::DeleteRangeOp { start, end })
        }
    };
    Ok(v1::Op { op: Some(change) })
}

/// The answer of one partition to a `Put`.
pub fn put_response(from: Answerer, reply: &WriteReply) -> v1::PutResponse {
    v1::PutResponse { header: Some(header(from, reply.version, 0)), version: reply.version.0 }
}

/// The answer of one partition to a `Delete`.
pub fn delete_response(from: Answerer, reply: &WriteReply) -> v1::DeleteResponse {
    let existed = matches!(reply.results.first(), Some(OpResult::Deleted { existed: true }));
    v1::DeleteResponse { header: Some(header(from, reply.version, 0)), version: reply.version.0, existed }
}

/// The answer of one partition to a `DeleteRange` with a route.
pub fn delete_range_response(from: Answerer, reply: &WriteReply) -> Result<v1::DeleteRangeResponse, Reject> {
    let (deleted, resume) = match reply.results.first() {
        Some(OpResult::DeletedRange { count, resume }) => (*count, resume.as_ref().map(user_key).transpose()?),
        _ => (0, None),
    };
    Ok(v1::DeleteRangeResponse { header: Some(header(from, reply.version, 0)), deleted, resume })
}

/// The answer of one partition to a `Write`.
pub fn write_response(from: Answerer, reply: &WriteReply) -> Result<v1::WriteResponse, Reject> {
    let results = reply.results.iter().map(op_result_to).collect::<Result<_, _>>()?;
    Ok(v1::WriteResponse { header: Some(header(from, reply.version, 0)), version: reply.version.0, results })
}

fn op_result_to(result: &OpResult) -> Result<v1::OpResult, Reject> {
    use v1::op_result::Result as Outcome;
    let outcome = match result {
        OpResult::Put => Outcome::Put(v1::PutResult {}),
        OpResult::Deleted { existed } => Outcome::Delete(v1::DeleteResult { existed: *existed }),
        OpResult::DeletedRange { count, resume } => {
            let resume = resume.as_ref().map(user_key).transpose()?;
            Outcome::DeleteRange(v1::DeleteRangeResult { deleted: *count, resume })
        }
    };
    Ok(v1::OpResult { result: Some(outcome) })
}

/// The reply in a routed `Write`'s response.
pub fn write_reply(response: v1::WriteResponse) -> Result<WriteReply, CallError> {
    use v1::op_result::Result as Outcome;
    let one = |result: v1::OpResult| match result.result {
        Some(Outcome::Put(_)) => Ok(OpResult::Put),
        Some(Outcome::Delete(delete)) => Ok(OpResult::Deleted { existed: delete.existed }),
        Some(Outcome::DeleteRange(range)) => {
            Ok(OpResult::DeletedRange { count: range.deleted, resume: range.resume.map(|key| internal_key(&key)) })
        }
        None => Err(missing("result of an operation")),
    };
    let results = response.results.into_iter().map(one).collect::<Result<_, _>>()?;
    Ok(WriteReply { version: Version(response.version), results })
}

/// The answer to `OpenSession`, with the limits of this build.
pub fn open_session_response(from: Answerer, session: SessionId) -> v1::OpenSessionResponse {
    v1::OpenSessionResponse {
        header: Some(header(from, session.opened, 0)),
        session: Some(session_to(session)),
        limits: Some(v1::SessionLimits {
            replies_max: limits::SESSION_REPLIES_MAX as u32,
            sessions_max: limits::SESSIONS_MAX as u32,
            table_bytes_max: limits::SESSION_TABLE_BYTES_MAX as u64,
            idle_ms_max: limits::SESSION_AGE_MS_MAX,
        }),
    }
}
