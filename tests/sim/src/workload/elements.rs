//! Sets: each element is a key of its own, written once and under the condition that it is absent; the members are what a scan finds.

use futures::TryStreamExt as _;
use kontiki_checker::history::{Call, Outcome, Reply};
use kontiki_client::{ScanOptions, WriteBatch};
use kontiki_types::{Error, ErrorKind};

use super::{Caller, failed};

/// A process goes on with another set after so many of its elements, so that scans stay short.
const ELEMENTS_EACH: u64 = 25;

pub(super) async fn run(mut caller: Caller) {
    let mut added = 0;
    let mut letter = caller.letter();
    while caller.turn().await {
        let key = format!("{letter}/s/{}", added / ELEMENTS_EACH);
        let fine = if caller.dice.chance(1, 3) {
            members(&caller, &key).await
        } else {
            added += 1;
            add(&mut caller, &key).await
        };
        if added % ELEMENTS_EACH == 0 {
            letter = caller.letter();
        }
        if !fine {
            caller.breathe().await;
        }
    }
}

async fn add(caller: &mut Caller, set: &str) -> bool {
    let element = caller.value();
    let key = format!("{set}/{element}");
    let ticket = caller.begin(set, Call::Add { element: element.clone() }, |_| {});
    let batch = WriteBatch::new().if_absent(key.clone()).put(key.clone(), element);
    let result = caller.client.write(batch).await;
    if let Err(error) = &result
        && error.kind() == ErrorKind::ConditionFailed
    {
        caller.shared.violated(format!("{key} is written by one call only, but its condition failed ({error}): applied twice?"));
    }
    let outcome = match &result {
        Ok(reply) => Outcome::Ok { reply: Reply::Done, version: Some(reply.version.0) },
        Err(error) => failed(error),
    };
    caller.end(ticket, outcome);
    result.is_ok()
}

/// Reads a set; false: an error.
pub(super) async fn members(caller: &Caller, set: &str) -> bool {
    let ticket = caller.begin(set, Call::Members, |_| {});
    let result = scan(caller, set).await;
    let fine = result.is_ok();
    let outcome = match result {
        Ok(elements) => Outcome::Ok { reply: Reply::Members(elements), version: None },
        Err(error) => Outcome::Failed { error: error.to_string() },
    };
    caller.end(ticket, outcome);
    fine
}

async fn scan(caller: &Caller, set: &str) -> Result<Vec<String>, Error> {
    let prefix = format!("{set}/");
    // Small pages: a scan is to be interrupted.
    let scan = caller.client.scan(ScanOptions::prefix(prefix.clone()).page(7, 64 * 1024));
    let rows: Vec<_> = scan.try_collect().await?;
    Ok(rows.iter().map(|row| String::from_utf8_lossy(&row.key[prefix.len()..]).into_owned()).collect())
}
