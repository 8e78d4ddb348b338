//! Counters. Many add to the same: each reads, and writes under the condition that nobody has written meanwhile. One that is alone on its
//! counter never reads: a retry of it that was applied twice would show at once.

use std::time::Duration;

use kontiki_checker::history::{Call, Outcome, Reply};
use kontiki_client::WriteBatch;
use kontiki_types::{Error, ErrorKind, Version};

use super::{Caller, failed};

/// Attempts to add before it is given up.
const ATTEMPTS: usize = 5;
/// What is alone on its counter is patient: an unknown outcome ends it.
const PATIENCE: Duration = Duration::from_secs(40);

pub(super) async fn run(mut caller: Caller) {
    while caller.turn().await {
        let key = caller.key('c');
        let fine = if caller.dice.chance(1, 4) { count(&caller, &key).await } else { increment(&caller, &key).await };
        if !fine {
            caller.breathe().await;
        }
    }
}

/// Reads a counter; false: an error.
pub(super) async fn count(caller: &Caller, key: &str) -> bool {
    let ticket = caller.begin(key, Call::Count, |_| {});
    let outcome = match read(caller, key).await {
        Ok((number, version)) => Outcome::Ok { reply: Reply::Number(number), version: (version.0 > 0).then_some(version.0) },
        Err(error) => Outcome::Failed { error: error.to_string() },
    };
    let fine = matches!(outcome, Outcome::Ok { .. });
    caller.end(ticket, outcome);
    fine
}

async fn read(caller: &Caller, key: &str) -> Result<(u64, Version), Error> {
    let Some(row) = caller.client.get(key.to_owned()).await? else { return Ok((0, Version::ZERO)) };
    let text = String::from_utf8_lossy(&row.value).into_owned();
    let number = text.parse().unwrap_or_else(|_| {
        caller.shared.violated(format!("the counter {key} holds `{text}`, which nobody wrote"));
        0
    });
    Ok((number, row.version))
}

async fn increment(caller: &Caller, key: &str) -> bool {
    let ticket = caller.begin(key, Call::Increment, |_| {});
    let outcome = try_increment(caller, key).await;
    let fine = matches!(outcome, Outcome::Ok { .. });
    caller.end(ticket, outcome);
    fine
}

async fn try_increment(caller: &Caller, key: &str) -> Outcome {
    for _ in 0..ATTEMPTS {
        let (number, version) = match read(caller, key).await {
            Ok(read) => read,
            Err(error) => return Outcome::Failed { error: error.to_string() },
        };
        let batch = WriteBatch::new().if_version(key.to_owned(), version).put(key.to_owned(), (number + 1).to_string());
        match caller.client.write(batch).await {
            Ok(reply) => return Outcome::Ok { reply: Reply::Number(number + 1), version: Some(reply.version.0) },
            Err(error) if error.kind() == ErrorKind::ConditionFailed => {}
            Err(error) => return failed(&error),
        }
    }
    Outcome::Failed { error: "others were faster each time".to_owned() }
}

pub(super) async fn run_alone(mut caller: Caller) {
    let key = format!("{}/e/{}", caller.letter(), caller.id);
    caller.client = caller.client.with_timeout(PATIENCE);
    let (mut number, mut version) = (0, Version::ZERO);
    while caller.turn().await {
        let batch = WriteBatch::new().if_version(key.clone(), version).put(key.clone(), (number + 1).to_string());
        let ticket = caller.begin(&key, Call::Increment, |_| {});
        match caller.client.write(batch).await {
            Ok(reply) => {
                (number, version) = (number + 1, reply.version);
                let reply = Reply::Number(number);
                caller.end(ticket, Outcome::Ok { reply, version: Some(version.0) });
            }
            Err(error) => {
                if error.kind() == ErrorKind::ConditionFailed {
                    let id = caller.id;
                    caller
                        .shared
                        .violated(format!("only process {id} writes {key}, but its condition failed ({error}): applied twice?"));
                }
                let again = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Overloaded);
                caller.end(ticket, failed(&error));
                if !again {
                    return;
                }
                caller.breathe().await;
            }
        }
    }
}
