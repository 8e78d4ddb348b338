//! Registers: get, put, delete, compare-and-set by value and by version.

use kontiki_checker::history::{Call, Outcome, Reply};
use kontiki_client::WriteBatch;
use kontiki_types::{Error, ReadLevel, Row, Version};

use super::{Caller, failed, written};

pub(super) async fn run(mut caller: Caller) {
    // What it saw last of a key: what a compare-and-set expects.
    let mut last: Option<(String, Option<Row>)> = None;
    while caller.turn().await {
        let fine = match (caller.dice.below(10), last.take()) {
            (0..=3, _) => {
                let key = caller.key('r');
                let seen = get(&caller, &key, ReadLevel::Linearizable, None).await;
                last = seen.as_ref().ok().map(|row| (key, row.clone()));
                seen.is_ok()
            }
            (4..=5, _) | (7.., None) => {
                let key = caller.key('r');
                put(&mut caller, &key, None).await.is_ok()
            }
            (6, _) => {
                let key = caller.key('r');
                delete(&caller, &key, None).await.is_ok()
            }
            (7, Some((key, row))) => compare_version(&mut caller, &key, row.as_ref()).await,
            (_, Some((key, row))) => compare_value(&mut caller, &key, row.as_ref()).await,
        };
        if !fine {
            caller.breathe().await;
        }
    }
}

pub(super) async fn get(caller: &Caller, key: &str, level: ReadLevel, session: Option<u64>) -> Result<Option<Row>, Error> {
    let stale = level != ReadLevel::Linearizable;
    let ticket = caller.begin(key, Call::Get, |operation| (operation.stale, operation.session) = (stale, session));
    let result = caller.client.get_with(key.to_owned(), level).await.map(|seen| seen.value);
    let outcome = match &result {
        Ok(row) => {
            let value = row.as_ref().map(|row| String::from_utf8_lossy(&row.value).into_owned());
            Outcome::Ok { reply: Reply::Value(value), version: row.as_ref().map(|row| row.version.0) }
        }
        // A read changes nothing: it failed, whatever the reason.
        Err(error) => Outcome::Failed { error: error.to_string() },
    };
    caller.end(ticket, outcome);
    result
}

pub(super) async fn put(caller: &mut Caller, key: &str, session: Option<u64>) -> Result<Version, Error> {
    let value = caller.value();
    let ticket = caller.begin(key, Call::Put { value: value.clone() }, |operation| operation.session = session);
    let result = caller.client.put(key.to_owned(), value).await;
    caller.end(ticket, written(&result));
    result
}

pub(super) async fn delete(caller: &Caller, key: &str, session: Option<u64>) -> Result<Version, Error> {
    let ticket = caller.begin(key, Call::Delete, |operation| operation.session = session);
    let result = caller.client.delete(key.to_owned()).await;
    let outcome = match &result {
        // What was not there gets no record, and no version of its own.
        Ok(deletion) => Outcome::Ok { reply: Reply::Done, version: deletion.existed.then_some(deletion.version.0) },
        Err(error) => failed(error),
    };
    caller.end(ticket, outcome);
    result.map(|deletion| deletion.version)
}

async fn compare_version(caller: &mut Caller, key: &str, row: Option<&Row>) -> bool {
    let (value, expected) = (caller.value(), row.map_or(Version::ZERO, |row| row.version));
    let call = Call::CasVersion { expected: expected.0, value: value.clone() };
    let batch = WriteBatch::new().if_version(key.to_owned(), expected).put(key.to_owned(), value);
    compare(caller, key, call, batch).await
}

async fn compare_value(caller: &mut Caller, key: &str, row: Option<&Row>) -> bool {
    let value = caller.value();
    let expected = row.map(|row| String::from_utf8_lossy(&row.value).into_owned());
    let batch = match row {
        Some(row) => WriteBatch::new().if_value(key.to_owned(), row.value.clone()),
        None => WriteBatch::new().if_absent(key.to_owned()),
    };
    let call = Call::Cas { expected, value: value.clone() };
    compare(caller, key, call, batch.put(key.to_owned(), value)).await
}

async fn compare(caller: &Caller, key: &str, call: Call, batch: WriteBatch) -> bool {
    let ticket = caller.begin(key, call, |_| {});
    let outcome = written(&caller.client.write(batch).await.map(|reply| reply.version));
    let fine = matches!(outcome, Outcome::Ok { .. } | Outcome::Refused);
    caller.end(ticket, outcome);
    fine
}
