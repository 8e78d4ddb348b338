//! The run's own machine in the network: it hands leaderships over when a fault says so, finds out when every partition serves again after the
//! heal, and reads every key at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kontiki_checker::history::Call;
use kontiki_types::ReadLevel;
use tokio::time::sleep;

use super::{Caller, Phase, Shared, counter, elements, register};
use crate::clock;

/// One attempt of the operator's.
const ATTEMPT: Duration = Duration::from_millis(1_000);

pub(crate) async fn run(shared: Arc<Shared>) -> turmoil::Result {
    shared.phase(Phase::Working).await;
    let client = shared.connect(shared.plan.seed ^ 0x6f70).await.with_timeout(ATTEMPT);
    let transfers = async {
        while !shared.is(Phase::Healed) {
            let wanted = shared.transfers.lock().pop_front();
            let Some(to) = wanted else {
                sleep(Duration::from_millis(10)).await;
                continue;
            };
            let partitions: Vec<_> = client.map().partitions.iter().map(|descriptor| descriptor.id).collect();
            let moved = partitions.iter().map(|partition| client.transfer_leader(*partition, to));
            for moved in futures::future::join_all(moved).await {
                if let Err(error) = moved {
                    tracing::debug!(%error, %to, "not handed over");
                }
            }
        }
    };
    transfers.await;
    ask_every_partition(&shared, &client).await;
    shared.phase(Phase::Reading).await;
    read_every_key(&shared, client).await;
    std::future::pending().await
}

async fn ask_every_partition(shared: &Arc<Shared>, client: &kontiki_client::Client) {
    let ask = |letter: char| async move {
        // Written once: what it is does not matter, that it is taken does.
        while client.put(format!("{letter}/probe"), "served").await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
        shared.served.lock().insert(letter, clock::now_us());
    };
    futures::future::join_all(shared.plan.letters().into_iter().map(ask)).await;
}

/// One read of each key that the history knows, repeated until it succeeds.
async fn read_every_key(shared: &Arc<Shared>, client: kontiki_client::Client) {
    let mut keys: Vec<(String, char)> = {
        let recorder = shared.recorder.lock();
        let kinds = recorder.operations().iter().filter_map(|operation| Some((operation.key.clone(), kind(&operation.call)?)));
        kinds.collect::<BTreeSet<_>>().into_iter().collect()
    };
    let caller = Caller::new(shared, client);
    *shared.unread.lock() = Some(keys.len());
    while let Some((key, kind)) = keys.last() {
        let fine = match kind {
            'r' => register::get(&caller, key, ReadLevel::Linearizable, None).await.is_ok(),
            'c' => counter::count(&caller, key).await,
            _ => elements::members(&caller, key).await,
        };
        if fine {
            keys.pop();
            *shared.unread.lock() = Some(keys.len());
        } else {
            caller.breathe().await;
        }
    }
}

fn kind(call: &Call) -> Option<char> {
    match call {
        Call::Get | Call::Put { .. } | Call::Delete | Call::Cas { .. } | Call::CasVersion { .. } => Some('r'),
        Call::Increment | Call::Count => Some('c'),
        Call::Add { .. } | Call::Members => Some('s'),
        _ => None,
    }
}
