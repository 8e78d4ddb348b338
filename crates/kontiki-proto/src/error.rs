//! Errors on the wire: the one place where `CallError` becomes a gRPC status and a status becomes a `CallError` (DESIGN section 9).
//!
//! ```text
//!   CallError --> google.rpc.Status { code, message, details: [ErrorInfo, ErrorDetail, RetryInfo?] }   (proto/kontiki/v1/error.proto)
//!   Status with our details  --> the same CallError
//!   Status without           --> came from the transport: see `from_status`
//! ```
//!
//! Keys in a `CallError` are internal; on the wire they are user keys with their namespace, and the message speaks of user keys.

mod detail;

use std::error::Error as StdError;
use std::time::Duration;

use kontiki_types::{CallError, Error, ErrorKind, Fault, Reject, Retry, key};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::pb;

use crate::v1;

/// The domain of our reasons.
pub const DOMAIN: &str = "kontiki.v1";
/// The type URL of our details.
const DETAIL_URL: &str = "type.googleapis.com/kontiki.v1.ErrorDetail";
const STATUS_INFO_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";
const RETRY_INFO_URL: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Bytes of details in a status. They travel base64 in a header, and HTTP/2 libraries refuse header lists of more than 8 or 16 KiB:
/// a larger error would arrive as a broken connection. What does not fit (large keys, many descriptors) is left out.
const DETAIL_BYTES_MAX: usize = 3 * 1024;
/// Bytes of a status message, for the same reason (percent-encoding may treble it).
const MESSAGE_BYTES_MAX: usize = 1024;
/// The delay for an overload that did not state one (from a proxy, or HTTP/2's ENHANCE_YOUR_CALM), in ms.
const RETRY_AFTER_MS: u64 = 100;

/// How keys appear in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// With their namespace prefix.
    Internal,
    /// As the user wrote them.
    User,
}

/// The status for an error of a replica or of the layers below the client (internal keys).
pub fn to_status(error: &CallError) -> Status {
    status(error, Keys::Internal)
}

/// The status for an error that the client gave (user keys): a node that forwarded a call hands the outcome on.
pub fn error_to_status(error: &Error) -> Status {
    let call = error.source().and_then(|source| source.downcast_ref::<CallError>());
    match call {
        // The kind rules: a client may have turned what it met into something weaker, such as ambiguous.
        Some(call) if Error::from(call.clone()).kind() == error.kind() => status(call, Keys::User),
        _ => status(&of_kind(error), Keys::User),
    }
}

fn of_kind(error: &Error) -> CallError {
    let reason = error.message().to_owned();
    match error.kind() {
        ErrorKind::ConditionFailed | ErrorKind::Invalid | ErrorKind::Session | ErrorKind::Version | ErrorKind::Config => {
            Reject::Invalid { reason }.into()
        }
        ErrorKind::Unavailable | ErrorKind::Stopped => CallError::unavailable(reason),
        ErrorKind::Overloaded => Retry::Overloaded { what: reason, limit: 0, retry_after_ms: RETRY_AFTER_MS }.into(),
        ErrorKind::Ambiguous => CallError::ambiguous(reason),
        // `ErrorKind` may grow; what is not known is a defect here.
        _ => Fault::Invariant(reason).into(),
    }
}

fn status(error: &CallError, keys: Keys) -> Status {
    let message = clip(&in_user_keys(error, keys).to_string(), MESSAGE_BYTES_MAX);
    let (code, reason) = code_and_reason(error);
    let mut detail = detail::encode(error, keys);
    if detail.encoded_len() > DETAIL_BYTES_MAX {
        detail::shorten(&mut detail);
    }
    let info = pb::ErrorInfo { reason: reason.to_owned(), domain: DOMAIN.to_owned(), metadata: Default::default() };
    let mut details = vec![packed(STATUS_INFO_URL, &info), packed(DETAIL_URL, &detail)];
    if let CallError::Retry(Retry::Overloaded { retry_after_ms, .. }) = error {
        let retry_delay = prost_types::Duration::try_from(Duration::from_millis(*retry_after_ms)).ok();
        details.push(packed(RETRY_INFO_URL, &pb::RetryInfo { retry_delay }));
    }
    let rpc = pb::Status { code: code.into(), message: message.clone(), details };
    Status::with_details(code, message, rpc.encode_to_vec().into())
}

fn packed(url: &str, message: &impl Message) -> Any {
    Any { type_url: url.to_owned(), value: message.encode_to_vec() }
}

fn clip(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

/// The same error with user keys, for its message.
fn in_user_keys(error: &CallError, keys: Keys) -> CallError {
    if keys == Keys::User {
        return error.clone();
    }
    let strip = |internal: &kontiki_types::Bytes| match key::split_internal(internal) {
        Some(_) => internal.slice(key::NAMESPACE_PREFIX_BYTES..),
        None => internal.clone(),
    };
    let mut shown = error.clone();
    match &mut shown {
        CallError::Reject(Reject::ConditionFailed { key, .. }) => *key = strip(key),
        CallError::Reject(Reject::CrossPartition { key_a, key_b, .. }) => {
            *key_a = strip(key_a);
            *key_b = strip(key_b);
        }
        _ => {}
    }
    shown
}

/// The table at the head of `error.proto`.
fn code_and_reason(error: &CallError) -> (Code, &'static str) {
    match error {
        CallError::Reject(reject) => match reject {
            Reject::ConditionFailed { .. } => (Code::FailedPrecondition, "CONDITION_FAILED"),
            Reject::TooLarge { .. } => (Code::InvalidArgument, "TOO_LARGE"),
            Reject::Invalid { .. } => (Code::InvalidArgument, "INVALID"),
            Reject::CrossPartition { .. } => (Code::InvalidArgument, "CROSS_PARTITION"),
            Reject::SessionExpired { .. } => (Code::Aborted, "SESSION_EXPIRED"),
            Reject::SessionConflict { .. } => (Code::FailedPrecondition, "SESSION_CONFLICT"),
            Reject::StaleEpoch { .. } => (Code::Aborted, "STALE_EPOCH"),
            Reject::VersionTooOld { .. } => (Code::OutOfRange, "VERSION_TOO_OLD"),
            Reject::VersionInFuture { .. } => (Code::OutOfRange, "VERSION_IN_FUTURE"),
            Reject::OtherCluster { .. } => (Code::FailedPrecondition, "OTHER_CLUSTER"),
        },
        CallError::Retry(retry) => match retry {
            Retry::NotLeader { .. } => (Code::Unavailable, "NOT_LEADER"),
            Retry::UnknownPartition { .. } => (Code::Unavailable, "UNKNOWN_PARTITION"),
            Retry::Unavailable { .. } => (Code::Unavailable, "UNAVAILABLE"),
            Retry::Overloaded { .. } => (Code::ResourceExhausted, "OVERLOADED"),
        },
        CallError::Ambiguous(_) => (Code::Unknown, "AMBIGUOUS"),
        CallError::Fault(fault) => match fault {
            Fault::Io { .. } => (Code::Internal, "FAULT_IO"),
            Fault::Corrupt { .. } => (Code::DataLoss, "FAULT_CORRUPT"),
            Fault::Format { .. } => (Code::DataLoss, "FAULT_FORMAT"),
            Fault::Invariant(_) => (Code::Internal, "FAULT_INVARIANT"),
        },
    }
}

/// What a status says. With our details: exactly the error that was sent (keys internal again). Without, it comes from the transport
/// or from something between, and what it means for a write (`may_apply`) depends on whether the request can have left this process:
///
/// | status | read | write |
/// |---|---|---|
/// | the connection could not be made | unavailable | unavailable: nothing was sent |
/// | `INVALID_ARGUMENT`, `OUT_OF_RANGE` (message too large), `UNIMPLEMENTED`, `UNAUTHENTICATED`, `PERMISSION_DENIED` | invalid | invalid: refused before it was looked at |
/// | `RESOURCE_EXHAUSTED` | overloaded | overloaded: refused by a limit of the connection |
/// | anything else (`UNAVAILABLE`, `CANCELLED`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNKNOWN`, ...) | unavailable | **ambiguous** |
pub fn from_status(status: &Status, may_apply: bool) -> CallError {
    if let Some(error) = from_details(status) {
        return error;
    }
    let reason = told(status);
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied => {
            Reject::Invalid { reason }.into()
        }
        Code::ResourceExhausted => Retry::Overloaded { what: reason, limit: 0, retry_after_ms: RETRY_AFTER_MS }.into(),
        _ if may_apply && !never_sent(status) => CallError::ambiguous(reason),
        _ => CallError::unavailable(reason),
    }
}

/// The status in words, down to its deepest cause: "tcp connect error" says nothing, "Connection refused" does.
fn told(status: &Status) -> String {
    let mut said = format!("{:?}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(error) = source {
        source = error.source();
        let cause = error.to_string();
        if source.is_none() && !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}

fn from_details(status: &Status) -> Option<CallError> {
    if status.details().is_empty() {
        return None;
    }
    let rpc = pb::Status::decode(status.details()).ok()?;
    let packed = rpc.details.iter().find(|any| any.type_url == DETAIL_URL)?;
    detail::decode(v1::ErrorDetail::decode(packed.value.as_slice()).ok()?)
}

/// Whether the request certainly stayed here: no connection could be made.
fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests;
