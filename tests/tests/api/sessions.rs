//! Exactly once, with request ids of one's own: a retry gets the first answer, what is too old is refused, and two clients in one
//! session are told so.

use futures::StreamExt as _;
use kontiki_client::WriteBatch;
use kontiki_types::{ErrorKind, Reject, RequestId, SessionId, Version};

use crate::case::{Case, refused};

fn request(session: SessionId, sequence: u64, acknowledged_below: u64) -> Option<RequestId> {
    Some(RequestId { session, sequence, acknowledged_below })
}

async fn session(case: &Case, name: &str) -> SessionId {
    let session = case.client.open_session(case.key(name)).await.expect("a session").value;
    assert_eq!(session.partition, case.partition(name));
    session
}

/// A request that is repeated is applied once, also if others wrote meanwhile, and whatever it was answered.
pub async fn retries(case: &Case) {
    let (key, session) = (case.key("a/once"), session(case, "a/once").await);
    let put = |value: &'static str| WriteBatch::new().put(key.clone(), value);
    let first = case.client.write_with(put("first"), request(session, 1, 0)).await.expect("write").value;
    let other = case.put("a/once", "other").await;
    for _ in 0..3 {
        let again = case.client.write_with(put("first"), request(session, 1, 0)).await.expect("the first answer").value;
        assert_eq!(again, first);
    }
    let row = case.client.get(key.clone()).await.expect("get").expect("it was put");
    assert_eq!((row.value.as_ref(), row.version), (&b"other"[..], other), "the retry changed nothing");

    // A refusal is an answer too: it does not turn into success when the condition holds later.
    let absent = || WriteBatch::new().if_absent(key.clone()).put(key.clone(), "second");
    let sentence = format!("condition 0 on key `{key}` failed: the key has version {other}; read it again and decide anew");
    refused(case.client.write_with(absent(), request(session, 2, 0)).await, ErrorKind::ConditionFailed, &sentence);
    case.client.delete(key.clone()).await.expect("delete");
    refused(case.client.write_with(absent(), request(session, 2, 0)).await, ErrorKind::ConditionFailed, &sentence);
    assert_eq!(case.get("a/once").await, None);
    case.client.write_with(absent(), request(session, 3, 0)).await.expect("another request");

    let delete = || WriteBatch::new().delete(key.clone()).delete_range(case.key("a/once/"), case.key("a/once0"));
    let gone = case.client.write_with(delete(), request(session, 4, 0)).await.expect("delete").value;
    let again = case.client.write_with(delete(), request(session, 4, 0)).await.expect("the first answer").value;
    assert_eq!(gone, again, "it existed, also for the retry");
}

/// A request id that is too old, or of a session that nobody opened, is refused and not applied.
pub async fn too_old(case: &Case) {
    let (key, own) = (case.key("i/old"), session(case, "i/old").await);
    let put = |value: &'static str| WriteBatch::new().put(key.clone(), value);
    let expired = |session: SessionId, sequence: u64| {
        format!(
            "session {session} or its request {sequence} is older than the store remembers: whether it was applied is not known any more; \
             open a new session, read, and decide anew"
        )
    };
    case.client.write_with(put("1"), request(own, 1, 0)).await.expect("write");
    let second = case.client.write_with(put("2"), request(own, 2, 2)).await.expect("write").value;
    // The client said that it has the answers below 2.
    let error = refused(case.client.write_with(put("1"), request(own, 1, 0)).await, ErrorKind::Session, &expired(own, 1));
    assert!(matches!(error.reject(), Some(Reject::SessionExpired { sequence: 1, .. })), "{error:?}");
    let again = case.client.write_with(put("2"), request(own, 2, 2)).await.expect("the first answer").value;
    assert_eq!(again, second);

    let nobody = SessionId { partition: case.partition("i/old"), opened: Version(12345) };
    refused(case.client.write_with(put("3"), request(nobody, 1, 0)).await, ErrorKind::Session, &expired(nobody, 1));
    // A session is valid at the partition that opened it.
    let elsewhere = session(case, "q/old").await;
    refused(case.client.write_with(put("3"), request(elsewhere, 1, 0)).await, ErrorKind::Session, &expired(elsewhere, 1));
    assert_eq!(case.get("i/old").await.as_deref(), Some("2"));

    for (sequence, below) in [(0, 0), (3, 4)] {
        let sentence = format!(
            "invalid request: request number {sequence} with acknowledged_below {below}: numbers start at 1, and acknowledged_below is at \
             most the number"
        );
        refused(case.client.write_with(put("3"), request(own, sequence, below)).await, ErrorKind::Invalid, &sentence);
    }
}

/// More open requests than a session remembers: the oldest answers are gone, and a retry of them is refused rather than applied.
pub async fn window(case: &Case) {
    let (key, session) = (case.key("q/window"), session(case, "q/window").await);
    let write = |sequence: u64| {
        let batch = WriteBatch::new().put(key.clone(), sequence.to_string());
        case.client.write_with(batch, request(session, sequence, 0))
    };
    // Many at once, but fewer than are remembered: none falls out of the window before it is applied.
    let mut writes = futures::stream::iter((1..=1100).map(write)).buffered(64);
    while let Some(result) = writes.next().await {
        result.expect("write");
    }
    let before = case.get("q/window").await;
    let sentence = format!(
        "session {session} or its request 1 is older than the store remembers: *; open a new session, read, and decide anew"
    );
    refused(write(1).await, ErrorKind::Session, &sentence);
    write(1100).await.expect("the newest is remembered");
    assert_eq!(case.get("q/window").await, before, "neither was applied again");
}

/// Two clients in one session use the same number for different requests: the second is told so, and nothing of it is written.
pub async fn shared(case: &Case) {
    let (key, session) = (case.key("a/shared"), session(case, "a/shared").await);
    let put = |value: &'static str| WriteBatch::new().put(key.clone(), value);
    case.client.write_with(put("mine"), request(session, 7, 0)).await.expect("write");
    let sentence = format!(
        "session {session} has used number 7 for a different request: two clients share one session; give each client a session of its own"
    );
    let error = refused(case.client.write_with(put("yours"), request(session, 7, 0)).await, ErrorKind::Session, &sentence);
    assert!(matches!(error.reject(), Some(Reject::SessionConflict { sequence: 7, .. })), "{error:?}");
    let more = put("mine").if_exists(key.clone());
    refused(case.client.write_with(more, request(session, 7, 0)).await, ErrorKind::Session, &sentence);
    assert_eq!(case.get("a/shared").await.as_deref(), Some("mine"));
}
