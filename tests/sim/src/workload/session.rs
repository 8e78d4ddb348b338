//! A session: what it wrote and read before, it sees again on whatever replica it reads with its token. And now and then it reads
//! anything that is not too old.

use kontiki_types::ReadLevel;

use super::{Caller, register};

pub(super) async fn run(mut caller: Caller) {
    let session = Some(caller.id);
    while caller.turn().await {
        let key = caller.key('r');
        let fine = match caller.dice.below(8) {
            0..=1 => register::put(&mut caller, &key, session).await.is_ok(),
            2 => register::delete(&caller, &key, session).await.is_ok(),
            3 => register::get(&caller, &key, ReadLevel::Linearizable, session).await.is_ok(),
            4 => {
                let level = ReadLevel::BoundedStale { age_ms_max: 2_000 };
                // Outside of the session: it may be older than what the session knows.
                register::get(&caller, &key, level, None).await.is_ok()
            }
            _ => register::get(&caller, &key, ReadLevel::AtLeast(caller.client.token()), session).await.is_ok(),
        };
        if !fine {
            caller.breathe().await;
        }
    }
}
