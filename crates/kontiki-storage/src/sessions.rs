//! Sessions: the table that makes a retry apply once (Ongaro, "Consensus: Bridging Theory and Practice", section 6.3).
//!
//! ```text
//!   write ─► admit ─┬─ New        run it, then remember its reply        sequence   reply
//!                   ├─ Known      the first reply again                  below 7    forgotten: the client has them
//!                   └─ Refused    expired, or two clients in one session 7, 9, 12   remembered
//! ```
//!
//! The table lives in memory and, one record per session, in the engine; a changed session is written in the batch of the write
//! that changed it. So what is remembered and what was done can never disagree.
//!
//! **Deterministic:** every replica forgets the same sessions at the same log entry, because only versions and sizes decide, never a
//! clock. The limits used here are therefore part of the format: changing one needs every replica to change at the same entry.
//!
//! - A session is *used* when it is opened and when a write of it is remembered; a retry changes nothing.
//! - Too many sessions, or too many bytes: the least recently used go first. Unused for too long by the partition's own clock: gone.
//! - Too many replies in one session, or too many bytes: its lowest sequence numbers go first, and with them everything below.
//! - A forgotten request is answered `SessionExpired`, never run a second time.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kontiki_types::limits::{SESSION_AGE_MS_MAX, SESSION_BYTES_MAX, SESSION_REPLIES_MAX, SESSION_TABLE_BYTES_MAX, SESSIONS_MAX};
use kontiki_types::{
    ClockKind, Condition, Fault, Op, OpResult, PartitionId, Reject, RequestId, SessionId, Version, Write, WriteReply, encoding,
};

use crate::engine::{Batch, Engine};
use crate::schema;

/// What a write was answered.
pub type Outcome = Result<WriteReply, Reject>;

/// What is on disk of one session: when it was used, the sequence below which all is forgotten, and what is remembered:
/// sequence, fingerprint, outcome.
type Stored<O> = (Version, u64, Vec<(u64, u32, O)>);

/// The sessions of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sessions {
    partition: PartitionId,
    sessions: BTreeMap<SessionId, Session>,
    /// The same sessions, least recently used first.
    by_use: BTreeSet<(Version, SessionId)>,
    size_bytes: usize,
    /// Changed since they were last written.
    dirty: BTreeSet<SessionId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    used: Version,
    /// Sequences below are forgotten.
    floor: u64,
    replies: BTreeMap<u64, Remembered>,
    size_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Remembered {
    fingerprint: u32,
    outcome: Outcome,
}

/// Whether a write may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Never seen: run it and remember.
    New,
    /// Done before: answer this.
    Known(Outcome),
    /// Answer this; nothing is remembered.
    Refused(Reject),
}

/// Bytes that a session and a remembered reply are counted at, besides the keys that they carry.
const SESSION_BYTES: usize = 128;
const REPLY_BYTES: usize = 64;

impl Remembered {
    fn size_bytes(&self) -> usize {
        let carried = match &self.outcome {
            Ok(reply) => reply.results.iter().map(result_bytes).sum(),
            Err(Reject::ConditionFailed { key, .. }) => key.len(),
            Err(_) => 0,
        };
        REPLY_BYTES + carried
    }
}

fn result_bytes(result: &OpResult) -> usize {
    match result {
        OpResult::Put | OpResult::Deleted { .. } => 2,
        OpResult::DeletedRange { resume, .. } => 16 + resume.as_ref().map_or(0, Bytes::len),
    }
}

impl Session {
    fn new(used: Version) -> Self {
        Self { used, floor: 1, replies: BTreeMap::new(), size_bytes: SESSION_BYTES }
    }

    fn insert(&mut self, sequence: u64, remembered: Remembered) {
        self.size_bytes += remembered.size_bytes();
        self.replies.insert(sequence, remembered);
    }

    /// Forgets everything below a sequence.
    fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while let Some(entry) = self.replies.first_entry() {
            if *entry.key() >= self.floor {
                break;
            }
            self.size_bytes -= entry.remove().size_bytes();
        }
    }

    /// Forgets the lowest replies until the limits hold.
    fn trim(&mut self) {
        while self.replies.len() > SESSION_REPLIES_MAX || (self.size_bytes > SESSION_BYTES_MAX && self.replies.len() > 1) {
            let Some((lowest, _)) = self.replies.first_key_value() else { break };
            self.raise_floor(lowest.saturating_add(1));
        }
    }
}

impl Sessions {
    /// An empty table.
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, sessions: BTreeMap::new(), by_use: BTreeSet::new(), size_bytes: 0, dirty: BTreeSet::new() }
    }

    /// Reads the table of a partition back.
    pub fn load(engine: &dyn Engine, partition: PartitionId) -> Result<Self, Fault> {
        let mut table = Self::new(partition);
        let (from, to) = schema::sessions(partition);
        let mut cursor = engine.cursor(&from, &to)?;
        cursor.seek(&from)?;
        while cursor.valid() {
            let corrupt = |detail: String| Fault::corrupt(schema::place(cursor.key()), detail);
            let schema::Key::Session { session: id, .. } = schema::Key::decode(cursor.key())? else {
                return Err(corrupt("it is no session, though it lies among them".to_owned()));
            };
            let stored: Stored<Outcome> = encoding::decode(cursor.value()).map_err(|error| corrupt(error.to_string()))?;
            let (used, floor, replies) = stored;
            let mut session = Session { floor, ..Session::new(used) };
            for (sequence, fingerprint, outcome) in replies {
                session.insert(sequence, Remembered { fingerprint, outcome });
            }
            table.insert(id, session);
            cursor.next()?;
        }
        Ok(table)
    }

    /// How many sessions are known.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is known.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Bytes that the table is counted at.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Opens a session at the version that the opening command got.
    pub fn open(&mut self, opened: Version, kind: ClockKind) -> SessionId {
        let id = SessionId { partition: self.partition, opened };
        self.insert(id, Session::new(opened));
        self.dirty.insert(id);
        self.evict(opened, kind, id);
        id
    }

    /// Whether a write with this request id may run. Changes nothing.
    pub fn admit(&self, request: &RequestId, fingerprint: u32) -> Admission {
        if request.sequence == 0 || request.acknowledged_below > request.sequence {
            return Admission::Refused(Reject::invalid(format!(
                "request number {} with acknowledged_below {}: numbers start at 1, and acknowledged_below is at most the number",
                request.sequence, request.acknowledged_below
            )));
        }
        let RequestId { session, sequence, .. } = *request;
        let Some(known) = self.sessions.get(&session).filter(|known| sequence >= known.floor) else {
            return Admission::Refused(Reject::SessionExpired { session, sequence });
        };
        match known.replies.get(&sequence) {
            None => Admission::New,
            Some(remembered) if remembered.fingerprint == fingerprint => Admission::Known(remembered.outcome.clone()),
            Some(_) => Admission::Refused(Reject::SessionConflict { session, sequence }),
        }
    }

    /// Remembers what an admitted write was answered, and forgets what the client has acknowledged. `now` is the partition's
    /// clock after the write.
    pub fn remember(&mut self, request: &RequestId, fingerprint: u32, outcome: Outcome, now: Version, kind: ClockKind) {
        // Taken out and put back, so that every count is adjusted in one place.
        let Some(mut session) = self.remove(&request.session) else { return };
        session.used = now;
        session.raise_floor(request.acknowledged_below);
        session.insert(request.sequence, Remembered { fingerprint, outcome });
        session.trim();
        self.insert(request.session, session);
        self.dirty.insert(request.session);
        self.evict(now, kind, request.session);
    }

    fn insert(&mut self, id: SessionId, session: Session) {
        self.size_bytes += session.size_bytes;
        self.by_use.insert((session.used, id));
        self.sessions.insert(id, session);
    }

    fn remove(&mut self, id: &SessionId) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        self.size_bytes -= session.size_bytes;
        self.by_use.remove(&(session.used, *id));
        Some(session)
    }

    /// Forgets the least recently used sessions until the limits hold, but never the one in use.
    fn evict(&mut self, now: Version, kind: ClockKind, in_use: SessionId) {
        while let Some((used, id)) = self.by_use.iter().find(|(_, id)| *id != in_use).copied() {
            let aged = kind == ClockKind::Hybrid && now.ms().saturating_sub(used.ms()) > SESSION_AGE_MS_MAX;
            if !aged && self.sessions.len() <= SESSIONS_MAX && self.size_bytes <= SESSION_TABLE_BYTES_MAX {
                break;
            }
            self.remove(&id);
            self.dirty.insert(id);
        }
    }

    /// Appends every change since the last call to a batch.
    pub fn write_changes(&mut self, batch: &mut Batch) {
        for id in std::mem::take(&mut self.dirty) {
            let key = schema::Key::<&[u8]>::Session { partition: self.partition, session: id };
            match self.sessions.get(&id) {
                None => batch.delete(&key.encode()),
                Some(session) => {
                    let replies =
                        session.replies.iter().map(|(sequence, reply)| (*sequence, reply.fingerprint, &reply.outcome)).collect();
                    let stored: Stored<&Outcome> = (session.used, session.floor, replies);
                    batch.put_with(|out| key.encode_into(out), |out| encoding::encode_into(&stored, out));
                }
            }
        }
    }
}

/// What a request asked, in 32 bits: conditions and operations, with every length. Not the epoch and not what it acknowledges,
/// which differ when the same request is sent again by a newer map. Part of the format.
pub fn fingerprint(write: &Write<&[u8]>) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    let mut parts = |parts: &[&[u8]]| {
        for part in parts {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    };
    for condition in &write.conditions {
        match condition {
            Condition::Exists { key } => parts(&[b"exists", key]),
            Condition::Absent { key } => parts(&[b"absent", key]),
            Condition::VersionIs { key, version } => parts(&[b"version", key, &version.0.to_le_bytes()]),
            Condition::ValueIs { key, value } => parts(&[b"value", key, value]),
        }
    }
    for op in &write.ops {
        match op {
            Op::Put { key, value } => parts(&[b"put", key, value]),
            Op::Delete { key } => parts(&[b"delete", key]),
            Op::DeleteRange { start, end } => parts(&[b"delete range", start, end]),
        }
    }
    hash.finalize()
}

#[cfg(test)]
mod tests;
