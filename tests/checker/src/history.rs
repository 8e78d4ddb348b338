//! What clients did and what they were told: one [`Operation`] per call. Times are those of the clients' one clock, in us since
//! the history began.
//!
//! ```text
//!   process 1   start_us |------ Put ------| end_us         Ok: it took effect once, somewhere between the two
//!   process 2        start_us |---- Put ---- ...            Unknown: at any time after start_us, or never
//!   process 3                  |--- Put ---|                Failed: never
//! ```
//!
//! The words are Jepsen's (`ok`, `fail`, `info`), the thought is Herlihy and Wing's ("Linearizability: a correctness condition for
//! concurrent objects", 1990).
//!
//! **Invariant:** nothing here guesses. A call whose fate the client does not know is `Unknown`, for ever, whatever is read later.

mod edn;
mod json;
mod recorder;

use std::collections::BTreeMap;
use std::fmt;

pub use edn::write_edn;
pub use json::{ReadError, read_json, write_json};
pub use recorder::{Recorder, Ticket};

/// What was asked of the key of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A register: its value.
    Get,
    /// A register: sets it.
    Put {
        /// The value.
        value: String,
    },
    /// A register: makes it absent.
    Delete,
    /// A register: sets it if it has a certain value.
    Cas {
        /// What it must have; nothing: it must be absent.
        expected: Option<String>,
        /// The new value.
        value: String,
    },
    /// A register: sets it if it has a certain version.
    CasVersion {
        /// The version it must have; 0: it must be absent.
        expected: u64,
        /// The new value.
        value: String,
    },
    /// A counter: adds one.
    Increment,
    /// A counter: its number.
    Count,
    /// A set: adds an element. Nobody else ever adds the same one.
    Add {
        /// The element.
        element: String,
    },
    /// A set: all of its elements.
    Members,
    /// A family of lists: appends an element to one of them. Nobody else ever appends the same one.
    Append {
        /// Which list of the family.
        list: String,
        /// The element.
        element: String,
    },
    /// A family of lists: all of them, in one read.
    Lists,
    /// All registers whose key starts with the key of the operation, in one read at one version.
    Snapshot,
}

impl Call {
    /// Whether it can change anything.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Get | Self::Count | Self::Members | Self::Lists | Self::Snapshot)
    }
}

/// What an acknowledged call returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done; of every call that changes something.
    Done,
    /// A register's value, if it was there; of [`Call::Get`].
    Value(Option<String>),
    /// A counter's number, after an [`Call::Increment`] or of a [`Call::Count`].
    Number(u64),
    /// A set's elements, in any order; of [`Call::Members`].
    Members(Vec<String>),
    /// Every list that is not empty; of [`Call::Lists`].
    Lists(BTreeMap<String, Vec<String>>),
    /// Value and version of every register that was there; of [`Call::Snapshot`].
    Rows(BTreeMap<String, (String, u64)>),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged.
    Ok {
        /// What was returned.
        reply: Reply,
        /// The version of the write, of the value that was read, or of the snapshot, where it is known.
        version: Option<u64>,
    },
    /// The condition of a compare-and-set was looked at, and did not hold. That tells something of the state; it changed nothing.
    Refused,
    /// Certainly without effect.
    Failed {
        /// What the error said.
        error: String,
    },
    /// It may have taken effect, and may still.
    Unknown {
        /// What the error said; empty if there was no answer at all.
        error: String,
    },
}

/// One call of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who called. A process makes one call at a time.
    pub process: u64,
    /// The object.
    pub key: String,
    /// What was asked.
    pub call: Call,
    /// How it ended.
    pub outcome: Outcome,
    /// When it was called, us.
    pub start_us: u64,
    /// When the process stopped waiting, us. Nothing: the history ended before; the outcome is unknown then.
    pub end_us: Option<u64>,
    /// The partition that the key lies in, where it is known.
    pub group: Option<u64>,
    /// The session whose token the call carried.
    pub session: Option<u64>,
    /// Whether this read was allowed to be stale (a session read, a bounded stale read): no linearizable read.
    pub stale: bool,
}

impl Operation {
    /// A call that is made now: nobody knows how it ends. Marks are set on the fields (`group`, `session`, `stale`).
    pub fn invoked(process: u64, key: impl Into<String>, call: Call) -> Self {
        let outcome = Outcome::Unknown { error: String::new() };
        Self { process, key: key.into(), call, outcome, start_us: 0, end_us: None, group: None, session: None, stale: false }
    }

    /// Whether it was acknowledged.
    pub fn is_ok(&self) -> bool {
        matches!(self.outcome, Outcome::Ok { .. })
    }

    /// The version that it was acknowledged with, where that is known.
    pub fn version(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Ok { version, .. } => version,
            _ => None,
        }
    }

    /// The value that it writes to a register: nothing if it writes none, absent for a delete.
    pub fn written(&self) -> Option<Option<&str>> {
        match &self.call {
            Call::Put { value } | Call::Cas { value, .. } | Call::CasVersion { value, .. } => Some(Some(value)),
            Call::Delete => Some(None),
            _ => None,
        }
    }

    /// Whether this call, if it changes something, can have done so.
    pub fn may_have_applied(&self) -> bool {
        self.call.changes() && matches!(self.outcome, Outcome::Ok { .. } | Outcome::Unknown { .. })
    }

    /// What is wrong with the record itself, as far as one record shows it.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn validate(&self) -> Result<(), String> {
        if let Some(end) = self.end_us
            && end < self.start_us
        {
            return Err(format!("`{self}` ends at {end} us, before it starts at {} us", self.start_us));
        }
        if self.end_us.is_none() && !matches!(self.outcome, Outcome::Unknown { .. }) {
            return Err(format!("`{self}` has no end, but an outcome: only what is unknown may stay open"));
        }
        let fits = match &self.outcome {
            Outcome::Ok { reply, .. } => match (&self.call, reply) {
                (Call::Get, Reply::Value(_)) | (Call::Count, Reply::Number(_)) | (Call::Increment, Reply::Number(_)) => true,
                (Call::Members, Reply::Members(_)) | (Call::Lists, Reply::Lists(_)) | (Call::Snapshot, Reply::Rows(_)) => true,
                (call, Reply::Done) => call.changes(),
                _ => false,
            },
            Outcome::Refused => matches!(self.call, Call::Cas { .. } | Call::CasVersion { .. }),
            Outcome::Failed { .. } | Outcome::Unknown { .. } => true,
        };
        if fits { Ok(()) } else { Err(format!("`{self}` cannot end as {:?}", self.outcome)) }
    }
}

/// In the notation of [`crate::timeline`], without its times.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::timeline::notation(self))
    }
}

/// Whether a whole record can be judged: each operation is well-formed, and a process makes one call at a time.
///
/// # Errors
/// A sentence that names the first operation that is wrong.
pub fn validate(operations: &[Operation]) -> Result<(), String> {
    let mut by_process: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        operation.validate()?;
        by_process.entry(operation.process).or_default().push(operation);
    }
    for (process, calls) in &mut by_process {
        calls.sort_by_key(|operation| (operation.start_us, operation.end_us.unwrap_or(u64::MAX)));
        let overlap = calls.windows(2).find(|pair| pair[0].end_us.is_none_or(|end| pair[1].start_us < end));
        if let Some([first, second]) = overlap {
            return Err(format!(
                "process {process} calls `{second}` while it waits for `{first}`: give each caller its own number"
            ));
        }
    }
    Ok(())
}
