//! Sessions: who asks, and which request of theirs this is, so that a retry is applied once (DESIGN section 7).
//!
//! ```text
//!   Sessions -- one per partition --> Session { id, book }        opened lazily, shared by all callers of the client
//!                                        | begin                  a number that was never used
//!                                        v
//!                                      Ticket --drop--> the number is done: `acknowledged_below` may pass it
//! ```
//!
//! **Invariants.** A number is given once and stands for one content for ever. The numbers from the oldest outstanding one to the newest
//! never span more than the store remembers (`limits::SESSION_REPLIES_MAX`), so that no reply that is still wanted is forgotten.
//! A caller who stops waiting gives its number up: should the request arrive later, the store refuses it as too old.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kontiki_types::limits::SESSION_REPLIES_MAX;
use kontiki_types::{CallError, PartitionId, RequestId, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The numbers of one session. Pure.
#[derive(Debug)]
struct Book {
    next: u64,
    outstanding: BTreeSet<u64>,
    span_max: u64,
}

impl Book {
    fn new(span_max: u64) -> Self {
        Self { next: 1, outstanding: BTreeSet::new(), span_max }
    }

    /// Every number below it is done.
    fn floor(&self) -> u64 {
        self.outstanding.first().copied().unwrap_or(self.next)
    }

    fn begin(&mut self) -> Option<u64> {
        if self.next - self.floor() >= self.span_max {
            return None;
        }
        let sequence = self.next;
        self.next += 1;
        self.outstanding.insert(sequence);
        Some(sequence)
    }

    fn finish(&mut self, sequence: u64) {
        self.outstanding.remove(&sequence);
    }
}

/// One open session.
#[derive(Debug)]
struct Session {
    id: SessionId,
    book: Mutex<Book>,
    /// Told when a number is done.
    room: Notify,
}

impl Session {
    fn begin(self: &Arc<Self>) -> Option<Ticket> {
        let sequence = self.book.lock().begin()?;
        Some(Ticket { session: Arc::clone(self), sequence })
    }
}

/// One request's number. Dropping it says that nobody waits for the answer any more.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: Arc<Session>,
    sequence: u64,
}

impl Ticket {
    /// The request id for the next attempt: the number stays, `acknowledged_below` is as fresh as can be.
    pub(crate) fn request_id(&self) -> RequestId {
        let acknowledged_below = self.session.book.lock().floor();
        RequestId { session: self.session.id, sequence: self.sequence, acknowledged_below }
    }

    /// The session that the number belongs to.
    pub(crate) fn session(&self) -> SessionId {
        self.session.id
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.session.book.lock().finish(self.sequence);
        self.session.room.notify_waiters();
    }
}

/// One partition's place for a session.
#[derive(Debug, Default)]
struct Slot {
    current: Mutex<Option<Arc<Session>>>,
    /// Held while one is being opened, so that callers who come together open one.
    opening: tokio::sync::Mutex<()>,
}

/// The sessions of one client.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: Mutex<HashMap<PartitionId, Arc<Slot>>>,
}

impl Sessions {
    /// A number in the client's session with `partition`; opens the session with `open` if there is none, and waits while the session
    /// is full. No deadline of its own. Fails only as `open` does.
    pub(crate) async fn begin<O>(&self, partition: PartitionId, open: O) -> Result<Ticket, CallError>
    where
        O: AsyncFnOnce() -> Result<SessionId, CallError>,
    {
        let slot = Arc::clone(self.slots.lock().entry(partition).or_default());
        let mut open = Some(open);
        loop {
            let session = slot.current.lock().clone();
            let session = match session {
                Some(session) => session,
                None => {
                    let _one = slot.opening.lock().await;
                    let opened = slot.current.lock().clone();
                    match (opened, open.take()) {
                        (Some(session), kept) => {
                            open = kept;
                            session
                        }
                        (None, Some(open)) => slot.install(open().await?),
                        (None, None) => return Err(CallError::unavailable("the session just opened is gone again")),
                    }
                }
            };
            if let Some(ticket) = session.begin() {
                return Ok(ticket);
            }
            // Registered before the second look, so that no news is lost between the two.
            let mut room = std::pin::pin!(session.room.notified());
            room.as_mut().enable();
            if let Some(ticket) = session.begin() {
                return Ok(ticket);
            }
            room.await;
        }
    }

    /// Forgets a session that the store has forgotten. Requests under it go on to their end; new ones open another.
    pub(crate) fn retire(&self, partition: PartitionId, session: SessionId) {
        let Some(slot) = self.slots.lock().get(&partition).cloned() else { return };
        let mut current = slot.current.lock();
        if let Some(gone) = current.take_if(|known| known.id == session) {
            gone.room.notify_waiters();
        }
    }
}

impl Slot {
    fn install(&self, id: SessionId) -> Arc<Session> {
        let book = Mutex::new(Book::new(SESSION_REPLIES_MAX as u64));
        let session = Arc::new(Session { id, book, room: Notify::new() });
        *self.current.lock() = Some(Arc::clone(&session));
        session
    }
}

#[cfg(test)]
mod tests {
    use kontiki_types::Version;
    use proptest::prelude::*;

    use super::*;

    const P: PartitionId = PartitionId(2);

    fn id(opened: u64) -> SessionId {
        SessionId { partition: P, opened: Version(opened) }
    }

    #[tokio::test]
    async fn callers_who_come_together_open_one_session() {
        let sessions = Sessions::default();
        let opened = std::sync::atomic::AtomicU64::new(0);
        let begin = || {
            sessions.begin(P, async || {
                tokio::task::yield_now().await;
                Ok(id(1 + opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst)))
            })
        };
        let (a, b, c) = tokio::join!(begin(), begin(), begin());
        let mut numbers: Vec<_> = [&a, &b, &c].map(|t| t.as_ref().expect("opened").request_id().sequence).into();
        numbers.sort_unstable();
        assert_eq!((numbers, opened.into_inner()), (vec![1, 2, 3], 1));
    }

    #[tokio::test]
    async fn an_opening_that_fails_is_told_and_the_next_caller_opens() {
        let sessions = Sessions::default();
        let error = sessions.begin(P, async || Err(CallError::unavailable("no"))).await.expect_err("not opened");
        assert!(error.to_string().contains("no"));
        let ticket = sessions.begin(P, async || Ok(id(5))).await.expect("opened");
        assert_eq!(ticket.session(), id(5));
    }

    #[tokio::test]
    async fn acknowledged_below_is_the_oldest_that_is_still_waited_for() {
        let sessions = Sessions::default();
        let begin = || sessions.begin(P, async || Ok(id(1)));
        let first = begin().await.expect("1");
        let second = begin().await.expect("2");
        assert_eq!(second.request_id().acknowledged_below, 1);
        drop(first);
        assert_eq!(second.request_id(), RequestId { session: id(1), sequence: 2, acknowledged_below: 2 });
        drop(second);
        assert_eq!(begin().await.expect("3").request_id().acknowledged_below, 3);
    }

    #[tokio::test]
    async fn a_full_session_makes_callers_wait_for_the_oldest() {
        let sessions = Arc::new(Sessions::default());
        let mut held = Vec::new();
        for _ in 0..SESSION_REPLIES_MAX {
            held.push(sessions.begin(P, async || Ok(id(1))).await.expect("room"));
        }
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.begin(P, async || Ok(id(2))).await.map(|ticket| ticket.request_id().sequence) }
        });
        drop(held.pop());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the oldest still holds the window");
        drop(held.remove(0));
        let sequence = waiting.await.expect("no panic").expect("room");
        assert_eq!(sequence, SESSION_REPLIES_MAX as u64 + 1);
    }

    #[tokio::test]
    async fn a_retired_session_is_replaced_and_its_waiters_move_on() {
        let sessions = Arc::new(Sessions::default());
        let mut held = Vec::new();
        for _ in 0..SESSION_REPLIES_MAX {
            held.push(sessions.begin(P, async || Ok(id(1))).await.expect("room"));
        }
        let waiting = tokio::spawn({
            let sessions = Arc::clone(&sessions);
            async move { sessions.begin(P, async || Ok(id(9))).await.map(|ticket| ticket.request_id()) }
        });
        tokio::task::yield_now().await;
        sessions.retire(P, id(7));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "another session's end is not ours");
        sessions.retire(P, id(1));
        let request = waiting.await.expect("no panic").expect("room");
        assert_eq!((request.session, request.sequence), (id(9), 1));
    }

    proptest! {
        #[test]
        fn numbers_are_never_given_twice_and_the_span_is_bounded(steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 1..300)) {
            let mut book = Book::new(8);
            let mut given = BTreeSet::new();
            let mut open: Vec<u64> = Vec::new();
            for (begin, which) in steps {
                if begin {
                    if let Some(sequence) = book.begin() {
                        prop_assert!(given.insert(sequence));
                        open.push(sequence);
                    } else {
                        prop_assert!(!open.is_empty(), "an idle session has room");
                    }
                } else if !open.is_empty() {
                    book.finish(open.swap_remove(usize::from(which) % open.len()));
                }
                let floor = book.floor();
                prop_assert!(open.iter().all(|sequence| *sequence >= floor && *sequence < floor + 8));
                prop_assert!(floor <= book.next);
            }
        }
    }
}
