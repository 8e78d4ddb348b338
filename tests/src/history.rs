//! What the clients of a test saw: each call with its invocation, its completion and its outcome, in the form in which checkers of
//! histories think (Herlihy and Wing, "Linearizability", 1990; Jepsen's `ok`, `fail`, `info`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kontiki_types::{Error, ErrorKind};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Acknowledged.
    Ok {
        /// The version of the write, or of the value that was read; 0: the key was absent.
        version: u64,
        /// What was read. Nothing for a write.
        value: Option<String>,
    },
    /// Certainly not applied.
    Failed {
        /// The kind of error.
        kind: String,
        /// What it said.
        why: String,
    },
    /// It may have been applied.
    Unknown {
        /// What the error said.
        why: String,
    },
}

impl Outcome {
    /// What an error means for a write: only a few kinds leave it open.
    pub fn of_error(error: &Error) -> Self {
        let why = error.to_string();
        match error.kind() {
            ErrorKind::ConditionFailed
            | ErrorKind::Invalid
            | ErrorKind::Unavailable
            | ErrorKind::Overloaded
            | ErrorKind::Version => Self::Failed { kind: error.kind().name().to_owned(), why },
            _ => Self::Unknown { why },
        }
    }
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Sets the key; the value is unique among all writes of the key, unless it is a counter's.
    Write {
        /// The value.
        value: String,
    },
    /// Reads the key, linearizable.
    Read,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Operation {
    /// Who called.
    pub client: u32,
    /// The key.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// When it was called, in us since the start of the history.
    pub invoked_us: u64,
    /// When it came back.
    pub completed_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    /// Whether it is an acknowledged write.
    pub fn is_acknowledged_write(&self) -> bool {
        matches!((&self.action, &self.outcome), (Action::Write { .. }, Outcome::Ok { .. }))
    }
}

/// Collects operations of many clients.
#[derive(Debug)]
pub struct History {
    began: Instant,
    operations: Mutex<Vec<Operation>>,
    acknowledged: watch::Sender<Acknowledged>,
}

/// What has been acknowledged so far.
#[derive(Clone, Debug, Default)]
struct Acknowledged {
    writes: u64,
    /// The invocation time of the newest acknowledged write, by group of keys.
    newest_us: BTreeMap<u64, u64>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), operations: Default::default(), acknowledged: watch::Sender::default() }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, in us since the start.
    pub fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    /// Adds one operation. `group` is the group of keys (a partition) that its key belongs to.
    pub fn add(&self, group: u64, operation: Operation) {
        let acknowledged = operation.is_acknowledged_write().then_some(operation.invoked_us);
        self.lock().push(operation);
        if let Some(invoked) = acknowledged {
            self.acknowledged.send_modify(|seen| {
                seen.writes += 1;
                let newest = seen.newest_us.entry(group).or_default();
                *newest = invoked.max(*newest);
            });
        }
    }

    /// Everything recorded so far.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().clone()
    }

    /// Waits until in every one of `groups` a write was acknowledged that was called after `since_us`.
    ///
    /// # Errors
    /// Which groups have none when the time is over.
    pub async fn served_since(&self, groups: &[u64], since_us: u64, within: Duration) -> Result<(), String> {
        let served = |seen: &Acknowledged, group: &u64| seen.newest_us.get(group).is_some_and(|newest| *newest > since_us);
        let all = |seen: &Acknowledged| groups.iter().all(|group| served(seen, group));
        if self.acknowledged_until(all, within).await {
            return Ok(());
        }
        let seen = self.acknowledged.borrow();
        let silent: Vec<_> = groups.iter().filter(|group| !served(&seen, group)).collect();
        Err(format!("no write was acknowledged for {within:?} in partitions {silent:?}"))
    }

    /// Waits until so many writes are acknowledged.
    ///
    /// # Errors
    /// How many there are when the time is over.
    pub async fn written(&self, writes: u64, within: Duration) -> Result<(), String> {
        if self.acknowledged_until(|seen| seen.writes >= writes, within).await {
            return Ok(());
        }
        Err(format!("only {} of {writes} writes were acknowledged in {within:?}", self.acknowledged.borrow().writes))
    }

    async fn acknowledged_until(&self, enough: impl Fn(&Acknowledged) -> bool, within: Duration) -> bool {
        let mut acknowledged = self.acknowledged.subscribe();
        matches!(tokio::time::timeout(within, acknowledged.wait_for(enough)).await, Ok(Ok(_)))
    }

    /// Writes it as JSON lines, one operation each, for other checkers and for people.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for operation in self.lock().iter() {
            serde_json::to_writer(&mut file, operation)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}

/// How long writes stalled: the longest time without an acknowledgement between `from_us` and `to_us`, over the operations that `of` picks.
pub fn longest_gap(operations: &[Operation], from_us: u64, to_us: u64, of: impl Fn(&Operation) -> bool) -> Duration {
    let mut times: Vec<u64> = operations
        .iter()
        .filter(|operation| operation.is_acknowledged_write() && of(operation))
        .map(|operation| operation.completed_us)
        .filter(|at| (from_us..=to_us).contains(at))
        .collect();
    times.extend([from_us, to_us]);
    times.sort_unstable();
    Duration::from_micros(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(completed_us: u64, outcome: Outcome) -> Operation {
        let action = Action::Write { value: "v".into() };
        Operation { client: 0, key: "k".into(), action, invoked_us: completed_us, completed_us, outcome }
    }

    fn ok() -> Outcome {
        Outcome::Ok { version: 1, value: None }
    }

    #[test]
    fn the_longest_gap_reaches_to_the_ends_and_counts_only_acknowledged_writes() {
        let lost = write(500, Outcome::Unknown { why: "?".into() });
        let all = [write(100, ok()), write(200, ok()), lost, write(900, ok())];
        assert_eq!(longest_gap(&all, 0, 1000, |_| true), Duration::from_micros(700));
        assert_eq!(longest_gap(&all, 850, 2000, |_| true), Duration::from_micros(1100));
        assert_eq!(longest_gap(&[], 10, 20, |_| true), Duration::from_micros(10));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_write_and_names_the_silent_group() {
        let history = History::default();
        history.add(2, write(50, ok()));
        history.served_since(&[2], 10, Duration::from_secs(5)).await.expect("written after 10");
        let error = history.served_since(&[2, 7], 10, Duration::ZERO).await.expect_err("nothing in 7");
        assert!(error.contains("[7]"), "{error}");
        history.served_since(&[2], 50, Duration::ZERO).await.expect_err("not called after 50");
        history.written(1, Duration::ZERO).await.expect("one was written");
        let error = history.written(2, Duration::ZERO).await.expect_err("only one");
        assert!(error.contains("only 1 of 2"), "{error}");
    }
}
