//! Changes since a version: of all partitions, deletions too, and together with the state of then the state of now.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use kontiki_client::{ChangesOptions, ChangesPage};
use kontiki_types::{Bytes, ErrorKind, ReadLevel, Version};

use crate::case::{Case, refused, until_refused};

async fn pages(case: &Case, options: ChangesOptions) -> Vec<ChangesPage> {
    let own = options.range(case.key(""), case.key("zzzz"));
    case.client.changes(own).try_collect().await.expect("changes")
}

/// Names and values of what was written.
async fn told(case: &Case, options: ChangesOptions) -> Vec<(String, Option<Bytes>)> {
    let pages = pages(case, options).await;
    let name = |key: &Bytes| String::from_utf8_lossy(key).strip_prefix(case.prefix).expect("own keys").to_owned();
    pages.iter().flat_map(|page| &page.changes).map(|change| (name(&change.key), change.value.clone())).collect()
}

/// Each key's newest write is told once, in pages of any size, and only if it is newer.
pub async fn since_a_version(case: &Case) {
    let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    for name in ["a/chg/1", "k/chg/1", "k/chg/2", "q/chg/1"] {
        case.put(name, "old").await;
    }
    let before = case.client.snapshot_version().await.expect("a version");
    assert_eq!(told(case, ChangesOptions::after(before)).await, vec![]);
    case.put("a/chg/1", "new").await;
    case.put("k/chg/2", "newer").await;
    case.client.delete(case.key("k/chg/1")).await.expect("delete");
    case.put("k/chg/2", "newest").await;
    case.put("q/chg/2", "").await;
    let expected = [("a/chg/1", value("new")), ("k/chg/1", None), ("k/chg/2", value("newest")), ("q/chg/2", value(""))]
        .map(|(name, value)| (name.to_owned(), value));
    for rows in [1, 2, 1000] {
        assert_eq!(told(case, ChangesOptions::after(before).page(rows, 1 << 20)).await, expected, "pages of {rows}");
    }
    let now = pages(case, ChangesOptions::after(before)).await[0].version;
    case.put("a/chg/9", "later").await;
    assert_eq!(told(case, ChangesOptions::after(before).at(now)).await, expected, "at a version that was named");

    let ahead = case.client.changes(ChangesOptions::after(before).at(Version(u64::MAX - 1)));
    refused(ahead.try_collect::<Vec<_>>().await, ErrorKind::Version, "version * lies in the future*");
    let forgotten = until_refused(async || case.client.changes(ChangesOptions::after(Version(1))).try_collect::<Vec<_>>().await);
    refused(forgotten.await, ErrorKind::Version, "version 1 is older than the oldest one kept*");
}

/// The state of then and the changes since make the state of now.
pub async fn on_top_of_a_snapshot(case: &Case) {
    for at in 0..60 {
        let part = ["a", "k", "q"][at % 3];
        case.put(&format!("{part}/top/{at:02}"), format!("first {at}")).await;
    }
    let before = case.client.snapshot_version().await.expect("a version");
    let rows = case.rows(case.starting("").level(ReadLevel::Snapshot(before))).await;
    let mut state: BTreeMap<Bytes, (Bytes, Version)> = rows.into_iter().map(|row| (row.key, (row.value, row.version))).collect();
    for at in (0..80).step_by(3) {
        let name = format!("{}/top/{at:02}", ["a", "k", "q"][at % 3]);
        match at % 2 {
            0 => drop(case.client.delete(case.key(&name)).await.expect("delete")),
            _ => drop(case.put(&name, format!("second {at}")).await),
        }
    }
    for page in pages(case, ChangesOptions::after(before).page(5, 300)).await {
        for change in page.changes {
            match change.value {
                Some(value) => drop(state.insert(change.key, (value, change.version))),
                None => drop(state.remove(&change.key)),
            }
        }
    }
    let now = case.rows(case.starting("")).await;
    assert_eq!(state, now.into_iter().map(|row| (row.key, (row.value, row.version))).collect());
}
