//! Golden bytes and round trips of everything that Raft stores or sends.

use super::*;
use openraft::Membership as RaftMembership;

fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id }, index }
}

fn membership() -> Membership {
    let nodes: std::collections::BTreeMap<u64, ReplicaNode> =
        [(1, ReplicaNode { node: 10 }), (2, ReplicaNode { node: 20 })].into();
    RaftMembership::new(vec![[1].into(), [1, 2].into()], nodes).expect("valid")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes() {
    assert_eq!(hex(&encode_log_id(&log_id(3, 2, 300))), "010302fb2c01");
    let vote = Vote { leader_id: LeaderId { term: 3, node_id: 2 }, committed: true };
    assert_eq!(hex(&encode_vote(&vote)), "01030201");
    let stored = StoredMembership::new(Some(log_id(1, 1, 0)), membership());
    assert_eq!(hex(&encode_stored_membership(&stored)), "010101010002010102010202010a0214");
    let entry = Entry::new(log_id(258, 2, 9), EntryPayload::Normal(Payload(Bytes::from_static(b"cmd"))));
    let (head, body) = encode_entry(&entry);
    assert_eq!(hex(&head), "010100000000000001020000000000000002");
    assert_eq!(body, Bytes::from_static(b"cmd"));
}

#[test]
fn entries_round_trip_and_share_the_body() {
    let payloads =
        [EntryPayload::Blank, EntryPayload::Normal(Payload(Bytes::from_static(b"x"))), EntryPayload::Membership(membership())];
    for payload in payloads {
        let entry = Entry::new(log_id(7, 3, 5), payload);
        let (head, body) = encode_entry(&entry);
        let stored = Bytes::from([head, body].concat());
        let back = decode_entry(5, &stored).expect("decodes");
        assert_eq!(back.log_id, entry.log_id);
        assert_eq!(back.payload, entry.payload);
    }
}

#[test]
fn bad_entries_are_faults_that_name_the_index() {
    for bytes in [&b""[..], &[1, 1], &[9; 18], &[1, 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]] {
        let fault = decode_entry(42, &Bytes::copy_from_slice(bytes)).expect_err("bad");
        assert!(fault.to_string().contains("log entry 42"), "{fault}");
    }
}

#[test]
fn messages_round_trip() {
    let request = AppendRequest {
        vote: Vote { leader_id: LeaderId { term: 3, node_id: 2 }, committed: true },
        prev_log_id: Some(log_id(2, 1, 8)),
        entries: vec![Entry::new(log_id(3, 2, 9), EntryPayload::Normal(Payload(Bytes::from_static(b"cmd"))))],
        leader_commit: None,
    };
    let (payload, attachments) = encode_append(&request);
    let identity = crate::identity::Identity {
        cluster: kontiki_types::ClusterId::default(),
        node: kontiki_types::NodeId(1),
        store: kontiki_types::StoreId::default(),
        incarnation: kontiki_types::partition::Incarnation::UNKNOWN,
        members: std::sync::Arc::new(crate::testing::Acquaintance::default()),
    };
    let (partition, replica) = (kontiki_types::PartitionId(2), kontiki_types::ReplicaId(3));
    let from = crate::network::Sender { identity, partition, replica };
    let to = (kontiki_types::NodeId(4), kontiki_types::ReplicaId(5));
    let mut message = from.envelope(to.0, to.1, kind::APPEND, payload, attachments);
    let back = decode_append(&message).expect("decodes");
    assert_eq!(back.vote, request.vote);
    assert_eq!(back.prev_log_id, request.prev_log_id);
    assert_eq!(back.entries, request.entries);
    message.attachments.clear();
    assert!(matches!(decode_append(&message), Err(TransportError::Rejected { .. })), "a missing body is refused");

    for reply in [
        Ok(Some(log_id(1, 2, 3))),
        Ok(None),
        Err(StreamAppendError::Conflict(log_id(1, 2, 3))),
        Err(StreamAppendError::HigherVote(request.vote)),
    ] {
        assert_eq!(decode_append_reply(&encode_append_reply(&reply)).expect("decodes"), reply);
    }
    let transfer = TransferRequest::new(request.vote, 7, Some(log_id(1, 2, 3)));
    assert_eq!(decode_transfer(&encode_transfer(&transfer)).expect("decodes"), transfer);
    let mut vote = VoteRequest::new(request.vote, Some(log_id(1, 2, 3)));
    vote.leadership_transfer = true;
    assert_eq!(decode_vote_request(&encode_vote_request(&vote)).expect("decodes"), vote);
}
