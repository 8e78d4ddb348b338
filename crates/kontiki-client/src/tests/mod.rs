//! The client against an in-memory cluster that really implements what nodes promise (`fake`).

mod chaos;
mod fake;
mod reads;
mod wire;
mod writes;

use super::*;

fn options() -> ClientOptions {
    ClientOptions { seed: Some(7), ..Default::default() }
}

fn is_send<T: Send>(_: &T) {}

/// Compiles: every future can move between threads, as services and applications need.
#[allow(dead_code, reason = "only its types are of interest")]
fn futures_are_send(client: &Client) {
    use kontiki_types::{NodeId, PartitionId, ReadLevel};
    is_send(&client.put("k", "v"));
    is_send(&client.get("k"));
    is_send(&client.delete("k"));
    is_send(&client.batch_get(vec![], ReadLevel::Linearizable));
    is_send(&client.delete_range("", ""));
    is_send(&client.write(WriteBatch::new()));
    is_send(&client.scan(ScanOptions::all()));
    is_send(&client.open_session("k"));
    is_send(&client.clock("k", ReadLevel::Linearizable));
    is_send(&client.advance_clock("k", kontiki_types::Version(1)));
    is_send(&client.status());
    is_send(&client.refresh_map());
    is_send(&client.transfer_leader(PartitionId(2), NodeId(1)));
    is_send(&Client::connect(["127.0.0.1:7601"]));
}
