//! A job registry inside one process: jobs are handed in once, claimed by one worker each, and done. Everything is kept by an embedded
//! Kontiki node, in one partition (the default), so that a job can move between its states in one step. Run it on three nodes, and workers
//! in three processes share the jobs in the same way.
//!
//!     cargo run --example embedded

use futures::{StreamExt, TryStreamExt};
use kontiki::{Client, Error, ErrorKind, Node, ScanOptions, WriteBatch};

/// Jobs in a store: `open/<name>` waits, `claimed/<name>` is worked on, `done/<name>` holds the result.
#[derive(Clone)]
struct Jobs(Client);

impl Jobs {
    /// Hands a job in. False if a job of that name is waiting already.
    async fn submit(&self, name: &str, what: &str) -> Result<bool, Error> {
        let key = format!("open/{name}");
        held(self.0.write(WriteBatch::new().if_absent(key.clone()).put(key, what.to_owned())).await)
    }

    /// Takes the first job that nobody else takes: it moves from open to claimed in one step, or not at all.
    async fn claim(&self, worker: &str) -> Result<Option<(String, String)>, Error> {
        let mut open = self.0.scan(ScanOptions::prefix("open/"));
        while let Some(row) = open.next().await.transpose()? {
            let name = String::from_utf8_lossy(&row.key["open/".len()..]).into_owned();
            let claimed = format!("claimed/{name}");
            let take = WriteBatch::new().if_version(row.key.clone(), row.version).delete(row.key).put(claimed, worker.to_owned());
            if held(self.0.write(take).await)? {
                return Ok(Some((name, String::from_utf8_lossy(&row.value).into_owned())));
            }
        }
        Ok(None)
    }

    /// Records a result, if the job is still this worker's.
    async fn finish(&self, worker: &str, name: &str, result: String) -> Result<bool, Error> {
        let claimed = format!("claimed/{name}");
        let done =
            WriteBatch::new().if_value(claimed.clone(), worker.to_owned()).delete(claimed).put(format!("done/{name}"), result);
        held(self.0.write(done).await)
    }
}

/// A condition that does not hold is an answer here, not a failure.
fn held<T>(written: Result<T, Error>) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::ConditionFailed => Ok(false),
        Err(error) => Err(error),
    }
}

async fn work(jobs: Jobs, worker: String) -> Result<usize, Error> {
    let mut finished = 0;
    while let Some((name, what)) = jobs.claim(&worker).await? {
        finished += usize::from(jobs.finish(&worker, &name, what.to_uppercase()).await?);
    }
    Ok(finished)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?; // a service of your own gives a directory that lasts
    let node = Node::builder(scratch.path()).start().await?;
    let jobs = Jobs(node.client());
    for number in 0..20 {
        jobs.submit(&format!("{number:02}"), &format!("shout number {number}")).await?;
    }
    assert!(!jobs.submit("07", "again").await?, "a job is handed in once");
    let workers = (1..=3).map(|worker| work(jobs.clone(), format!("worker-{worker}")));
    let finished = futures::future::try_join_all(workers).await?;
    let done: Vec<_> = node.client().scan(ScanOptions::prefix("done/")).try_collect().await?;
    assert_eq!((finished.iter().sum::<usize>(), done.len()), (20, 20), "each job is done once");
    println!("{} jobs done, by worker {finished:?}; the last: {}", done.len(), String::from_utf8_lossy(&done[19].value));
    node.stop().await;
    Ok(())
}
