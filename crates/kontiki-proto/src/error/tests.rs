//! Errors survive the wire: every kind comes back as it was sent, in the code that gRPC users expect.

use kontiki_types::partition::initial_partitions;
use kontiki_types::{Ambiguous, Bytes, ClusterId, NamespaceId, NodeId, PartitionId, SessionId, Version};
use proptest::option;
use proptest::prelude::*;
use tonic_types::StatusExt;

use super::*;

fn same(a: &CallError, b: &CallError) -> bool {
    match (a, b) {
        (CallError::Reject(a), CallError::Reject(b)) => a == b,
        (CallError::Retry(a), CallError::Retry(b)) => a == b,
        (CallError::Ambiguous(a), CallError::Ambiguous(b)) => a == b,
        (CallError::Fault(a), CallError::Fault(b)) => a.to_string() == b.to_string() && a.is_disk_full() == b.is_disk_full(),
        _ => false,
    }
}

fn internal() -> impl Strategy<Value = Bytes> {
    (any::<u32>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(ns, user)| key::internal(NamespaceId(ns), &user))
}

fn reject() -> impl Strategy<Value = Reject> {
    let session = any::<(u64, u64)>().prop_map(|(p, v)| SessionId { partition: PartitionId(p), opened: Version(v) });
    let version = || any::<u64>().prop_map(Version);
    let id = || any::<u64>().prop_map(PartitionId);
    let cuts = proptest::collection::btree_set("[a-z]{1,6}", 0..4);
    let descriptors = cuts.prop_map(|cuts| {
        let cuts: Vec<Bytes> = cuts.into_iter().map(Bytes::from).collect();
        initial_partitions(&cuts, &[NodeId(1), NodeId(2)])
    });
    prop_oneof![
        (any::<u32>(), internal(), option::of(version())).prop_map(|(index, key, version)| Reject::ConditionFailed {
            index,
            key,
            version
        }),
        ("[a-z ]{0,30}", any::<u64>(), any::<u64>()).prop_map(|(what, actual, limit)| Reject::TooLarge { what, actual, limit }),
        ".{0,60}".prop_map(|reason| Reject::Invalid { reason }),
        (session.clone(), any::<u64>()).prop_map(|(session, sequence)| Reject::SessionExpired { session, sequence }),
        (session, any::<u64>()).prop_map(|(session, sequence)| Reject::SessionConflict { session, sequence }),
        (id(), descriptors).prop_map(|(partition, descriptors)| Reject::StaleEpoch { partition, descriptors }),
        (internal(), id(), internal(), id()).prop_map(|(key_a, first, key_b, second)| Reject::CrossPartition {
            key_a,
            first,
            key_b,
            second
        }),
        (version(), version()).prop_map(|(version, oldest)| Reject::VersionTooOld { version, oldest }),
        (version(), version()).prop_map(|(version, newest)| Reject::VersionInFuture { version, newest }),
        (any::<[u8; 16]>(), any::<[u8; 16]>())
            .prop_map(|(asked, here)| Reject::OtherCluster { asked: ClusterId(asked), here: ClusterId(here) }),
    ]
}

fn error() -> impl Strategy<Value = CallError> {
    let id = || any::<u64>().prop_map(PartitionId);
    let text = || ".{0,60}";
    let io = (text(), text(), any::<bool>()).prop_map(|(action, message, full)| {
        let kind = if full { std::io::ErrorKind::StorageFull } else { std::io::ErrorKind::Other };
        Fault::io(action, std::io::Error::new(kind, message)).into()
    });
    prop_oneof![
        6 => reject().prop_map(CallError::from),
        1 => (id(), option::of(any::<u64>().prop_map(NodeId)))
            .prop_map(|(partition, leader)| Retry::NotLeader { partition, leader }.into()),
        1 => id().prop_map(|partition| Retry::UnknownPartition { partition }.into()),
        1 => text().prop_map(CallError::unavailable),
        1 => (text(), any::<u64>(), 0..100_000u64)
            .prop_map(|(what, limit, retry_after_ms)| Retry::Overloaded { what, limit, retry_after_ms }.into()),
        1 => text().prop_map(CallError::ambiguous),
        1 => io,
        1 => (text(), text()).prop_map(|(place, detail)| Fault::corrupt(place, detail).into()),
        1 => (text(), any::<u8>(), any::<u8>(), text())
            .prop_map(|(place, found, known, advice)| Fault::Format { place, found, known, advice }.into()),
        1 => text().prop_map(|message| Fault::Invariant(message).into()),
    ]
}

/// As it arrives: through the headers of a response.
fn over_the_wire(status: &Status) -> Status {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).expect("fits into headers");
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size < 8 * 1024, "{size} bytes of headers: some HTTP/2 libraries refuse that");
    Status::from_header_map(&headers).expect("a status")
}

proptest! {
    #[test]
    fn every_error_comes_back_as_it_was(error in error(), write: bool) {
        let status = over_the_wire(&to_status(&error));
        let back = from_status(&status, write);
        prop_assert!(same(&error, &back), "{error:?} came back as {back:?}");
    }
}

#[test]
fn codes_and_reasons_are_what_the_proto_file_says() {
    let text = include_str!("../../../../proto/kontiki/v1/error.proto");
    let session = SessionId { partition: PartitionId(2), opened: Version(3) };
    let (partition, key) = (PartitionId(2), key::internal(NamespaceId::DEFAULT, b"k"));
    let errors: Vec<CallError> = vec![
        Reject::ConditionFailed { index: 0, key: key.clone(), version: None }.into(),
        Reject::TooLarge { what: "x".into(), actual: 2, limit: 1 }.into(),
        Reject::invalid("x").into(),
        Reject::CrossPartition { key_a: key.clone(), first: partition, key_b: key, second: partition }.into(),
        Reject::SessionExpired { session, sequence: 1 }.into(),
        Reject::SessionConflict { session, sequence: 1 }.into(),
        Reject::StaleEpoch { partition, descriptors: vec![] }.into(),
        Reject::VersionTooOld { version: Version(1), oldest: Version(2) }.into(),
        Reject::VersionInFuture { version: Version(2), newest: Version(1) }.into(),
        Reject::OtherCluster { asked: ClusterId([1; 16]), here: ClusterId([2; 16]) }.into(),
        Retry::NotLeader { partition, leader: None }.into(),
        Retry::UnknownPartition { partition }.into(),
        CallError::unavailable("x"),
        Retry::Overloaded { what: "x".into(), limit: 1, retry_after_ms: 5 }.into(),
        CallError::ambiguous("x"),
        Fault::corrupt("x", "y").into(),
        Fault::Format { place: "x".into(), found: 2, known: 1, advice: "y".into() }.into(),
        Fault::io("x", std::io::Error::other("y")).into(),
        Fault::Invariant("x".into()).into(),
    ];
    for error in &errors {
        let status = to_status(error);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!(info.domain, DOMAIN);
        let line =
            text.lines().find(|line| line.starts_with(&format!("//   {} ", info.reason))).unwrap_or_else(|| panic!("{info:?}"));
        let code: String = format!("{:?}", status.code()).to_uppercase();
        assert_eq!(line.split_whitespace().nth(2).expect("a code").replace('_', ""), code, "{}", info.reason);
    }
    let is_code = |word: &str| word.len() > 6 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let rows = text.lines().filter(|line| line.starts_with("//   ") && line.split_whitespace().nth(2).is_some_and(is_code));
    assert_eq!(rows.count(), errors.len(), "every row of the table is tested");
}

#[test]
fn an_overload_says_when_to_come_back_in_googles_words() {
    let error = Retry::Overloaded { what: "proposals".into(), limit: 8, retry_after_ms: 250 }.into();
    let info = to_status(&error).get_details_retry_info().expect("a RetryInfo");
    assert_eq!(info.retry_delay, Some(Duration::from_millis(250)));
}

#[test]
fn messages_speak_of_user_keys() {
    let key = key::internal(NamespaceId::DEFAULT, b"user/7");
    let error = Reject::ConditionFailed { index: 0, key, version: Some(Version(5)) }.into();
    assert!(to_status(&error).message().contains("key `user/7` failed"), "{}", to_status(&error).message());
    let public: Error = Reject::ConditionFailed { index: 0, key: "user/7".into(), version: None }.into();
    let status = error_to_status(&public);
    assert!(status.message().contains("key `user/7` failed"));
    let CallError::Reject(Reject::ConditionFailed { key, .. }) = from_status(&status, true) else { panic!("{status:?}") };
    assert_eq!(key, key::internal(NamespaceId::DEFAULT, b"user/7"), "internal again below the client");
}

#[test]
fn what_would_not_fit_into_headers_is_left_out() {
    let large = Bytes::from(vec![b'k'; 16 * 1024]);
    let key = key::internal(NamespaceId::DEFAULT, &large);
    let status = over_the_wire(&to_status(&Reject::ConditionFailed { index: 3, key: key.clone(), version: None }.into()));
    let CallError::Reject(Reject::ConditionFailed { index: 3, key: none, .. }) = from_status(&status, true) else {
        panic!("{status:?}")
    };
    assert!(none.is_empty(), "the caller knows it by its index");
    let cuts: Vec<Bytes> = (0..200).map(|n| Bytes::from(format!("{n:0>64}"))).collect();
    let descriptors = initial_partitions(&cuts, &[NodeId(1)]);
    let status = over_the_wire(&to_status(&Reject::StaleEpoch { partition: PartitionId(2), descriptors }.into()));
    let back = from_status(&status, true);
    assert!(same(&back, &Reject::StaleEpoch { partition: PartitionId(2), descriptors: vec![] }.into()), "{back:?}");
    over_the_wire(&to_status(&CallError::unavailable("\u{e4}".repeat(100_000))));
}

#[test]
fn a_client_error_is_handed_on_by_its_kind() {
    let met = CallError::unavailable("no quorum");
    let weaker = Error::with_source(ErrorKind::Ambiguous, "in doubt", met.clone());
    assert!(matches!(from_status(&error_to_status(&weaker), true), CallError::Ambiguous(Ambiguous { .. })));
    assert_eq!(error_to_status(&Error::from(met)).code(), Code::Unavailable);
    assert_eq!(error_to_status(&Error::new(ErrorKind::Stopped, "stopped")).code(), Code::Unavailable);
    assert_eq!(error_to_status(&Error::new(ErrorKind::Internal, "defect")).code(), Code::Internal);
}

#[test]
fn a_status_without_details_is_ambiguous_only_for_writes_that_may_have_left() {
    for code in [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded, Code::Internal, Code::Unknown] {
        let status = Status::new(code, "from the transport");
        assert!(matches!(from_status(&status, true), CallError::Ambiguous(_)), "{code:?}");
        assert!(matches!(from_status(&status, false), CallError::Retry(Retry::Unavailable { .. })), "{code:?}");
    }
    let refused = Status::from_error(Box::new(tonic::ConnectError("connection refused".into())));
    assert!(matches!(from_status(&refused, true), CallError::Retry(Retry::Unavailable { .. })));
    let malformed = Status::unimplemented("no such method");
    assert!(matches!(from_status(&malformed, true), CallError::Reject(Reject::Invalid { .. })));
    let garbage = Status::with_details(Code::Aborted, "x", Bytes::from_static(b"\xff\xff\xff"));
    assert!(matches!(from_status(&garbage, true), CallError::Ambiguous(_)));
}
