//! Restarts of one node with little data, and of the same node with a hundred times as much: the time until it is ready must not grow.
//! Once after SIGTERM, once after SIGKILL, after which the raft log has more to be replayed.

use kontiki_client::Client;
use tokio::time::Instant;

use super::figure::median_and_worst;
use super::{Bench, Limit, fill, watch};
use crate::Failure;
use crate::processes::{self, Servers};

/// The node.
const NODE: u64 = 1;
/// The small data set is this part of the large one.
const SMALL_PART: u64 = 100;
/// How much longer the restart with much data may take: what one run differs from the next by.
const TOLERANCE: f64 = 1.25;
/// To serving, whatever the data, in ms (the target of the design).
const READY_MS_MAX: f64 = 2000.0;

/// How the process ended before.
#[derive(Clone, Copy)]
enum End {
    Terminated,
    Killed,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Terminated => "SIGTERM",
            Self::Killed => "SIGKILL",
        }
    }
}

pub(super) async fn run(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let prepared = bench.cluster(1, 0, 1)?;
    let http = prepared.settings.http.as_ref().and_then(|http| http.addr(NODE)).unwrap_or_default().to_owned();
    let (mut servers, client) = bench.start(&prepared).await?;
    let all = fill::rows_of(2 * bench.plan.bytes);
    let few = (all / SMALL_PART).max(1);
    let mut medians = Vec::new();
    let mut from = 0;
    for (to, size) in [(few, "little"), (all, "much")] {
        fill::rows(bench, &client, from, to).await?;
        from = to;
        // The kernel writes gigabytes back half a minute later, and every fsync waits for it: that would be measured instead.
        tokio::task::spawn_blocking(nix::unistd::sync).await.map_err(Failure::doing("waiting for the disk"))?;
        for end in [End::Terminated, End::Killed] {
            let took = restarts(bench, (&mut servers, &client), &http, end).await?;
            medians.push((end, size, took));
        }
    }
    let megabytes = |rows: u64| rows as f64 * fill::ROW_BYTES as f64 / 1e6;
    for (end, size, took) in &medians {
        let ((median, worst), bytes) = (median_and_worst(took), megabytes(if *size == "much" { all } else { few }));
        let before = medians.iter().find(|(other, of, _)| other.name() == end.name() && *of == "little");
        let limit = match before {
            Some((_, _, little)) if *size == "much" => Limit::AtMostMeasured(TOLERANCE * median_and_worst(little).0),
            _ => Limit::AtMost(READY_MS_MAX),
        };
        let name = format!("ready after {}, {bytes:.0} MB on disk, median", end.name());
        let times = took.iter().map(|ms| format!("{ms:.0}")).collect::<Vec<_>>().join(" ");
        let note = match limit {
            Limit::AtMostMeasured(_) => {
                format!("{times}; worst {worst:.0}; the limit is {TOLERANCE} of the restart with little data")
            }
            _ => format!(
                "{times}; worst {worst:.0}; the raft log, which is read at a start, is kept up to 64 MiB for a partition: less data has less of it"
            ),
        };
        bench.note(name, (median, "ms"), limit, note);
    }
    Ok(())
}

/// Times from the start of the process until `/readyz` says yes, in ms.
async fn restarts(
    bench: &Bench<'_>,
    (servers, client): (&mut Servers, &Client),
    http: &str,
    end: End,
) -> Result<Vec<f64>, Failure> {
    let mut times = Vec::new();
    for round in 1..=bench.plan.rounds {
        match end {
            End::Terminated => drop(servers.stop_node(NODE).await?),
            End::Killed => servers.kill(NODE)?,
        }
        let start = Instant::now();
        servers.start_node(NODE)?;
        let took = watch::ready(servers, http, start).await?;
        processes::wait_until_served(servers, client, 1).await?;
        bench.say(format!("ready {:.0} ms after {}, {round} of {}", took.as_secs_f64() * 1000.0, end.name(), bench.plan.rounds));
        times.push(took.as_secs_f64() * 1000.0);
    }
    Ok(times)
}
