//! Few keys, overwritten again and again, then left alone: the disk must follow what is kept, not what was written.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kontiki_client::{Client, WriteBatch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval};

use super::{Bench, Limit};
use crate::Failure;
use crate::processes::Servers;
use crate::workload::Source;

/// Keys.
const KEYS: u64 = 1000;
/// Bytes of a value. They do not compress.
const VALUE_BYTES: usize = 256;
/// Keys of one write.
const WRITE_KEYS: u64 = 50;
/// Writes under way at once.
const WRITERS: u64 = 32;
/// How long old versions are kept: seconds, so that a run shows both what is kept and what goes.
const RETENTION: &str = "10s";
/// What the data may take on a node at the end: the newest versions, and what is not worth a compaction.
const SETTLED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What the log may take: what is kept of it by default, in whole segments, and those that wait to be used again.
const LOG_BYTES_MAX: u64 = (1024 + 4 * 64) * 1024 * 1024;
/// The data settles within this, or is measured as it is.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);
/// How often is measured.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Bytes on the disk of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    data: u64,
    log: u64,
}

impl Used {
    fn of(directory: &Path) -> Self {
        Self { data: bytes_below(&directory.join("data")), log: bytes_below(&directory.join("log")) }
    }

    fn max(self, other: Self) -> Self {
        Self { data: self.data.max(other.data), log: self.log.max(other.log) }
    }
}

/// Files may go while they are counted.
fn bytes_below(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        bytes += if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() };
    }
    bytes
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let mut prepared = bench.cluster(3, 0, 1)?;
    prepared.settings.flags = vec!["--retention".to_owned(), RETENTION.to_owned()];
    let (mut servers, client) = bench.start(&prepared).await?;
    let writes = bench.plan.overwrites.div_ceil(WRITE_KEYS);
    let (most, took) = overwrite(bench, &mut servers, &client, writes).await?;
    let written = (writes * WRITE_KEYS) as f64 * (VALUE_BYTES + 8) as f64;
    bench.note(
        "most data on a node while it is written",
        (most.data as f64 / 1e6, "MB"),
        Limit::None,
        format!(
            "{} overwrites of {KEYS} keys in {:.0} s, {:.0} MB; versions are kept for {RETENTION}; a compaction needs room for what it writes anew",
            writes * WRITE_KEYS,
            took.as_secs_f64(),
            written / 1e6
        ),
    );
    bench.note("most log on a node", (most.log as f64 / 1e6, "MB"), Limit::AtMost(LOG_BYTES_MAX as f64 / 1e6), "");
    let start = Instant::now();
    let settled = loop {
        servers.check()?;
        let now = used(&servers);
        if now.data <= SETTLED_BYTES_MAX || start.elapsed() > SETTLES_WITHIN {
            break now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    bench.note(
        "data on a node when nobody writes any more",
        (settled.data as f64 / 1e6, "MB"),
        Limit::AtMost(SETTLED_BYTES_MAX as f64 / 1e6),
        format!("{:.1} s after the last write; {:.2} MB are live", start.elapsed().as_secs_f64(), KEYS as f64 * 272.0 / 1e6),
    );
    Ok(())
}

/// The largest of all nodes.
fn used(servers: &Servers) -> Used {
    let nodes = servers.settings().members.all().iter();
    nodes.map(|(node, _)| Used::of(&servers.settings().data_dir(*node))).fold(Used::default(), Used::max)
}

async fn overwrite(bench: &Bench<'_>, servers: &mut Servers, client: &Client, writes: u64) -> Result<(Used, Duration), Failure> {
    let (pool, next) = (Source::pool(bench.plan.seed), Arc::new(AtomicU64::new(0)));
    let mut writers: JoinSet<Result<(), String>> = JoinSet::new();
    for writer in 0..WRITERS {
        let (client, next) = (client.clone(), next.clone());
        let mut source = Source::new(bench.plan.seed.wrapping_add(writer), &pool);
        writers.spawn(async move {
            loop {
                let write = next.fetch_add(1, Ordering::Relaxed);
                if write >= writes {
                    return Ok(());
                }
                let keys = (0..WRITE_KEYS).map(|at| (write * WRITE_KEYS + at) % KEYS);
                let put = |batch: WriteBatch, key: u64| batch.put(format!("k{key:07}"), source.bytes(VALUE_BYTES));
                client.write(keys.fold(WriteBatch::new(), put)).await.map_err(|error| error.to_string())?;
            }
        });
    }
    let (start, mut most, mut looks) = (Instant::now(), Used::default(), 0_u32);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            writer = writers.join_next() => match writer {
                Some(writer) => writer.map_err(Failure::doing("a writer ended early"))?.map_err(Failure::doing("overwriting"))?,
                None => return Ok((most.max(used(servers)), start.elapsed())),
            },
            _ = look.tick() => {
                servers.check()?;
                let now = used(servers);
                most = most.max(now);
                looks += 1;
                if looks % 20 == 0 {
                    let done = next.load(Ordering::Relaxed).min(writes) * WRITE_KEYS;
                    bench.say(format!("{done} overwrites, data {:.0} MB, log {:.0} MB", now.data as f64 / 1e6, now.log as f64 / 1e6));
                }
            }
        }
    }
}
