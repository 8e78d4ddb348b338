//! Scans over all partitions at one version.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use kontiki_checker::history::{Call, Outcome, Reply};
use kontiki_client::ScanOptions;
use kontiki_types::Error;

use super::Caller;

pub(super) async fn run(mut caller: Caller) {
    while caller.turn().await {
        let ticket = caller.begin("", Call::Snapshot, |operation| operation.group = None);
        let page = *caller.dice.pick(&[3, 50, 1000]);
        let options = ScanOptions::all().page(page, 64 * 1024);
        let options = if caller.dice.chance(1, 3) { options.reverse() } else { options };
        let result = snapshot(&caller, options).await;
        let fine = result.is_ok();
        let outcome = match result {
            Ok((rows, version)) => Outcome::Ok { reply: Reply::Rows(rows), version },
            Err(error) => Outcome::Failed { error: error.to_string() },
        };
        caller.end(ticket, outcome);
        if !fine {
            caller.breathe().await;
        }
    }
}

type Rows = BTreeMap<String, (String, u64)>;

/// The registers among all rows, and the version that was read.
async fn snapshot(caller: &Caller, options: ScanOptions) -> Result<(Rows, Option<u64>), Error> {
    let mut scan = caller.client.scan(options);
    let mut rows = Rows::new();
    while let Some(row) = scan.try_next().await? {
        let key = String::from_utf8_lossy(&row.key).into_owned();
        if key.contains("/r/") {
            rows.insert(key, (String::from_utf8_lossy(&row.value).into_owned(), row.version.0));
        }
    }
    Ok((rows, scan.version().map(|version| version.0)))
}
