//! How long writes stall when the leader of a partition dies: writers write, its process gets SIGKILL, and the longest gap between
//! two acknowledged writes of that partition is looked for.
//!
//! Each writer keeps to one partition. If writers chose freely, all of them would soon wait for the one that is down, and the gap of
//! every partition would look alike.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kontiki::{NamespaceId, PartitionId, key};
use kontiki_client::{Client, ClientOptions};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::processes::{self, Servers};
use crate::workload::{self, Source};

/// What was seen at one kill.
#[derive(Clone, Debug, Serialize)]
pub struct Stall {
    /// The node that was killed.
    pub node: u64,
    /// The user partitions that it led.
    pub partitions: Vec<u64>,
    /// The longest gap between two acknowledged writes of one of those partitions, in ms.
    pub gap_ms: f64,
    /// From SIGKILL to the first acknowledged write of the last of those partitions, in ms.
    pub first_write_ms: f64,
    /// The longest gap in the other user partitions, in ms; `None` if the node led them all.
    pub others_gap_ms: Option<f64>,
    /// Writes that ended with an error between the kill and the end.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

/// Writers per partition.
const WRITERS: usize = 4;
/// Writing before the kill, so that the gap has a start.
const STEADY: Duration = Duration::from_millis(700);
/// Writing after the last partition came back, so that the gap has an end and a second hole would be seen.
const AFTER: Duration = Duration::from_millis(500);
/// A partition that does not come back by then is reported as an error.
const BACK_WITHIN: Duration = Duration::from_secs(15);

/// When writes of each partition were acknowledged.
#[derive(Default)]
struct Acknowledged {
    at: BTreeMap<u64, Vec<Instant>>,
    errors: u64,
    first_error: Option<String>,
}

/// Kills the node that leads the most user partitions, measures, starts it again and waits until it serves.
pub async fn kill_a_leader(servers: &mut Servers, addrs: &[String], nodes: usize, seed: u64) -> Result<Stall, Failure> {
    let client = processes::connect(servers, addrs, &ClientOptions { seed: Some(seed), ..ClientOptions::default() }).await?;
    processes::wait_until_served(servers, &client, nodes).await?;
    let (node, led) = busiest_leader(&client).await?;
    let noted = Arc::new(Mutex::new(Acknowledged::default()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = start_writers(&client, &noted, &stop, seed);
    sleep(STEADY).await;
    let killed = Instant::now();
    servers.kill(node)?;
    wait_until_back(&noted, &led, killed).await?;
    sleep(AFTER).await;
    let ended = Instant::now();
    stop.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.map_err(Failure::doing("a writer ended early"))?;
    }
    servers.start_node(node)?;
    processes::wait_until_served(servers, &client, nodes).await?;
    let noted = std::mem::take(&mut *lock(&noted));
    let (mine, others): (Vec<u64>, Vec<u64>) = noted.at.keys().partition(|partition| led.contains(partition));
    Ok(Stall {
        node,
        partitions: led.clone(),
        gap_ms: noted.longest_gap_ms(&mine, killed, ended),
        first_write_ms: noted.first_after_ms(&led, killed),
        others_gap_ms: (!others.is_empty()).then(|| noted.longest_gap_ms(&others, killed, ended)),
        errors: noted.errors,
        first_error: noted.first_error,
    })
}

fn lock(noted: &Mutex<Acknowledged>) -> std::sync::MutexGuard<'_, Acknowledged> {
    noted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The node that leads the most user partitions, and those partitions.
async fn busiest_leader(client: &Client) -> Result<(u64, Vec<u64>), Failure> {
    let statuses = client.status().await.map_err(Failure::doing("asking who leads"))?;
    let mut led: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (node, status) in &statuses {
        let status = status.as_ref().map_err(Failure::doing(format!("asking {} what it leads", node.id)))?;
        for partition in &status.partitions {
            if partition.leader == Some(node.id) && partition.id != PartitionId::SYSTEM {
                led.entry(node.id.0).or_default().push(partition.id.0);
            }
        }
    }
    led.into_iter().max_by_key(|(_, partitions)| partitions.len()).ok_or_else(|| Failure::new("no node leads a user partition"))
}

fn start_writers(client: &Client, noted: &Arc<Mutex<Acknowledged>>, stop: &Arc<AtomicBool>, seed: u64) -> JoinSet<()> {
    let pool = Source::pool(seed);
    let mut writers = JoinSet::new();
    for (partition, keys) in keys_by_partition(client) {
        for writer in 0..WRITERS {
            let (client, keys, noted, stop) = (client.clone(), keys.clone(), noted.clone(), stop.clone());
            let mut source = Source::new(seed.wrapping_add(partition * 1000 + writer as u64), &pool);
            writers.spawn(async move {
                let mine = keys.iter().skip(writer).step_by(WRITERS).cycle();
                for n in mine {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let result = client.put(workload::key(*n), source.value()).await;
                    let mut noted = lock(&noted);
                    match result {
                        Ok(_) => noted.at.entry(partition).or_default().push(Instant::now()),
                        Err(error) => {
                            noted.errors += 1;
                            noted.first_error.get_or_insert(error.to_string());
                        }
                    }
                }
            });
        }
    }
    writers
}

/// Which of the loaded keys lie in which user partition, by the client's map.
fn keys_by_partition(client: &Client) -> BTreeMap<u64, Arc<Vec<u64>>> {
    let map = client.map();
    let mut keys: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for n in 0..workload::KEYS_LOADED {
        if let Some(descriptor) = map.lookup(&key::internal(NamespaceId::DEFAULT, &workload::key(n))) {
            keys.entry(descriptor.id.0).or_default().push(n);
        }
    }
    keys.into_iter().map(|(partition, keys)| (partition, Arc::new(keys))).collect()
}

async fn wait_until_back(noted: &Mutex<Acknowledged>, led: &[u64], killed: Instant) -> Result<(), Failure> {
    while !lock(noted).all_since(led, killed) {
        if killed.elapsed() > BACK_WITHIN {
            let error = lock(noted).first_error.clone().unwrap_or_else(|| "no write has failed".to_owned());
            return Err(Failure::new(format!("partitions {led:?} took no write for {BACK_WITHIN:?} after the kill ({error})")));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

impl Acknowledged {
    fn all_since(&self, partitions: &[u64], since: Instant) -> bool {
        let last = |partition| self.at.get(partition).and_then(|at| at.last());
        partitions.iter().all(|partition| last(partition).is_some_and(|at| *at > since))
    }

    /// The longest gap that overlaps `[from, to]` in any of the partitions.
    fn longest_gap_ms(&self, partitions: &[u64], from: Instant, to: Instant) -> f64 {
        let gaps = partitions.iter().filter_map(|partition| self.at.get(partition)).flat_map(|at| {
            let overlapping = at.windows(2).filter(move |pair| pair[1] >= from && pair[0] <= to);
            overlapping.map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0)
        });
        gaps.fold(0.0, f64::max)
    }

    /// The first write after `since`, of the partition that came back last.
    fn first_after_ms(&self, partitions: &[u64], since: Instant) -> f64 {
        let first = |partition| self.at.get(partition).and_then(|at| at.iter().find(|at| **at > since));
        let firsts = partitions.iter().filter_map(first).map(|at| (*at - since).as_secs_f64() * 1000.0);
        firsts.fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_that_of_the_partition_asked_and_of_the_time_asked() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut noted = Acknowledged::default();
        noted.at.insert(2, vec![at(0), at(500), at(600), at(1400), at(1410)]);
        noted.at.insert(3, vec![at(590), at(610), at(2000)]);
        assert_eq!(noted.longest_gap_ms(&[2], at(600), at(1500)), 800.0);
        assert_eq!(noted.longest_gap_ms(&[3], at(600), at(605)), 20.0);
        assert_eq!(noted.first_after_ms(&[2, 3], at(605)), 795.0);
        assert!(noted.all_since(&[2, 3], at(1405)) && !noted.all_since(&[2, 3], at(1450)));
        assert!(!noted.all_since(&[4], at(0)));
    }
}
