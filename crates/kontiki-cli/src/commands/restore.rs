//! `restore`: a new cluster of one node from a backup, or from a backup and the increments that end in it.

use serde_json::json;
use tokio::sync::mpsc;

use super::import::bar;
use crate::args::Restore;
use crate::backup::Chain;
use crate::failure::Failure;
use crate::output::{Output, Stop};
use crate::rebuild::{Place, Plan, Rebuild, send};
use crate::settings::Cut;
use crate::values::show_rows;

/// Rows on their way from the files to the node.
const ROWS_WAITING_MAX: usize = 1024;

/// Builds the data directory.
pub async fn run(output: Output, asked: Restore) -> Result<(), Stop> {
    let chain = Chain::open(&asked.from, &asked.bases)?;
    let Some(newest) = chain.newest().cloned() else { return Err(Failure::internal("a chain has a link").into()) };
    let cut = asked.cut.unwrap_or(Cut::At(newest.boundaries.clone()));
    let plan = Plan { cluster_name: asked.cluster_name, cut, above: newest.version };
    let incomplete = |failure: Failure| {
        let data = asked.data.display();
        failure.with_advice(format!("nothing is restored: {data} is not complete, and the same command begins anew"))
    };
    let rebuild = Rebuild::begin(Place::claim(&asked.data)?, plan).await.map_err(incomplete)?;
    let (sender, receiver) = mpsc::channel(ROWS_WAITING_MAX);
    let reading =
        tokio::task::spawn_blocking(move || send(chain.rows().map(|row| row.map(|(key, value, _)| (key, value))), &sender));
    let bar = bar(None);
    let filled = rebuild.fill(receiver, |rows| bar.set_message(show_rows(rows))).await;
    bar.finish_and_clear();
    let rows = filled.map_err(incomplete)?;
    reading.await.map_err(|error| Failure::internal(format!("reading the backup: {error}")))?;
    let cluster = rebuild.finish().await?;
    let data = asked.data.display().to_string();
    output.print(
        || {
            format!(
                "restored {} of version {} into {data}: the cluster {cluster}\nstart it: kontiki server --data {data}",
                show_rows(rows),
                newest.version
            )
        },
        || json!({ "rows": rows, "version": crate::output::version(newest.version), "cluster": cluster.to_string(), "data": data }),
    )
}
