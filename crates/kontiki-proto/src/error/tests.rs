//! Errors survive the wire.

use super::*;

#[test]
fn a_status_without_details_is_ambiguous_only_for_writes() {
    let status = Status::unavailable("connection reset");
    assert!(matches!(from_status(&status, true), CallError::Ambiguous(_)));
    assert!(matches!(from_status(&status, false), CallError::Retry(Retry::Unavailable { .. })));
}
