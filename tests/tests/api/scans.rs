//! Scans: both directions, pages, limits, keys only, and one version over all partitions whatever is written meanwhile.

use futures::{StreamExt as _, TryStreamExt as _};
use kontiki_client::{Page, ScanOptions, WriteBatch};
use kontiki_types::{ReadLevel, Row, Version};

use crate::case::Case;
use kontiki_tests::checks;

/// Rows of one scan test, told from those of others by a tag: `each` in each of the three partitions. Their names, in order.
async fn fill(case: &Case, tag: &str, each: usize) -> Vec<String> {
    let mut names = Vec::new();
    for part in ["a", "k", "q"] {
        let mut batch = WriteBatch::new();
        for at in 0..each {
            let name = format!("{part}/{tag}/{at:04}");
            batch = batch.put(case.key(&name), format!("value {name}"));
            names.push(name);
        }
        case.client.write(batch).await.expect("puts");
    }
    names
}

/// From the first to the last row of a tag; rows of other tests lie between.
fn whole(case: &Case, tag: &str) -> ScanOptions {
    ScanOptions::range(case.key(&format!("a/{tag}/")), case.key(&format!("q/{tag}0")))
}

/// The names among rows that have the tag.
async fn scanned(case: &Case, tag: &str, options: ScanOptions) -> Vec<String> {
    let tag = format!("/{tag}/");
    case.names(options).await.into_iter().filter(|name| name.contains(&tag)).collect()
}

fn backwards(names: &[String]) -> Vec<String> {
    names.iter().rev().cloned().collect()
}

/// Forward, reverse, in pages by rows and by bytes: always the same rows.
pub async fn directions_and_pages(case: &Case) {
    let names = fill(case, "pages", 120).await;
    for (rows, bytes) in [(16_384, 1 << 20), (7, 1 << 20), (120, 1 << 20), (1000, 100), (1000, 4000)] {
        let options = whole(case, "pages").page(rows, bytes);
        assert_eq!(scanned(case, "pages", options.clone()).await, names, "pages of {rows} rows, {bytes} bytes");
        assert_eq!(scanned(case, "pages", options.reverse()).await, backwards(&names), "{rows} rows, {bytes} bytes, reverse");
    }
    // A page always makes progress, also if not even one row fits.
    for (rows, bytes) in [(1, 1 << 20), (1000, 1)] {
        let few = ScanOptions::range(case.key("k/pages/"), case.key("k/pages/0020")).page(rows, bytes);
        assert_eq!(case.names(few.clone()).await, names[120..140], "pages of {rows} rows, {bytes} bytes");
        assert_eq!(case.names(few.reverse()).await, backwards(&names[120..140]), "{rows} rows, {bytes} bytes, reverse");
    }
}

/// Limits, also over partitions and in pages; keys without values.
pub async fn limits_and_keys_only(case: &Case) {
    let names = fill(case, "limits", 100).await;
    let own = |part: &str| case.starting(&format!("{part}/limits/"));
    for limit in [1, 49, 50, 51, 100, 1000] {
        let some = limit.min(100);
        assert_eq!(case.names(own("a").limit(limit as u64)).await, names[..some], "limit {limit}");
        let last = backwards(&names[200..]);
        assert_eq!(
            case.names(own("q").reverse().limit(limit as u64).page(50, 1 << 20)).await,
            last[..some],
            "limit {limit}, reverse"
        );
    }
    let between = case.names(whole(case, "limits")).await.len();
    let most = case.names(whole(case, "limits").limit(between as u64 - 1).page(64, 1 << 20)).await;
    assert_eq!(most.len(), between - 1, "a limit counts over all partitions");

    let keys = case.rows(own("k").keys_only()).await;
    assert!(keys.len() == 100 && keys.iter().all(|row| row.value.is_empty() && row.version > Version::ZERO));
    let value = |row: &Row| format!("value {}", &String::from_utf8_lossy(&row.key)[case.prefix.len()..]);
    let rows = case.rows(own("k")).await;
    assert!(rows.len() == 100 && rows.iter().all(|row| row.value.as_ref() == value(row).as_bytes()));
}

/// Nothing to find: empty ranges, prefixes of nothing, limit 0, everything deleted.
pub async fn nothing(case: &Case) {
    let key = case.key("a/none");
    assert_eq!(case.rows(ScanOptions::range(key.clone(), key.clone())).await, vec![]);
    assert_eq!(case.rows(ScanOptions::prefix(key.clone())).await, vec![]);
    assert_eq!(case.rows(ScanOptions::prefix(key).reverse()).await, vec![]);
    assert_eq!(case.rows(ScanOptions::prefix(case.prefix).limit(0)).await, vec![]);
    fill(case, "gone", 50).await;
    case.client.delete_range(case.key("k/gone/"), case.key("k/gone0")).await.expect("delete range");
    assert_eq!(case.rows(case.starting("k/gone/")).await, vec![]);
    assert_eq!(case.rows(case.starting("k/gone/").reverse().page(3, 1 << 20)).await, vec![]);
}

/// A broken scan resumes: from each page's `resume`, at its version, without a gap or a repeat.
pub async fn resume(case: &Case) {
    let names = fill(case, "resume", 30).await;
    let (mut start, mut version) = (case.key("a/resume/").into_bytes(), None);
    let mut found: Vec<String> = Vec::new();
    loop {
        let options = ScanOptions::range(start.clone(), case.key("q/resume0")).page(13, 1 << 20);
        let options = match version {
            Some(version) => options.level(ReadLevel::Snapshot(version)),
            None => options,
        };
        // Only the first page of each stream is used.
        let page: Page = case.client.scan_pages(options).next().await.expect("a page").expect("no error");
        let name = |row: &Row| String::from_utf8_lossy(&row.key)[case.prefix.len()..].to_owned();
        found.extend(page.rows.iter().map(name).filter(|name| name.contains("/resume/")));
        version = Some(page.version);
        // Lies ahead, and is newer than the snapshot.
        case.put("q/resume/0000a", "between the pages").await;
        match page.resume {
            Some(next) => start = next.to_vec(),
            None => break,
        }
    }
    assert_eq!(found, names);
}

/// Adds one to `first`, then to `last`, which lie in two partitions, again and again, until told to stop.
async fn count_up(case: Case, first: &str, last: &str, mut stopped: tokio::sync::oneshot::Receiver<()>) {
    for number in 1_u64.. {
        case.put(first, number.to_string()).await;
        case.put(last, number.to_string()).await;
        if stopped.try_recv().is_ok() {
            return;
        }
    }
}

/// One version over all partitions: whatever moment a scan sees, `last <= first <= last + 1` holds, forward and in reverse,
/// however many pages it takes.
pub async fn one_version(case: &Case) {
    for name in ["g/first", "g/second", "v/last"] {
        case.put(name, "0").await;
    }
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let writer = tokio::spawn(count_up(case.clone(), "g/first", "v/last", stopped));
    let mut sums = Vec::new();
    for round in 0..40 {
        let options = ScanOptions::range(case.key("g/"), case.key("v0")).page(1 + round % 3 * 20, 1 << 20);
        let options = if round % 2 == 0 { options } else { options.reverse() };
        let mut scan = case.client.scan(options);
        let mut rows: Vec<Row> = Vec::new();
        while let Some(row) = scan.try_next().await.expect("scan") {
            rows.push(row);
        }
        if round % 2 != 0 {
            rows.reverse();
        }
        let version = scan.version().expect("a version");
        let keys: Vec<_> = rows.iter().map(|row| (String::from_utf8_lossy(&row.key).into_owned(), row.version.0)).collect();
        assert_eq!(checks::ordered(&keys, version.0), Vec::<String>::new());
        let number = |name: &str| -> u64 {
            let row = rows.iter().find(|row| row.key.as_ref() == case.key(name).as_bytes()).expect("it was put");
            String::from_utf8_lossy(&row.value).parse().expect("a number")
        };
        let (first, last) = (number("g/first"), number("v/last"));
        assert!(last <= first && first <= last + 1, "round {round}: first is {first}, last is {last}: not one version");
        sums.push(first + last);
    }
    stop.send(()).expect("the writer listens");
    writer.await.expect("the writer ends");
    assert!(sums.windows(2).all(|pair| pair[0] <= pair[1]), "a later scan sees no less: {sums:?}");
    assert!(sums.first() < sums.last(), "the writer wrote meanwhile: {sums:?}");
}
