//! An import that is killed goes on where it was: every line is in the store once, and what was noted is not sent again.
#![allow(clippy::disallowed_methods, reason = "a test: it writes the files that are imported")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::TryStreamExt as _;
use kontiki_client::{Client, ScanOptions};
use kontiki_tests::processes::{Cluster, Cuts, DEADLINE};
use kontiki_tests::program;
use kontiki_types::Row;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

const LINES: u64 = 20_000;

fn key(at: u64) -> String {
    // Spread over the partitions.
    format!("{:02x}/line/{at:06}", at % 251)
}

fn value(at: u64) -> String {
    format!("{{\"line\":{at},\"text\":\"{}\"}}", "x".repeat((at % 200) as usize))
}

fn write_lines(path: &Path, lines: u64) {
    let line = |at| serde_json::json!({ "key": key(at), "value": value(at) }).to_string() + "\n";
    fs::write(path, (0..lines).map(line).collect::<String>()).expect("the file can be written");
}

/// Starts an import and does not wait.
fn start(addrs: &str, file: &Path) -> Child {
    let args = ["--endpoints", addrs, "-o", "json", "import", "--concurrency", "16", &file.to_string_lossy()];
    program::command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the import starts")
}

/// What the checkpoint says, if there is one.
fn noted(checkpoint: &Path) -> Option<u64> {
    let text = fs::read_to_string(checkpoint).ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?["rows"].as_u64()
}

/// Waits until more than `rows` rows are noted; fails if the import ends before.
async fn noted_above(import: &mut Child, checkpoint: &Path, rows: u64) -> u64 {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = noted(checkpoint).filter(|found| *found > rows) {
            return found;
        }
        let ended = import.try_wait().expect("own children can be asked");
        assert!(ended.is_none(), "the import ended ({ended:?}) before it could be interrupted: give it more lines");
        assert!(Instant::now() < until, "nothing above {rows} rows was noted in {DEADLINE:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn ended(import: Child) -> (Option<i32>, String, String) {
    let output = timeout(DEADLINE, import.wait_with_output()).await.expect("it ends").expect("own children can be waited for");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

async fn check(client: &Client, lines: u64) {
    let rows: Vec<Row> = client.scan(ScanOptions::all()).try_collect().await.expect("scan");
    let mut expected: Vec<(String, String)> = (0..lines).map(|at| (key(at), value(at))).collect();
    expected.sort();
    assert_eq!(rows.len() as u64, lines, "every line once");
    for (row, (key, value)) in rows.iter().zip(&expected) {
        assert_eq!((row.key.as_ref(), row.value.as_ref()), (key.as_bytes(), value.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_import_goes_on() {
    let cluster = Cluster::start(3, Cuts::Even(4)).await;
    let addrs = cluster.addrs().join(",");
    let file = cluster.folder().join("lines.jsonl");
    let checkpoint = PathBuf::from(format!("{}.kontiki-import", file.display()));
    write_lines(&file, LINES);

    // SIGKILL in the middle.
    let mut import = start(&addrs, &file);
    let first = noted_above(&mut import, &checkpoint, 0).await;
    import.start_kill().expect("it can be killed");
    assert_eq!(ended(import).await.0, None, "a signal ended it");
    assert!(noted(&checkpoint).is_some_and(|rows| rows >= first && rows < LINES), "the checkpoint outlives the process");

    // SIGINT in the middle: it finishes what is under way, notes it, and says how to go on.
    let mut import = start(&addrs, &file);
    noted_above(&mut import, &checkpoint, first).await;
    kill(Pid::from_raw(import.id().expect("it runs") as i32), Signal::SIGINT).expect("it can be interrupted");
    let (code, _, said) = ended(import).await;
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("run the same command to go on"), "{said}");
    let second = noted(&checkpoint).expect("a checkpoint");
    assert!(second > first && second < LINES, "{first} then {second} of {LINES}");

    // Another file under the same name is not taken for the one that was begun.
    let good = fs::read(&file).expect("readable");
    let mut other = good.clone();
    other[10] ^= 1;
    fs::write(&file, &other).expect("writable");
    let (code, _, said) = ended(start(&addrs, &file)).await;
    assert!(code != Some(0) && said.contains("lines.jsonl") && said.contains("--restart"), "{code:?} {said}");
    fs::write(&file, &good).expect("writable");

    // To the end: only what was not noted is sent.
    let (code, out, said) = ended(start(&addrs, &file)).await;
    assert_eq!(code, Some(0), "{said}");
    let done: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!((done["rows_before"].as_u64(), done["rows"].as_u64()), (Some(second), Some(LINES - second)), "{out}");
    assert!(!checkpoint.exists(), "a complete import leaves no checkpoint");
    println!("killed after {first} rows, interrupted after {second}, the last run put {}", LINES - second);
    check(&cluster.client().await, LINES).await;
}
