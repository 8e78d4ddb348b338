//! `import`: many puts at once, in a bounded window, and a checkpoint of what is acknowledged.
//!
//! ```text
//!   lines ──► window of puts (at most `concurrency`, one for each key) ──► acknowledged, in input order ──► checkpoint
//! ```
//!
//! A put may be repeated without harm, so a checkpoint may be older than the truth, but never newer: it moves only over rows whose
//! puts are all acknowledged. Two rows with the same key are never under way together, so the later one wins.

use std::collections::HashSet;
use std::future::Future;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use indicatif::{ProgressBar, ProgressStyle};
use kontiki::{Error, ErrorKind};
use kontiki_client::Client;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::lines::{Line, Lines};
use crate::args::Import;
use crate::checkpoint::Checkpoint;
use crate::failure::Failure;
use crate::output::{Output, Stop};
use crate::values::show_rows;

/// How often the checkpoint is written.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Between two tries of a row, beside the client's own waits.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A row under way: its key, its place, and what came of it.
type Flight = JoinHandle<(Line, Result<(), Error>)>;

/// What is known of an import while it runs.
struct Progress {
    acknowledged: Checkpoint,
    state: Option<PathBuf>,
    saved: Instant,
    bar: ProgressBar,
}

impl Progress {
    fn acknowledge(&mut self, after: Checkpoint) -> Result<(), Failure> {
        self.acknowledged = after;
        self.bar.set_position(after.offset_bytes);
        self.bar.set_message(show_rows(after.rows));
        if self.saved.elapsed() >= SAVE_EVERY {
            self.save()?;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<(), Failure> {
        self.saved = Instant::now();
        self.state.as_deref().map_or(Ok(()), |path| self.acknowledged.save(path))
    }
}

/// A bar on standard error if that is a terminal, else nothing.
pub fn bar(size_bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size_bytes {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:30} {percent:>3} %  {bytes} of {total_bytes}  {binary_bytes_per_sec}  {msg}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {binary_bytes_per_sec}  {msg}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// An import whose input is open, and read over as far as the checkpoint says.
pub struct Opened {
    import: Import,
    lines: Lines,
    start: Checkpoint,
}

/// Opens the input.
pub async fn open(import: Import) -> Result<Opened, Failure> {
    let mut lines = Lines::open(import.file.as_deref()).await?;
    let earlier = match (&import.state, import.restart) {
        (Some(path), false) => Checkpoint::load(path)?,
        _ => None,
    };
    if let Some(checkpoint) = &earlier {
        lines.skip_to(checkpoint).await?;
        eprintln!("kontiki: going on after line {}, with {} in already", checkpoint.lines, show_rows(checkpoint.rows));
    }
    Ok(Opened { import, lines, start: earlier.unwrap_or_else(Checkpoint::start) })
}

/// Imports, to the end or to the first row that cannot be put.
pub async fn run(client: &Client, output: Output, opened: Opened) -> Result<(), Stop> {
    let Opened { import, mut lines, start } = opened;
    let started = Instant::now();
    let bar = bar(lines.size_bytes);
    let mut progress = Progress { acknowledged: start, state: import.state.clone(), saved: started, bar };
    let put = putter(client.clone(), import.patience);
    let ended = pump(&mut lines, &put, import.concurrency, &mut progress, interrupted()).await;
    progress.bar.finish_and_clear();
    let rows = progress.acknowledged.rows - start.rows;
    if let Err(failure) = ended {
        progress.save()?;
        let advice = match (&progress.state, &import.file) {
            (Some(_), _) => format!("{} put and noted: run the same command to go on", show_rows(rows)),
            (None, _) => format!("{} put; say --state FILE to be able to go on after an interruption", show_rows(rows)),
        };
        return Err(failure.with_advice(advice).into());
    }
    if let Some(path) = &import.state {
        Checkpoint::remove(path)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    output.print(
        || format!("imported {} in {seconds:.1} s ({:.0} rows/s)", show_rows(rows), rows as f64 / seconds.max(0.001)),
        || json!({ "rows": rows, "rows_before": start.rows, "seconds": seconds }),
    )
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler the signal ends the process by itself.
        std::future::pending::<()>().await;
    }
}

/// Puts one row, again and again while the cluster does not answer. A blind put may be repeated: also an ambiguous one.
fn putter(client: Client, patience: Duration) -> impl Fn(Bytes, Bytes) -> futures::future::BoxFuture<'static, Result<(), Error>> {
    move |key, value| {
        let client = client.clone();
        Box::pin(async move {
            let until = Instant::now() + patience;
            loop {
                let error = match client.put(key.clone(), value.clone()).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                };
                let passing = matches!(
                    error.kind(),
                    ErrorKind::Unavailable | ErrorKind::Overloaded | ErrorKind::Ambiguous | ErrorKind::Session
                );
                if !passing || Instant::now() >= until {
                    return Err(error);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        })
    }
}

/// Moves rows from the input through the window until the input ends, a row fails, or `stop` is done. What is under way at an
/// interruption is waited for, so that its rows need not be repeated.
async fn pump<F>(
    lines: &mut Lines,
    put: &F,
    window: usize,
    progress: &mut Progress,
    stop: impl Future<Output = ()>,
) -> Result<(), Failure>
where
    F: Fn(Bytes, Bytes) -> futures::future::BoxFuture<'static, Result<(), Error>>,
{
    let mut stop = std::pin::pin!(stop);
    let mut flights: FuturesOrdered<Flight> = FuturesOrdered::new();
    let mut keys = HashSet::new();
    let mut held: Option<Line> = None;
    let (mut reading, mut stopped) = (true, false);
    // A bad line is told only after the rows before it are acknowledged.
    let mut bad_line = None;
    while reading || held.is_some() || !flights.is_empty() {
        if let Some(line) = held.take_if(|line| flights.len() < window && !keys.contains(&line.key)) {
            keys.insert(line.key.clone());
            let putting = put(line.key.clone(), line.value.clone());
            flights.push_back(tokio::spawn(async move { (line, putting.await) }));
            continue;
        }
        tokio::select! {
            () = &mut stop, if !stopped => {
                stopped = true;
                reading = false;
                held = None;
            }
            Some(flown) = flights.next(), if !flights.is_empty() => {
                let (line, result) = flown.map_err(|error| Failure::internal(format!("a put did not end: {error}")))?;
                let key = || crate::encoding::Encoding::Text.show(&line.key);
                result.map_err(|error| Failure { message: format!("line {} (key `{}`): {error}", line.after.lines, key()), ..Failure::from(error) })?;
                keys.remove(&line.key);
                progress.acknowledge(line.after)?;
            }
            line = lines.next(), if reading && held.is_none() => match line {
                Ok(Some(line)) => held = Some(line),
                Ok(None) => reading = false,
                Err(failure) => {
                    bad_line = Some(failure);
                    reading = false;
                }
            },
        }
    }
    if stopped { Err(Failure::interrupted("interrupted")) } else { bad_line.map_or(Ok(()), Err) }
}

#[cfg(test)]
#[path = "import_tests.rs"]
mod tests;
