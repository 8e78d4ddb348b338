//! Every way in which a message may not fit, and which end it blames.

use std::collections::HashMap;

use bytes::Bytes;
use kontiki_types::ReplicaId;
use parking_lot::Mutex;

use super::*;

#[derive(Default)]
struct Known {
    members: HashMap<NodeId, Member>,
    suspected: Mutex<Vec<Suspicion>>,
}

impl Members for Known {
    fn member(&self, node: NodeId) -> Option<Member> {
        self.members.get(&node).copied()
    }

    fn suspect(&self, suspicion: Suspicion) {
        self.suspected.lock().push(suspicion);
    }
}

const START: Incarnation = Incarnation { starts: 5, nonce: 50 };

fn receiver(known: Member) -> (Identity, Arc<Known>) {
    let members = Arc::new(Known { members: [(NodeId(2), known)].into(), ..Known::default() });
    let store = StoreId([1; 16]);
    let identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(1), store, incarnation: START, members: members.clone() };
    (identity, members)
}

fn message() -> Envelope {
    Envelope {
        cluster: ClusterId([7; 16]),
        from_node: NodeId(2),
        from_store: StoreId([2; 16]),
        from_incarnation: Incarnation { starts: 3, nonce: 30 },
        to_node: NodeId(1),
        to_store: StoreId([1; 16]),
        to_incarnation: START,
        partition: PartitionId(2),
        from_replica: ReplicaId(2),
        to_replica: ReplicaId(1),
        kind: 1,
        format: MESSAGE_FORMAT,
        payload: Bytes::new(),
        attachments: vec![],
    }
}

fn known() -> Member {
    let incarnation = Incarnation { starts: 3, nonce: 30 };
    Member { store: Some(StoreId([2; 16])), incarnation, state: NodeState::Active }
}

fn refusal(known: Member, message: &Envelope) -> Option<(Refusal, String)> {
    match receiver(known).0.check(message) {
        Err(TransportError::Rejected { refusal, why }) => Some((refusal, why)),
        other => {
            assert_eq!(other, Ok(()));
            None
        }
    }
}

#[test]
fn what_fits_passes_also_where_little_is_known() {
    assert_eq!(refusal(known(), &message()), None);
    assert_eq!(refusal(Member::default(), &message()), None, "nothing is known of the sender yet");
    let quiet = Envelope {
        from_store: StoreId::default(),
        from_incarnation: Incarnation::UNKNOWN,
        to_store: StoreId::default(),
        to_incarnation: Incarnation::UNKNOWN,
        ..message()
    };
    assert_eq!(refusal(known(), &quiet), None, "who says nothing does not lie");
    let restarted = Envelope { from_incarnation: Incarnation { starts: 4, nonce: 1 }, ..message() };
    assert_eq!(refusal(known(), &restarted), None, "it has restarted since the map was written");
    let stale = Envelope { to_incarnation: Incarnation { starts: 4, nonce: 1 }, ..message() };
    assert_eq!(refusal(known(), &stale), None, "the sender's map is older than this start");
    assert_eq!(refusal(Member { state: NodeState::Leaving, ..known() }, &message()), None);
}

#[test]
fn what_does_not_fit_is_refused_and_says_who_is_wrong() {
    let cases = [
        (known(), Envelope { cluster: ClusterId([8; 16]), ..message() }, Refusal::Misdelivered, "of cluster"),
        (known(), Envelope { to_node: NodeId(3), ..message() }, Refusal::Misdelivered, "meant for n3"),
        (known(), Envelope { to_store: StoreId([9; 16]), ..message() }, Refusal::ReceiverReplaced, "meant for store"),
        (
            known(),
            Envelope { to_incarnation: Incarnation { starts: 6, nonce: 1 }, ..message() },
            Refusal::ReceiverReplaced,
            "meant for start 6",
        ),
        (
            known(),
            Envelope { to_incarnation: Incarnation { nonce: 51, ..START }, ..message() },
            Refusal::ReceiverReplaced,
            "an older copy",
        ),
        (known(), Envelope { format: 99, ..message() }, Refusal::Malformed, "message format 99"),
        (known(), Envelope { from_store: StoreId([9; 16]), ..message() }, Refusal::SenderReplaced, "registered with store"),
        (
            known(),
            Envelope { from_incarnation: Incarnation { starts: 2, nonce: 30 }, ..message() },
            Refusal::SenderOutdated,
            "comes from start 2",
        ),
        (
            known(),
            Envelope { from_incarnation: Incarnation { starts: 3, nonce: 31 }, ..message() },
            Refusal::SenderOutdated,
            "started twice",
        ),
        (Member { state: NodeState::Lost, ..known() }, message(), Refusal::SenderRemoved, "n2 is lost"),
        (Member { state: NodeState::Gone, ..known() }, message(), Refusal::SenderRemoved, "n2 is gone"),
    ];
    for (known, message, expected, words) in cases {
        let (refusal, why) = refusal(known, &message).unwrap_or_else(|| panic!("{words}: not refused"));
        assert_eq!(refusal, expected, "{why}");
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn being_called_a_misfit_is_a_question_and_nothing_more() {
    let (identity, members) = receiver(known());
    let forged = Envelope { to_incarnation: Incarnation { starts: 99, nonce: 1 }, ..message() };
    assert!(identity.check(&forged).is_err());
    assert!(matches!(&members.suspected.lock()[..], [Suspicion::Misfit { by: NodeId(2), why }] if why.contains("start 99")));
    assert_eq!(identity.check(&message()), Ok(()), "it goes on taking messages");
    identity.note_refused(NodeId(2), &TransportError::refused(Refusal::SenderOutdated, "you are an older copy"));
    identity.note_refused(NodeId(2), &TransportError::refused(Refusal::Misdelivered, "an address"));
    identity.note_refused(NodeId(2), &TransportError::Unreachable("down".into()));
    assert_eq!(members.suspected.lock().len(), 2, "only what speaks of us");
}
