//! Clients that write while nodes are killed. Everything they see goes into one [`History`].
//!
//! For each group of keys (a partition) there are
//! - two *counter* clients that add one to the same key: read, then write under the condition that the version is still the same;
//! - one *exact* counter client, alone on its key, which never reads: it knows the version that its last write got, so if one of its
//!   retries is applied twice, the next condition fails;
//! - two *register* clients that put unique values blindly, and one that reads;
//! - one *claim* client that writes each key once, under the condition that it is absent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use kontiki_client::{Client, ScanOptions, WriteBatch};
use kontiki_types::{Error, ErrorKind, Version};
use tokio::task::JoinSet;

use crate::checks::{self, Finals};
use crate::history::{Action, History, Operation, Outcome};

/// After an error a client breathes before it goes on, as any client would.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// A group of keys that share a prefix and lie in one partition.
#[derive(Clone, Debug)]
pub struct Group {
    /// The partition.
    pub partition: u64,
    /// What its keys start with.
    pub prefix: String,
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

/// One client: what it needs to record.
#[derive(Clone)]
struct Recorder {
    id: u32,
    group: u64,
    client: Client,
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
}

impl Recorder {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn add(&self, key: &str, action: Action, invoked_us: u64, outcome: Outcome) {
        let completed_us = self.history.now_us();
        let operation = Operation { client: self.id, key: key.to_owned(), action, invoked_us, completed_us, outcome };
        self.history.add(self.group, operation);
    }

    /// A write of one key, recorded.
    async fn write(&self, key: &str, value: String, batch: WriteBatch) -> Result<Version, Error> {
        let invoked = self.history.now_us();
        let result = self.client.write(batch.put(key.to_owned(), value.clone())).await;
        let outcome = match &result {
            Ok(reply) => Outcome::Ok { version: reply.version.0, value: None },
            Err(error) => Outcome::of_error(error),
        };
        self.add(key, Action::Write { value }, invoked, outcome);
        match result {
            Ok(reply) => Ok(reply.version),
            Err(error) => {
                if error.kind() != ErrorKind::ConditionFailed {
                    tokio::time::sleep(AFTER_ERROR).await;
                }
                Err(error)
            }
        }
    }

    /// A linearizable read of one key, recorded.
    async fn read(&self, key: &str) -> Option<(String, Version)> {
        let invoked = self.history.now_us();
        match self.client.get(key.to_owned()).await {
            Ok(row) => {
                let found = row.map(|row| (String::from_utf8_lossy(&row.value).into_owned(), row.version));
                let (version, value) = found.clone().map_or((0, None), |(value, version)| (version.0, Some(value)));
                self.add(key, Action::Read, invoked, Outcome::Ok { version, value });
                Some(found.unwrap_or_else(|| ("0".to_owned(), Version::ZERO)))
            }
            Err(error) => {
                // A read changes nothing: it failed, whatever the reason.
                let outcome = Outcome::Failed { kind: error.kind().name().to_owned(), why: error.to_string() };
                self.add(key, Action::Read, invoked, outcome);
                tokio::time::sleep(AFTER_ERROR).await;
                None
            }
        }
    }

    async fn count(self, key: String) {
        while !self.stopping() {
            let Some((value, version)) = self.read(&key).await else { continue };
            let next = value.parse::<u64>().map_or_else(|_| format!("not a number: {value}"), |count| (count + 1).to_string());
            let _ = self.write(&key, next, WriteBatch::new().if_version(key.clone(), version)).await;
        }
    }

    async fn count_exactly(self, key: String) {
        let (mut count, mut version) = (0_u64, Version::ZERO);
        while !self.stopping() {
            let batch = WriteBatch::new().if_version(key.clone(), version);
            match self.write(&key, (count + 1).to_string(), batch).await {
                Ok(at) => (count, version) = (count + 1, at),
                // Certainly not applied: the same again. Anything else ends it; the checks say whether that was right.
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Overloaded) => {}
                Err(_) => return,
            }
        }
    }

    async fn put(self, key: String) {
        for number in 0_u64.. {
            if self.stopping() {
                return;
            }
            let _ = self.write(&key, format!("c{}-{number}", self.id), WriteBatch::new()).await;
        }
    }

    async fn look(self, key: String) {
        while !self.stopping() {
            self.read(&key).await;
        }
    }

    async fn claim(self, prefix: String) {
        for number in 0_u64.. {
            if self.stopping() {
                return;
            }
            let key = format!("{prefix}{number:08}");
            let _ = self.write(&key, format!("c{}-{number}", self.id), WriteBatch::new().if_absent(key.clone())).await;
        }
    }
}

impl Workload {
    /// Starts the clients of all groups. `client` may give up; `patient` must be one whose calls retry for longer than any outage of the
    /// test.
    pub fn start(client: &Client, patient: &Client, groups: &[Group]) -> Self {
        let history = Arc::new(History::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        let ids = AtomicU32::new(1);
        for Group { partition, prefix } in groups {
            let recorder = |client: &Client| Recorder {
                id: ids.fetch_add(1, Ordering::Relaxed),
                group: *partition,
                client: client.clone(),
                history: Arc::clone(&history),
                stopping: Arc::clone(&stopping),
            };
            for _ in 0..2 {
                clients.spawn(recorder(client).count(format!("{prefix}counter")));
                clients.spawn(recorder(client).put(format!("{prefix}register")));
            }
            clients.spawn(recorder(client).look(format!("{prefix}register")));
            clients.spawn(recorder(patient).count_exactly(format!("{prefix}exact")));
            clients.spawn(recorder(patient).claim(format!("{prefix}claim/")));
        }
        Self { history, stopping, clients }
    }

    /// What the clients saw so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Lets every client finish its call, and stops.
    ///
    /// # Panics
    /// If one does not come back in time, or has panicked.
    pub async fn stop(mut self, within: Duration) -> Arc<History> {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(result) = self.clients.join_next().await {
                result.expect("no client panics");
            }
        };
        tokio::time::timeout(within, ended).await.expect("every call ends");
        self.history
    }
}

/// Everything in the store, read with one scan at one version.
///
/// # Errors
/// If it cannot be read.
pub async fn everything(client: &Client) -> Result<Finals, Error> {
    let rows = client.scan(ScanOptions::default());
    rows.map_ok(|row| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&row.key), (text(&row.value), row.version.0))
    })
    .try_collect()
    .await
}

/// All checks on a history of a workload: the violations found.
pub fn judge(operations: &[Operation], finals: &Finals) -> Vec<String> {
    let split = |word: &str| -> (Vec<Operation>, Finals) {
        let of = |key: &str| key.contains(word);
        let operations = operations.iter().filter(|operation| of(&operation.key)).cloned().collect();
        let finals = finals.iter().filter(|(key, _)| of(key)).map(|(key, last)| (key.clone(), last.clone())).collect();
        (operations, finals)
    };
    let mut violations = Vec::new();
    for word in ["/counter", "/exact"] {
        let (operations, finals) = split(word);
        violations.extend(checks::counters(&operations, &finals));
        violations.extend(checks::registers(&operations, &finals));
    }
    let (exact, _) = split("/exact");
    violations.extend(checks::unfailed(&exact));
    let (registers, registers_last) = split("/register");
    violations.extend(checks::registers(&registers, &registers_last));
    let (claims, claims_last) = split("/claim/");
    violations.extend(checks::claims(&claims, &claims_last));
    let known = ["/counter", "/exact", "/register", "/claim/"];
    let foreign = finals.keys().filter(|key| !known.iter().any(|word| key.contains(word)));
    violations.extend(foreign.map(|key| format!("{key}: in the store, but nobody wrote it")));
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, value: &str, version: u64, outcome: Option<Outcome>) -> Operation {
        let (invoked_us, completed_us) = (version * 10, version * 10 + 5);
        let outcome = outcome.unwrap_or(Outcome::Ok { version, value: None });
        let action = Action::Write { value: value.to_owned() };
        Operation { client: 1, key: key.to_owned(), action, invoked_us, completed_us, outcome }
    }

    fn good() -> (Vec<Operation>, Finals) {
        let operations = vec![
            write("a/counter", "1", 1, None),
            write("a/counter", "2", 2, None),
            write("a/exact", "1", 3, None),
            write("a/register", "c1-0", 4, None),
            write("a/register", "c1-1", 5, None),
            write("a/claim/00000000", "c2-0", 6, None),
        ];
        let last = [("a/counter", "2", 2), ("a/exact", "1", 3), ("a/register", "c1-1", 5), ("a/claim/00000000", "c2-0", 6)];
        (operations, last.into_iter().map(|(key, value, version)| (key.to_owned(), (value.to_owned(), version))).collect())
    }

    #[test]
    fn every_kind_of_key_is_judged() {
        let (operations, finals) = good();
        assert_eq!(judge(&operations, &finals), Vec::<String>::new());
        for key in finals.keys() {
            let mut lost = finals.clone();
            lost.remove(key);
            let violations = judge(&operations, &lost);
            assert!(violations.iter().any(|violation| violation.contains(key.as_str())), "{key} is lost: {violations:?}");
            let mut twice = finals.clone();
            twice.insert(key.clone(), (finals[key].0.clone(), 99));
            let violations = judge(&operations, &twice);
            assert!(
                violations.iter().any(|violation| violation.contains(key.as_str())),
                "{key} was written twice: {violations:?}"
            );
        }
        let mut foreign = finals.clone();
        foreign.insert("z".to_owned(), ("?".to_owned(), 7));
        assert_eq!(judge(&operations, &foreign), ["z: in the store, but nobody wrote it"]);
        let failed = Outcome::Failed { kind: "condition_failed".to_owned(), why: "it has version 3".to_owned() };
        let mut operations = operations;
        operations.push(write("a/exact", "2", 7, Some(failed)));
        assert_eq!(judge(&operations, &finals).len(), 1);
    }
}
