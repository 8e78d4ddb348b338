//! A model of the state machine that is too simple to be wrong: every version of every key in a map, every request remembered
//! for ever. And plans: random commands that name sessions by number, because their ids exist only once they are opened.

use std::collections::BTreeMap;

use bytes::Bytes;
use kontiki_types::{
    ClockKind, Command, Condition, Descriptor, Epoch, KeyRange, NamespaceId, NodeId, Op, OpResult, PartitionId, Reject, Reply,
    RequestId, Row, SessionId, Version, Write, WriteReply, key,
};
use proptest::prelude::*;

/// One planned log entry.
#[derive(Clone, Debug)]
pub(crate) enum Plan {
    Writes { stamp_ms: u64, writes: Vec<PlannedWrite> },
    Open { stamp_ms: u64 },
    Advance { to_ms: u64 },
    Horizon { to_ms: u64 },
    Blank,
}

#[derive(Clone, Debug)]
pub(crate) struct PlannedWrite {
    /// Which opened session (by number), the sequence, and what is acknowledged.
    request: Option<(usize, u64, u64)>,
    /// The condition, and whether its version or value is the one that is there.
    conditions: Vec<(Condition<Bytes>, bool)>,
    ops: Vec<Op<Bytes>>,
    bounds: u64,
}

type Outcome = Result<WriteReply, Reject>;
type Asked = (Vec<Condition<Bytes>>, Vec<Op<Bytes>>);
/// What is acknowledged, and every request with its outcome.
type Session = (u64, BTreeMap<u64, (Asked, Outcome)>);

#[derive(Clone, Debug)]
pub(crate) struct Model {
    descriptor: Descriptor,
    pub(crate) clock: Version,
    pub(crate) horizon: Version,
    keys: BTreeMap<Bytes, BTreeMap<Version, Option<Bytes>>>,
    sessions: BTreeMap<SessionId, Session>,
}

/// The partition that models and machines are made with: user keys from `b` to `y`.
pub(crate) fn descriptor() -> Descriptor {
    Descriptor::new(PartitionId(2), KeyRange::in_namespace(NamespaceId::DEFAULT, b"b", b"y"), &[NodeId(1), NodeId(2), NodeId(3)])
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            descriptor: descriptor(),
            clock: Version::ZERO,
            horizon: Version::ZERO,
            keys: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// Turns a plan into the command that it means now; `None` for a blank entry.
    pub(crate) fn resolve(&self, plan: &Plan) -> Option<Command<Bytes>> {
        match plan {
            Plan::Blank => None,
            Plan::Open { stamp_ms } => Some(Command::OpenSession { stamp_ms: *stamp_ms }),
            Plan::Advance { to_ms } => Some(Command::AdvanceClock { to: Version::from_ms(*to_ms) }),
            Plan::Horizon { to_ms } => Some(Command::AdvanceHorizon { to: Version::from_ms(*to_ms) }),
            Plan::Writes { stamp_ms, writes } => {
                let writes = writes.iter().map(|write| self.resolve_write(write)).collect();
                Some(Command::Writes { stamp_ms: *stamp_ms, writes })
            }
        }
    }

    fn resolve_write(&self, planned: &PlannedWrite) -> Write<Bytes> {
        let request = planned.request.map(|(number, sequence, acknowledged_below)| {
            let unknown = SessionId { partition: PartitionId(2), opened: Version(1) };
            let session = self.sessions.keys().nth(number).copied().unwrap_or(unknown);
            RequestId { session, sequence, acknowledged_below }
        });
        let conditions =
            planned.conditions.iter().map(|(condition, true_now)| self.resolve_condition(condition, *true_now)).collect();
        Write { epoch: Epoch { conf: 1, bounds: planned.bounds }, request, conditions, ops: planned.ops.clone() }
    }

    fn resolve_condition(&self, condition: &Condition<Bytes>, true_now: bool) -> Condition<Bytes> {
        let now = self.newest(condition.key()).filter(|_| true_now);
        match (condition, now) {
            (Condition::VersionIs { key, .. }, Some((version, _))) => Condition::VersionIs { key: key.clone(), version },
            (Condition::ValueIs { key, .. }, Some((_, value))) => Condition::ValueIs { key: key.clone(), value },
            _ => condition.clone(),
        }
    }

    fn newest(&self, key: &[u8]) -> Option<(Version, Bytes)> {
        let (version, value) = self.keys.get(key)?.last_key_value()?;
        value.clone().map(|value| (*version, value))
    }

    /// The keys that have a value at a version.
    pub(crate) fn rows(&self, at: Version) -> Vec<Row> {
        let row = |(key, versions): (&Bytes, &BTreeMap<Version, Option<Bytes>>)| {
            let (version, value) = versions.range(..=at).next_back()?;
            value.clone().map(|value| Row { key: key.clone(), value, version: *version })
        };
        self.keys.iter().filter_map(row).collect()
    }

    pub(crate) fn apply(&mut self, command: Option<&Command<Bytes>>) -> Reply {
        match command {
            None => Reply::None,
            Some(Command::Writes { stamp_ms, writes }) => {
                Reply::Writes(writes.iter().map(|write| self.write(*stamp_ms, write)).collect())
            }
            Some(Command::OpenSession { stamp_ms }) => {
                self.clock = self.clock.next(ClockKind::Hybrid, *stamp_ms);
                let session = SessionId { partition: PartitionId(2), opened: self.clock };
                self.sessions.insert(session, (1, BTreeMap::new()));
                Reply::SessionOpened(session)
            }
            Some(Command::AdvanceClock { to }) => {
                self.clock = self.clock.max(*to);
                Reply::Clock(self.clock)
            }
            Some(Command::AdvanceHorizon { to }) => {
                self.horizon = self.horizon.max(self.clock.min(*to));
                Reply::Horizon(self.horizon)
            }
            Some(Command::SetDescriptor { .. }) => unreachable!("never planned"),
        }
    }

    fn write(&mut self, stamp_ms: u64, write: &Write<Bytes>) -> Outcome {
        let own = &self.descriptor;
        let inside = |op: &Op<Bytes>| match op {
            Op::DeleteRange { start, end } => own.range.contains_range(&KeyRange::new(start.clone(), end.clone())),
            _ => own.range.contains(op.key()),
        };
        let holds = write.ops.iter().all(inside) && write.conditions.iter().all(|condition| own.range.contains(condition.key()));
        if write.epoch.bounds != own.epoch.bounds || !holds {
            return Err(Reject::StaleEpoch { partition: own.id, descriptors: vec![own.clone()] });
        }
        let asked = (write.conditions.clone(), write.ops.clone());
        if let Some(RequestId { session, sequence, .. }) = write.request {
            let expired = Reject::SessionExpired { session, sequence };
            let Some((floor, known)) = self.sessions.get(&session) else { return Err(expired) };
            if sequence < *floor {
                return Err(expired);
            }
            match known.get(&sequence) {
                Some((before, outcome)) if *before == asked => return outcome.clone(),
                Some(_) => return Err(Reject::SessionConflict { session, sequence }),
                None => {}
            }
        }
        let outcome = self.execute(stamp_ms, write);
        if let Some(RequestId { session, sequence, acknowledged_below }) = write.request {
            let (floor, known) = self.sessions.get_mut(&session).expect("checked above");
            *floor = acknowledged_below.max(*floor);
            known.insert(sequence, (asked, outcome.clone()));
        }
        outcome
    }

    fn execute(&mut self, stamp_ms: u64, write: &Write<Bytes>) -> Outcome {
        for (index, condition) in (0..).zip(&write.conditions) {
            let now = self.newest(condition.key());
            let holds = match condition {
                Condition::Exists { .. } => now.is_some(),
                Condition::Absent { .. } => now.is_none(),
                Condition::VersionIs { version, .. } => now.as_ref().map_or(0, |(version, _)| version.0) == version.0,
                Condition::ValueIs { value, .. } => now.as_ref().map(|(_, value)| value) == Some(value),
            };
            if !holds {
                let key = Bytes::copy_from_slice(condition.key());
                return Err(Reject::ConditionFailed { index, key, version: now.map(|(version, _)| version) });
            }
        }
        self.clock = self.clock.next(ClockKind::Hybrid, stamp_ms);
        let results = write.ops.iter().map(|op| self.operate(op)).collect();
        Ok(WriteReply { version: self.clock, results })
    }

    fn operate(&mut self, op: &Op<Bytes>) -> OpResult {
        match op {
            Op::Put { key, value } => {
                self.keys.entry(key.clone()).or_default().insert(self.clock, Some(value.clone()));
                OpResult::Put
            }
            Op::Delete { key } => {
                let existed = self.newest(key).is_some();
                if existed {
                    self.keys.entry(key.clone()).or_default().insert(self.clock, None);
                }
                OpResult::Deleted { existed }
            }
            Op::DeleteRange { start, end } => {
                let range = KeyRange::new(start.clone(), end.clone());
                let gone: Vec<Bytes> =
                    self.rows(Version::MAX).into_iter().map(|row| row.key).filter(|key| range.contains(key)).collect();
                for key in &gone {
                    self.keys.entry(key.clone()).or_default().insert(self.clock, None);
                }
                OpResult::DeletedRange { count: gone.len() as u64, resume: None }
            }
        }
    }
}

fn any_key() -> impl Strategy<Value = Bytes> {
    // Few, so that they meet; neighbours by a zero byte and a prefix; rarely one outside of the partition.
    let users: [&[u8]; 8] = [b"c", b"c\x00", b"cc", b"d", b"d\xff", b"m", b"x", b"z"];
    prop_oneof![30 => 0..7usize, 1 => Just(7)].prop_map(move |at| key::internal(NamespaceId::DEFAULT, users[at]))
}

fn any_value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        Just(Bytes::from_static(b"1")),
        Just(Bytes::from_static(b"2")),
        Just(Bytes::from(vec![b'v'; 300]))
    ]
}

fn any_op() -> impl Strategy<Value = Op<Bytes>> {
    prop_oneof![
        6 => (any_key(), any_value()).prop_map(|(key, value)| Op::Put { key, value }),
        3 => any_key().prop_map(|key| Op::Delete { key }),
        1 => (any_key(), any_key()).prop_map(|(a, b)| Op::DeleteRange { start: a.clone().min(b.clone()), end: a.max(b) }),
    ]
}

fn any_condition() -> impl Strategy<Value = (Condition<Bytes>, bool)> {
    let condition = prop_oneof![
        any_key().prop_map(|key| Condition::Exists { key }),
        any_key().prop_map(|key| Condition::Absent { key }),
        any_key().prop_map(|key| Condition::VersionIs { key, version: Version::ZERO }),
        (any_key(), any_value()).prop_map(|(key, value)| Condition::ValueIs { key, value }),
    ];
    (condition, any::<bool>())
}

fn any_write() -> impl Strategy<Value = PlannedWrite> {
    let request = (0..4usize, 1..6u64).prop_flat_map(|(session, sequence)| (Just(session), Just(sequence), 1..=sequence));
    let conditions = prop_oneof![3 => Just(vec![]), 2 => prop::collection::vec(any_condition(), 1..3)];
    let bounds = prop_oneof![20 => Just(1u64), 1 => Just(2)];
    (prop::option::of(request), conditions, prop::collection::vec(any_op(), 0..4), bounds)
        .prop_map(|(request, conditions, ops, bounds)| PlannedWrite { request, conditions, ops, bounds })
}

/// Plans of log entries.
pub(crate) fn any_plans(entries_max: usize) -> impl Strategy<Value = Vec<Plan>> {
    let plan = prop_oneof![
        12 => (0..60u64, prop::collection::vec(any_write(), 1..4)).prop_map(|(stamp_ms, writes)| Plan::Writes { stamp_ms, writes }),
        2 => (0..60u64).prop_map(|stamp_ms| Plan::Open { stamp_ms }),
        1 => (0..60u64).prop_map(|to_ms| Plan::Advance { to_ms }),
        1 => (0..60u64).prop_map(|to_ms| Plan::Horizon { to_ms }),
        1 => Just(Plan::Blank),
    ];
    prop::collection::vec(plan, 1..entries_max)
}
