//! Tests of the import's window and checkpoint, with puts that the tests decide on.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::*;

/// A store that the test looks into: puts wait for a permit each, and keys that start with `bad` fail.
#[derive(Clone)]
struct Store {
    puts: Arc<Mutex<Vec<(Bytes, Bytes)>>>,
    under_way: Arc<Mutex<Vec<Bytes>>>,
    most_under_way: Arc<Mutex<usize>>,
    permits: Arc<Semaphore>,
}

impl Store {
    fn new(permits: usize) -> Self {
        let permits = Arc::new(Semaphore::new(permits));
        Self { puts: Arc::default(), under_way: Arc::default(), most_under_way: Arc::default(), permits }
    }

    fn put(&self) -> impl Fn(Bytes, Bytes) -> BoxFuture<'static, Result<(), Error>> {
        let store = self.clone();
        move |key, value| {
            let store = store.clone();
            Box::pin(async move {
                {
                    let mut under_way = store.under_way.lock().expect("not poisoned");
                    assert!(!under_way.contains(&key), "two puts of one key are under way");
                    under_way.push(key.clone());
                    let mut most = store.most_under_way.lock().expect("not poisoned");
                    *most = under_way.len().max(*most);
                }
                store.permits.acquire().await.expect("open").forget();
                store.under_way.lock().expect("not poisoned").retain(|other| *other != key);
                if key.starts_with(b"bad") {
                    return Err(Error::new(ErrorKind::Invalid, "refused"));
                }
                store.puts.lock().expect("not poisoned").push((key, value));
                Ok(())
            })
        }
    }

    fn rows(&self) -> Vec<(Bytes, Bytes)> {
        self.puts.lock().expect("not poisoned").clone()
    }
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(text: &str) -> Self {
        let files = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(files.input(), text).expect("writes");
        files
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("rows.jsonl")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    async fn lines(&self) -> Lines {
        let mut lines = Lines::open(Some(&self.input())).await.expect("opens");
        if let Some(checkpoint) = Checkpoint::load(&self.state()).expect("loads") {
            lines.skip_to(&checkpoint).await.expect("the same input");
        }
        lines
    }

    fn progress(&self) -> Progress {
        let acknowledged = Checkpoint::load(&self.state()).expect("loads").unwrap_or_else(Checkpoint::start);
        Progress { acknowledged, state: Some(self.state()), saved: Instant::now(), bar: ProgressBar::hidden() }
    }
}

fn row(key: &str, value: &str) -> String {
    json!({ "key": key, "value": value }).to_string() + "\n"
}

#[tokio::test]
async fn all_rows_arrive_and_the_window_holds() {
    let text: String = (0..500).map(|at| row(&format!("k{at}"), &at.to_string())).collect();
    let files = Files::new(&text);
    let (store, mut progress) = (Store::new(0), files.progress());
    let (put, mut lines) = (store.put(), files.lines().await);
    // No put ends before the window is full.
    let full = async {
        while store.under_way.lock().expect("not poisoned").len() < 16 {
            tokio::task::yield_now().await;
        }
        store.permits.add_permits(500);
    };
    let (imported, ()) = tokio::join!(pump(&mut lines, &put, 16, &mut progress, std::future::pending()), full);
    imported.expect("imports");
    assert_eq!(store.rows().len(), 500);
    assert_eq!((progress.acknowledged.rows, progress.acknowledged.offset_bytes), (500, text.len() as u64));
    assert_eq!(*store.most_under_way.lock().expect("not poisoned"), 16);
}

#[tokio::test]
async fn a_later_row_of_the_same_key_wins() {
    let text: String = (0..50).map(|at| row(if at % 2 == 0 { "same" } else { "other" }, &at.to_string())).collect();
    let files = Files::new(&text);
    let store = Store::new(100);
    pump(&mut files.lines().await, &store.put(), 16, &mut files.progress(), std::future::pending()).await.expect("imports");
    let of = |key: &str| store.rows().into_iter().filter(|(k, _)| k == key).map(|(_, v)| v).collect::<Vec<_>>();
    let expected = |from: usize| (from..50).step_by(2).map(|at| Bytes::from(at.to_string())).collect::<Vec<_>>();
    assert_eq!((of("same"), of("other")), (expected(0), expected(1)));
}

#[tokio::test]
async fn after_a_failure_the_import_goes_on_from_what_is_acknowledged() {
    let rows = |bad: &str| row("a", "1") + &row("b", "2") + &row(bad, "3") + &row("d", "4");
    let files = Files::new(&rows("bad"));
    let (store, mut progress) = (Store::new(100), files.progress());
    let failure = pump(&mut files.lines().await, &store.put(), 2, &mut progress, std::future::pending()).await.expect_err("bad");
    assert!(failure.message.contains("line 3 (key `bad`): refused"), "{failure}");
    assert_eq!(progress.acknowledged.rows, 2);
    progress.save().expect("saves");
    // The row is repaired; what is before it is the same input.
    std::fs::write(files.input(), rows("good")).expect("writes");
    let (store, mut progress) = (Store::new(100), files.progress());
    pump(&mut files.lines().await, &store.put(), 2, &mut progress, std::future::pending()).await.expect("goes on");
    let keys: Vec<_> = store.rows().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["good", "d"]);
    assert_eq!(progress.acknowledged.rows, 4);
}

#[tokio::test]
async fn a_bad_line_is_told_after_the_rows_before_it() {
    let files = Files::new(&(row("a", "1") + "nonsense\n" + &row("c", "3")));
    let (store, mut progress) = (Store::new(100), files.progress());
    let failure = pump(&mut files.lines().await, &store.put(), 8, &mut progress, std::future::pending()).await.expect_err("bad");
    assert!(failure.message.starts_with("line 2 of"), "{failure}");
    assert_eq!(progress.acknowledged.rows, 1);
    assert_eq!(store.rows().len(), 1);
}

#[tokio::test]
async fn an_interruption_waits_for_what_is_under_way_and_keeps_it() {
    let text: String = (0..100).map(|at| row(&format!("k{at}"), "v")).collect();
    let files = Files::new(&text);
    let (store, mut progress) = (Store::new(10), files.progress());
    let (permits, puts) = (store.permits.clone(), store.puts.clone());
    // After ten puts the others wait for permits; then comes the interruption, then the permits.
    let stop = async move {
        while puts.lock().expect("not poisoned").len() < 10 {
            tokio::task::yield_now().await;
        }
        permits.add_permits(1000);
    };
    let failure = pump(&mut files.lines().await, &store.put(), 4, &mut progress, stop).await.expect_err("interrupted");
    assert_eq!(failure.exit as u8, 130);
    let rows = progress.acknowledged.rows;
    assert!((10..100).contains(&rows), "{rows} rows");
    assert_eq!(store.rows().len() as u64, rows, "every put that was begun is acknowledged");
}

#[tokio::test]
async fn a_checkpoint_on_disk_is_never_ahead_of_the_puts() {
    let text: String = (0..20).map(|at| row(&format!("k{at}"), "v")).collect();
    let files = Files::new(&text);
    // The first put of the window is held back: rows behind it are done, but not acknowledged in order.
    let (store, mut progress) = (Store::new(100), files.progress());
    let put = store.put();
    let first_waits = move |key: Bytes, value: Bytes| -> BoxFuture<'static, Result<(), Error>> {
        if key == "k0" { Box::pin(std::future::pending()) } else { put(key, value) }
    };
    let seen = store.puts.clone();
    let mut lines = files.lines().await;
    tokio::select! {
        _ = pump(&mut lines, &first_waits, 8, &mut progress, std::future::pending()) => panic!("the first put never ends"),
        () = async { while seen.lock().expect("not poisoned").len() < 7 { tokio::task::yield_now().await; } } => {}
    }
    assert_eq!(progress.acknowledged.rows, 0);
}
