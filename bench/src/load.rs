//! The load generator: a number of callers, each with one request open at a time (a closed loop). What happens before the window
//! opens is warm-up and is not counted.

use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use kontiki_client::Client;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::workload::{self, Source};
use crate::{Failure, cpu};

/// What a caller does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A put of a random key.
    Put,
    /// A linearizable get of a random key that exists.
    Get,
}

impl Operation {
    /// The word for it in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// One run.
pub struct Load<'a> {
    /// Caller `i` uses client `i` modulo their number.
    pub clients: &'a [Client],
    /// What is done.
    pub operation: Operation,
    /// How many callers.
    pub callers: usize,
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub window: Duration,
    /// Whose CPU time is counted as the servers'.
    pub servers: &'a [u32],
    /// Replays the same keys.
    pub seed: u64,
}

/// What came out.
pub struct Tally {
    /// Operations that began and succeeded inside the window.
    pub operations: u64,
    /// Operations that failed, warm-up included.
    pub errors: u64,
    /// The first failure.
    pub first_error: Option<String>,
    /// Latency in ns.
    pub latency: Histogram<u64>,
    /// How long the window really was.
    pub window: Duration,
    /// CPU time of the servers in the window.
    pub server_cpu: Duration,
    /// CPU time of this process in the window.
    pub own_cpu: Duration,
}

/// The longest latency that is told apart, in ns; the client gives up earlier.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Latencies are kept to 1 %: small enough to give every caller a histogram of its own.
const DIGITS: u8 = 2;

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, DIGITS).expect("invariant: the bounds are in order")
}

impl Load<'_> {
    /// Runs the load to its end.
    pub async fn run(&self) -> Result<Tally, Failure> {
        let pool = Source::pool(self.seed);
        let opens = Instant::now() + self.warm_up;
        let closes = opens + self.window;
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            let client = self.clients[caller % self.clients.len()].clone();
            let source = Source::new(self.seed.wrapping_add(caller as u64), &pool);
            callers.spawn(call(client, self.operation, source, opens, closes));
        }
        let own = [std::process::id()];
        tokio::time::sleep_until(opens).await;
        let (opened, server_before, own_before) = (Instant::now(), cpu::used(self.servers)?, cpu::used(&own)?);
        tokio::time::sleep_until(closes).await;
        let (window, server_after, own_after) = (opened.elapsed(), cpu::used(self.servers)?, cpu::used(&own)?);
        let mut tally = Tally {
            operations: 0,
            errors: 0,
            first_error: None,
            latency: histogram(),
            window,
            server_cpu: server_after.saturating_sub(server_before),
            own_cpu: own_after.saturating_sub(own_before),
        };
        while let Some(caller) = callers.join_next().await {
            tally.add(caller.map_err(Failure::doing("a caller ended early"))?);
        }
        Ok(tally)
    }
}

/// One caller's part.
struct Part {
    errors: u64,
    first_error: Option<String>,
    latency: Histogram<u64>,
}

impl Tally {
    fn add(&mut self, part: Part) {
        self.operations += part.latency.len();
        self.errors += part.errors;
        self.first_error = self.first_error.take().or(part.first_error);
        self.latency.add(part.latency).expect("invariant: all histograms have the same bounds");
    }

    /// Operations in a second.
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.window.as_secs_f64()
    }

    /// A quantile of the latency, in us.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// CPU time of the servers for one operation, in us; `None` if there was no operation.
    pub fn server_us(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.server_cpu.as_micros() as f64 / self.operations as f64)
    }

    /// CPU time of this process for one operation, in us.
    pub fn own_us(&self) -> Option<f64> {
        (self.operations > 0).then(|| self.own_cpu.as_micros() as f64 / self.operations as f64)
    }
}

async fn call(client: Client, operation: Operation, mut source: Source, opens: Instant, closes: Instant) -> Part {
    let mut part = Part { errors: 0, first_error: None, latency: histogram() };
    loop {
        let start = Instant::now();
        if start >= closes {
            return part;
        }
        let result = match operation {
            Operation::Put => put(&client, source.key(workload::KEYS), source.value()).await,
            Operation::Get => get(&client, source.key(workload::KEYS_LOADED)).await,
        };
        match result {
            Ok(()) => {
                let end = Instant::now();
                if start >= opens && end <= closes {
                    let ns = u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX);
                    part.latency.saturating_record(ns);
                }
            }
            Err(error) => {
                part.errors += 1;
                part.first_error.get_or_insert(error);
            }
        }
    }
}

async fn put(client: &Client, key: Bytes, value: Bytes) -> Result<(), String> {
    client.put(key, value).await.map(|_| ()).map_err(|error| error.to_string())
}

/// A get that finds nothing, or something else than was loaded, is a failure: a fast wrong answer is not a figure.
async fn get(client: &Client, key: Bytes) -> Result<(), String> {
    match client.get(key).await {
        Ok(Some(row)) if row.value.len() == workload::VALUE_BYTES => Ok(()),
        Ok(Some(row)) => Err(format!("a loaded key has a value of {} bytes", row.value.len())),
        Ok(None) => Err("a loaded key is absent".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Callers that write the loaded keys.
const LOADERS: u64 = 64;

/// Writes the keys that gets look for.
pub async fn load_keys(clients: &[Client], seed: u64) -> Result<(), Failure> {
    let pool = Source::pool(seed);
    let mut loaders = JoinSet::new();
    for (loader, client) in (0..LOADERS).zip(clients.iter().cycle()) {
        let client = client.clone();
        let mut source = Source::new(seed.wrapping_add(loader), &pool);
        loaders.spawn(async move {
            for n in (loader..workload::KEYS_LOADED).step_by(LOADERS as usize) {
                put(&client, workload::key(n), source.value()).await?;
            }
            Ok::<_, String>(())
        });
    }
    while let Some(loader) = loaders.join_next().await {
        let result = loader.map_err(Failure::doing("a loader ended early"))?;
        result.map_err(Failure::doing("writing the keys that gets look for"))?;
    }
    Ok(())
}
