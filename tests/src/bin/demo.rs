//! The demo: three nodes as real processes, a real import, a leader killed in the middle of writes, and proof that nothing acknowledged
//! was lost. It prints what it does as it does it, and ends with 0 only if every claim held.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program: it starts processes, writes files and looks at the clock"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt as _;
use kontiki_client::{Client, ClientOptions, ScanOptions, WriteBatch};
use kontiki_tests::catalogue::{self, Catalogue};
use kontiki_tests::checks::{self, Finals};
use kontiki_tests::history::{Action, History, Operation, Outcome, longest_gap};
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE};
use kontiki_tests::{program, progress};
use kontiki_types::{Bytes, NamespaceId, PartitionId, ReadLevel, Row, key};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// The longest that writes may stall when a leader is killed: detection 0.95 to 1.2 s, an election, and a loaded machine.
const STALL_MAX: Duration = Duration::from_secs(2);
const PARTITIONS: usize = 6;
const WRITERS_PER_PARTITION: usize = 2;
/// How long writes flow before the kill, and after it: long enough to see what is usual.
const FLOW: Duration = Duration::from_secs(2);
/// Keys written while a node is killed end with this and a number.
const NOTE: &str = "/note-";

/// A claim that did not hold, or something that went wrong on the way to one.
type Failed = String;

#[tokio::main]
async fn main() -> ExitCode {
    let began = Instant::now();
    let ended = tokio::select! {
        ended = demo() => ended,
        _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
    };
    match ended {
        Ok(claims) => {
            println!("\nAll {claims} claims held. {:.1} s.", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(failed) => {
            eprintln!("\nFAILED: {failed}");
            ExitCode::FAILURE
        }
    }
}

/// Counts the claims that held, and says so.
#[derive(Default)]
struct Claims(u32);

impl Claims {
    fn holds(&mut self, held: bool, claim: impl Into<String>) -> Result<(), Failed> {
        let claim = claim.into();
        if !held {
            return Err(format!("this claim does not hold: {claim}"));
        }
        self.0 += 1;
        println!("   ok   {claim}");
        Ok(())
    }
}

fn title(text: &str) {
    println!("\n{text}\n{}", "-".repeat(text.chars().count()));
}

fn say(text: impl AsRef<str>) {
    for line in text.as_ref().trim_end().lines() {
        println!("   {line}");
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.0} ms", duration.as_secs_f64() * 1000.0)
}

fn kilobytes(bytes: usize) -> String {
    format!("{:.1} kB", bytes as f64 / 1000.0)
}

async fn demo() -> Result<u32, Failed> {
    let mut claims = Claims::default();
    println!("Kontiki: three nodes on this machine, a real import, and a leader that is killed.");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the sources are gone")?.to_path_buf();
    let catalogue = catalogue::of_this_build(&root).await?;
    let mut cluster = start(&catalogue).await?;
    let client = connect(&cluster).await?;

    import(&cluster, &catalogue, &mut claims).await?;
    read_back(&client, &catalogue, &mut claims).await?;
    let leaders = partitions(&cluster, &client, &catalogue).await?;
    let history = kill_a_leader(&mut cluster, &client, &catalogue, &leaders, &mut claims).await?;
    prove(&client, &catalogue, &history, &mut claims).await?;
    restart(&mut cluster, &client, leaders.victim, &mut claims).await?;

    title("Stopping");
    for id in 1..=3 {
        let status = cluster.node(id).stop().await;
        claims.holds(status.success(), format!("node {id} stops cleanly on SIGTERM"))?;
    }
    Ok(claims.0)
}

async fn start(catalogue: &Catalogue) -> Result<Cluster, Failed> {
    title("Three nodes");
    let cuts = catalogue::even_cuts(catalogue, PARTITIONS);
    say(format!("Three `kontiki server` processes; the keys are cut at {}.", cuts.join(", ")));
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // Beside the program, and not in a folder for temporary files, which may be memory: fsync shall mean something here.
    let folder = own.parent().ok_or("the program has no folder")?;
    let began = Instant::now();
    let mut cluster = Cluster::prepare_in(folder, 3, Cuts::At(cuts));
    say(format!("Data and logs are in {} until the demo ends.", cluster.folder().display()));
    cluster.start_all();
    for id in 1..=3 {
        let node = cluster.node(id);
        node.ready().await?;
        say(format!("node {id}   {}   process {}   ready after {}", node.addr(), node.pid().unwrap_or(0), ms(began.elapsed())));
    }
    Ok(cluster)
}

/// A client that goes on trying for as long as any outage here may last.
async fn connect(cluster: &Cluster) -> Result<Client, Failed> {
    let options = ClientOptions { timeout: DEADLINE, ..ClientOptions::default() };
    Client::connect_with(cluster.addrs(), options).await.map_err(|error| error.to_string())
}

async fn import(cluster: &Cluster, catalogue: &Catalogue, claims: &mut Claims) -> Result<(), Failed> {
    title("Import: the packages that this very build is made of");
    let mut sizes: Vec<(usize, &String)> = catalogue.iter().map(|(key, document)| (document.len(), key)).collect();
    sizes.sort();
    let total: usize = sizes.iter().map(|(size, _)| size).sum();
    let of = |at: usize| format!("{} ({})", kilobytes(sizes[at].0), sizes[at].1);
    say(format!("`cargo metadata` has {} documents, {} of JSON, one key per crate/version:", sizes.len(), kilobytes(total)));
    say(format!("the smallest has {}, the middle one {}, the largest {}.", of(0), of(sizes.len() / 2), of(sizes.len() - 1)));
    let file: PathBuf = cluster.folder().join("packages.jsonl");
    let line = |(key, document): (&String, &String)| serde_json::json!({ "key": key, "value": document }).to_string() + "\n";
    std::fs::write(&file, catalogue.iter().map(line).collect::<String>()).map_err(|error| error.to_string())?;
    say("$ kontiki import packages.jsonl");
    let said = program::run_at(&cluster.addrs(), &["import", &file.to_string_lossy()]).await;
    say(&said.out);
    if said.code != Some(0) {
        return Err(format!("the import failed: {}", said.err.trim()));
    }
    claims.holds(said.out.contains(&format!("{} rows", catalogue.len())), "the import ends, and has put every document")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn rows(client: &Client, options: ScanOptions) -> Result<Vec<Row>, Failed> {
    client.scan(options).try_collect().await.map_err(|error| error.to_string())
}

async fn read_back(client: &Client, catalogue: &Catalogue, claims: &mut Claims) -> Result<(), Failed> {
    title("Reading it back");
    let began = Instant::now();
    for chunk in catalogue.iter().collect::<Vec<_>>().chunks(64) {
        let keys = chunk.iter().map(|(key, _)| Bytes::from((*key).clone())).collect();
        let found = client.batch_get(keys, ReadLevel::Linearizable).await.map_err(|error| error.to_string())?;
        for ((key, document), row) in chunk.iter().zip(found) {
            if row.as_ref().map(|row| row.value.as_ref()) != Some(document.as_bytes()) {
                return Err(format!("`{key}` does not hold the document that was imported"));
            }
        }
    }
    let count = catalogue.len();
    claims.holds(true, format!("each of the {count} documents reads back byte for byte ({})", ms(began.elapsed())))?;

    let began = Instant::now();
    let all = rows(client, ScanOptions::all()).await?;
    let same = all.iter().map(|row| (text(&row.key), text(&row.value))).eq(catalogue.iter().map(|(k, v)| (k.clone(), v.clone())));
    claims.holds(
        same,
        format!("one scan over {PARTITIONS} partitions gives all of them in order, at one version ({})", ms(began.elapsed())),
    )?;

    let found = rows(client, ScanOptions::prefix("tokio").keys_only()).await?;
    let keys: Vec<String> = found.iter().map(|row| text(&row.key)).collect();
    say(format!("keys that start with `tokio`: {}", keys.join("  ")));
    let expected: Vec<String> = catalogue.keys().filter(|key| key.starts_with("tokio")).cloned().collect();
    claims.holds(keys == expected, "a scan by prefix gives exactly the keys with that prefix")?;
    let newest = rows(client, ScanOptions::all().reverse().keys_only().limit(3)).await?;
    let keys: Vec<String> = newest.iter().map(|row| text(&row.key)).collect();
    let expected: Vec<String> = catalogue.keys().rev().take(3).cloned().collect();
    claims.holds(keys == expected, format!("a scan in reverse begins with the last keys: {}", keys.join("  ")))
}

/// Who leads, and who is going to be killed.
struct Leaders {
    /// By user partition.
    by_partition: BTreeMap<u64, u64>,
    /// A node that leads.
    victim: u64,
}

impl Leaders {
    fn led_by_victim(&self) -> Vec<u64> {
        self.by_partition.iter().filter(|(_, leader)| **leader == self.victim).map(|(partition, _)| *partition).collect()
    }
}

async fn partitions(cluster: &Cluster, client: &Client, catalogue: &Catalogue) -> Result<Leaders, Failed> {
    title("Partitions and their leaders");
    let map = client.map();
    let users: Vec<u64> =
        map.partitions.iter().map(|partition| partition.id).filter(|id| *id != PartitionId::SYSTEM).map(|id| id.0).collect();
    let mut by_partition = progress::all_led(client, &users, DEADLINE).await?;
    by_partition.retain(|partition, _| users.contains(partition));
    say("$ kontiki partitions");
    say(program::run_at(&cluster.addrs(), &["partitions"]).await.expect_ok());
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    by_partition.values().for_each(|leader| *led.entry(*leader).or_default() += 1);
    let (victim, count) = led.iter().max_by_key(|(_, count)| **count).ok_or("nobody leads anything")?;
    say(format!("{} documents in {} partitions; node {victim} leads {count} of them.", catalogue.len(), users.len()));
    Ok(Leaders { victim: *victim, by_partition })
}

/// The partition of a user key.
fn partition_of(client: &Client, name: &str) -> Result<u64, Failed> {
    let internal = key::internal(NamespaceId::DEFAULT, name.as_bytes());
    client.map().lookup(&internal).map(|descriptor| descriptor.id.0).ok_or_else(|| format!("the map has no place for {name}"))
}

/// Writes notes about one package, each under a key that nobody has used, one after the other.
async fn write_notes(client: Client, history: Arc<History>, stopping: Arc<AtomicBool>, partition: u64, id: u32, package: String) {
    for number in 0_u64.. {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let (key, value) = (format!("{package}{NOTE}{id}-{number}"), format!("note {number} of writer {id}"));
        let invoked_us = history.now_us();
        let batch = WriteBatch::new().if_absent(key.clone()).put(key.clone(), value.clone());
        let outcome = match client.write(batch).await {
            Ok(reply) => Outcome::Ok { version: reply.version.0, value: None },
            Err(error) => Outcome::of_error(&error),
        };
        let completed_us = history.now_us();
        let action = Action::Write { value };
        history.add(partition, Operation { client: id, key, action, invoked_us, completed_us, outcome });
    }
}

async fn kill_a_leader(
    cluster: &mut Cluster,
    client: &Client,
    catalogue: &Catalogue,
    leaders: &Leaders,
    claims: &mut Claims,
) -> Result<Arc<History>, Failed> {
    title("SIGKILL in the middle of writes");
    let history = Arc::new(History::default());
    let stopping = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    let mut by_partition: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
    for package in catalogue.keys() {
        by_partition.entry(partition_of(client, package)?).or_default().push(package);
    }
    let mut id = 0;
    for (partition, packages) in &by_partition {
        for package in packages.iter().take(WRITERS_PER_PARTITION) {
            id += 1;
            let shared = (client.clone(), Arc::clone(&history), Arc::clone(&stopping));
            writers.spawn(write_notes(shared.0, shared.1, shared.2, *partition, id, (*package).clone()));
        }
    }
    let all: Vec<u64> = by_partition.keys().copied().collect();
    history.served_since(&all, 0, DEADLINE).await?;
    let flow_us = history.now_us();
    sleep(FLOW).await;
    let before = longest_gap(&history.operations(), flow_us, history.now_us(), |_| true);
    let rate = count(&history) as f64 / FLOW.as_secs_f64();
    say(format!("{id} writers, each write acknowledged by a majority after fsync: {rate:.0} writes/s."));

    let victim = leaders.victim;
    let led = leaders.led_by_victim();
    let pid = cluster.node(victim).pid().unwrap_or(0);
    let killed_us = history.now_us();
    cluster.node(victim).kill().await;
    say(format!("kill -9 {pid}: node {victim} is gone, the leader of partitions {led:?}."));
    history.served_since(&all, history.now_us(), DEADLINE).await?;
    sleep(FLOW).await;
    stopping.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.map_err(|error| error.to_string())?;
    }
    let operations = history.operations();
    let end_us = operations.iter().map(|operation| operation.completed_us).max().unwrap_or(0);
    let mut worst = Duration::ZERO;
    for (partition, packages) in &by_partition {
        let own = |operation: &Operation| packages.iter().any(|package| operation.key.starts_with(&format!("{package}{NOTE}")));
        let gap = longest_gap(&operations, killed_us.saturating_sub(50_000), end_us, own);
        let role = if led.contains(partition) { "its leader was killed" } else { "led by another node" };
        say(format!("partition {partition}: longest time without an acknowledgement {:>8}   {role}", ms(gap)));
        worst = if led.contains(partition) { worst.max(gap) } else { worst };
    }
    say(format!("Before the kill the longest pause of all writers together was {}.", ms(before)));
    claims.holds(worst < STALL_MAX, format!("writes go on after {}, below {}", ms(worst), ms(STALL_MAX)))?;
    Ok(history)
}

fn count(history: &History) -> usize {
    history.operations().iter().filter(|operation| operation.is_acknowledged_write()).count()
}

async fn prove(client: &Client, catalogue: &Catalogue, history: &History, claims: &mut Claims) -> Result<(), Failed> {
    title("Nothing acknowledged is lost");
    let all = rows(client, ScanOptions::all()).await?;
    let (mut notes, mut documents) = (Finals::new(), 0);
    for row in &all {
        let name = text(&row.key);
        if catalogue.get(&name).is_some_and(|document| document.as_bytes() == row.value.as_ref()) {
            documents += 1;
        } else {
            notes.insert(name, (text(&row.value), row.version.0));
        }
    }
    claims.holds(documents == catalogue.len(), format!("all {} documents are there, unchanged", catalogue.len()))?;
    let operations = history.operations();
    let acknowledged = count(history);
    let open = operations.iter().filter(|operation| matches!(operation.outcome, Outcome::Unknown { .. })).count();
    let violations = checks::claims(&operations, &notes);
    for violation in violations.iter().take(10) {
        say(format!("violation: {violation}"));
    }
    let what = format!(
        "all {acknowledged} acknowledged writes are there with their values and versions, none was applied twice, none is invented \
         ({open} ended without an answer)"
    );
    claims.holds(violations.is_empty() && acknowledged > 0, what)
}

async fn restart(cluster: &mut Cluster, client: &Client, victim: u64, claims: &mut Claims) -> Result<(), Failed> {
    title("The node comes back");
    let began = Instant::now();
    cluster.node(victim).start();
    cluster.node(victim).ready().await?;
    say(format!("node {victim} is ready after {}", ms(began.elapsed())));
    let caught_up = progress::caught_up(client, victim, DEADLINE).await?;
    say(format!("it has caught up after {}:", ms(began.elapsed())));
    for (partition, (applied, committed)) in &caught_up {
        say(format!(
            "partition {partition}: applied up to {applied} on node {victim}; committed in the cluster were {committed}"
        ));
    }
    let behind = caught_up.values().filter(|(applied, committed)| applied < committed).count();
    claims.holds(behind == 0, format!("node {victim} has applied everything, in all {} partitions", caught_up.len()))
}
