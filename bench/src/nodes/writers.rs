//! Clients that write while something is done to the cluster, and how long each of their calls took. A stall is a call: what the one
//! client felt that waited longest.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kontiki_client::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::workload::{self, Source};

/// One call of a writer.
#[derive(Clone, Copy, Debug)]
struct Call {
    began: Instant,
    ended: Instant,
    acknowledged: bool,
}

/// What all writers have noted.
#[derive(Default)]
struct Noted {
    calls: Vec<Call>,
    first_error: Option<String>,
}

impl Noted {
    fn add(&mut self, call: Call, error: Option<String>) {
        self.calls.push(call);
        self.first_error = self.first_error.take().or(error);
    }
}

/// Writers at work. They end when this is dropped.
pub(super) struct Writers {
    noted: Arc<Mutex<Noted>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Between {
    /// Calls that were acknowledged.
    pub(super) acknowledged: u64,
    /// Calls that ended with an error.
    pub(super) failed: u64,
    /// The longest call that overlaps the time, in ms.
    pub(super) longest_ms: f64,
}

impl Writers {
    /// So many writers, each of which pauses so long between its calls.
    pub(super) fn start(client: &Client, count: u64, pause: Duration, seed: u64) -> Self {
        let (noted, stop) = (Arc::new(Mutex::new(Noted::default())), Arc::new(AtomicBool::new(false)));
        let pool = Source::pool(seed);
        let mut tasks = JoinSet::new();
        for writer in 0..count {
            let (client, noted, stop) = (client.clone(), noted.clone(), stop.clone());
            let mut source = Source::new(seed.wrapping_add(writer), &pool);
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let result = client.put(source.key(workload::KEYS), source.value()).await;
                    let call = Call { began, ended: Instant::now(), acknowledged: result.is_ok() };
                    lock(&noted).add(call, result.err().map(|error| error.to_string()));
                    if !pause.is_zero() {
                        sleep(pause).await;
                    }
                }
            });
        }
        Self { noted, stop, tasks }
    }

    /// What happened between two moments, as far as it has ended.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Between {
        between(&lock(&self.noted).calls, from, to)
    }

    /// Waits until every call that was begun has ended, and gives the first error, if any.
    pub(super) async fn finish(&mut self) -> Result<Option<String>, Failure> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(writer) = self.tasks.join_next().await {
            writer.map_err(Failure::doing("a writer ended early"))?;
        }
        Ok(lock(&self.noted).first_error.clone())
    }
}

fn between(calls: &[Call], from: Instant, to: Instant) -> Between {
    let mut seen = Between::default();
    for call in calls.iter().filter(|call| call.ended >= from && call.began <= to) {
        seen.longest_ms = seen.longest_ms.max((call.ended - call.began).as_secs_f64() * 1000.0);
        if call.ended <= to {
            seen.acknowledged += u64::from(call.acknowledged);
            seen.failed += u64::from(!call.acknowledged);
        }
    }
    seen
}

fn lock(noted: &Mutex<Noted>) -> std::sync::MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_where_it_ends_and_stalls_wherever_it_lasted() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let call = |from, to, acknowledged| Call { began: at(from), ended: at(to), acknowledged };
        let calls = [call(0, 5, true), call(10, 90, true), call(95, 99, false), call(98, 400, true)];
        assert_eq!(between(&calls, at(6), at(100)), Between { acknowledged: 1, failed: 1, longest_ms: 302.0 });
        assert_eq!(between(&calls, at(91), at(96)), Between { acknowledged: 0, failed: 0, longest_ms: 4.0 });
        assert_eq!(between(&calls, at(500), at(600)), Between::default());
    }
}
