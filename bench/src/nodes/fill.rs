//! Fills a cluster with rows, as fast as it takes them: in key order, many rows in one write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kontiki_client::{Client, WriteBatch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Bench;
use crate::Failure;
use crate::workload::Source;

/// Bytes of a value. They do not compress.
const VALUE_BYTES: usize = 4096;
/// Bytes of a key.
const KEY_BYTES: usize = 16;
/// Bytes of a row, as the figures count them.
pub(super) const ROW_BYTES: u64 = (VALUE_BYTES + KEY_BYTES) as u64;
/// Rows of one write.
const WRITE_ROWS: u64 = 128;
/// Writes under way at once.
const LOADERS: u64 = 8;
/// How often is said how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Rows that make so many bytes.
pub(super) fn rows_of(bytes: u64) -> u64 {
    bytes.div_ceil(ROW_BYTES)
}

/// The `n`th key, in key order.
fn key(n: u64) -> Bytes {
    let mut key = n.to_be_bytes().to_vec();
    key.resize(KEY_BYTES, b'.');
    Bytes::from(key)
}

/// Writes the rows `from..to`.
pub(super) async fn rows(bench: &Bench<'_>, client: &Client, from: u64, to: u64) -> Result<(), Failure> {
    let (pool, next) = (Source::pool(bench.plan.seed), Arc::new(AtomicU64::new(from)));
    let mut loaders: JoinSet<Result<(), String>> = JoinSet::new();
    for loader in 0..LOADERS {
        let (client, next) = (client.clone(), next.clone());
        let mut source = Source::new(bench.plan.seed.wrapping_add(loader), &pool);
        loaders.spawn(async move {
            loop {
                let first = next.fetch_add(WRITE_ROWS, Ordering::Relaxed);
                if first >= to {
                    return Ok(());
                }
                let rows = first..to.min(first + WRITE_ROWS);
                let batch = rows.fold(WriteBatch::new(), |batch, n| batch.put(key(n), source.bytes(VALUE_BYTES)));
                client.write(batch).await.map_err(|error| error.to_string())?;
            }
        });
    }
    let start = Instant::now();
    let mut say = interval(SAY_EVERY);
    say.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            loader = loaders.join_next() => match loader {
                Some(loader) => loader.map_err(Failure::doing("a loader ended early"))?.map_err(Failure::doing("writing rows"))?,
                None => return Ok(()),
            },
            _ = say.tick() => {
                let done = (next.load(Ordering::Relaxed).min(to) - from) as f64 * ROW_BYTES as f64;
                let rate = done / start.elapsed().as_secs_f64().max(0.001);
                let all = (to - from) as f64 * ROW_BYTES as f64;
                bench.say(format!("{:.2} of {:.2} GB written, {:.0} MB/s", done / 1e9, all / 1e9, rate / 1e6));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_of_their_length() {
        let keys: Vec<Bytes> = (0..300).map(key).collect();
        assert!(keys.is_sorted() && keys.iter().all(|key| key.len() == KEY_BYTES));
        assert_eq!(rows_of(1_000_000_000) * ROW_BYTES / 1_000_000, 1000);
    }
}
