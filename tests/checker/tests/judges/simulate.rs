//! Executions that are linearizable because they are made so: every call takes effect at one moment between its ends, on the reference's
//! state. And ways to spoil them.

use kontiki_checker::history::{Call, Operation, Outcome, Reply};

use crate::naive::State;

/// Numbers from a seed (SplitMix64: Steele, Lea and Flood, 2014).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Register,
    Counter,
    Set,
    Lists,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Register, Kind::Counter, Kind::Set, Kind::Lists];

/// What kind of execution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) keys: u64,
    pub(crate) processes: u64,
    pub(crate) calls: u64,
    /// How many answers of a hundred are lost.
    pub(crate) lost: u64,
    /// Whether versions are recorded.
    pub(crate) versions: bool,
    /// How long a call takes at most.
    pub(crate) long: u64,
}

/// A call before it is known what becomes of it.
struct Made {
    operation: Operation,
    /// When it takes effect; nothing: never.
    at: Option<u64>,
    tie: u64,
}

/// An execution that is linearizable.
pub(crate) fn execution(plan: Plan, dice: &mut Dice) -> Vec<Operation> {
    let mut made = Vec::new();
    let mut free = vec![0; plan.processes as usize];
    for number in 0..plan.calls {
        let process = dice.below(plan.processes);
        let start = free[process as usize] + dice.below(3);
        let end = start + dice.below(plan.long + 1);
        free[process as usize] = end + 1 + dice.below(2);
        let fate = dice.below(100);
        let (outcome, at) = if fate < plan.lost {
            // It may take effect long after the process has given up.
            let at = dice.percent(60).then(|| start + dice.below(4 * plan.long + 4));
            (Outcome::Unknown { error: String::new() }, at)
        } else if fate < plan.lost + 3 {
            (Outcome::Failed { error: String::new() }, None)
        } else {
            (Outcome::Ok { reply: Reply::Done, version: None }, Some(start + dice.below(end - start + 1)))
        };
        let key = format!("k{}", dice.below(plan.keys));
        let call = call(plan.kind, number, dice);
        let (group, session) = (None, None);
        let end_us = Some(end);
        let operation = Operation { process, key, call, outcome, start_us: start, end_us, group, session, stale: false };
        made.push(Made { operation, at, tie: dice.below(1000) });
    }
    answer(plan, made)
}

fn call(kind: Kind, number: u64, dice: &mut Dice) -> Call {
    let value = format!("v{number}");
    let reads = dice.percent(45);
    match kind {
        Kind::Register if reads => Call::Get,
        Kind::Register => match dice.below(8) {
            0 => Call::Delete,
            1 | 2 => Call::Cas { expected: dice.percent(80).then(|| format!("v{}", dice.below(number + 1))), value },
            3 => Call::CasVersion { expected: dice.below(number + 1), value },
            // A value may come twice.
            4 => Call::Put { value: format!("v{}", dice.below(number + 1)) },
            _ => Call::Put { value },
        },
        Kind::Counter if reads => Call::Count,
        Kind::Counter => Call::Increment,
        Kind::Set if reads => Call::Members,
        Kind::Set => Call::Add { element: value },
        Kind::Lists if reads => Call::Lists,
        Kind::Lists => Call::Append { list: format!("l{}", dice.below(3)), element: value },
    }
}

/// Lets all calls take effect, in the order of their moments, and writes down what they are told.
fn answer(plan: Plan, mut made: Vec<Made>) -> Vec<Operation> {
    made.sort_by_key(|made| (made.at.unwrap_or(u64::MAX), made.tie));
    let mut states = std::collections::BTreeMap::new();
    let mut operations = Vec::new();
    for (version, Made { mut operation, at, tie }) in (1..).zip(made) {
        let state = states.entry(operation.key.clone()).or_insert_with(|| (State::new(), 0));
        if at.is_some() {
            take_effect(&mut operation, state, version, plan.versions, tie % 2 == 0);
        }
        operations.push(operation);
    }
    operations.sort_by_key(|operation| operation.start_us);
    operations
}

fn take_effect(operation: &mut Operation, (state, version): &mut (State, u64), now: u64, versions: bool, numbered: bool) {
    let holds = match &operation.call {
        Call::Cas { expected, .. } => state.value == *expected,
        Call::CasVersion { expected: 0, .. } => state.value.is_none(),
        Call::CasVersion { expected, .. } => state.value.is_some() && *version == *expected,
        _ => true,
    };
    let answered = operation.is_ok();
    if !holds {
        if answered {
            operation.outcome = Outcome::Refused;
        }
        return;
    }
    if operation.call.changes() {
        *version = now;
        // The reference's own rules of versions are not asked here: what it is told is right.
        let plain = match operation.written() {
            Some(Some(value)) => Call::Put { value: value.to_owned() },
            _ => operation.call.clone(),
        };
        let outcome = Outcome::Ok { reply: Reply::Done, version: Some(now) };
        assert!(state.take(&Operation { call: plain, outcome, ..operation.clone() }));
    }
    let reply = match &operation.call {
        Call::Get => Reply::Value(state.value.clone()),
        Call::Count => Reply::Number(state.number),
        Call::Increment if numbered => Reply::Number(state.number),
        Call::Members => Reply::Members(state.members.iter().cloned().collect()),
        Call::Lists => Reply::Lists(state.lists.clone()),
        _ => Reply::Done,
    };
    if answered {
        let has_one = operation.written().is_some() || matches!(reply, Reply::Value(Some(_)));
        let version = (versions && has_one).then_some(*version);
        operation.outcome = Outcome::Ok { reply, version };
    }
}

/// Spoils one thing. The history may still be linearizable afterwards.
pub(crate) fn spoil(history: &mut [Operation], dice: &mut Dice) {
    if history.is_empty() {
        return;
    }
    let at = dice.below(history.len() as u64) as usize;
    let other = dice.below(history.len() as u64) as usize;
    match dice.below(6) {
        // An answer comes from elsewhere.
        0 | 1 => {
            let outcome = history[other].outcome.clone();
            let alike = std::mem::discriminant(&history[at].call) == std::mem::discriminant(&history[other].call);
            if alike && history[at].call == history[other].call {
                history[at].outcome = outcome;
            } else if let Outcome::Ok { reply, .. } = &mut history[at].outcome {
                spoil_reply(reply, dice);
            }
        }
        // Time is not as it was.
        2 | 3 => {
            let shift = dice.below(20);
            history[at].start_us += shift;
            history[at].end_us = history[at].end_us.map(|end| end + shift);
            history[at].process = 1000 + at as u64;
        }
        4 if history[at].is_ok() => {
            history[at].outcome = if dice.percent(50) && history[at].call.changes() {
                Outcome::Failed { error: String::new() }
            } else {
                Outcome::Unknown { error: String::new() }
            };
        }
        _ => {
            if let Outcome::Ok { version: Some(version), .. } = &mut history[at].outcome {
                *version = (*version + 1 + dice.below(4)).saturating_sub(2).max(1);
            }
        }
    }
}

fn spoil_reply(reply: &mut Reply, dice: &mut Dice) {
    match reply {
        Reply::Value(value) => *value = dice.percent(80).then(|| format!("v{}", dice.below(6))),
        Reply::Number(number) => *number = (*number + dice.below(3)).saturating_sub(1),
        Reply::Members(members) => {
            if members.pop().is_none() {
                members.push("v0".to_owned());
            }
        }
        Reply::Lists(lists) => {
            if let Some(list) = lists.values_mut().next() {
                if dice.percent(50) {
                    list.reverse();
                } else {
                    list.pop();
                }
            }
            lists.retain(|_, list| !list.is_empty());
        }
        Reply::Done | Reply::Rows(_) => {}
    }
}
